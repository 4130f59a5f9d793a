"""The pool at work, on virtual time, over a server that the test plays."""

import asyncio
import random

import pytest

from bot.core.connection_pool_manager import LeaseError, PoolTimeoutError
from bot.core.connection_pool_manager.errors import PoolReplacedError
from bot.core.connection_pool_manager.pool import OPEN_LIMIT, Verdict
from tests.support.clock import until_idle


async def test_idle_connections_beyond_the_minimum_are_closed_the_longest_idle_first(pool_of, clock):
    runner, driver = await pool_of(min_size=2, max_size=6, idle_timeout=100, keepalive_interval=1000)
    leases = [await runner.acquire() for _ in range(6)]
    for lease in leases:
        runner.release(lease)
        clock.jump(10)
    await clock.advance(55)
    assert [c.number for c in driver.open_now] == [3, 4, 5, 6], "two were idle for 100 s"
    await clock.advance(25)
    assert [connection.number for connection in driver.open_now] == [5, 6]
    await clock.advance(1000)
    assert len(driver.open_now) == 2


async def test_lifetimes_pass_under_load_and_nobody_notices(pool_of, clock):
    runner, driver = await pool_of(min_size=4, max_size=4, max_lifetime=10, acquire_timeout=1000)
    ages, done = [], 0

    async def user():
        nonlocal done
        for _ in range(40):
            async with await runner.acquire() as lease:
                slot = lease._slot
                ages.append(clock.monotonic() - slot.opened_at)
                await clock.sleep(0.1)
                assert lease.number == slot.raw.number
            done += 1

    users = [asyncio.create_task(user()) for _ in range(30)]
    while not all(task.done() for task in users):
        await clock.advance(0.1)
    await asyncio.gather(*users)
    assert done == 1200
    assert max(ages) <= 10
    assert len(driver.connections) > 8, "they were replaced"
    assert driver.most_open <= 4
    born = [connection.number for connection in driver.connections]
    assert born == sorted(born)


async def test_lifetimes_are_spread(pool_of, clock):
    runner, _ = await pool_of(min_size=20, max_size=20, max_lifetime=100)
    ends = {slot.expires_at for slot in runner.pool.idle}
    assert len(ends) == 20
    assert all(90 <= end - clock.monotonic() <= 100 for end in ends)


async def test_quiet_connections_are_pinged_a_few_at_a_time_and_the_dead_replaced(pool_of, clock):
    _, driver = await pool_of(min_size=8, max_size=8, keepalive_interval=50, max_lifetime=9000)
    clock.jump(50)
    await clock.advance(0.5)
    assert len(driver.pinged) == 2, "a quarter"
    await clock.advance(10)
    assert sorted(set(driver.pinged)) == list(range(1, 9))
    driver.answers = False
    clock.jump(50)
    await clock.advance(10)
    driver.answers = True
    assert len(driver.open_now) == 8
    assert {connection.number for connection in driver.open_now}.isdisjoint(range(1, 9))


async def test_one_dead_connection_tells_of_those_that_were_quiet_as_long(pool_of, clock):
    runner, driver = await pool_of(min_size=5, max_size=5, keepalive_interval=1000)
    clock.jump(10)
    driver.answers = False
    lease = await runner.acquire()
    assert lease.number > 5, "a new one"
    assert len(driver.pinged) == 1, "not one timeout for each"
    runner.release(lease)


async def test_a_burst_opens_a_few_connections_at_a_time(pool_of):
    runner, driver = await pool_of(min_size=0, max_size=100)
    driver.most_connecting = 0
    leases = await asyncio.gather(*[runner.acquire() for _ in range(100)])
    assert driver.most_connecting == OPEN_LIMIT
    for lease in leases:
        runner.release(lease)


async def test_cancellations_at_random_cost_nobody_a_connection_or_a_turn(pool_of, clock):
    runner, driver = await pool_of(min_size=0, max_size=10, acquire_timeout=1000)
    rng = random.Random(3)
    asked, served = [], []

    async def user(number):
        asked.append(number)
        async with await runner.acquire():
            served.append(number)
            await clock.sleep(rng.random())

    users = []
    for number in range(500):
        users.append(asyncio.create_task(user(number)))
        await asyncio.sleep(0)
        if rng.random() < 0.5:
            rng.choice(users).cancel()
        if rng.random() < 0.2:
            await clock.advance(0.05)
    while not all(task.done() for task in users):
        await clock.advance(0.5)
    assert served == sorted(served), "first come, first served"
    figures = runner.figures()
    assert figures.active_connections == figures.waiting == 0
    assert figures.idle_connections == figures.total_connections == len(driver.open_now) <= 10
    assert figures.total_acquired == figures.total_released


async def test_timeouts_come_to_each_in_time_whatever_the_order(pool_of, clock):
    runner, _ = await pool_of(min_size=1, max_size=1)
    held = await runner.acquire()
    ended = []

    async def wait(seconds):
        with pytest.raises(PoolTimeoutError, match=f"within {seconds} s"):
            await runner.acquire(seconds)
        ended.append(seconds)

    tasks = [asyncio.create_task(wait(seconds)) for seconds in (5, 1, 3, 2, 4)]
    await clock.advance(2.5)
    assert ended == [1, 2]
    await clock.advance(3)
    assert ended == [1, 2, 3, 4, 5]
    await asyncio.gather(*tasks)
    assert runner.figures().failed_acquisitions == 5
    runner.release(held)


def cancel_unbegun(what):
    """Cancel the pool's tasks of this kind before they have had a turn."""
    found = [task for task in asyncio.all_tasks() if task.get_name().endswith(what)]
    for task in found:
        task.cancel()
    return len(found)


async def test_a_task_of_the_pool_cancelled_before_it_began_costs_nobody_the_connection(pool_of):
    runner, driver = await pool_of(min_size=1, max_size=1)
    lease = await runner.acquire()
    runner.release(lease, healthy=False)
    assert cancel_unbegun("close") == 1
    await until_idle()
    assert not driver.open_now or driver.open_now[0].number > 1
    lease = await asyncio.wait_for(runner.acquire(), 5)
    lease.raw_connection.needs = Verdict.RESET
    runner.release(lease)
    assert cancel_unbegun("reset") == 1
    lease = await asyncio.wait_for(runner.acquire(), 5)
    runner.release(lease)
    assert len(driver.open_now) == 1


async def test_a_connection_that_needs_a_reset_is_reset_before_the_next(pool_of):
    runner, _ = await pool_of(min_size=1, max_size=1)
    lease = await runner.acquire()
    lease.raw_connection.needs = Verdict.RESET
    runner.release(lease)
    again = await runner.acquire()
    assert (again.number, again.needs) == (1, Verdict.CLEAN)
    runner.release(again)
    with pytest.raises(LeaseError, match="released twice"):
        runner.release(again)


async def test_a_caller_whose_pool_is_replaced_is_told_how_long_it_may_still_wait(pool_of, clock):
    runner, _ = await pool_of(min_size=1, max_size=1)
    held = await runner.acquire()
    waiting = asyncio.create_task(runner.acquire(10))
    await until_idle()
    clock.jump(6)
    runner.replace()
    with pytest.raises(PoolReplacedError) as told:
        await waiting
    assert told.value.seconds_left == pytest.approx(4)
    with pytest.raises(PoolReplacedError) as told:
        await runner.acquire(10)
    assert told.value.seconds_left is None, "it has not waited"
    runner.release(held)
