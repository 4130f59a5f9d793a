"""``resize_pool``: more room at once, less room without ending a lease."""

import asyncio

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.connection_pool_manager import ConnectionPoolManager, UnknownPoolError
from tests.support.clock import until_idle


@pytest.fixture
async def pools(tmp_path):
    manager = ConnectionPoolManager()
    await manager.create_pool("lite", "sqlite", 1, 2, url=f"sqlite:///{tmp_path}/lite.db")
    yield manager
    for runner in manager._pools.values():
        runner.pool.check_invariants()
    await manager.disable()


async def until(holds):
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


async def test_more_room_serves_those_who_wait(pools):
    held = [await pools.acquire_connection("lite") for _ in range(2)]
    waiting = [asyncio.create_task(pools.acquire_connection("lite", timeout=60)) for _ in range(3)]
    await until_idle()
    assert await pools.resize_pool("lite", max_size=5)
    held += await asyncio.gather(*waiting)
    figures = (await pools.get_statistics())["lite"]
    assert (figures["active_connections"], figures["max_size"], figures["min_size"]) == (5, 5, 1)
    for lease in held:
        await pools.release_connection("lite", lease)


async def test_less_room_closes_what_is_idle_and_the_rest_when_it_comes_back(pools):
    await pools.resize_pool("lite", 6, 6)
    pool = pools._pools["lite"].pool
    await until(lambda: len(pool.idle) == 6)
    held = [await pools.acquire_connection("lite") for _ in range(4)]
    await pools.resize_pool("lite", max_size=2)
    assert (pool.options.min_size, pool.options.max_size) == (2, 2)
    await until(lambda: pool.total == 4)
    for lease in held:
        assert await (await lease.execute("SELECT 7")).fetchone() == (7,), "leases go on"
        await pools.release_connection("lite", lease)
    await until(lambda: pool.total == len(pool.idle) == 2)


async def test_a_larger_minimum_is_opened_in_the_background(pools):
    await pools.resize_pool("lite", min_size=12, max_size=20)
    await until(lambda: len(pools._pools["lite"].pool.idle) == 12)


@pytest.mark.parametrize(
    ("sizes", "word"),
    [
        ({}, "neither min_size nor max_size"),
        ({"max_size": 0}, "max_size = 0"),
        ({"max_size": True}, "max_size = True"),
        ({"max_size": 10_001}, "max_size = 10001"),
        ({"min_size": -1}, "min_size = -1"),
        ({"min_size": 3}, "min_size = 3: expected at most max_size = 2"),
        ({"max_size": float("nan")}, "max_size = nan"),
    ],
)
async def test_sizes_that_are_none_are_named_and_change_nothing(pools, sizes, word):
    with pytest.raises(InvalidArgumentError, match=word):
        await pools.resize_pool("lite", **sizes)
    figures = (await pools.get_statistics())["lite"]
    assert (figures["min_size"], figures["max_size"]) == (1, 2)


async def test_a_pool_that_is_not_there_is_named(pools):
    with pytest.raises(UnknownPoolError, match=r"'heavy'.*known pools: 'lite'"):
        await pools.resize_pool("heavy", max_size=2)


async def test_two_changes_at_once_both_hold(pools):
    await asyncio.gather(pools.resize_pool("lite", max_size=9), pools.resize_pool("lite", min_size=0))
    options = pools._pools["lite"].spec.options
    assert (options.min_size, options.max_size) == (0, 9)


def test_a_pool_whose_loop_has_ended_is_opened_with_the_new_size(tmp_path):
    pools = ConnectionPoolManager()

    async def make():
        await pools.create_pool("lite", "sqlite", 1, 2, url=f"sqlite:///{tmp_path}/lite.db")

    async def resize_and_use():
        await pools.resize_pool("lite", max_size=3)
        async with pools.connection("lite"), pools.connection("lite"), pools.connection("lite", timeout=20):
            pass
        await pools.disable()

    asyncio.run(make())
    asyncio.run(resize_and_use())


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_mongodb_pool_has_a_client_of_the_new_size_and_old_leases_go_on(pools, mongodb_url, driver):
    await pools.create_pool("mongo", "mongodb", 0, 1, url=mongodb_url, driver=driver)
    old = await pools.acquire_connection("mongo")
    waiting = asyncio.create_task(pools.acquire_connection("mongo", timeout=20))
    await asyncio.sleep(0)
    await pools.resize_pool("mongo", min_size=1)  # the client stays
    assert not pools._replaced
    await pools.resize_pool("mongo", max_size=2)
    new = await waiting
    for lease, size in ((old, 1), (new, 2)):
        assert (await lease.command("ping"))["ok"] == 1
        assert lease.client.options.pool_options.max_pool_size == size
        await pools.release_connection("mongo", lease)
    await until(lambda: not pools._replaced)
