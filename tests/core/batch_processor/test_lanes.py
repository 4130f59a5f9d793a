"""Lanes: one item out at a time, the next when it has ended."""

import asyncio
import enum
import math

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.batch_processor import BatchProcessor, BatchQueueFullError, DeadLetteredError
from bot.core.batch_processor.backlog import Backlog
from bot.core.batch_processor.lanes import Lanes, valid_lane
from bot.core.batch_processor.models import BatchItem
from tests.support.clock import until_idle


def backlog_of(*items):
    """A backlog of (data, lane) items, submitted one second after the other."""
    backlog = Backlog(asyncio.Future.done)
    for second, (data, lane) in enumerate(items):
        backlog.push(BatchItem(data, lane=lane, submitted_at=float(second)))
    backlog.check_invariants(ended=0)
    return backlog


def taken(backlog, limit=9):
    items, _ = backlog.take(limit)
    return items, [item.data for item in items]


def test_one_item_of_a_lane_is_out_and_the_next_goes_behind_the_others():
    backlog = backlog_of(("a1", "a"), ("a2", "a"), ("x", None), ("b1", "b"), ("a3", "a"), ("b2", "b"))
    assert len(backlog.queue) == 3
    assert backlog.unfinished == backlog.submitted == 6
    items, data = taken(backlog)
    assert data == ["a1", "x", "b1"]
    assert taken(backlog) == ([], [])
    backlog.push(BatchItem("y", submitted_at=9.0))
    backlog.ended(items)
    items, data = taken(backlog)
    assert data == ["y", "a2", "b2"], "they take turns with what came meanwhile"
    backlog.ended(items)
    items, data = taken(backlog)
    assert data == ["a3"]
    backlog.ended(items)
    assert len(backlog.lanes) == 0, "a lane exists while it has items"
    backlog.check_invariants(ended=7)


def test_a_priority_means_nothing_inside_a_lane():
    backlog = backlog_of(("x", None), ("a1", "a"))
    backlog.push(BatchItem("a2", lane="a", priority=5, submitted_at=9.0))
    items, data = taken(backlog, 2)
    assert data == ["x", "a1"]
    backlog.push(BatchItem("y", submitted_at=9.0))
    backlog.ended(items)
    assert taken(backlog)[1] == ["a2", "y"], "but among the lanes"


def test_the_oldest_waits_in_a_lane():
    backlog = backlog_of(("a1", "a"), ("a2", "a"), ("x", None))
    items, _ = taken(backlog)
    assert backlog.lanes.oldest() == 1.0
    backlog.push(BatchItem("y", submitted_at=9.0))
    backlog.ended(items)
    assert backlog.oldest() == 1.0, "though it is behind y in the queue"
    items, _ = taken(backlog)
    assert backlog.batch_of(items, 9.0, _NoIds()).oldest == 1.0
    assert backlog.lanes.oldest() == math.inf


class _NoIds:
    def of_items_in(self, number, count):
        return [str(number)] * count


async def test_what_was_cancelled_in_a_lane_is_left_out():
    backlog = Backlog(asyncio.Future.done)
    futures = [asyncio.get_running_loop().create_future() for _ in range(5)]
    for number, future in enumerate(futures):
        backlog.push(BatchItem(number, future, lane=7))
    futures[0].cancel()
    futures[1].cancel()
    items, withdrawn = backlog.take(1)
    assert (items, withdrawn) == ([], 2), "the one in the queue, and the one behind it"
    assert backlog.lanes.released == 1
    futures[3].cancel()
    assert backlog.sweep() == 1
    futures[2].cancel()
    assert backlog.sweep() == 1
    backlog.check_invariants(ended=4)
    items, data = taken(backlog)
    assert data == [4]
    assert backlog.ended(items) == 0
    backlog.check_invariants(ended=5)


async def test_all_that_are_taken_out_leave_no_lane_behind():
    backlog = backlog_of(("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a"))
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    backlog.push(BatchItem("b2", cancelled, lane="b"))
    items, withdrawn = backlog.take_all()
    assert [item.data for item in items] == ["a1", "b1", "a2", "a3"]
    assert withdrawn == 1
    assert len(backlog.lanes) == 0
    assert backlog.ended(items) == 0
    backlog.check_invariants(ended=5)


class Chat(int, enum.Enum):
    NEWS = 5


class Loud(str):
    def __str__(self):
        return self.upper()


@pytest.mark.parametrize(
    ("lane", "plain"),
    [(0, 0), (-1001234567890, -1001234567890), ("ö", "ö"), (Chat.NEWS, 5), (Loud("a"), "a"), ("5", "5")],
)
def test_a_lane_is_a_plain_number_or_text(lane, plain):
    assert valid_lane(lane) == plain
    assert type(valid_lane(lane)) is type(plain)
    assert Lanes().is_busy(valid_lane(lane)) is False


@pytest.mark.parametrize(
    "lane", [True, 1.0, math.nan, "", "x" * 201, 2**63, -(2**63), b"a", (1,), [], object()]
)
def test_anything_else_is_refused(lane):
    with pytest.raises(InvalidArgumentError, match=r"^lane = .*expected a whole number of at most 64 bits"):
        valid_lane(lane)


# Through the processor.


async def test_items_of_a_lane_are_handled_in_order_one_batch_after_the_other(clock, processor, handler):
    futures = [processor.submit(f"{lane}{n}", lane=lane) for n in (1, 2, 3) for lane in ("a", "b")]
    futures.append(processor.submit("free"))
    for _ in range(4):
        await clock.advance(5)
    assert [await future for future in futures[:2]] == ["done a1", "done b1"]
    assert handler.batches == [["a1", "b1", "free"], ["a2", "b2"], ["a3", "b3"]]


