"""Messages of several instances of one bot among faults: order in each chat, and windows over all.

What the documentation promises, and what is checked here:

- In one instance, messages to one chat are sent one after another, in the order of the calls.
- While nothing is wrong, a group gets no more than its window allows, from all instances together, and
  neither does Telegram from the bot; each instance alone keeps the group's window at any time.
- ``RECOVERED`` seconds after a fault all is as before.
- No call raises an error for Redis's sake, and every message is sent once.

Telegram counts a message at some moment between its sending and its answer.

Not covered: refusals by Telegram, holds, edits, chat actions, priorities, broadcasts, deadlines.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass
from typing import Any, ClassVar

from bot.core._shared.errors import CapacityError, ClosedError
from bot.core.outbound import Limits, Outbound, Request
from tests.simulation.faults import KINDS
from tests.simulation.world import Instance, Scenario, Violation

GROUPS = (-1, -2)
GROUP = (3, 4.0)
BULK = (6, 1.0)
RECOVERED = GROUP[1] + 8.0
"""A window after a probe of the breaker (5 s at most), which lets an instance report what it sent."""


@dataclass
class Message:
    """A message, and what Telegram saw of it."""

    instance: Instance
    chat: int
    number: int
    """In the order of the calls."""
    sent: float | None = None
    answered: float | None = None
    times: int = 0


class OutboundWorld(Scenario):
    """Instances of one bot that write to a few groups."""

    name: ClassVar[str] = "outbound"
    share: ClassVar[float] = 0.8
    kinds: ClassVar[tuple[str, ...]] = tuple(
        kind for kind in KINDS if kind not in ("clock step of redis", "evicting")
    )
    allowed: ClassVar[tuple[type[BaseException], ...]] = (CapacityError, ClosedError)
    length: ClassVar[float] = 20.0
    pause: ClassVar[float] = 2.0
    users: ClassVar[int] = 3

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.messages: list[Message] = []

    async def start(self, instance: Instance) -> None:
        chance = random.Random(f"outbound {self.world.seed} {instance.name}")
        outbound = instance.it = Outbound(clock=instance.clock, random_source=chance)
        await outbound.enable(
            Limits(group=GROUP, bulk=BULK), redis_url=instance.url, bot_id=7, drain_timeout=1.0
        )

    async def look(self, instance: Instance) -> None:
        instance.it.check_invariants()

    async def stop(self, instance: Instance) -> None:
        await instance.it.disable()

    async def turn(self, instance: Instance, user: int) -> None:
        outbound: Outbound = instance.it
        chat = self.chance.choice(GROUPS)
        takes = self.chance.choice((0.01, 0.05, 0.5))

        async def write() -> None:
            message = Message(instance, chat, len(self.messages))
            self.messages.append(message)

            async def send() -> None:
                message.times += 1
                message.sent = self.world.now
                try:
                    await asyncio.sleep(takes)
                finally:
                    message.answered = self.world.now

            await outbound.call(send, Request("sendMessage", chat))

        await self.world.call(instance, "write", write, chat=chat)

    async def healed(self, instance: Instance) -> bool:
        outbound: Outbound = instance.it

        async def nothing() -> None:
            """It arrives at once."""

        await outbound.call(nothing, Request("sendMessage", 1000 + instance.number))
        return not outbound.snapshot().degraded

    def check(self) -> None:
        sent = sorted(
            (
                message
                for message in self.messages
                if message.sent is not None and message.answered is not None
            ),
            key=lambda message: message.sent or 0.0,
        )
        for message in sent:
            if message.times > 1:
                raise Violation(f"sent {message.times} times: {self._shown(message)}")
        for chat in GROUPS:
            of_chat = [message for message in sent if message.chat == chat]
            self._check_window(f"chat {chat}", of_chat, GROUP)
            for instance in self.world.instances + self.world.dead:
                mine = [message for message in of_chat if message.instance is instance]
                self._check_order(mine)
                self._check_window(f"chat {chat} of {instance.name}", mine, GROUP, always=True)
        self._check_window("all chats", sent, BULK)

    def _check_order(self, mine: list[Message]) -> None:
        for before, after in itertools.pairwise(mine):
            assert before.answered is not None
            assert after.sent is not None
            if after.number < before.number or after.sent < before.answered:
                raise Violation(f"{self._shown(before)}, then {self._shown(after)}")

    def _check_window(
        self, whose: str, sent: list[Message], window: tuple[int, float], *, always: bool = False
    ) -> None:
        most, seconds = window
        for first, last in zip(sent, sent[most:], strict=False):
            assert first.sent is not None
            assert last.answered is not None
            within = [
                message for message in sent if first.sent <= (message.sent or 0.0) <= (last.sent or 0.0)
            ]
            ended = max(message.answered or 0.0 for message in within)
            if ended - first.sent < seconds and (
                always or self.world.calm(first.sent, ended, after=RECOVERED)
            ):
                shown = ", ".join(map(self._shown, within))
                raise Violation(f"{whose}: {len(within)} within {ended - first.sent:.3f} s: {shown}")

    def _shown(self, message: Message) -> str:
        return f"{message.sent:.3f}..{message.answered:.3f} {message.instance.name} #{message.number}"
