"""Durable items that wait for a time, replace others, come each period, or are taken back."""

import asyncio
import datetime
import time

import pytest

from bot.core.batch_processor import ItemCancelledError
from tests.core.batch_processor.durable.helpers import echo, length, until

pytestmark = pytest.mark.server


class Gate:
    """A handler that remembers what it was given, and is held until let go."""

    def __init__(self):
        self.seen = []
        self.open = asyncio.Event()

    async def __call__(self, items):
        self.seen += [item.data for item in items]
        await self.open.wait()
        return [item.data for item in items]


async def ledger(processor):
    shown = processor.statistics()
    processor.check_invariants()
    assert shown["submitted_items"] == (
        shown["total_items_processed"] + shown["failed_items"] + shown["dead_lettered_items"]
        + shown["replaced_items"] + shown["pending_items"]
    )  # fmt: skip
    return shown


# Delays.


async def test_a_delayed_item_is_handled_by_whoever_lives_and_not_before_its_time(instances):
    handled = []

    async def handle(items):
        handled.extend((item.data, time.time()) for item in items)
        return [item.data for item in items]

    there, here = await instances(), await instances(handle)
    begun = time.time()
    later = await there.submit_item("later", delay=0.5)
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=0.3)
    sooner = await there.submit_item("sooner", not_before=at)
    now = await there.submit_item("now")
    past = await there.submit_item("past", not_before=1.0)
    assert (await there.get_item_status(later.item_id)).state == "pending"
    results = [await there.get_result(one.item_id, timeout=10) for one in (now, past, sooner, later)]
    assert results == ["now", "past", "sooner", "later"]
    times = dict(handled)
    assert times["later"] >= begun + 0.5
    assert times["sooner"] >= at.timestamp()
    assert await length(here) == 0


async def test_a_delayed_item_counts_as_pending_and_takes_room(instances):
    here = await instances(max_pending=2)
    assert (await here.submit_item(1, delay=1000)).success
    assert (await here.submit_item(2)).success
    assert (await here.submit_item(3)).refusal == "full"
    assert (await here.submit_item(3, delay=1)).refusal == "full"
    await until(lambda: here.statistics()["delayed_items"] == 1)


async def test_a_flush_does_not_wait_for_a_delayed_item(instances):
    here = await instances(echo)
    await here.submit_item("later", delay=1000)
    await here.submit_item("now")
    assert await here.flush(timeout=10)


async def test_submit_and_wait_with_a_delay(instances):
    here = await instances(echo)
    begun = time.monotonic()
    assert await here.submit_and_wait("x", delay=0.2) == "x"
    assert time.monotonic() - begun >= 0.2


async def test_first_wins_also_among_delayed_items(instances):
    here = await instances(echo)
    assert (await here.submit_item("first", key="k", delay=0.2)).success
    assert (await here.submit_item("second", key="k")).success
    assert (await here.submit_item("third", key="k", delay=0.1)).success
    assert await here.get_result("k", timeout=10) == "first"
    assert here.statistics()["duplicate_items"] == 2


async def test_a_delayed_item_of_a_lane_keeps_the_lane_s_order_from_its_time_on(instances):
    gate = Gate()
    here = await instances(gate, max_batch_size=1, max_concurrent=4)
    await here.submit_item("running", lane=7)
    await until(lambda: gate.seen == ["running"])
    delayed = await here.submit_item("delayed", lane=7, delay=0.1)
    other = await here.submit_item("other", lane=8, delay=0.1)
    await until(lambda: "other" in gate.seen)
    assert "delayed" not in gate.seen
    gate.open.set()
    assert await here.get_result(delayed.item_id, timeout=10) == "delayed"
    assert await here.get_result(other.item_id, timeout=10) == "other"


# The last one wins.


async def test_the_last_submission_of_a_delayed_key_wins(instances):
    here = await instances(echo)
    for text in ("a", "b", "c"):
        assert (await here.submit_item(text, key="draft", replace=True, delay=0.2)).success
    assert await here.get_result("draft", timeout=10) == "c"
    assert here.statistics()["replacing_items"] == 2
    assert (await ledger(here))["total_items_processed"] == 1


