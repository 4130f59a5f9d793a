"""Counters as a metrics reader wants them: totals that never go back, and what was added lately (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class MonotonicTotals(Generic[Key]):
    """Running totals of counters that may be set back to zero by a reset.

    A reading below the one before means that the counter was restarted, and counts in full. What was
    counted between the last reading and the reset is not seen. At most ``max_keys`` keys are kept;
    what comes after is not, and :meth:`advance` gives None for it.
    """

    __slots__ = ("_last", "_max_keys", "_totals")

    def __init__(self, max_keys: int = 5_000) -> None:
        self._max_keys = max_keys
        # The two have the same keys. Changed by advance only.
        self._last: dict[Key, float] = {}
        self._totals: dict[Key, float] = {}

    def advance(self, key: Key, reading: float) -> float | None:
        """The total of ``key`` after this ``reading`` of its counter."""
        last = self._last.get(key)
        if last is None:
            if len(self._last) >= self._max_keys:
                return None
            last = 0.0
        total = self._totals.get(key, 0.0) + (reading - last if reading >= last else reading)
        self._last[key] = reading
        self._totals[key] = total
        return total

    def check_invariants(self) -> None:
        assert self._last.keys() == self._totals.keys()
        assert len(self._last) <= self._max_keys
        assert all(self._totals[key] >= last for key, last in self._last.items())


class RecentIncrease(Generic[Key]):
    """How much each total grew within the last ``window`` seconds, from readings at any pace.

    Until the window has passed once, growth counts from the beginning. After a pause in the readings
    it counts from the last one before it. Holds some 60 readings, whatever the pace.
    """

    __slots__ = ("_points", "_spacing", "_window")

    POINTS = 60

    def __init__(self, window: float, now: float) -> None:
        self._window = window
        self._spacing = window / self.POINTS
        # Oldest first; the first one is the newest of those that are older than the window, or the
        # beginning, at which everything was zero. Changed by since only.
        self._points: deque[tuple[float, Mapping[Key, float]]] = deque([(now, {})])

    def since(self, now: float, totals: Mapping[Key, float]) -> dict[Key, float]:
        """Take a reading: how much each key grew. What came new counts in full."""
        points = self._points
        while len(points) > 1 and points[1][0] <= now - self._window:
            points.popleft()
        base = points[0][1]
        if (len(points) == 1 and not base) or now - points[-1][0] >= self._spacing:
            points.append((now, dict(totals)))
        return {key: total - base.get(key, 0.0) for key, total in totals.items()}

    def per_second(self, now: float, totals: Mapping[Key, float]) -> dict[Key, float]:
        """Take a reading: growth a second. Needs two readings, since the beginning has no figures."""
        self.since(now, totals)
        began, base = next(((at, kept) for at, kept in self._points if kept), (now, {}))
        if now <= began:
            return {}
        return {key: (total - base.get(key, 0.0)) / (now - began) for key, total in totals.items()}

    def check_invariants(self) -> None:
        times = [at for at, _ in self._points]
        assert times == sorted(times)
        assert 1 <= len(times) <= self.POINTS + 2
