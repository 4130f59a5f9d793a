"""Items that wait, in the order in which they leave."""

import asyncio
import math

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