async def test_the_last_submission_wins_though_an_instance_has_read_the_first(instances):
    here = await instances(echo, batch_timeout=0.5)
    there = await instances()
    await there.submit_item("a", key="draft", replace=True)
    await until(lambda: here.statistics()["pending_items"] == 1)
    await there.submit_item("b", key="draft", replace=True)
    await there.submit_item("c", key="draft", replace=True)
    assert await there.get_result("draft", timeout=10) == "c"
    assert (await ledger(here))["total_items_processed"] == 1


async def test_one_that_is_handled_is_not_touched_and_the_newest_comes_after_it(instances):
    gate = Gate()
    here, there = await instances(gate), await instances()
    await there.submit_item("a", key="draft", replace=True)
    await until(lambda: gate.seen == ["a"])
    waiting = [asyncio.ensure_future(p.get_result("draft", timeout=20)) for p in (here, there)]
    await there.submit_item("b", key="draft", replace=True)
    await there.submit_item("c", key="draft", replace=True)
    gate.open.set()
    assert await asyncio.gather(*waiting) == ["c", "c"]
    assert gate.seen == ["a", "c"]
    assert (await ledger(here))["total_items_processed"] == 2


async def test_a_failed_try_is_repeated_with_the_newest(instances):
    seen = []
    failed = asyncio.Event()

    async def handle(items):
        seen.extend(item.data for item in items)
        if len(seen) == 1:
            failed.set()
            raise OSError("away")
        return [item.data for item in items]

    here = await instances(handle, retry_base=1.0)
    await here.submit_item("a", key="draft", replace=True)
    await failed.wait()
    await here.submit_item("b", key="draft", replace=True)
    assert await here.get_result("draft", timeout=20) == "b"
    assert seen == ["a", "b"]


async def test_a_newer_one_that_is_to_wait_takes_the_place_of_one_that_was_read(instances):
    here = await instances(echo, batch_timeout=0.3)
    await here.submit_item("a", key="draft", replace=True)
    await until(lambda: here.statistics()["pending_items"] == 1)
    await here.submit_item("b", key="draft", replace=True, delay=0.6)
    assert await here.get_result("draft", timeout=10) == "b"
    shown = await ledger(here)
    assert (shown["replaced_items"], shown["total_items_processed"]) == (1, 1)


async def test_a_flush_waits_for_the_newer_one_too(instances):
    gate = Gate()
    here = await instances(gate)
    await here.submit_item("a", key="draft", replace=True)
    await until(lambda: gate.seen == ["a"])
    await here.submit_item("b", key="draft", replace=True)
    await until(lambda: here._store._timed.looked.newer == 1)
    flush = asyncio.ensure_future(here.flush())
    gate.open.set()
    assert await asyncio.wait_for(flush, 10)
    assert (await here.get_item_status("draft")).result == "b"


async def test_a_result_that_is_kept_does_not_keep_a_newer_one_away(instances):
    here = await instances(echo)
    await here.submit_item("a", key="draft", replace=True)
    assert await here.get_result("draft", timeout=10) == "a"
    await here.submit_item("b", key="draft", replace=True)
    assert await here.get_result("draft", timeout=10) == "b"


# Taking back.


async def test_a_delayed_item_is_taken_back_from_any_instance(instances):
    here, there = await instances(echo), await instances()
    answer = await here.submit_item("x", delay=1000)
    waiting = asyncio.ensure_future(here.get_result(answer.item_id))
    assert await there.cancel_item(answer.item_id)
    with pytest.raises(ItemCancelledError, match=answer.item_id):
        await asyncio.wait_for(waiting, 10)
    assert (await there.get_item_status(answer.item_id)).state == "cancelled"
    assert not await there.cancel_item(answer.item_id)
    assert not await there.cancel_item("nothing")
    assert (await ledger(there))[
        "cancelled_items"
    ] == 1  # no instance had read it: counted where it was taken back


async def test_one_that_nobody_has_read_is_taken_back_and_its_key_is_free(instances):
    here = await instances()
    await here.submit_item("x", key="k", lane=1)
    behind = await here.submit_item("y", lane=1)
    assert await here.cancel_item("k")
    assert await length(here) == 1
    assert (await here.submit_item("z", key="k")).success
    await here.enable(echo)
    assert await here.get_result("k", timeout=10) == "z"
    assert await here.get_result(behind.item_id, timeout=10) == "y"


