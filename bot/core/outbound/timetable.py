"""Things by the time at which they are due (pure)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Timetable(Generic[T]):
    """Each thing once, with the time at which it is due.

    One that is taken out is skipped when its turn comes. Once half of what is kept is such, it is cleared.
    """

    def __init__(self) -> None:
        # Changed by the methods below only.
        self._due: dict[T, float] = {}
        self._heap: list[tuple[float, int, T]] = []
        """What counts, and what does not any more: whose time differs from that in _due."""
        self._order = count()

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, thing: T) -> bool:
        return thing in self._due

    def put(self, thing: T, at: float) -> None:
        """It is due then, and at no other time."""
        if self._due.get(thing) != at:
            self._due[thing] = at
            heapq.heappush(self._heap, (at, next(self._order), thing))
            self._trim()

    def remove(self, thing: T) -> None:
        """It is not due at any time."""
        if self._due.pop(thing, None) is not None:
            self._trim()

    def pop_due(self, now: float) -> T | None:
        """One that is due, the earliest; it is taken out."""
        if self.next_at > now:
            return None
        thing = heapq.heappop(self._heap)[2]
        self.remove(thing)
        return thing

    def _trim(self) -> None:
        if len(self._heap) > 2 * len(self._due) + 64:
            self._heap = [(at, next(self._order), thing) for thing, at in self._due.items()]
            heapq.heapify(self._heap)

    @property
    def next_at(self) -> float:
        """When the first is due; inf: none is."""
        heap = self._heap
        while heap:
            at, _, thing = heap[0]
            if self._due.get(thing) == at:
                return at
            heapq.heappop(heap)
        return math.inf

    def clear(self) -> None:
        """Nothing is due."""
        self._due.clear()
        self._heap.clear()

    def check_invariants(self) -> None:
        kept = {(thing, at) for at, _, thing in self._heap}
        assert kept >= set(self._due.items()), "a thing whose time nobody looks at"
        assert len(self._heap) <= 2 * len(self._due) + 64
