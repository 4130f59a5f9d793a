"""Foreign MessagePack is refused before it takes memory or time; what is written keeps within the bounds."""

import decimal
import struct
import uuid
import zlib

import msgspec
import pytest

from bot.core._shared.errors import CorruptPayloadError, UnsupportedValueError
from bot.core._shared.values import decode_body, encode_body
from bot.core.cache_manager import codec

P = 2**61 - 1  # ints that differ by a multiple of it have one hash


def array(count):
    return b"\xdd" + struct.pack(">I", count)


def extension(code, data):
    return b"\xc9" + struct.pack(">Ib", len(data), code) + data


def big(number):
    return extension(10, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def pair(first):
    """Arrays of two ints whose tuples may be made to collide; as keys of a map they are refused unread."""
    return b"\x92" + msgspec.msgpack.encode(first) + b"\x01"


@pytest.mark.parametrize(
    "body",
    [
        array(1_100_000) + b"\x80" * 1_100_000,
        array(1_100_000) + b"\xc0" * 1_100_000,
        b"\x91" * 100 + b"\xc0",
        b"\x91" * 100_000 + b"\xc0",
        b"\x81\xa1a" * 100 + b"\xc0",
        extension(2, array(2_000) + b"".join(big(n * P) for n in range(1, 2_001))),
        extension(3, array(2_000) + b"".join(extension(8, b"%d" % (n * P)) for n in range(1, 2_001))),
        extension(12, array(2_000) + b"".join(b"\x92" + big(n * P) + b"\xc0" for n in range(1, 2_001))),
        b"\xdf" + struct.pack(">I", 2_000) + b"".join(big(n * P) + b"\xc0" for n in range(1, 2_001)),
        b"\xde\x07\xd0" + b"".join(pair(n) + b"\xc0" for n in range(2_000)),
        array(2**32 - 1),
        extension(1, extension(1, b"\x90") * 2),
    ],
)
def test_refused(body):
    with pytest.raises(CorruptPayloadError):
        decode_body(body)


@pytest.mark.parametrize(
    "value",
    [
        [{"id": n, "name": f"name {n}"} for n in range(60_000)],
        {n: str(n) for n in range(20_000)},
        set(range(-10_000, 10_000)),
        {(n, n + 1) for n in range(5_000)},
        {decimal.Decimal(n) / 7 for n in range(5_000)},
        {uuid.uuid4() for _ in range(5_000)},
        {str(n): n for n in range(20_000)},
        [0.1 * n for n in range(50_000)],
        b"\xde\xdf" * 100_000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_bots_cache_is_read_back(value):
    assert decode_body(encode_body(value)) == value


@pytest.mark.parametrize(
    "value", [[None] * 1_100_000, {n * P for n in range(1, 2_000)}, {n * P: 1 for n in range(1, 2_000)}]
)
def test_what_could_not_be_read_is_not_written(value):
    with pytest.raises(UnsupportedValueError):
        encode_body(value)


def test_bytes_of_a_payload():
    with pytest.raises(UnsupportedValueError, match="more than 67,108,864"):
        codec.encode(b"\0" * (codec.MAX_PAYLOAD + 1))
    large = b"\0" * (codec.MAX_INFLATED + 1)
    assert codec.decode(codec.encode(large)).value == large, "what inflates to more travels as it is"
    header = codec.encode(None)[:14]
    bomb = header[:1] + b"\x01" + header[2:] + zlib.compress(msgspec.msgpack.encode(large))
    with pytest.raises(CorruptPayloadError, match="unfolds to more"):
        codec.decode(bomb)