async def test_one_that_this_instance_has_read_is_taken_back_unless_a_handler_has_it(instances):
    gate = Gate()
    here = await instances(gate, max_batch_size=1, max_concurrent=1)
    running = await here.submit_item("running")
    await until(lambda: gate.seen == ["running"])
    queued = await here.submit_item("queued")
    await until(lambda: here.statistics()["pending_items"] == 2)
    assert not await here.cancel_item(running.item_id)
    assert await here.cancel_item(queued.item_id)
    shown = await ledger(here)
    assert (shown["cancelled_items"], shown["pending_items"]) == (1, 1)
    with pytest.raises(ItemCancelledError):
        await here.get_result(queued.item_id, timeout=10)
    gate.open.set()
    assert await here.get_result(running.item_id, timeout=10) == "running"
    assert gate.seen == ["running"]
    assert await length(here) == 0


async def test_one_that_another_instance_has_read_is_asked_for_there(instances):
    gate = Gate()
    here, there = await instances(gate, max_batch_size=1, max_concurrent=1), await instances()
    running = await there.submit_item("running")
    await until(lambda: gate.seen == ["running"])
    queued = await there.submit_item("queued")
    await until(lambda: here.statistics()["pending_items"] == 2)
    assert await there.cancel_item(queued.item_id)
    assert (await ledger(here))["cancelled_items"] == 1
    assert not await there.cancel_item(running.item_id)
    with pytest.raises(ItemCancelledError):
        await there.get_result(queued.item_id, timeout=10)
    gate.open.set()
    assert await there.get_result(running.item_id, timeout=10) == "running"
    assert gate.seen == ["running"]
    assert await here._store.streams.link.execute("EXISTS", here._store.streams.asked) == 0


async def test_a_call_that_is_cancelled_anywhere_leaves_its_item_to_be_handled_or_taken_back(instances):
    handled = []

    async def handle(items):
        handled.extend(item.item_id for item in items)
        return [None for _ in items]

    here = await instances(handle, batch_timeout=0.5)
    ids = [(await here.submit_item(n)).item_id for n in range(24)]
    await until(lambda: here.statistics()["pending_items"] >= 4)
    for turns, item_id in enumerate(ids):
        call = asyncio.ensure_future(here.cancel_item(item_id))
        for _ in range(turns % 12):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await ledger(here)
    assert await here.flush(timeout=10)
    for item_id in ids:
        state = (await here.get_item_status(item_id)).state
        assert state == "cancelled" or (state == "done" and item_id in handled)
    assert await length(here) == 0


# Each period.


async def test_a_plan_is_run_once_a_period_for_all_instances(instances):
    handled = []

    async def handle(items):
        handled.extend((item.item_id, item.data, time.time()) for item in items)
        return [None for _ in items]

    several = [await instances(handle) for _ in range(3)]
    plans = [await one.submit_periodic("report", {"n": 1}, 1) for one in several]
    assert len({plan.next_at for plan in plans}) == 1, "the same name and period keep their times"
    await until(lambda: len(handled) >= 3)
    first = plans[0].next_at
    assert [(item_id, data) for item_id, data, _ in handled[:3]] == [("periodic:report", {"n": 1})] * 3
    periods = [int(at - first) for _, _, at in handled[:3]]
    assert len(set(periods)) == 3, "one a period"
    listed = await several[1].list_periodic()
    assert [(plan.name, plan.data, plan.every) for plan in listed] == [("report", {"n": 1}, 1.0)]
    assert await several[2].remove_periodic("report")
    assert not await several[0].remove_periodic("report")
    assert await several[0].list_periodic() == []


async def test_what_was_missed_while_nobody_lived_comes_once(instances):
    handled = []

    async def handle(items):
        handled.extend(item.data for item in items)
        return [None for _ in items]

    first = await instances()
    plan = await first.submit_periodic("tick", 1, 1)
    await first.disable()
    await until(lambda: time.time() > plan.next_at + 2.2)
    second = await instances(handle)
    await until(lambda: handled)
    listed = await second.list_periodic()
    assert (listed[0].next_at - plan.next_at) % 1.0 == pytest.approx(0.0, abs=0.01), "no drift"
    assert await second.remove_periodic("tick")
    await second.flush()
    assert handled == [1]


async def test_a_period_is_left_out_while_the_item_before_is_pending(instances):
    gate = Gate()
    here = await instances(gate)
    await here.submit_periodic("slow", 1, 1)
    await until(lambda: here.statistics()["periodic_skipped"] >= 1)
    assert gate.seen == [1]
    assert await here.remove_periodic("slow")
    gate.open.set()
