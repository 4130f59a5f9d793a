"""Limits written as text."""

import pytest

from bot.core.rate_limiter import RateLimitConfig, WindowLimit, parse_limits
from bot.core.rate_limiter.texts import limits_of


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("10/second", [(10, 1)]),
        ("100/hour", [(100, 3_600)]),
        ("5 per 2 minutes", [(5, 120)]),
        ("10/second;100/hour", [(10, 1), (100, 3_600)]),
        ("10 per hour, 500/7days | 1/month", [(10, 3_600), (500, 604_800), (1, 2_592_000)]),
        (" 3 / 0.5 Seconds ", [(3, 0.5)]),
        ("7/week;7/year", [(7, 604_800), (7, 31_536_000)]),
        ("5/minute;5/1 minute;5/60seconds", [(5, 60)]),
    ],
)
def test_each_limit_is_an_exact_window(text, limits):
    assert parse_limits(text) == tuple(WindowLimit(most, window) for most, window in limits)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ";", "10", "10/", "/second", "ten/second", "10/fortnight", "10/seconds;",
        "-1/second", "1.5/second",
        "10/second;;5/hour", "10 second", "10per", "1e3/hour", "10/seconds/hour", "10/second\n5",
        "\u0661/second",
        ";".join(["1/second"] * 17), "1/second" + " " * 500,
    ],
)  # fmt: skip
def test_anything_else_is_an_error_that_tells_what_is_meant(text):
    with pytest.raises(ValueError, match=r"limit = .*expected limits such as \"10/second\""):
        parse_limits(text)


@pytest.mark.parametrize("text", ["0/second", "100001/hour", "5/0 seconds", "5/2years", "5/0.0001 second"])
def test_numbers_out_of_bounds_are_named(text):
    with pytest.raises(ValueError, match=r"max_requests = |window = "):
        parse_limits(text)


def test_limits_that_hold_together_are_flat_and_each_once():
    rate = RateLimitConfig(1.0, 5)
    assert limits_of("x", "5/second") is WindowLimit(5, 1)
    assert limits_of("x", [rate, "5/second;9/hour", rate]) == (rate, WindowLimit(5, 1), WindowLimit(9, 3_600))
    assert limits_of("x", (rate,)) is rate
    for wrong in (5, None, [], (), {"5/second"}, [5]):
        with pytest.raises(TypeError, match=r"x = .*: expected a RateLimitConfig"):
            limits_of("x", wrong)
