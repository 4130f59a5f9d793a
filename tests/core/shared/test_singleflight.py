"""One run for concurrent callers."""

import asyncio
import gc
import sys
from contextlib import suppress

import pytest

from bot.core._shared import singleflight
from bot.core._shared.singleflight import SingleFlight, is_given_up
from tests.support.clock import until_idle
from tests.support.flights import Work, start
from tests.support.loader import Loader

BOTH = pytest.mark.parametrize("led", [False, True])


@BOTH
async def test_concurrent_callers_share_one_run(led):
    flights, work = SingleFlight(led=led), Work()
    tasks = await start(flights, work, 100)
    work.gate.set()
    assert await asyncio.gather(*tasks) == [1] * 100
    assert len(flights) == 0
    assert await flights.run("k", work) == 2, "nothing is remembered"


@BOTH
async def test_other_keys_run_for_themselves(led):
    flights, work = SingleFlight(led=led), Work()
    tasks = await start(flights, work, 1, "a") + await start(flights, work, 1, "b")
    assert work.runs == 2
    work.gate.set()
    await asyncio.gather(*tasks)


@BOTH
async def test_an_error_reaches_every_waiter(led):
    flights, work = SingleFlight(led=led), Work(ValueError("broken"))
    tasks = await start(flights, work)
    work.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(error) for error in outcomes] == ["broken"] * 3


@pytest.mark.parametrize("leaver", [0, 2])
async def test_a_cancelled_caller_leaves_alone(leaver):
    flights, work = SingleFlight(), Work()
    tasks = await start(flights, work)
    tasks[leaver].cancel()
    await until_idle()
    work.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes.pop(leaver), asyncio.CancelledError)
    assert outcomes == [1, 1]


@BOTH
async def test_when_the_last_caller_leaves_the_run_ends_and_the_next_starts_anew(led):
    flights, work = SingleFlight(led=led), Work()
    for task in await start(flights, work):
        task.cancel()
    await until_idle()
    assert (work.cancelled, len(flights)) == (1, 0)
    work.gate.set()
    assert await flights.run("k", work) == 2


@BOTH
def test_a_run_of_a_dead_loop_is_not_joined(led):
    flights = SingleFlight(led=led)

    async def never():
        await asyncio.sleep(3600)

    async def abandon():
        task = asyncio.ensure_future(flights.run("k", never))
        await until_idle()
        assert not task.done()

    asyncio.run(abandon())

    async def work():
        return "done"

    assert asyncio.run(flights.run("k", work)) == "done"


@BOTH
def test_a_run_of_a_loop_that_stands_still_is_not_joined(led):
    flights, work = SingleFlight(led=led), Work()
    with asyncio.Runner() as other:
        [left] = other.run(start(flights, work, 1))
        work.gate.set()
        assert asyncio.run(asyncio.wait_for(flights.run("k", work), 8)) == 2
        assert not left.done()


async def test_a_run_that_has_just_been_cancelled_by_itself_is_not_joined():
    flights, ended, runs = SingleFlight(), asyncio.Event(), []

    async def work():
        runs.append("run")
        if len(runs) == 1:
            ended.set()
            raise asyncio.CancelledError  # as of a future within that somebody cancelled
        return "second"

    async def next_caller():
        await ended.wait()
        return await flights.run("k", work)

    following = asyncio.ensure_future(next_caller())
    await until_idle()
    with pytest.raises(asyncio.CancelledError):
        await flights.run("k", work)
    assert await following == "second"


async def test_a_run_that_nobody_waits_for_any_more_is_left_at_once():
    flights, ends = SingleFlight(), asyncio.Event()

    async def work():
        try:
            await asyncio.sleep(3600)
        finally:
            await ends.wait()

    [task] = await start(flights, work, 1)
    task.cancel()
    await until_idle()
    assert "k" not in flights
    ends.set()
    await until_idle()


@BOTH
async def test_an_owner_that_rests_holds_no_timer(led):
    flights, work = SingleFlight(led=led), Work()
    work.gate.set()
    await flights.run("k", work, timeout=3600)
    await until_idle()
    assert flights._deadlines._timer is not None
    flights.rest()
    assert flights._deadlines._timer is None


