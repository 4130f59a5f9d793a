"""The table of limits and tiers, without a service."""

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.phase4_config.rate_limiter import RateLimiterSettings
from bot.core.rate_limiter import Backoff, RateLimitConfig, UnknownTierError
from bot.core.rate_limiter.mirror import Mirror
from bot.core.rate_limiter.table import MANY_LIMITS, LimitTable
from tests.support.clock import VirtualClock

FREE, PREMIUM = RateLimitConfig(1.0, 5), RateLimitConfig(10.0, 50)


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def table(clock):
    table = LimitTable(clock)
    yield table
    table.check_invariants()


def open_table(table, *, default=None, tiers=None, shared=False, **settings):
    table.open(RateLimiterSettings().changed(**settings), default, tiers, shared=shared)
    table.check_invariants()


def test_closed_it_remembers_the_limits_and_has_no_buckets(table):
    table.set_tier("free", FREE)
    table.set_default(PREMIUM)
    assert table.all() == []
    open_table(table)
    assert [buckets.config for buckets in table.all()] == [PREMIUM, FREE]
    table.close()
    table.check_invariants()
    assert (table.all(), table.default, table.tiers) == ([], PREMIUM, {"free": FREE})


def test_what_did_not_change_keeps_its_buckets(table):
    open_table(table, default=PREMIUM, tiers={"free": FREE, "paid": PREMIUM})
    default, free, paid = table.all()
    own = table.find(FREE, None, 1)
    open_table(table, tiers={"free": FREE, "paid": RateLimitConfig(20.0, 50)})
    assert table.find(None, None, 1) is default
    assert table.find(None, "free", 1) is free
    assert table.find(None, "paid", 1) is not paid
    assert table.find(FREE, None, 1) is own
    open_table(table, tiers={"free": FREE})
    assert table.tiers == {"free": FREE}, "tiers that are given replace all"


def test_a_backoff_holds_at_once_for_limits_without_one_of_their_own(table):
    own = RateLimitConfig(1.0, 5, backoff=Backoff(base=3.0, max=30.0))
    open_table(table, default=FREE, tiers={"own": own}, backoff_base=2.0, backoff_max=20.0)
    default, tier = table.all()
    assert (default.penalties.base, tier.penalties.base) == (2.0, 3.0)
    open_table(table, backoff_base=4.0)
    assert (default.penalties.base, tier.penalties.base) == (4.0, 3.0)
    open_table(table, backoff=False)
    assert (default.penalties.base, tier.penalties.base) == (0.0, 3.0)


def test_the_default_limit_may_be_asked_for_by_its_config(table):
    open_table(table, default=FREE)
    default = table.find(None, None, 1)
    own = table.find(FREE, None, 1)
    assert own is not default
    assert table.of_limit(FREE) == [own, default]
    assert table.of_limit(PREMIUM) == [table.find(PREMIUM, None, 1)]
    table.set_tier("free", FREE)
    assert table.of_limit("free") == [table.find(None, "free", 1)]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((None, "unknown", 1), UnknownTierError),
        ((FREE, "free", 1), InvalidArgumentError),
        ((None, "free", 6), InvalidArgumentError),
        ((None, "free", 0), InvalidArgumentError),
        ((None, "free", True), InvalidArgumentError),
        (({"burst": 5}, None, 1), TypeError),
    ],
)
def test_misuse(table, arguments, error):
    open_table(table, tiers={"free": FREE})
    with pytest.raises(error):
        table.find(*arguments)


def test_limits_without_a_live_bucket_are_dropped_and_stay_counted(table, clock):
    open_table(table)
    kept = table.find(RateLimitConfig(0.001, 1), None, 1)
    kept.take("u", clock.monotonic(), 1)
    for burst in range(2, MANY_LIMITS * 3):
        buckets = table.find(RateLimitConfig(1_000.0, burst), None, 1)
        buckets.take("u", clock.monotonic(), 1)
        buckets.allowed = 1
        clock.jump(1.0)
        table.check_invariants()
    assert len(table.by_config) <= MANY_LIMITS + 2
    assert table.find(kept.config, None, 1) is kept, "its bucket is not full yet"
    counted = sum(buckets.allowed for buckets in table.all() if buckets is not kept) + table.dropped[0]
    assert counted == MANY_LIMITS * 3 - 2
    table.reset_counts()
    assert table.dropped == [0, 0]
    assert not any(buckets.allowed for buckets in table.all())


def test_shared_the_buckets_are_mirrors(table):
    open_table(table, tiers={"free": FREE}, shared=True)
    table.find(PREMIUM, None, 1)
    assert table.mirrors() == table.all()
    assert all(isinstance(buckets, Mirror) for buckets in table.all())
    assert len({buckets.limit_id for buckets in table.mirrors()}) == 3
    table.close()
    open_table(table)
    assert table.mirrors() == []


def test_labels(table):
    open_table(table, tiers={"free": FREE})
    table.find(RateLimitConfig(1.0, 5, name="uploads"), None, 1)
    table.find(RateLimitConfig(0.5, 7), None, 1)
    assert [name for name, _ in table.labelled()] == ["default", "tier free", "uploads", "0.5/s burst 7"]
