"""Values as bytes and back, safely: MessagePack (msgspec) behind a header with a version.

What comes from Redis is untrusted. Decoding builds plain data only, runs no code, and is bounded in
size and depth; whatever does not fit raises CorruptPayloadError. Types that MessagePack lacks travel
as extensions, so that what is read is of the very type that was written: a tuple stays a tuple.
"""

from __future__ import annotations

import datetime
import decimal
import struct
import uuid
import zlib
from typing import Any, NamedTuple

import msgspec

from bot.core.cache_manager.errors import CorruptPayloadError, UnsupportedValueError

VERSION = 1
COMPRESS_ABOVE = 1024
"""Bytes from which compression is tried: below, the round trip costs more than what is saved."""

MAX_PAYLOAD = 64 * 1024 * 1024
"""Bytes that a payload may unfold to."""

MAX_DEPTH = 64

# Version, flags, wall time in seconds at which the value expires (0: never), seconds it took to load.
_HEADER = struct.Struct(">BBdf")  # 14 bytes
_unpack = _HEADER.unpack_from
_COMPRESSED = 1
# A stored None, told apart from nothing stored, needs no flag: nothing stored is no payload.

(_TUPLE, _SET, _FROZENSET, _DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID, _BIG_INT, _OBJECT_ID,
 _PAIRS, _BYTEARRAY, _COMPLEX) = range(1, 15)  # fmt: skip

_encode = msgspec.msgpack.Encoder().encode
_SCALARS = frozenset((str, bytes, float, bool, type(None)))


class Payload(NamedTuple):
    """A decoded payload."""

    value: Any
    expires_at: float
    """Wall time in seconds; 0.0 for never."""
    load_seconds: float


def encode(value: Any, *, expires_at: float = 0.0, load_seconds: float = 0.0, compress: bool = True) -> bytes:
    """The payload of a value. Raises UnsupportedValueError, naming the type that cannot travel."""
    return fold(encode_body(value), expires_at=expires_at, load_seconds=load_seconds, compress=compress)


def fold(body: bytes, *, expires_at: float = 0.0, load_seconds: float = 0.0, compress: bool = True) -> bytes:
    """The payload of a value that is already encoded."""
    flags = 0
    if compress and len(body) > COMPRESS_ABOVE:
        smaller = zlib.compress(body, 1)
        if len(smaller) < len(body) * 0.9:
            body, flags = smaller, _COMPRESSED
    return _HEADER.pack(VERSION, flags, expires_at, load_seconds) + body


def encode_body(value: Any) -> bytes:
    """The value's bytes, without a header. Raises UnsupportedValueError."""
    try:
        return _encode(value if _is_native(value, 0) else _wire(value, 0))
    except (UnicodeEncodeError, OverflowError, RecursionError, ValueError) as error:
        raise UnsupportedValueError(f"{type(value).__qualname__}: {error}") from error


def _is_native(value: Any, depth: int) -> bool:
    """Whether MessagePack carries the value as it is, types included."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is int:
        return bool(-(2**63) <= value < 2**64)
    if depth >= MAX_DEPTH:
        return False
    if kind is list:
        return all(_is_native(item, depth + 1) for item in value)
    if kind is dict:
        return all(type(key) is str for key in value) and all(
            _is_native(item, depth + 1) for item in value.values()
        )
    return False


def _wire(value: Any, depth: int) -> Any:
    """The value with what MessagePack lacks replaced by extensions."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if depth >= MAX_DEPTH:
        raise UnsupportedValueError(f"nested deeper than {MAX_DEPTH}")
    if kind is int:
        if -(2**63) <= value < 2**64:
            return value
        return _extension(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if kind is list:
        return [_wire(item, depth + 1) for item in value]
    if kind is dict:
        if all(type(key) is str for key in value):
            return {key: _wire(item, depth + 1) for key, item in value.items()}
        pairs = [[_wire(key, depth + 1), _wire(item, depth + 1)] for key, item in value.items()]
        return _extension(_PAIRS, _encode(pairs))
    for container, code in ((tuple, _TUPLE), (set, _SET), (frozenset, _FROZENSET)):
        if kind is container:
            return _extension(code, _encode([_wire(item, depth + 1) for item in value]))
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


def decode(payload: bytes) -> Payload:
    """What :func:`encode` was given. Raises CorruptPayloadError for anything else."""
    body, expires_at, load_seconds = unfold(payload)
    return Payload(decode_body(body), expires_at, load_seconds)


def unfold(payload: bytes) -> tuple[bytes, float, float]:
    """The parts of a :class:`Payload`, its value still as bytes for :func:`decode_body`."""
    try:
        version, flags, expires_at, load_seconds = _unpack(payload)
    except struct.error as error:
        raise CorruptPayloadError(f"{len(payload)} bytes are no payload") from error
    if version != VERSION or flags & ~_COMPRESSED:
        raise CorruptPayloadError(f"version {version}, flags {flags}: written by another version")
    if not 0.0 <= expires_at < 1e12 or not 0.0 <= load_seconds < 1e9:
        raise CorruptPayloadError("a time out of bounds")
    body = payload[14:]
    if flags:
        inflate = zlib.decompressobj()
        try:
            body = inflate.decompress(body, MAX_PAYLOAD)
        except zlib.error as error:
            raise CorruptPayloadError(f"compressed body: {error}") from error
        if not inflate.eof:
            raise CorruptPayloadError(f"unfolds to more than {MAX_PAYLOAD:,} bytes, or is cut off")
    return body, expires_at, load_seconds


def decode_body(body: bytes) -> Any:
    """The value of a body. Raises CorruptPayloadError for bytes that are none."""
    try:
        return thaw_body(body)
    except CorruptPayloadError:
        raise
    except Exception as error:
        # The ways in which foreign bytes can fail are the decoders' business; all mean the same here.
        raise CorruptPayloadError(f"{type(error).__name__}: {error}") from error


def _from_extension(code: int, data: memoryview) -> Any:
    raw = bytes(data)
    if code in (_TUPLE, _SET, _FROZENSET, _PAIRS, _TIMEDELTA):
        items = _decode(raw)
        if not isinstance(items, list):
            raise CorruptPayloadError("an extension that holds no list")
        if code == _TUPLE:
            return tuple(items)
        if code == _SET:
            return set(items)
        if code == _FROZENSET:
            return frozenset(items)
        if code == _PAIRS:
            return {key: value for key, value in items}  # noqa: C416 - dict() would take any pair
        days, seconds, microseconds = items
        return datetime.timedelta(days, seconds, microseconds)
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


thaw_body = msgspec.msgpack.Decoder(ext_hook=_from_extension).decode
"""``decode_body`` without a safety net, for bodies that were decoded before."""
_decode = thaw_body
