"""The event loop in virtual time: what asyncio promises holds, and an hour takes no time."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.simulation.loop import Livelock, Process, Standstill, VirtualLoop


def run(main, seed=0, **options):
    loop = VirtualLoop(random.Random(seed), **options)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close()


def test_an_hour_of_timers_passes_at_once():
    async def main(loop):
        seen = []
        loop.call_later(3600, seen.append, "timer")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1800):
                await asyncio.sleep(7200)
        assert seen == []
        assert loop.time() == pytest.approx(2800, abs=0.001)
        await asyncio.sleep(1801)
        return seen

    assert run(main) == ["timer"]


def test_callbacks_keep_their_order_and_steps_of_tasks_need_not():
    async def main(loop):
        seen = []
        for number in range(20):
            loop.call_soon(seen.append, number)

        async def step(number):
            seen.append(-number)

        tasks = [loop.create_task(step(number)) for number in range(1, 21)]
        await asyncio.wait(tasks)
        return seen

    plain, mixed = run(main), run(main, shuffles=True)
    assert plain == [*range(20), *range(-1, -21, -1)]
    assert mixed[:20] == plain[:20]
    assert sorted(mixed) == sorted(plain)
    assert mixed != plain
    assert run(main, shuffles=True) == mixed


def test_timers_of_one_moment_come_in_any_order():
    async def main(loop):
        seen = []
        for number in range(20):
            loop.call_at(loop.time() + 1, seen.append, number)
        await asyncio.sleep(2)
        return seen

    orders = {tuple(run(main, seed)) for seed in range(5)}
    assert len(orders) == 5
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_a_run_that_ends_never_is_told_apart():
    async def waits_for_nothing(loop):
        await loop.create_future()

    async def turns_in_a_circle(loop):
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Standstill):
        run(waits_for_nothing)
    with pytest.raises(Livelock):
        run(turns_in_a_circle)


def test_threads_run_inline_a_while_later():
    async def main(loop):
        before = loop.time()
        assert await asyncio.to_thread(sum, (1, 2)) == 3
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 / 0)
        return loop.time() > before

    assert run(main)


def test_a_stopped_process_goes_on_later_and_a_dead_one_never():
    async def main(loop):
        seen = []

        async def works(name):
            for _ in range(3):
                await asyncio.sleep(1)
                seen.append((name, int(loop.time() - 1000)))

        processes = [Process("stopped"), Process("dead")]
        tasks = [
            loop.create_task(works(process.name), context=process.context.copy()) for process in processes
        ]
        await asyncio.sleep(1.5)
        processes[0].stopped = processes[1].dead = True
        await asyncio.sleep(5)
        loop.resume(processes[0])
        await asyncio.sleep(5)
        assert tasks[0].done()
        assert not tasks[1].done()
        processes[1].dead = False
        tasks[1].cancel()
        processes[1].held += processes[1].buried
        loop.resume(processes[1])
        await asyncio.wait([tasks[1]])
        return seen

    assert sorted(run(main)) == [("dead", 1), ("stopped", 1), ("stopped", 6), ("stopped", 7)]
