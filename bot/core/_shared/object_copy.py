"""``copy.deepcopy`` for what a cache is given: bounded, without recursion, and measured (pure).

The protocol is deepcopy's: shared parts stay shared, cycles stay cycles, ``__deepcopy__``,
``copyreg`` and ``__reduce_ex__`` are honoured. What differs: a value of any depth takes no stack; one of
too many parts is refused before it holds up the event loop; the attributes of a plain object are read
where they lie, so that no descriptor or ``__getattr__`` loads anything; and a part that cannot change is
shared instead of copied, rows of database drivers among them.
"""

from __future__ import annotations

import copyreg
import functools
import gc
import io
import types
from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple

from bot.core._shared.measuring import (
    ATOMS,
    CONTAINERS,
    HAS_GC,
    HEAP_TYPE,
    UnmeasurableError,
    atoms_size,
    is_live,
    is_of_program,
    is_opaque,
    size_of,
    weigh,
)

MAX_WORK = 40_000
"""Parts that a value may have, a container counting once and an object of another kind twice or more."""

Copying = Generator[Any, Any, Any]
"""Yields a part, is sent its copy, returns the whole copy."""


class UncopyableError(TypeError):
    """A value, or a part of it, that refuses to be copied."""


class Layout(NamedTuple):
    """How instances of a class are copied."""

    copier: Callable[[Any, _Copy], Copying] | None
    """None: they are shared as they are."""
    cost: int = 1
    slots: tuple[Any, ...] = ()
    """Descriptors of its slots."""
    attributes: Any = None
    """The descriptor of ``__dict__``; None if instances have none."""
    row: Callable[[Any], Any] | None = None
    """For a sequence that cannot change: its values, without code of a subclass."""
    in_tuple: bool = False
    """Whether a row keeps its values in a tuple of its own."""


# Values that cannot change, besides the atoms; with all subclasses that have no state of their own.
_VALUE_MODULES = frozenset({"ipaddress", "fractions", "zoneinfo", "uuid", "datetime", "decimal"})
_VALUE_TYPES = frozenset(
    {
        ("asyncpg.pgproto.pgproto", "UUID"), ("asyncpg.types", "Range"), ("asyncpg.types", "BitString"),
        ("bson.objectid", "ObjectId"), ("bson.decimal128", "Decimal128"), ("bson.timestamp", "Timestamp"),
        ("re", "Pattern"),
    }
)  # fmt: skip


