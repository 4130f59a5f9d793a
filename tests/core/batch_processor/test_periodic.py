"""Items that come each period."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.batch_processor import BatchClosedError, BatchProcessor
from bot.core.batch_processor.models import Plan
from bot.core.batch_processor.periodic import MOST_PERIODIC, Schedule, next_tick
from tests.support.searching import searching


@searching(200)
@given(
    anchor=st.floats(0, 1e9), every=st.floats(1, 1e6), late=st.floats(0, 1e7),
)  # fmt: skip
def test_the_next_time_is_on_the_grid_and_less_than_a_period_away(anchor, every, late):
    now = anchor + late
    at = next_tick(anchor, every, now)
    assert now < at <= now + every * 2
    assert abs((at - anchor) / every - round((at - anchor) / every)) < 1e-6


@searching(100)
@given(
    every=st.integers(1, 20),
    jitter=st.floats(0, 0.99),
    steps=st.lists(st.floats(0, 70), max_size=40),
)
def test_a_plan_is_due_at_most_once_a_period_however_late_it_is_looked_at(every, jitter, steps):
    schedule, now, ticks = Schedule(), 0.0, []
    schedule.put(Plan("p", None, float(every), jitter=jitter * every), now)
    for step in steps:
        now += step
        ticks += [now for _ in schedule.take_due(now)]
        schedule.check_invariants()
        assert now < schedule.next_due() <= now + 2 * every
    periods = [int(at // every) for at in ticks]
    assert len(periods) == len(set(periods))


async def test_it_comes_each_period_and_does_not_drift(processor, handler, clock):
    plan = await processor.submit_periodic("report", {"n": 1}, 60)
    assert plan.next_at == clock.time() + 60
    begun = clock.time()
    await clock.advance(60 * 100 + 6)
    assert handler.batches == [[{"n": 1}]] * 100
    [listed] = await processor.list_periodic()
    assert listed.next_at == begun + 60 * 101
    assert await processor.get_result("periodic:report") == "done {'n': 1}"


async def test_what_was_missed_comes_once(processor, handler, clock):
    await processor.submit_periodic("report", 1, datetime.timedelta(minutes=1))
    clock.jump(3_601)  # as if the machine had slept
    await clock.advance(5)
    assert handler.batches == [[1]]
    await clock.advance(60)
    assert handler.batches == [[1], [1]]


async def test_the_same_name_changes_the_plan_and_keeps_its_times(processor, handler, clock):
    await processor.submit_periodic("report", "old", 60)
    await clock.advance(50)
    await processor.submit_periodic("report", "new", 60, priority=5)
    await clock.advance(16)
    assert handler.batches == [["new"]]
    other = await processor.submit_periodic("report", "new", 30)
    assert other.next_at == clock.time() + 30


async def test_a_period_is_left_out_while_the_item_before_is_pending_or_there_is_no_room(
    processor, handler, clock
):
    handler.hold()
    await processor.submit_periodic("report", 1, 60)
    await clock.advance(60 * 3 + 6)
    assert handler.batches == [[1]]
    assert processor.statistics()["periodic_skipped"] == 2
    await processor.enable(max_pending=1)
    await processor.submit_periodic("other", 2, 60)
    await clock.advance(60)
    assert processor.statistics()["periodic_skipped"] == 4
    handler.let_go()


async def test_a_removed_plan_comes_no_more(processor, handler, clock):
    await processor.submit_periodic("report", 1, 60)
    assert await processor.remove_periodic("report")
    assert not await processor.remove_periodic("report")
    await clock.advance(1_000)
    assert handler.batches == []


async def test_jitter_makes_it_late_by_less_than_it_says(processor, handler, clock):
    plan = await processor.submit_periodic("report", 1, 60, jitter=10)
    assert 60 <= plan.next_at - clock.time() <= 70
    await clock.advance(60 * 50 + 16)
    assert handler.batches == [[1]] * 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name = ''"),
        ({"name": "a b"}, "name = 'a b'"),
        ({"name": 5}, "name = 5"),
        ({"every": 0}, "every = 0"),
        ({"every": 0.5}, "at least 1 second"),
        ({"every": float("nan")}, "every = nan"),
        ({"every": True}, "every = True"),
        ({"every": datetime.timedelta(0)}, "every = "),
        ({"priority": 1_001}, "priority = 1001"),
        ({"priority": True}, "priority = True"),
        ({"jitter": 60}, "jitter = 60"),
        ({"jitter": -1}, "jitter = -1"),
        ({"lane": 1.5}, "lane = 1.5"),
    ],
    ids=repr,
)
async def test_a_bad_plan_is_refused_by_name(processor, change, message):
    arguments = {"name": "report", "data": 1, "every": 60} | change
    with pytest.raises(ValueError, match=message):
        await processor.submit_periodic(**arguments)
    assert await processor.list_periodic() == []


def test_there_is_a_bound_of_their_number():
    schedule = Schedule()
    for n in range(MOST_PERIODIC):
        schedule.put(Plan(f"p{n}", None, 60.0), 0.0)
    with pytest.raises(ValueError, match="remove_periodic makes room"):
        schedule.put(Plan("one more", None, 60.0), 0.0)
    schedule.put(Plan("p5", 1, 60.0), 0.0)


async def test_it_ends_with_the_processor(clock, handler):
    processor = BatchProcessor(clock=clock)
    with pytest.raises(BatchClosedError):
        await processor.submit_periodic("report", 1, 60)
    await processor.enable(handler)
    await processor.submit_periodic("report", 1, 60)
    await processor.disable()
    assert await processor.list_periodic() == []
    await processor.enable()
    await clock.advance(100)
    assert handler.batches == []
    await processor.disable()
