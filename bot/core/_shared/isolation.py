"""Values kept so that no caller can change what another gets, and measured on the way in (pure).

``freeze`` takes a private copy of what is mutable; ``thaw`` makes a fresh copy for each reader.
An immutable value is kept and handed out as it is. Plain data goes the short ways that stand here,
everything else goes by ``object_copy``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, cycle
from operator import is_
from sys import getsizeof
from typing import Any
from uuid import UUID

from msgspec import Struct

from bot.core._shared.copy_plan import Planner, copy_of_rows, copy_rows
from bot.core._shared.errors import message_of
from bot.core._shared.measuring import ATOMS, GC_HEADER, UUID_INSIDE, atoms_size, size_of, weigh
from bot.core._shared.object_copy import copy_and_measure, copy_object, layout_of

IMMUTABLE = ATOMS
"""Types whose instances cannot change and hold nothing that can."""

MANY = 32
SMALL = 1000
"""Bytes of a container's few parts below which it does not matter whether one of them occurs twice."""

_COPY_OF_ONE = copy_of_rows([{}])

MAX_DEPTH = 64
"""Of containers that are copied by recursion; deeper values take the longer way, which has no limit."""


class Frozen(Struct, frozen=True):
    """A value made safe to keep: hand out ``value`` itself if ``thaw`` is None, else ``thaw(value)``.

    With a ``thaw``, ``value`` is in whatever form that takes.
    """

    value: Any
    thaw: Callable[[Any], Any] | None
    size: int
    """Bytes: the value and everything in it, each object once."""


def freeze(value: Any) -> Frozen:
    """Take what is mutable in ``value`` as a private copy and measure it.

    Any graph of objects is copied as by ``copy.deepcopy``, what is shared in it and its cycles
    included, in time linear in its size. Raises TypeError for what refuses to be copied (open files,
    sockets, generators), has too many parts, or does not tell how much memory it holds.
    """
    kind = type(value)
    try:
        if kind in IMMUTABLE:
            size = getsizeof(value)
            return Frozen(value, None, size if kind is not UUID else size + UUID_INSIDE)
        if kind is dict:
            parts = [*value, *value.values()]
            if (size := _size_if_atoms(parts)) >= 0:
                return Frozen(value.copy(), dict.copy, getsizeof(value) + size)
        elif kind is list and value:
            if type(value[0]) not in IMMUTABLE:
                if (found := _freeze_rows(value)) is not None:
                    return found
            elif (size := _size_if_atoms(value)) >= 0:
                return Frozen(value.copy(), list.copy, getsizeof(value) + size)
        return _freeze_tree(value) or _freeze_graph(value)
    except Exception as error:
        reason = message_of(error) or type(error).__qualname__
        raise TypeError(f"a value of type {kind.__qualname__} cannot be copied: {reason:.500}") from error


def _size_if_atoms(parts: list[Any]) -> int:
    """Bytes of the parts if all of them are atoms, else -1."""
    kinds = set(map(type, parts))
    if not kinds <= IMMUTABLE:
        return -1
    if len(parts) <= MANY and UUID not in kinds:
        size: int = sum([part.__sizeof__() for part in parts])
        if size < SMALL:
            return size
    return atoms_size(parts, kinds)


def _freeze_graph(value: Any) -> Frozen:
    made, size = copy_and_measure(value)
    return Frozen(made, None if made is value else copy_object, size)


def _freeze_rows(rows: list[Any]) -> Frozen | None:
    """What drivers answer with, measured and copied in one go; None if it is not.

    Rows of one type, dicts or sequences that cannot change, of atoms. Over all rows at once, since
    every miss of a query passes here.
    """
    kind = type(rows[0])
    if kind is dict and len(rows) == 1:  # a look-up by key, as most queries are
        row = rows[0]
        size = _size_if_atoms([*row, *row.values()])
        if size < 0:
            return None
        return Frozen([row.copy()], _COPY_OF_ONE, rows.__sizeof__() + row.__sizeof__() + 2 * GC_HEADER + size)
    if kind in IMMUTABLE:
        return None
    if kind is not dict and kind is not tuple:
        layout = layout_of(kind)
        if layout.row is None or layout.attributes is not None:
            return None
    if set(map(type, rows)) != {kind} or len(set(map(id, rows))) != len(rows):
        return None
    own_size = getsizeof if kind in (dict, tuple) else size_of
    size = getsizeof(rows) + sum(map(own_size, rows))
    if kind is dict:
        values = list(chain.from_iterable(map(dict.values, rows)))
        names: Any = rows[0].keys()
        if not names or not all(map(is_, chain.from_iterable(rows), cycle(names))):
            names = chain.from_iterable(rows)  # drivers have the very same strings in every row
        checked = [*names, *values]
    elif kind is tuple:
        checked = list(chain.from_iterable(rows))
    else:
        assert layout.row is not None
        checked = list(chain.from_iterable(map(layout.row, rows)))
        if layout.in_tuple:
            size += sum(getsizeof(tuple(layout.row(row))) for row in rows)
    kinds = set(map(type, checked))
    if others := kinds - IMMUTABLE:
        if any(layout_of(other).copier is not None for other in others):
            return None
        seen: set[int] = set()
        size += sum([weigh(value, seen, 1000) for value in checked if type(value) in others])
        checked = [value for value in checked if type(value) in IMMUTABLE]
    size += atoms_size(checked, kinds)
    return (
        Frozen(copy_rows(rows), copy_of_rows(rows), size)
        if kind is dict
        else Frozen(rows[:], list.copy, size)
    )


def _freeze_tree(value: Any) -> Frozen | None:
    """Containers of atoms, nested to :data:`MAX_DEPTH`, none that can change in two places; else None."""
    mutable = False
    size = 0
    atoms: list[Any] = []
    seen: set[int] = set()
    kinds: set[type] = set()
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            kind = type(container)
            parts: Any
            if kind is dict:
                parts = [*container, *container.values()]
                mutable = True
            elif kind is list or kind is set:
                parts = container
                mutable = True
            elif kind is tuple or kind is frozenset:
                parts = container
            elif kind is bytearray:
                parts = ()
                mutable = True
            else:
                return None
            size += getsizeof(container)
            found = set(map(type, parts))
            if found <= kinds:  # which are atoms
                atoms += parts
                continue
            if found <= IMMUTABLE:
                kinds |= found
                atoms += parts
                continue
            kinds |= found & IMMUTABLE
            for part in parts:
                if type(part) in IMMUTABLE:
                    atoms.append(part)
                elif id(part) in seen:
                    if not _is_fixed(part, 8):
                        return None
                else:
                    seen.add(id(part))
                    below.append(part)
        if not below:
            break
        level = below
    else:
        return None
    size += atoms_size(atoms, kinds)
    if not mutable:
        return Frozen(value, None, size)
    planner = Planner()
    kept, copying = planner.keep(value)
    return Frozen(kept, copying, size + planner.size)


def _is_fixed(value: Any, depth: int) -> bool:
    """Whether a value is atoms, and tuples and frozensets of them."""
    kind = type(value)
    if kind in IMMUTABLE:
        return True
    return depth > 0 and kind in (tuple, frozenset) and all(_is_fixed(part, depth - 1) for part in value)
