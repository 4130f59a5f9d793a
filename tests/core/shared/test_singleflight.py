"""One run for concurrent callers."""

import asyncio

import pytest

from bot.core._shared.singleflight import SingleFlight
from tests.support.clock import until_idle


class Work:
    def __init__(self, error=None):
        self.runs = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.error = error

    async def __call__(self):
        self.runs += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
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
