"""A large body is decoded in pieces, to the same value and with the same refusals as at once."""

import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core._shared import values as module
from bot.core._shared.errors import CorruptPayloadError
from bot.core._shared.values import decode_body, encode_body, thaw_in_pieces
from tests.core.shared.test_isolation import values
from tests.core.shared.test_msgpack_bounds import array


def in_pieces(body, piece):
    """The value, and how often others could run."""
    pieces = thaw_in_pieces(body, piece)
    turns = 0
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value, turns
        turns += 1


@pytest.fixture
def every_body(monkeypatch):
    """Small bodies are taken for what may build much, too."""
    monkeypatch.setattr(module, "must_be_walked", lambda body: True)


roots = st.one_of(
    values,
    st.lists(values, max_size=40),
    st.dictionaries(st.text(max_size=9), values, max_size=40),
    st.dictionaries(
        st.text(max_size=3), st.dictionaries(st.text(max_size=3), values, max_size=3), max_size=20
    ),
)


@given(value=roots, piece=st.integers(1, 300))
def test_any_value_comes_back(value, piece):
    body = encode_body(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "must_be_walked", lambda body: True)
        found, _ = in_pieces(body, piece)
    assert found == value
    assert repr(found) == repr(decode_body(body))


@given(value=roots, piece=st.integers(1, 50), data=st.data())
def test_what_is_broken_is_refused_or_read_as_at_once(value, piece, data):
    body = bytearray(encode_body(value))
    where = data.draw(st.integers(0, len(body) - 1))
    if data.draw(st.booleans()):
        del body[where:]
    else:
        body[where] = data.draw(st.integers(0, 255))
    body = bytes(body)
    try:
        at_once = repr(decode_body(body))
    except CorruptPayloadError:
        at_once = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "must_be_walked", lambda body: True)
        try:
            found = repr(in_pieces(body, piece)[0])
        except Exception:
            return  # the pass over all of it is stricter: a map has keys that are text
    assert found == at_once


@pytest.mark.parametrize("tail", [b"\x01", b"\x90" * 9], ids=["a number", "lists"])
def test_what_follows_the_value_is_refused(every_body, tail):
    with pytest.raises(CorruptPayloadError, match="goes on after its value"):
        in_pieces(encode_body([[1], [2]]) + tail, 1)


@pytest.mark.parametrize(
    "body", [array(3) + b"\x91" * 70 + b"\xc0\xc0\xc0", array(9) + b"\xc0", b"\x81\x01\x02"]
)
def test_a_body_out_of_bounds_is_refused(every_body, body):
    with pytest.raises(CorruptPayloadError):
        in_pieces(body, 8)


ROWS = [{"id": n, "name": f"user {n}", "seen": datetime.date(2026, 1, 1 + n % 28)} for n in range(15_000)]


@pytest.mark.parametrize(
    "value",
    [ROWS, {f"user:{n}": row for n, row in enumerate(ROWS)}, [[n, (n, n)] for n in range(50_000)]],
    ids=["rows", "by name", "lists"],
)
def test_a_large_one_is_read_in_many_pieces(every_body, value):
    body = encode_body(value)
    found, turns = in_pieces(body, 32 * 1024)
    assert found == value
    assert list(found) == list(value)
    assert turns >= 2 * len(body) // (40 * 1024), "a pass over it, then the pieces"


def test_equal_names_in_two_pieces_count_as_in_one(every_body):
    names = ["a", "b", "a", "c", "b"]
    parts = b"".join(msgspec.msgpack.encode(name) + bytes([number]) for number, name in enumerate(names))
    body = bytes([0x80 + len(names)]) + parts
    assert in_pieces(body, 3)[0] == decode_body(body) == {"a": 2, "b": 4, "c": 3}


def test_what_cannot_build_much_is_decoded_at_once():
    body = encode_body(b"text" * 100_000)
    assert in_pieces(body, 1024)[1] == 0
