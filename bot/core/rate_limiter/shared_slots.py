"""Slots that all instances share, in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import random
import struct
from collections.abc import Callable, Iterable
from enum import IntEnum
from importlib.resources import files
from typing import Any, NamedTuple

from bot.core._shared.clock import Clock
from bot.core._shared.errors import BackendError
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks
from bot.core.rate_limiter.concurrency import SlotStatus
from bot.core.rate_limiter.in_flight import Hold, InFlight
from bot.core.rate_limiter.mirror import slot_channel, slot_key
from bot.core.rate_limiter.models import ClientId
from bot.core.redis_link import RedisLink, RedisUnavailableError, Subscription

logger = logging.getLogger(__name__)

BEATS = 3
"""Renewals in the time of one lease."""

TOGETHER = 1_000
"""Slots that are renewed in one turn of the event loop; more would hold others up."""

AWAY_PAUSE = 1.0
"""Seconds between two looks for a Redis that is away, at most, while slots are held or waited for."""

# As slots.lua has them.
TAKE, WAIT, RENEW, RELEASE, PEEK, AGAIN = range(6)
_CALL = struct.Struct("<Bdd")
_NUMBERS = [struct.Struct(f"<{3 * calls}d") for calls in range(257)]


class State(IntEnum):
    """What Redis says of a slot."""

    REFUSED = 0
    HELD = 1
    WAITING = 2
    OVER = 3
    """Its lease had ended; it counts again, above what the limit allows."""


class Answer(NamedTuple):
    """One answer of slots.lua."""

    state: State
    in_flight: int
    waiting: int


def script_source() -> str:
    """slots.lua."""
    return (files(__package__) / "slots.lua").read_text(encoding="ascii")


class SharedSlots:
    """Takes slots in Redis. Each is leased, and renewed by a task of this object until it is given back.

    **Killed.** The slots of a process that died are free when their leases end. Callers that wait
    have them a third of a lease later at most.

    **Waiting.** Redis keeps one line for all instances, and tells the instance whose turn it is by a message
    on its own channel. If the message is lost, the next renewal finds out: nobody polls more often.

    **Redis away.** This instance then decides alone, by the slots that it knows of. When Redis is back, all
    that is held here is registered there, also what is above the limit then; who waits joins the line.

    **Cancellation.** A call that is cancelled gives back what it was given.
    """

    def __init__(
        self,
        link: RedisLink,
        clock: Clock,
        lease: float,
        grant: Callable[[Hold], None],
        serve: Callable[[InFlight, ClientId], None],
    ) -> None:
        """``grant(hold)`` lets a caller that waits go on; ``serve(flight, client)`` those that this process
        may let go on by itself."""
        self.link = link
        self.lease = lease
        self._clock = clock
        self._now = clock.monotonic
        self._grant = grant
        self._serve = serve
        self._script = link.batched_script(script_source(), _decode)
        self._instance = _new_instance()
        self._numbers = itertools.count()
        # Slots that are held, waited for or asked for, by name. Changed by ask, withdraw, forked and stop.
        self._holds: dict[bytes, Hold] = {}
        self._tasks = BackgroundTasks()
        self._beating: asyncio.Task[Any] | None = None
        self._probing: asyncio.Task[Any] | None = None
        self._subscription: Subscription | None = None
        self._undo = (link.on_recovery(self._back), link.on_move(self._moved))
        self._stopped = False
        self._pid = os.getpid()
        self.refusing = False
        """Whether Redis answered the last call with an error."""

    # Taking and giving back.

    async def ask(self, hold: Hold, *, wait: bool) -> tuple[bool, SlotStatus]:
        """Take a slot, or with ``wait`` a place in the line: whether it is taken, and how things stand.

        While Redis is away, it is taken here.
        """
        flight, client = hold.flight, hold.client
        hold.name = self._instance + b":%d" % next(self._numbers)
        hold.key = slot_key(flight.limit.limit_id, client, self.link.root_bytes)
        flight.asking += 1
        hold.is_asking = True
        try:
            answer = await self._first_answer(hold, WAIT if wait else TAKE)
        finally:
            hold.is_asking = False
            flight.asking -= 1
        hold.alone = answer is None
        if answer is None:
            granted = flight.take(hold)
            status = flight.status(client, degraded=True)
        else:
            granted = answer.state is State.HELD
            status = SlotStatus(answer.in_flight, flight.limit.max_in_flight, answer.waiting)
            if granted:
                flight.grant(hold)
        if granted or wait:
            self._holds[hold.name] = hold
            self._keep_beating()
        return granted, status

    async def _first_answer(self, hold: Hold, asked: int) -> Answer | None:
        """What Redis says; None if it is away."""
        if asked == WAIT:
            self._listen()
            self._holds[hold.name] = hold  # so that a message finds it
        while self._reachable():
            hold.is_called = False
            sent = self._now()
            call = self._script.call(hold.key, self._argument(asked, hold), (self._unclaimed, hold))
            try:
                answer: Answer = await call
            except BackendError as error:
                self._failed(error)
                return None
            except asyncio.CancelledError:
                self._holds.pop(hold.name, None)
                if call.done() and not call.cancelled() and call.exception() is None:
                    self._unclaimed(call.result(), hold)
                raise
            self.refusing = False
            if answer.state is State.HELD:
                self._leased(hold, sent)
            elif answer.state is State.WAITING and hold.is_called:
                continue  # it was called before it knew that it waits
            return answer
        return None

    def withdraw(self, hold: Hold) -> None:
        """Give back a slot or a place in the line. If Redis is away, its lease ends by itself."""
        if self._holds.pop(hold.name, None) is not None:
            self._count_lost(hold)
            self._send_back(hold)

    def _unclaimed(self, answer: Answer, hold: Hold) -> None:
        if answer.state is not State.REFUSED:
            self._send_back(hold)

    def _send_back(self, hold: Hold) -> None:
        if self.link.available and not self._stopped:
            with contextlib.suppress(RuntimeError):  # no event loop runs any more, as at exit
                self._script.send(hold.key, self._argument(RELEASE, hold))

    async def status(self, flight: InFlight, client: ClientId) -> SlotStatus:
        """How many slots of a client are taken, by all instances."""
        if self._reachable():
            key = slot_key(flight.limit.limit_id, client, self.link.root_bytes)
            argument = _CALL.pack(PEEK, float(flight.limit.max_in_flight), self.lease)
            try:
                answer: Answer = await self._script.call(key, argument)
            except BackendError as error:
                self._failed(error)
            else:
                return SlotStatus(answer.in_flight, flight.limit.max_in_flight, answer.waiting)
        return flight.status(client, degraded=True)

    def _argument(self, asked: int, hold: Hold) -> bytes:
        return _CALL.pack(asked, float(hold.flight.limit.max_in_flight), self.lease) + hold.name

    # Leases.

    def _keep_beating(self) -> None:
        if not self._stopped and (self._beating is None or self._beating.done()):
            self._beating = self._tasks.spawn(self._beat(), name="rate-limiter-slots")

    async def _beat(self) -> None:
        while self._holds:
            pause = self.lease / BEATS
            if not self.link.available:
                pause = min(pause, AWAY_PAUSE)
            # Instances that started together do not ask together.
            await self._clock.sleep(pause * random.uniform(0.8, 1.0))
            await self._renew_all()

    async def _renew_all(self) -> None:
        holds = list(self._holds.values())
        for first in range(0, len(holds), TOGETHER):
            await self._renew(holds[first : first + TOGETHER])

    async def _renew(self, holds: Iterable[Hold]) -> None:
        """Renew leases, and ask again for those that wait."""
        holds = [hold for hold in holds if not hold.is_asking and hold.name in self._holds]
        if self._reachable():
            sent = self._now()
            calls = [
                self._script.call(hold.key, self._argument(RENEW if hold.is_held else AGAIN, hold))
                for hold in holds
            ]
            answers = await asyncio.gather(*calls, return_exceptions=True)
        else:
            sent, answers = 0.0, [None] * len(holds)
        lost = 0
        for hold, answer in zip(holds, answers, strict=True):
            if isinstance(answer, BackendError):
                self._failed(answer)
            elif isinstance(answer, BaseException):
                raise answer
            if hold.name not in self._holds:
                continue  # given back meanwhile
            lost += self._count_lost(hold)
            hold.alone = not isinstance(answer, Answer)
            if isinstance(answer, Answer):
                self._heard(hold, answer, sent)
                lost += self._count_lost(hold)
        for flight, client in {(hold.flight, hold.client): None for hold in holds if hold.alone}:
            self._serve(flight, client)
        if lost:
            logger.warning(
                "%d slots of the rate limiter were not renewed in %g s: others may have taken their places",
                lost, self.lease,
            )  # fmt: skip

    def _heard(self, hold: Hold, answer: Answer, sent: float) -> None:
        self.refusing = False
        if answer.state is State.WAITING or answer.state is State.REFUSED:
            return
        if answer.state is State.OVER and hold.was_leased:
            hold.was_overtaken = True
        self._leased(hold, sent)
        if hold.in_line:
            self._grant(hold)

    def _leased(self, hold: Hold, sent: float) -> None:
        hold.was_leased = True
        hold.lease, hold.renewed = self.lease, max(hold.renewed, sent)
        hold.is_counted = hold.is_counted and hold.was_overtaken

    def _count_lost(self, hold: Hold) -> bool:
        """Count a slot whose lease has ended, once; whether it was counted now."""
        if hold.is_counted or not hold.is_lost(self._now()):
            return False
        hold.is_counted = True
        hold.flight.lost += 1
        return True

    # Redis going and coming back, and other event loops.

    def _listen(self) -> None:
        if self._subscription is None and not self._stopped:
            with contextlib.suppress(RuntimeError):
                channel = slot_channel(self._instance, self.link.root)
                self._subscription = self.link.listen(channel, self._called, self._listening)

    def _called(self, name: bytes) -> None:
        hold = self._holds.get(name)
        if hold is None:
            return
        if hold.is_asking:
            hold.is_called = True
        else:
            self._tasks.spawn(self._renew([hold]), name="rate-limiter-slot-called")

    def _listening(self, stands: bool) -> None:
        if stands:
            self._look_again()  # messages may have been missed

    def _back(self) -> None:
        self._look_again()

    def _look_again(self) -> None:
        if self._holds and not self._stopped:
            with contextlib.suppress(RuntimeError):
                self.link.here()
                self._tasks.spawn(self._renew_all(), name="rate-limiter-slots-again")
                self._keep_beating()

    def _moved(self) -> None:
        if self._pid != os.getpid():
            self.forked()
            return
        # The event loop before has ended, and its tasks and waiting callers with it.
        self._tasks.abandon()
        self._tasks, self._beating, self._probing = BackgroundTasks(), None, None
        self._look_again()

    def forked(self) -> None:
        """This is a child of the process that holds the slots: it has none. A second call does nothing."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._instance, self._holds = _new_instance(), {}
        self._tasks, self._beating, self._probing = BackgroundTasks(), None, None
        if self._subscription is not None:
            self._tasks.spawn(self._subscription.stop(), name="rate-limiter-slots-parent")
            self._subscription = None

    def _reachable(self) -> bool:
        try:
            self.link.here()
        except RuntimeError:
            return False
        if self._stopped:
            return False
        if self.link.available:
            return True
        if self.link.probe_due and (self._probing is None or self._probing.done()):
            self._probing = self._tasks.spawn(self.link.probe(), name="rate-limiter-slots-probe")
        return False

    def _failed(self, error: BackendError) -> None:
        if isinstance(error, RedisUnavailableError):
            return  # said by the link, once
        if not self.refusing:
            logger.warning("Redis refused a slot; this process limits on its own: %s", one_line(error))
        self.refusing = True

    async def stop(self) -> None:
        """Give back all slots, end every task and close the connection; the link stays."""
        for undo in self._undo:
            undo()
        self.forked()  # a child gives nothing back
        holds, self._holds = self._holds, {}
        try:
            self.link.here()  # the loop under which they were taken may have ended
            if not self.link.owner.elsewhere:
                for hold in holds.values():
                    self._send_back(hold)
                await self._script.drain()
        finally:
            self._stopped = True
            if self._subscription is not None:
                await self._subscription.stop()
            await self._tasks.stop()
            await self._script.stop()


def _new_instance() -> bytes:
    return os.urandom(8).hex().encode()


def _decode(answer: Any, calls: int) -> list[Answer]:
    """An answer for each call; ValueError for anything else."""
    numbers = _NUMBERS[calls]
    if answer.__class__ is not bytes or len(answer) != numbers.size:
        raise ValueError(f"expected {numbers.size} bytes")
    found = numbers.unpack(answer)
    if not all(math.isfinite(number) and 0.0 <= number < 1e15 for number in found):
        raise ValueError("not all numbers are counts")
    return [
        Answer(State(int(found[i])), int(found[i + 1]), int(found[i + 2])) for i in range(0, len(found), 3)
    ]