class _Copy(dict[int, Any]):
    """One run: id of an original -> its copy. As the memo of copy.deepcopy it counts what that looks at."""

    __slots__ = ("atoms", "by_themselves", "extra", "kept", "nodes", "temporary", "work")

    def __init__(self) -> None:
        self.work = MAX_WORK
        self.kept: list[Any] = []
        """Originals, some of them temporary: their ids must not be given to others meanwhile."""
        self.nodes: list[Any] = []
        self.atoms: list[Any] = []
        """Parts that are shared, beyond those that are found in the nodes."""
        self.by_themselves: list[tuple[Any, Any]] = []
        """Copies that ``__deepcopy__`` made, and their originals: what they hold is found by looking."""
        self.temporary: set[int] = set()
        """Ids of copies that an object was made from; they count if it kept them."""
        self.extra = 0

    def get(self, key: Any, default: Any = None) -> Any:
        self.spend(1)
        return dict.get(self, key, default)

    def spend(self, cost: int) -> None:
        self.work -= cost
        if self.work < 0:
            raise UncopyableError(
                f"it has more than {MAX_WORK // 2:,} parts; keep plain data, or fewer objects at a time"
            )

    def run(self, root: Any) -> Any:
        stack: list[Copying] = []
        originals: list[Any] = []
        part: Any = root
        while True:
            # Here ``part`` wants to be copied.
            known = id(part)
            if known in self:
                made = self[known]
            else:
                kind: Any = type(part)
                layout = layout_of(kind)
                if layout.copier is not None:
                    self.spend(layout.cost)
                    stack.append(layout.copier(part, self))
                    originals.append(part)
                    made = None
                else:
                    made = part
                    self.atoms.append(part)
                    if not stack:
                        return made
            # Here ``made`` is handed to the objects that refer to it.
            while True:
                try:
                    part = stack[-1].send(made)
                    break
                except StopIteration as end:
                    stack.pop()
                    original = originals.pop()
                    made = self.setdefault(id(original), end.value)  # a cycle may have come first
                    self.kept.append(original)
                    self.nodes.append(made)
                    if not stack:
                        return made

    def size(self) -> int:
        """Bytes of the copy."""
        total = self.extra
        by_themselves = {id(made) for made, _ in self.by_themselves}
        skipped = by_themselves | self.temporary
        nodes = {id(node): node for node in self.nodes if id(node) not in skipped}
        atoms = [atom for atom in self.atoms if type(atom) in ATOMS]
        others = [other for other in self.atoms if type(other) not in ATOMS]
        reduced = []
        for node in nodes.values():
            total += size_of(node)
            layout = layout_of(type(node))
            copier = layout.copier
            parts: Any
            if copier is _copy_dict:
                parts = [*node, *node.values()]
            elif layout.row is not None:
                parts = list(layout.row(node))
                if layout.in_tuple:
                    total += size_of(tuple(parts))
            elif copier is _copy_plain:
                parts = [value for slot in layout.slots if (value := _of_slot(slot, node)) is not _UNSET]
                if layout.attributes is not None:
                    inside = layout.attributes(node)
                    total += size_of(inside)
                    parts += inside.values()
            elif copier is _copy_bytearray:
                continue
            elif type(node) in CONTAINERS and copier is not _copy_reduced:
                parts = node
            else:
                reduced.append(node)
                continue
            atoms += [part for part in parts if type(part) in ATOMS]
        total += atoms_size(atoms, ATOMS)
        seen = set(nodes)
        seen.update(map(id, atoms))
        for node in reduced:
            seen.discard(id(node))
            total += weigh(node, seen, MAX_WORK, shallow=True) - size_of(node)
        for thing in others:
            total += weigh(thing, seen, MAX_WORK, shallow=True)
        for made, original in self.by_themselves:
            total += weigh(made, seen, MAX_WORK, handles=_handles(made, original), shallow=made is original)
        return total


def copy_object(value: Any) -> Any:
    """A copy of a value, of which it shares nothing that can change. Raises UncopyableError."""
    return _Copy().run(value)


def copy_and_measure(value: Any) -> tuple[Any, int]:
    """The copy, which is ``value`` itself if nothing in it can change, and its bytes.

    What ``__deepcopy__`` of an object shares with its copy (a client, a lock) is not charged. Raises
    UncopyableError or UnmeasurableError, both TypeErrors, or what code of the value raises.
    """
    run = _Copy()
    made = run.run(value)
    return made, run.size()


def _handles(made: Any, original: Any) -> frozenset[int]:
    """Ids of the objects that a copy shares with its original, besides plain data."""
    if made is original:
        return frozenset()
    held = gc.get_referents(original)
    held += [part for inside in held if type(inside) is dict for part in inside.values()]
    return frozenset([id(part) for part in held if type(part) not in ATOMS and type(part) not in CONTAINERS])


_UNSET: Any = object()


def _of_slot(slot: Any, thing: Any) -> Any:
    try:
        return slot.__get__(thing)
    except AttributeError:
        return _UNSET


# How each kind is copied. Atoms come by here too and cost little: their layout shares them.


def _copy_list(value: list[Any], run: _Copy) -> Copying:
    made: list[Any] = []
    run[id(value)] = made
    run.spend(len(value) >> 4)
    for item in tuple(value):
        made.append(item if type(item) in ATOMS else (yield item))  # noqa: PERF401 - known before it is full
    return made


