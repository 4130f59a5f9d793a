"""Every public awaitable, cancelled at each of its suspensions, on each kind of event loop.

By default a few points of a few services; ``make sweep`` takes more than 5,000 on each loop, of all.
"""

import asyncio
import sys

import pytest

from tests.cancellation.sweep.of_balancer import BalancerWorld
from tests.cancellation.sweep.of_batches import BatchWorld, DurableWorld
from tests.cancellation.sweep.of_cache import CacheAloneWorld, CacheWorld
from tests.cancellation.sweep.of_integrations import AiogramWorld, PtbWorld, PyrogramWorld
from tests.cancellation.sweep.of_limiter import LimiterAloneWorld, LimiterWorld
from tests.cancellation.sweep.of_optimizer import CollectionWorld, OptimizerWorld, WatchedWorld
from tests.cancellation.sweep.of_outbound import OutboundWorld, SharedOutboundWorld
from tests.cancellation.sweep.of_pools import PostgresqlWorld, RedisPoolWorld, SqliteWorld
from tests.cancellation.sweep.of_startup import StartupWorld
from tests.cancellation.sweep.public import public_awaitables
from tests.cancellation.sweep.sweeping import sweep
from tests.cancellation.sweep.worlds import Servers
from tests.support.loops import eager_loop
from tests.support.searching import SHARE

WORLDS = [
    CacheWorld, CacheAloneWorld, OptimizerWorld, WatchedWorld, CollectionWorld, SqliteWorld, PostgresqlWorld,
    RedisPoolWorld, LimiterWorld, LimiterAloneWorld, BatchWorld, DurableWorld, BalancerWorld, OutboundWorld,
    SharedOutboundWorld, StartupWorld, AiogramWorld, PtbWorld, PyrogramWorld,
]  # fmt: skip

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


def new_loop(kind):
    if kind == "uvloop":
        return pytest.importorskip("uvloop").new_event_loop()
    if kind == "eager":
        if sys.version_info < (3, 12):
            pytest.skip("eager tasks came with Python 3.12")
        return eager_loop()
    return asyncio.new_event_loop()


def test_each_public_awaitable_is_in_a_scenario():
    covered = {name for world in WORLDS for each in world.scenarios() for name in each.covers}
    missing = public_awaitables() - covered - EXCEPTIONS
    assert not missing, f"write a scenario in tests/cancellation/sweep for: {sorted(missing)}"


def test_no_exception_is_out_of_date():
    covered = {name for world in WORLDS for each in world.scenarios() for name in each.covers}
    assert not EXCEPTIONS & covered
    assert public_awaitables() >= EXCEPTIONS


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "eager"])
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name.replace(" ", "_"))
def test_nothing_is_left_behind(world, loop, request, redis_url, tmp_path):
    if world not in QUICK and SHARE < LONG:
        pytest.skip("the long search, make sweep, looks at this")
    servers = Servers(
        # Not the timeout of a second: a machine that is busy is no Redis that is away.
        f"{redis_url}?socket_timeout=10",
        request.getfixturevalue("postgresql_url") if world in (PostgresqlWorld, WatchedWorld) else "",
        request.getfixturevalue("mongodb_url") if world is CollectionWorld else "",
        tmp_path,
    )
    with asyncio.Runner(debug=True, loop_factory=lambda: new_loop(loop)) as runner:
        runner.get_loop().slow_callback_duration = 60.0
        found = runner.run(sweep(world(servers), max(1, round(POINTS * SHARE))))
    print(f"\n{world.name} on {loop}: {found.points} points, {len(found.faults)} faults")
    assert not found.faults, "\n".join(found.faults)
