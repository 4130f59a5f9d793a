"""The last minutes of every charted figure, bounded (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

MAX_POINTS = 300


class History:
    """A ring of samples, handed out by column. Times are Unix seconds and grow."""

    def __init__(self, max_points: int = MAX_POINTS) -> None:
        # Changed by add only.
        self._points: deque[tuple[float, Mapping[str, float | None]]] = deque(maxlen=max_points)

    def __len__(self) -> int:
        return len(self._points)

    def add(self, at: float, values: Mapping[str, float | None]) -> None:
        """Keep a sample; the oldest leaves when there are too many."""
        self._points.append((at, {key: _short(value) for key, value in values.items()}))

    def columns(self, after: float = 0.0) -> dict[str, Any]:
        """``t`` and, by figure, its values at these times; samples later than ``after`` only."""
        points = [(at, values) for at, values in self._points if at > after]
        keys = {key for _, values in points for key in values}
        return {
            "t": [at for at, _ in points],
            "series": {key: [values.get(key) for _, values in points] for key in sorted(keys)},
        }


def _short(value: float | None) -> float | None:
    # Six figures are more than any chart shows, and half the bytes.
    return None if value is None else float(f"{value:.6g}")
