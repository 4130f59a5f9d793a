"""What the batch processor counts (pure)."""

from __future__ import annotations

from collections import deque

from bot.core._shared.histogram import Histogram


class Throughput:
    """Items per second over the last ``WINDOW`` seconds, or since the start if that is less."""

    WINDOW = 10

    __slots__ = ("_seconds", "_since")

    def __init__(self, now: float) -> None:
        self._since = now
        # (whole second, items) of the seconds in which there were any.
        self._seconds: deque[list[int]] = deque()

    def add(self, items: int, now: float) -> None:
        """So many items ended now."""
        second = int(now)
        seconds = self._seconds
        if seconds and seconds[-1][0] == second:
            seconds[-1][1] += items
            return
        seconds.append([second, items])
        while seconds[0][0] <= second - self.WINDOW:
            seconds.popleft()

    def rate(self, now: float) -> float:
        """Items per second."""
        first = int(now) - self.WINDOW + 1
        items = sum(count for second, count in self._seconds if second >= first)
        # At least a second: the first batch of all did not come at a million items per second.
        span = min(float(self.WINDOW), max(1.0, now - self._since))
        return items / span


class Counters:
    """Counts since the start or the last reset."""

    def __init__(self, now: float) -> None:
        self.done = 0
        self.failed = 0
        self.cancelled = 0
        self.replaced = 0
        self.dead = 0
        self.refused = 0
        self.batches = 0
        self.failed_batches = 0
        self.batched_items = 0
        self.retries = 0
        self.replayed = 0
        self.waits = Histogram()
        self.handling = Histogram()
        self.throughput = Throughput(now)
