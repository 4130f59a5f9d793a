"""Executions counted per query shape, bounded."""

from __future__ import annotations

import re
from collections import OrderedDict

from bot.core.query_optimizer.models import Analysis, QueryType, SlowQuery
from bot.core.query_optimizer.sql.names import collections_of, is_mongodb

MAX_FINGERPRINTS = 10_000
"""Shapes kept; the one that was not executed for the longest time is dropped first."""

MAX_SHOWN = 500
"""Characters of a shape's text that are kept."""


MAX_KEYS = 10_000
"""Texts with parameters whose latest execution is remembered, so that the next one counts as a repetition; at
least as many as half of that.
"""

_PARAMETER = re.compile(r"\?|%s|%\(|[$:@]\w")


class Shape:
    __slots__ = (
        "about", "count", "fingerprint", "last_seen", "max_ms", "query", "repeated_ms", "repeats", "rows",
        "slow", "total_ms",
    )  # fmt: skip

    def __init__(self, fingerprint: str, query: str) -> None:
        self.fingerprint = fingerprint
        self.query = query
        self.about: tuple[QueryType, tuple[str, ...]] | None = None
        """Of MongoDB, whose forms no parser reads: what it does, and its collections."""
        self.count = 0
        self.slow = 0
        self.rows = 0
        self.total_ms = 0.0
        self.max_ms = 0.0
        self.last_seen = 0.0
        self.repeats = 0
        self.repeated_ms = 0.0


class ExecutionStatistics:
    """Counters of executions: totals of everything, and details for a bounded number of shapes."""

    def __init__(self) -> None:
        self.repeated: dict[str, Shape] = {}
        """Shapes with repetitions. Changed only by record and clear, and when a shape is dropped."""
        # What was not seen for the longest time is first.
        self._shapes: OrderedDict[str, Shape] = OrderedDict()
        # Hash of text and parameters -> (monotonic time, version of what it reads): those of late, and those
        # before them, which are forgotten together. An order for each would cost a miss more than the rest.
        self._last: dict[int, tuple[float, int]] = {}
        self._before: dict[int, tuple[float, int]] = {}
        self.executions = 0
        self.slow = 0
        self.total_ms = 0.0

    def record(self, analysis: Analysis, milliseconds: float, rows: int, slow: bool, at: float) -> Shape:
        """Count one execution; ``at`` is Unix time. Returns the counters of its shape."""
        fingerprint = analysis.fingerprint
        shape = self._shapes.get(fingerprint)
        if shape is None:
            if len(self._shapes) >= MAX_FINGERPRINTS:
                gone, _ = self._shapes.popitem(last=False)
                self.repeated.pop(gone, None)
            shape = self._shapes[fingerprint] = Shape(fingerprint, analysis.normal_form[:MAX_SHOWN])
            names = analysis.reads | analysis.writes
            if is_mongodb(names):
                shape.about = analysis.query_type, collections_of(names)
        else:
            self._shapes.move_to_end(fingerprint)
        shape.count += 1
        shape.rows += rows
        shape.total_ms += milliseconds
        if milliseconds > shape.max_ms:
            shape.max_ms = milliseconds
        shape.last_seen = at
        self.executions += 1
        self.total_ms += milliseconds
        if slow:
            shape.slow += 1
            self.slow += 1
        return shape

    def lengthen(self, analysis: Analysis, before: float, after: float, rows: int, slow: bool) -> None:
        """An execution that was recorded with ``before`` milliseconds has taken ``after`` by now; ``slow`` if
        that made it slow.
        """
        shape = self._shapes.get(analysis.fingerprint)
        if shape is None:
            return
        shape.rows += rows
        shape.total_ms += after - before
        shape.max_ms = max(shape.max_ms, after)
        self.total_ms += after - before
        if slow:
            shape.slow += 1
            self.slow += 1

    def note_repeat(
        self, shape: Shape, apart: int, milliseconds: float, version: int, now: float, ttl: float
    ) -> None:
        """See whether the execution just recorded repeats one that a cached result would have answered.

        That is: the same ``apart``, a hash of text and parameters, less than ``ttl`` seconds ago, and
        ``version`` has not changed since.
        """
        last = self._last.get(apart) or self._before.get(apart)
        if last is None or last[1] != version or now - last[0] >= ttl:
            if len(self._last) >= MAX_KEYS // 2:
                self._before, self._last = self._last, {}
            self._last[apart] = now, version  # from here on it would have been cached, for ttl seconds
            return
        shape.repeated_ms += milliseconds
        shape.repeats += 1
        if shape.repeats == 1:
            self.repeated[shape.fingerprint] = shape

    def saved_by_caching(self, fingerprint: str) -> tuple[float, str] | None:
        """(percent of the time measured that repetitions took, the same in words); None without any."""
        shape = self.repeated.get(fingerprint)
        if shape is None or not shape.total_ms:
            return None
        said = (
            f"recorded: {shape.repeats:,} of {shape.count:,} executions repeated text and parameters within "
            f"the cache's TTL, with no write between; they took {shape.repeated_ms:,.1f} of "
            f"{shape.total_ms:,.1f} ms"
        )
        return round(100 * shape.repeated_ms / shape.total_ms, 2), said

    def shape(self, fingerprint: str) -> Shape | None:
        """The counters of a shape; do not change them."""
        return self._shapes.get(fingerprint)

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
        self.repeated.clear()
        self._last, self._before = {}, {}
        self.executions = self.slow = 0
        self.total_ms = 0.0


def has_parameters(query: str) -> bool:
    """Whether a text may have parameters, so that the text alone does not identify an execution."""
    return _PARAMETER.search(query) is not None
