"""Values to bytes and back: the same types, and nothing that runs."""

import contextlib
import datetime
import decimal
import math
import os
import pickle
import struct
import uuid
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.cache_manager import codec
from bot.core.cache_manager.codec import MAX_PAYLOAD, VERSION, decode, encode
from bot.core.cache_manager.errors import CorruptPayloadError, UnsupportedValueError
from tests.support.searching import searching

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(),
    st.decimals(allow_nan=False), st.uuids(), st.dates(), st.times(), st.timedeltas(),
    st.datetimes(), st.datetimes(timezones=st.just(datetime.UTC)), st.complex_numbers(allow_nan=False),
)  # fmt: skip
hashable = st.recursive(
    scalars, lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)), max_leaves=5
)
values = st.recursive(
    st.one_of(scalars, hashable),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(hashable, inner, max_size=4),
        st.dictionaries(st.text(), inner, max_size=4),
        st.sets(hashable, max_size=4),
    ),
    max_leaves=15,
)


def types_of(value):
    if isinstance(value, dict):
        return [dict, sorted(map(repr, map(types_of, value.keys()))), [types_of(v) for v in value.values()]]
    if isinstance(value, list | tuple):
        return [type(value), *map(types_of, value)]
    return type(value)


@given(values)
def test_what_is_read_is_what_was_written(value):
    found = decode(encode(value)).value
    assert found == value
    assert types_of(found) == types_of(value)


def test_what_has_no_order_or_no_equality():
    assert math.isnan(decode(encode(float("nan"))).value)
    assert decode(encode(bytearray(b"x"))).value == bytearray(b"x")
    from bson.objectid import ObjectId

    one = ObjectId()
    assert decode(encode({"_id": one})).value == {"_id": one}


def test_large_values_are_compressed_and_small_ones_are_not():
    text = "the same again " * 1000
    assert len(encode(text)) < 2000
    assert decode(encode(text)).value == text
    assert len(encode(text, pack=None)) > 15_000
    noise = os.urandom(5000)
    assert len(encode(noise)) < 5100, "what does not get smaller is left as it is"


def test_times_travel_with_the_value():
    found = decode(encode("x", expires_at=1_700_000_000.5, load_seconds=0.25))
    assert (found.expires_at, found.load_seconds) == (1_700_000_000.5, 0.25)


class Own:
    pass


class Subclass(dict):
    pass


@pytest.mark.parametrize("value", [Own(), [Own()], Subclass(), {"a": object()}, lambda: 1, "\ud800", type])
def test_other_types_are_refused_by_name(value):
    with pytest.raises(UnsupportedValueError):
        encode(value)


def test_depth_is_bounded():
    deep = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(UnsupportedValueError):
        encode(deep)


def header(version=VERSION, flags=0, expires_at=0.0, load=0.0):
    import struct

    return struct.pack(">BBdf", version, flags, expires_at, load)


BOMB = zlib.compress(msgspec.msgpack.encode(b"\0" * (MAX_PAYLOAD + 1)))


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\x01", b"garbage", pickle.dumps(os.system), header() + b"\xc1", header() + b"",
        header(version=VERSION + 1) + b"\x01", header(flags=128) + b"\x01", header(flags=1) + b"\x01",
        header(flags=8) + b"\x01", header(flags=9) + zlib.compress(b"\x01"),
        header(expires_at=float("nan")) + b"\x01", header(expires_at=-1.0) + b"\x01",
        header(load=float("inf")) + b"\x01", header(flags=1) + BOMB,
        header(flags=1) + zlib.compress(b"x")[:-3],
        header() + msgspec.msgpack.encode(msgspec.msgpack.Ext(99, b"")),
        header() + msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"\x01")),
        header() + msgspec.msgpack.encode(msgspec.msgpack.Ext(4, b"yesterday|0")),
        header() + msgspec.msgpack.encode(msgspec.msgpack.Ext(9, b"short")),
        header() + b"\x91" * 100_000,
    ],
    ids=lambda payload: repr(payload[:20]),
)  # fmt: skip
def test_foreign_bytes_are_refused(payload):
    with pytest.raises(CorruptPayloadError):
        decode(payload)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(payload):
    for candidate in (payload, header() + payload, header(flags=1) + payload, header(flags=8) + payload):
        with contextlib.suppress(CorruptPayloadError):
            decode(candidate)


def test_the_usual_types_are_covered():
    row = {
        "id": 2**70, "price": decimal.Decimal("1.10"), "at": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "uid": uuid.UUID(int=5), "tags": {"a"}, "by_id": {1: "x", (2, 3): None},
    }  # fmt: skip
    assert decode(encode(row)).value == row


TIMES = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1e9, 9.9e8, 1.7e9])
HEADERS = st.tuples(st.sampled_from([2, 2, 2, 1]), st.sampled_from([0, 0, 0, 1, 8]), TIMES, TIMES)


@searching(300)
@given(st.lists(HEADERS | st.binary(max_size=20), min_size=1, max_size=6))
def test_headers_read_together_are_those_read_one_by_one(parts):
    payloads = []
    for part in parts:
        if isinstance(part, bytes):
            payloads.append(part)
        else:
            version, flags, expires_at, load_seconds = part
            with contextlib.suppress(OverflowError):  # no float of four bytes
                payloads.append(struct.pack(">BBdf", version, flags, expires_at, load_seconds) + b"body")
    if not payloads:
        return
    try:
        alone = [codec.read_header(payload) for payload in payloads]
        plain = all(flags == 0 for flags, _, _ in alone)
    except CorruptPayloadError:
        plain = False
    found = codec.read_plain(payloads)
    assert (found is not None) is plain
    if found is not None:
        bodies, expiries, seconds = found
        assert bodies == [payload[codec.HEADER_SIZE :] for payload in payloads]
        assert [(0, *times) for times in zip(expiries, seconds, strict=True)] == alone


@pytest.mark.parametrize("answer", [1, "text", None, [b"x"], 1.5])
def test_what_is_no_bytes_is_no_payload(answer):
    assert codec.read_plain([answer]) is None
