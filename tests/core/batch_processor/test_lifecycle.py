"""Switched on, off, and under other event loops."""

import asyncio
import contextlib

import pytest

from bot.core._shared.errors import MisuseError
from bot.core.batch_processor import (
    BatchClosedError,
    BatchProcessor,
    BatchQueueFullError,
)
from tests.support.clock import until_idle


async def figures(processor, *names):
    found = await processor.get_statistics()
    return tuple(found[name] for name in names)


async def test_off_it_takes_nothing_and_says_so():
    processor = BatchProcessor()
    refused = await processor.submit_item(1)
    assert (refused, refused.reason) == ((False, "", ""), "the batch processor is off")
    with pytest.raises(BatchClosedError, match="is off"):
        processor.submit(1)
    with pytest.raises(BatchClosedError, match="is off"):
        await processor.submit_and_wait(1)
    assert await processor.flush() is True
    assert await processor.replay() == 0
    assert await processor.disable() is True


async def test_disable_handles_what_is_pending(processor, handler):
    futures = [processor.submit(n) for n in range(5)]
    assert await processor.disable() is True
    assert [await future for future in futures] == [f"done {n}" for n in range(5)]
    assert not processor.enabled
    assert await processor.enable() is True, "and it can be switched on again, as it was"
    futures = [processor.submit(n) for n in range(3)]
    assert [await future for future in futures] == [f"done {n}" for n in range(3)]


async def test_what_the_drain_does_not_reach_is_kept_as_dead_letters(processor, handler, clock):
    handler.hold()
    futures = [processor.submit(n) for n in range(8)]
    await until_idle()
    waiting_for_room = None
    await processor.enable(max_pending=8)
    waiting_for_room = asyncio.ensure_future(processor.submit_and_wait("late"))
    await until_idle()
    ending = asyncio.ensure_future(processor.disable())
    await clock.advance(10)
    assert await ending is True
    for future in futures:
        with pytest.raises(BatchClosedError, match="switched off before the item was handled"):
            await future
    with pytest.raises(BatchClosedError):
        await waiting_for_room
    assert sorted(letter.data for letter in await processor.dead_letters()) == list(range(8))
    assert await figures(processor, "dead_lettered_items", "pending_items") == (8, 0)
    handler.gate = None
    await processor.enable()
    assert await processor.replay() == 8
    await processor.flush()
    assert await figures(processor, "total_items_processed", "dead_lettered_items") == (8, 0)


async def test_a_disable_that_is_cancelled_waits_no_longer_and_switches_off(processor, handler):
    handler.hold()
    futures = [processor.submit(n) for n in range(5)]
    await until_idle()
    ending = asyncio.ensure_future(processor.disable())
    await until_idle()
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert not processor.enabled
    for future in futures:
        with pytest.raises(BatchClosedError):
            await future
    assert await processor.disable()
    handler.gate = None
    await processor.enable()
    assert await processor.replay() == 5
    assert await processor.flush()
    assert await figures(processor, "total_items_processed", "dead_lettered_items") == (5, 0)


async def test_a_disable_cancelled_again_and_again_is_finished_by_the_next(processor):
    release = asyncio.Event()

    async def stubborn(items):
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return [1] * len(items)

    await processor.enable(stubborn)
    futures = [processor.submit(n) for n in range(3)]
    await until_idle()
    ending = asyncio.ensure_future(processor.disable())
    while not ending.done():
        await until_idle()
        ending.cancel()
    assert not processor.enabled
    release.set()
    assert await processor.disable()
    assert {type(future.exception()) for future in futures} == {BatchClosedError}
    assert await figures(processor, "pending_items", "dead_lettered_items") == (0, 3)


async def test_a_handler_that_will_not_end_is_reported(processor, monkeypatch):
    monkeypatch.setattr("bot.core.batch_processor.dispatcher.GRACE", 0.01)
    release = asyncio.Event()

    async def stubborn(items):
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return [1] * len(items)

    await processor.enable(stubborn, drain_timeout=0)
    future = asyncio.gather(*[processor.submit(n) for n in range(3)], return_exceptions=True)
    await until_idle()
    assert await processor.disable() is False
    assert {type(error) for error in await future} == {BatchClosedError}
    release.set()
    await until_idle()
    assert await figures(processor, "total_items_processed", "dead_lettered_items") == (0, 3), (
        "what it answers at last changes nothing"
    )


def test_enabled_under_one_loop_and_disabled_under_another(handler):
    processor = BatchProcessor()

    async def start():
        await processor.enable(handler, max_batch_size=3)
        for n in range(4):
            await processor.submit_item(n)
        await until_idle()

    asyncio.run(start())
    assert handler.batches == [[0, 1, 2]]
    assert asyncio.run(processor.disable()) is True
    assert handler.batches == [[0, 1, 2], [3]], "drained under the second loop"
    processor.check_invariants()


def test_a_batch_under_way_when_its_loop_ends_is_run_again(handler):
    processor = BatchProcessor()

    async def start():
        handler.hold()
        await processor.enable(handler, max_batch_size=3)
        for n in range(3):
            processor.submit(n).add_done_callback(lambda future: future.cancelled() or future.exception())
        await until_idle()

    asyncio.run(start())
    handler.gate = None

    async def go_on():
        assert await processor.submit_and_wait("next") == "done next"

    asyncio.run(asyncio.wait_for(_with_short_timeout(processor, go_on), 5))
    assert [0, 1, 2] in handler.batches[1:]
    assert asyncio.run(processor.disable()) is True
    processor.check_invariants()


@pytest.mark.parametrize("use", ["get_result", "submit_and_wait", "submit_item", "submit_many", "submit"])
def test_a_full_processor_goes_on_under_the_next_loop_whatever_it_is_asked(handler, use):
    processor = BatchProcessor()

    async def start():
        handler.hold()
        await processor.enable(handler, max_batch_size=1, max_pending=1)
        answer = await processor.submit_item("first")
        await until_idle()
        return answer.item_id

    item_id = asyncio.run(start())
    handler.gate = None

    async def go_on():
        if use == "get_result":
            assert await processor.get_result(item_id, timeout=10) == "done first"
        elif use == "submit_and_wait":
            assert await processor.submit_and_wait("next", timeout=10) == "done next"
        elif use == "submit":
            with pytest.raises(BatchQueueFullError):
                processor.submit("next")
        elif use == "submit_item":
            assert not (await processor.submit_item("next")).success
        else:
            assert not (await processor.submit_many(["next"], all_or_none=True))[0].success
        await until_idle()
        assert handler.batches[:2] == [["first"], ["first"]]
        assert await processor.submit_and_wait("last", timeout=10) == "done last"

    asyncio.run(go_on())
    assert asyncio.run(processor.disable()) is True
    processor.check_invariants()


async def _with_short_timeout(processor, go_on):
    await processor.enable(batch_timeout=0.01)
    await go_on()


async def test_under_another_loop_that_runs_beside_its_own_it_says_so(processor, handler):
    async def elsewhere():
        for call in (processor.submit_and_wait("x"), processor.submit_item("x"), processor.get_result("x")):
            with pytest.raises(MisuseError, match="works under another event loop, which is running"):
                await call
        with pytest.raises(MisuseError):
            processor.submit("x")

    processor.submit("here")  # so that the shortest way in is open
    await asyncio.to_thread(asyncio.run, elsewhere())
    assert (await processor.get_statistics())["submitted_items"] == 1
