"""A value that shares its parts is measured as it would be written out, before it is."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from bot.core._shared.errors import UnsupportedValueError
from bot.core._shared.msgpack_bounds import MAX_DEPTH
from bot.core._shared.values import MAX_CHARACTERS, decode_body, encode_body


class Color(IntEnum):
    RED = 1


def nested(depth: int, inside: Any) -> Any:
    for _ in range(depth):
        inside = [inside]
    return inside


@pytest.mark.parametrize("wrap", [list, tuple])
def test_one_long_list_that_stands_a_thousand_times_is_refused(wrap: type) -> None:
    numbers = wrap(range(100_000))
    with pytest.raises(UnsupportedValueError, match="1,000,000 parts"):
        encode_body([numbers] * 1000)


@pytest.mark.parametrize("extra", [None, (1,)])
def test_one_long_text_that_stands_a_thousand_times_is_refused(extra: Any) -> None:
    text = "x" * (MAX_CHARACTERS // 500)
    with pytest.raises(UnsupportedValueError, match="characters"):
        encode_body([text] * 1000 + [extra])


@pytest.mark.parametrize("inside", [None, (1,)])
def test_lists_that_double_at_each_level_are_refused(inside: Any) -> None:
    value: Any = [inside, inside]
    for _ in range(MAX_DEPTH - 4):
        value = [value, value]
    with pytest.raises(UnsupportedValueError):
        encode_body(value)


def test_a_cycle_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UnsupportedValueError):
        encode_body(value)


@pytest.mark.parametrize(
    "value",
    [
        nested(MAX_DEPTH, 1),
        {"a": 2**64, "b": [-(2**63) - 1, 2**64 - 1]},
        {"a": {1: 2}, "b": [{"c": (1, {"d": {3}})}]},
        {"": None, "é": b"\xde\xdf", "n": [True, 1.5, {}]},
        {f"k{i}": {"n": i, "t": "x" * 30} for i in range(600)},
        [[], {}, [[]], [{}]],
    ],
)
def test_what_is_plain_comes_back_as_it_was(value: Any) -> None:
    found = decode_body(encode_body(value))
    assert found == value
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    "value", [nested(MAX_DEPTH + 1, 1), [Color.RED], {Color.RED: 1}, [object()], {"a": "\ud800"}]
)
def test_what_could_not_come_back_is_refused(value: Any) -> None:
    with pytest.raises(UnsupportedValueError):
        encode_body(value)
