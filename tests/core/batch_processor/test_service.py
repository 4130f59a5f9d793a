"""The batch processor as a bot uses it, in memory."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence

import pytest

from bot.core._shared.errors import MisuseError
from bot.core.batch_processor import (
    BatchClosedError,
    BatchItem,
    BatchProcessor,
    BatchQueueFullError,
    DeadLetteredError,
    HandlerTimeoutError,
    ItemFailedError,
    MissingResultError,
    ResultTimeoutError,
    UnknownItemError,
)
from bot.core.batch_processor.queue import PendingQueue
from tests.support.clock import until_idle


async def figures(processor, *names):
    found = await processor.get_statistics()
    return tuple(found[name] for name in names)


# When a batch starts.


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


# What a handler may answer.


async def test_a_list_in_order_serves_as_well_as_a_dict(processor):
    async def handler(items):
        items.reverse()  # a list of its own, so this changes only what it sees
        return [item.data for item in reversed(items)]

    await processor.enable(handler)
    assert await asyncio.gather(*[processor.submit_and_wait(n) for n in range(3)]) == [0, 1, 2]


async def test_a_function_that_is_not_async_serves_too(processor):
    await processor.enable(lambda items: [item.data + 1 for item in items])
    assert await asyncio.gather(*[processor.submit(n) for n in range(3)]) == [1, 2, 3]


async def test_none_is_a_result(processor):
    await processor.enable(lambda items: dict.fromkeys([item.item_id for item in items]))
    assert await asyncio.gather(*[processor.submit(n) for n in range(3)]) == [None] * 3


async def test_an_item_missing_from_the_answer_failed_and_says_so(processor):
    async def handler(items):
        return {item.item_id: 1 for item in items if item.data != "bad"}

    await processor.enable(handler)
    good, bad, also = (processor.submit(data) for data in ("good", "bad", "also"))
    with pytest.raises(MissingResultError, match="holds nothing for item "):
        await bad
    assert (await good, await also) == (1, 1)
    assert await figures(processor, "total_items_processed", "failed_items") == (2, 1)


async def test_an_exception_as_a_value_fails_that_item_alone(processor):
    refused = ValueError("no such file")
    await processor.enable(lambda items: [refused if item.data == 1 else item.data for item in items])
    futures = [processor.submit(n) for n in range(3)]
    await until_idle()
    assert (await futures[0], await futures[2]) == (0, 2)
    with pytest.raises(ValueError, match="no such file"):
        await futures[1]
    assert await figures(processor, "retries", "failed_batches", "completed_batches") == (0, 0, 1)


@pytest.mark.parametrize("value", [StopIteration("end"), asyncio.CancelledError("c"), KeyboardInterrupt()])
async def test_an_exception_that_a_future_cannot_hold_still_fails_the_item(processor, value):
    await processor.enable(lambda items: [value] * len(items))
    futures = [processor.submit(n) for n in range(3)]
    for future in futures:
        with pytest.raises(ItemFailedError, match=type(value).__name__) as caught:
            await future
        assert caught.value.__cause__ is value


@pytest.mark.parametrize("answer", [None, "abc", 3, [1], [1, 2, 3, 4], {1, 2, 3}])
async def test_nonsense_is_not_tried_again_and_lies_among_the_dead_letters(processor, answer):
    calls = []

    async def handler(items):
        calls.append(len(items))
        return answer

    await processor.enable(handler)
    futures = [processor.submit(n) for n in range(3)]
    for future in futures:
        with pytest.raises(
            DeadLetteredError, match=r"given up after 1 attempt\(s\): HandlerAnswerError: the"
        ):
            await future
    assert calls == [3]
    assert [letter.data for letter in await processor.dead_letters()] == [0, 1, 2]


async def test_answers_for_unknown_ids_are_said_once(processor, caplog):
    await processor.enable(lambda items: {**{item.item_id: 1 for item in items}, "other": 2})
    await asyncio.gather(*[processor.submit(n) for n in range(6)])
    assert [record.message for record in caplog.records] == [
        "The batch handler answers for ids that are not those of its items"
    ]


async def test_results_that_compare_oddly_are_only_handed_on(processor):
    class Odd:
        def __eq__(self, other):
            raise RuntimeError("ambiguous")

        __hash__ = None

    odd = Odd()
    await processor.enable(lambda items: {item.item_id: odd for item in items})
    assert [value is odd for value in await asyncio.gather(*[processor.submit(n) for n in range(3)])] == [
        True
    ] * 3


# Failure of a whole batch.


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


# Dead letters.


async def test_dead_letters_are_replayed_under_their_ids(processor, handler, clock):
    handler.failures = [OSError("down")] * 4
    _, item_id, _ = await processor.submit_item("a")
    await clock.advance(30)
    assert await figures(processor, "dead_lettered_items", "pending_items") == (1, 0)
    assert await processor.replay(["no such id"]) == 0
    assert await processor.replay([item_id]) == 1
    assert await processor.dead_letters() == []
    assert await figures(processor, "dead_lettered_items", "pending_items", "submitted_items") == (0, 1, 1)
    result = asyncio.ensure_future(processor.get_result(item_id))
    await clock.advance(5)
    assert await result == "done a"
    assert await figures(processor, "total_items_processed", "submitted_items") == (1, 1)


async def test_a_replay_takes_no_more_than_there_is_room_for(processor, handler, clock):
    await processor.enable(max_retries=0)
    handler.failures = [OSError("down")]
    for n in range(3):
        await processor.submit_item(n)
    await clock.advance(1)
    await processor.enable(max_pending=2)
    assert await processor.replay() == 2
    assert len(await processor.dead_letters()) == 1
    assert await processor.discard_dead_letters() == 1


async def test_the_oldest_dead_letters_are_dropped_when_there_are_too_many(processor, handler, clock, caplog):
    await processor.enable(max_retries=0, max_dead_letters=2)
    handler.failures = [OSError("down")] * 2
    for n in range(6):
        await processor.submit_item(n)
    await clock.advance(1)
    assert [letter.data for letter in await processor.dead_letters()] == [4, 5]
    assert await figures(processor, "dead_lettered_items", "dead_letters") == (6, 2)
    assert caplog.text.count("the oldest are dropped") == 1


# Submitting by id, results, status.


async def test_ids_and_the_status_of_batches(processor, handler):
    handler.hold()
    first = await processor.submit_item("a")
    second = await processor.submit_item("b", 1)
    assert first.success
    assert (first.batch_id, first.reason) == (second.batch_id, "")
    assert first.item_id != second.item_id
    status = await processor.get_batch_status(first.batch_id)
    assert (status.state, status.items) == ("pending", 2)
    await processor.submit_item("c")
    later = await processor.submit_item("d")
    assert later.batch_id != first.batch_id
    await until_idle()
    assert (await processor.get_batch_status(first.batch_id)).state == "running"
    assert (await processor.get_batch_status(later.batch_id)).state == "pending"
    handler.let_go()
    await until_idle()
    status = await processor.get_batch_status(first.batch_id)
    assert (status.state, status.items, status.done, status.attempts) == ("completed", 3, 3, 1)
    assert handler.batches == [["b", "a", "c"]]
    for unknown in ("", "nothing", "x-b1", later.batch_id + "0", "-b", f"{first.batch_id[:-1]}²"):
        assert await processor.get_batch_status(unknown) is None


async def test_the_batch_id_told_is_the_batch_it_goes_in_whatever_the_queue(processor, handler):
    handler.hold()
    told = [(await processor.submit_item(n)).batch_id for n in range(14)]
    await until_idle()
    handler.let_go()
    await processor.flush()
    for number, batch in enumerate(handler.batches):
        assert {told[n] for n in batch} == {told[number * 3]}
        assert (await processor.get_batch_status(told[number * 3])).items == len(batch)


async def test_results_are_kept_for_who_asks(processor, clock):
    await processor.enable(result_ttl=60.0)
    ids = [(await processor.submit_item(n)).item_id for n in range(3)]
    assert (await processor.get_item_status(ids[0])).state == "pending"
    results = await asyncio.gather(*[processor.get_result(item_id) for item_id in ids])
    assert results == ["done 0", "done 1", "done 2"]
    assert await processor.get_result(ids[0]) == "done 0", "asked again"
    assert (await processor.get_item_status(ids[0])).result == "done 0"
    clock.jump(61)
    with pytest.raises(UnknownItemError, match=f"item_id = '{ids[0]}'"):
        await processor.get_result(ids[0])
    assert await processor.get_item_status(ids[0]) is None


async def test_a_wait_for_a_result_ends_at_its_timeout_and_the_item_goes_on(processor, clock):
    _, item_id, _ = await processor.submit_item("a")
    with pytest.raises(ResultTimeoutError, match=f"item {item_id} has no result within 0.01 s"):
        await processor.get_result(item_id, timeout=0.01)
    await clock.advance(5)
    assert await processor.get_result(item_id) == "done a"


async def test_a_key_makes_a_second_submission_add_nothing(processor, handler, clock):
    first = await processor.submit_item("a", key="order 1")
    again = await processor.submit_item("other", key="order 1")
    assert first[:2] == again[:2] == (True, "order 1")
    await clock.advance(5)
    assert await processor.get_result("order 1") == "done a"
    assert (await processor.submit_item("late", key="order 1"))[:2] == (True, "order 1")
    assert handler.batches == [["a"]]
    assert await figures(processor, "submitted_items", "duplicate_items") == (1, 2)


async def test_the_key_of_a_dead_letter_is_free_when_its_outcome_is_kept_no_more(processor, handler, clock):
    await processor.enable(max_retries=0, result_ttl=60.0)
    handler.failures = [OSError("down")]
    await processor.submit_item("a", key="order 1")
    await clock.advance(5)
    assert (await processor.submit_item("a", key="order 1")).success
    assert await figures(processor, "duplicate_items", "submitted_items") == (1, 1), "its outcome is kept"
    clock.jump(61)
    again = await processor.submit_item("a", key="order 1")
    assert again.item_id == "order 1"
    assert await processor.replay() == await processor.replay(["order 1"]) == 0, "it is pending already"
    await clock.advance(5)
    assert await processor.get_result("order 1") == "done a"
    assert handler.batches == [["a"], ["a"]]
    assert [letter.item_id for letter in await processor.dead_letters()] == ["order 1"]
    assert await figures(processor, "total_items_processed", "dead_lettered_items") == (1, 1)


# Back-pressure.


async def test_a_full_processor_refuses_at_once_with_the_figures(processor, handler):
    await processor.enable(max_pending=4)
    handler.hold()
    assert all([(await processor.submit_item(n)).success for n in range(4)])
    refused = await processor.submit_item(5)
    assert refused == (False, "", "")
    assert refused.reason == "the batch processor is full: 4 items pending, max_pending = 4"
    assert refused.retry_after > 0
    with pytest.raises(BatchQueueFullError, match="4 items pending"):
        processor.submit(6)
    assert [answer.success for answer in await processor.submit_many(range(2))] == [False, False]
    assert await figures(processor, "refused_items", "submitted_items") == (4, 4)


async def test_many_are_taken_as_far_as_there_is_room_or_all_or_none(processor, handler):
    await processor.enable(max_pending=4)
    handler.hold()
    assert [a.success for a in await processor.submit_many(range(6), all_or_none=True)] == [False] * 6
    assert await figures(processor, "pending_items") == (0,)
    assert [a.success for a in await processor.submit_many(range(6))] == [True] * 4 + [False] * 2


async def test_submit_and_wait_waits_for_room_in_order(processor, handler):
    await processor.enable(max_pending=3)
    handler.hold()
    first = [processor.submit(n) for n in range(3)]
    waiting = [asyncio.ensure_future(processor.submit_and_wait(f"w{n}")) for n in range(3)]
    await until_idle()
    assert await figures(processor, "pending_items") == (3,)
    handler.let_go()
    await until_idle()
    assert [await future for future in (*first, *waiting)] == [
        f"done {d}" for d in (0, 1, 2, "w0", "w1", "w2")
    ]
    assert handler.batches == [[0, 1, 2], ["w0", "w1", "w2"]]


@pytest.mark.parametrize("priority", [0, 1])
async def test_what_was_withdrawn_takes_no_room(processor, handler, priority):
    await processor.enable(max_pending=9, batch_timeout=60.0)
    handler.hold()
    running = [processor.submit(n) for n in range(6)]

    def fill_and_withdraw():
        withdrawn = [processor.submit(n, priority) for n in range(9 - len(running))]
        for future in withdrawn:
            future.cancel()

    await until_idle()
    fill_and_withdraw()
    assert (await processor.submit_item("a")).success
    running.append("a")
    fill_and_withdraw()
    assert not processor.submit("b").done()
    running.append("b")
    fill_and_withdraw()
    assert (await processor.submit_many("c", all_or_none=True))[0].success
    assert not (await processor.submit_item("d")).success
    assert await figures(processor, "pending_items", "cancelled_items") == (9, 6)
    processor.check_invariants()


async def test_who_waits_for_room_gets_that_of_what_was_withdrawn(processor, handler):
    await processor.enable(max_pending=7)
    handler.hold()
    for n in range(6):
        processor.submit(n)
    await until_idle()
    pending = processor.submit("withdrawn")
    waiting = [asyncio.ensure_future(processor.submit_and_wait("first"))]
    await until_idle()
    pending.cancel()
    waiting.append(asyncio.ensure_future(processor.submit_and_wait("second")))
    await until_idle()
    assert await figures(processor, "pending_items", "cancelled_items") == (7, 1)
    assert processor._dispatcher.backlog.queue.normal[0].data == "first"
    handler.let_go()
    await until_idle()
    await processor.flush()
    assert [future.result() for future in waiting] == ["done first", "done second"]


async def test_a_long_queue_is_not_looked_through_at_each_refusal(processor, handler, monkeypatch):
    await processor.enable(max_pending=10_000, max_batch_size=10_000)
    handler.hold()
    for n in range(10_000):
        processor.submit(n)
    await until_idle()
    await processor.enable(max_pending=20_000)
    for n in range(10_000):
        processor.submit(n, priority=n % 2)
    await processor.enable(max_pending=19_000)
    sweeps = []
    sweep = PendingQueue.sweep
    monkeypatch.setattr(PendingQueue, "sweep", lambda queue: sweeps.append(len(queue)) or sweep(queue))
    for _ in range(1_000):
        assert not (await processor.submit_item("more")).success
    assert sum(sweeps) <= 64 * 1_000, "at most so many items for each"


async def test_who_waits_for_room_keeps_its_turn_when_others_are_quicker(processor, handler, clock):
    await processor.enable(max_pending=3, max_concurrent=1)
    handler.hold()
    first = [processor.submit(n) for n in range(3)]
    waiting = [asyncio.ensure_future(processor.submit_and_wait(f"w{n}")) for n in range(4)]

    await until_idle()

    def grab(_):
        for n in range(3):
            processor.submit(f"quick {n}")
        waiting.append(asyncio.ensure_future(processor.submit_and_wait("last")))

    first[0].add_done_callback(grab)  # before those who wait have heard that there is room
    handler.let_go()
    await clock.advance(10)
    assert [future.result() for future in waiting] == [f"done {d}" for d in ("w0", "w1", "w2", "w3", "last")]
    assert handler.batches == [
        [0, 1, 2],
        ["quick 0", "quick 1", "quick 2"],
        ["w0", "w1", "w2"],
        ["w3", "last"],
    ]


async def test_who_comes_when_room_was_given_to_another_waits_behind_it(processor, handler, clock):
    await processor.enable(max_pending=3, max_concurrent=1)
    handler.hold()

    async def twice(data):
        await processor.submit_and_wait(data)
        return await processor.submit_and_wait(f"{data} again")

    first = [asyncio.ensure_future(twice(n)) for n in range(3)]
    await until_idle()
    waiting = [asyncio.ensure_future(processor.submit_and_wait(f"w{n}")) for n in range(2)]
    await until_idle()
    handler.let_go()
    await clock.advance(10)
    assert all(future.done() for future in (*first, *waiting))
    assert handler.batches == [[0, 1, 2], ["w0", "w1", "0 again"], ["1 again", "2 again"]]


async def test_who_is_refused_while_waiting_for_room_keeps_no_place(processor, handler, monkeypatch):
    await processor.enable(max_pending=3)
    handler.hold()
    first = [processor.submit(n) for n in range(3)]
    bad = asyncio.ensure_future(processor.submit_and_wait("bad", priority=5000))
    fails = asyncio.ensure_future(processor.submit_and_wait("no memory"))
    waiting = [asyncio.ensure_future(processor.submit_and_wait(f"w{n}")) for n in range(3)]
    await until_idle()
    assert bad.done(), "it is told at once"
    with pytest.raises(ValueError, match="priority = 5000"):
        bad.result()
    submit = processor._store.submit

    def failing(data, priority=0):
        if data == "no memory":
            raise MemoryError
        return submit(data, priority)

    monkeypatch.setattr(processor._store, "submit", failing)
    handler.let_go()
    await until_idle()
    assert [future.result() for future in (*first, *waiting)] == [
        f"done {d}" for d in (0, 1, 2, "w0", "w1", "w2")
    ]
    with pytest.raises(MemoryError):
        await fails


async def test_submit_and_wait_ends_at_its_timeout_and_withdraws_the_item(processor, handler, clock):
    with pytest.raises(ResultTimeoutError, match=r"no result within 0\.01 s"):
        await processor.submit_and_wait("a", timeout=0.01)
    await clock.advance(10)
    assert handler.batches == []
    assert await figures(processor, "failed_items", "cancelled_items", "pending_items") == (1, 1, 0)


# Off and on.


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


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"max_batch_size": 0}, "max_batch_size = 0: expected a whole number from 1 to 1,000,000"),
        ({"max_batch_size": 2.0}, "max_batch_size = 2.0"),
        ({"batch_timeout": 0}, "batch_timeout = 0: expected a number of seconds > 0"),
        ({"batch_timeout": float("nan")}, "batch_timeout = nan"),
        ({"batch_timeout": 10**400}, "batch_timeout = 1000"),
        ({"max_concurrent": True}, "max_concurrent = True"),
        ({"max_pending": -1}, "max_pending = -1"),
        ({"handler_timeout": -1}, "handler_timeout = -1: expected a number of seconds >= 0"),
        ({"max_retries": 1001}, "max_retries = 1001: expected a whole number from 0 to 1,000"),
        ({"process_handler": 5}, "process_handler = 5: expected an async function of a list of items"),
        ({"process_handler": lambda: None}, "expected a function of one list of items"),
    ],
)
async def test_what_cannot_be_is_refused_with_its_name_and_changes_nothing(arguments, said):
    processor = BatchProcessor()
    with pytest.raises(ValueError) as caught:
        await processor.enable(**arguments)
    assert said in str(caught.value)
    assert not processor.enabled
    await processor.enable()
    assert (await processor.get_statistics())["batch_size"] == 100
    await processor.disable()


@pytest.mark.parametrize("priority", [1.5, "1", None, True, 1001, -1001])
async def test_a_bad_priority_is_refused(processor, priority):
    for submit in (processor.submit_item, processor.submit_and_wait):
        with pytest.raises(ValueError, match=r"priority = .*: expected a whole number from -1000 to 1000"):
            await submit("a", priority)
    for _ in range(2):  # the second time another item waits already
        with pytest.raises(ValueError, match="priority ="):
            processor.submit("a", priority)
        processor.submit("b")


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), -1, 10**400, "1", True])
async def test_a_bad_timeout_is_refused(processor, timeout):
    _, item_id, _ = await processor.submit_item("a")
    for call in (processor.get_result(item_id, timeout), processor.flush(timeout)):
        with pytest.raises(ValueError, match=r"timeout = .*: expected a number of seconds >= 0 and <= "):
            await call
    with pytest.raises(ValueError, match="timeout = "):
        await processor.submit_and_wait("b", timeout=timeout)


@pytest.mark.parametrize("key", ["", "k" * 201, 5])
async def test_a_bad_key_is_refused(processor, key):
    with pytest.raises(ValueError, match=r"key = .*: expected a string of 1 to 200 characters"):
        await processor.submit_item("a", key=key)


# Figures.


async def test_the_figures_that_users_read(processor, handler, clock):
    for n in range(3):
        processor.submit(n)
    processor.submit("late")
    await clock.advance(2.0)
    shown = await processor.get_statistics()
    assert shown["enabled"] is shown["handler"] is True
    assert (shown["submitted_items"], shown["total_items_processed"], shown["pending_items"]) == (4, 3, 1)
    assert (shown["pending_batches"], shown["completed_batches"], shown["failed_batches"]) == (1, 1, 0)
    assert (shown["avg_batch_size"], shown["oldest_pending_seconds"]) == (3.0, 2.0)
    assert shown["throughput_items_per_sec"] == 1.5
    await clock.advance(4.0)
    shown = processor.statistics()
    assert shown["wait_ms_p50"] < 1
    assert shown["wait_ms_p99"] == pytest.approx(5000, rel=0.1)
    waits, handling = processor.histograms()
    assert (waits.name, waits.count) == ("batch_wait_seconds", 4)
    assert (handling.name, handling.count) == ("batch_handler_seconds", 2)
    processor.submit("pending")
    await processor.reset_statistics()
    assert await figures(processor, "submitted_items", "pending_items", "total_items_processed") == (1, 1, 0)


def test_an_item_is_shown_without_what_is_the_processors_own():
    assert repr(BatchItem({"a": 1}, item_id="7")) == "BatchItem(item_id='7', data={'a': 1}, priority=0)"


async def test_items_without_a_handler_are_told_of_once_and_again_when_they_are_given_up(clock, caplog):
    p = BatchProcessor(clock=clock)
    await p.enable(batch_timeout=0.5)
    assert not caplog.records, "there is nothing to handle yet"
    for n in range(3):
        assert (await p.submit_item(n)).success
    (told,) = caplog.records
    assert told.getMessage().endswith("items wait, and there is no handler: set process_handler")
    await p.disable()
    assert caplog.records[-1].getMessage().endswith("3 item(s) unhandled; dead_letters() has them")
    assert len(await p.dead_letters()) == 3


@pytest.mark.parametrize("answers", ["dict", "list", "all"])
async def test_a_handler_that_forgets_an_await_has_its_items_given_up_and_none_counted_done(clock, answers):
    async def work(data):
        return data

    async def forgetful(items):
        if answers == "dict":
            return {item.item_id: work(item.data) for item in items}
        if answers == "list":
            return [items[0].data, *[work(item.data) for item in items[1:]]]
        return work(items)

    processor = BatchProcessor(clock=clock)
    await processor.enable(forgetful, max_batch_size=2)
    waiting = [asyncio.ensure_future(processor.submit_and_wait(number)) for number in range(2)]
    for done in asyncio.as_completed(waiting):
        with pytest.raises(DeadLetteredError, match="an await is missing"):
            await done
    assert [letter.data for letter in await processor.dead_letters()] == [0, 1]
    figures = await processor.get_statistics()
    assert (figures["total_items_processed"], figures["dead_lettered_items"]) == (0, 2)
    assert await processor.disable()


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


async def test_keys_of_many_and_the_kind_of_a_refusal(processor, handler):
    handler.hold()
    taken = await processor.submit_many("ab", keys=["k1", "k2"])
    assert [one.item_id for one in taken] == ["k1", "k2"]
    assert [one.refusal for one in taken] == ["", ""]
    with pytest.raises(ValueError, match="keys = "):
        await processor.submit_many("ab", keys=["k1"])
    await processor.enable(max_pending=1)
    assert (await processor.submit_item("c")).refusal == "full"
    handler.let_go()


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
