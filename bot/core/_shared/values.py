"""Plain values as bytes and back, types included: MessagePack (msgspec) with extensions.

Decoding builds plain data and instances of registered types (``registered_types.py``), and is bounded in
objects, depth and collisions of keys, for what comes back is untrusted; whatever does not fit raises
CorruptPayloadError. The same bounds hold for what is encoded, so that all that was written can be read. Types
that MessagePack lacks travel as extensions, so that what is read is of the very type that was written: a
tuple stays a tuple.
"""

from __future__ import annotations

import datetime
import decimal
import struct
import uuid
from collections.abc import Callable, Generator
from gc import is_tracked
from itertools import chain
from typing import Any

import msgspec

from bot.core._shared.errors import CorruptPayloadError, UnsupportedValueError
from bot.core._shared.msgpack_bounds import (
    MAX_DEPTH,
    MAX_OBJECTS,
    SMALL,
    Walk,
    check_body,
    check_collisions,
    check_depth,
    must_be_walked,
)
from bot.core._shared.registered_types import REGISTRY, OtherTypeError

(_TUPLE, _SET, _FROZENSET, _DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID, _BIG_INT, _OBJECT_ID,
 _PAIRS, _BYTEARRAY, _COMPLEX, _REGISTERED) = range(1, 16)  # fmt: skip

_NESTED = frozenset((_TUPLE, _SET, _FROZENSET, _TIMEDELTA, _PAIRS, _REGISTERED))
"""Extensions that hold MessagePack themselves."""

_encode = msgspec.msgpack.Encoder().encode
_SCALARS = frozenset((str, bytes, float, bool, type(None)))
_NATIVE = _SCALARS | {int}
_CONTAINERS = frozenset((list, dict))

MAX_CHARACTERS = 64 * 1024 * 1024
"""Characters and bytes of all texts of a value, each as often as it is written."""

TINY = MAX_DEPTH
"""Bytes of a body that cannot be too deep, nor hold too much."""

FEW = 64
"""Parts of a value whose lengths are not added up before they are written."""


def encode_body(value: Any, *, registered: bool = False) -> bytes:
    """The value's bytes, without a header. Raises UnsupportedValueError.

    ``registered``: instances of registered types may be in it, see ``registered_types.py``.
    """
    try:
        if type(value) in _NATIVE or _is_native(value):
            try:
                return _encode(value)
            except OverflowError:
                pass  # an int that MessagePack does not have
        body = _encode(_wire(value, 0, _Parts(registered=registered)))
        check_body(body, _NESTED)
    except UnsupportedValueError:
        raise
    except (
        UnicodeEncodeError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
        CorruptPayloadError,
    ) as error:
        raise UnsupportedValueError(f"{type(value).__qualname__}: {error}") from error
    return body


class _Parts:
    """What is left of the parts, and of their characters, that a value may have written out.

    Written out, what is shared stands as often as it is reached.
    """

    __slots__ = ("characters", "left", "registered")

    def __init__(self, *, registered: bool) -> None:
        self.registered = registered
        self.left = MAX_OBJECTS
        self.characters = MAX_CHARACTERS

    def spend(self, parts: int) -> None:
        self.left -= parts
        if self.left < 0:
            raise ValueError(f"written out it has more than {MAX_OBJECTS:,} parts")

    def spend_text(self, length: int) -> None:
        self.characters -= length
        if self.characters < 0:
            raise ValueError(f"written out it has more than {MAX_CHARACTERS:,} characters")


def _is_native(value: Any) -> bool:
    """Whether MessagePack carries the value as it is, types included, but for ints that are too large.

    Level by level, at C's speed; raises ValueError for what is too large written out.
    """
    parts = 1
    characters = MAX_CHARACTERS
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        kinds = set(map(type, level))
        many = len(level) > FEW
        if many:
            for text in kinds & _TEXTS:
                characters -= sum(map(len, level if len(kinds) == 1 else _of_type(text, level)))
            if characters < 0:
                raise ValueError(f"written out it has more than {MAX_CHARACTERS:,} characters")
        if kinds <= _NATIVE:
            return True
        if not kinds <= _NATIVE_CONTAINERS:
            return False
        below: list[Any] = []
        if many:
            gathered = _gather(level, kinds, below, MAX_OBJECTS - parts)
            if gathered < 0:
                return False
            parts += gathered
        for part in () if many else level:
            kind = type(part)
            if kind is dict:
                if part and set(map(type, part)) != _TEXT:
                    return False
                below += part.values()
                parts += 2 * len(part)
            elif kind is list:
                below += part
                parts += len(part)
            else:
                continue
            if parts > MAX_OBJECTS:
                raise ValueError(f"written out it has more than {MAX_OBJECTS:,} parts")
        level = below
    return False


