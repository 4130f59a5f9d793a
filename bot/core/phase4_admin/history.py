"""What every charted figure was: minutes in full, a day in steps; bounded (pure)."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

FULL_SECONDS = 600.0
MAX_POINTS = 300
"""Samples that are kept as they were taken: FULL_SECONDS of them, one each two seconds."""

STEP = 30.0
DAY = 86_400.0
MAX_STEPS = int(DAY / STEP)
"""Steps of the day; of each figure its mean, least and most are kept, four bytes each."""

MAX_FIGURES = 64
"""Figures by name; further ones are not kept. So all takes 2.4 MB at most, of 24 figures less than 1 MB."""

MAX_SHOWN = 240
"""Steps that one answer has at most."""

_NAN = math.nan


class History:
    """Rings of samples, handed out by column. Times are Unix seconds and grow."""

    def __init__(self, max_points: int = MAX_POINTS, max_steps: int = MAX_STEPS) -> None:
        # Changed by add and forget_from only. A row has a value for each name known when it was made.
        self._names: dict[str, int] = {}
        self._points: deque[tuple[float, array[float]]] = deque(maxlen=max_points)
        # The time at which a step begins, and three values for each figure: mean, least, most.
        self._steps: deque[tuple[float, array[float]]] = deque(maxlen=max_steps)
        self._open: _Step | None = None

    def __len__(self) -> int:
        return len(self._points)

    @property
    def bytes_used(self) -> int:
        """Of the values kept, without what Python adds to each row."""
        rows = [row for _, row in self._points] + [row for _, row in self._steps]
        return sum(row.itemsize * len(row) for row in rows)

    def add(self, at: float, values: Mapping[str, float | None]) -> None:
        """Keep a sample; the oldest leaves when there are too many."""
        for name in values:
            if name not in self._names and len(self._names) < MAX_FIGURES:
                self._names[name] = len(self._names)
        row = array("d", [_NAN]) * len(self._names)
        for name, value in values.items():
            place = self._names.get(name)
            if place is not None and value is not None and math.isfinite(value):
                row[place] = _short(value)
        self._points.append((at, row))
        begins = at - at % STEP
        if self._open is not None and self._open.begins != begins:
            self._steps.append((self._open.begins, self._open.row()))
            self._open = None
        if self._open is None:
            self._open = _Step(begins)
        self._open.add(row)

    def forget_from(self, at: float) -> None:
        """The clock was set back to ``at``: what lies ahead of the present is no history."""
        while self._points and self._points[-1][0] >= at:
            self._points.pop()
        if self._open is not None and self._open.begins + STEP > at:
            self._open = None
        while self._steps and self._steps[-1][0] + STEP > at:
            self._steps.pop()

    def columns(self, after: float = 0.0) -> dict[str, Any]:
        """``t`` and, by figure, its values at these times; samples later than ``after`` only."""
        points = [(at, row) for at, row in self._points if at > after]
        return {
            "t": [at for at, _ in points],
            "series": {
                name: [_shown(row[place]) if place < len(row) else None for _, row in points]
                for name, place in sorted(self._names.items())
            },
        }

    def steps(self, seconds: float, now: float) -> dict[str, Any]:
        """The last ``seconds`` in steps, MAX_SHOWN at most.

        ``t`` has the times at which they begin, ``step`` their length; ``series`` by figure ``mean``,
        ``low`` and ``high`` of each, None where there was nothing.
        """
        width = max(STEP, math.ceil(seconds / MAX_SHOWN / STEP) * STEP)
        kept: Iterable[tuple[float, array[float]]] = self._steps
        if self._open is not None:
            kept = [*kept, (self._open.begins, self._open.row())]
        first = now - seconds
        merged: dict[float, _Step] = {}
        for begins, row in kept:
            if begins + STEP > first:
                at = begins - begins % width
                merged.setdefault(at, _Step(at)).merge(row)
        rows = [step.row() for step in merged.values()]
        return {
            "seconds": seconds,
            "step": width,
            "t": list(merged),
            "series": {
                name: {
                    kind: [_shown(row[3 * place + n]) if 3 * place < len(row) else None for row in rows]
                    for n, kind in enumerate(("mean", "low", "high"))
                }
                for name, place in sorted(self._names.items())
            },
        }


class _Step:
    """Mean, least and most of some rows, by place."""

    __slots__ = ("begins", "counts", "highs", "lows", "sums")

    def __init__(self, begins: float) -> None:
        self.begins = begins
        self.counts: list[int] = []
        self.sums: list[float] = []
        self.lows: list[float] = []
        self.highs: list[float] = []

    def add(self, row: array[float]) -> None:
        """A sample."""
        self._grow(len(row))
        for place, value in enumerate(row):
            if not math.isnan(value):
                self._take(place, value, value, value)

    def merge(self, row: array[float]) -> None:
        """A row of another step: three values for each place."""
        self._grow(len(row) // 3)
        for place in range(len(row) // 3):
            mean, low, high = row[3 * place : 3 * place + 3]
            if not math.isnan(mean):
                self._take(place, mean, low, high)

    def row(self) -> array[float]:
        """``array("f")`` of mean, least, most of each place."""
        row = array("f")
        for count, total, low, high in zip(self.counts, self.sums, self.lows, self.highs, strict=True):
            row.extend((total / count, low, high) if count else (_NAN, _NAN, _NAN))
        return row

    def _grow(self, places: int) -> None:
        more = places - len(self.counts)
        if more > 0:
            self.counts += [0] * more
            self.sums += [0.0] * more
            self.lows += [math.inf] * more
            self.highs += [-math.inf] * more

    def _take(self, place: int, mean: float, low: float, high: float) -> None:
        self.counts[place] += 1
        self.sums[place] += mean
        self.lows[place] = min(self.lows[place], low)
        self.highs[place] = max(self.highs[place], high)


def _short(value: float) -> float:
    # Six figures are more than any chart shows, and half the bytes.
    return float(f"{value:.6g}")


def _shown(value: float) -> float | None:
    return None if math.isnan(value) else _short(value)
