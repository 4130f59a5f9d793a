"""What triggers, rules, policies and their functions declare, by the words of their definitions (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bot.core.query_optimizer.sql.bodies import Body, written_in
from bot.core.query_optimizer.sql.declarations import EVERY_EVENT, Declaration
from bot.core.query_optimizer.sql.edges import FUNCTION
from bot.core.query_optimizer.sql.names import ANY

_EVENTS = re.compile(r"(?i)\b(insert|update|delete|truncate)\b")
_RUNS = re.compile(r"(?is)\bEXECUTE\s+(?:FUNCTION|PROCEDURE)\s+([^\s(]+(?:\s*\.\s*[^\s(]+)?)\s*\(")
_FOR_EACH_ROW = re.compile(r"(?is)\A\s*FOR\s+EACH\s+ROW\b(?:\s+(?:FOLLOWS|PRECEDES)\s+\S+)?")
_BEGIN = re.compile(r"(?i)\bBEGIN\b")
_TRIGGERED = re.compile(r"(?is)\bRETURNS\s+(?:pg_catalog\s*\.\s*)?TRIGGER\b")
_LANGUAGE = re.compile(r"(?is)\bLANGUAGE\s+[\"']?(\w+)")
_BODY = re.compile(r"(?i)\bAS\s+(\$(?:[^\W\d]\w*)?\$)")


def events_in(text: str) -> frozenset[str]:
    """The events that a text names; every one if it names none."""
    return frozenset(word.lower() for word in _EVENTS.findall(text)) or EVERY_EVENT


def trigger(tables: Iterable[str], head: str, rest: str, dialect: str) -> list[Declaration]:
    """What a trigger ``on`` tables declares; ``head`` is what stands before their name, ``rest`` after."""
    on = events_in(head)
    if dialect in ("postgres", "") and (match := _RUNS.search(rest)) is not None:
        others = frozenset(name_of_function(match.group(1)))
    elif dialect == "sqlite":
        begin = _BEGIN.search(rest)
        others = written_in(rest[begin.start() :], dialect).writes if begin is not None else frozenset((ANY,))
    elif dialect == "mysql" and (match := _FOR_EACH_ROW.match(rest)) is not None:
        others = written_in(rest[match.end() :], dialect).writes
    else:
        others = frozenset((ANY,))
    return [Declaration("cascade", name, others, on) for name in tables]


def name_of_function(written: str) -> list[str]:
    """The name of a trigger's function among those of tables."""
    parts = [part.strip() for part in written.split(".")]
    folded = [part[1:-1] if part[:1] == '"' else part.lower() for part in parts]
    return [".".join(folded) + FUNCTION]


def function(written: str, text: str) -> list[Declaration]:
    """What the definition of a trigger's function in PostgreSQL writes; nothing for another function."""
    if _TRIGGERED.search(text) is None:
        return []
    found = body_of(text)
    return [Declaration("cascade", name, found.writes) for name in name_of_function(written)]


def body_of(text: str) -> Body:
    language, quote = _LANGUAGE.search(text), _BODY.search(text)
    # What the first quote holds: behind one that is not closed nothing is looked for.
    end = text.find(quote.group(1), quote.end()) if quote is not None else -1
    if language is None or language.group(1).lower() != "plpgsql" or quote is None or end < 0:
        return Body(frozenset((ANY,)), "its body is not in PL/pgSQL")
    return written_in(text[quote.end() : end], "postgres")
