"""One run for concurrent callers, within the first of them."""

import asyncio
import gc
from contextlib import suppress
from functools import partial

import pytest

from bot.core._shared.singleflight import MAX_LED, SingleFlight
from tests.support.clock import until_idle
from tests.support.flights import Work, start


async def test_a_led_run_needs_no_task():
    flights, tasks = SingleFlight(led=True), []

    async def work():
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        return asyncio.all_tasks()

    assert await flights.run("k", work) == {asyncio.current_task()}
    assert tasks == [asyncio.current_task()]


async def test_when_the_leader_is_cancelled_the_work_starts_once_more_for_all_others():
    flights, work = SingleFlight(led=True), Work()
    tasks = await start(flights, work, 5)
    for task in tasks[:3]:  # of the second run, too, the first caller leaves
        task.cancel()
        await until_idle()
    late = asyncio.ensure_future(flights.run("k", work))
    await until_idle()
    work.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[:3]] == [asyncio.CancelledError] * 3
    assert (outcomes[3:], await late) == ([2, 2], 2)
    assert len(flights) == 0


async def test_a_leader_that_gives_up_early_does_not_make_the_others_begin_anew_for_ever():
    """Callers with less patience than the work takes: one after the other joins, and each gives up."""
    flights, runs = SingleFlight(led=True), 0
    done = asyncio.Event()

    async def work():
        nonlocal runs
        runs += 1
        await done.wait()
        return "done"

    waiting = [asyncio.ensure_future(flights.run("k", work)) for _ in range(2)]
    for _ in range(20):
        await until_idle()
        waiting.pop(0).cancel()
        waiting.append(asyncio.ensure_future(flights.run("k", work)))
    await until_idle()
    done.set()
    assert await asyncio.gather(*waiting) == ["done", "done"]
    assert runs == 2


async def test_a_caller_that_comes_as_the_leader_is_cancelled_waits_with_the_others():
    flights, work = SingleFlight(led=True), Work()
    leader, waiter = await start(flights, work, 2)
    leader.cancel()
    late = asyncio.ensure_future(flights.run("k", work))
    await until_idle()
    assert work.runs == 2, "the leader's, and one for both"
    work.gate.set()
    assert await asyncio.gather(waiter, late) == [2, 2]
    with pytest.raises(asyncio.CancelledError):
        await leader
    assert not len(flights)


async def test_what_a_cancelled_leader_asks_for_as_it_ends_is_a_run_of_its_own():
    flights, work, ended = SingleFlight(led=True), Work(), []

    async def once_more():
        try:
            return await work()
        except asyncio.CancelledError:
            work.gate.set()
            ended.append(await flights.run("k", work))
            raise

    leader = asyncio.ensure_future(flights.run("k", once_more))
    await until_idle()
    waiter = asyncio.ensure_future(flights.run("k", work))
    await until_idle()
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    assert ended == [2]
    assert await waiter == 3
    assert not len(flights)


async def test_work_that_is_cancelled_by_itself_cancels_those_who_wait_but_not_their_tasks():
    flights, gate, runs = SingleFlight(led=True), asyncio.Event(), []

    async def work():
        runs.append("run")
        await gate.wait()
        raise asyncio.CancelledError  # as of a future within that somebody cancelled

    tasks = await start(flights, work)
    gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 3
    assert (len(flights), runs) == (0, ["run"])


async def test_a_led_run_that_takes_too_long_is_given_up_by_all():
    flights, work = SingleFlight(led=True), Work()
    flights.timeout = 0.01

    async def caller():
        try:
            await flights.run("k", work)
        except TimeoutError:
            task = asyncio.current_task()
            await asyncio.sleep(0)  # the cancellation is over
            return task.cancelling()

    assert await asyncio.gather(*[caller() for _ in range(3)]) == [0, 0, 0]
    work.gate.set()
    assert await flights.run("k", work) == 2


async def test_a_deadline_of_the_caller_and_of_the_run_are_told_apart():
    flights, work = SingleFlight(led=True), Work()

    class GivenUp(Exception):
        pass

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await flights.run("k", work, timeout=60, expired=GivenUp)
    with pytest.raises(GivenUp):
        async with asyncio.timeout(60):
            await flights.run("k", work, timeout=0.01, expired=GivenUp)
    assert asyncio.current_task().cancelling() == 0


