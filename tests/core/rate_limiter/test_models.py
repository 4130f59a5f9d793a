"""Limits and statuses."""

import copy
import gc
import pickle

import pytest

from bot.core.rate_limiter import RateLimitConfig
from bot.core.rate_limiter.models import _interned


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requests_per_second", value)
        for value in (0, -1, float("nan"), float("inf"), -float("inf"), "10", None, True, 2_000_000, 1e-12)
    ]
    + [
        ("burst_size", value)
        for value in (0, -1, 0.5, 1.5, float("nan"), float("inf"), "5", None, True, 10**10)
    ],
)
def test_a_bad_limit_names_field_and_value(field, value):
    with pytest.raises(ValueError) as caught:
        RateLimitConfig(**{field: value})
    assert str(caught.value).startswith(f"{field} = {value!r}: expected ")


@pytest.mark.parametrize("field", ["requests_per_second", "burst_size"])
def test_a_limit_larger_than_any_float_is_refused_by_name_and_bounds(field):
    with pytest.raises(ValueError, match=rf"^{field} = 1000.*: expected .*1,000,000"):
        RateLimitConfig(**{field: 10**400})


def test_equal_limits_are_one_limit_and_named_ones_are_not():
    assert RateLimitConfig(2, 5) is RateLimitConfig(requests_per_second=2.0, burst_size=5)
    assert RateLimitConfig(2, 5) != RateLimitConfig(2, 6)
    assert RateLimitConfig(2, 5, name="a") != RateLimitConfig(2, 5, name="b")


def test_copies_and_pickles_are_the_same_limit():
    config = RateLimitConfig(2, 5, "upload")
    assert copy.deepcopy(config) is config
    assert pickle.loads(pickle.dumps(config)) is config


def test_a_limit_cannot_be_changed():
    with pytest.raises(AttributeError, match="burst_size"):
        RateLimitConfig().burst_size = 1_000


def test_limits_nobody_holds_are_not_kept():
    gc.collect()
    before = len(_interned)
    for burst in range(1, 500):
        RateLimitConfig(123.0, burst)
    gc.collect()
    assert len(_interned) == before
