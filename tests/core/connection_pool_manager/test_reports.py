"""What a pool tells of leases that are not given back, of outages and of waits."""

import asyncio
import gc
import logging

from bot.core.connection_pool_manager import PoolTimeoutError
from bot.core.connection_pool_manager.pool import OPEN_LIMIT
from tests.support.clock import until_idle


async def test_a_lease_held_long_is_reported_with_where_it_was_acquired(pool_of, clock, caplog):
    runner, _ = await pool_of(min_size=1, max_size=2, leak_threshold=30)

    async def forgetful_handler():
        return await runner.acquire()

    lease = await forgetful_handler()
    await clock.advance(29)
    assert caplog.text == ""
    await clock.advance(20)
    [report] = caplog.messages
    assert "connection 1 has been leased for 3" in report
    assert "test_reports.py" in report
    assert "in forgetful_handler" in report
    assert runner.figures().leaked == 1
    caplog.set_level(logging.INFO)
    runner.release(lease)
    assert "was released after" in caplog.messages[-1]


async def test_a_lease_that_was_waited_for_is_reported_with_where_it_was_acquired(pool_of, clock, caplog):
    runner, _ = await pool_of(min_size=1, max_size=1, leak_threshold=30)
    held = await runner.acquire()

    async def patient_handler():
        return await runner.acquire()

    waiting = asyncio.create_task(patient_handler())
    await until_idle()
    runner.release(held)
    lease = await waiting
    await clock.advance(40)
    [report] = caplog.messages
    assert "test_reports.py" in report
    assert "in patient_handler" in report
    runner.release(lease)


async def test_a_swarm_of_leaks_is_a_few_reports_a_minute(pool_of, clock, caplog):
    runner, _ = await pool_of(min_size=0, max_size=40, leak_threshold=10)
    leases = [await runner.acquire() for _ in range(30)]
    await clock.advance(12)
    assert len(caplog.messages) == 5
    assert runner.figures().leaked == 30
    clock.jump(60)
    leases.append(await runner.acquire())
    await clock.advance(12)
    assert "(25 more such reports were left out)" in caplog.messages[-1]
    for lease in leases:
        runner.release(lease)


async def test_a_lease_that_is_dropped_is_replaced_and_told(pool_of, caplog):
    runner, driver = await pool_of(min_size=1, max_size=1)
    lease = await runner.acquire()
    del lease
    gc.collect()
    await until_idle()
    assert "dropped without being released" in caplog.text
    assert runner.figures().leaked == 1
    assert [connection.number for connection in driver.open_now] == [2]


async def test_an_outage_is_told_once_tried_by_one_and_healed(pool_of, clock, caplog):
    runner, driver = await pool_of(min_size=3, max_size=5, acquire_timeout=5, keepalive_interval=1000)
    driver.refuses = True
    for connection in driver.connections:
        connection.is_open = False
    driver.most_connecting = driver.attempts = 0
    waiting = [asyncio.create_task(runner.acquire()) for _ in range(50)]
    await clock.advance(6)
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(error, PoolTimeoutError) for error in errors)
    assert "The server cannot be reached" in str(errors[0])
    assert "nobody listens" in str(errors[0].__cause__)
    assert sum("still trying" in line for line in caplog.messages) == 1
    assert driver.attempts < 40, "no storm"
    driver.refuses = False
    served = [asyncio.create_task(runner.acquire()) for _ in range(5)]
    await clock.advance(3)
    leases = await asyncio.gather(*served)
    assert len({lease.number for lease in leases}) == 5
    assert driver.most_connecting <= OPEN_LIMIT
    assert runner.figures().healthy
    for lease in leases:
        runner.release(lease)


async def test_a_driver_that_cannot_judge_costs_a_connection_and_no_answer(pool_of, monkeypatch, caplog):
    runner, _ = await pool_of(min_size=1, max_size=1)

    def judge(raw):
        raise AttributeError("renamed in a later version")

    monkeypatch.setattr(runner, "_verdict", judge)
    for turn in range(3):
        lease = await runner.acquire()
        assert lease.number == turn + 1
        runner.release(lease)
    assert caplog.text.count("does not show the state") == 1


async def test_waits_are_a_histogram(pool_of, clock):
    runner, _ = await pool_of(min_size=1, max_size=1)
    held = await runner.acquire()
    waiting = asyncio.create_task(runner.acquire())
    await clock.advance(0.5)
    runner.release(held)
    runner.release(await waiting)
    found = runner.histogram()
    assert (found.name, found.count, found.sum) == ("pool_wait_seconds", 2, 0.5)
    assert found.labels == {"pool": "p", "backend": "redis"}
