"""Rates of the last minutes, read from one status after the other."""

from __future__ import annotations

import pytest

from bot.core.phase4_statistics.rolling_rates import PACE_WINDOW, WINDOW, RecentFigures, RecentReader


def optimizer(hits=0, misses=0, executions=0, milliseconds=0.0):
    return {
        "query_optimizer": {
            "cache_hits": hits,
            "cache_misses": misses,
            "total_executions": executions,
            "total_execution_time_ms": milliseconds,
        }
    }


def cache(hits=0, misses=0, evictions=0, insertions=0):
    return {
        "cache_manager": {
            "total_hits": hits,
            "total_misses": misses,
            "l1_evictions": evictions,
            "l1_insertions": insertions,
        }
    }


def limits(**counted):
    return {
        "rate_limiter": {
            "limits": {name: {"allowed": a, "blocked": b} for name, (a, b) in counted.items()},
        }
    }


@pytest.fixture
def read():
    reader = RecentReader(0.0)
    return lambda now, *services: reader.read(now, {k: v for each in services for k, v in each.items()})


def test_of_nothing_there_is_no_rate(read):
    assert read(1.0) == RecentFigures()
    assert read(2.0, optimizer(), cache(), limits(upload=(0, 0))).block_rate is None


def test_the_hit_rate_that_users_experience_is_of_both_caches(read):
    recent = read(1.0, optimizer(hits=1, misses=3), cache(hits=9, misses=7))
    assert recent.query_cache_hit_rate == 25.0
    assert recent.cache_hit_rate == 56.25
    assert recent.overall_hit_rate == 50.0


def test_it_is_of_one_where_the_other_is_off(read):
    recent = read(1.0, cache(hits=3, misses=1))
    assert (recent.query_cache_hit_rate, recent.cache_hit_rate, recent.overall_hit_rate) == (None, 75.0, 75.0)


def test_means_evictions_and_refusals(read):
    recent = read(
        1.0,
        optimizer(executions=4, milliseconds=100.0),
        cache(evictions=1, insertions=8),
        limits(upload=(6, 2), search=(10, 2)),
    )
    assert recent.query_avg_execution_time_ms == 25.0
    assert recent.cache_eviction_rate == 12.5
    assert recent.block_rate == 20.0


def test_more_evictions_than_insertions_are_all_there_is(read):
    read(0.5, cache(evictions=0, insertions=10))
    assert read(WINDOW + 1.0, cache(evictions=5, insertions=12)).cache_eviction_rate == 100.0


def test_what_happened_before_the_window_does_not_count(read):
    read(1.0, cache(hits=1_000, misses=0))
    recent = read(WINDOW + 2.0, cache(hits=1_001, misses=3))
    assert recent.cache_hit_rate == 25.0


def test_a_reset_in_between_does_no_harm(read):
    read(1.0, cache(hits=6, misses=2))
    recent = read(2.0, cache(hits=2, misses=0))
    assert recent.cache_hit_rate == 80.0


def test_a_limit_that_goes_takes_its_own_requests_with_it(read):
    read(1.0, limits(upload=(10, 0), search=(50, 50)))
    assert read(2.0, limits(upload=(30, 20))).block_rate == 40.0


def test_paces_need_two_readings_and_add_up_pools(read):
    pools = {"connection_pool_manager": {"a": {"max_size": 4, "total_acquired": 10}}}
    assert read(1.0, pools).leases_per_second is None
    pools["connection_pool_manager"] = {
        "a": {"max_size": 4, "total_acquired": 30},
        "b": {"max_size": 4, "total_acquired": 20},
    }
    assert read(PACE_WINDOW / 2 + 1.0, pools).leases_per_second == 8.0


@pytest.mark.parametrize(
    "told", [{"enabled": True, "error": "RuntimeError: broken"}, {"total_hits": "many"}, [], None, "off"]
)
def test_a_service_that_cannot_be_read_has_no_rates(read, told):
    assert read(1.0, {"cache_manager": told}) == RecentFigures()
