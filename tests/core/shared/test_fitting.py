"""Which values fit which annotations."""

import collections.abc
import datetime
import enum
import typing
from typing import Annotated, Any, Final, Literal, NewType, Protocol, TypedDict, TypeVar

import msgspec
import pytest

from bot.core._shared.fitting import field_types, fits


class Colour(enum.Enum):
    RED = 1


class Named(TypedDict):
    name: str


class Loud(Protocol):
    def shout(self) -> None: ...


UserId = NewType("UserId", int)
T = TypeVar("T")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, int), (True, int), (1, float), (1.0, float), (None, None), ("x", Any), (object(), object),
        (None, int | None), (3, int | str), ("a", Literal["a", 1]), (Colour.RED, Colour), (5, UserId),
        ([1, 2], list[int]), ([], list[int]), ((1, "a"), tuple[int, str]), ((1, 2, 3), tuple[int, ...]),
        ((), tuple[()]), ({"a": 1}, dict[str, int]), ({1}, set[int]), (frozenset({1}), frozenset[int]),
        ([1], collections.abc.Sequence[int]), ({"a": 1}, collections.abc.Mapping[str, int]),
        (5, Annotated[int, msgspec.Meta(gt=4)]), ("ab", Annotated[str, "a note"]), (1, Final[int]),
        ({"name": 1}, Named), (1, Loud), (1, T), ("x", "a name that was not found"), ([1], list),
        (datetime.date(2026, 1, 1), datetime.date), (len, typing.Callable[[int], int]),
        ("a", type("X", (), {}) | str),
    ],
)  # fmt: skip
def test_what_a_type_checker_accepts_fits(value, hint):
    assert fits(value, hint)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("1", int), (True, float), (1.5, int), (None, int), (1, None), (b"x", str), ([1, "a"], list[int]),
        ((1,), list[int]), ((1, 2), tuple[int, str]), ((1,), tuple[int, str]), ((1, "a"), tuple[int, ...]),
        ((1,), tuple[()]), ((1, 2), tuple[int]), ({1: 1}, dict[str, int]), ({"a": "b"}, dict[str, int]),
        ("b", Literal["a"]), (True, Literal[1]), (1, Colour), ("5", UserId), (1, Named), ({"a"}, set[int]),
        (4, Annotated[int, msgspec.Meta(gt=4)]), ("abc", Annotated[str, msgspec.Meta(max_length=2)]),
        ([[1], ["a"]], list[list[int]]), (b"x", str | int),
        (1, typing.Callable[[int], int]),
    ],
)  # fmt: skip
def test_what_a_type_checker_refuses_does_not_fit(value, hint):
    assert not fits(value, hint)


def test_a_class_that_names_what_is_not_there_tells_nothing():
    class Broken:
        field: "Nowhere"  # noqa: F821 - that is the point

    assert field_types(Broken) == {}
