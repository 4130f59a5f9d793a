"""Items that wait for a time, replace others, or are taken back; in memory, on virtual time."""

import asyncio
import datetime
import random

import pytest

from bot.core.batch_processor import BatchClosedError, BatchProcessor, ItemCancelledError
from bot.core.batch_processor.queue import PendingQueue
from tests.support.clock import until_idle

UTC = datetime.UTC


async def shown(processor, *names):
    found = await processor.get_statistics()
    return tuple(found[name] for name in names)


# Delays.


async def test_a_delayed_item_is_handled_at_its_time(processor, handler, clock):
    answer = await processor.submit_item("x", delay=100)
    assert answer.success
    assert await shown(processor, "pending_items", "delayed_items") == (1, 1)
    assert (await processor.get_item_status(answer.item_id)).state == "pending"
    await clock.advance(99.9)
    assert handler.batches == []
    await clock.advance(0.1 + 5.0)  # its time, and batch_timeout
    assert await processor.get_result(answer.item_id) == "done x"


@pytest.mark.parametrize(
    "at",
    [
        1_700_000_060.0,
        1_700_000_060,
        datetime.datetime.fromtimestamp(1_700_000_060, UTC),
        datetime.datetime.fromtimestamp(1_700_000_060, datetime.timezone(datetime.timedelta(hours=9))),
    ],
    ids=repr,
)
async def test_not_before_is_a_time_of_day_and_a_later_step_of_that_clock_changes_nothing(
    processor, handler, clock, at
):
    await processor.submit_item("x", not_before=at)
    clock.shift_wall(3_600)
    await clock.advance(59.9)
    assert handler.batches == []
    await clock.advance(5.2)
    assert handler.batches == [["x"]]


async def test_a_time_that_has_passed_is_now(processor, handler, clock):
    for past in (0, -5.0, 1_600_000_000, datetime.datetime(2001, 1, 1, tzinfo=UTC)):
        await processor.submit_item("x", not_before=past)
    await processor.submit_item("x", delay=0)
    await processor.submit_item("x", delay=datetime.timedelta())
    await until_idle()
    assert handler.batches == [["x"] * 3] * 2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"delay": -1}, "delay = -1"),
        ({"delay": True}, "delay = True"),
        ({"delay": "5"}, "delay = '5'"),
        ({"delay": float("nan")}, "delay = nan"),
        ({"delay": float("inf")}, "delay = inf"),
        ({"delay": 10**400}, "delay = "),
        ({"delay": 31_536_001}, "delay = "),
        ({"delay": datetime.timedelta(days=366)}, "delay = "),
        ({"delay": datetime.timedelta(seconds=-1)}, "delay = "),
        ({"not_before": datetime.datetime(2030, 1, 1)}, "has no time zone"),
        ({"not_before": datetime.date(2030, 1, 1)}, "not_before = "),
        ({"not_before": float("nan")}, "not_before = nan"),
        ({"not_before": True}, "not_before = True"),
        ({"not_before": 10**400}, "not_before = "),
        ({"not_before": "soon"}, "not_before = 'soon'"),
        ({"not_before": 1_900_000_000_000}, "a year ahead at most"),
        ({"delay": 1, "not_before": 1}, "one of them"),
        ({"replace": 1, "key": "k"}, "replace = 1"),
        ({"replace": True}, "without a key"),
    ],
    ids=repr,
)
async def test_bad_terms_are_refused_by_name_and_nothing_is_taken_in(processor, argument, message):
    with pytest.raises(ValueError, match=message):
        await processor.submit_item("x", **argument)
    assert await shown(processor, "submitted_items") == (0,)


async def test_delayed_items_take_room_and_a_caller_may_wait_for_it(processor, handler, clock):
    await processor.enable(max_pending=2)
    assert [one.success for one in await processor.submit_many([1, 2, 3], delay=50)] == [True, True, False]
    waiting = asyncio.ensure_future(processor.submit_and_wait("next", delay=10))
    await clock.advance(49)
    assert handler.batches == []
    await clock.advance(20)
    assert handler.batches == [[1, 2], ["next"]]
    assert await waiting == "done next"


async def test_a_caller_that_gives_up_withdraws_its_delayed_item_at_once(processor, clock):
    waiting = asyncio.ensure_future(processor.submit_and_wait("x", delay=1_000))
    await until_idle()
    waiting.cancel()
    await until_idle()
    assert await shown(processor, "pending_items", "cancelled_items", "delayed_items") == (0, 1, 0)


