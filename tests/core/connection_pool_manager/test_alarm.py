"""One timer for many deadlines: it rings once, at the time that it was set to last."""

from __future__ import annotations

import asyncio
import math

import pytest

from bot.core._shared.clock import SYSTEM_CLOCK
from bot.core._shared.tasks import BackgroundTasks
from bot.core.connection_pool_manager.alarm import Alarm


@pytest.fixture
async def rung():
    return []


@pytest.fixture
async def alarm(clock, rung):
    tasks = BackgroundTasks()
    yield Alarm(lambda: rung.append(clock.monotonic()), tasks, clock, name="timer")
    await tasks.stop()


async def test_it_rings_once_at_its_time(alarm, rung, clock):
    at = clock.monotonic() + 5
    alarm.set(at)
    assert alarm.at == at
    await clock.advance(4.9)
    assert rung == []
    await clock.advance(0.1)
    assert (rung, alarm.at) == ([at], math.inf)
    await clock.advance(100)
    assert len(rung) == 1


async def test_the_last_time_that_was_set_is_the_only_one(alarm, rung, clock):
    start = clock.monotonic()
    alarm.set(start + 5)
    alarm.set(start + 2)
    await clock.advance(10)
    assert rung == [start + 2]


async def test_a_time_that_has_passed_rings_at_once(alarm, rung, clock):
    alarm.set(clock.monotonic() - 1)
    await clock.advance(0)
    assert len(rung) == 1


async def test_it_can_be_set_again_while_it_rings(clock):
    tasks, rung = BackgroundTasks(), []

    def ring():
        rung.append(clock.monotonic())
        if len(rung) < 3:
            alarm.set(clock.monotonic() + 1)

    alarm = Alarm(ring, tasks, clock, name="timer")
    alarm.set(clock.monotonic() + 1)
    for _ in range(5):
        await clock.advance(1)
    assert len(rung) == 3
    await tasks.stop()


async def test_cancelled_it_never_rings(alarm, rung, clock):
    alarm.set(clock.monotonic() + 1)
    alarm.cancel()
    alarm.cancel()
    assert alarm.at == math.inf
    await clock.advance(10)
    assert rung == []


async def test_on_the_systems_clock_it_needs_no_task():
    rings = asyncio.Event()
    tasks = BackgroundTasks()
    alarm = Alarm(rings.set, tasks, SYSTEM_CLOCK, name="timer")
    alarm.set(SYSTEM_CLOCK.monotonic() + 0.01)
    assert not len(tasks)
    await rings.wait()
    assert alarm.at == math.inf
