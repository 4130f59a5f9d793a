"""A cancellation at each await of switching shared slots off: nothing stays behind."""

import asyncio

import pytest

from bot.core.rate_limiter import ConcurrencyLimit, RateLimiter
from bot.core.redis_link import RedisLink
from tests.support.waiting import equals, until

TWO = ConcurrencyLimit(2, "cancelled while switching off")


async def a_full_line(limiter, client):
    """Both slots of the client, and a task that waits for a third one."""
    slots = [await limiter.acquire_slot(client, TWO) for _ in range(2)]
    waiting = asyncio.create_task(limiter.acquire_slot(client, TWO, timeout=None))
    await until(lambda: equals(lambda: limiter.slot_status(client, TWO), (2, 2, 1, False)))
    return slots, waiting


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21, 34])
async def test_switching_off_is_cancelled_and_done_again(redis_url, turns):
    limiter, other = RateLimiter(), RateLimiter()
    for each in (limiter, other):
        await each.enable(redis_url=redis_url, slot_lease=1.0)
    client = f"{turns} turns"
    slots, waiting = await a_full_line(limiter, client)
    await until(lambda: equals(lambda: other.slot_status(client, TWO), (2, 2, 1, False)))

    off = asyncio.create_task(limiter.disable())
    for _ in range(turns):
        await asyncio.sleep(0)
    off.cancel()
    await asyncio.gather(off, return_exceptions=True)
    await limiter.disable()

    assert not (await waiting).held
    assert not any(slot.held for slot in slots)
    await until(lambda: equals(lambda: other.slot_status(client, TWO), (0, 2, 0, False)))
    await other.disable()
    assert not RedisLink._links


@pytest.mark.parametrize("turns", range(8))
async def test_switching_off_is_cancelled_twice(redis_url, turns):
    """The second cancellation comes while the first one is giving back what is left."""
    limiter = RateLimiter()
    await limiter.enable(redis_url=redis_url, slot_lease=60.0)
    client = f"{turns} turns, twice"
    slots, waiting = await a_full_line(limiter, client)
    off = asyncio.create_task(limiter.disable())
    await asyncio.sleep(0)
    off.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    off.cancel()
    await asyncio.gather(off, return_exceptions=True)
    await limiter.disable()
    assert not (await waiting).held
    assert not any(slot.held for slot in slots)
    assert not RedisLink._links


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21])
async def test_going_from_shared_to_local_is_cancelled(redis_url, turns):
    limiter, other = RateLimiter(), RateLimiter()
    for each in (limiter, other):
        await each.enable(redis_url=redis_url, slot_lease=1.0)
    client = f"{turns} turns, to local"
    slot = await limiter.acquire_slot(client, TWO)
    change = asyncio.create_task(limiter.enable(redis_url=""))
    for _ in range(turns):
        await asyncio.sleep(0)
    change.cancel()
    await asyncio.gather(change, return_exceptions=True)
    await limiter.enable(redis_url="")
    assert not slot.held
    await until(lambda: equals(lambda: other.slot_status(client, TWO), (0, 2, 0, False)))
    async with limiter.slot(client, TWO), limiter.slot(client, TWO):
        assert await limiter.slot_status(client, TWO) == (2, 2, 0, False)
    for each in (limiter, other):
        await each.disable()
    assert not RedisLink._links
