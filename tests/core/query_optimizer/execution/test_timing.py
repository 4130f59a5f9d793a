"""Whose time an execution's time is, and which slow shapes are remembered."""

import asyncio

import pytest

from bot.core.query_optimizer import database_time
from bot.core.query_optimizer.execution.timing import MAX_LOGGED


async def test_the_wait_for_a_connection_is_not_the_querys_time(optimizer, clock, caplog):
    async def waits_then_runs(query, params):
        clock.jump(5.0)  # in the pool's queue
        with database_time():
            clock.jump(0.25)
        clock.jump(5.0)
        with database_time():
            clock.jump(0.5)
        return []

    await optimizer.execute("SELECT * FROM users", None, waits_then_runs)
    await optimizer.execute("UPDATE users SET a = 1", None, waits_then_runs)
    assert (await optimizer.get_statistics())["avg_execution_time_ms"] == pytest.approx(750)
    assert "Slow query" not in caplog.text


async def test_database_time_of_tasks_side_by_side_counts_once(optimizer, clock):
    async def one():
        with database_time():
            await asyncio.sleep(0)
            clock.jump(0.1)
            await asyncio.sleep(0)

    async def both(query, params):
        await asyncio.gather(one(), one())
        return []

    await optimizer.execute("SELECT 1", None, both)
    assert (await optimizer.get_statistics())["avg_execution_time_ms"] == pytest.approx(200)
    with database_time():  # nothing is being executed
        clock.jump(9.0)
    assert (await optimizer.get_statistics())["avg_execution_time_ms"] == pytest.approx(200)


async def test_shapes_whose_slow_line_is_remembered_are_bounded(optimizer, caplog):
    for n in range(MAX_LOGGED + 1):
        await optimizer.record_execution(f"SELECT a{n} FROM t", 2000)
    assert len(optimizer._recorder._slow_log._logged) == MAX_LOGGED
