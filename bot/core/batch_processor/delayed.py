"""Items that are not to be handled before a time (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from bot.core.batch_processor.models import BatchItem


class Delayed:
    """Items by the time at which each is due; of one time, in the order in which they came.

    Adding and taking cost O(log n), removing O(1) on average: what was removed stays in the heap until it
    is met there, or until it is more than half of it.
    """

    __slots__ = ("_count", "_heap", "_places")

    def __init__(self) -> None:
        # Changed by add, remove, take_due and clear. An item's place tells its entry of the heap from one
        # that was removed.
        self._heap: list[tuple[float, int, BatchItem]] = []
        self._places: dict[BatchItem, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, item: BatchItem) -> bool:
        return item in self._places

    def __iter__(self) -> Iterator[BatchItem]:
        return iter(self._places)

    def add(self, item: BatchItem, due: float) -> None:
        """Keep an item, which is not kept yet, until ``due``."""
        self._count += 1
        self._places[item] = self._count
        heappush(self._heap, (due, self._count, item))

    def remove(self, item: BatchItem) -> bool:
        """Keep it no more; False if it was not kept."""
        if self._places.pop(item, None) is None:
            return False
        if len(self._heap) > 2 * len(self._places) + 16:
            self._heap = [entry for entry in self._heap if self._places.get(entry[2]) == entry[1]]
            heapify(self._heap)
        return True

    def next_due(self) -> float:
        """When the first is due; infinity if there is none."""
        heap = self._heap
        while heap and self._places.get(heap[0][2]) != heap[0][1]:
            heappop(heap)
        return heap[0][0] if heap else math.inf

    def take_due(self, now: float) -> list[BatchItem]:
        """Remove and return what is due, the first one first."""
        taken: list[BatchItem] = []
        while self.next_due() <= now:
            item = heappop(self._heap)[2]
            del self._places[item]
            taken.append(item)
        return taken

    def clear(self) -> list[BatchItem]:
        """Remove and return everything, in the order in which it came."""
        held = list(self._places)
        self._heap.clear()
        self._places.clear()
        return held

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree. For tests: O(n)."""
        live = [entry for entry in self._heap if self._places.get(entry[2]) == entry[1]]
        assert len(live) == len(self._places), "every item has one entry that counts"
        assert len(self._heap) <= 2 * len(self._places) + 16, "what was removed is forgotten"
