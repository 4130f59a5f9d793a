"""What every charted figure was: minutes in full, hours and a day in steps; bounded (pure)."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Mapping
from typing import Any

FULL_SECONDS = 600.0
MAX_POINTS = 300
"""Samples that are kept as they were taken: FULL_SECONDS of them, one each two seconds."""

STEPPED = {3_600.0: 30.0, 6 * 3_600.0: 90.0, 86_400.0: 360.0}
"""Seconds that charts show in steps, and how long a step is. A longer one consists of whole shorter ones."""

MAX_FIGURES = 64
"""Figures by name; further ones are not kept. So the values take 0.7 MB at most, of 24 figures 0.3 MB."""


_NAN = math.nan


class History:
    """Rings of samples, handed out by column. Times are Unix seconds and grow."""

    def __init__(self, max_points: int = MAX_POINTS) -> None:
        # Changed by add and forget_from only. A row has a value for each name known when it was made.
        self._names: dict[str, int] = {}
        self._points: deque[tuple[float, array[float]]] = deque(maxlen=max_points)
        self._rings = [_Ring(seconds, step) for seconds, step in STEPPED.items()]

    def __len__(self) -> int:
        return len(self._points)

    @property
    def bytes_used(self) -> int:
        """Of the values kept, without what Python adds to each row."""
        rows = [row for _, row in self._points] + [row for ring in self._rings for _, row in ring.steps]
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
        first, *longer = self._rings
        over = first.open_at(at)
        if over is not None:
            for ring in longer:
                ring.merge(*over)
        assert first.open is not None
        first.open.add(row)

    def forget_from(self, at: float) -> None:
        """The clock was set back to ``at``: what lies ahead of the present is no history."""
        while self._points and self._points[-1][0] >= at:
            self._points.pop()
        for ring in self._rings:
            ring.forget_from(at)

    def columns(self, after: float = 0.0) -> dict[str, Any]:
        """``t`` and, by figure, its values at these times; samples later than ``after`` only."""
        points = [(at, row) for at, row in self._points if at > after]
        return {
            "t": [at for at, _ in points],
            "series": {
                name: _column([row for _, row in points], place)
                for name, place in sorted(self._names.items())
            },
        }

    def steps(self, seconds: float, now: float) -> dict[str, Any]:
        """The last ``seconds``, one of STEPPED or less than the shortest of them, in steps.

        ``t`` has the times at which they begin, ``step`` their length; ``series`` by figure ``mean``,
        ``low`` and ``high`` of each, None where there was nothing.
        """
        ring = next(ring for ring in self._rings if ring.seconds >= seconds)
        kept = [(at, row) for at, row in ring.told(self._rings[0]) if at + ring.step > now - seconds]
        rows = [row for _, row in kept]
        return {
            "seconds": seconds,
            "step": ring.step,
            "t": [at for at, _ in kept],
            "series": {
                name: {kind: _column(rows, 3 * place + n) for n, kind in enumerate(("mean", "low", "high"))}
                for name, place in sorted(self._names.items())
            },
        }


class _Ring:
    """The steps of one length: those that are over, and the open one."""

    def __init__(self, seconds: float, step: float) -> None:
        self.seconds = seconds
        self.step = step
        # When each begins, and three values for each figure: mean, least, most. Changed below only.
        self.steps: deque[tuple[float, array[float]]] = deque(maxlen=int(seconds / step) + 1)
        self.open: _Step | None = None

    def open_at(self, at: float) -> tuple[float, array[float]] | None:
        """Have the step open that ``at`` lies in; the one before it, if that is over with this."""
        begins = at - at % self.step
        over = None
        if self.open is not None and self.open.begins != begins:
            over = self.open.begins, self.open.row()
            self.steps.append(over)
            self.open = None
        if self.open is None:
            self.open = _Step(begins)
        return over

    def merge(self, at: float, row: array[float]) -> None:
        """A step of a shorter length is over."""
        self.open_at(at)
        assert self.open is not None
        self.open.merge(row)

    def told(self, shortest: _Ring) -> list[tuple[float, array[float]]]:
        """All steps, the open one with what is in the shortest ring's open one."""
        steps = [*self.steps]
        last = self.open
        news = shortest.open if shortest is not self else None
        if last is not None:
            if news is not None and news.begins < last.begins + self.step:
                merged = _Step(last.begins)
                merged.merge(last.row(), last.weight)
                merged.merge(news.row())
                last, news = merged, None
            steps.append((last.begins, last.row()))
        if news is not None:
            steps.append((news.begins - news.begins % self.step, news.row()))
        return steps

    def forget_from(self, at: float) -> None:
        if self.open is not None and self.open.begins + self.step > at:
            self.open = None
        while self.steps and self.steps[-1][0] + self.step > at:
            self.steps.pop()


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

    @property
    def weight(self) -> int:
        """Samples, or steps, that it is made of, by the figure that has most."""
        return max(self.counts, default=0)

    def merge(self, row: array[float], weight: int = 1) -> None:
        """A row of another step: three values for each place; its mean counts ``weight`` times."""
        self._grow(len(row) // 3)
        for place in range(len(row) // 3):
            mean, low, high = row[3 * place : 3 * place + 3]
            if not math.isnan(mean):
                self._take(place, mean, low, high, weight)

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

    def _take(self, place: int, mean: float, low: float, high: float, weight: int = 1) -> None:
        self.counts[place] += weight
        self.sums[place] += weight * mean
        self.lows[place] = min(self.lows[place], low)
        self.highs[place] = max(self.highs[place], high)


def _short(value: float) -> float:
    # Six figures are more than any chart shows, and half the bytes.
    return float(f"{value:.6g}")


def _column(rows: list[array[float]], place: int) -> list[float | None]:
    """One figure's values, short enough for a chart; None where there is none."""
    values = [row[place] if place < len(row) else _NAN for row in rows]
    return [round(value, 4) if value == value else None for value in values]  # NaN is unlike itself
