"""A cancellation at each await of acquiring, creating and closing: nothing stays behind."""

import asyncio
import contextlib
import itertools

import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager, LeaseError, PoolClosedError
from bot.core.phase4_config import PoolSettings
from tests.support.clock import until_idle
from tests.support.scripted_driver import scripted_pool


@pytest.fixture
async def runner(clock):
    made = scripted_pool(clock, min_size=0, max_size=1, acquire_timeout=1000)
    await made.start()
    yield made
    made.pool.check_invariants()
    await made.stop(drain=0.0)


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_while_waiting_in_the_queue(runner):
    held = await runner.acquire()
    waiting = asyncio.create_task(runner.acquire())
    behind = asyncio.create_task(runner.acquire())
    await until_idle()
    await cancelled(waiting)
    runner.release(held)
    runner.release(await behind)
    assert runner.figures().cancelled_acquisitions == 1
    assert runner.figures().failed_acquisitions == 0


async def test_in_the_tick_in_which_the_connection_is_granted(runner):
    held = await runner.acquire()
    waiting = asyncio.create_task(runner.acquire())
    behind = asyncio.create_task(runner.acquire())
    await until_idle()
    runner.release(held)  # granted, and not yet woken
    await cancelled(waiting)
    runner.release(await behind)
    assert runner.figures().active_connections == 0


async def test_cancelled_first_and_granted_before_it_could_leave(runner):
    held = await runner.acquire()
    waiting = asyncio.create_task(runner.acquire())
    behind = asyncio.create_task(runner.acquire())
    await until_idle()
    waiting.cancel()
    runner.release(held)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    runner.release(await behind)
    assert runner.figures().active_connections == 0


async def test_while_its_connection_is_being_opened(clock):
    runner = scripted_pool(clock, min_size=0, max_size=1)
    await runner.start()
    held = await runner.acquire()
    runner.release(held, healthy=False)
    runner.driver.gate = asyncio.Event()
    waiting = asyncio.create_task(runner.acquire())
    await until_idle()
    await cancelled(waiting)
    runner.driver.gate.set()
    await until_idle()
    assert runner.figures().idle_connections == 1, "who comes next has it"
    await runner.stop(drain=0.0)
    assert runner.driver.open_now == []


async def test_while_the_pool_is_being_created(clock):
    runner = scripted_pool(clock, min_size=3, max_size=5)
    runner.driver.gate = asyncio.Event()
    starting = asyncio.create_task(runner.start())
    await until_idle()
    await cancelled(starting)
    assert runner.driver.open_now == []
    assert runner.driver.connecting == 0
    assert runner.pool.total == 0


async def test_while_the_pool_fills_to_its_minimum(clock):
    runner = scripted_pool(clock, min_size=3, max_size=5)
    first = runner.driver.connect

    async def connect():
        if runner.driver.attempts:
            runner.driver.gate = asyncio.Event()
        return await first()

    runner.driver.connect = connect
    starting = asyncio.create_task(runner.start())
    await until_idle()
    await cancelled(starting)
    assert runner.driver.open_now == []
    assert runner.pool.total == 0


async def test_while_closing_waits_for_a_lease(clock):
    runner = scripted_pool(clock, min_size=1, max_size=1)
    await runner.start()
    lease = await runner.acquire()
    waiting = asyncio.create_task(runner.acquire())
    await until_idle()
    stopping = asyncio.create_task(runner.stop(drain=60.0))
    with pytest.raises(PoolClosedError):
        await waiting
    await cancelled(stopping)
    assert runner.driver.open_now == []
    runner.release(lease)
    assert runner.pool.total == 0


@pytest.mark.parametrize("change", ["url", "sizes", "gone", "both"])
async def test_at_each_await_of_changing_a_pool(tmp_path, change):
    def settings(**changed):
        fields = {"backend": "sqlite", "url": f"sqlite:///{tmp_path / 'a.db'}", "min_size": 2, "max_size": 3}
        return {"p": PoolSettings(**{**fields, **changed})}

    after = {
        "url": settings(url=f"sqlite:///{tmp_path / 'b.db'}"),
        "sizes": settings(min_size=1, max_size=1),
        "gone": {},
        "both": settings(url=f"sqlite:///{tmp_path / 'b.db'}", max_size=1, min_size=0),
    }[change]
    for turns in itertools.count():
        before = asyncio.all_tasks()
        manager = ConnectionPoolManager()
        await manager.enable(pools=settings())
        lease = await manager.acquire_connection("p")
        runner = manager._pools["p"]
        changing = asyncio.create_task(manager.enable(pools=after))
        for _ in range(turns):
            await asyncio.sleep(0)
        was_done = changing.done()
        changing.cancel()
        await asyncio.wait([changing])
        if change == "gone" and not was_done:
            with contextlib.suppress(LeaseError):
                await manager.release_connection("p", lease)
        else:
            await (await lease.execute("SELECT 1")).fetchone()
            await manager.release_connection("p", lease)
        # The next call finishes what was cancelled, and callers are served.
        assert await manager.enable(pools=settings())
        async with manager.connection("p", 20) as conn:
            await conn.execute("SELECT 1")
        runner.pool.check_invariants()
        manager._pools["p"].pool.check_invariants()
        assert await manager.disable()
        assert not runner.pool.total
        left = {task for task in asyncio.all_tasks() - before if not task.done()}
        assert not left, f"cancelled after {turns} turns: {left}"
        if was_done or turns > 60:
            break
    assert turns > 1
