"""Which of many deadlines are reached, though hardly any ever is (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Upcoming(Generic[T]):
    """The first of the items that wait, by deadline; the owner holds the items.

    To put each into a heap would be in vain, for nearly all are gone long before. So a heap is made of those
    that wait when the first deadline is reached, and again when all of these are gone. Of later ones only
    those get into it whose deadline is not after all that it had. An item is in one heap, so it costs
    O(log n) at most, and one that comes and goes between two heaps costs nothing.
    """

    __slots__ = ("_heap", "_order", "_waiting", "_waits", "horizon")

    def __init__(
        self, waiting: Callable[[], Iterable[tuple[float, T]]], waits: Callable[[T, float], bool]
    ) -> None:
        """``waiting()`` gives all items with their deadlines, ``waits`` whether one waits, until then."""
        self._waiting = waiting
        self._waits = waits
        self._order = count()
        # Changed by add, take_due, next_at and _renew. What is gone stays in it until it is met.
        self._heap: list[tuple[float, int, T]] = []
        self.horizon = -math.inf
        """An item whose deadline is not after this is to be given to :meth:`add`."""

    def add(self, at: float, item: T, most: int) -> None:
        """One of the items that wait is to be in the heap, too; ``most``: how many wait."""
        if len(self._heap) > 2 * most + 64:
            self._renew()
        else:
            heappush(self._heap, (at, next(self._order), item))

    def take_due(self, now: float) -> list[T]:
        """The items whose deadline is ``now`` or before, the earliest first; they should wait no more."""
        due: dict[T, None] = {}
        while self._first() <= now:
            due[heappop(self._heap)[2]] = None
        if not self._heap:
            self._renew()  # in which those of before may be again
            while self._first() <= now:
                due[heappop(self._heap)[2]] = None
        return list(due)

    def next_at(self) -> float:
        """The earliest deadline; infinity if nothing waits."""
        if self._first() == math.inf:
            self._renew()
        return self._first()

    def _first(self) -> float:
        heap = self._heap
        while heap:
            at, _, item = heap[0]
            if self._waits(item, at):
                return at
            heappop(heap)
        return math.inf

    def _renew(self) -> None:
        self._heap = [(at, next(self._order), item) for at, item in self._waiting() if at < math.inf]
        heapify(self._heap)
        self.horizon = max([entry[0] for entry in self._heap], default=-math.inf)