def _copy_dict(value: dict[Any, Any], run: _Copy) -> Copying:
    made: dict[Any, Any] = {}
    run[id(value)] = made
    run.spend(len(value) >> 3)
    for key, item in tuple(value.items()):
        if type(key) not in ATOMS:
            key = yield key
        made[key] = item if type(item) in ATOMS else (yield item)
    return made


def _copies(items: Iterable[Any]) -> Generator[Any, Any, list[Any]]:
    made = []
    for item in items:
        made.append(item if type(item) in ATOMS else (yield item))  # noqa: PERF401 - no comprehension yields
    return made


def _copy_tuple(value: tuple[Any, ...], run: _Copy) -> Copying:
    made = yield from _copies(value)
    return value if _same(made, value) else tuple(made)


def _copy_named_tuple(value: Any, run: _Copy) -> Copying:
    items = tuple.__getitem__(value, slice(None))
    made = yield from _copies(items)
    return value if _same(made, items) else tuple.__new__(type(value), made)


def _copy_frozenset(value: frozenset[Any], run: _Copy) -> Copying:
    items = list(value)
    made = yield from _copies(items)
    return value if _same(made, items) else frozenset(made)


def _copy_set(value: set[Any], run: _Copy) -> Copying:
    made = yield from _copies(list(value))
    return set(made)


def _copy_bytearray(value: bytearray, run: _Copy) -> Copying:
    yield from ()
    return value[:]


def _copy_row(value: Any, run: _Copy) -> Copying:
    layout = layout_of(type(value))
    assert layout.row is not None
    if layout.attributes is not None and layout.attributes(value):
        raise UncopyableError(f"a row of type {type(value).__qualname__} has attributes of its own")
    for item in layout.row(value):
        if type(item) not in ATOMS and (yield item) is not item:
            raise UncopyableError(
                f"a row of type {type(value).__qualname__} with a {type(item).__qualname__} in it, which"
                " could be changed, cannot be copied: keep dict(row) instead"
            )
    return value


def _copy_plain(value: Any, run: _Copy) -> Copying:
    """An object that is its attributes."""
    layout = layout_of(type(value))
    made = object.__new__(type(value))
    run[id(value)] = made
    if layout.attributes is not None:
        inside = layout.attributes(made)
        for name, item in tuple(layout.attributes(value).items()):
            inside[name] = item if type(item) in ATOMS else (yield item)
    for slot in layout.slots:
        item = _of_slot(slot, value)
        if item is not _UNSET:
            slot.__set__(made, item if type(item) in ATOMS else (yield item))
    return made


def _copy_by_itself(value: Any, run: _Copy) -> Copying:
    yield from ()
    made = type(value).__deepcopy__(value, run)
    run.by_themselves.append((made, value))
    return made


def _copy_reduced(value: Any, run: _Copy) -> Copying:
    """By ``copyreg`` and ``__reduce_ex__``, as in copy.deepcopy."""
    kind: Any = type(value)
    reduce = copyreg.dispatch_table.get(kind)
    found: Any = value.__reduce_ex__(4) if reduce is None else reduce(value)
    if isinstance(found, str):
        return value
    run.kept.append(found)
    function, given, state, items, pairs = (*found, None, None, None)[:5]
    # Where the object does not tell what it holds, what it was made from does.
    tells = kind.__flags__ & HAS_GC and not is_opaque(kind)
    told: list[Any] = []
    arguments = []
    for argument in given:
        if type(argument) in ATOMS:
            told.append(argument)
            arguments.append(argument)
        else:
            arguments.append((yield argument))
    made = function(*arguments)
    run[id(value)] = made
    if state is not None:
        attributes, slots = state, None
        if hasattr(kind, "__setstate__"):
            if type(state) in ATOMS:
                told.append(state)
            else:
                state = yield state
                if tells and type(state) in CONTAINERS:
                    run.temporary.add(id(state))
                    run.kept.append(state)
            made.__setstate__(state)
            attributes = None
        elif isinstance(state, tuple) and len(state) == 2:
            attributes, slots = state
        for name, item in (attributes or {}).items():
            made.__dict__[name] = item if type(item) in ATOMS else (yield item)
        for name, item in (slots or {}).items():
            setattr(made, name, item if type(item) in ATOMS else (yield item))
    for item in () if items is None else items:
        run.spend(1)
        run.kept.append(item)
        made.append(item if type(item) in ATOMS else (yield item))
    for key, item in () if pairs is None else pairs:
        run.spend(1)
        run.kept += (key, item)
        if type(key) not in ATOMS:
            key = yield key
        made[key] = item if type(item) in ATOMS else (yield item)
    if not tells:
        run.atoms += told
        if kind is io.StringIO:
            run.extra += 4 * len(made.getvalue())  # four bytes a character, whatever they are
    return made


