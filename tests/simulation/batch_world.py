"""Durable batches among faults: the ledger balances.

Redis keeps its data when it is restarted, as the documentation demands (``appendonly yes``, ``noeviction``).
What it promises then, and what is checked here:

- An item that was accepted is handled, or is among the dead letters, whoever is killed; one that was refused
  never is. Of one whose answer was lost, or whose caller gave up, either may be true.
- One outcome for each item: everybody who asks gets the same.
- An item is handled again only after something went wrong, and is then told so (``deliveries``); a second
  submission of a key adds nothing.
- Items of a lane are handled in the order of their submission, one at a time while nothing is wrong.
- Everything is handled within ``HEALING`` seconds after the last fault.

Not covered: priorities, ``delay``, ``replace``, periodic items, bytes of batches, cancelling items, replaying
dead letters, a Redis that loses what it had acknowledged.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from bot.core._shared.errors import Phase4Error
from bot.core.batch_processor import BatchItem, BatchProcessor
from bot.core.redis_link import RedisUnavailableError
from tests.simulation.faults import KINDS, LOSSES
from tests.simulation.world import Call, Instance, Scenario, Violation

LEASE = 3.0
SETTLED = 2 * LEASE + 6.0
"""Seconds after a fault in which an item may still be taken over from an instance that cannot renew it."""
OPTIONS: dict[str, Any] = {
    "max_batch_size": 3, "batch_timeout": 0.05, "max_concurrent": 3, "lease": LEASE, "max_retries": 1,
    "retry_base": 0.1, "max_deliveries": 50, "drain_timeout": 2.0,
}  # fmt: skip
LANES = ("a", "b")

Handler = Callable[[list[BatchItem]], Awaitable[dict[str, Any]]]


@dataclass
class Handling:
    """One item in one call of a handler."""

    instance: Instance
    item_id: str
    deliveries: int
    begun: float
    ended: float | None = None
    good: bool = False


class BatchWorld(Scenario):
    """Instances that submit to one queue and handle it."""

    name: ClassVar[str] = "batch"
    kinds: ClassVar[tuple[str, ...]] = tuple(
        kind for kind in KINDS if kind not in LOSSES and kind != "clock step of redis"
    )
    allowed: ClassVar[tuple[type[BaseException], ...]] = (Phase4Error, ValueError)
    quiet: ClassVar[str] = "given up"
    length: ClassVar[float] = 8.0
    share: ClassVar[float] = 0.25
    pause: ClassVar[float] = 1.2
    instances: ClassVar[tuple[int, ...]] = (2, 2, 2, 3)

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.handlings: list[Handling] = []
        self.items: list[str] = []
        # Of each lane: the calls that submitted its items, one after another.
        self.lanes: dict[str, list[Call]] = {lane: [] for lane in LANES}
        self._submitting: dict[str, Instance] = {}
        self.letters: set[str] = set()
        self.outcomes: dict[str, str] = {}

    async def start(self, instance: Instance) -> None:
        batches = instance.it = BatchProcessor(clock=instance.clock)
        await batches.enable(self.handler_of(instance), redis_url=instance.url, **OPTIONS)

    def handler_of(self, instance: Instance) -> Handler:
        """What handles the items in an instance."""
        chance = random.Random(f"handler {self.world.seed} {instance.name}")

        async def handle(items: list[BatchItem]) -> dict[str, Any]:
            return await self._handle(instance, items, chance)

        return handle

    async def look(self, instance: Instance) -> None:
        """See what has become of each item."""
        if self.world.ailing:
            return
        for item_id in self.items:
            await self._ask(instance, item_id)
        try:
            letters = await instance.it.dead_letters(1000)
        except RedisUnavailableError:  # a connection that was half open, and had not been used since
            await asyncio.sleep(6.0)  # a probe of the breaker
            letters = await instance.it.dead_letters(1000)
        self.letters |= {letter.item_id for letter in letters}

    async def stop(self, instance: Instance) -> None:
        await instance.it.disable()

    async def _handle(
        self, instance: Instance, items: list[BatchItem], chance: random.Random
    ) -> dict[str, Any]:
        begun = [Handling(instance, item.item_id, item.deliveries, self.world.now) for item in items]
        self.handlings += begun
        self.world.note(f"{instance.name} handles {[(item.item_id, item.deliveries) for item in items]}")
        try:
            await asyncio.sleep(chance.choice((0.0, 0.01, 0.3, 2 * LEASE * chance.random())))
        finally:
            for handling in begun:
                handling.ended = self.world.now
        answers: dict[str, Any] = {}
        for handling, item in zip(begun, items, strict=True):
            if item.data == "bad" or (item.data == "flaky" and chance.random() < 0.5):
                answers[item.item_id] = ValueError("no good")
            else:
                handling.good = True
                answers[item.item_id] = f"{instance.name} {chance.randrange(10**6)}"
        if chance.random() < 0.1:
            raise ValueError("the whole batch")
        return answers

    async def turn(self, instance: Instance, user: int) -> None:
        what = self.chance.random()
        if what < 0.5 or not self.items:
            await self._submit(instance, f"item{len(self.items)}", None)
        elif what < 0.7:
            await self._submit_in_lane(instance, self.chance.choice(LANES))
        elif what < 0.8:
            await self._submit(instance, self.chance.choice(self.items), None, again=True)
        else:
            await self._ask(instance, self.chance.choice(self.items), timeout=1.0)

    async def _submit_in_lane(self, instance: Instance, lane: str) -> None:
        holder = self._submitting.get(lane)
        if holder is not None and not holder.killed:
            return  # those who submit at once have no order to keep
        self._submitting[lane] = instance
        try:
            self.lanes[lane].append(await self._submit(instance, f"item{len(self.items)}", lane))
        finally:
            self._submitting.pop(lane, None)

    async def _submit(self, instance: Instance, key: str, lane: str | None, *, again: bool = False) -> Call:
        batches: BatchProcessor = instance.it
        data = self.chance.choice(("good", "good", "good", "flaky", "bad"))
        if not again:
            self.items.append(key)

        async def submit() -> str:
            submission = await batches.submit_item(data, key=key, lane=lane)
            return "accepted" if submission.success else submission.reason

        return await self.world.call(instance, "submit", submit, key=key, lane=lane, again=again)

    async def _ask(self, instance: Instance, key: str, timeout: float = 5.0) -> None:
        batches: BatchProcessor = instance.it
        await self.world.call(instance, "ask", lambda: batches.get_result(key, timeout), key=key)

    async def healed(self, instance: Instance) -> bool:
        figures = instance.it.snapshot()
        if figures.degraded or figures.pending_items:
            return False
        try:
            submission = await instance.it.submit_item("good", key="probe")
        except Phase4Error:
            return False
        return submission.success and not self._waiting()

    def _waiting(self) -> int:
        """How many items lie in Redis."""
        stored = self.world.redis.server.dbs[0]._dict
        return sum(len(stored[key].value) for key in stored if key.endswith(b":items"))

    def check(self) -> None:
        submitted: dict[str, list[Call]] = {}
        for call in self.world.calls:
            if call.what == "submit":
                submitted.setdefault(call.labels["key"], []).append(call)
        for key, calls in submitted.items():
            handled = [handling for handling in self.handlings if handling.item_id == key]
            accepted = any(call.result == "accepted" for call in calls)
            if accepted and not handled and not self.world.ailing:
                raise Violation(f"{key} was accepted and never handled: {calls[0]}")
            refused = all(
                call.ended is not None and call.result in ("off", "full", "unavailable") for call in calls
            )
            if handled and refused:
                raise Violation(f"{key} was refused and handled: {handled[0]}")
            self._check_repeated(key, handled)
        self._check_outcomes()
        for calls in self.lanes.values():
            self._check_lane(calls)

    def _check_repeated(self, key: str, handled: list[Handling]) -> None:
        told = [handling for handling in handled if handling.deliveries > 1]
        for handling in told:
            if self.world.calm(handled[0].begun, handling.begun, after=SETTLED):
                raise Violation(f"{key} was delivered again, and nothing was wrong: {handled}")

    def _check_outcomes(self) -> None:
        outcomes: dict[str, str] = {}
        for call in self.world.calls:
            if call.what != "ask" or call.outcome not in (
                "ok",
                "DeadLetteredError",
                "ItemFailedError",
                "ValueError",
            ):
                continue
            key, outcome = call.labels["key"], call.result if call.outcome == "ok" else "failed"
            if outcomes.setdefault(key, outcome) != outcome:
                raise Violation(f"{key} has two outcomes: {outcomes[key]!r} and {call}")
        for key, outcome in outcomes.items():
            if outcome != "failed" and key in self.letters:
                raise Violation(f"{key} is done, and among the dead letters")

    def _check_lane(self, calls: list[Call]) -> None:
        ends: float | None = None
        for call in calls:
            handled = [handling for handling in self.handlings if handling.item_id == call.labels["key"]]
            if not handled or call.result != "accepted":
                continue
            first, last = handled[0], handled[-1]
            if ends is not None and first.begun < ends:
                raise Violation(
                    f"{call.labels['key']} was begun before the one before it in its lane had ended"
                )
            if self.world.calm(first.begun, last.begun, after=SETTLED):
                ends = last.ended
