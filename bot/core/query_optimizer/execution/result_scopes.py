"""Whose view of the data a result is: a role, a tenant, a database, a search_path (pure)."""

from __future__ import annotations

import enum
import functools
import uuid
from collections.abc import Hashable
from typing import Any

from msgspec import Struct

from bot.core._shared.errors import invalid

MAX_SIZE = 1_000
"""Characters of a scope, all its parts together."""

_PLAIN = (str, int, float, bool, bytes)
_EXPECTED = (
    "None, a Scope, or a str, int, float, bool, bytes, UUID, member of an Enum or a tuple of these, "
    f"{MAX_SIZE:,} characters at most"
)


class Scope(Struct, frozen=True):
    """Whose view of the data a query has. Each combination has results of its own.

    Roles, tenants and search paths share tables, so a write by one drops what the others read of the
    table, too. ``database`` names one that shares none with the other databases: a write there leaves
    their results alone.
    """

    database: Hashable = None
    role: Hashable = None
    tenant: Hashable = None
    search_path: Hashable = None


class KnownScope(Struct, frozen=True):
    """A scope that was looked at before; made by :func:`known`."""

    place: tuple[str]
    """In one string, whose hash Python keeps: a nested tuple would be hashed anew each time. In a tuple of
    one, which no other scope is.
    """
    database: str


def known(scope: Scope) -> KnownScope:
    """``scope`` for many look-ups. It equals no other scope. Raises ValueError for an invalid one."""
    key, database = scope_key(scope)
    return KnownScope((repr(key),), database)


def scope_key(scope: Any) -> tuple[Hashable, str]:
    """(the part of a key that identifies this scope, its database; "" if it names none).

    Raises ValueError for an invalid scope.
    """
    if scope.__class__ is str:
        if len(scope) > MAX_SIZE:
            raise invalid("scope", f"{scope[:50]}...", _EXPECTED)
        return scope, ""
    if scope.__class__ is KnownScope:
        return scope.place, scope.database
    left = [MAX_SIZE]
    if isinstance(scope, Scope):
        parts = (scope.database, scope.role, scope.tenant, scope.search_path)
        key = (Scope, tuple([_frozen(part, left, scope) for part in parts]))
        return key, "" if scope.database is None else repr(key[1][0])
    return _frozen(scope, left, scope), ""


def _frozen(value: Any, left: list[int], scope: Any) -> Hashable:
    """``value`` in a form in which 1, True and "1" differ. Raises ValueError past the size left."""
    kind = value.__class__
    left[0] -= len(value) if kind in (str, bytes) else 20
    if kind is tuple:
        left[0] -= len(value)
    if kind is int:
        left[0] -= value.bit_length() // 8
    if left[0] >= 0:
        if value is None or kind in _PLAIN:
            return kind.__name__, repr(value) if kind is float else value
        if isinstance(value, enum.Enum):
            return kind.__module__, kind.__qualname__, value.name
        if kind is uuid.UUID:
            return "UUID", value.int
        if kind is tuple:
            return "tuple", tuple([_frozen(item, left, scope) for item in value])
    raise invalid("scope", scope, _EXPECTED)


# What a write drops, by the database that it is known to be in.

_DATABASE = "(database) "


def read_in(marks: frozenset[str], database: str) -> frozenset[str]:
    """What a result of a named database is indexed by, for :func:`written_in` to find."""
    if not database:
        return marks
    return frozenset([f"{database}\0{mark}" for mark in marks] + [f"\0{mark}" for mark in marks])


@functools.lru_cache(maxsize=1024)
def written_in(marks: frozenset[str], database: str) -> frozenset[str]:
    """``marks`` of a write, for the results of all databases that it may concern.

    A write in a named database concerns results of that database and of unknown ones; any other write
    concerns all.
    """
    return marks | {f"{database}\0{mark}" for mark in marks}


def tell(tables: list[str], database: str) -> list[str]:
    """The message to other instances about a write; versions without scopes drop the tables everywhere."""
    return [*tables, _DATABASE + database] if database else tables


def told(tables: list[str]) -> tuple[frozenset[str], str]:
    """(tables, database) of what :func:`tell` made."""
    names = frozenset([name for name in tables if not name.startswith(_DATABASE)])
    databases = {name[len(_DATABASE) :] for name in tables if name.startswith(_DATABASE)}
    return names, databases.pop() if len(databases) == 1 else ""
