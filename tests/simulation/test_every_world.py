"""All services at once, also where Redis loses what it holds: the queue has another, as documented."""

from __future__ import annotations

import pytest

from tests.simulation.every_world import EveryWorld
from tests.simulation.world import World


def keys_of(redis):
    return {key for database in redis.server.dbs.values() for key in database._dict}


@pytest.mark.parametrize(("seed", "kind"), [(8, "lose redis"), (16, "wrong type")])
def test_redis_loses_what_it_holds_and_the_queue_does_not(seed, kind):
    world = World(seed, EveryWorld)
    world.run()
    assert any(f" fault {kind} " in line for line in world.lines)
    queued = {key for key in keys_of(world.scenario.queue) if b"{batch:" in key}
    assert b"phase4:{batch:default}:item:item0" in queued
    assert not queued & keys_of(world.redis)