def _refuse(value: Any, run: _Copy) -> Copying:
    yield from ()
    raise UncopyableError(f"it holds a {type(value).__qualname__}, which is no value")


def _same(made: list[Any], given: Any) -> bool:
    return all(one is other for one, other in zip(made, given, strict=True))


_BUILT_IN: dict[type, Layout] = {
    list: Layout(_copy_list),
    dict: Layout(_copy_dict),
    tuple: Layout(_copy_tuple),
    set: Layout(_copy_set),
    frozenset: Layout(_copy_frozenset),
    bytearray: Layout(_copy_bytearray),
}


def layout_of(kind: Any) -> Layout:
    """How instances of a class are copied; remembered for the last 1,024 classes."""
    return _BUILT_IN.get(kind) or _layout_of(kind)


@functools.lru_cache(maxsize=1024)
def _layout_of(kind: type) -> Layout:
    if kind in ATOMS or is_of_program(kind):
        return Layout(None)
    if is_live(kind) or (issubclass(kind, io.IOBase) and kind not in (io.BytesIO, io.StringIO)):
        return Layout(_refuse)
    bases = kind.__mro__[:-1]
    slots = tuple(
        [
            item
            for base in bases
            for item in base.__dict__.values()
            if isinstance(item, types.MemberDescriptorType) and base.__flags__ & HEAP_TYPE
        ]
    )
    descriptors = [base.__dict__.get("__dict__") for base in bases]
    attributes = next(
        (found.__get__ for found in descriptors if isinstance(found, types.GetSetDescriptorType)), None
    )
    for base in bases:
        named = (base.__module__, base.__qualname__)
        if named in _VALUE_TYPES or (base.__module__ in _VALUE_MODULES and kind is base):
            return Layout(None)
        if named == ("sqlite3", "Row") or (
            base.__name__ == "Record" and str(base.__module__).partition(".")[0] == "asyncpg"
        ):
            return Layout(
                _copy_row,
                attributes=attributes,
                slots=slots,
                row=base.__dict__["__iter__"],
                in_tuple=base.__name__ == "Row",
            )
    defined = {name for base in bases for name in base.__dict__}
    if "__deepcopy__" in defined:
        return Layout(_copy_by_itself, cost=4)
    if kind not in copyreg.dispatch_table and not defined & _PROTOCOL:
        if tuple in bases and attributes is None and not slots:
            return Layout(_copy_named_tuple, row=tuple.__iter__)
        if not defined & {"__new__", "__getnewargs__"} and _is_plain(kind):
            return Layout(_copy_plain, cost=2, slots=slots, attributes=attributes)
    return Layout(_copy_reduced, cost=4)


_PROTOCOL = {"__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs_ex__"}


def _is_plain(kind: type) -> bool:
    """Whether instances are their attributes, all of which are known here."""
    if kind.__itemsize__:
        return False
    base: Any = kind
    while base is not object:
        members = sum(isinstance(item, types.MemberDescriptorType) for item in base.__dict__.values())
        words = members + ("__dict__" in base.__dict__) + ("__weakref__" in base.__dict__)
        if base.__basicsize__ - base.__base__.__basicsize__ > 8 * words:
            return False
        base = base.__base__
    return True


__all__ = ["MAX_WORK", "UncopyableError", "UnmeasurableError", "copy_and_measure", "copy_object", "layout_of"]
