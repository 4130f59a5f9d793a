"""Pools and event loops: made under one, used or closed under another."""

import asyncio
import threading

import pytest

from bot.core._shared.errors import MisuseError
from bot.core.connection_pool_manager import ConnectionPoolManager


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/pool.db"


async def one(manager):
    async with manager.connection("p") as conn:
        return await (await conn.execute("SELECT 1")).fetchone()


def test_a_pool_whose_loop_ended_is_made_anew_and_keeps_counting(url):
    manager = ConnectionPoolManager()

    async def first():
        await manager.create_pool("p", "sqlite", min_size=1, max_size=2, url=url)
        assert await one(manager) == (1,)

    async def second():
        assert await one(manager) == (1,)
        return (await manager.get_statistics())["p"]["total_acquired"]

    asyncio.run(first())
    assert asyncio.run(second()) == 2
    assert asyncio.run(manager.disable())
    assert asyncio.run(manager.get_statistics()) == {}


def test_a_pool_of_another_running_loop_is_refused_and_closed_from_here(url):
    manager = ConnectionPoolManager()
    ready, end = threading.Event(), threading.Event()

    async def other():
        await manager.create_pool("p", "sqlite", min_size=1, max_size=2, url=url)
        ready.set()
        while not end.is_set():
            await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(other()))
    thread.start()
    assert ready.wait(10)

    async def here():
        with pytest.raises(MisuseError, match="another running event loop"):
            await manager.acquire_connection("p")
        assert await manager.disable()

    try:
        asyncio.run(here())
    finally:
        end.set()
        thread.join()


def test_a_lease_outlives_its_loop_and_is_given_back_under_the_next(url):
    manager = ConnectionPoolManager()

    async def acquire():
        await manager.create_pool("p", "sqlite", min_size=1, max_size=1, url=url)
        return await manager.acquire_connection("p")

    lease = asyncio.run(acquire())
    asyncio.run(manager.release_connection("p", lease))
    assert asyncio.run(one(manager)) == (1,)
    assert asyncio.run(manager.disable())