async def test_a_run_cancelled_before_it_began_leaves_nobody_waiting():
    flights, work = SingleFlight(), Work()
    waiting = asyncio.ensure_future(flights.run("k", work))
    await asyncio.sleep(0)
    (run,) = asyncio.all_tasks() - {asyncio.current_task(), waiting}
    run.cancel()  # it has been made, and has not had its turn
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (work.runs, len(flights)) == (0, 0)


async def test_a_run_cancelled_from_outside_cancels_those_who_wait_and_is_not_joined():
    flights, work = SingleFlight(), Work()
    tasks = await start(flights, work)
    [run] = [task for task in asyncio.all_tasks() if task.get_name() == "single-flight"]
    run.cancel()
    late = asyncio.ensure_future(flights.run("k", work))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 3
    work.gate.set()
    assert await late == 2


async def test_a_run_cancelled_from_outside_has_left_before_anybody_hears_of_it():
    flights, work, heard = SingleFlight(), Work(), []
    [task] = await start(flights, work, 1)
    [run] = [task for task in asyncio.all_tasks() if task.get_name() == "single-flight"]
    run.add_done_callback(lambda run: heard.append((run.cancelled(), len(flights))))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard == [(True, 0)]


async def test_a_run_that_was_given_up_has_left_though_it_takes_its_time_to_end():
    flights, ends, ended = SingleFlight(), asyncio.Event(), []

    async def work():
        try:
            await asyncio.sleep(3600)
        finally:
            await ends.wait()
            ended.append("k" in flights)

    with pytest.raises(TimeoutError):
        await flights.run("k", work, timeout=0.01)
    assert "k" not in flights
    ends.set()
    await until_idle()
    assert ended == [False]


async def test_a_run_that_ended_as_its_time_was_up_was_not_given_up():
    flights, left, work = SingleFlight(), [], Work()

    async def later():
        await asyncio.sleep(0.001)
        return is_given_up()

    async def run():
        left.append(asyncio.ensure_future(later()))
        return await work()

    [task] = await start(flights, run, 1)
    [flight] = flights._flights.values()
    work.gate.set()
    while not flight.task.done():
        await asyncio.sleep(0)
    flights._expire(flight)  # its deadline comes in this turn of the loop
    assert await task == 1
    assert await left[0] is False


@pytest.mark.parametrize("fails", [False, True])
async def test_a_caller_cancelled_in_the_moment_the_run_ends_leaves_nothing_behind(fails, caplog):
    flights, work = SingleFlight(), Work(ValueError("broken") if fails else None)
    [task] = await start(flights, work, 1)
    work.gate.set()
    while "k" in flights:
        await asyncio.sleep(0)
    task.cancel()  # its result is there, and it has not yet run on
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    work.error = None  # its traceback holds all who waited
    gc.collect()
    assert not caplog.records, "no exception that was never retrieved"


async def test_callers_go_on_in_the_order_they_came():
    flights, work, order = SingleFlight(), Work(), []

    async def caller(number):
        await flights.run("k", work)
        order.append(number)

    tasks = [asyncio.ensure_future(caller(number)) for number in range(5)]
    await until_idle()
    work.gate.set()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


@BOTH
async def test_a_task_left_behind_by_a_run_is_no_part_of_it(led):
    flights, left = SingleFlight(led=led), []

    async def outer():
        left.append(asyncio.ensure_future(later()))
        return "outer"

    async def later():
        await gate.wait()
        return await flights.run("outer", again)

    async def again():
        return "again"

    gate = asyncio.Event()
    assert await flights.run("outer", outer) == "outer"
    gate.set()
    assert await left[0] == "again"


@BOTH
async def test_a_chain_of_tasks_that_outlive_their_runs_goes_on_for_ever(led, monkeypatch):
    """Each run starts a task that loads again once it has ended: no more than one is ever under way."""
    monkeypatch.setattr(singleflight, "MAX_NESTED", 5)
    flights, tasks, end = SingleFlight(led=led), [], asyncio.Event()

    async def later(previous):
        while previous in flights:
            await asyncio.sleep(0)
        await until_idle()
        await load(previous + 1)
        await end.wait()  # the task goes on, the run that it led does not

    async def load(number):
        async def work():
            if number < 20:
                tasks.append(asyncio.ensure_future(later(number)))
            else:
                end.set()

        await flights.run(number, work)

    await load(0)
    await end.wait()
    await asyncio.gather(*tasks)
    assert len(tasks) == 20


