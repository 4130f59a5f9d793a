"""Values kept so that no caller can change what another gets, and measured on the way in (pure).

``freeze`` takes a private copy of what is mutable; ``thaw`` makes a fresh copy for each reader.
An immutable value is kept and handed out as it is.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import uuid
from collections.abc import Callable
from itertools import chain
from sys import getsizeof
from typing import Any, NamedTuple

IMMUTABLE: frozenset[type] = frozenset(
    {
        type(None), bool, int, float, complex, str, bytes, range, type(Ellipsis),
        datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone,
        decimal.Decimal, uuid.UUID,
    }
)  # fmt: skip

"""Types whose instances cannot change and hold nothing that can."""

MAX_DEPTH = 64
"""Deeper values are copied by ``copy.deepcopy``, which says so if even it cannot."""


class Frozen(NamedTuple):
    """A value made safe to keep: hand out ``value`` itself if ``thaw`` is None, else ``thaw(value)``."""

    value: Any
    thaw: Callable[[Any], Any] | None
    size: int
    """Bytes, the containers and everything in them; shared objects are counted each time."""


def freeze(value: Any) -> Frozen:
    """Take what is mutable in ``value`` as a private copy and measure it.

    Containers of any nesting are copied; other objects by ``copy.deepcopy``. Raises TypeError when
    an object refuses to be copied, as open files, sockets and generators do.
    """
    kind = type(value)
    if kind in IMMUTABLE:
        return Frozen(value, None, getsizeof(value))
    if kind is list and value and (found := _freeze_rows(value)) is not None:
        return found
    size, flat, mutable, foreign = _measure(value, 0)
    if foreign:
        try:
            return Frozen(copy.deepcopy(value), copy.deepcopy, size)
        except Exception as error:
            raise TypeError(f"a value of type {kind.__qualname__} cannot be copied: {error}") from error
    if not mutable:
        return Frozen(value, None, size)
    if flat:
        if kind is dict:
            return Frozen(value.copy(), dict.copy, size)
        if kind is list:
            return Frozen(value.copy(), list.copy, size)
        if kind is set:
            return Frozen(value.copy(), set.copy, size)
        if kind is bytearray:
            return Frozen(value[:], bytearray.copy, size)
    return Frozen(_copy_tree(value), _copy_tree, size)


def _freeze_rows(rows: list[Any]) -> Frozen | None:
    """What drivers answer with, dicts or tuples of atoms, measured and copied in one go; None if it is not.

    Over all rows at once, since every miss of a query passes here.
    """
    kind = type(rows[0])
    if (kind is not dict and kind is not tuple) or set(map(type, rows)) != {kind}:
        return None
    if kind is tuple:
        values = list(chain.from_iterable(rows))
        names_size = 0
    else:
        values = list(chain.from_iterable(map(dict.values, rows)))
        names = rows[0].keys()
        if all(map(names.__eq__, map(dict.keys, rows))):
            checked, times = list(names), len(rows)
        else:
            checked, times = list(chain.from_iterable(rows)), 1
        if not IMMUTABLE.issuperset(map(type, checked)):
            return None
        names_size = times * sum(map(getsizeof, checked))
    if not IMMUTABLE.issuperset(map(type, values)):
        return None
    size = getsizeof(rows) + sum(map(getsizeof, rows)) + sum(map(getsizeof, values)) + names_size
    return (
        Frozen(rows.copy(), list.copy, size) if kind is tuple else Frozen(_copy_rows(rows), _copy_rows, size)
    )


def _copy_rows(rows: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    return [row.copy() for row in rows]


def _copy_tree(value: Any) -> Any:
    kind = type(value)
    if kind in IMMUTABLE:
        return value
    if kind is dict:
        return {key: item if type(item) in IMMUTABLE else _copy_tree(item) for key, item in value.items()}
    if kind is list:
        return [item if type(item) in IMMUTABLE else _copy_tree(item) for item in value]
    if kind is tuple:
        return tuple([_copy_tree(item) for item in value])
    # Members of a set, and the only other kinds freeze lets through, are hashable or flat.
    return value if kind is frozenset else value.copy()


def _measure(value: Any, depth: int) -> tuple[int, bool, bool, bool]:
    """(bytes, holds only atoms, has anything mutable, has a type not known here)."""
    kind = type(value)
    if kind in IMMUTABLE:
        return getsizeof(value), True, False, False
    if depth >= MAX_DEPTH:
        return getsizeof(value), False, True, True
    size = getsizeof(value)
    parts: list[Any]
    if kind is dict:
        parts = [*value.keys(), *value.values()]
    elif kind in (list, tuple, set, frozenset):
        parts = list(value)
    elif kind is bytearray:
        return size, True, True, False
    else:
        # An unknown type may keep its data anywhere; its attributes are a fair estimate.
        inside = getattr(value, "__dict__", None)
        if isinstance(inside, dict):
            size += _measure(dict(inside), depth + 1)[0]
        return size, False, True, True
    flat = True
    mutable = kind in (dict, list, set)
    foreign = False
    for part in parts:
        if type(part) in IMMUTABLE:
            size += getsizeof(part)
            continue
        flat = False
        part_size, _, part_mutable, part_foreign = _measure(part, depth + 1)
        size += part_size
        mutable = mutable or part_mutable
        foreign = foreign or part_foreign
    return size, flat, mutable, foreign
