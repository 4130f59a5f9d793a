"""How many items may be pending, and the line of callers that wait for room."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from bot.core._shared.futures import give_error, give_result
from bot.core.batch_processor.backlog import Backlog
from bot.core.batch_processor.errors import BatchClosedError
from bot.core.phase4_config.batch_processor import DEFAULTS

SWITCHED_OFF = "the batch processor was switched off"


class Capacity:
    """``max_pending``, and the line of submitters that wait for room: first come, first served."""

    def __init__(self, backlog: Backlog, on_withdrawn: Callable[[int], None]) -> None:
        """``on_withdrawn`` is told how many items a look for withdrawn ones has removed."""
        self.max_pending = DEFAULTS.max_pending
        self._backlog = backlog
        self._on_withdrawn = on_withdrawn
        # Waiters in their order: first those that are told that there is room for them, until they take it.
        # Changed by wait, offer_room, close and forget_line.
        self._told: OrderedDict[object, asyncio.Future[None]] = OrderedDict()
        self._line: OrderedDict[object, asyncio.Future[None]] = OrderedDict()

    @property
    def free(self) -> int:
        """Items that may be taken in now; 0 or less if the processor is full."""
        return self.max_pending - self._backlog.unfinished

    @property
    def has_line(self) -> bool:
        """Whether a caller waits for room, which no other may overtake."""
        return bool(self._line or self._told)

    def lacks_room(self, wanted: int = 1) -> bool:
        """Whether so many may not be taken in now, though those that were withdrawn make room.

        A long queue is not looked through for these at each refusal.
        """
        backlog = self._backlog
        if backlog.unfinished + wanted <= self.max_pending:
            return False
        withdrawn = backlog.sweep_at_times()
        if withdrawn:
            self._on_withdrawn(withdrawn)
        return backlog.unfinished + wanted > self.max_pending

    async def wait(self) -> None:
        """Wait until an item may be taken in.

        A caller that this returns to takes an item in at once, or calls :meth:`offer_room`.
        Raises BatchClosedError if the processor is switched off meanwhile.
        """
        if self.free > 0 and not self.has_line:
            return
        ticket = object()
        self._line[ticket] = waiter = asyncio.get_running_loop().create_future()
        try:
            self.offer_room()  # those before may be on their way in, with room left behind them
            if waiter.done():
                await asyncio.sleep(0)  # so that they are in first
            while True:
                await waiter
                self._take_back()
                if ticket in self._told:
                    break
                if ticket not in self._line:
                    raise BatchClosedError(SWITCHED_OFF)
                # Somebody was quicker; it keeps its turn.
                self._line[ticket] = waiter = asyncio.get_running_loop().create_future()
        except BaseException:
            self._line.pop(ticket, None)
            if self._told.pop(ticket, None) is not None:
                self.offer_room()  # the place that it does not take
            raise
        del self._told[ticket]

    def offer_room(self) -> None:
        """Tell as many waiting callers as there are places; those that were told before count."""
        if self._line:
            for _ in range(min(self.free - len(self._told), len(self._line))):
                ticket, waiter = self._line.popitem(last=False)
                self._told[ticket] = waiter
                give_result(waiter, None)

    def _take_back(self) -> None:
        """Put those back, as the first in line, who were told of a place that somebody else took."""
        while self._told and len(self._told) > self.free:
            ticket, waiter = self._told.popitem()
            self._line[ticket] = waiter
            self._line.move_to_end(ticket, last=False)

    def close(self) -> None:
        """All callers that wait get BatchClosedError."""
        self._told.clear()
        while self._line:
            _, waiter = self._line.popitem(last=False)
            give_error(waiter, BatchClosedError(SWITCHED_OFF))

    def forget_line(self) -> None:
        """The callers that wait did so under an event loop that runs no more."""
        self._told.clear()
        self._line.clear()