async def test_a_flush_does_not_wait_for_what_is_delayed(processor, handler, clock):
    await processor.submit_item("later", delay=1_000)
    await processor.submit_item("now")
    assert await processor.flush()
    assert handler.batches == [["now"]]


async def test_what_is_delayed_when_it_is_switched_off_is_a_dead_letter_and_can_be_replayed(
    processor, handler, clock
):
    await processor.submit_item("x", delay=1_000)
    waiting = asyncio.ensure_future(processor.submit_and_wait("y", delay=1_000))
    await until_idle()
    ending = asyncio.ensure_future(processor.disable())
    await clock.advance(10)
    assert await ending
    with pytest.raises(BatchClosedError, match="switched off before"):
        await waiting
    assert {letter.data for letter in await processor.dead_letters()} == {"x", "y"}
    await processor.enable()
    await processor.replay_dead_letters()
    await processor.flush()
    assert handler.batches == [["x", "y"]]


def test_a_delayed_item_goes_on_under_the_next_event_loop():
    handled = []

    async def handler(items):
        handled.extend(item.data for item in items)
        return [None for _ in items]

    processor = BatchProcessor()

    async def first():
        await processor.enable(handler, batch_timeout=0.01)
        await processor.submit_item("x", delay=0.05)

    async def second():
        await processor.submit_item("y")
        async with asyncio.timeout(10):
            while len(handled) < 2:
                await asyncio.sleep(0.01)
        await processor.disable()

    asyncio.run(first())
    asyncio.run(second())
    assert sorted(handled) == ["x", "y"]


# The last one wins.


async def test_the_last_submission_of_a_key_wins_and_keeps_the_place(processor, handler, clock):
    await processor.submit_item("first", key="draft", replace=True)
    await processor.submit_item("other")
    await clock.advance(4)
    await processor.submit_item("second", key="draft", replace=True)
    await clock.advance(1)  # the age of the first: replaced for ever, it is handled all the same
    assert handler.batches == [["second", "other"]]
    assert await processor.get_result("draft") == "done second"
    assert await shown(processor, "replaced_items", "total_items_processed") == (1, 2)


async def test_a_delay_begins_anew_with_each_replacement(processor, handler, clock):
    for n in range(5):
        await processor.submit_item(n, key="draft", replace=True, delay=10)
        await clock.advance(8)
    assert handler.batches == []
    await clock.advance(7)
    assert handler.batches == [[4]]
    assert await shown(processor, "replaced_items", "submitted_items") == (4, 5)


async def test_one_that_is_handled_is_not_touched_and_the_newest_comes_after_it(processor, handler, clock):
    handler.hold()
    await processor.submit_item(1, key="draft", replace=True)
    await clock.advance(5)
    waiting = asyncio.ensure_future(processor.get_result("draft"))
    for n in (2, 3):
        await processor.submit_item(n, key="draft", replace=True)
    assert await shown(processor, "pending_items", "replaced_items") == (2, 1)
    handler.let_go()
    await clock.advance(5)
    assert handler.batches == [[1], [3]]
    assert await waiting == "done 3", "the result of a key is that of its newest"


async def test_a_failed_try_is_repeated_with_the_newest(processor, handler, clock):
    handler.failures = [OSError("away")]
    await processor.submit_item("old", key="draft", replace=True)
    await clock.advance(5)
    await processor.submit_item("new", key="draft", replace=True)
    await clock.advance(5)
    assert handler.batches == [["old"], ["new"]]


async def test_without_replace_the_first_one_wins_among_delayed_ones_too(processor, handler, clock):
    await processor.submit_item("first", key="k", delay=1)
    await processor.submit_item("second", key="k")
    await clock.advance(6)
    assert handler.batches == [["first"]]
    assert await shown(processor, "duplicate_items") == (1,)


# Taking back.


async def test_a_delayed_item_is_taken_back(processor, handler, clock):
    answer = await processor.submit_item("x", delay=100)
    waiting = asyncio.ensure_future(processor.get_result(answer.item_id))
    await until_idle()
    assert await processor.cancel_item(answer.item_id)
    with pytest.raises(ItemCancelledError, match=answer.item_id):
        await waiting
    assert (await processor.get_item_status(answer.item_id)).state == "cancelled"
    await clock.advance(200)
    assert handler.batches == []
    assert not await processor.cancel_item(answer.item_id)
    assert await shown(processor, "cancelled_items", "failed_items", "pending_items") == (1, 1, 0)


async def test_one_in_the_queue_is_taken_back_and_its_key_is_free(processor, handler, clock):
    await processor.submit_item("x", key="k")
    assert await processor.cancel_item("k")
    assert await shown(processor, "pending_items") == (0,)
    await processor.submit_item("y", key="k")
    await clock.advance(5)
    assert handler.batches == [["y"]]


