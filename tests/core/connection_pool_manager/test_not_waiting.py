"""``timeout=0``: an idle connection, or an error at once."""

import asyncio
import math

import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager, PoolTimeoutError
from tests.support.clock import until_idle


async def test_it_leases_what_is_idle_without_a_ping_and_opens_nothing(pool_of, clock):
    runner, driver = await pool_of(min_size=1, max_size=5, acquire_timeout=1000, keepalive_interval=10_000)
    clock.jump(100)  # idle for long: a caller that waits would have it pinged
    lease = await runner.acquire(0)
    assert lease.number == 1
    with pytest.raises(PoolTimeoutError, match=r"no connection is idle.*active 1, idle 0, max 5, waiters 0"):
        await runner.acquire(0)
    await until_idle()
    assert driver.pinged == []
    assert driver.attempts == 1
    assert runner.figures().failed_acquisitions == 1
    runner.release(lease)
    runner.release(await runner.acquire(0))


async def test_it_overtakes_nobody_who_waits(pool_of):
    runner, _ = await pool_of(min_size=1, max_size=1)
    held = await runner.acquire()
    waiting = asyncio.create_task(runner.acquire())
    await until_idle()
    runner.release(held)
    with pytest.raises(PoolTimeoutError):
        await runner.acquire(0)
    runner.release(await waiting)


async def test_it_leaves_out_what_is_lost_out_of_date_or_suspected(pool_of, clock):
    runner, _ = await pool_of(min_size=3, max_size=3, max_lifetime=1000)
    lost, old, suspect = runner.pool.idle
    lost.raw.is_open, old.expires_at = False, clock.monotonic()
    suspect.suspect, suspect.proved_at = True, -math.inf
    with pytest.raises(PoolTimeoutError):
        await runner.acquire(0)
    old.expires_at += 1
    assert (await runner.acquire(0))._slot is old


async def test_the_manager_takes_zero_for_a_block_too(tmp_path):
    pools = ConnectionPoolManager()
    await pools.create_pool("lite", "sqlite", 1, 1, url=f"sqlite:///{tmp_path}/lite.db")
    try:
        for zero in (0, 0.0, -0.0):
            async with pools.connection("lite", timeout=zero) as conn:
                assert await (await conn.execute("SELECT 7")).fetchone() == (7,)
                with pytest.raises(PoolTimeoutError, match=r"timeout = 0 does not wait.*test_not_waiting.py"):
                    await pools.acquire_connection("lite", timeout=zero)
    finally:
        await pools.disable()
