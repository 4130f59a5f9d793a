"""Batches whose handler fails: tried again, halved, given up."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

import pytest

from bot.core.batch_processor import (
    BatchProcessor,
    DeadLetteredError,
    HandlerTimeoutError,
)
from tests.support.clock import until_idle


async def figures(processor, *names):
    found = await processor.get_statistics()
    return tuple(found[name] for name in names)


async def test_a_batch_whose_handler_raises_is_tried_again(processor, handler, clock):
    handler.failures = [OSError("one"), OSError("two")]
    futures = [processor.submit(n) for n in range(3)]
    await clock.advance(3.0)  # at most 1 second, then at most 2
    assert handler.batches == [[0, 1, 2]] * 3
    assert [await future for future in futures] == ["done 0", "done 1", "done 2"]
    assert await figures(processor, "retries", "completed_batches", "failed_batches") == (2, 1, 0)


async def test_a_batch_that_waits_for_its_retry_keeps_nobody_from_running(processor, handler, clock):
    await processor.enable(max_concurrent=1, retry_base=1000.0, retry_max=1000.0)
    handler.failures = [OSError("one")]
    first = [processor.submit(n) for n in range(3)]
    await until_idle()
    second = [processor.submit(n) for n in range(3, 6)]
    await until_idle()
    assert all(future.done() for future in second)
    assert not any(future.done() for future in first)
    assert await figures(processor, "retrying_batches", "running_batches") == (1, 0)
    await clock.advance(1000)
    assert all(future.done() for future in first)


async def test_out_of_tries_it_is_given_up_with_its_error(processor, handler, clock, caplog):
    handler.failures = [OSError(f"disk {n}") for n in range(4)]
    success, item_id, batch_id = await processor.submit_item({"file": 1}, priority=2)
    assert success
    future = processor.submit("x")
    with caplog.at_level(logging.WARNING):
        await clock.advance(30)
    with pytest.raises(DeadLetteredError, match=r"after 4 attempt\(s\): OSError: disk 3") as caught:
        await future
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(DeadLetteredError):
        await processor.get_result(item_id)
    letter = (await processor.dead_letters())[0]
    assert (letter.item_id, letter.data, letter.priority) == (item_id, {"file": 1}, 2)
    assert (letter.attempts, letter.error) == (4, "OSError: disk 3")
    assert clock.time() - 30 < letter.died_at < clock.time()
    status = await processor.get_batch_status(batch_id)
    assert (status.state, status.items, status.failed, status.attempts) == ("failed", 2, 2, 4)
    assert status.error == "OSError: disk 3"
    assert caplog.text.count("given up") == 1
    assert (await processor.get_item_status(item_id)).state == "dead_lettered"
    assert await figures(processor, "dead_lettered_items", "failed_batches", "dead_letters") == (2, 1, 2)


async def test_a_handler_that_hangs_is_cancelled_at_its_timeout(processor, handler, clock):
    ended = []

    async def hangs(items):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(len(items))

    await processor.enable(hangs, handler_timeout=0.01, max_retries=1)
    futures = [processor.submit(n) for n in range(3)]
    while len(ended) < 2:
        await asyncio.sleep(0.005)
        await clock.advance(1)
    with pytest.raises(
        DeadLetteredError, match=r"HandlerTimeoutError: the handler took longer than 0\.01 s"
    ) as e:
        await futures[0]
    assert isinstance(e.value.__cause__, HandlerTimeoutError)
    assert ended == [3, 3]


async def test_a_timeout_of_the_handlers_own_is_told_apart(processor, clock):
    async def handler(items):
        raise TimeoutError("the database's")

    await processor.enable(handler, handler_timeout=60.0, max_retries=0)
    with pytest.raises(DeadLetteredError, match="TimeoutError: the database's"):
        await asyncio.gather(*[processor.submit(n) for n in range(3)])


async def test_a_handler_that_ends_as_cancelled_has_failed(processor, clock):
    async def handler(items):
        raise asyncio.CancelledError

    await processor.enable(handler, max_retries=1)
    futures = [processor.submit(n) for n in range(3)]
    await clock.advance(10)
    with pytest.raises(DeadLetteredError, match="HandlerCancelledError"):
        await futures[0]


class OfItsOwnRoot(BaseException):
    """An error that `except Exception` does not catch."""


class CannotTellItsMessage(Exception):
    def __str__(self):
        return self.message  # there is none


class FailsWhenRead(Sequence):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise OSError("the rows are gone")


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (OfItsOwnRoot("own"), "OfItsOwnRoot: own"),
        (CannotTellItsMessage(), "CannotTellItsMessage: <"),
        (GeneratorExit("end"), "GeneratorExit: end"),
        (FailsWhenRead(), "OSError: the rows are gone"),
    ],
)
async def test_however_oddly_a_handler_fails_its_tries_are_counted(processor, clock, ending, reason):
    calls = []

    async def handler(items):
        calls.append(len(items))
        if isinstance(ending, BaseException):
            raise ending
        return ending

    await processor.enable(handler, max_retries=1)
    futures = [processor.submit(n) for n in range(3)]
    await clock.advance(10)
    assert await processor.flush(timeout=10)
    assert calls == [3, 3]
    for future in futures:
        with pytest.raises(DeadLetteredError, match=rf"after 2 attempt\(s\): {reason}"):
            await future
    assert [letter.data for letter in await processor.dead_letters()] == [0, 1, 2]


async def test_a_sequence_of_another_kind_answers_in_order_too(processor):
    await processor.enable(lambda items: deque(item.data for item in items))
    assert await asyncio.gather(*[processor.submit(n) for n in range(3)]) == [0, 1, 2]


async def test_isolation_gives_up_only_what_makes_the_handler_fail(processor, clock):
    seen = []

    async def handler(items):
        seen.append([item.data for item in items])
        if any(item.data == 5 for item in items):
            raise ValueError("poison")
        return [item.data for item in items]

    await processor.enable(handler, max_batch_size=8, max_retries=1, isolate=True)
    futures = [processor.submit(n) for n in range(8)]
    await clock.advance(30)
    assert [future.result() for n, future in enumerate(futures) if n != 5] == [0, 1, 2, 3, 4, 6, 7]
    with pytest.raises(DeadLetteredError, match="poison"):
        await futures[5]
    assert [letter.data for letter in await processor.dead_letters()] == [5]
    assert len(seen) == 8, "two tries of all, then halves: 4 4, 2 2, 1 1"


async def test_what_a_handler_says_of_its_failure_shows_no_secret(clock, caplog):
    async def leak(items):
        raise RuntimeError("cannot reach\npostgresql://bot:hunter2@db/main")

    processor = BatchProcessor(clock=clock)
    await processor.enable(leak, max_batch_size=1, max_retries=0)
    await processor.submit_item("x")
    await until_idle()
    [letter] = await processor.dead_letters()
    assert letter.error == "RuntimeError: cannot reach postgresql://***@db/main"
    assert "hunter2" not in caplog.text
    assert await processor.disable()
