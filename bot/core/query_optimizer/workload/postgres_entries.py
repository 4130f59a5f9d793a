"""Entries of a PostgreSQL log, in its formats stderr, csvlog and jsonlog (pure)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

MAX_ENTRY = 2_000_000
"""Characters of an entry; a longer one is passed over."""


class Entry(NamedTuple):
    """One message of the server."""

    message: str
    detail: str = ""
    at: float | None = None
    """Unix seconds, if the log's zone is taken for UTC: only differences count."""
    session: str = ""
    user: str = ""
    database: str = ""
    context: str = ""
    """Of a statement that ran within another one: the function."""


_SEVERITY = re.compile(
    r"(?<![A-Za-z])(LOG|DEBUG[1-5]?|INFO|NOTICE|WARNING|ERROR|FATAL|PANIC|DETAIL|HINT|CONTEXT|STATEMENT|QUERY"
    r"|LOCATION|BACKTRACE)\Z"
)
MAX_PREFIX = 500
"""Characters of ``log_line_prefix`` and the severity."""
_OF_AN_ENTRY = frozenset(("DETAIL", "HINT", "CONTEXT", "STATEMENT", "QUERY", "LOCATION", "BACKTRACE"))
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,6})?")
_EPOCH = re.compile(r"(?<![\d.])1\d{9}\.\d{3}(?![\d.])")
_SESSION = re.compile(r"(?<![0-9a-f.])([0-9a-f]{8}\.[0-9a-f]{1,8})(?![0-9a-f.])")
_PID = re.compile(r"\[(\d+)(?:-\d+)?\]|(?<![\w.])(?:pid|process)[=: ](\d+)", re.IGNORECASE)
_AT = re.compile(r"(?:^|(?<=[\s:]))([^\s@:\[\](),]+)@([^\s@:\[\],]+)")
_USER = re.compile(r"\b(?:user|u)=([^\s,\]]+)")
_DATABASE = re.compile(r"\b(?:db|database|d)=([^\s,\]]+)")


def is_head(line: str) -> bool:
    """Whether a line begins an entry of the format stderr, and is no comment in a script."""
    head = _head_of(line)
    if head is None or line.lstrip()[:2] in ("--", "/*", ""):
        return False
    prefix = head[0]
    return not prefix or any(known.search(prefix) for known in (_TIME, _EPOCH, _SESSION, _PID))


def _head_of(line: str) -> tuple[str, str, str] | None:
    """(prefix, severity, the message's first line) of a line that begins a message; None for others."""
    if line[:1] == "\t":
        return None
    colon = line.find(":  ", 0, MAX_PREFIX)
    while colon >= 0:
        found = _SEVERITY.search(line, max(0, colon - 10), colon)
        if found is not None:
            return line[: found.start()], found[1], line[colon + 3 :]
        colon = line.find(":  ", colon + 1, MAX_PREFIX)
    return None


def seconds_of(text: str) -> float | None:
    """Unix seconds of a time as logs write it; the zone is not looked at."""
    found = _TIME.search(text)
    if found is None:
        return None
    try:
        return datetime.fromisoformat(found[0]).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def stderr_entries(lines: Iterable[str]) -> Iterator[Entry]:
    """Entries of a log with any ``log_line_prefix``; the lines of an entry but its first begin with a tab."""
    prefix, message, detail, context = "", [""], [""], [""]
    severity = ""
    current, size = message, 0
    for line in lines:
        head = _head_of(line)
        if head is not None and head[1] in _OF_AN_ENTRY:
            # It follows its message at once: the server writes both together.
            current = {"DETAIL": detail, "CONTEXT": context}.get(head[1], [""])
            current[:] = [head[2]]
        elif head is not None:
            if size <= MAX_ENTRY and _is_wanted(severity, message):
                yield _of_stderr(prefix, message, detail, context)
            prefix, severity, first = head
            message, detail, context, size = [first], [""], [""], 0
            current = message
        elif severity and size <= MAX_ENTRY and (line[:1] == "\t" or not line.strip()):
            current.append(line[1:] if line[:1] == "\t" else line)
            size += len(line)
    if size <= MAX_ENTRY and _is_wanted(severity, message):
        yield _of_stderr(prefix, message, detail, context)


def _is_wanted(severity: str, message: list[str]) -> bool:
    """Whether an entry may be of a statement: the prefixes of the others need not be read."""
    return severity == "LOG" and message[0].startswith(("duration: ", "statement: ", "execute "))


def _of_stderr(prefix: str, message: list[str], detail: list[str], context: list[str]) -> Entry:
    at = seconds_of(prefix)
    if at is None and (epoch := _EPOCH.search(prefix)) is not None:
        at = float(epoch[0])
    session = _SESSION.search(prefix) or _PID.search(prefix)
    both = _AT.search(prefix)
    user, database = _USER.search(prefix), _DATABASE.search(prefix)
    return Entry(
        "".join(message).rstrip("\n"),
        "".join(detail).rstrip("\n"),
        at,
        next(filter(None, session.groups()), "") if session is not None else "",
        user[1] if user is not None else both[1] if both is not None else "",
        database[1] if database is not None else both[2] if both is not None else "",
        "".join(context).rstrip("\n"),
    )


_RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [^,]{1,40},")
"""The first column of csvlog."""


def is_record(line: str) -> bool:
    """Whether a line begins an entry of the format csvlog."""
    return _RECORD.match(line) is not None and line.count(",") >= 3


def csv_entries(lines: Iterable[str]) -> Iterator[Entry]:
    """Entries of csvlog of any version: new columns came at the end only."""
    record: list[str] = []
    quotes = size = 0
    for line in lines:
        if not record and not is_record(line):
            continue  # the rest of an entry whose beginning is in another file
        record.append(line)
        quotes += line.count('"')
        size += len(line)
        if quotes % 2 and size <= MAX_ENTRY:
            continue
        if size <= MAX_ENTRY:
            entry = _of_csv("".join(record))
            if entry is not None:
                yield entry
        record, quotes, size = [], 0, 0


def _of_csv(record: str) -> Entry | None:
    before = csv.field_size_limit(MAX_ENTRY)
    try:
        columns = next(csv.reader([record]))
    except (csv.Error, StopIteration):
        return None
    finally:
        csv.field_size_limit(before)
    if len(columns) < 19:
        return None
    at = seconds_of(columns[0])
    return Entry(columns[13], columns[14], at, columns[5], columns[1], columns[2], columns[18])


class _Json(msgspec.Struct):
    message: str = ""
    detail: str = ""
    timestamp: str = ""
    session_id: str = ""
    user: str = ""
    dbname: str = ""
    context: str = ""


_decode = msgspec.json.Decoder(_Json).decode


def json_entry(line: str) -> Entry | None:
    """The entry of a line of jsonlog; None if it is none, as one that is cut off."""
    try:
        found = _decode(line)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    if not found.message or not found.timestamp:
        return None
    return Entry(
        found.message,
        found.detail,
        seconds_of(found.timestamp),
        found.session_id,
        found.user,
        found.dbname,
        found.context,
    )


def json_entries(lines: Iterable[str]) -> Iterator[Entry]:
    """Entries of jsonlog."""
    for line in lines:
        entry = json_entry(line) if line[:1] == "{" else None
        if entry is not None:
            yield entry
