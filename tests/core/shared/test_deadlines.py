"""One timer for many deadlines."""

import asyncio

import pytest

from bot.core._shared.deadlines import Deadlines
from tests.support.steps import steps_of


@pytest.fixture
async def timers(monkeypatch):
    """Tells how many timers wait that were set on the running loop, whichever loop that is."""
    loop, handles = asyncio.get_running_loop(), []
    set_timer = loop.call_at

    def call_at(*arguments, **options):
        handles.append(set_timer(*arguments, **options))
        return handles[-1]

    monkeypatch.setattr(loop, "call_at", call_at)
    return lambda: sum(not handle.cancelled() for handle in handles)


async def test_items_are_told_when_their_time_has_come_and_not_otherwise():
    told, loop = [], asyncio.get_running_loop()
    deadlines = Deadlines(told.append)
    for item, seconds in (("late", 60.0), ("b", 0.02), ("a", 0.01), ("gone", 0.01)):
        deadlines.add(item, loop, seconds)
    deadlines.discard("gone")
    deadlines.discard("unknown")
    while len(told) < 2:
        await asyncio.sleep(0.005)
    assert told == ["a", "b"]


async def test_any_number_of_them_is_one_timer(timers):
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(lambda item: None)
    for item in range(1000):
        deadlines.add(item, loop, 60.0 - item / 100)
        if item % 2:
            deadlines.discard(item)
    assert timers() == 1
    for item in range(1000):
        deadlines.discard(item)
    deadlines._timer.cancel()


async def test_an_item_may_come_back_while_it_is_told():
    loop, told = asyncio.get_running_loop(), []

    def due(item):
        told.append(item)
        if len(told) < 3:
            deadlines.add(item, loop, 0.001)

    deadlines = Deadlines(due)
    deadlines.add("a", loop, 0.001)
    while len(told) < 3:
        await asyncio.sleep(0.001)
    assert told == ["a", "a", "a"]


def test_another_loop_begins_anew():
    told = []
    deadlines = Deadlines(told.append)

    async def first():
        deadlines.add("old", asyncio.get_running_loop(), 3600)

    async def second():
        deadlines.add("new", asyncio.get_running_loop(), 0.01)
        while not told:
            await asyncio.sleep(0.005)

    asyncio.run(first())
    asyncio.run(second())
    assert told == ["new"]


async def test_who_is_switched_off_keeps_no_timer_unless_it_still_waits():
    loop, told = asyncio.get_running_loop(), []
    deadlines = Deadlines(told.append)
    deadlines.add("a", loop, 0.01)
    deadlines.rest()
    assert deadlines._timer is not None, "a is still waited for"
    deadlines.discard("a")
    deadlines.rest()
    assert deadlines._timer is None
    deadlines.add("b", loop, 0.001)
    while not told:
        await asyncio.sleep(0.001)
    assert told == ["b"]


async def test_no_timer_is_left_when_the_last_item_goes_after_the_owner_was_switched_off(timers):
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(lambda item: None)
    deadlines.add("a", loop, 60.0)
    deadlines.add("b", loop, 60.0)
    deadlines.rest()
    deadlines.discard("a")
    assert timers() == 1
    deadlines.discard("b")
    assert timers() == 0


class LoopWithNoHurry:
    """A loop whose time the test sets, and whose timer it rings."""

    def __init__(self):
        self.now = 0.0
        self.ring_at = None
        self.ring = None

    def time(self):
        return self.now

    def call_at(self, at, callback, *arguments):
        self.ring_at, self.ring = at, lambda: callback(*arguments)
        return self

    def when(self):
        return self.ring_at

    def cancel(self):
        self.ring = None


def test_a_deadline_that_is_reached_costs_the_same_however_many_others_wait():
    steps = {}
    for count in (100, 2_000):
        loop, told = LoopWithNoHurry(), []
        deadlines = Deadlines(told.append)
        for item in range(count):
            deadlines.add(item, loop, 1.0 + item)
        loop.now = 1.0
        loop.ring()
        loop.now = 2.0
        steps[count] = steps_of(loop.ring)
        assert told == [0, 1]
        assert loop.ring_at == 3.0
    assert steps[100] == steps[2_000]
