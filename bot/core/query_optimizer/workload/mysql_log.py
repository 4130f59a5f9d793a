"""Statements in a slow query log of MySQL or MariaDB (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from bot.core.query_optimizer.workload.executions import Execution

MAX_TEXT = 2_000_000
"""Characters of a statement; a longer one is passed over."""

_TIME = re.compile(
    r"# Time: (?:(\d{6})\s+(\d{1,2}:\d\d:\d\d)|(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d(?:\.\d{1,6})?))"
)
_USER = re.compile(r"# User@Host: ([^\[]*)\[[^\]]*\] @ [^\n]*?(?:\bId:\s*(\d+))?\s*$")
_FIELD = re.compile(r"(\w+): (\S*)")
_USE = re.compile(r"use (`(?:[^`]|``)+`|[^`;\s]+);\s*$", re.IGNORECASE)
_TIMESTAMP = re.compile(r"SET timestamp=(\d+(?:\.\d+)?);\s*$")
_BANNER = re.compile(r"\S[^\n]*, Version: [^\n]* started with:|Tcp port: \d|Time\s+Id Command\s+Argument")
_DONE = re.compile(r";\s*\Z")


def is_slow_log(line: str) -> bool:
    """Whether a line is of a slow query log, and of nothing else."""
    return bool(
        _USER.match(line) or _TIME.match(line) or (line.startswith("# Query_time: ") and "Lock_time:" in line)
    ) or (_BANNER.match(line) is not None and "started with:" in line)


def executions_in(lines: Iterable[str]) -> Iterator[Execution]:
    """What the log says about statements."""
    log = _Log()
    for line in lines:
        execution = log.execution_before(line)
        if execution is not None:
            yield execution
    execution = log.finished()
    if execution is not None:
        yield execution


class _Log:
    """The statement that is being read, with what the lines before it say."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._size = 0
        self._fields: dict[str, str] | None = None
        """Of the statement, by their names in the log; None before the first."""
        self._at: float | None = None
        self._user = self._session = self._database = ""

    def execution_before(self, line: str) -> Execution | None:
        """Take a line; the execution that it ends, if it begins another one."""
        if line.startswith("# ") and self._is_complete() and (_TIME.match(line) or _USER.match(line)):
            done = self.finished()
            self._head(line)
            return done
        if self._is_complete() and _BANNER.match(line):
            done = self.finished()
            self._fields = None
            return done
        if self._fields is None:
            if line.startswith("# Query_time: "):  # the file begins within an entry
                self._fields = {}
                self._take_fields(line)
            return None
        if self._text or line[:1] != "#":
            self._take_text(line)
        elif line.startswith("# administrator command: "):
            self._fields = None
        elif not line.startswith("# explain:"):
            self._take_fields(line)
        return None

    def _is_complete(self) -> bool:
        """Whether no statement is half read: lines of one may look like those between two."""
        return not self._text or self._size > MAX_TEXT or _DONE.search(self._text[-1]) is not None

    def _head(self, line: str) -> None:
        found = _USER.match(line)
        if found is not None:
            self._user, self._session = found[1].strip(), found[2] or ""
            self._fields = {}
            return
        self._fields = None
        timed = _TIME.match(line)
        if timed is not None:
            self._at = _seconds(timed)

    def _take_fields(self, line: str) -> None:
        fields = self._fields
        if fields is not None and len(fields) < 100:
            fields.update((name, value) for name, value in _FIELD.findall(line))

    def _take_text(self, line: str) -> None:
        if not self._text:
            if (used := _USE.match(line)) is not None:
                self._database = used[1].strip("`").replace("``", "`")
                return
            if (timed := _TIMESTAMP.match(line)) is not None:
                self._at = float(timed[1])
                return
        self._size += len(line)
        if self._size <= MAX_TEXT:
            self._text.append(line)

    def finished(self) -> Execution | None:
        """The statement that was read; None if there is none."""
        fields, text, size = self._fields, "".join(self._text).strip(), self._size
        self._fields, self._text, self._size = None, [], 0
        if not fields or not text or size > MAX_TEXT:
            return None
        if "Schema" in fields:
            self._database = fields["Schema"]
        try:
            seconds = float(fields["Query_time"])
            rows = float(fields["Rows_sent"]) if "Rows_sent" in fields else None
        except (KeyError, ValueError):
            return None
        session = fields.get("Thread_id") or self._session
        return Execution(
            text.rstrip(";").rstrip(),
            seconds,
            rows=rows,
            at=self._at,
            session=session,
            user=self._user,
            database=self._database,
        )


def _seconds(found: re.Match[str]) -> float | None:
    text = (
        f"20{found[1][:2]}-{found[1][2:4]}-{found[1][4:]}T{found[2]:0>8}"
        if found[1]
        else f"{found[3]}T{found[4]}"
    )
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
