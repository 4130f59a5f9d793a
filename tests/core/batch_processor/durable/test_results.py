"""Results of items that other instances handle."""

import asyncio
import itertools

import pytest
import redis

from bot.core.batch_processor import (
    LostItemError,
    ResultNotKeptError,
    ResultTimeoutError,
    UnknownItemError,
)
from tests.core.batch_processor.durable.helpers import echo

pytestmark = pytest.mark.server

names = (f"queue-{number}" for number in itertools.count())


async def test_a_result_that_cannot_travel_reaches_who_waits_here_and_is_named_elsewhere(instances, caplog):
    thing = object()

    async def handle(items):
        return {item.item_id: thing for item in items}

    p = await instances(handle)
    assert await p.submit_and_wait(1) is thing
    answer = await p.submit_item(2)
    await p.flush()
    with pytest.raises(ResultNotKeptError, match="is done, but the result cannot travel"):
        await p.get_result(answer.item_id)
    assert caplog.text.count("A result cannot be kept in Redis") == 1


async def test_after_the_results_time_a_key_is_free_again_and_the_id_unknown(instances):
    p = await instances(echo, result_ttl=0.1)
    await p.submit_item(1, key="k")
    await p.flush()
    await asyncio.sleep(0.15)
    with pytest.raises(UnknownItemError, match="'k'"):
        await p.get_result("k")
    assert await p.get_item_status("k") is None
    await p.submit_item(2, key="k")
    assert await p.get_result("k", timeout=10) == 2


async def test_who_waits_gets_the_result_of_another_instance(instances):
    asker = await instances()
    await instances(echo)
    assert await asyncio.gather(*[asker.submit(number) for number in range(50)]) == list(range(50))
    answer = await asker.submit_item("x")
    assert await asyncio.gather(*[asker.get_result(answer.item_id) for _ in range(3)]) == ["x"] * 3
    assert asker._dispatcher.outcomes.waiters == {}


async def test_giving_up_the_wait_leaves_the_item_to_be_handled(instances):
    p = await instances()
    answer = await p.submit_item("later")
    with pytest.raises(ResultTimeoutError):
        await p.get_result(answer.item_id, timeout=0.05)
    with pytest.raises(ResultTimeoutError):
        await p.submit_and_wait("later too", timeout=0.05)
    p.submit("nobody waits").cancel()
    p.process_handler = echo
    assert await p.get_result(answer.item_id, timeout=10) == "later"
    await p.flush()
    assert (await p.get_statistics())["total_items_processed"] == 3


async def test_who_waits_for_an_item_whose_entry_is_lost_is_told(instances, safe_server, queue):
    first = await instances(None)
    item_id = (await first.submit_item("lost")).item_id
    waiting = asyncio.create_task(first.get_result(item_id))
    await asyncio.sleep(0.1)
    with redis.Redis(port=safe_server.port) as plain:
        plain.xtrim(f"phase4:{{batch:{queue}}}:items", maxlen=0)
    with pytest.raises(LostItemError, match=f"item {item_id} was accepted, but its entry is gone"):
        async with asyncio.timeout(20):
            await waiting
    assert await first.get_item_status(item_id) is None
