"""Actions where services share a Redis: for every instance, and what is said while it is away."""

import asyncio
import json

import pytest

from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.outbound import Outbound
from bot.core.rate_limiter import RateLimiter
from tests.core.phase4_admin.test_actions import ALL_ON, SLOW, ended, operating, poison

__all__ = ["ended"]

pytestmark = pytest.mark.server


async def until(condition):
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def shared(redis_server):
    """Every service on, on one Redis; and an operator."""
    names = ("CACHE_L2_REDIS_URL", "RATE_LIMIT_REDIS_URL", "BATCH_REDIS_URL", "OUTBOUND_REDIS_URL")
    settings = {**dict.fromkeys(names, redis_server.url), "OUTBOUND_BOT_ID": "7"}
    assert (await initialize_phase4_services({**ALL_ON, **settings}))["success"]
    async with operating() as operator:
        yield operator
    await shutdown_phase4_services()


async def test_each_action_is_heard_by_another_instance(shared, redis_server):
    url = redis_server.url
    cache, limiter, outbound, batches = CacheManager(), RateLimiter(), Outbound(), BatchProcessor()
    await cache.enable(redis_url=url)
    await limiter.enable(redis_url=url)
    await outbound.enable(redis_url=url, bot_id="7", drain_timeout=0)
    await batches.enable(redis_url=url)
    try:
        await cache.set("k", 1, namespace="users", tags=("t",))
        assert (await shared.act("cache.drop_namespace", namespace="users"))[1]["count"] == 1
        await until(lambda: is_gone(cache, "users"))
        await cache.set("k", 1, namespace="chats", tags=("t",))
        assert "all that carry it in Redis" in (await shared.act("cache.drop_tag", tag="t"))[1]["done"]
        await until(lambda: is_gone(cache, "chats"))

        for _ in range(5):
            await limiter.is_allowed(5, SLOW)
        assert (await shared.act("limiter.reset_client", client=5))[1]["count"] == 1
        await until(lambda: passes(limiter))

        outbound.hold(-100, 300)
        await until(lambda: knows_hold(redis_server))
        assert (await shared.act("outbound.release", chat=-100))[0] == 200, "only the other instance held it"
        await until(lambda: holds_nothing(outbound))

        await poison("one", "two")
        assert await batches.count_dead_letters() == 2
        assert (await shared.ask("GET", "/dead-letters/two"))[1]["data"] == "{'file': 'two'}"
        assert (await shared.act("batch.replay_dead_letters", item_ids=["one"]))[1]["count"] == 1
        assert await batches.get_result("one", timeout=10) == {"file": "one"}
        assert (await shared.act("batch.drop_dead_letters", item_ids=["two"]))[1]["count"] == 1
        assert await batches.count_dead_letters() == 0
    finally:
        for service in (cache, limiter, outbound, batches):
            await service.disable()


async def is_gone(cache, namespace):
    return await cache.get("k", namespace=namespace) is None


async def passes(limiter):
    return (await limiter.is_allowed(5, SLOW))[0]


async def knows_hold(server):
    return bool(server.execute("EXISTS", "{p4o:7}:h:-100"))


async def holds_nothing(outbound):
    return not (await outbound.get_statistics())["chats_held"]


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_while_redis_is_away_each_says_what_became_of_it_without_its_address(shared, redis_server, how):
    cache, limiter = CacheManager.get_instance(), RateLimiter.get_instance()
    await poison("one")
    await cache.set("k", 1, namespace="users")
    for _ in range(5):
        await limiter.is_allowed(5, SLOW)
    redis_server.kill() if how == "killed" else redis_server.freeze()
    try:
        answers = [
            await shared.act("batch.replay_dead_letters", item_ids=["one"]),
            await shared.act("batch.drop_dead_letters", item_ids=["one"]),
            await shared.act("outbound.release", chat=-100),
            await shared.ask("GET", "/dead-letters"),
            await shared.ask("GET", "/dead-letters/one"),
        ]
        for status, told in answers:
            assert (status, told["error"]["code"]) == (503, "redis_unavailable")
            assert str(redis_server.port) not in json.dumps(told)
        done = [
            await shared.act("cache.drop_namespace", namespace="users"),
            await shared.act("cache.drop_tag", tag="t"),
            await shared.act("limiter.reset_client", client=5),
            await shared.act("outbound.hold", chat=-100, seconds=300),
        ]
        for status, told in done:
            assert status == 200
            assert "Redis is away or refuses" in told["done"]
        assert await cache.get("k", namespace="users") is None
        assert (await shared.act("statistics.reset"))[0] == 200
        outcomes = [outcome.partition(":")[0] for _, outcome in await shared.audit()]
        assert outcomes == ["done"] * 5 + ["refused"] * 3
    finally:
        redis_server.start() if how == "killed" else redis_server.thaw()


async def test_what_was_done_while_redis_was_away_is_made_good(shared, redis_server):
    await CacheManager.get_instance().set("k", 1, namespace="users")
    redis_server.freeze()
    assert (await shared.act("cache.drop_namespace", namespace="users"))[0] == 200
    assert (await shared.act("outbound.hold", chat=-100, seconds=300))[0] == 200
    redis_server.thaw()
    other = CacheManager()
    await other.enable(redis_url=redis_server.url)
    try:
        await until(lambda: is_gone(other, "users"))
        await until(lambda: knows_hold(redis_server))
    finally:
        await other.disable()
