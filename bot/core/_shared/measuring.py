"""How many bytes values hold, as the interpreter knows it and without running code of theirs (pure).

``sys.getsizeof`` tells of one object alone, and asks its class, which may answer anything; what an
object refers to is known to the garbage collector (``gc.get_referents``), slots included.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import functools
import gc
import logging
import types
import uuid
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence, Set
from enum import Enum
from sys import getsizeof
from typing import Any

ATOMS: frozenset[type] = frozenset(
    {
        type(None), bool, int, float, complex, str, bytes, range, type(Ellipsis),
        datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone,
        decimal.Decimal, uuid.UUID,
    }
)  # fmt: skip
"""Types whose instances cannot change and hold nothing that can."""

CONTAINERS: frozenset[type] = frozenset(
    {dict, list, tuple, set, frozenset, bytearray, deque, OrderedDict, defaultdict}
)

PROGRAM_TYPES: tuple[type, ...] = (
    type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.CodeType,
    types.MethodDescriptorType, types.WrapperDescriptorType, types.GetSetDescriptorType,
    types.MemberDescriptorType, property, weakref.ref, weakref.ProxyType, weakref.CallableProxyType,
    Enum, logging.Logger, type(NotImplemented),
)  # fmt: skip
"""Instances of these belong to the program and not to a value: they are neither copied nor charged."""

_LIVE = frozenset(
    {
        ("asyncio.events", "AbstractEventLoop"), ("_asyncio", "Future"), ("asyncio.futures", "Future"),
        ("socket", "socket"), ("threading", "Thread"), ("concurrent.futures._base", "Executor"),
        ("concurrent.futures._base", "Future"), ("builtins", "generator"), ("builtins", "coroutine"),
        ("builtins", "async_generator"), ("builtins", "frame"), ("builtins", "traceback"),
        ("builtins", "callable_iterator"),  # iter(cursor.fetchone, None): a copy would draw from the same
    }
)  # fmt: skip

UUID_INSIDE = 44
"""Bytes of the int that a UUID holds."""

GC_HEADER = getsizeof(()) - ().__sizeof__()
"""Bytes before a tuple, list or dict; without them, ``__sizeof__`` says the same in a third of the time."""

_UUID_BESIDE = getsizeof(uuid.UUID(int=0)) - uuid.UUID(int=0).__sizeof__() + UUID_INSIDE

_HEADER = 32
"""Bytes before an object that its own ``__sizeof__`` does not count."""

HAS_GC, HEAP_TYPE = 1 << 14, 1 << 9
"""Flags of classes."""


class UnmeasurableError(TypeError):
    """An object whose memory cannot be measured, or a value of too many parts."""


def atoms_size(values: Sequence[Any], kinds: Set[type]) -> int:
    """Bytes of atoms of these kinds, each object once however often it occurs."""
    unique = dict(zip(map(id, values), values, strict=False)).values()  # strict costs a tenth
    total: int = sum([value.__sizeof__() for value in unique])
    if uuid.UUID in kinds:
        total += _UUID_BESIDE * list(map(type, unique)).count(uuid.UUID)
    return total


@functools.lru_cache(maxsize=1024)
def is_of_program(kind: type) -> bool:
    """Whether instances of a class belong to the program; see :data:`PROGRAM_TYPES`."""
    return issubclass(kind, PROGRAM_TYPES)


@functools.lru_cache(maxsize=1024)
def is_live(kind: type) -> bool:
    """Whether instances of a class are something that goes on, and no value."""
    return not _LIVE.isdisjoint((base.__module__, base.__qualname__) for base in kind.__mro__)


@functools.lru_cache(maxsize=1024)
def _built_in_sizeof(kind: type) -> Any:
    """The ``__sizeof__`` behind one that is written in Python and may say anything; None: the class's own."""
    first = True
    for base in kind.__mro__:
        method = base.__dict__.get("__sizeof__")
        if method is not None and type(method) is not types.FunctionType:
            return None if first else method
        first = first and method is None
    return object.__sizeof__


def size_of(thing: Any) -> int:
    """Bytes of one object, without what it refers to."""
    kind: Any = type(thing)
    method = _built_in_sizeof(kind)
    return getsizeof(thing) if method is None else int(method(thing)) + _HEADER


@functools.lru_cache(maxsize=1024)
def is_opaque(kind: type) -> bool:
    """Whether instances may hold memory that neither their size nor their references tell of."""
    base: Any = kind
    while base is not object:
        if isinstance(base.__dict__.get("__sizeof__"), types.MethodDescriptorType):
            return False
        # A class statement adds a word for each slot, for __dict__ and for __weakref__, and nothing else.
        members = sum(isinstance(item, types.MemberDescriptorType) for item in base.__dict__.values())
        if base.__basicsize__ - base.__base__.__basicsize__ > 8 * (members + 2):
            return True
        base = base.__base__
    return False


def weigh(
    root: Any, seen: set[int], limit: int, *, handles: frozenset[int] = frozenset(), shallow: bool = False
) -> int:
    """Bytes of ``root`` and of what it holds, each object once; ``seen`` gets the ids of what is counted.

    ``handles`` are ids of what is not looked at. ``shallow`` looks into containers and no other object.
    Raises UnmeasurableError for more than ``limit`` objects, or one that is opaque.
    """
    total = 0
    waiting = [root]
    counted = 0
    while waiting:
        thing = waiting.pop()
        kind: Any = type(thing)
        at = id(thing)
        if at in seen or at in handles or is_of_program(kind) or is_live(kind):
            continue
        if shallow and thing is not root and kind not in ATOMS and kind not in CONTAINERS:
            continue
        seen.add(at)
        counted += 1
        if counted > limit:
            raise UnmeasurableError(f"it holds more than {limit:,} objects")
        inside = gc.get_referents(thing)
        total += size_of(thing)
        if kind.__flags__ & HAS_GC:
            if kind.__dictoffset__ < 0:
                total += 8 * len(inside)  # attribute values are stored separately until __dict__ is read
        else:
            inside += _members(thing)
            if kind not in ATOMS and is_opaque(kind):
                total += _told_size(thing)
        if issubclass(kind, dict):
            inside += dict.keys(thing)  # not told of where all of them are strings
        if kind.__module__ == "numpy" and getattr(getattr(thing, "dtype", None), "hasobject", False):
            inside += thing.ravel().tolist()  # numpy does not tell the garbage collector
        waiting += inside
    return total


def _members(thing: Any) -> list[Any]:
    """What the slots of an object hold that the garbage collector does not look at."""
    found = []
    for base in type(thing).__mro__:
        for member in base.__dict__.values():
            if isinstance(member, types.MemberDescriptorType) and base.__flags__ & HEAP_TYPE:
                with contextlib.suppress(AttributeError):
                    found.append(member.__get__(thing))
    return found


def _told_size(thing: Any) -> int:
    """What an opaque object says of its memory: ``nbytes``, or its pickled state."""
    told = getattr(thing, "nbytes", None)
    if type(told) is int and told >= 0:
        return told
    try:
        state = thing.__reduce_ex__(4)
    except Exception as error:
        kind = type(thing)
        raise UnmeasurableError(
            f"the memory of a {kind.__module__}.{kind.__qualname__} cannot be measured"
        ) from error
    return weigh(state, set(), 10_000, shallow=True)
