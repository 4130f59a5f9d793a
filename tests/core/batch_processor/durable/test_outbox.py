"""What Redis takes, and what it refuses."""

import asyncio
import itertools

import pytest
import redis

from bot.core._shared.errors import InvalidArgumentError
from bot.core.batch_processor import (
    BatchProcessor,
    BatchQueueFullError,
)
from tests.core.batch_processor.durable.helpers import echo, length
from tests.support.servers import RedisServer, running

pytestmark = pytest.mark.server

names = (f"queue-{number}" for number in itertools.count())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (object(), "data = 'object': expected plain data"),
        ({"open": [print]}, "cannot travel"),
        ("x" * 3_000, "max_item_bytes = 2,000"),
    ],
)
async def test_what_cannot_travel_is_refused_at_the_door(instances, data, message):
    p = await instances(echo, max_item_bytes=2_000)
    for submit in (p.submit_item, p.submit_and_wait):
        with pytest.raises(InvalidArgumentError, match=message):
            await submit(data)
    with pytest.raises(InvalidArgumentError, match=message):
        p.submit(data)
    with pytest.raises(InvalidArgumentError, match=message):
        await p.submit_many(["fine", data])
    assert await length(p) == 0, "all of it was refused"


async def test_a_key_adds_nothing_while_its_item_is_pending_or_its_result_kept(instances, queue):
    handled = []

    async def handle(items):
        handled.extend(item.item_id for item in items)
        return {item.item_id: item.data for item in items}

    first, second = await instances(), await instances()
    assert (await first.submit_item("one", key="upload-7")).success
    assert (await second.submit_item("another", key="upload-7")).item_id == "upload-7"
    assert await length(first) == 1
    first.process_handler = handle
    assert await second.get_result("upload-7", timeout=10) == "one"
    assert (await second.submit_item("a third", key="upload-7")).success
    await first.flush()
    assert handled == ["upload-7"]
    figures = await second.get_statistics()
    assert (figures["duplicate_items"], figures["enqueued_items"]) == (2, 0)


async def test_max_pending_counts_the_items_of_all_instances(instances):
    first, second = await instances(max_pending=3), await instances(max_pending=3)
    assert [one.success for one in await first.submit_many([1, 2], all_or_none=True)] == [True, True]
    assert [one.success for one in await second.submit_many([3, 4], all_or_none=True)] == [False, False]
    assert [one.success for one in await second.submit_many([3, 4])] == [True, False]
    refused = await first.submit_item(5)
    assert not refused.success
    assert "3 items pending in Redis, max_pending = 3" in refused.reason
    with pytest.raises(BatchQueueFullError):
        await first.submit(6)
    waiting = asyncio.ensure_future(first.submit_and_wait(7, timeout=20))
    second.process_handler = echo
    assert await waiting == 7


@pytest.mark.parametrize("loss", ["trimmed", "deleted", "renamed"])
async def test_a_key_whose_entry_is_gone_stands_for_nothing(instances, safe_server, queue, loss):
    first = await instances(None)
    assert (await first.submit_item("once", key="daily-7")).success
    stream = f"phase4:{{batch:{queue}}}:items"
    with redis.Redis(port=safe_server.port) as plain:
        if loss == "trimmed":
            plain.xtrim(stream, maxlen=0)
        elif loss == "deleted":
            plain.delete(stream)
        else:
            plain.rename(stream, f"{stream}-elsewhere")
    seen = []

    async def handle(items):
        seen.extend(item.data for item in items)
        return [item.data for item in items]

    first.process_handler = handle
    assert tuple(await first.submit_item("again", key="daily-7")) == (True, "daily-7", "")
    assert await first.get_result("daily-7", timeout=20) == "again"
    assert seen == ["again"]
    assert (await first.submit_item("a third time", key="daily-7")).success
    assert seen == ["again"], "its result is kept, so it adds nothing"


async def test_whether_an_item_was_added_is_known_when_there_was_no_connection(queue):
    with running(RedisServer()) as server:
        processor = BatchProcessor()
        await processor.enable(None, redis_url=server.url, queue_name=queue)
        server.kill()
        for _ in range(3):
            refused = await processor.submit_item("x")
            if refused.refusal == "unavailable":
                break  # the first may have been under way on the connection that was cut
        assert refused.refusal == "unavailable"
        assert "not known" not in refused.reason
        assert await processor.disable()


async def test_a_key_of_another_type_is_nobodys(instances, safe_server, queue):
    """What else lies under the keys of items does no harm but to itself."""
    with redis.Redis(port=safe_server.port) as plain:
        plain.rpush(f"phase4:{{batch:{queue}}}:item:mine", "a list")
        first = await instances(echo)
        assert [one.success for one in await first.submit_many("ab", keys=["mine", "other"])] == [True, True]
        assert await first.get_result("mine", timeout=20) == "a"
        assert await first.get_result("other", timeout=20) == "b"


async def test_a_key_that_redis_cannot_hold_is_named_as_what_is_at_fault(instances):
    processor = await instances(echo)
    with pytest.raises(ValueError, match=r"key = .*lone surrogates"):
        await processor.submit_item(1, key="\ud800x")
    assert (await processor.submit_item(1, key="ключ 1")).success
