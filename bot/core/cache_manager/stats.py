"""The cache's counters, incremented on the hot path."""

from __future__ import annotations


class Counters:
    """Counts since the start or the last reset."""

    __slots__ = (
        "early_refreshes", "l1_hits", "l1_misses", "l1_only", "l2_hits", "l2_misses", "load_failures",
        "loads", "stale_served",
    )  # fmt: skip

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Set all of them to zero."""
        self.l1_hits = 0
        self.l1_misses = 0
        self.l2_hits = 0
        self.l2_misses = 0
        self.l1_only = 0
        self.loads = 0
        self.load_failures = 0
        self.stale_served = 0
        self.early_refreshes = 0
