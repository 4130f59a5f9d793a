"""Errors that ask to wait: which are heard, and what the batch processor does then."""

import asyncio
import datetime

import pytest

from bot.core.batch_processor import BatchProcessor, DeadLetteredError
from bot.core.batch_processor.told_waits import MOST_WAITS, told_wait
from bot.core.rate_limiter import RateLimitExceeded


class Told(Exception):
    def __init__(self, retry_after):
        super().__init__("slow down")
        self.retry_after = retry_after


class FloodWait(Exception):
    value = 30


class FloodWaitError(Exception):
    seconds = 40


class Premium(FloodWait):
    value = 7


class Nasty(Exception):
    @property
    def retry_after(self):
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (Told(5), 5.0),
        (Told(2.5), 2.5),
        (Told(datetime.timedelta(minutes=1)), 60.0),
        (Told(10**400), 3600.0),
        (Told(7200), 3600.0),
        (RateLimitExceeded(3.0), 3.0),
        (FloodWait(), 30.0),
        (FloodWaitError(), 40.0),
        (Premium(), 7.0),
        (Told(0), 0.0),
        (Told(-1), 0.0),
        (Told(True), 0.0),
        (Told("5"), 0.0),
        (Told(None), 0.0),
        (Told(float("nan")), 0.0),
        (Told(float("inf")), 0.0),
        (Told(datetime.timedelta(seconds=-3)), 0.0),
        (Nasty(), 0.0),
        (ValueError("value"), 0.0),
    ],
    ids=repr,
)
def test_how_long_an_error_asks_to_wait(error, seconds):
    assert told_wait(error, 3600.0) == seconds


async def test_a_batch_whose_error_asks_to_wait_is_not_tried_before(processor, handler, clock):
    handler.failures = [Told(100)]
    futures = [processor.submit(n) for n in range(3)]
    await clock.advance(99.9)
    assert handler.batches == [[0, 1, 2]]
    await clock.advance(1.2)
    assert handler.batches == [[0, 1, 2]] * 2
    assert [await future for future in futures] == ["done 0", "done 1", "done 2"]


async def test_such_waits_use_up_no_retry_but_their_number_is_bounded(processor, handler, clock):
    await processor.enable(max_retries=1)
    handler.failures = [Told(10)] * 100
    future = processor.submit("x")
    await clock.advance(1_000)
    assert len(handler.batches) == MOST_WAITS + 2
    with pytest.raises(DeadLetteredError, match="slow down"):
        await future


class Sender:
    """Refuses each item as often as its data says, then sends it."""

    def __init__(self, clock):
        self.clock = clock
        self.sent = []

    async def __call__(self, items):
        answer = {}
        for item in items:
            name, refusals, wait = item.data
            if item.waits < refusals:
                answer[item.item_id] = Told(wait)
            else:
                self.sent.append((name, self.clock.monotonic() - 1_000.0))
                answer[item.item_id] = name
        return answer


@pytest.fixture
async def sending(clock):
    processor = BatchProcessor(clock=clock)
    sender = Sender(clock)
    await processor.enable(sender, max_batch_size=3, batch_timeout=1.0, retry_base=1.0)
    yield processor, sender
    processor.check_invariants()
    await processor.disable()
    processor.check_invariants()


async def test_an_item_whose_error_asks_to_wait_waits_alone(sending, clock):
    processor, sender = sending
    futures = [processor.submit(data) for data in [("a", 0, 0), ("b", 1, 50), ("c", 2, 20)]]
    await clock.advance(0)
    assert [name for name, _ in sender.sent] == ["a"]
    assert processor.statistics()["waiting_items"] == 2
    processor.check_invariants()
    flush = [f.done() for f in futures]
    assert flush == [True, False, False]
    await clock.advance(60)
    assert [await future for future in futures] == ["a", "b", "c"]
    times = dict(sender.sent)
    assert 50.0 <= times["b"] <= 51.0
    assert 40.0 <= times["c"] <= 42.0
    shown = processor.statistics()
    assert (shown["waiting_items"], shown["pending_items"], shown["total_items_processed"]) == (0, 0, 3)


async def test_an_item_that_is_always_asked_to_wait_fails_in_the_end(sending, clock):
    processor, _ = sending
    _, item_id, _ = await processor.submit_item(("x", 1_000, 5))
    await clock.advance(100)
    with pytest.raises(Told):
        await processor.get_result(item_id)


async def test_a_flush_waits_for_what_is_tried_again(sending, clock):
    processor, _ = sending
    await processor.submit_item(("x", 1, 30))
    flush = asyncio.ensure_future(processor.flush())
    await clock.advance(29)
    assert not flush.done()
    await clock.advance(5)
    assert await flush


async def test_what_still_waits_when_it_is_switched_off_is_a_dead_letter(clock):
    processor = BatchProcessor(clock=clock)
    await processor.enable(Sender(clock), max_batch_size=1, drain_timeout=5.0)
    await processor.submit_item(("x", 1, 300))
    await clock.advance(1)
    ending = asyncio.ensure_future(processor.disable())
    await clock.advance(10)
    assert await ending
    processor.check_invariants()
    assert [letter.data for letter in await processor.dead_letters()] == [("x", 1, 300)]
    shown = processor.statistics()
    assert (shown["pending_items"], shown["dead_lettered_items"]) == (0, 1)
