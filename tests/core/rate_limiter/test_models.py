"""Limits and statuses."""

import copy
import gc
import pickle

import pytest

from bot.core.rate_limiter import Backoff, RateLimitConfig
from bot.core.rate_limiter.models import _interned


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requests_per_second", value)
        for value in (0, -1, float("nan"), float("inf"), -float("inf"), "10", None, True, 2e12, 1e-12)
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
    with pytest.raises(ValueError, match=rf"^{field} = 1000.*: expected .*1,000,000,000"):
        RateLimitConfig(**{field: 10**400})


def test_equal_limits_are_one_limit_and_named_ones_are_not():
    assert RateLimitConfig(2, 5) is RateLimitConfig(requests_per_second=2.0, burst_size=5)
    assert RateLimitConfig(2, 5) != RateLimitConfig(2, 6)
    assert RateLimitConfig(2, 5, name="a") != RateLimitConfig(2, 5, name="b")


def test_copies_and_pickles_are_the_same_limit():
    config = RateLimitConfig(2, 5, "upload")
    assert copy.deepcopy(config) is config
    assert pickle.loads(pickle.dumps(config)) is config


def test_a_limit_has_the_default_backoff_none_or_its_own():
    own = Backoff(base=1, max=60, grace=5)
    limits = [RateLimitConfig(2, 5, backoff=choice) for choice in ("default", None, own)]
    assert len(set(limits)) == 3
    assert limits[0] is RateLimitConfig(2, 5)
    assert limits[2] is RateLimitConfig(2, 5, backoff=Backoff(1.0, 60.0, 5.0))
    assert pickle.loads(pickle.dumps(limits[2])) is limits[2]
    assert "backoff=Backoff(base=1, max=60, grace=5)" in repr(limits[2])
    with pytest.raises(AttributeError, match="base"):
        own.base = 5


@pytest.mark.parametrize("backoff", [True, False, 2.0, "off", {"base": 1}, []])
def test_what_is_no_backoff_is_refused(backoff):
    with pytest.raises(ValueError, match=r"backoff = .*: expected a Backoff, None or"):
        RateLimitConfig(2, 5, backoff=backoff)


@pytest.mark.parametrize("field", ["base", "max", "grace"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 10**400, "2", True, None])
def test_a_bad_figure_of_a_backoff_is_named(field, value):
    with pytest.raises(ValueError, match=rf"^{field} = .*: expected a number of seconds"):
        Backoff(**{field: value})


def test_a_backoff_that_shrinks_is_refused():
    with pytest.raises(ValueError, match="base = 5: expected at most max = 1"):
        Backoff(base=5, max=1)


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


@pytest.mark.parametrize("base", [5e-324, 1e-7])
def test_a_base_that_would_be_doubled_for_ever_is_refused(base):
    with pytest.raises(ValueError, match=r"^base = .*: expected a number of seconds >= 0\.000001"):
        Backoff(base=base)
