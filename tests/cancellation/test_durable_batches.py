"""A cancellation while durable batches are switched on or off: the link to Redis is given back, once."""

import asyncio
import uuid

import pytest

from bot.core.batch_processor import BatchProcessor
from bot.core.redis_link import RedisLink


def holders():
    return sum(sum(held.values()) for held in RedisLink._links.values())


async def after_turns(work, turns, again=0):
    """Cancel ``work`` after so many turns of the loop, and again after ``again`` more."""
    task = asyncio.ensure_future(work)
    for pause in (turns, again)[: 1 + bool(again)]:
        for _ in range(pause):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


@pytest.mark.parametrize("again", [0, 1, 3, 8])
async def test_switching_on(redis_url, again):
    queue = uuid.uuid4().hex
    for turns in range(1, 24, 2):
        processor = BatchProcessor()
        await after_turns(processor.enable(redis_url=redis_url, queue_name=queue), turns, again)
        await processor.disable()
        assert holders() == 0, f"cancelled after {turns} turns"


@pytest.mark.parametrize("again", [0, 1, 3])
async def test_switching_off_takes_no_link_from_another_service(redis_url, again):
    """Both have the link of one URL; it was given back twice, and the other service was left without."""
    queue = uuid.uuid4().hex
    other = RedisLink.shared(redis_url)
    for turns in range(0, 24, 3):
        processor = BatchProcessor()
        await processor.enable(redis_url=redis_url, queue_name=queue)
        await after_turns(processor.disable(), turns, again)
        await processor.disable()
        assert not processor.enabled
        assert holders() == 1, f"cancelled after {turns} turns"
    await other.release()
    assert holders() == 0


async def test_on_again_after_a_switching_off_that_was_cancelled(redis_url):
    queue = uuid.uuid4().hex

    async def handler(items):
        return [item.data for item in items]

    for turns in (3, 12):
        processor = BatchProcessor()
        await processor.enable(handler, redis_url=redis_url, queue_name=queue)
        await after_turns(processor.disable(), turns)
        await processor.enable(handler, redis_url=redis_url, queue_name=queue)
        assert await asyncio.wait_for(processor.submit_and_wait(turns), 10) == turns
        await processor.disable()
        assert holders() == 0
