"""A log's kind, told by its first lines, and the statements in it (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import NamedTuple

from bot.core.query_optimizer.workload import mysql_log, postgres_log
from bot.core.query_optimizer.workload.executions import Execution
from bot.core.query_optimizer.workload.postgres_entries import (
    csv_entries,
    is_head,
    is_record,
    json_entries,
    json_entry,
    stderr_entries,
)

LOOKED_AT = 1_000
"""Lines by which a log is known."""


class Log(NamedTuple):
    """A log whose kind is known."""

    dialect: str
    kind: str
    executions: Iterator[Execution]


def _postgres_stderr(lines: Iterator[str]) -> Iterator[Execution]:
    return postgres_log.executions_in(stderr_entries(lines))


def _postgres_csv(lines: Iterator[str]) -> Iterator[Execution]:
    return postgres_log.executions_in(csv_entries(lines))


def _postgres_json(lines: Iterator[str]) -> Iterator[Execution]:
    return postgres_log.executions_in(json_entries(lines))


_KINDS: tuple[tuple[str, str, Callable[[str], bool], Callable[[Iterator[str]], Iterator[Execution]]], ...] = (
    ("mysql", "slow query log", mysql_log.is_slow_log, mysql_log.executions_in),
    ("postgres", "csvlog", is_record, _postgres_csv),
    ("postgres", "jsonlog", lambda line: line[:1] == "{" and json_entry(line) is not None, _postgres_json),
    ("postgres", "log", is_head, _postgres_stderr),
)


def log_of(lines: Iterator[str]) -> tuple[Log | None, Iterator[str]]:
    """(the log, or None if the lines are of something else, all lines). Only one of both may be read."""
    first = list(islice(lines, LOOKED_AT))
    every = chain(first, lines)
    for dialect, kind, is_of_it, executions_in in _KINDS:
        if any(map(is_of_it, first)):
            return Log(dialect, kind, executions_in(every)), every
    return None, every
