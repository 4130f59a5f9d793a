"""Tasks that a service owns, under one loop and under another."""

import asyncio
import threading

import pytest

from bot.core._shared.tasks import (
    BackgroundTasks,
    LoopLocalLock,
    all_to_the_end,
    run_on_loop,
    to_the_end,
)
from tests.support.clock import until_idle


async def forever(ended):
    try:
        await asyncio.sleep(3600)
    finally:
        ended.append(True)


async def test_stop_waits_until_each_has_ended():
    tasks, ended = BackgroundTasks(), []
    for _ in range(3):
        tasks.spawn(forever(ended), name="forever")
    await until_idle()
    assert len(tasks) == 3
    await tasks.stop()
    assert (len(tasks), len(ended)) == (0, 3)


@pytest.mark.parametrize("error", [None, ValueError])
async def test_a_cancellation_in_the_turn_in_which_the_work_ends_is_not_lost(error):
    loop = asyncio.get_running_loop()
    ending = loop.create_future()

    async def work():
        await ending
        if error is not None:
            raise error("of the work")

    caller = loop.create_task(to_the_end(work()))
    await until_idle()
    ending.set_result(None)
    ending.add_done_callback(lambda _: loop.call_soon(caller.cancel))  # after the work's last step
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_work_that_is_cancelled_itself_cancels_its_caller():
    async def work():
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await to_the_end(work())


async def test_an_error_is_logged(caplog):
    async def broken():
        raise ValueError("the reason")

    tasks = BackgroundTasks()
    tasks.spawn(broken(), name="the-name")
    await until_idle()
    assert "the-name" in caplog.text
    assert "the reason" in caplog.text
    assert len(tasks) == 0


def test_tasks_of_a_closed_loop_are_forgotten():
    tasks, ended = BackgroundTasks(), []

    async def start():
        tasks.spawn(forever(ended), name="forever")
        await until_idle()

    asyncio.run(start())
    assert ended == [True], "asyncio.run cancels what is left"
    asyncio.run(tasks.stop())
    assert len(tasks) == 0


def test_tasks_of_a_running_loop_of_another_thread_are_ended_there():
    tasks, ended = BackgroundTasks(), []
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start():
        tasks.spawn(forever(ended), name="forever")
        await until_idle()

    asyncio.run_coroutine_threadsafe(start(), loop).result()
    asyncio.run(tasks.stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert ended == [True]


def test_run_on_a_loop_that_runs_no_more_says_so():
    loop = asyncio.new_event_loop()
    loop.close()
    ran = []

    async def action():
        ran.append(True)

    assert asyncio.run(run_on_loop(loop, action)) is False
    assert ran == []


def test_a_lock_serves_loops_in_turn():
    lock = LoopLocalLock()
    order = []

    async def use(name):
        async with lock:
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    async def two():
        await asyncio.gather(use("a"), use("b"))

    asyncio.run(two())
    asyncio.run(two())
    assert order == ["a in", "a out", "b in", "b out"] * 2


@pytest.mark.server
@pytest.mark.parametrize("cancels", [0, 1, 3])
async def test_work_that_must_end_ends_though_its_caller_is_cancelled(cancels):
    done = []

    async def work():
        await asyncio.sleep(0.02)
        done.append(1)
        return "result"

    calling = asyncio.ensure_future(to_the_end(work()))
    for _ in range(cancels):
        await asyncio.sleep(0.002)
        calling.cancel()
    if cancels:
        with pytest.raises(asyncio.CancelledError):
            await calling
    else:
        assert await calling == "result"
    assert done == [1]


async def test_work_that_must_end_raises_its_own_error():
    async def work():
        await asyncio.sleep(0)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await to_the_end(work())


@pytest.mark.parametrize("turns", range(6))
async def test_each_step_of_a_stop_is_taken_however_often_it_is_cancelled(turns):
    taken = []

    def step(name):
        async def take():
            for _ in range(3):
                await asyncio.sleep(0)
            taken.append(name)

        return take

    stopping = asyncio.create_task(all_to_the_end(step("first"), step("second"), step("third")))
    await asyncio.sleep(0)
    stopping.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert taken == ["first", "second", "third"]


async def test_a_step_that_fails_stops_no_other(caplog):
    taken = []

    async def broken():
        taken.append("broken")
        raise ValueError(f"number {len(taken)}")

    async def works():
        taken.append("works")

    with pytest.raises(ValueError, match="number 1"):
        await all_to_the_end(broken, works, broken)
    assert taken == ["broken", "works", "broken"]
    assert "number 3" in caplog.text
