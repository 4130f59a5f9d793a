"""When batches start."""

import asyncio

from bot.core.batch_processor import (
    BatchProcessor,
)
from tests.support.clock import until_idle
from tests.support.steps import steps_of


async def figures(processor, *names):
    found = await processor.get_statistics()
    return tuple(found[name] for name in names)


async def test_a_full_batch_starts_at_once(processor, handler):
    futures = [processor.submit(n) for n in range(7)]
    await until_idle()
    assert handler.batches == [[0, 1, 2], [3, 4, 5]]
    assert [await future for future in futures[:6]] == [f"done {n}" for n in range(6)]
    assert not futures[6].done()


async def test_a_batch_that_does_not_fill_starts_at_its_first_items_timeout(processor, handler, clock):
    first = processor.submit("a")
    await clock.advance(4.9)
    second = processor.submit("b")
    assert handler.batches == []
    await clock.advance(0.1)
    assert handler.batches == [["a", "b"]]
    assert (await first, await second) == ("done a", "done b")
    processor.submit("c")
    await clock.advance(4.9)
    assert len(handler.batches) == 1, "its time is counted from its own first item"
    await clock.advance(0.2)
    assert handler.batches[1:] == [["c"]]


async def test_flush_starts_what_is_pending_and_waits_for_its_end(processor, handler, clock):
    future = processor.submit("a")
    handler.failures = [OSError("once")]
    flush = asyncio.ensure_future(processor.flush())
    await until_idle()
    assert handler.batches == [["a"]]
    assert not flush.done(), "the retry is part of it"
    await clock.advance(1.0)
    assert await flush is True
    assert await future == "done a"
    assert await processor.flush() is True, "nothing to do"


async def test_flushes_end_in_order_each_with_its_own_items(processor, handler):
    await processor.enable(max_batch_size=1, max_concurrent=1)
    handler.hold()
    flushes = []
    for number in range(4):
        processor.submit(number)
        flushes.append(asyncio.ensure_future(processor.flush()))
        await until_idle()
    flushes[1].cancel()
    await until_idle()
    due = processor._dispatcher.due
    assert len(due._flushes) == 3, "one that is given up is forgotten"
    with_three = steps_of(due.end_flushes)
    for _ in range(50):
        due.flush()
    assert steps_of(due.end_flushes) == with_three, "not each is looked at when an item ends"
    handler.let_go()
    assert await asyncio.gather(flushes[0], *flushes[2:]) == [True] * 3
    await until_idle()
    assert not due._flushes


async def test_a_flush_waits_for_what_leaves_the_queue_beside_a_withdrawn_item(processor, handler):
    handler.hold()
    processor.submit("withdrawn").cancel()
    kept = processor.submit("kept")
    flush = asyncio.ensure_future(processor.flush())
    await until_idle()
    assert not flush.done()
    handler.let_go()
    assert await flush is True
    assert await kept == "done kept"


async def test_flush_gives_up_after_its_timeout(processor, handler):
    handler.hold()
    processor.submit("a")
    assert await processor.flush(timeout=0.01) is False
    handler.let_go()


async def test_no_more_handlers_run_at_once_than_are_allowed(processor, handler):
    handler.hold()
    for n in range(12):
        processor.submit(n)
    await until_idle()
    assert handler.batches == [[0, 1, 2], [3, 4, 5]]
    handler.let_go()
    await until_idle()
    assert len(handler.batches) == 4
    assert handler.most_at_once == 2


async def test_priorities_order_what_is_pending(processor, handler):
    handler.hold()
    for n in range(6):
        processor.submit(f"first {n}")
    for priority in (0, -5, 0, 7, 7, 1):
        processor.submit(f"p{priority}", priority)
    await until_idle()
    handler.let_go()
    await until_idle()
    assert handler.batches[2:] == [["p7", "p7", "p1"], ["p0", "p0", "p-5"]]


async def test_a_smaller_size_or_timeout_holds_for_what_is_pending(processor, handler, clock):
    processor.submit("a")
    await until_idle()
    await processor.enable(batch_timeout=1.0)
    await clock.advance(1.0)
    assert handler.batches == [["a"]]
    processor.submit("b")
    processor.submit("c")
    await processor.enable(max_batch_size=2)
    await until_idle()
    assert handler.batches[1:] == [["b", "c"]]


async def test_items_wait_until_there_is_a_handler(clock):
    processor = BatchProcessor(clock=clock)
    await processor.enable(max_batch_size=2)
    waiting = [processor.submit(n) for n in range(3)]
    await clock.advance(100)
    assert await processor.flush() is False
    assert await figures(processor, "handler", "pending_items") == (False, 3)

    async def handler(items):
        return [item.data * 10 for item in items]

    processor.process_handler = handler
    await clock.advance(0)
    assert [await future for future in waiting] == [0, 10, 20]
    await processor.disable()


async def test_the_size_adapts_when_asked_to(clock):
    sizes = []

    async def handler(items):
        sizes.append(len(items))
        await clock.sleep(1.0)  # the same for any number of items
        return [None] * len(items)

    processor = BatchProcessor(clock=clock)
    await processor.enable(handler, max_batch_size=64, max_concurrent=1, adaptive=True)
    for n in range(600):
        processor.submit(n)
    await clock.advance(60)
    assert sizes[0] == 4
    assert max(sizes) == 64
    assert await processor.disable()
