"""Two instances over a real Redis cluster of three nodes."""

import asyncio

import pytest

from bot.core.cache_manager import CacheManager
from bot.core.redis_link import RedisLink
from tests.support.servers import RedisCluster
from tests.support.waiting import equals, until

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def cluster():
    servers = RedisCluster()
    try:
        servers.start()
        yield servers
    finally:
        servers.close()


@pytest.fixture
async def pair(cluster):
    caches = [CacheManager(), CacheManager()]
    for cache in caches:
        await cache.enable(redis_url=cluster.url)
    yield caches
    await caches[0].clear()
    for cache in caches:
        await cache.disable()
    assert not RedisLink._links


async def test_keys_of_all_slots_are_shared_and_read_together(pair):
    a, b = pair
    items = {f"k{n}": [n] for n in range(300)}
    assert await a.set_many(items, tags=["t"]) == 300
    values = await asyncio.gather(*[b.get(key, namespace="default") for key in items])
    assert values == list(items.values())
    assert b._l2.link.reader.batches <= 6, "a batch or two for each node"
    assert (await b.get_statistics())["l2_errors"] == 0


async def test_keys_on_every_node_are_counted_added_and_touched(pair):
    a, b = pair
    keys = [f"n:{n}" for n in range(30)]
    for key in keys:
        await a.set(key, 1, tags=["t"])
    assert await asyncio.gather(*[b.incr(key) for key in keys]) == [2] * 30
    assert await asyncio.gather(*[b.touch(key, 60) for key in keys]) == [True] * 30
    assert not any(await asyncio.gather(*[a.add(key, 0) for key in keys]))
    await b.invalidate_tag("t")
    assert all(await asyncio.gather(*[a.add(key, 0) for key in keys]))
    for key in keys:
        await until(lambda key=key: equals(lambda: b.get(key), 0))


@pytest.mark.parametrize("change", ["set", "delete", "tag", "pattern", "clear"])
async def test_a_change_in_one_is_seen_by_the_other(pair, change):
    a, b = pair
    keys = [f"k{n}" for n in range(20)]
    await a.set_many(dict.fromkeys(keys, "old"), tags=["t"])
    assert await b.get_many(keys) == dict.fromkeys(keys, "old")
    if change == "set":
        await a.set_many(dict.fromkeys(keys, "new"))
    elif change == "delete":
        for key in keys:
            assert await a.delete(key)
    elif change == "tag":
        assert await a.invalidate_tag("t") == 20
    elif change == "pattern":
        assert await a.invalidate_pattern("k*") == 20
    else:
        await a.clear()
    expected = dict.fromkeys(keys, "new") if change == "set" else {}
    await until(lambda: equals(lambda: b.get_many(keys), expected))


async def test_one_instance_loads_for_all_and_locks_hold_on_every_node(pair):
    loads = []

    async def load(key):
        loads.append(key)
        await asyncio.sleep(0)
        return key

    keys = [*(f"load:{n}" for n in range(20)), "{braces}:1", "a{b}c", "{}", "a}b", "{"]
    for tags in ((), ("t",)):
        calls = [
            cache.get_or_load(key, lambda key=key: load(key), tags=tags, lock=True)
            for key in keys
            for cache in pair
        ]
        assert await asyncio.gather(*calls) == [key for key in keys for _ in pair]
        assert set(loads) == set(keys)
        # The two that are in another slot than any lease could be.
        assert {key for key in keys if loads.count(key) > 1} <= {"{}", "a}b"}
        loads.clear()
        for key in keys:
            assert await pair[0].get(key) == key
            await pair[0].delete(key)
    assert (await pair[0].get_statistics())["l2_errors"] == 0
    async with pair[0].lock("k") as lease:
        assert lease.shared
        with pytest.raises(TimeoutError):
            async with pair[1].lock("k", wait=0.01):
                pytest.fail("two are inside")


async def test_a_node_that_is_killed_is_misses_and_no_error(pair, cluster):
    a, b = pair
    keys = [f"k{n}" for n in range(60)]
    await a.set_many(dict.fromkeys(keys, 1))
    cluster.nodes[2].kill()
    try:

        async def load():
            return 1

        for _ in range(3):
            assert await asyncio.gather(*[b.get_or_load(key, load) for key in keys]) == [1] * 60
            assert await a.set("after", 1)
    finally:
        cluster.nodes[2].start()
