"""Plain values as bytes and back, types included: MessagePack (msgspec) with extensions.

Decoding builds plain data only, runs no code and is bounded in objects, depth and collisions of keys, for
what comes back is untrusted; whatever does not fit raises CorruptPayloadError. The same bounds hold for
what is encoded, so that all that was written can be read. Types that MessagePack lacks travel as
extensions, so that what is read is of the very type that was written: a tuple stays a tuple.
"""

from __future__ import annotations

import datetime
import decimal
import struct
import uuid
from collections.abc import Callable
from gc import is_tracked
from typing import Any

import msgspec

from bot.core._shared.errors import CorruptPayloadError, UnsupportedValueError
from bot.core._shared.msgpack_bounds import MAX_DEPTH, SMALL, check_body, check_collisions, check_depth

(_TUPLE, _SET, _FROZENSET, _DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID, _BIG_INT, _OBJECT_ID,
 _PAIRS, _BYTEARRAY, _COMPLEX) = range(1, 15)  # fmt: skip

_NESTED = frozenset((_TUPLE, _SET, _FROZENSET, _TIMEDELTA, _PAIRS))
"""Extensions that hold MessagePack themselves."""

_encode = msgspec.msgpack.Encoder().encode
_SCALARS = frozenset((str, bytes, float, bool, type(None)))
_CONTAINERS = frozenset((list, dict, tuple, set, frozenset))
FREE_VISITS = 100_000
"""Containers of a value that are written without asking how many of them are the same ones."""

MAX_REPEATS = 8
"""How often each container of a larger value may be visited on average, in two passes."""


def encode_body(value: Any) -> bytes:
    """The value's bytes, without a header. Raises UnsupportedValueError."""
    try:
        visits = _Visits(value)
        body = _encode(value if _is_native(value, 0, visits) else _wire(value, 0, visits))
        check_body(body, _NESTED)
    except UnsupportedValueError:
        raise
    except (
        UnicodeEncodeError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
        _ExpandsError,
        CorruptPayloadError,
    ) as error:
        raise UnsupportedValueError(f"{type(value).__qualname__}: {error}") from error
    return body


class _ExpandsError(Exception):
    """A value that shares its parts and would be many times larger written out."""


class _Visits:
    """Visits of containers that are left; in bytes, what is shared stands as often as it is reached."""

    __slots__ = ("counted", "left", "root")

    def __init__(self, root: Any) -> None:
        self.root = root
        self.left = FREE_VISITS
        self.counted = False

    def exhausted(self) -> None:
        """Allow more for a large value; raises _ExpandsError where few containers are reached too often."""
        if not self.counted:
            self.counted = True
            self.left = MAX_REPEATS * _count_containers(self.root) - FREE_VISITS
        if self.left < 0:
            raise _ExpandsError("its parts refer to each other, and written out it would be too large")


def _count_containers(root: Any) -> int:
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        part = waiting.pop()
        if type(part) in _CONTAINERS and id(part) not in seen:
            seen.add(id(part))
            waiting += [*part.keys(), *part.values()] if type(part) is dict else part
    return len(seen)


def _is_native(value: Any, depth: int, visits: _Visits) -> bool:
    """Whether MessagePack carries the value as it is, types included."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is int:
        return bool(-(2**63) <= value < 2**64)
    if depth >= MAX_DEPTH:
        return False
    visits.left -= 1
    if visits.left < 0:
        visits.exhausted()
    if kind is list:
        return all(_is_native(item, depth + 1, visits) for item in value)
    if kind is dict:
        return all(type(key) is str for key in value) and all(
            _is_native(item, depth + 1, visits) for item in value.values()
        )
    return False


def _wire(value: Any, depth: int, visits: _Visits) -> Any:
    """The value with what MessagePack lacks replaced by extensions."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if depth >= MAX_DEPTH:
        raise UnsupportedValueError(f"nested deeper than {MAX_DEPTH}")
    visits.left -= 1
    if visits.left < 0:
        visits.exhausted()
    if kind is int:
        if -(2**63) <= value < 2**64:
            return value
        return _extension(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if kind is list:
        return [_wire(item, depth + 1, visits) for item in value]
    if kind is dict:
        if all(type(key) is str for key in value):
            return {key: _wire(item, depth + 1, visits) for key, item in value.items()}
        check_collisions(value)
        pairs = [
            [_wire(key, depth + 1, visits), _wire(item, depth + 1, visits)] for key, item in value.items()
        ]
        return _extension(_PAIRS, _encode(pairs))
    for container, code in ((tuple, _TUPLE), (set, _SET), (frozenset, _FROZENSET)):
        if kind is container:
            if code != _TUPLE:
                check_collisions(value)
            return _extension(code, _encode([_wire(item, depth + 1, visits) for item in value]))
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
    if size <= MAX_DEPTH:
        return _decode_checked(body)
    if size > SMALL:
        check_body(body, _NESTED)
    value = _decode_checked(body)
    if is_tracked(value):  # it is no atom, and no container of atoms
        check_depth(value)
    return value


def _decoder(*, checked: bool) -> Callable[[Any], Any]:
    """A decoder of bodies; ``checked`` counts collisions before it builds a set or dict."""

    def from_extension(code: int, data: memoryview) -> Any:
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


_decode_checked = _decoder(checked=True)
thaw_again = _decoder(checked=False)
"""The value of a body that was encoded here or decoded before, without looking for what may be wrong."""
