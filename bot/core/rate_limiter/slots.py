"""Slots: places in progress under a ConcurrencyLimit, taken, waited for and given back."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from bot.core._shared.clock import Clock
from bot.core.rate_limiter.concurrency import ConcurrencyLimit, SlotStatus
from bot.core.rate_limiter.errors import ConcurrencyLimitExceeded
from bot.core.rate_limiter.in_flight import Hold, InFlight
from bot.core.rate_limiter.models import ClientId

if TYPE_CHECKING:
    from bot.core.rate_limiter.shared_slots import SharedSlots
    from bot.core.redis_link import RedisLink

MANY_LIMITS = 256
"""Limits from which those that nobody uses are dropped as others come."""


class Slot:
    """A slot that the caller has until :meth:`release`, or until the end of its ``with`` block.

    Any task of the same thread may release it, and more than once. One that is forgotten without being
    released is given back when Python removes it.
    """

    __slots__ = ("_hold", "_slots", "client", "limit")

    def __init__(self, slots: Slots, client: ClientId, limit: ConcurrencyLimit, hold: Hold | None) -> None:
        self._slots = slots
        self._hold = hold
        self.client = client
        """Whose slot it is."""
        self.limit = limit
        """The limit it counts under."""

    @property
    def held(self) -> bool:
        """Whether it counts: False once it is released, and if the limiter is off or was off since."""
        return self._hold is not None and self._slots.counts(self._hold)

    @property
    def lost(self) -> bool:
        """Whether others may have this place although it was not released; always False if not shared.

        True once its lease could not be renewed in time: the process was frozen, or Redis away for longer.
        False again if the place is still free when Redis answers. It counts until it is released.
        """
        hold = self._hold
        return hold is not None and self._slots.counts(hold) and hold.is_lost(self._slots.now())

    def release(self) -> None:
        """Give the slot back. Waits for nothing; a second call does nothing."""
        hold, self._hold = self._hold, None
        if hold is not None:
            self._slots.release(hold)

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        hold = getattr(self, "_hold", None)
        if hold is not None and hold.is_held:
            # Python may be in any thread, and in the middle of anything.
            with contextlib.suppress(RuntimeError):
                hold.loop.call_soon_threadsafe(self._slots.release, hold)
                return
            self._slots.release(hold)  # that event loop is closed

    def __repr__(self) -> str:
        state = "lost" if self.lost else "held" if self.held else "not held"
        return f"<Slot of {self.client!r} under {self.limit!r}: {state}>"


class SlotContext:
    """``async with``: takes a slot at its beginning and gives it back at its end. May be entered again."""

    __slots__ = ("_arguments", "_entered", "_slots")

    def __init__(self, slots: Slots, client: ClientId, limit: ConcurrencyLimit, max_wait: float) -> None:
        self._slots = slots
        self._arguments = client, limit, max_wait
        self._entered: list[Slot] = []

    async def __aenter__(self) -> Slot:
        slot = await self._slots.acquire(*self._arguments)
        self._entered.append(slot)
        return slot

    async def __aexit__(self, *_: object) -> None:
        self._entered.pop().release()


class Slots:
    """The slots of every limit. Callers that wait are served in order of arrival.

    A caller that is cancelled, or that waited too long, leaves nothing behind: what it was given goes to the
    next. If limits are shared Redis decides, and this process does while Redis is away.
    """

    def __init__(self, clock: Clock) -> None:
        self.now = clock.monotonic
        self._clock = clock
        # Changed by open and close.
        self._is_open = False
        self._link: RedisLink | None = None
        self._lease = 0.0
        # Created when the first slot of a shared limit is taken.
        self._shared: SharedSlots | None = None
        # Changed by _flight, close and _leave_parent.
        self._flights: dict[ConcurrencyLimit, InFlight] = {}
        self.dropped = [0, 0, 0]
        """Of limits that are no more: slots granted, refused, lost."""
        self._pid = os.getpid()

    def open(self, link: RedisLink | None, lease: float) -> None:
        """Limit from now on; :meth:`close` before another link."""
        self._is_open, self._link, self._lease = True, link, lease
        if self._shared is not None:
            self._shared.lease = lease

    def close(self) -> SharedSlots | None:
        """Limit no more: nothing is held, and who waits goes on. Returns what is to be stopped."""
        shared, self._shared = self._shared, None
        self._is_open, self._link = False, None
        self._forget()
        return shared

    def _forget(self) -> None:
        flights, self._flights = self._flights, {}
        self.dropped = [0, 0, 0]
        for flight in flights.values():
            for hold in [each for line in flight.lines.values() for each in line]:
                _wake(hold, True)

    def counts(self, hold: Hold) -> bool:
        """Whether a hold is a slot that counts now."""
        current = self._flights.get(hold.flight.limit) is hold.flight and hold.pid == os.getpid()
        return current and hold.is_held

    # Taking and giving back.

    async def acquire(self, client: ClientId, limit: ConcurrencyLimit, max_wait: float) -> Slot:
        """A slot of the client, within ``max_wait`` seconds; raises ConcurrencyLimitExceeded."""
        if not self._is_open:
            return Slot(self, client, limit, None)
        self._leave_parent()
        hold = Hold(self._flight(limit), client, asyncio.get_running_loop(), self._pid)
        shared = self._of_link()
        status: SlotStatus | None = None
        if shared is None:
            granted = hold.flight.take(hold)
        else:
            began = self.now()
            granted, status = await shared.ask(hold, wait=max_wait > 0.0)
            if self._flights.get(limit) is not hold.flight:
                # It was switched off meanwhile, and perhaps on again.
                shared.withdraw(hold)
                return await self.acquire(client, limit, max_wait)
            max_wait -= self.now() - began
        if not granted:
            await self._wait(hold, max_wait, status)
        return Slot(self, client, limit, hold)

    async def _wait(self, hold: Hold, max_wait: float, status: SlotStatus | None) -> None:
        if max_wait <= 0.0:
            self._refuse(hold, status)
        hold.future = hold.loop.create_future()
        hold.flight.join(hold)
        timer = None
        if max_wait < math.inf:
            timer = self._clock.call_later(max_wait, lambda: _wake(hold, False), hold.loop)
        try:
            granted = await hold.future
        except BaseException:
            self.release(hold)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if not granted:
            self._refuse(hold, None)

    def _refuse(self, hold: Hold, status: SlotStatus | None) -> NoReturn:
        self.release(hold)
        flight = hold.flight
        flight.refused += 1
        found = status or flight.status(hold.client, degraded=hold.alone and self._link is not None)
        raise ConcurrencyLimitExceeded(found, limit=flight.limit.label)

    def release(self, hold: Hold) -> None:
        """Give back a slot, or a place in the line."""
        flight = hold.flight
        if hold.pid != os.getpid() or self._flights.get(flight.limit) is not flight:
            return
        flight.leave(hold)
        if self._shared is not None:
            self._shared.withdraw(hold)
        self.serve(flight, hold.client)

    def serve(self, flight: InFlight, client: ClientId) -> None:
        """Give free slots to those that wait, as far as this process decides that."""
        while flight.has_room(client):
            first = flight.first_in_line(client)
            if first is None or not first.alone:
                return
            self._grant(first)

    def _grant(self, hold: Hold) -> None:
        hold.flight.grant(hold)
        if not _wake(hold, True):
            # Its caller gave up in this moment, or its event loop is closed.
            self.release(hold)

    async def status(self, client: ClientId, limit: ConcurrencyLimit) -> SlotStatus:
        """How many slots of the client are taken; of all instances if shared."""
        if not self._is_open:
            return SlotStatus(0, limit.max_in_flight, 0)
        self._leave_parent()
        found = self._flights.get(limit) or InFlight(limit)
        shared = self._of_link()
        if shared is None:
            return found.status(client)
        return await shared.status(found, client)

    def _of_link(self) -> SharedSlots | None:
        if self._shared is None and self._link is not None:
            from bot.core.rate_limiter.shared_slots import SharedSlots

            self._shared = SharedSlots(self._link, self._clock, self._lease, self._grant, self.serve)
        return self._shared

    def _leave_parent(self) -> None:
        if self._pid == os.getpid():
            return
        # What the parent holds is the parent's; its loops are not ours to wake anybody on.
        self._pid = os.getpid()
        self._flights = {}
        self.dropped = [0, 0, 0]
        if self._shared is not None:
            self._shared.forked()

    # The limits in use.

    def _flight(self, limit: ConcurrencyLimit) -> InFlight:
        flight = self._flights.get(limit)
        if flight is None:
            if len(self._flights) >= MANY_LIMITS:
                self._drop_idle()
            flight = self._flights[limit] = InFlight(limit)
        return flight

    def _drop_idle(self) -> None:
        """Look at two limits, those longest not looked at, and drop those that nobody uses."""
        for _ in range(2):
            limit = next(iter(self._flights))
            flight = self._flights.pop(limit)
            if flight.is_idle:
                for index, count in enumerate((flight.granted, flight.refused, flight.lost)):
                    self.dropped[index] += count
            else:
                self._flights[limit] = flight

    def flights(self) -> Iterator[InFlight]:
        """What is in flight, of each limit in use."""
        return iter(list(self._flights.values()))

    def reset_counts(self) -> None:
        """Counters to zero; nobody gains or loses a slot."""
        self.dropped = [0, 0, 0]
        for flight in self._flights.values():
            flight.granted = flight.refused = flight.lost = 0

    def check_invariants(self) -> None:
        """For tests: O(n)."""
        for flight in self._flights.values():
            flight.check_invariants()
            for client in flight.lines:
                first = flight.first_in_line(client)
                assert first is None or not first.alone or not flight.has_room(client)


def _wake(hold: Hold, granted: bool) -> bool:
    """Let the caller of a hold go on; False if it does not wait any more."""
    future, loop = hold.future, hold.loop
    if future is None or future.done() or loop.is_closed():
        return False
    if loop is _running():
        future.set_result(granted)
        return True
    try:
        loop.call_soon_threadsafe(_settle, future, granted)
    except RuntimeError:  # closed this moment
        return False
    return True


def _settle(future: asyncio.Future[bool], granted: bool) -> None:
    if not future.done():
        future.set_result(granted)


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
