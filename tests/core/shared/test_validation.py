"""Checks of arguments: what passes is returned, what does not is named with its value and what is allowed."""

import math
from decimal import Decimal

import pytest

from bot.core._shared.errors import LARGEST, InvalidArgumentError
from bot.core._shared.validation import YEAR, valid_count, valid_number, valid_plain_name, valid_seconds

NO_NUMBERS = [math.nan, math.inf, -math.inf, -1, 10**400, True, "1", b"1", None, Decimal(1), [1]]


@pytest.mark.parametrize("value", [1, 0.5, 5e-324, 10**15, LARGEST])
def test_seconds_are_returned_as_a_float(value):
    found = valid_seconds("timeout", value)
    assert found == value
    assert type(found) is float


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0, 0.0, LARGEST * 2])
def test_what_is_no_time_is_refused_by_name(value):
    with pytest.raises(
        InvalidArgumentError, match=r"^timeout = .*: expected a finite number of seconds > 0$"
    ):
        valid_seconds("timeout", value)


def test_zero_seconds_pass_where_they_mean_something():
    assert valid_seconds("timeout", 0, zero=True) == 0.0
    with pytest.raises(ValueError, match=r"^timeout = -1: expected a finite number of seconds >= 0$"):
        valid_seconds("timeout", -1, zero=True)


def test_a_bound_is_told():
    assert valid_seconds("lease", 31_536_000, most=YEAR) == YEAR
    with pytest.raises(
        ValueError, match="lease = 31536001: expected a number of seconds > 0 and <= 31,536,000"
    ):
        valid_seconds("lease", 31_536_001, most=YEAR)


def test_none_stands_for_the_default_if_there_is_one():
    assert valid_seconds("timeout", None, default=0.0) == 0.0
    assert valid_count("size", None, 1, 5, default=3) == 3
    with pytest.raises(ValueError, match="size = None"):
        valid_count("size", None, 1, 5)


class Seconds(float):
    """A float of a type of its own, as numpy has them."""


def test_a_subclass_of_float_is_a_number():
    found = valid_seconds("timeout", Seconds(2.5))
    assert (found, type(found)) == (2.5, float)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(InvalidArgumentError, match=r"^size_mb = .*: expected a finite number > 0$"):
        valid_number("size_mb", value)


def test_a_number_is_returned_as_a_float():
    assert valid_number("size_mb", 3) == 3.0
    assert valid_number("share", 0, zero=True) == 0.0


@pytest.mark.parametrize("value", [0, 1001, 1.0, True, "5", None, 10**400])
def test_a_count_out_of_bounds_is_refused(value):
    with pytest.raises(InvalidArgumentError, match=r"^size = .*: expected a whole number from 1 to 1,000$"):
        valid_count("size", value, 1, 1_000)


def test_a_count_within_bounds_is_returned():
    assert [valid_count("size", value, 1, 1_000) for value in (1, 1_000)] == [1, 1_000]


@pytest.mark.parametrize("value", ["", "a b", "a" * 101, "é", "a\n", b"a", None])
def test_a_name_that_cannot_stand_in_a_key_is_refused(value):
    with pytest.raises(InvalidArgumentError, match=r"^queue_name = .*: expected 1 to 100 letters"):
        valid_plain_name("queue_name", value)


def test_a_plain_name_is_returned():
    assert valid_plain_name("queue_name", "bots:jobs-2.b_c") == "bots:jobs-2.b_c"
