"""What a statement declares about a name, and the message to other instances about it (pure)."""

from __future__ import annotations

import json
from typing import NamedTuple

EVERY_EVENT = frozenset(("insert", "update", "delete", "truncate"))
"""What may be done to the rows of a table."""


class Declaration(NamedTuple):
    """What a statement declares about a name, beyond that it is written."""

    kind: str
    """"view": it reads ``others``; "cascade": a write to it changes them; "table": it is one; "renamed" and
    "renamed view": from now on it is called one of them; "function": it is one; "doubt": any name may be a
    view from now on."""
    name: str = ""
    others: frozenset[str] = frozenset()
    on: frozenset[str] = EVERY_EVENT
    """Of a cascade: the events that pass on."""


_MESSAGE = "(declares) "
_KINDS = frozenset(("view", "cascade", "table", "renamed", "renamed view", "function", "doubt"))
_LONGEST_MESSAGE = 20_000


def message_of(declaration: Declaration) -> str:
    """A declaration as a message to other instances, among the names of the written tables."""
    kind, name, others, on = declaration
    parts: list[object] = [kind, name, sorted(others)]
    return _MESSAGE + json.dumps(parts if on == EVERY_EVENT else [*parts, sorted(on)])


def is_message(name: str) -> bool:
    return name.startswith(_MESSAGE)


def declared_by(message: str) -> Declaration | None:
    """The declaration in a message; None if the text is not one. A malformed one is a doubt."""
    if not message.startswith(_MESSAGE):
        return None
    try:
        if len(message) > _LONGEST_MESSAGE:
            raise ValueError("too long")
        kind, name, others, *on = json.loads(message[len(_MESSAGE) :])
        if kind not in _KINDS or not all(isinstance(each, str) for each in (name, *others)):
            raise ValueError("no declaration")
        events = frozenset(*on) if on else EVERY_EVENT
        if not events or not events <= EVERY_EVENT:
            raise ValueError("no events")
        return Declaration(kind, name, frozenset(others), events)
    except (ValueError, TypeError, RecursionError):
        return Declaration("doubt")
