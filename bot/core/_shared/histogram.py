"""Durations as a histogram: constant memory, O(1) to record, quantiles and Prometheus buckets (pure)."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from msgspec import Struct

_PER_DOUBLING = 8
"""Buckets per factor of two: a quantile is off by at most 9 %."""
_SMALLEST = 1e-6
_BUCKETS = 36 * _PER_DOUBLING  # up to 2**36 µs, 19 hours
_BOUNDS = tuple(_SMALLEST * 2.0 ** (index / _PER_DOUBLING) for index in range(_BUCKETS - 1))
"""The longest duration of each bucket but the last, in seconds. To search them costs half a logarithm."""
_EXPOSED = tuple(range(6, 27, 2))
"""Powers of two, in µs, of the bounds in a snapshot: 64 µs to 67 s, each four times the one before."""


class HistogramSnapshot(Struct, frozen=True):
    """One histogram as a metrics reader wants it."""

    name: str
    """Without prefix, with its unit: ``pool_wait_seconds``."""
    description: str
    labels: Mapping[str, str]
    buckets: tuple[tuple[float, int], ...]
    """(upper bound in seconds, how many were at or below it); what is above the last is in ``count`` only."""
    count: int
    sum: float


class Histogram:
    """Durations in buckets that grow geometrically.

    Zeros may be counted by the owner instead of being recorded (for example callers that did not wait): they
    then pay nothing for this, and are handed in when something is read.
    """

    __slots__ = ("counts", "longest", "recorded", "total")

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.recorded = 0
        self.total = 0.0
        self.longest = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration of ``seconds``."""
        self.recorded += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds
        self.counts[bisect_left(_BOUNDS, seconds)] += 1

    def record_since(self, starts: Sequence[float], now: float) -> None:
        """Count what each of ``starts`` (in seconds on one clock, ascending, not empty) took until ``now``.

        The same as :meth:`record` for each, but a step for each bucket that they meet, not for each of them.
        """
        position, end = 0, len(starts)
        while position < end:
            index = bisect_left(_BOUNDS, now - starts[position])
            shortest = _BOUNDS[index - 1] if index else -math.inf
            if now - starts[-1] > shortest:
                following = end
            else:
                following = bisect_left(starts, now - shortest, position + 1)
            self.counts[index] += following - position
            position = following
        self.recorded += end
        self.total += max(0.0, now * end - sum(starts))
        self.longest = max(self.longest, now - starts[0])

    def quantile(self, share: float, zeros: int = 0) -> float:
        """Seconds that a ``share`` (0-1) of all durations stayed within; ``zeros`` more of them were zero."""
        rank = share * (self.recorded + zeros)
        if rank <= zeros:
            return 0.0
        seen = zeros
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= rank:
                return float(min(self.longest, _SMALLEST * 2.0 ** (index / _PER_DOUBLING)))
        return self.longest

    def mean(self, zeros: int = 0) -> float:
        """Seconds on average; 0.0 of none."""
        count = self.recorded + zeros
        return self.total / count if count else 0.0

    def snapshot(
        self, name: str, description: str, labels: Mapping[str, str] | None = None, *, zeros: int = 0
    ) -> HistogramSnapshot:
        """What was recorded so far, in the coarser buckets that metrics readers store."""
        buckets = []
        seen = zeros
        start = 0
        for power in _EXPOSED:
            end = power * _PER_DOUBLING + 1
            seen += sum(self.counts[start:end])
            buckets.append((_SMALLEST * 2.0**power, seen))
            start = end
        return HistogramSnapshot(
            name, description, dict(labels or {}), tuple(buckets), self.recorded + zeros, self.total
        )
