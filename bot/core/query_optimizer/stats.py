"""Executions counted per query shape, bounded."""

from __future__ import annotations

from cachetools import LRUCache

from bot.core.query_optimizer.models import Analysis, SlowQuery

MAX_FINGERPRINTS = 10_000
"""Shapes kept; the one not executed for longest goes first."""

MAX_SHOWN = 500
"""Characters of a shape's text that are kept."""


class _Shape:
    __slots__ = ("count", "last_seen", "max_ms", "query", "rows", "slow", "total_ms")

    def __init__(self, query: str) -> None:
        self.query = query
        self.count = 0
        self.slow = 0
        self.rows = 0
        self.total_ms = 0.0
        self.max_ms = 0.0
        self.last_seen = 0.0


class ExecutionStatistics:
    """Counters of executions: totals that never forget, and details per shape that are bounded."""

    def __init__(self) -> None:
        self._shapes: LRUCache[str, _Shape] = LRUCache(maxsize=MAX_FINGERPRINTS)
        self.executions = 0
        self.slow = 0
        self.total_ms = 0.0

    def record(self, analysis: Analysis, milliseconds: float, rows: int, slow: bool, at: float) -> None:
        """Count one execution; ``at`` is Unix time."""
        shape = self._shapes.get(analysis.fingerprint)
        if shape is None:
            shape = self._shapes[analysis.fingerprint] = _Shape(analysis.normal_form[:MAX_SHOWN])
        shape.count += 1
        shape.rows += rows
        shape.total_ms += milliseconds
        shape.max_ms = max(shape.max_ms, milliseconds)
        shape.last_seen = at
        self.executions += 1
        self.total_ms += milliseconds
        if slow:
            shape.slow += 1
            self.slow += 1

    def __len__(self) -> int:
        return len(self._shapes)

    @property
    def average_ms(self) -> float:
        return self.total_ms / self.executions if self.executions else 0.0

    def slow_queries(self, threshold_ms: float) -> list[SlowQuery]:
        """Shapes that took at least ``threshold_ms`` once, the slowest first."""
        found = [
            SlowQuery(
                fingerprint=fingerprint,
                query=shape.query,
                executions=shape.count,
                slow_executions=shape.slow,
                avg_time_ms=round(shape.total_ms / shape.count, 3),
                max_time_ms=round(shape.max_ms, 3),
                last_seen=shape.last_seen,
            )
            for fingerprint, shape in self._shapes.items()
            if shape.max_ms >= threshold_ms
        ]
        return sorted(found, key=lambda query: query.max_time_ms, reverse=True)

    def clear(self) -> None:
        self._shapes.clear()
        self.executions = self.slow = 0
        self.total_ms = 0.0