async def test_a_caller_that_is_cancelled_as_the_time_is_up_is_cancelled():
    flights, work = SingleFlight(led=True), Work()
    [task] = await start(flights, work, 1)
    flights._expire(flights._flights["k"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_result_in_answer_to_the_cancellation_comes_too_late():
    flights = SingleFlight(led=True)

    async def work():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        return "late"

    with pytest.raises(TimeoutError):
        await flights.run("k", work, timeout=0.01)
    assert asyncio.current_task().cancelling() == 0


async def test_an_error_in_answer_to_the_cancellation_is_the_cause_of_the_timeout():
    flights = SingleFlight(led=True)

    async def work():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise ConnectionError("closed in the middle") from None

    with pytest.raises(TimeoutError) as caught:
        await flights.run("k", work, timeout=0.01)
    assert str(caught.value.__cause__) == "closed in the middle"
    assert asyncio.current_task().cancelling() == 0


async def test_a_caller_in_its_clean_up_leads_and_is_joined():
    """A task that was cancelled, and asks something while it ends, is not taken for a run that ends."""
    flights, work = SingleFlight(led=True), Work()

    async def caller():
        try:
            await asyncio.sleep(3600)
        finally:
            assert await flights.run("k", work) == 1

    ending = asyncio.ensure_future(caller())
    await until_idle()
    ending.cancel()
    await until_idle()
    [joined] = await start(flights, work, 1)
    work.gate.set()
    assert await joined == 1
    with pytest.raises(asyncio.CancelledError):
        await ending


async def test_deep_runs_within_one_another_do_not_use_up_the_stack():
    flights = SingleFlight(led=True)

    async def work(depth):
        if depth == 300:
            return len(asyncio.all_tasks())
        return await flights.run(depth + 1, lambda: work(depth + 1))

    # The first twenty are led by the caller; each of the others is a task.
    assert await flights.run(0, lambda: work(0)) == 1 + 301 - MAX_LED


@pytest.mark.parametrize("ending", ["cancelled", "given up", "forgotten"])
def test_a_leader_that_is_closed_after_its_loop_starts_nothing_there(ending):
    flights, loop = SingleFlight(led=True), asyncio.new_event_loop()
    calls = [flights.run("k", partial(asyncio.sleep, 3600)) for _ in range(2)]
    tasks = [loop.create_task(call) for call in calls]
    loop.run_until_complete(until_idle())
    if ending == "cancelled":
        tasks[0].cancel()
    elif ending == "given up":
        flights._expire(flights._flights["k"])
    loop.close()  # before any of them has heard of it
    for call in calls:
        call.close()
    assert len(flights) == 0


def test_a_leader_whose_loop_ended_leaves_nobody_and_nothing():
    flights = SingleFlight(led=True)

    async def never():
        await asyncio.sleep(3600)

    async def main():
        tasks = [asyncio.ensure_future(flights.run("k", never, timeout=60)) for _ in range(3)]
        await until_idle()
        assert not any(task.done() for task in tasks)

    asyncio.run(main())  # cancels all three
    gc.collect()
    assert len(flights) == 0


async def test_a_joined_run_takes_its_time_to_be_cancelled_and_is_not_joined_again():
    """The work of a leader that left was begun once more, in a task; that one is cancelled, too."""
    flights, runs, ends, go_on = SingleFlight(led=True), [], asyncio.Event(), asyncio.Event()

    async def work():
        runs.append(len(runs) + 1)
        try:
            await go_on.wait()
        finally:
            if runs == [1, 2]:
                await ends.wait()
        return len(runs)

    leader, follower = await start(flights, work, 2)
    leader.cancel()
    await until_idle()
    [run] = [task for task in asyncio.all_tasks() if task.get_name() == "single-flight"]
    run.cancel()
    await until_idle()
    late = await start(flights, work, 1)
    assert runs == [1, 2, 3]
    ends.set()
    go_on.set()
    assert await late[0] == 3
    outcomes = await asyncio.gather(leader, follower, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2


async def test_a_led_run_that_ended_has_no_deadline():
    flights, work = SingleFlight(led=True), Work()
    work.gate.set()
    await flights.run("k", work, timeout=60)
    assert not flights._deadlines._at
