"""Batches that close at so many bytes."""

import asyncio
import datetime

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.batch_processor import BatchProcessor
from bot.core.batch_processor.models import BatchItem
from bot.core.batch_processor.queue import PendingQueue
from bot.core.batch_processor.sizes import Sizes


def batches(most, *lengths, limit=100, priorities=None):
    """The lengths of the items of each batch that the queue makes of items so long."""
    queue = PendingQueue(asyncio.Future.done)
    queue.limit_bytes(most)
    for number, length in enumerate(lengths):
        queue.push(BatchItem("x" * length, priority=priorities[number] if priorities else 0))
    made = []
    while len(queue):
        queue.check_invariants()
        made.append([len(item.data) for item in queue.take_batch(limit)])
    assert queue.bytes == 0
    return made


def test_a_batch_closes_before_it_has_too_many_bytes():
    assert batches(10, 4, 4, 4, 4) == [[4, 4], [4, 4]]
    assert batches(10, 5, 5, 1) == [[5, 5], [1]]
    assert batches(10, 10, 10) == [[10], [10]]


def test_an_item_larger_than_the_limit_travels_alone_and_keeps_its_place():
    assert batches(10, 4, 11, 4, 4) == [[4], [11], [4, 4]]
    assert batches(10, 99, 99) == [[99], [99]]


def test_the_number_of_items_is_a_limit_too_and_priorities_come_first():
    assert batches(100, 1, 1, 1, limit=2) == [[1, 1], [1]]
    assert batches(10, 3, 4, 5, 6, priorities=[0, -1, 1, 0]) == [[5, 3], [6, 4]]


def test_a_limit_that_comes_or_goes_measures_what_is_there():
    queue = PendingQueue(asyncio.Future.done)
    for _ in range(3):
        queue.push(BatchItem("1234"))
    assert queue.bytes == 0
    queue.limit_bytes(8)
    assert (queue.bytes, queue.full_at) == (12, 8)
    queue.check_invariants()
    assert len(queue.take_batch(9)) == 2
    queue.limit_bytes(0)
    assert len(queue.take_batch(9)) == 1


async def test_what_was_cancelled_takes_no_bytes():
    queue = PendingQueue(asyncio.Future.done)
    queue.limit_bytes(10)
    futures = [asyncio.get_running_loop().create_future() for _ in range(4)]
    for future in futures:
        queue.push(BatchItem("12345", future))
    futures[0].cancel()
    futures[2].cancel()
    assert len(queue.take_batch(9)) == 2
    assert (queue.bytes, queue.withdrawn) == (0, 2)
    queue.push(BatchItem("12345", futures[0]))
    assert queue.sweep() == 1
    assert queue.bytes == 0


def test_what_was_to_be_tried_again_is_divided_alike():
    sizes = Sizes()
    items = [BatchItem("x" * length) for length in (4, 4, 4, 20, 1)]
    assert [len(part) for part in sizes.portions(items, 2)] == [2, 2, 1]
    sizes.most = 10
    assert [len(part) for part in sizes.portions(items, 9)] == [2, 1, 1, 1]


@pytest.mark.parametrize("answer", [-1, 1.5, True, "1", None, float("nan")])
def test_what_cannot_be_measured_travels_alone_and_the_log_says_so_once(answer, caplog):
    sizes = Sizes()
    sizes.most = 10
    sizes.function = lambda data: answer
    assert [sizes.measure(BatchItem(n)) for n in range(3)] == [10, 10, 10]
    assert caplog.text.count("cannot be measured") == 1


async def test_the_processor_closes_batches_at_so_many_bytes(clock, handler):
    processor = BatchProcessor(clock=clock)
    await processor.enable(handler, batch_timeout=5.0, max_batch_bytes=10)
    answers = await processor.submit_many(["aaaa", "bbbb", "cccc"])
    assert [answer.batch_id for answer in answers] == ["", "", ""], "which one it is in depends on the next"
    await clock.advance(0)
    assert handler.batches == [["aaaa", "bbbb"]], "it is full, so it does not wait"
    future = processor.submit("x" * 30)
    await clock.advance(0)
    assert handler.batches[1:] == [["cccc"], ["x" * 30]]
    assert await future == "done " + "x" * 30
    waiting = processor.submit(object())
    await clock.advance(0)
    assert (await waiting).startswith("done <object"), "it cannot be measured, and is handled"
    small = [processor.submit("s", lane=n) for n in range(3)]
    await clock.advance(4)
    assert not small[0].done()
    await clock.advance(1)
    assert handler.batches[-1] == ["s", "s", "s"]
    processor.check_invariants()
    await processor.enable(max_batch_bytes=0)
    processor.submit("y" * 30), processor.submit("z" * 30)
    await clock.advance(5)
    assert handler.batches[-1] == ["y" * 30, "z" * 30]
    await processor.disable()


async def test_a_function_tells_what_counts(clock, handler):
    processor = BatchProcessor(clock=clock)
    await processor.enable(handler, max_batch_bytes=100, size_of=lambda data: data["bytes"])
    for size in (60, 50, 40, 200):
        await processor.submit_item({"bytes": size, "at": datetime.datetime.min})
    await clock.advance(6)
    assert [[data["bytes"] for data in batch] for batch in handler.batches] == [[60], [50, 40], [200]]
    await processor.disable()


async def test_what_is_no_function_or_no_limit_is_refused():
    processor = BatchProcessor()
    with pytest.raises(InvalidArgumentError, match="size_of = 5"):
        await processor.enable(size_of=5)
    for limit in (-1, 1.5, True, 2**41):
        with pytest.raises(InvalidArgumentError, match="max_batch_bytes"):
            await processor.enable(max_batch_bytes=limit)
    assert not processor.enabled
