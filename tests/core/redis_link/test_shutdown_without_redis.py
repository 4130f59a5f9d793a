"""A shutdown while Redis is down ends as soon as nothing more can be done, however long it may take."""

import asyncio

import pytest

from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.outbound import Outbound, Request
from bot.core.rate_limiter import RateLimiter
from bot.core.redis_link import RedisLink
from tests.support.servers import RedisServer, running

pytestmark = pytest.mark.server

HOURS = 10_000.0
"""Far beyond what the test may take."""


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_all_services_stop(how):
    with running(RedisServer()) as server:
        await stop_without_redis(server, how)


async def stop_without_redis(server, how):
    tasks = asyncio.all_tasks()
    report = await initialize_phase4_services(
        {
            "ENABLE_CACHE_MANAGER": True,
            "ENABLE_RATE_LIMITER": True,
            "ENABLE_BATCH_PROCESSOR": True,
            "ENABLE_OUTBOUND": True,
            "CACHE_L2_REDIS_URL": server.url,
            "RATE_LIMIT_REDIS_URL": server.url,
            "BATCH_REDIS_URL": server.url,
            "BATCH_TIMEOUT": 0.01,
            "BATCH_DRAIN_TIMEOUT": HOURS,
            "OUTBOUND_REDIS_URL": server.url,
            "OUTBOUND_BROADCAST_STORE": server.url,
            "OUTBOUND_DRAIN_TIMEOUT": HOURS,
        }
    )
    assert report["errors"] == []
    cache, limiter = CacheManager.get_instance(), RateLimiter.get_instance()
    batches, outbound = BatchProcessor.get_instance(), Outbound.get_instance()
    handled, go_on = asyncio.Event(), asyncio.Event()

    async def handle(items):
        handled.set()
        await go_on.wait()
        return {item.item_id: item.data for item in items}

    sent = 0

    async def send(chat=None):
        nonlocal sent
        sent += 1

    assert await batches.enable(handle)
    waiting = [asyncio.ensure_future(batches.submit_and_wait(number)) for number in range(5)]
    await handled.wait()
    broadcast = asyncio.ensure_future(outbound.broadcast("news", range(1, 1_000), send))
    while not sent:
        await asyncio.sleep(0.01)
    server.kill() if how == "killed" else server.freeze()
    go_on.set()
    calls = [
        *[asyncio.ensure_future(cache.set(f"k{number}", number, tags=["t"])) for number in range(50)],
        *[asyncio.ensure_future(limiter.is_allowed(f"c{number}")) for number in range(50)],
        *[asyncio.ensure_future(outbound.call(send, Request("sendMessage", 10_000 + n))) for n in range(20)],
        asyncio.ensure_future(cache.get_many([f"k{number}" for number in range(1_000)])),
    ]
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        assert await shutdown_phase4_services()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert not any(isinstance(answer, asyncio.CancelledError) for answer in answers)
    for left in (*waiting, broadcast):
        with pytest.raises(Exception, match=r"switched off|stopped|is off|Closed|unfinished"):
            await left
    assert not RedisLink._links
    assert asyncio.all_tasks() <= tasks