async def test_many_in_the_queue_are_taken_back_without_a_look_at_all_for_each(
    processor, handler, clock, monkeypatch
):
    await processor.enable(max_batch_size=1_000, max_pending=1_000)
    looked_at = []
    sweep = PendingQueue.sweep
    monkeypatch.setattr(PendingQueue, "sweep", lambda queue: looked_at.append(len(queue)) or sweep(queue))
    ids = [(await processor.submit_item(n)).item_id for n in range(999)]
    assert all([await processor.cancel_item(one) for one in ids[1:]])
    assert sum(looked_at) <= 64 * 998
    assert not any([await processor.cancel_item(one) for one in ids[1:]])
    with pytest.raises(ItemCancelledError, match=ids[500]):
        await processor.get_result(ids[500])
    await clock.advance(5)
    assert handler.batches == [[0]]
    assert await shown(processor, "cancelled_items", "pending_items") == (998, 0)


@pytest.mark.parametrize("seed", range(5))
async def test_each_that_is_taken_back_makes_room_and_counts_at_once(processor, handler, clock, seed):
    await processor.enable(max_batch_size=70, max_pending=300)
    handler.hold()
    chance = random.Random(seed)
    ids = []
    for n in range(300):
        lane = chance.choice((None, None, 1, 2))
        ids.append((await processor.submit_item(n, chance.choice((0, 0, 5)), lane=lane)).item_id)
    await clock.advance(5)  # some are with the handler by now
    chance.shuffle(ids)
    left = 300
    for number, one in enumerate(ids[:200]):
        left -= await processor.cancel_item(one)
        assert await shown(processor, "pending_items") == (left,)
        processor.check_invariants()
        if number == 100:
            assert (await processor.submit_item("there is room")).success
            left += 1
    gone = 301 - left
    assert await shown(processor, "cancelled_items", "submitted_items") == (gone, 301)
    handler.let_go()
    while await shown(processor, "pending_items") != (0,):
        await clock.advance(5)
    assert await shown(processor, "total_items_processed", "cancelled_items") == (left, gone)
    assert (await processor.submit_item("and it goes on")).success
    await clock.advance(5)
    assert handler.batches[-1] == ["and it goes on"]


async def test_one_that_waits_for_a_retry_is_taken_back_and_the_others_are_tried_again(
    processor, handler, clock
):
    await processor.enable(retry_base=100.0, retry_max=100.0)
    handler.failures = [OSError("away")]
    ids = [(await processor.submit_item(n)).item_id for n in range(3)]
    await until_idle()
    assert await processor.cancel_item(ids[1])
    await clock.advance(100)
    assert handler.batches == [[0, 1, 2], [0, 2]]


async def test_all_items_of_a_batch_that_waits_for_its_retry_can_be_taken_back(processor, handler, clock):
    handler.failures = [OSError("away")]
    ids = [(await processor.submit_item(n)).item_id for n in range(3)]
    await until_idle()
    assert [await processor.cancel_item(one) for one in ids] == [True] * 3
    await clock.advance(100)
    assert handler.batches == [[0, 1, 2]]
    assert await processor.flush()


async def test_one_that_a_handler_has_is_not_taken_back(processor, handler, clock):
    handler.hold()
    answer = await processor.submit_item("x")
    await clock.advance(5)
    assert not await processor.cancel_item(answer.item_id)
    handler.let_go()
    await until_idle()
    assert await processor.get_result(answer.item_id) == "done x"


async def test_of_a_key_that_is_handled_the_newer_one_is_taken_back(processor, handler, clock):
    handler.hold()
    await processor.submit_item("old", key="k", replace=True)
    await clock.advance(5)
    await processor.submit_item("new", key="k", replace=True)
    assert await processor.cancel_item("k")
    handler.let_go()
    await clock.advance(10)
    assert handler.batches == [["old"]]
    assert await processor.get_result("k") == "done old"


async def test_the_next_of_its_lane_follows_one_that_was_taken_back(processor, handler, clock):
    first = await processor.submit_item("first", lane=1)
    await processor.submit_item("second", lane=1)
    assert await processor.cancel_item(first.item_id)
    await clock.advance(5)
    assert handler.batches == [["second"]]


async def test_what_is_no_id_is_refused(processor):
    with pytest.raises(ValueError, match="item_id = 5"):
        await processor.cancel_item(5)
    assert not await processor.cancel_item("nothing")
