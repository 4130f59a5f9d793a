"""Items that wait, in the order in which they leave."""

import asyncio
import math

import pytest

from bot.core.batch_processor.models import BatchItem
from bot.core.batch_processor.queue import PendingQueue


def items(*priorities):
    return [BatchItem(n, priority=priority, submitted_at=n) for n, priority in enumerate(priorities)]


def data(taken):
    return [item.data for item in taken]


def filled(*priorities):
    queue = PendingQueue()
    for item in items(*priorities):
        queue.push(item)
    queue.check_invariants()
    return queue


def test_first_come_first_served_within_a_priority_and_higher_ones_first():
    queue = filled(0, -1, 5, 0, 5, -1, 1)
    assert data(queue.take(3)) == [2, 4, 6]
    queue.check_invariants()
    assert data(queue.take(100)) == [0, 3, 1, 5]
    assert len(queue) == 0
    assert queue.take(1) == []


def test_how_many_go_before():
    queue = filled(0, 0, 3, -2)
    assert [queue.ahead(priority) for priority in (9, 3, 1, 0, -1, -2, -3)] == [0, 1, 1, 3, 3, 4, 4]
    assert filled(0, 0).ahead(0) == 2
    assert filled(0, 0).ahead(1) == 0


def test_the_oldest_is_known_whatever_its_priority():
    queue = filled(-1, 0, 5)
    assert queue.oldest() == 0
    queue.take(2)
    assert queue.oldest() == 0
    queue.take(1)
    assert queue.oldest() == math.inf


async def test_what_was_cancelled_is_left_out():
    queue = PendingQueue()
    futures = [asyncio.get_running_loop().create_future() for _ in range(4)]
    for number, future in enumerate(futures):
        queue.push(BatchItem(number, future))
    futures[0].cancel()
    futures[2].cancel()
    assert data(queue.take(2)) == [1, 3], "cancelled ones take no place in a batch"
    assert queue.withdrawn == 2


async def test_a_sweep_leaves_out_what_was_cancelled_and_keeps_the_order():
    queue = PendingQueue()
    normal = queue.normal
    priorities = (0, 5, 0, 5, 7, 0, -1)
    futures = [asyncio.get_running_loop().create_future() for _ in priorities]
    for item, future in zip(items(*priorities), futures, strict=True):
        item.future = future
        queue.push(item)
    queue.push(BatchItem("without a future", submitted_at=9.0))
    for number in (0, 3, 4):
        futures[number].cancel()
    assert queue.sweep() == 3
    queue.check_invariants()
    assert queue.sweep() == 0
    assert (len(queue), queue.others, queue.withdrawn) == (5, 2, 3)
    assert queue.normal is normal
    assert data(queue.take(9)) == [1, 2, 5, "without a future", 6]


def test_what_another_instance_took_is_removed():
    queue = PendingQueue()
    for number, item in enumerate(items(0, 5, 0, 5)):
        item.entry = b"%d-0" % number
        queue.push(item)
    assert sorted(data(queue.discard({b"1-0", b"2-0"}))) == [1, 2]
    queue.check_invariants()
    assert data(queue.take(9)) == [3, 0]


def test_items_are_added_together_as_they_are_one_by_one():
    for priorities in ((0, 0, 0), (0, 5, 0, -1)):
        queue, other = PendingQueue(), filled(*priorities)
        queue.extend(items(*priorities))
        queue.check_invariants()
        assert data(queue.items()) == data(other.items())


# Bytes.


def of_bytes(*sizes, most=10, priorities=None):
    queue = PendingQueue()
    queue.limit_bytes(most)
    for number, size in enumerate(sizes):
        queue.push(
            BatchItem("x" * size, submitted_at=number, priority=(priorities or [0] * len(sizes))[number])
        )
    queue.check_invariants()
    return queue


def sizes(taken):
    return [len(item.data) for item in taken]


def test_a_batch_without_a_limit_of_bytes_is_so_many_items():
    queue = filled(0, 3, 0)
    assert data(queue.take_batch(2)) == [1, 0]
    assert data(queue.take_batch(2)) == [2]


def test_bytes_are_counted_only_where_there_is_a_limit():
    queue = PendingQueue()
    assert (queue.full_at, queue.bytes) == (math.inf, 0)
    queue.push(BatchItem("abc"))
    assert queue.bytes == 0
    queue.limit_bytes(10)
    assert (queue.full_at, queue.bytes) == (10, 3)
    queue.extend([BatchItem("de"), BatchItem("f")])
    assert queue.bytes == 6
    queue.check_invariants()
    queue.limit_bytes(0)
    assert (queue.full_at, queue.bytes) == (math.inf, 0)


