"""Statements in a PostgreSQL log: ``log_min_duration_statement``, ``log_duration``, auto_explain (pure).

The messages are read in English (``lc_messages``). Of auto_explain's formats, text and JSON are read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

import msgspec
from cachetools import LRUCache

from bot.core.query_optimizer.workload.executions import Execution
from bot.core.query_optimizer.workload.postgres_entries import Entry

MAX_SESSIONS = 10_000
"""Sessions, and texts of sessions, that are remembered; the longest unused is forgotten first."""

_DURATION = re.compile(r"duration: (\d+(?:\.\d+)?) ms(?:\s+|\Z)")
_STATEMENT = re.compile(
    r"(?P<kind>statement|parse [^:]*|bind [^:]*|execute fetch from [^:]*|execute [^:]*): ", re.ASCII
)
_PLAN = re.compile(r"plan:\s*\n")
_NODE = re.compile(r"\S[^\n]*  \(cost=\d")
_PARAMETER = re.compile(r"\$(\d+) = (?:NULL|('(?:[^']|'')*+'))")
_ROWS = re.compile(r"\(actual (?:time=\S+ )?rows=(\d+(?:\.\d+)?) loops=(\d+)\)")
MAX_PARAMETERS = 1_000


def executions_in(entries: Iterable[Entry]) -> Iterator[Execution]:
    """What the entries say about statements; an execution that is logged twice, by the server and by
    auto_explain, is given once.
    """
    log = _Log()
    for entry in entries:
        execution = log.execution_of(entry)
        if execution is not None:
            yield execution


class _Log:
    """Reads the entries of one log in their order."""

    def __init__(self) -> None:
        # session -> (text, parameters) of a statement whose duration comes in an entry of its own
        self._begun: LRUCache[str, tuple[str, tuple[str | None, ...] | None]] = LRUCache(MAX_SESSIONS)
        # (session, digest of a text) -> durations that the server logged, or auto_explain (negative), of
        # executions of which the other has not told yet. The one comes first or the other, by protocol.
        self._open: LRUCache[tuple[str, bytes], tuple[int, float]] = LRUCache(MAX_SESSIONS)

    def execution_of(self, entry: Entry) -> Execution | None:
        message = entry.message
        found = _DURATION.match(message)
        if found is None:
            self._note(entry)
            return None
        seconds = float(found[1]) / 1e3
        if found.end() == len(message):
            begun = self._begun.pop(entry.session, None)
            return None if begun is None else self._made(entry, seconds, *begun)
        plan = _PLAN.match(message, found.end())
        if plan is not None:
            return self._explained(entry, seconds, message[plan.end() :])
        said = _STATEMENT.match(message, found.end())
        if said is None:
            return None
        text, kind = message[said.end() :], said["kind"]
        parameters = parameters_of(entry.detail)
        if kind.startswith(("parse", "bind", "execute fetch")):
            return self._made(entry, seconds, text, parameters, calls=0)
        number, explained = self._open_of(entry, text)
        if number < 0:
            # auto_explain told of it, without the planning.
            self._set_open(entry, text, number + 1, explained)
            return self._made(entry, max(0.0, seconds - explained), text, parameters, calls=0)
        self._set_open(entry, text, number + 1, seconds)
        return self._made(entry, seconds, text, parameters)

    def _note(self, entry: Entry) -> None:
        """A statement is logged before it runs (``log_statement``)."""
        said = _STATEMENT.match(entry.message)
        if said is not None and not said["kind"].startswith(("parse", "bind")):
            self._begun[entry.session] = entry.message[said.end() :], parameters_of(entry.detail)

    def _explained(self, entry: Entry, seconds: float, plan: str) -> Execution | None:
        text, parameters, rows = _of_plan(plan)
        if not text:
            return None
        number, of_statement = self._open_of(entry, text)
        if number > 0:
            self._set_open(entry, text, number - 1, of_statement)
            return self._made(entry, 0.0, text, parameters, calls=0, rows=rows)
        self._set_open(entry, text, number - 1, seconds)
        return self._made(entry, seconds, text, parameters, rows=rows)

    def _open_of(self, entry: Entry, text: str) -> tuple[int, float]:
        return self._open.get((entry.session, _digest(text)), (0, 0.0))

    def _set_open(self, entry: Entry, text: str, number: int, seconds: float) -> None:
        self._open[entry.session, _digest(text)] = number, seconds

    @staticmethod
    def _made(
        entry: Entry,
        seconds: float,
        text: str,
        parameters: tuple[str | None, ...] | None,
        *,
        calls: int = 1,
        rows: float | None = None,
    ) -> Execution:
        return Execution(
            text,
            seconds,
            calls,
            rows=rows,
            parameters=parameters,
            at=entry.at,
            session=entry.session,
            user=entry.user,
            database=entry.database,
            nested=bool(entry.context),
        )


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).digest()


def parameters_of(detail: str) -> tuple[str | None, ...] | None:
    """Values of ``parameters: $1 = 'a', $2 = NULL`` (PostgreSQL 16: ``Parameters:``); None if it is not that.

    None, too, if one is cut off by ``log_parameter_max_length``.
    """
    if detail[:11].lower() != "parameters:":
        return None
    return _values(detail[11:])


def _values(listed: str) -> tuple[str | None, ...] | None:
    found: list[str | None] = []
    position = 0
    while position < len(listed):
        match = _PARAMETER.search(listed, position)
        if match is None or listed[position : match.start()].strip(" ,") or int(match[1]) != len(found) + 1:
            return None
        value = match[2]
        if value is not None and value.endswith("...'"):
            return None
        found.append(None if value is None else value[1:-1].replace("''", "'"))
        position = match.end()
        if len(found) > MAX_PARAMETERS:
            return None
    return tuple(found) or None


class _Node(msgspec.Struct):
    rows: float | None = msgspec.field(name="Actual Rows", default=None)


class _Plan(msgspec.Struct):
    text: str = msgspec.field(name="Query Text", default="")
    parameters: str = msgspec.field(name="Query Parameters", default="")
    plan: _Node | None = msgspec.field(name="Plan", default=None)


_decode = msgspec.json.Decoder(_Plan).decode


def _of_plan(plan: str) -> tuple[str, tuple[str | None, ...] | None, float | None]:
    """(text, parameters, rows) of what auto_explain wrote; no text if it has another format."""
    if plan.lstrip()[:1] == "{":
        try:
            found = _decode(plan)
        except (msgspec.MsgspecError, UnicodeError):
            return "", None, None
        rows = None if found.plan is None else found.plan.rows
        return found.text, _values(found.parameters), rows
    if not plan.startswith("Query Text: "):
        return "", None, None
    top = _NODE.search(plan)
    while top is not None and plan[top.start() - 1] != "\n":
        top = _NODE.search(plan, top.end())
    head = plan[len("Query Text: ") : len(plan) if top is None else top.start()].rstrip("\n")
    text, mark, listed = head.rpartition("\nQuery Parameters: ")
    parameters = _values(listed) if mark else None
    if not mark or (parameters is None and not listed.startswith("$1 = ")):
        text, parameters = head, None
    measured = None if top is None else _ROWS.search(plan[top.start() :].partition("\n")[0])
    return text, parameters, None if measured is None else float(measured[1]) * int(measured[2])