def _gather(level: list[Any], kinds: set[type], below: list[Any], most: int) -> int:
    """Append what is in the lists and dicts of a level; how many parts that is, -1 for a key that is no text.

    For a level of many, without a step of Python's for each. Raises ValueError for more than ``most`` parts.
    """
    lists = _of_type(list, level) if list in kinds else []
    dicts = _of_type(dict, level) if dict in kinds else []
    # Counted first, for what is shared may be too much to gather.
    parts = sum(map(len, lists)) + 2 * sum(map(len, dicts))
    if parts > most:
        raise ValueError(f"written out it has more than {MAX_OBJECTS:,} parts")
    if not set(map(type, chain.from_iterable(dicts))) <= _TEXT:
        return -1
    below += chain.from_iterable(lists)
    below += chain.from_iterable(map(dict.values, dicts))
    return parts


def _of_type(kind: type, level: list[Any]) -> list[Any]:
    return [part for part in level if type(part) is kind]


_NATIVE_CONTAINERS = _NATIVE | _CONTAINERS
_TEXT = {str}
_TEXTS = frozenset((str, bytes))


def _wire(value: Any, depth: int, parts: _Parts) -> Any:
    """The value with what MessagePack lacks replaced by extensions."""
    kind = type(value)
    if kind in _SCALARS:
        if kind is str or kind is bytes:
            parts.spend_text(len(value))
        return value
    if depth >= MAX_DEPTH:
        raise UnsupportedValueError(f"nested deeper than {MAX_DEPTH}")
    if kind is int:
        if -(2**63) <= value < 2**64:
            return value
        return _extension(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if kind is list:
        parts.spend(len(value))
        return [_wire(item, depth + 1, parts) for item in value]
    if kind is dict:
        parts.spend(2 * len(value))
        if all(type(key) is str for key in value):
            return {key: _wire(item, depth + 1, parts) for key, item in value.items()}
        check_collisions(value)
        pairs: Any = [
            [_wire(key, depth + 1, parts), _wire(item, depth + 1, parts)] for key, item in value.items()
        ]
        return _extension(_PAIRS, _encode(pairs))
    for container, code in ((tuple, _TUPLE), (set, _SET), (frozenset, _FROZENSET)):
        if kind is container:
            parts.spend(len(value))
            if code != _TUPLE:
                check_collisions(value)
            return _extension(code, _encode([_wire(item, depth + 1, parts) for item in value]))
    if kind is datetime.datetime:
        if value.tzinfo is not None and type(value.tzinfo) is not datetime.timezone:
            # A named zone is more than its offset: it cannot come back as what it was.
            raise UnsupportedValueError(f"datetime with a {type(value.tzinfo).__qualname__} time zone")
        return _extension(_DATETIME, f"{value.isoformat()}|{value.fold}".encode())
    if kind is datetime.date:
        return _extension(_DATE, value.isoformat().encode())
    if kind is datetime.time and value.tzinfo is None:
        return _extension(_TIME, value.isoformat().encode())
    if kind is datetime.timedelta:
        return _extension(_TIMEDELTA, _encode([value.days, value.seconds, value.microseconds]))
    if kind is decimal.Decimal:
        return _extension(_DECIMAL, str(value).encode())
    if kind is uuid.UUID:
        return _extension(_UUID, value.bytes)
    if kind is bytearray:
        return _extension(_BYTEARRAY, bytes(value))
    if kind is complex:
        return _extension(_COMPLEX, struct.pack(">dd", value.real, value.imag))
    if kind.__name__ == "ObjectId" and kind.__module__ == "bson.objectid":
        return _extension(_OBJECT_ID, value.binary)
    if parts.registered and (found := REGISTRY.by_type.get(kind)) is not None:
        items = found.take(value)
        parts.spend(len(items) + 1)
        return _extension(
            _REGISTERED, _encode([found.key, *[_wire(item, depth + 1, parts) for item in items]])
        )
    raise UnsupportedValueError(f"{kind.__module__}.{kind.__qualname__}")


def _extension(code: int, data: bytes) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, data)


def decode_body(body: bytes) -> Any:
    """The value of a body. Raises CorruptPayloadError for bytes that are none, or that build too much."""
    try:
        return thaw_body(body)
    except CorruptPayloadError:
        raise
    except Exception as error:
        # The ways in which foreign bytes can fail are the decoders' business; all mean the same here.
        raise CorruptPayloadError(f"{type(error).__name__}: {error}") from error


def thaw_body(body: bytes) -> Any:
    """:func:`decode_body` with whatever exception it comes to; it costs less."""
    size = len(body)
    if size <= TINY:
        return thaw_tiny(body)
    if size > SMALL:
        check_body(body, _NESTED)
    value = thaw_tiny(body)
    if is_tracked(value):  # it is no atom, and no container of atoms
        check_depth(value)
    return value


