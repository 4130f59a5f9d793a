"""Values as bytes and back, safely: MessagePack (msgspec) behind a header with a version.

What comes from Redis is untrusted. Decoding builds plain data and instances of registered types only, and is
bounded in bytes (:data:`MAX_PAYLOAD`), objects and depth (``_shared/msgpack_bounds.py``); whatever does not
fit raises CorruptPayloadError, and nothing larger is ever written. Types that MessagePack lacks travel as
extensions, so that what is read is of the very type that was written: a tuple stays a tuple.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bot.core._shared.errors import LARGEST, CorruptPayloadError, UnsupportedValueError
from bot.core._shared.values import decode_body, encode_body
from bot.core.cache_manager.compression import (
    COMPRESSED,
    WORTH,
    Pack,
    Packed,
    Reader,
    packed_by_zlib,
    reader_of,
)

VERSION = 2
"""Payloads of version 1, which had no tags, count as misses."""

COMPRESS_ABOVE = 1024
"""Bytes from which compression is tried: for less, the round trip costs more than compression saves."""

SAMPLED_ABOVE = 32 * 1024
"""Bytes from which a sample tells whether compression is worth it: trying costs 16 ms for a MB that has been
compressed before, as pictures have.
"""

SAMPLE = 4096
"""Bytes of each of the three parts of a sample."""

LARGE = 256 * 1024
"""Bytes from which compression and decompression go to a thread: some 0.5 ms on the event loop."""

MAX_PAYLOAD = 64 * 1024 * 1024
"""Bytes of the largest encoded, uncompressed value. Larger ones stay in L1."""

MAX_INFLATED = 16 * 1024 * 1024
"""Bytes that a payload may decompress to. Larger values are sent uncompressed, so that a few bytes never
become a large value.
"""

MAX_TAGS = 1000
"""Most tags that one value may have."""

TOKEN = 12
"""Bytes of the random number that a tag has between two invalidations."""

# Version, flags, time of Redis in seconds at which the value expires (0: never), seconds it took to load.
_HEADER = struct.Struct(">BBdf")
HEADER_SIZE = _HEADER.size
_unpack = _HEADER.unpack_from
# With _KEPT: seconds for which it may be served after that. With _TAGGED: how many tags, then each one's
# token, bytes, and name. Then the body.
_KEEP = struct.Struct(">d")
_COUNT = struct.Struct(">H")
_TAG = struct.Struct(f">{TOKEN}sH")
# Of the flags of compression.py; the others say how the body was compressed.
_TAGGED, _KEPT = 2, 4
_FLAGS = COMPRESSED | _TAGGED | _KEPT
# A stored None needs no flag: if nothing is stored, there is no payload.


class OtherVersionError(CorruptPayloadError):
    """An earlier version wrote it."""


class Payload(NamedTuple):
    """A decoded payload."""

    value: Any
    expires_at: float
    """Time of Redis in seconds; 0.0 for never."""
    load_seconds: float


def encode(
    value: Any,
    *,
    expires_at: float = 0.0,
    load_seconds: float = 0.0,
    pack: Pack | None = packed_by_zlib,
    keep: float = 0.0,
    tags: Mapping[str, bytes] | None = None,
) -> bytes:
    """The payload of a value. Raises UnsupportedValueError, naming the type that cannot be encoded."""
    return fold(
        encode_value(value),
        expires_at=expires_at, load_seconds=load_seconds, pack=pack, keep=keep, tags=tags,
    )  # fmt: skip


def encode_value(value: Any) -> bytes:
    """The body of a payload. Raises UnsupportedValueError for a value that could not be decoded again."""
    body = encode_body(value, registered=True)
    if len(body) > MAX_PAYLOAD:
        raise UnsupportedValueError(
            f"{type(value).__qualname__} of {len(body):,} bytes: more than {MAX_PAYLOAD:,}"
        )
    return body


def may_shrink(body: bytes) -> bool:
    """Whether compression of a body may be worth it, by its size and, if it is not small, a sample."""
    size = len(body)
    if size <= SAMPLED_ABOVE:
        return size > COMPRESS_ABOVE
    if size > MAX_INFLATED:
        return False
    middle = size // 2
    sample = body[:SAMPLE] + body[middle : middle + SAMPLE] + body[-SAMPLE:]
    return len(zlib.compress(sample, 1)) < len(sample) * WORTH


def fold(
    body: bytes,
    *,
    expires_at: float = 0.0,
    load_seconds: float = 0.0,
    pack: Pack | None = packed_by_zlib,
    keep: float = 0.0,
    tags: Mapping[str, bytes] | None = None,
    smaller: Packed | None = None,
) -> bytes:
    """The payload of a value that is already encoded, and in ``smaller`` perhaps packed.

    ``pack`` makes it smaller if it may be worth it; None: it is sent as it is.
    """
    flags = 0
    if smaller is None and pack is not None and may_shrink(body):
        smaller = pack(body)
    if smaller is not None:
        flags, body = smaller
    if not keep and not tags:
        return _HEADER.pack(VERSION, flags, expires_at, load_seconds) + body
    parts = [b""]
    if keep:
        flags |= _KEPT
        parts.append(_KEEP.pack(keep))
    if tags:
        flags |= _TAGGED
        parts.append(_COUNT.pack(len(tags)))
        for tag, token in tags.items():
            name = tag.encode("utf-8", "surrogatepass")
            parts += (_TAG.pack(token, len(name)), name)
    parts[0] = _HEADER.pack(VERSION, flags, expires_at, load_seconds)
    parts.append(body)
    return b"".join(parts)


def decode(payload: bytes) -> Payload:
    """What :func:`encode` was given. Raises CorruptPayloadError for anything else."""
    body, expires_at, load_seconds = unfold(payload)
    return Payload(decode_body(body), expires_at, load_seconds)


def unfold(payload: bytes) -> tuple[bytes, float, float]:
    """The parts of a :class:`Payload`, its value still as bytes for :func:`decode_body`."""
    body, expires_at, load_seconds, _, _ = open_payload(payload)
    return unpack_body(payload, body), expires_at, load_seconds


def open_payload(payload: bytes) -> tuple[bytes, float, float, float, dict[str, bytes]]:
    """The parts of a payload: body, ``expires_at``, ``load_seconds``, ``keep``, and tags with their tokens.

    The body is still compressed, for :func:`unpack_body`; ``keep`` are the seconds for which the value may
    be served after ``expires_at`` when loading fails; a token is what its tag had before the value loaded.
    """
    flags, expires_at, load_seconds = read_header(payload)
    body, keep, tags = read_notes(payload, flags)
    return body, expires_at, load_seconds, keep, tags


def read_header(payload: bytes) -> tuple[int, float, float]:
    """Flags, ``expires_at`` and ``load_seconds``; where the flags are 0, the rest is the body."""
    try:
        version, flags, expires_at, load_seconds = _unpack(payload)
    except struct.error as error:
        raise CorruptPayloadError(f"{len(payload)} bytes are no payload") from error
    if version != VERSION or flags & ~_FLAGS or flags & COMPRESSED == COMPRESSED:
        if version == 1:
            raise OtherVersionError("written by an earlier version")
        raise CorruptPayloadError(f"version {version}, flags {flags}: written by another version")
    if not 0.0 <= expires_at < _LATEST or not 0.0 <= load_seconds < 1e9:
        raise CorruptPayloadError("a time out of bounds")
    return flags, expires_at, load_seconds


def read_plain(payloads: Sequence[bytes]) -> tuple[list[bytes], Sequence[float], Sequence[float]] | None:
    """Body, ``expires_at`` and ``load_seconds`` of each; None unless all are payloads with flags 0."""
    count = len(payloads)
    try:
        headers = b"".join([payload[:HEADER_SIZE] for payload in payloads])
    except TypeError:
        return None
    if (
        len(headers) != count * HEADER_SIZE
        or headers[::HEADER_SIZE].count(VERSION) != count
        or headers[1::HEADER_SIZE].count(0) != count
    ):
        return None
    expiries, seconds = zip(*_TIMES.iter_unpack(headers), strict=True)
    if min(expiries) < 0.0 or max(expiries) >= _LATEST or min(seconds) < 0.0 or max(seconds) >= 1e9:
        return None
    if math.isnan(sum(expiries) + sum(seconds)):  # which no comparison finds
        return None
    return [payload[HEADER_SIZE:] for payload in payloads], expiries, seconds


_TIMES = struct.Struct(">xxdf")
_LATEST = 10 * LARGEST


def read_notes(payload: bytes, flags: int) -> tuple[bytes, float, dict[str, bytes]]:
    """The body, still compressed, ``keep``, and tags with their tokens."""
    if not flags & (_TAGGED | _KEPT):
        return payload[HEADER_SIZE:], 0.0, _NO_TAGS
    position = HEADER_SIZE
    keep = 0.0
    tags = {}
    try:
        if flags & _KEPT:
            (keep,) = _KEEP.unpack_from(payload, position)
            position += 8
            if not 0.0 <= keep < _LATEST:
                raise CorruptPayloadError("a time out of bounds")
        if flags & _TAGGED:
            (count,) = _COUNT.unpack_from(payload, position)
            position += 2
            if not 0 < count <= MAX_TAGS:
                raise CorruptPayloadError(f"{count} tags")
            for _ in range(count):
                token, length = _TAG.unpack_from(payload, position)
                position += _TAG.size
                tags[payload[position : position + length].decode("utf-8", "surrogatepass")] = token
                position += length
    except (struct.error, UnicodeDecodeError) as error:
        raise CorruptPayloadError(f"tags: {error}") from error
    return payload[position:], keep, tags


_NO_TAGS: dict[str, bytes] = {}


def unpack_body(payload: bytes, body: bytes) -> bytes:
    """The body that :func:`open_payload` found in ``payload``, decompressed if it was compressed."""
    head, reader = unpack_head(payload, body)
    return head if reader is None else unpack_rest(head, reader)


def unpack_head(payload: bytes, body: bytes) -> tuple[bytes, Reader | None]:
    """The first :data:`LARGE` bytes of a compressed body, and what reads the rest, or None.

    A body that is not compressed is returned whole.
    """
    flag = payload[1] & COMPRESSED
    if not flag:
        if len(body) > MAX_PAYLOAD:
            raise CorruptPayloadError(f"more than {MAX_PAYLOAD:,} bytes")
        return body, None
    reader = reader_of(flag, body)
    head = reader.read(LARGE)
    if reader.ended():
        return head, None
    if len(head) < LARGE:
        raise CorruptPayloadError("compressed body: it is cut off, or goes on after its end")
    return head, reader


def unpack_rest(head: bytes, reader: Reader) -> bytes:
    """The whole body, for what :func:`unpack_head` returned."""
    body = head + reader.read(MAX_INFLATED + 1 - len(head))
    if not reader.ended() or len(body) > MAX_INFLATED:
        raise CorruptPayloadError(
            f"unfolds to more than {MAX_INFLATED:,} bytes, is cut off, or goes on after its end"
        )
    return body
