"""Values as bytes and back, safely: MessagePack (msgspec) behind a header with a version.

What comes from Redis is untrusted. Decoding builds plain data only, runs no code, and is bounded in
size and depth; whatever does not fit raises CorruptPayloadError. Types that MessagePack lacks travel
as extensions, so that what is read is of the very type that was written: a tuple stays a tuple.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

from bot.core._shared.errors import LARGEST, CorruptPayloadError
from bot.core._shared.values import decode_body, encode_body

VERSION = 1
COMPRESS_ABOVE = 1024
"""Bytes from which compression is tried: below, the round trip costs more than what is saved."""

MAX_PAYLOAD = 64 * 1024 * 1024
"""Bytes that a payload may unfold to."""

# Version, flags, wall time in seconds at which the value expires (0: never), seconds it took to load.
_HEADER = struct.Struct(">BBdf")  # 14 bytes
_unpack = _HEADER.unpack_from
_COMPRESSED = 1
# A stored None, told apart from nothing stored, needs no flag: nothing stored is no payload.


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
    if not 0.0 <= expires_at < 10 * LARGEST or not 0.0 <= load_seconds < 1e9:
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
