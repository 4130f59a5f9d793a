"""A cancellation at each await of listening: no connection, no task and no listener stays behind."""

import asyncio
import contextlib

import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager, PoolClosedError, UnknownPoolError
from tests.core.connection_pool_manager.test_listening import nobody_listens


@pytest.fixture
async def pools(postgresql_url):
    manager = ConnectionPoolManager()
    await manager.create_pool("db", "postgresql", 1, 2, url=postgresql_url)
    yield manager
    await manager.disable()


async def test_cancelled_after_each_number_of_turns(pools):
    """Whether it is connecting, joining, reading or leaving then."""

    async def listen():
        async with pools.listen("db", "a", "b") as notifications:
            await pools.notify("db", "a", "x")
            await anext(notifications)

    turns, ended_well = 0, False
    while not ended_well:
        task = asyncio.create_task(listen())
        for _ in range(turns):
            await asyncio.sleep(0.001)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        ended_well = not task.cancelled()
        turns += 1
        async with asyncio.timeout(10):
            while pools._listeners._by_pool:
                await asyncio.sleep(0.001)
    await nobody_listens(pools)


async def test_closed_while_it_joins(pools, postgresql_url):
    for turns in range(0, 30, 5):
        await pools.create_pool("db", "postgresql", 1, 2, url=postgresql_url)

        async def listen():
            async with pools.listen("db", "a") as notifications:
                await anext(notifications)

        task = asyncio.create_task(listen())
        for _ in range(turns):
            await asyncio.sleep(0.001)
        assert await pools.close_pool("db")
        with pytest.raises((PoolClosedError, UnknownPoolError)):
            await task
        assert not pools._listeners._by_pool
    await pools.create_pool("db", "postgresql", 1, 2, url=postgresql_url)
    await nobody_listens(pools)
