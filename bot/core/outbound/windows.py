"""Limits that are told the time: an exact sliding window, and a bucket for short bursts (pure)."""

from __future__ import annotations

import math
from collections import deque

SMALLEST_MARGIN, MARGIN_SHARE = 0.05, 0.05
"""Seconds, or this share of a window if that is less, by which each window is longer than its limit says:
clocks do not run alike, and requests overtake each other on their way."""


ROUNDING = 1e-9
"""Seconds that sums of times may be off by; far below every margin."""


def lengthened(window: float) -> float:
    """A window with its margin."""
    return window + min(SMALLEST_MARGIN, MARGIN_SHARE * window)


class SlidingWindow:
    """Never more than a number of requests in any window, by the clock of whoever receives them.

    A request counts from when it leaves until a window after its *answer* came: it was received somewhere
    in between. (By the time of leaving alone, a slow request and a quick one a window later can arrive
    within one.) Limit and window are arguments, so that a change of settings holds at once.
    """

    __slots__ = ("_counted", "_stamps", "in_flight")

    def __init__(self) -> None:
        # Changed by the methods below only. Stamps are (time, cost), ascending; _counted is their cost.
        self.in_flight = 0
        self._stamps: deque[tuple[float, int]] = deque()
        self._counted = 0

    def wait(self, cost: int, limit: int, window: float, now: float) -> float:
        """Seconds until a request of ``cost`` may leave; 0.0: now; inf: not before an answer has come.

        What costs more than the limit may leave alone.
        """
        stamps = self._stamps
        while stamps and stamps[0][0] + window <= now + ROUNDING:
            self._counted -= stamps.popleft()[1]
        used = self.in_flight + self._counted
        excess = used + min(cost, limit) - limit
        if excess <= 0 or not used:
            return 0.0
        for at, counted in stamps:
            excess -= counted
            if excess <= 0:
                return at + window - now
        return math.inf

    def leave(self, cost: int) -> None:
        """A request leaves."""
        self.in_flight += cost

    def answered(self, cost: int, now: float) -> None:
        """Its answer came, or nobody waits for it any more."""
        self.in_flight -= cost
        self._stamps.append((now, cost))
        self._counted += cost

    def give_back(self, cost: int) -> None:
        """It has not left after all, or was refused."""
        self.in_flight -= cost

    def stamp(self, cost: int, window: float, now: float) -> None:
        """Count a request by one moment alone, and forget what counts no more."""
        stamps = self._stamps
        while stamps and stamps[0][0] + window <= now + ROUNDING:
            self._counted -= stamps.popleft()[1]
        stamps.append((now, cost))
        self._counted += cost

    def unstamp(self, cost: int, at: float) -> None:
        """Take back a stamp that still counts."""
        try:
            self._stamps.remove((at, cost))
        except ValueError:
            return
        self._counted -= cost

    def empty_at(self, window: float) -> float:
        """When nothing counts any more, if nothing is added; inf while a request is in flight."""
        if self.in_flight:
            return math.inf
        return self._stamps[-1][0] + window if self._stamps else -math.inf

    def check_invariants(self) -> None:
        assert self.in_flight >= 0
        assert self._counted == sum(cost for _, cost in self._stamps)
        times = [at for at, _ in self._stamps]
        assert times == sorted(times)


class Bucket:
    """A burst, then an even rate, by the clock of whoever receives the requests (GCRA).

    The state is the time at which all has been refilled. A request that finds the bucket full was received
    at its answer at the latest, so the refilling of what it took is counted from there.
    """

    __slots__ = ("full_at", "in_flight")

    def __init__(self) -> None:
        self.full_at = -math.inf
        self.in_flight = 0

    def wait(self, cost: int, interval: float, burst: int, now: float) -> float:
        """Seconds until a request of ``cost`` may leave. What costs more than the burst leaves when full."""
        wait = max(self.full_at - now, 0.0) - (burst - min(cost, burst)) * interval
        return wait if wait > ROUNDING else 0.0

    def leave(self, cost: int, interval: float, now: float) -> None:
        """A request leaves."""
        self.full_at = max(self.full_at, now) + cost * interval
        self.in_flight += cost

    def answered(self, cost: int, interval: float, now: float) -> None:
        """Its answer came, or nobody waits for it any more."""
        full_at = now + self.in_flight * interval
        if full_at > self.full_at:
            self.full_at = full_at
        self.in_flight -= cost

    def give_back(self, cost: int, interval: float) -> None:
        """It has not left after all, or was refused."""
        self.full_at -= cost * interval
        self.in_flight -= cost
