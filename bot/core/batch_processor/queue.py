"""Items that wait to be put into a batch, by priority (pure)."""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Callable
from itertools import repeat
from operator import attrgetter, methodcaller
from typing import Any

from bot.core.batch_processor.models import BatchItem
from bot.core.batch_processor.sizes import Sizes

_PRIORITY = attrgetter("priority")


class PendingQueue:
    """First come, first served within a priority; a higher priority first.

    What its submitter has cancelled is left out when it would be taken. One deque for each priority
    in use: push and take are O(1), and so is the oldest while few priorities are in use.
    """

    __slots__ = (
        "_done", "_gone", "_levels", "_order", "_others", "bytes", "full_at", "left_out", "normal", "sizes",
        "withdrawn",
    )  # fmt: skip

    def __init__(
        self, done: Callable[[Any], bool] = methodcaller("done"), gone: set[BatchItem] | None = None
    ) -> None:
        """``done`` tells whether a future is; the quicker it is told, the better.

        ``gone``: cancelled items that their owner has counted already; each is removed when it is left out.
        """
        self._done = done
        self._gone = set() if gone is None else gone
        self.withdrawn = 0
        """Items left out so far, but for those that were counted before."""
        self.left_out: list[BatchItem] = []
        """Those of them with a lane that the owner of the lanes has yet to be told of."""
        # Changed by push, take, sweep and discard; the processor's submit appends to ``normal`` itself.
        self.normal: deque[BatchItem] = deque()
        """Those of priority 0."""
        # The other priorities, none empty; _order holds them negated and sorted.
        self._levels: dict[int, deque[BatchItem]] = {}
        self._order: list[int] = []
        self._others = 0
        self.sizes = Sizes()
        # Only while there is a limit; changed by limit_bytes, and with the items.
        self.full_at = math.inf
        """Bytes that fill a batch."""
        self.bytes = 0
        """Those of the items held."""

    def __len__(self) -> int:
        """Items held, those that were cancelled and not yet left out among them."""
        return len(self.normal) + self._others

    @property
    def others(self) -> int:
        """Those of another priority than 0."""
        return self._others

    def push(self, item: BatchItem) -> None:
        """Add an item behind those of its priority."""
        priority = item.priority
        if self.sizes.most:
            self.bytes += self.sizes.measure(item)
        if not priority:
            self.normal.append(item)
            return
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = deque()
            insort(self._order, -priority)
        level.append(item)
        self._others += 1

    def extend(self, items: list[BatchItem]) -> None:
        """Add items, in their order."""
        if self.sizes.most or any(map(_PRIORITY, items)):
            for item in items:
                self.push(item)
        else:
            self.normal.extend(items)

    def ahead(self, priority: int) -> int:
        """How many would be taken before an item of this priority that comes now."""
        if not self._others:
            return len(self.normal) if priority <= 0 else 0
        others = sum(len(level) for held, level in self._levels.items() if held >= priority)
        return others + (len(self.normal) if priority <= 0 else 0)

    def limit_bytes(self, most: int) -> None:
        """Batches of :meth:`take_batch` have at most so many bytes; 0: any number."""
        self.sizes.most = most
        self.full_at = most or math.inf
        self._count_bytes()

    def _count_bytes(self) -> None:
        sizes = self.sizes
        self.bytes = sum(map(sizes.measure, self.items())) if sizes.most else 0

    def take_batch(self, limit: int) -> list[BatchItem]:
        """Remove and return the next items, at most ``limit``, and of at most so many bytes, or a larger one.

        The first that does not fit ends the batch, so the order is kept.
        """
        if not self.sizes.most:
            return self.take(limit)
        taken: list[BatchItem] = []
        left = self.sizes.most
        for level in self._in_order():
            while level and len(taken) < limit:
                size = level[0].size
                if taken and size > left:
                    limit = 0
                    break
                some = self._wanted([level.popleft()])
                if level is not self.normal:
                    self._others -= 1
                self.bytes -= size
                left -= size if some else 0
                taken += some
            if len(taken) >= limit:
                break
        self._forget_empty()
        return taken

    def take_everything(self) -> list[BatchItem]:
        """Remove and return all items, the next first."""
        self.bytes = 0
        return self.take(len(self))

    def take(self, limit: int) -> list[BatchItem]:
        """Remove and return the next items, at most ``limit``; for where bytes are not limited."""
        normal = self.normal
        if not self._others and len(normal) <= limit:
            everything = list(normal)
            normal.clear()
            return self._wanted(everything)
        taken: list[BatchItem] = []
        for level in self._in_order():
            while level and len(taken) < limit:
                wanted = limit - len(taken)
                if len(level) <= wanted:
                    some = list(level)
                    level.clear()
                else:
                    some = list(map(deque.popleft, repeat(level, wanted)))
                if level is not normal:
                    self._others -= len(some)
                taken += self._wanted(some)
            if len(taken) >= limit:
                break
        self._forget_empty()
        return taken

    def _forget_empty(self) -> None:
        for priority in [priority for priority, level in self._levels.items() if not level]:
            del self._levels[priority]
            self._order.remove(-priority)

    def sweep(self) -> int:
        """Leave out what was cancelled, without taking the others; how many are to be counted: O(n)."""
        before = self.withdrawn
        for level in (self.normal, *self._levels.values()):
            everything = list(level)
            kept = self._wanted(everything)
            if len(kept) < len(everything):
                level.clear()
                level.extend(kept)
        self._others = sum(map(len, self._levels.values()))
        self._forget_empty()
        if self.sizes.most:
            self._count_bytes()
        return self.withdrawn - before

    def _in_order(self) -> list[deque[BatchItem]]:
        if not self._others:
            return [self.normal]
        levels = [self._levels[-negated] for negated in self._order]
        urgent = sum(negated < 0 for negated in self._order)
        return [*levels[:urgent], self.normal, *levels[urgent:]]

    def _wanted(self, items: list[BatchItem]) -> list[BatchItem]:
        futures = [item.future for item in items]
        if None not in futures and not any(map(self._done, futures)):
            return items  # as nearly always, and found out without a look at each here
        kept = [item for item in items if (future := item.future) is None or not future.done()]
        if len(kept) < len(items):
            dropped = [item for item in items if (future := item.future) is not None and future.done()]
            self.left_out += [item for item in dropped if item.lane is not None]
            counted = self._gone.intersection(dropped)
            self._gone -= counted
            self.withdrawn += len(dropped) - len(counted)
        return kept

    def oldest(self) -> float:
        """When the oldest item was submitted; infinity if there is none."""
        first = self.normal[0].submitted_at if self.normal else math.inf
        if not self._others:
            return first
        return min(first, min(level[0].submitted_at for level in self._levels.values()))

    def discard(self, entries: set[bytes]) -> list[BatchItem]:
        """Remove the items read from these entries of a stream, and return them: O(n)."""
        held = self.take_everything()
        for item in held:
            if item.entry not in entries:
                self.push(item)
        return [item for item in held if item.entry in entries]

    def items(self) -> list[BatchItem]:
        """All of them: O(n)."""
        return [item for level in self._in_order() for item in level]

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree. For tests: O(n)."""
        assert self._others == sum(len(level) for level in self._levels.values())
        assert self._order == sorted(-priority for priority in self._levels)
        assert 0 not in self._levels
        assert all(self._levels.values()), "no priority is kept for nobody"
        if self.sizes.most:
            assert self.bytes == sum(item.size for item in self.items())
            assert all(item.size for item in self.items()), "each is measured"
        for priority, level in [(0, self.normal), *self._levels.items()]:
            assert all(item.priority == priority for item in level)
            times = [item.submitted_at for item in level if item.lane is None]
            assert times == sorted(times), "the first of a priority is its oldest"
