"""One run for concurrent callers."""

import asyncio
import gc

import pytest

from bot.core._shared.singleflight import SingleFlight
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


async def start(flights, work, count=3, key="k"):
    tasks = [asyncio.ensure_future(flights.run(key, work)) for _ in range(count)]
    await until_idle()
    return tasks


async def test_concurrent_callers_share_one_run():
    flights, work = SingleFlight(), Work()
    tasks = await start(flights, work, 100)
    work.gate.set()
    assert await asyncio.gather(*tasks) == [1] * 100
    assert len(flights) == 0
    assert await flights.run("k", work) == 2, "nothing is remembered"


async def test_other_keys_run_for_themselves():
    flights, work = SingleFlight(), Work()
    tasks = await start(flights, work, 1, "a") + await start(flights, work, 1, "b")
    assert work.runs == 2
    work.gate.set()
    await asyncio.gather(*tasks)


async def test_an_error_reaches_every_waiter():
    flights, work = SingleFlight(), Work(ValueError("broken"))
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


async def test_when_the_last_caller_leaves_the_run_ends_and_the_next_starts_anew():
    flights, work = SingleFlight(), Work()
    for task in await start(flights, work):
        task.cancel()
    await until_idle()
    assert (work.cancelled, len(flights)) == (1, 0)
    work.gate.set()
    assert await flights.run("k", work) == 2


def test_a_run_of_a_dead_loop_is_not_joined():
    flights = SingleFlight()

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