def thaw_in_pieces(body: bytes, piece: int) -> Generator[None, None, Any]:
    """:func:`thaw_body` that stops after each ``piece`` bytes or so; ``StopIteration.value`` is the value.

    A body that cannot build much is decoded at once. So is a value whose outermost container is neither a
    list nor a dict with text as keys, and each item of that container.
    """
    if not must_be_walked(body):
        return thaw_body(body)
    walk = Walk(body, _NESTED)
    # Where an item of the outermost container begins, and how many objects are left there.
    starts: list[tuple[int, int]] = []
    ended = False
    while not ended:
        ended = walk.go(walk.position + piece)
        for _ in range(_TO_NEXT_ITEM):
            if ended or walk.left_at_top >= 0:
                break
            ended = walk.go(walk.position + 1)
        if not ended and (left := walk.left_at_top) > 0:
            starts.append((walk.position, left))
        yield
    if walk.position != len(body):
        raise CorruptPayloadError("it goes on after its value")
    value = yield from _joined(body, starts)
    check_depth(value)
    return value


def _joined(body: bytes, starts: list[tuple[int, int]]) -> Generator[None, None, Any]:
    first = body[0]
    is_map = first in (0xDE, 0xDF) or 0x80 <= first < 0x90
    header = 1 if first < 0xA0 else 3 if first in (0xDC, 0xDE) else 5
    if not starts or not (is_map or first in (0xDC, 0xDD) or 0x90 <= first < 0xA0):
        return thaw_tiny(body)
    count = first & 0x0F if header == 1 else int.from_bytes(body[1:header], "big")
    value: Any = {} if is_map else []
    add = value.update if is_map else value.extend
    begin, before = header, 2 * count if is_map else count
    for end, left in [*starts, (len(body), 0)]:
        items = (before - left) // 2 if is_map else before - left
        add(thaw_tiny((b"\xdf" if is_map else b"\xdd") + items.to_bytes(4, "big") + body[begin:end]))
        begin, before = end, left
        yield
    return value


_TO_NEXT_ITEM = 2000
"""Objects that are walked to come to the next item of the outermost container: half a millisecond."""


def _decoder(*, checked: bool, depth: int = 0) -> Callable[[Any], Any]:
    """A decoder of bodies; ``checked`` counts collisions before it builds a set or dict.

    ``depth``: how many registered types it is within.
    """
    deeper: Callable[[Any], Any] | None = None

    def from_extension(code: int, data: memoryview) -> Any:
        nonlocal deeper
        if code == _REGISTERED:
            if deeper is None:
                if depth >= MAX_DEPTH:
                    raise CorruptPayloadError(f"nested deeper than {MAX_DEPTH}")
                deeper = _decoder(checked=checked, depth=depth + 1)
            return _instance(deeper(data), checked)
        if code in _NESTED:
            # The view and not a copy of it, or each level would hold all that is within it.
            return _collection(code, decode(data), checked)
        return _scalar(code, bytes(data))

    decode = msgspec.msgpack.Decoder(ext_hook=from_extension).decode
    return decode


def _collection(code: int, items: Any, checked: bool) -> Any:
    if not isinstance(items, list):
        raise CorruptPayloadError("an extension that holds no list")
    if code == _TUPLE:
        return tuple(items)
    if code == _TIMEDELTA:
        days, seconds, microseconds = items
        return datetime.timedelta(days, seconds, microseconds)
    if checked:
        check_collisions([key for key, _ in items] if code == _PAIRS else items)
    if code == _SET:
        return set(items)
    if code == _FROZENSET:
        return frozenset(items)
    return {key: value for key, value in items}  # noqa: C416 - dict() would take any pair


def _instance(items: Any, checked: bool) -> Any:
    if not isinstance(items, list) or not items or type(items[0]) is not str:
        raise CorruptPayloadError("an extension that holds no registered type")
    found = REGISTRY.by_key.get(items[0])
    if found is None:
        raise OtherTypeError(
            f"{items[0][:200]!r} is not registered here, or has other fields here: see register_type"
        )
    if checked:
        check_depth(items)
    return found.make(items[1:], trusted=not checked)


def _scalar(code: int, raw: bytes) -> Any:
    if code == _DATETIME:
        text, _, fold = raw.decode().partition("|")
        return datetime.datetime.fromisoformat(text).replace(fold=int(fold))
    if code == _DATE:
        return datetime.date.fromisoformat(raw.decode())
    if code == _TIME:
        return datetime.time.fromisoformat(raw.decode())
    if code == _DECIMAL:
        return decimal.Decimal(raw.decode())
    if code == _UUID:
        return uuid.UUID(bytes=raw)
    if code == _BIG_INT:
        return int.from_bytes(raw, "big", signed=True)
    if code == _BYTEARRAY:
        return bytearray(raw)
    if code == _COMPLEX:
        return complex(*struct.unpack(">dd", raw))
    if code == _OBJECT_ID:
        from bson.objectid import ObjectId

        return ObjectId(raw)
    raise CorruptPayloadError(f"unknown extension {code}")


thaw_tiny = _decoder(checked=True)
""":func:`thaw_body` of at most :data:`TINY` bytes."""
thaw_again = _decoder(checked=False)
"""The value of a body that was encoded here or decoded before, without looking for what may be wrong."""
