"""Executions by shape: calls, time, an example of each; of any number, in bounded memory."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable

from cachetools import LRUCache

from bot.core.query_optimizer.analyses import analysis_of
from bot.core.query_optimizer.sql.fingerprint import shape
from bot.core.query_optimizer.sql.long_texts import SHORT
from bot.core.query_optimizer.workload.executions import Execution
from bot.core.query_optimizer.workload.repeats import Repeats

MAX_SHAPES = 5_000
"""Shapes that are kept; of more, those that took the least time are counted together."""

MAX_EXAMPLE = 20_000
"""Characters of a text that is kept as the example of its shape."""

MAX_NAMES = 20
"""Names of databases or users of a shape that are kept."""

_SET = re.compile(r"\A(SET [^=]{1,200}?(?: =| TO))(?s: .*)", re.IGNORECASE)

OWN = "/* phase4 sql */"
"""In statements of this command, which are no part of a workload."""


class Shape:
    """What is known about the statements that differ in values only."""

    __slots__ = (
        "calls",
        "calls_with_rows",
        "databases",
        "dialect",
        "example",
        "fingerprint",
        "longest",
        "nested",
        "normal_form",
        "parameters",
        "repeats",
        "rows",
        "seconds",
        "users",
    )

    def __init__(self, dialect: str, fingerprint: str, normal_form: str, *, nested: bool) -> None:
        self.dialect = dialect
        self.fingerprint = fingerprint
        self.normal_form = normal_form
        """The text without any value."""
        self.nested = nested
        """Whether they ran within other statements, whose time has theirs."""
        self.calls = 0
        self.seconds = 0.0
        self.longest: float | None = None
        """Seconds of the longest call."""
        self.rows, self.calls_with_rows = 0.0, 0
        """Rows of the calls of which their number is known, and how many these calls are."""
        self.example = ""
        """The text of its slowest execution; empty if it is too long."""
        self.parameters: tuple[str | None, ...] | None = None
        """Of the example; None if they are not known."""
        self.databases: set[str] = set()
        self.users: set[str] = set()
        self.repeats = Repeats()

    @property
    def mean(self) -> float | None:
        """Seconds a call."""
        return self.seconds / self.calls if self.calls else None

    @property
    def mean_rows(self) -> float | None:
        """Rows a call."""
        return self.rows / self.calls_with_rows if self.calls_with_rows else None

    def add(self, execution: Execution) -> None:
        self.calls += execution.calls
        self.seconds += execution.seconds
        longest = execution.longest
        if longest is None and execution.calls == 1:
            longest = execution.seconds
        known = execution.parameters is not None or "$" not in execution.text
        if execution.calls and (
            not self.example
            or (known and self.parameters is None and "$" in self.example)
            or ((longest or 0.0) > (self.longest or 0.0) and known)
        ):
            self._keep(execution)
        if longest is not None and longest > (self.longest or 0.0):
            self.longest = longest
        if execution.rows is not None:
            self.rows += execution.rows
            self.calls_with_rows += max(1, execution.calls)
        for name, names in ((execution.database, self.databases), (execution.user, self.users)):
            if name and len(names) < MAX_NAMES:
                names.add(name)

    def _keep(self, execution: Execution) -> None:
        if len(execution.text) <= MAX_EXAMPLE:
            self.example, self.parameters = execution.text, execution.parameters


class Workload:
    """Shapes of all executions that were added, and what they took together."""

    def __init__(self, *, max_shapes: int = MAX_SHAPES) -> None:
        self._max_shapes = max_shapes
        self.shapes: dict[tuple[str, str, bool], Shape] = {}
        """(dialect, fingerprint, whether nested) -> shape."""
        self.calls = 0
        self.seconds = 0.0
        """Of all; those within other statements are not counted twice."""
        self.dropped_shapes = 0
        self.dropped_seconds = 0.0
        """Of shapes that are no longer kept. One that comes again counts again."""
        self.begins: float | None = None
        self.ends: float | None = None
        """Unix seconds of the first and the last execution, as far as they are known."""
        self._texts: LRUCache[tuple[str, str], tuple[str, str]] = LRUCache(4_000)

    @property
    def period(self) -> float | None:
        """Seconds from the first execution to the last; None if it is not known."""
        if self.begins is None or self.ends is None or self.ends <= self.begins:
            return None
        return self.ends - self.begins

    def add_all(
        self, executions: Iterable[Execution], dialect: str, database: str = "", user: str = ""
    ) -> int:
        """Add executions, those of one database or user only if it is named; how many were left out."""
        others = 0
        for execution in executions:
            if (database and execution.database != database) or (user and execution.user != user):
                others += max(1, execution.calls)
            else:
                self.add(execution, dialect)
        return others

    def add(self, execution: Execution, dialect: str) -> None:
        text = execution.text
        if not text.strip(" \t\r\n;") or OWN in text:
            return
        fingerprint, normal_form = self._shape(text, dialect)
        key = dialect, fingerprint, execution.nested
        known = self.shapes.get(key)
        if known is None:
            known = self.shapes[key] = Shape(dialect, fingerprint, normal_form, nested=execution.nested)
        known.add(execution)
        if execution.calls == 1 and execution.session:
            known.repeats.note(execution)
        if not execution.nested:
            self.calls += execution.calls
            self.seconds += execution.seconds
        self.cover(execution.at, execution.at)
        if len(self.shapes) > 2 * self._max_shapes:
            self._prune()

    def cover(self, begins: float | None, ends: float | None) -> None:
        """The workload was observed from then to then."""
        if begins is not None and (self.begins is None or begins < self.begins):
            self.begins = begins
        if ends is not None and (self.ends is None or ends > self.ends):
            self.ends = ends

    def ranked(self) -> list[Shape]:
        """The shapes, those that took most time first."""
        self._prune()
        return sorted(self.shapes.values(), key=lambda each: (-each.seconds, each.fingerprint))

    def _prune(self) -> None:
        excess = len(self.shapes) - self._max_shapes
        if excess <= 0:
            return
        for key, _ in heapq.nsmallest(excess, self.shapes.items(), key=lambda item: item[1].seconds):
            dropped = self.shapes.pop(key)
            self.dropped_shapes += 1
            self.dropped_seconds += 0.0 if dropped.nested else dropped.seconds

    def _shape(self, text: str, dialect: str) -> tuple[str, str]:
        if len(text) > SHORT:
            analysis = analysis_of(text, dialect)
            return analysis.fingerprint, analysis.normal_form
        known = self._texts.get((text, dialect))
        if known is None:
            fingerprint, normal_form = shape(text, dialect)
            # Of SET, the value may be a word.
            normal_form = _SET.sub(r"\1 ?", normal_form)
            known = self._texts[text, dialect] = fingerprint, normal_form
        return known