async def test_what_waited_for_its_lane_waits_no_longer_for_a_full_batch(clock, processor, handler):
    submitted = await processor.submit_many([1, 2], lane=5)
    assert [answer.batch_id != "" for answer in submitted] == [True, False], "its batch is not known yet"
    await clock.advance(5)
    assert handler.batches == [[1], [2]]


async def test_a_lane_waits_for_a_retry_and_goes_on_after_the_last_one(clock, processor):
    batches, away = [], True

    async def handle(items):
        batches.append([item.data for item in items])
        if away and "a1" in batches[-1]:
            raise OSError("away")
        return [item.data for item in items]

    await processor.enable(handle)
    first, second = processor.submit("a1", lane="a"), processor.submit("a2", lane="a")
    other = processor.submit("b1", lane="b")
    await clock.advance(5)
    assert batches == [["a1", "b1"]]
    third = processor.submit("c1", lane="c")
    await clock.advance(60)
    for dead in (first, other):
        with pytest.raises(DeadLetteredError):
            await dead
    assert await second == "a2"
    assert await third == "c1"
    assert batches.count(["a1", "b1"]) == 4
    assert "a2" in batches[-1], "its lane waited for the last try"
    assert {letter.data: letter.lane for letter in await processor.dead_letters()} == {"a1": "a", "b1": "b"}
    away = False
    waiting = [processor.submit("a3", lane="a")]
    assert await processor.replay() == 2
    waiting.append(processor.submit("a4", lane="a"))
    await clock.advance(30)
    assert [await future for future in waiting] == ["a3", "a4"]
    order = [data for batch in batches[5:] for data in batch if data != "b1"]
    assert order == ["c1", "a2", "a3", "a1", "a4"][-len(order) :], "a replayed item is the last of its lane"


async def test_an_item_that_fails_alone_lets_its_lane_go_on(clock):
    async def fail_the_first(items):
        return [ValueError("no") if item.data == 1 else item.data for item in items]

    processor = BatchProcessor(clock=clock)
    await processor.enable(fail_the_first, batch_timeout=1.0)
    answers = [await processor.submit_item(n, lane="a") for n in (1, 2)]
    await clock.advance(2)
    with pytest.raises(ValueError, match="no"):
        await processor.get_result(answers[0].item_id)
    assert await processor.get_result(answers[1].item_id) == 2
    await processor.disable()


async def test_one_lane_with_many_items_does_not_starve_the_others(clock, processor, handler):
    await processor.enable(max_batch_size=1, max_concurrent=1)
    await processor.submit_many(range(100), lane="busy")
    await processor.submit_item("other", lane="other")
    await processor.submit_item("free")
    assert await processor.flush()
    order = [data for batch in handler.batches for data in batch]
    assert order[:4] == [0, "other", "free", 1]
    assert [data for data in order if data not in ("other", "free")] == list(range(100))


async def test_what_waits_in_lanes_is_pending_and_takes_room(clock, processor):
    await processor.enable(max_pending=3)
    futures = [processor.submit(n, lane="a") for n in range(3)]
    assert processor.statistics()["pending_items"] == 3
    with pytest.raises(BatchQueueFullError):
        processor.submit("one too many")
    with pytest.raises(BatchQueueFullError):
        processor.submit("one too many", lane="b")
    waiting = asyncio.ensure_future(processor.submit_and_wait("patient", lane="a"))
    await until_idle()
    futures[1].cancel()
    assert processor._dispatcher.capacity.lacks_room() is False, "a cancelled one makes room"
    await clock.advance(10)
    assert await waiting == "done patient"
    assert processor.statistics()["cancelled_items"] == 1


async def test_a_flush_waits_for_the_lanes(clock, processor, handler):
    futures = [processor.submit(n, lane="a") for n in range(3)]
    handler.hold()
    flush = asyncio.ensure_future(processor.flush())
    await until_idle()
    assert handler.batches == [[0]]
    assert not flush.done()
    handler.let_go()
    handler.gate = None
    await flush
    assert all(future.done() for future in futures)


async def test_what_waits_in_lanes_at_the_end_goes_to_the_dead_letters_in_order(clock, handler):
    processor = BatchProcessor(clock=clock)
    await processor.enable(handler, max_batch_size=2, drain_timeout=1.0)
    handler.hold()
    answers = await processor.submit_many(range(4), lanes=["a", "b", "a", "a"])
    ending = asyncio.ensure_future(processor.disable())
    await clock.advance(2)
    assert await ending
    processor.check_invariants()
    letters = await processor.dead_letters()
    assert {letter.item_id for letter in letters} == {answer.item_id for answer in answers}
    assert [letter.data for letter in letters if letter.lane == "a"] == [0, 2, 3]
    handler.gate = None
    await processor.enable(handler)
    assert await processor.replay() == 4
    await clock.advance(10)
    assert [data for batch in handler.batches[1:] for data in batch if data != 1] == [0, 2, 3]
    await processor.disable()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lane": 1, "lanes": [1, 2]}, "lane, lanes = .*one of the two"),
        ({"lanes": [1]}, "lanes = '1 lanes'.*one for each of the 2 items"),
        ({"lanes": "ab"}, "lanes = 'ab'.*a list"),
        ({"lanes": [1, True]}, "lane = True"),
        ({"lane": 1.5}, "lane = 1.5"),
    ],
)
async def test_lanes_that_fit_no_items_are_refused_and_nothing_is_taken(processor, arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        await processor.submit_many([1, 2], **arguments)
    assert processor.statistics()["submitted_items"] == 0
