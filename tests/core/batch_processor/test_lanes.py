"""Lanes: one item out at a time, the next when it has ended."""

import asyncio
import enum
import math

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.batch_processor.backlog import Backlog
from bot.core.batch_processor.lanes import Lanes, valid_lane
from bot.core.batch_processor.models import BatchItem


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
