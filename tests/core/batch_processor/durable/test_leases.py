"""What instances take, keep, give back and take over."""

import asyncio
import itertools

import pytest

from bot.core.batch_processor import (
    BatchClosedError,
)
from tests.core.batch_processor.durable.helpers import echo, length, until

pytestmark = pytest.mark.server

names = (f"queue-{number}" for number in itertools.count())


async def test_switched_off_it_gives_back_what_it_had_not_begun_at_once(instances):
    gate = asyncio.Event()

    async def held(items):
        await gate.wait()
        return {item.item_id: "the first" for item in items}

    first = await instances(held, max_batch_size=1, max_concurrent=1, lease=3_600)
    await first.submit_many(range(6))
    waiting = first.submit("waited for")
    await until(lambda: first._dispatcher.backlog.unfinished == 2)
    ending = asyncio.ensure_future(first.disable())
    second = await instances(echo, lease=3_600)
    await until(lambda: second._dispatcher.outcomes.counters.done == 6)
    gate.set()
    assert await ending
    (heard,) = await asyncio.gather(waiting, return_exceptions=True)
    if isinstance(heard, Exception):
        assert isinstance(heard, BatchClosedError)
        assert "its items are in Redis" in str(heard)
    else:
        assert heard == "waited for", "the other instance's answer came before this one had ended"
    assert first._dispatcher.outcomes.counters.done == 1
    assert await length(second) == 0
    assert (await second.get_statistics())["redelivered_items"] == 0, "it had not been begun"


async def test_what_is_handled_longer_than_a_lease_stays_with_its_instance(instances):
    runs = []

    async def slow(items):
        runs.append([item.data for item in items])
        await asyncio.sleep(2.5)  # many stalls of a busy machine would fit between two renewals
        return [None] * len(items)

    first, second = await instances(slow, lease=1.0), await instances(slow, lease=1.0)
    await first.submit_item("download")
    await first.flush()
    assert runs == [["download"]]
    assert (await second.get_statistics())["reclaimed_items"] == 0


async def test_what_is_handled_to_its_end_while_switched_off_stays_with_its_instance(instances):
    runs = []

    async def slow(items):
        runs.append([item.data for item in items])
        await asyncio.sleep(2.5)
        return [None] * len(items)

    first = await instances(slow, lease=1.0)
    answer = await first.submit_item("download")
    await until(lambda: runs)
    second = await instances(slow, lease=1.0)
    assert await first.disable()
    assert await second.get_result(answer.item_id, timeout=10) is None
    assert runs == [["download"]]
    assert (await second.get_statistics())["reclaimed_items"] == 0


async def test_what_another_instance_has_taken_over_is_let_go(instances):
    p = await instances(echo, max_batch_size=100, batch_timeout=60.0, lease=3_600)
    answers = await p.submit_many(range(5))
    await until(lambda: p._dispatcher.backlog.unfinished == 5)
    taken = p._store._held.entries[0]
    streams = p._store.streams
    await streams.link.execute("XCLAIM", streams.items, "workers", "somebody", 0, taken)
    await p._store.leases.refresh()
    assert p._dispatcher.backlog.unfinished == 4
    p.check_invariants()
    await streams.link.execute("XCLAIM", streams.items, "workers", "given-back", 0, taken, "IDLE", 10**9)
    assert await p.flush(timeout=10)
    assert [await p.get_result(answer.item_id) for answer in answers] == list(range(5))


@pytest.mark.parametrize("turns", [1, 3, 30])
async def test_a_disable_that_is_cancelled_leaves_what_has_not_ended_in_redis(instances, turns):
    async def never(items):
        await asyncio.Event().wait()

    first = await instances(never, max_batch_size=1, max_concurrent=1)
    answers = await first.submit_many(range(4))
    await until(lambda: first._dispatcher.backlog.in_flight)
    ending = asyncio.ensure_future(first.disable())
    for _ in range(turns):
        await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert not first.enabled
    assert await first.disable()
    assert await first.dead_letters() == []
    second = await instances(echo)
    assert [await second.get_result(answer.item_id, timeout=10) for answer in answers] == list(range(4))


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 30])
async def test_a_disable_that_is_cancelled_twice_is_finished_by_the_next(instances, turns):
    async def hang(items):
        await asyncio.Event().wait()

    first = await instances(hang, max_batch_size=2)
    answers = await first.submit_many(range(6))
    await until(lambda: first._dispatcher.backlog.in_flight)
    for _ in range(2):
        ending = asyncio.ensure_future(first.disable())
        for _ in range(turns):
            await asyncio.sleep(0)
        ending.cancel()
        await asyncio.wait([ending])
    assert await first.disable()
    assert await first.dead_letters() == [], "all are left to others"
    second = await instances(echo)
    assert [await second.get_result(answer.item_id, timeout=20) for answer in answers] == list(range(6))


async def test_an_orderly_stop_is_no_failed_delivery(instances):
    """However many deploys a long job sees, it is not given up for them; its handler knows it was begun."""
    submitter = await instances(None, lease=5)
    await submitter.submit_item("a download", key="d1")
    deliveries = []
    begun = asyncio.Event()

    async def long(items):
        deliveries.extend(item.deliveries for item in items)
        begun.set()
        await asyncio.sleep(600)

    for _ in range(4):
        begun.clear()
        worker = await instances(long, drain_timeout=0.05, max_deliveries=1, lease=5)
        async with asyncio.timeout(20):
            await begun.wait()
        await worker.disable()
    assert deliveries == [1, 2, 2, 2], "above 1 its effects may exist already"
    assert await submitter.dead_letters() == []
    last = await instances(echo, max_deliveries=1, lease=5)
    assert await last.get_result("d1", timeout=20) == "a download"


async def test_batches_close_at_so_many_bytes_here_too(instances):
    batches = []

    async def handle(items):
        batches.append([len(item.data) for item in items])
        return [None] * len(items)

    p = await instances(max_batch_bytes=10, batch_timeout=0.2)
    await p.submit_many(["x" * length for length in (4, 4, 4, 30, 4, 4)])
    p.process_handler = handle
    assert await p.flush(20)
    assert batches == [[4, 4], [4], [30], [4, 4]]