@BOTH
async def test_a_run_on_the_loop_of_another_thread_is_nested_in_none_of_this_one(led, monkeypatch):
    monkeypatch.setattr(singleflight, "MAX_NESTED", 1)
    here, there, work = SingleFlight(led=led), SingleFlight(led=led), Loader("there")
    assert await here.run("k", lambda: asyncio.to_thread(asyncio.run, there.run("k", work))) == "there"


@BOTH
async def test_a_long_run_holds_nothing_of_what_it_has_waited_for(led):
    flights, work = SingleFlight(led=led), Work()

    async def long():
        await asyncio.gather(*[flights.run("short", work) for _ in range(3)])
        await flights.run("short", work)
        [flight] = flights._flights.values()
        return len(flight.waits)

    run = asyncio.ensure_future(flights.run("long", long))
    await until_idle()
    assert len(flights._flights["long"].waits) == 3
    work.gate.set()
    assert await run == 0


@BOTH
async def test_a_run_that_takes_its_time_to_be_cancelled_is_not_joined(led):
    flights, runs, ends, go_on = SingleFlight(led=led), [], asyncio.Event(), asyncio.Event()

    async def work():
        runs.append(len(runs) + 1)
        try:
            await go_on.wait()
        finally:
            if runs == [1]:
                await ends.wait()
        return len(runs)

    [first] = await start(flights, work, 1)
    # Its own task, or that of the caller who leads it.
    [run] = [first] if led else [task for task in asyncio.all_tasks() if task.get_name() == "single-flight"]
    run.cancel()
    await until_idle()
    late = await start(flights, work, 2)
    assert runs == [1, 2], "a new run, joined by the next"
    ends.set()
    go_on.set()
    assert await asyncio.gather(*late) == [2, 2]
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(flights) == 0


@BOTH
async def test_work_can_ask_whether_it_was_given_up(led):
    flights, answers, done = SingleFlight(led=led), [], asyncio.Event()

    async def work():
        answers.append(is_given_up())
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            answers.append(is_given_up())
            done.set()
            raise

    assert not is_given_up()
    with pytest.raises(TimeoutError):
        await flights.run("k", work, timeout=0.01)
    await done.wait()
    assert answers == [False, True]
    assert not is_given_up()


@BOTH
async def test_later_callers_start_a_new_run_after_a_key_was_forgotten(led):
    flights, work = SingleFlight(led=led), Work()
    before = await start(flights, work, 2)
    assert "k" in flights
    flights.forget("k")
    flights.forget("unknown")
    assert "k" not in flights
    after = await start(flights, work, 2)
    work.gate.set()
    assert await asyncio.gather(*before, *after) in ([1, 1, 2, 2], [2, 2, 2, 2])
    assert (work.runs, len(flights)) == (2, 0)


@BOTH
async def test_a_time_of_its_own_counts_before_that_of_all(led):
    flights, work = SingleFlight(led=led), Work()
    flights.timeout = 0.01
    patient = asyncio.ensure_future(flights.run("p", work, timeout=60))
    with pytest.raises(TimeoutError):
        await flights.run("k", work)
    assert not patient.done()
    work.gate.set()
    assert await patient in (1, 2)


def test_a_run_that_ends_the_program_does_so_whatever_its_callers_do_about_it():
    async def leave():
        raise SystemExit(3)

    async def main():
        with suppress(SystemExit):
            await SingleFlight().run("k", leave)
        await asyncio.sleep(3600)

    with pytest.raises(SystemExit, match="3"):
        asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_work_that_never_waits_is_awaited_on_a_loop_with_eager_tasks():
    """It ended before its caller waited for it, who then waited for ever."""

    async def main():
        flights = SingleFlight()

        async def work():
            return "done"

        found = await asyncio.wait_for(asyncio.gather(*[flights.run("k", work) for _ in range(3)]), 10)
        assert found == ["done"] * 3
        assert len(flights) == 0

    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
