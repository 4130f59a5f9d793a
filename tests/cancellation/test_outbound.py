"""Switching a shared budget off and on while it is cancelled: none that has ended is asked later."""

import asyncio

import pytest

from bot.core.outbound import Limits, Outbound, Request
from bot.core.redis_link import RedisLink

# So long that no place comes back while a test runs.
LIMITS = Limits(group=(4, 600.0))
TURNS = range(12)


async def sent():
    return "sent"


async def cancelled(work, *, turns):
    """Cancel it after its first step, and again so many turns later."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    task.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def is_shared(outbound):
    """Whether what is sent now is counted in Redis, and ended holds are heard of."""
    before = (await outbound.get_statistics())["admissions"]
    await outbound.call(sent, Request("sendMessage", 42))
    assert outbound._dispatcher.shared._subscription is not None
    return (await outbound.get_statistics())["admissions"] == before + 1


@pytest.mark.parametrize("turns", TURNS)
async def test_switched_on_after_a_cancelled_stop_it_shares_again(redis_url, turns):
    outbound = Outbound()
    await outbound.enable(LIMITS, redis_url=redis_url, bot_id=7, drain_timeout=0.0)
    await cancelled(outbound.disable(), turns=turns)
    await outbound.enable(LIMITS, redis_url=redis_url, bot_id=7)
    assert await is_shared(outbound)
    await outbound.disable()
    assert not RedisLink._links


@pytest.mark.parametrize("turns", TURNS)
async def test_a_cancelled_change_of_the_bot_is_made_again(redis_url, turns):
    outbound = Outbound()
    await outbound.enable(LIMITS, redis_url=redis_url, bot_id=7, drain_timeout=0.0)
    await cancelled(outbound.enable(LIMITS, redis_url=redis_url, bot_id=8), turns=turns)
    await outbound.enable(LIMITS, redis_url=redis_url, bot_id=8)
    assert await is_shared(outbound)
    await outbound.disable()
    assert not RedisLink._links
