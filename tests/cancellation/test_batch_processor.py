"""Each wait of the batch processor, cancelled: nothing is lost, nothing is left behind."""

import asyncio

import pytest

from bot.core.batch_processor import BatchProcessor
from tests.support.clock import until_idle


@pytest.fixture
def gate():
    return asyncio.Event()


@pytest.fixture
async def processor(clock, gate):
    async def handler(items):
        await gate.wait()
        return [item.data for item in items]

    processor = BatchProcessor(clock=clock)
    await processor.enable(handler, max_batch_size=2, max_concurrent=1, max_pending=3)
    yield processor
    gate.set()
    processor.check_invariants()
    await processor.disable()
    processor.check_invariants()


async def cancelled(task):
    await until_idle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def ledger(processor):
    shown = processor.statistics()
    return shown["pending_items"], shown["total_items_processed"], shown["cancelled_items"]


async def test_while_it_waits_for_room(processor, gate):
    held = [processor.submit(n) for n in range(3)]
    waiting = [asyncio.ensure_future(processor.submit_and_wait(n)) for n in ("gone", "next")]
    await cancelled(waiting[0])
    assert await ledger(processor) == (3, 0, 0)
    gate.set()
    assert await asyncio.wait_for(processor.flush(), 5)
    await processor.flush()
    assert await waiting[1] == "next"
    assert [await future for future in held] == [0, 1, 2]


async def test_when_it_was_just_given_room_the_next_one_gets_it(processor, gate):
    held = [processor.submit(n) for n in range(2)]
    held.append(processor.submit("withdrawn"))
    waiting = [asyncio.ensure_future(processor.submit_and_wait(n)) for n in ("first", "second")]
    await until_idle()
    gate.set()
    # Cancelled in the turn of the loop in which the batch ends and room is given.
    held[0].add_done_callback(lambda _: waiting[0].cancel())
    await until_idle()
    await processor.flush()
    assert await waiting[1] == "second"
    assert waiting[0].cancelled()
    await asyncio.gather(*held)


async def test_while_its_item_waits_for_a_batch(processor, gate):
    task = asyncio.ensure_future(processor.submit_and_wait("gone"))
    await cancelled(task)
    gate.set()
    await processor.flush()
    assert await ledger(processor) == (0, 0, 1), "withdrawn, and never handled"


async def test_while_its_item_is_being_handled(processor, gate):
    tasks = [asyncio.ensure_future(processor.submit_and_wait(n)) for n in range(2)]
    await cancelled(tasks[0])
    gate.set()
    assert await tasks[1] == 1
    assert await ledger(processor) == (0, 2, 0), "it was done, whether anybody waits or not"


async def test_while_it_waits_for_a_result_that_others_wait_for_too(processor, gate):
    _, item_id, _ = await processor.submit_item("a")
    await processor.submit_item("b")
    tasks = [asyncio.ensure_future(processor.get_result(item_id)) for _ in range(2)]
    await cancelled(tasks[0])
    gate.set()
    assert await tasks[1] == "a"


async def test_while_it_waits_for_a_flush(processor, gate):
    future = processor.submit("a")
    await cancelled(asyncio.ensure_future(processor.flush()))
    gate.set()
    assert await future == "a", "what was flushed goes on"
    assert await processor.flush() is True


async def test_a_batch_that_somebody_cancels_is_run_again(processor, gate):
    futures = [processor.submit(n) for n in range(2)]
    await until_idle()
    [task] = [task for task in asyncio.all_tasks() if task.get_name() == "batch"]
    task.cancel()
    gate.set()
    assert await asyncio.wait_for(asyncio.gather(*futures), 5) == [0, 1]


async def test_a_batch_that_is_cancelled_before_its_first_step_is_run_again(processor, gate):
    futures = [processor.submit(n) for n in range(2)]
    [task] = [task for task in asyncio.all_tasks() if task.get_name() == "batch"]
    task.cancel()
    gate.set()
    assert await asyncio.wait_for(asyncio.gather(*futures), 5) == [0, 1]


async def test_a_retry_that_somebody_cancels_comes_sooner(clock):
    failures = [OSError("once")]

    async def handler(items):
        if failures:
            raise failures.pop()
        return [item.data for item in items]

    processor = BatchProcessor(clock=clock)
    await processor.enable(handler, max_batch_size=1, retry_base=1e6, retry_max=1e6)
    future = processor.submit("a")
    await until_idle()
    [task] = [task for task in asyncio.all_tasks() if task.get_name() == "batch-retry"]
    task.cancel()
    assert await asyncio.wait_for(future, 5) == "a"
    await processor.disable()


async def test_a_disable_that_is_cancelled_has_still_stopped_everything(processor, gate, clock):
    futures = [processor.submit(n) for n in range(3)]
    task = asyncio.ensure_future(processor.disable())
    await cancelled(task)
    processor.check_invariants()
    assert all(future.done() for future in futures)
    [future.exception() for future in futures]
    assert await ledger(processor) == (0, 0, 0)
    assert len(await processor.dead_letters()) == 3
    assert await processor.disable() is True
    assert not processor.enabled


def cancel_tasks(name):
    """Cancel those of that name, as a shutdown or a test runner may; how many there were."""
    return sum(task.cancel() for task in asyncio.all_tasks() if task.get_name() == name)


async def test_the_watch_over_an_items_age_before_its_first_step(processor, gate, clock, monkeypatch):
    monkeypatch.setattr("bot.core.batch_processor.dispatcher.REVIVAL", 0.0)
    gate.set()
    future = processor.submit("a")
    assert cancel_tasks("batch-age") == 1
    await clock.advance(5)
    assert future.result() == "a"


async def test_the_pause_before_a_retry_before_its_first_step(processor, clock, monkeypatch):
    monkeypatch.setattr("bot.core.batch_processor.dispatcher.REVIVAL", 0.0)
    failures = [OSError("once")]

    async def handler(items):
        if failures:
            raise failures.pop()
        return [item.data for item in items]

    await processor.enable(handler)
    futures = [processor.submit(n) for n in range(2)]
    while not cancel_tasks("batch-retry"):
        await asyncio.sleep(0)
    await until_idle()
    assert [future.result() for future in futures] == [0, 1]


async def test_while_a_delayed_item_waits_for_room_or_for_its_time(processor, gate, clock):
    held = [processor.submit(n) for n in range(2)]
    delayed = asyncio.ensure_future(processor.submit_and_wait("its time", delay=100))
    await until_idle()
    waiting = [asyncio.ensure_future(processor.submit_and_wait(n, delay=100)) for n in ("gone", "next")]
    await cancelled(waiting[0])
    assert await ledger(processor) == (3, 0, 0)
    await cancelled(delayed)
    await until_idle()
    assert await ledger(processor) == (3, 0, 1), "the place of the withdrawn one is the next one's"
    gate.set()
    await clock.advance(200)
    assert await waiting[1] == "next"
    assert [await future for future in held] == [0, 1]
