"""Durable mode as a bot uses it, on a real Redis."""

import asyncio
import datetime
import decimal
import itertools
import uuid

import pytest

from bot.core._shared.errors import InvalidArgumentError, MisuseError
from bot.core.batch_processor import (
    BatchProcessor,
)
from bot.core.redis_link import RedisLink
from tests.core.batch_processor.durable.helpers import echo, length
from tests.support.servers import RedisCluster

pytestmark = pytest.mark.server

names = (f"queue-{number}" for number in itertools.count())


async def test_items_are_handled_and_leave_nothing_but_their_results(instances):
    p = await instances(echo)
    assert await p.submit_and_wait({"file": 1}) == {"file": 1}
    futures = [p.submit(number) for number in range(100)]
    assert await asyncio.gather(*futures) == list(range(100))
    answers = await p.submit_many(["a", "b"])
    assert [await p.get_result(answer.item_id) for answer in answers] == ["a", "b"]
    assert (await p.get_item_status(answers[0].item_id)).state == "done"
    assert await length(p) == 0
    figures = await p.get_statistics()
    assert figures["durable"]
    assert not figures["degraded"]
    assert figures["enqueued_items"] == figures["submitted_items"] == 103


async def test_an_instance_that_starts_on_a_backlog_ends_its_items_in_redis(instances):
    submitter = await instances()
    answers = await submitter.submit_many(range(50))
    worker = await instances(echo, max_batch_size=1)
    assert await worker.flush(timeout=20), "also what was handled before enable returned"
    assert [await submitter.get_result(one.item_id) for one in answers] == list(range(50))
    assert await length(submitter) == 0


async def test_data_and_results_come_back_as_what_they_were(instances):
    p = await instances(echo)
    value = {
        1: (2, {3}),
        "big": 2**80,
        "bytes": b"\x00\xff",
        "when": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC),
        "price": decimal.Decimal("1.10"),
        "id": uuid.UUID(int=5),
        "none": None,
    }
    answer = await p.submit_item(value)
    assert await p.get_result(answer.item_id) == value


async def test_higher_priorities_go_first_among_what_was_read(instances):
    order = []

    async def handle(items):
        order.extend(item.data for item in items)
        return [None] * len(items)

    p = await instances(max_batch_size=1, max_concurrent=1, batch_timeout=0.3)
    for number, priority in ((1, 0), (2, 0), (3, 5), (4, -5)):
        await p.submit_item(number, priority)
    p.process_handler = handle
    await p.flush()
    assert sorted(order) == [1, 2, 3, 4]
    assert order.index(3) < order.index(4)


def test_enabled_used_and_switched_off_under_three_event_loops(safe_server, queue):
    p = BatchProcessor()
    asyncio.run(p.enable(echo, 10, 0.02, redis_url=safe_server.url, queue_name=queue))

    async def use():
        return await p.submit_and_wait("under another", timeout=20)

    assert asyncio.run(use()) == "under another"
    assert asyncio.run(p.disable())
    assert not p.enabled
    assert not RedisLink._links


async def test_where_items_lie_is_not_changed_while_it_is_on(instances):
    p = await instances(echo)
    with pytest.raises(InvalidArgumentError, match="disable the batch processor first"):
        await p.enable(redis_url="")
    with pytest.raises(InvalidArgumentError, match="queue_name = 'a b'"):
        await p.enable(queue_name="a b")
    await p.enable(max_batch_size=5, lease=1.0)
    assert await p.submit_and_wait(1) == 1
    await p.disable()
    await p.enable(redis_url="")
    assert await p.submit_and_wait(2) == 2
    assert not p.statistics()["durable"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lease", 0),
        ("max_deliveries", 0),
        ("max_item_bytes", 1),
        ("redis_url", "http://x"),
        ("queue_name", "{}"),
    ],
)
async def test_settings_out_of_bounds_are_named(setting, value):
    p = BatchProcessor()
    with pytest.raises(InvalidArgumentError, match=setting.replace("_url", ".url")):
        await p.enable(echo, **({"redis_url": "redis://127.0.0.1:1"} | {setting: value}))
    assert not p.enabled
    assert not RedisLink._links


async def test_under_another_loop_that_runs_beside_its_own_it_says_so(instances):
    processor = await instances(echo)

    async def elsewhere():
        with pytest.raises(MisuseError, match="works under another event loop, which is running"):
            await processor.submit_and_wait("x")
        with pytest.raises(MisuseError):
            await processor.submit_item("x")
        with pytest.raises(MisuseError):
            await processor.get_result("x")

    await asyncio.to_thread(asyncio.run, elsewhere())
    assert await processor.submit_and_wait("x") == "x"


async def test_in_a_cluster(queue):
    cluster = RedisCluster()
    try:
        cluster.start()
        p = BatchProcessor()
        await p.enable(echo, 10, 0.02, redis_url=cluster.url, queue_name=queue, lease=0.4)
        assert await asyncio.gather(*[p.submit(number) for number in range(50)]) == list(range(50))
        answer = await p.submit_item("x", key="any {key}")
        assert await p.get_result(answer.item_id, timeout=10) == "x"
        assert await p.flush(timeout=10)
        assert await p.disable()
    finally:
        cluster.close()
