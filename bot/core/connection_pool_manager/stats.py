"""Counters of one pool, and its waits as a histogram (pure)."""

from __future__ import annotations

import math

_PER_DOUBLING = 8
"""Buckets per factor of two: a quantile is off by at most 9 %."""
_SMALLEST = 1e-6
_BUCKETS = 36 * _PER_DOUBLING  # up to 2**36 µs, 19 hours


class WaitHistogram:
    """How long callers waited, in buckets that grow geometrically: constant memory, O(1) to record.

    Waits of zero are counted, not recorded: most callers do not wait, and pay nothing for this.
    """

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.recorded = 0
        self.total = 0.0
        self.longest = 0.0

    def record(self, seconds: float) -> None:
        """Count one wait of ``seconds``."""
        self.recorded += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds
        index = 0 if seconds <= _SMALLEST else int(math.log2(seconds / _SMALLEST) * _PER_DOUBLING) + 1
        self.counts[min(index, _BUCKETS - 1)] += 1

    def quantile(self, share: float, zeros: int) -> float:
        """Seconds that a ``share`` (0-1) of all waits stayed within; ``zeros`` of them were zero."""
        rank = share * (self.recorded + zeros)
        if rank <= zeros:
            return 0.0
        seen = zeros
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= rank:
                return float(min(self.longest, _SMALLEST * 2.0 ** (index / _PER_DOUBLING)))
        return self.longest


class Counters:
    """What a pool counts. The pool increments; only a reset sets back."""

    def __init__(self) -> None:
        self.acquired = 0
        self.released = 0
        self.failed = 0
        self.opened = 0
        self.open_failures = 0
        self.closed = 0
        self.resets = 0
        self.checks = 0
        self.leaked = 0
        self.peak_active = 0
        self.waits = WaitHistogram()
