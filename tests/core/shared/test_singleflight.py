"""One run for concurrent callers."""

import asyncio
import gc
import sys

import pytest

from bot.core._shared.singleflight import MAX_LED, SingleFlight, is_given_up
from tests.support.clock import until_idle
from tests.support.loader import Loader


class Work(Loader):
    """Gives the number of its run, once the test lets it."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error
        self.gate.clear()

    async def __call__(self):
        await super().__call__()
        return self.runs


BOTH = pytest.mark.parametrize("led", [False, True])


async def start(flights, work, count=3, key="k"):
    tasks = [asyncio.ensure_future(flights.run(key, work)) for _ in range(count)]
    await until_idle()
    return tasks


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


@pytest.mark.parametrize("error", [None, ValueError("broken")])
async def test_a_caller_cancelled_in_the_moment_the_run_ends_leaves_nothing_behind(error, caplog):
    flights, work = SingleFlight(), Work(error)
    [task] = await start(flights, work, 1)
    work.gate.set()
    while "k" in flights:
        await asyncio.sleep(0)
    task.cancel()  # its result is there, and it has not yet run on
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
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


async def test_deep_runs_within_one_another_do_not_use_up_the_stack():
    flights = SingleFlight(led=True)

    async def work(depth):
        if depth == 300:
            return len(asyncio.all_tasks())
        return await flights.run(depth + 1, lambda: work(depth + 1))

    # The first twenty are led by the caller; each of the others is a task.
    assert await flights.run(0, lambda: work(0)) == 1 + 301 - MAX_LED


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


async def test_a_led_run_that_ended_has_no_deadline():
    flights, work = SingleFlight(led=True), Work()
    work.gate.set()
    await flights.run("k", work, timeout=60)
    assert not flights._deadlines._at


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