@pytest.mark.parametrize(
    ("held", "limit", "batches"),
    [
        ((4, 6, 1), 9, [[4, 6], [1]]),  # to the byte
        ((4, 7, 1), 9, [[4], [7, 1]]),  # the first that does not fit ends the batch
        ((30, 1, 1), 9, [[30], [1, 1]]),  # a larger one travels alone
        ((1, 30, 1), 9, [[1], [30], [1]]),
        ((1, 1, 1), 2, [[1, 1], [1]]),
        ((5, 5, 5), 1, [[5], [5], [5]]),
        ((2, 3, 5, 4, 1), 3, [[2, 3, 5], [4, 1]]),
    ],
)
def test_a_batch_has_at_most_so_many_bytes_or_one_item(held, limit, batches):
    queue = of_bytes(*held)
    taken = []
    while len(queue):
        taken.append(sizes(queue.take_batch(limit)))
        queue.check_invariants()
    assert taken == batches
    assert queue.bytes == 0
    assert queue.take_batch(limit) == []


def test_a_batch_by_bytes_keeps_the_order_of_priorities():
    queue = of_bytes(1, 2, 3, 4, 5, priorities=[0, 5, -1, 5, 7])
    assert sizes(queue.take_batch(2)) == [5, 2]
    assert (queue.others, len(queue)) == (2, 3)
    assert sizes(queue.take_batch(9)) == [4, 1, 3]
    assert (queue.others, len(queue), queue.bytes) == (0, 0, 0)
    queue = of_bytes(8, 3, 1, priorities=[5, 0, -1])
    assert sizes(queue.take_batch(9)) == [8], "a smaller one of a lower priority does not overtake"
    queue.check_invariants()


async def test_what_was_cancelled_takes_no_bytes_of_a_batch():
    queue = of_bytes(9, 9, 1)
    for item in queue.normal:
        item.future = asyncio.get_running_loop().create_future()
    queue.normal[1].future.cancel()
    assert sizes(queue.take_batch(1)) == [9]
    assert sizes(queue.take_batch(2)) == [1]
    queue = of_bytes(9, 10)
    first = queue.normal[0]
    first.future = asyncio.get_running_loop().create_future()
    first.future.cancel()
    assert sizes(queue.take_batch(2)) == [10], "all ten bytes are left for it"
    assert queue.withdrawn == 1
    queue = of_bytes(9, 4, 6)
    first = queue.normal[0]
    first.future = asyncio.get_running_loop().create_future()
    first.future.cancel()
    assert sizes(queue.take_batch(3)) == [4, 6]
    queue = of_bytes(9, 9, 1)
    queue.normal[1].future = asyncio.get_running_loop().create_future()
    queue.normal[1].future.cancel()
    assert queue.sweep() == 1
    queue.check_invariants()
    assert queue.bytes == 10


def test_everything_that_is_taken_takes_its_bytes_with_it():
    queue = of_bytes(9, 9, 1)
    assert sizes(queue.take_everything()) == [9, 9, 1]
    assert (queue.bytes, len(queue)) == (0, 0)
    queue = of_bytes(9, 2, 1)
    queue.normal[1].entry = b"1-0"
    assert sizes(queue.discard({b"1-0"})) == [2]
    assert queue.bytes == 10


# What the owner of the lanes is told.


async def test_items_of_a_lane_that_were_cancelled_are_told():
    loop, queue = asyncio.get_running_loop(), PendingQueue()
    lane = object()
    in_lane = [BatchItem(number, loop.create_future(), lane=lane) for number in range(3)]
    without = BatchItem("no lane", loop.create_future())
    unawaited = BatchItem("no future", lane=lane)
    for item in (*in_lane, without, unawaited):
        queue.push(item)
    in_lane[1].future.cancel()
    without.future.cancel()
    assert data(queue.take(9)) == [0, 2, "no future"]
    assert (queue.left_out, queue.withdrawn) == ([in_lane[1]], 2)


async def test_each_level_leaves_out_what_was_cancelled():
    loop, queue = asyncio.get_running_loop(), PendingQueue()
    for number, item in enumerate(items(0, 0, 0, 5, 5)):
        item.future = loop.create_future()
        queue.push(item)
        if number in (1, 3):
            item.future.cancel()
    assert data(queue.take(2)) == [4, 0]
    assert data(queue.take(1)) == [2]
    assert (len(queue), queue.withdrawn) == (0, 2)


def test_no_more_are_taken_than_asked_for():
    queue = filled(0, 0, 0)
    assert data(queue.take(2)) == [0, 1]
    assert data(queue.take(2)) == [2]
