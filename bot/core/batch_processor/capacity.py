"""How many items may be pending, and the line of callers that wait for room."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice

from bot.core._shared.futures import give_error, give_result
from bot.core.batch_processor.backlog import Backlog
from bot.core.batch_processor.errors import BatchClosedError
from bot.core.phase4_config.batch_processor import DEFAULTS

SWITCHED_OFF = "the batch processor was switched off"

SWEEP_SHARE = 64
"""Items of the queue that each refusal pays for to be looked through for withdrawn ones."""


class Capacity:
    """``max_pending``, and the line of submitters that wait for room: first come, first served."""

    def __init__(self, backlog: Backlog, on_withdrawn: Callable[[int], None]) -> None:
        """``on_withdrawn`` is told how many items a look for withdrawn ones has removed."""
        self.max_pending = DEFAULTS.max_pending
        self._backlog = backlog
        self._on_withdrawn = on_withdrawn
        # Waiters in their order, until they have room and not only are told. Changed by wait, close
        # and forget_line.
        self._line: OrderedDict[object, asyncio.Future[None]] = OrderedDict()
        self._sweep_credit = 0

    @property
    def free(self) -> int:
        """Items that may be taken in now; 0 or less if the processor is full."""
        return self.max_pending - self._backlog.unfinished

    @property
    def has_line(self) -> bool:
        """Whether a caller waits for room, which no other may overtake."""
        return bool(self._line)

    def lacks_room(self, wanted: int = 1) -> bool:
        """Whether so many may not be taken in now, though those that were withdrawn make room.

        To look for these is O(n). A long queue is therefore not looked through at each refusal, but
        as often as makes a refusal O(1) on average.
        """
        backlog = self._backlog
        queued = len(backlog.queue) + backlog.lanes.waiting
        if backlog.in_flight + queued + wanted <= self.max_pending:
            return False
        self._sweep_credit += SWEEP_SHARE
        if self._sweep_credit >= queued:
            self._sweep_credit = 0
            withdrawn = backlog.sweep()
            if withdrawn:
                self._on_withdrawn(withdrawn)
        return backlog.unfinished + wanted > self.max_pending

    async def wait(self) -> None:
        """Wait until an item may be taken in.

        A caller that this returns to takes an item in at once, or calls :meth:`offer_room`.
        Raises BatchClosedError if the processor is switched off meanwhile.
        """
        if self.free > 0 and not self._line:
            return
        ticket = object()
        self._line[ticket] = waiter = asyncio.get_running_loop().create_future()
        try:
            self.offer_room()  # those before may be on their way in, with room left behind them
            if waiter.done():
                await asyncio.sleep(0)  # so that they are in first
            while True:
                await waiter
                if ticket not in self._line:
                    raise BatchClosedError(SWITCHED_OFF)
                if ticket in islice(self._line, max(0, self.free)):
                    break
                # Somebody was quicker; it keeps its turn.
                self._line[ticket] = waiter = asyncio.get_running_loop().create_future()
        except BaseException:
            if self._line.pop(ticket, None) is not None:
                self.offer_room()  # it may have been given a place, which it does not take
            raise
        del self._line[ticket]

    def offer_room(self) -> None:
        """Wake as many waiting callers as there are places."""
        if self._line:
            for waiter in islice(self._line.values(), max(0, self.free)):
                give_result(waiter, None)

    def close(self) -> None:
        """All callers that wait get BatchClosedError."""
        while self._line:
            _, waiter = self._line.popitem(last=False)
            give_error(waiter, BatchClosedError(SWITCHED_OFF))

    def forget_line(self) -> None:
        """The callers that wait did so under an event loop that runs no more."""
        self._line.clear()
