"""Every public awaitable, cancelled at each of its suspensions, on each kind of event loop.

By default a few points of a few services. ``make sweep`` (``__main__``) takes more than 5,000 on each loop.
"""

import pytest

from tests.cancellation.sweep.everything import (
    LOOPS,
    ON_MONGODB,
    ON_POSTGRESQL,
    WORLDS,
    maker_of,
    redis_of_a_busy_machine,
    why_not,
)
from tests.cancellation.sweep.of_balancer import BalancerWorld
from tests.cancellation.sweep.of_limiter import LimiterAloneWorld
from tests.cancellation.sweep.of_pools import SqliteWorld
from tests.cancellation.sweep.public import public_awaitables
from tests.cancellation.sweep.sweeping import run_sweep
from tests.cancellation.sweep.worlds import Servers
from tests.support.searching import SHARE

QUICK = (SqliteWorld, LimiterAloneWorld, BalancerWorld)
"""Worlds of `make test`."""

LONG = 5.0
"""The share of cases from which all worlds are looked at."""

POINTS = 2
"""Points of each scenario by default."""

EXCEPTIONS = {
    # They compute figures that are at hand, and never suspend.
    "CacheManager.get_statistics", "QueryOptimizer.get_statistics", "RateLimiter.get_statistics",
    "BatchProcessor.get_statistics", "LoadBalancer.get_statistics", "Outbound.get_statistics",
    "ConnectionPoolManager.get_statistics", "ConnectionPoolManager.get_all_statistics",
    # They return another wrapper, which awaits nothing by itself.
    "CachedCollection.with_options", "CachedCursor.clone",
}  # fmt: skip


def test_each_public_awaitable_is_in_a_scenario():
    covered = {name for world in WORLDS for each in world.scenarios() for name in each.covers}
    missing = public_awaitables() - covered - EXCEPTIONS
    assert not missing, f"write a scenario in tests/cancellation/sweep for: {sorted(missing)}"


def test_no_exception_is_out_of_date():
    covered = {name for world in WORLDS for each in world.scenarios() for name in each.covers}
    assert not EXCEPTIONS & covered
    assert public_awaitables() >= EXCEPTIONS


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name.replace(" ", "_"))
def test_nothing_is_left_behind(world, loop, request, redis_url, tmp_path):
    if world not in QUICK and SHARE < LONG:
        pytest.skip("the long search and make sweep look at this")
    if reason := why_not(loop):
        pytest.skip(reason)
    servers = Servers(
        redis_of_a_busy_machine(redis_url),
        request.getfixturevalue("postgresql_url") if world in ON_POSTGRESQL else "",
        request.getfixturevalue("mongodb_url") if world in ON_MONGODB else "",
        tmp_path,
    )
    found = run_sweep(maker_of(loop), world(servers), max(1, round(POINTS * SHARE)))
    assert not found.faults, "\n".join(found.faults)
