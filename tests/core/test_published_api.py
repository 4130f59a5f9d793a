"""Calls of the first Phase 4 modules that the implementation guide does not show, a story per service."""

from __future__ import annotations

import pytest

from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.connection_pool_manager import BackendType, ConnectionPoolManager
from bot.core.enhanced_startup_phase4 import (
    PHASE4_CONFIG,
    get_phase4_status,
    initialize_phase4_services,
    shutdown_phase4_services,
)
from bot.core.load_balancer import LoadBalancer, LoadBalancingStrategy
from bot.core.query_optimizer import (
    QueryOptimizer,
    QueryTooComplexError,
    QueryType,
    analyze_graphql_complexity,
)
from bot.core.rate_limiter import RateLimitConfig, RateLimiter


async def test_query_optimizer():
    optimizer = QueryOptimizer.get_instance()
    assert optimizer is QueryOptimizer.get_instance()
    assert await optimizer.enable() is True
    found = await optimizer.analyze_query("SELECT * FROM users WHERE status = 'active'")
    assert found.query_type is QueryType.SELECT
    assert found.recommendations
    assert await optimizer.record_execution(
        query="SELECT * FROM large_table", execution_time=2.5, result_count=1000, cache_hit=False
    )
    [slow] = await optimizer.get_slow_queries(threshold=1.0)
    assert slow.avg_time_ms == 2500
    assert await optimizer.record_execution("SELECT * FROM large_table", 500.0)
    figures = await optimizer.get_statistics()
    assert (figures["total_executions"], figures["avg_execution_time_ms"]) == (2, 1500)
    assert await optimizer.disable() is True
    assert await optimizer.record_execution("SELECT 1", 1.0) is False, "nothing is counted while it is off"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "execution_time_ms = None: expected milliseconds"),
        ({"execution_time": -1}, "execution_time = -1: expected seconds, 0 or more"),
        ({"execution_time": "2.5"}, "execution_time = '2.5': expected seconds"),
        ({"execution_time": 1, "execution_time_ms": 1000}, "not both"),
    ],
)
async def test_a_time_that_is_none_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        await QueryOptimizer.get_instance().record_execution("SELECT 1", **given)


def test_the_complexity_of_a_graphql_query():
    query = "query ($n: Int = 10) { users(first: $n) { name posts(first: 5) { title } } }"
    cost = analyze_graphql_complexity(query)
    assert cost == 1 + 10 * (1 + 1 + 5 * 1)
    assert analyze_graphql_complexity(query, {"n": 1}) < cost < analyze_graphql_complexity(query, {"n": 99})
    several = "query small { me { name } } query large { users(first: 50) { name } }"
    assert analyze_graphql_complexity(several) == analyze_graphql_complexity(several, None, "large")
    assert analyze_graphql_complexity(several, operation_name="small") == 2
    with pytest.raises(QueryTooComplexError, match="too complex"):
        raise QueryTooComplexError


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("SELECT 1", ValueError, "a text of 8 characters: expected a GraphQL operation"),
        ("{ users { secret", ValueError, "it is not GraphQL"),
        ('{ users(token "secret") { name } }', ValueError, "it is not GraphQL"),
        ("fragment f on User { name }", ValueError, "no operation"),
        (None, ValueError, "query = NoneType"),
        ("{ a" * 500 + "}" * 500, QueryTooComplexError, "nested more than"),
        ("{ ...f } fragment f on Q { ...f }", QueryTooComplexError, "form a circle"),
    ],
    ids=["sql", "no graphql", "a wrong token", "no operation", "no text", "too deep", "endless"],
)
def test_what_has_no_complexity(query, error, message):
    with pytest.raises(error, match=message) as raised:
        analyze_graphql_complexity(query)
    assert "secret" not in str(raised.value)


def test_an_operation_that_is_not_there():
    with pytest.raises(ValueError, match="operation_name = 'b': expected one of 'a'"):
        analyze_graphql_complexity("query a { x }", operation_name="b")


async def test_cache_manager():
    cache = CacheManager.get_instance()
    assert cache is CacheManager.get_instance()
    assert await cache.enable(max_size_mb=50, compression=True) is True
    assert await cache.set("user:123", {"name": "ann"}, ttl=300)
    assert await cache.get("user:123") == {"name": "ann"}
    assert await cache.set("user:124", {"name": "bob"}, ttl=300)
    assert await cache.invalidate_pattern("user:*") == 2
    assert await cache.get("user:123") is None
    figures = await cache.get_statistics()
    assert (figures["l1_max_size_mb"], figures["l1_hits"]) == (50, 1)
    assert await cache.enable(60) is True
    assert (await cache.get_statistics())["l1_max_size_mb"] == 60
    for given in ({"max_size_mb": 0}, {"max_size_mb": "1"}, {"max_size_mb": 1, "l1_max_size_mb": 1}):
        with pytest.raises(ValueError, match=r"^max_size_mb = "):
            await cache.enable(**given)
    assert await cache.disable() is True


async def test_connection_pool_manager(tmp_path):
    pools = ConnectionPoolManager.get_instance()
    assert pools is ConnectionPoolManager.get_instance()
    assert await pools.enable() is True
    assert await pools.create_pool(
        name="data", backend=BackendType.SQLITE, min_size=1, max_size=2, url=f"sqlite:///{tmp_path}/data.db"
    )
    connection = await pools.acquire_connection("data", timeout=5.0)
    assert connection.backend == BackendType.SQLITE
    assert connection.is_healthy
    await connection.execute("CREATE TABLE t (x)")
    figures = (await pools.get_all_statistics())["data"]
    assert (figures["backend"], figures["active_connections"]) == ("sqlite", 1)
    assert await pools.release_connection("data", connection) is True
    broken = await pools.acquire_connection("data")
    assert await pools.release_connection("data", broken, is_healthy=False) is True
    assert all((await pools.health_check_all()).values())
    assert await pools.disable() is True


def test_every_backend_of_the_settings_is_a_backend_type():
    assert [BackendType(name) for name in ("mongodb", "redis", "postgresql", "mysql", "sqlite")] == [
        *BackendType
    ]
    assert BackendType["MONGODB"].value == str(BackendType.MONGODB) == "mongodb"


async def test_rate_limiter():
    limiter = RateLimiter.get_instance()
    assert limiter is RateLimiter.get_instance()
    assert await limiter.enable() is True
    assert (
        limiter.set_tier_limit("premium", RateLimitConfig(requests_per_second=100.0, burst_size=200)) is True
    )
    config = RateLimitConfig(requests_per_second=0.01, burst_size=2)
    answers = [await limiter.is_allowed("client", config) for _ in range(3)]
    assert [allowed for allowed, _ in answers] == [True, True, False]
    assert answers[2][1].retry_after > 0
    status = await limiter.get_status()
    assert (status["enabled"], status["total_allowed"], status["total_blocked"]) == (True, 2, 1)
    assert (status["active_clients"], status["tiers_configured"]) == (1, 1)
    assert status["block_rate"] == pytest.approx(33.33)
    assert status == await limiter.get_statistics()
    assert await limiter.reset_client("client") is True
    assert (await limiter.is_allowed("client", config))[0]
    assert await limiter.disable() is True


async def test_load_balancer():
    balancer = LoadBalancer.get_instance()
    assert balancer is LoadBalancer.get_instance()

    async def handle(instance, data):
        return {"by": instance.instance_id, "data": data}

    balancer.request_handler = handle
    assert await balancer.enable(LoadBalancingStrategy.ROUND_ROBIN) is True
    assert await balancer.get_instance() is None, "there is none yet"
    assert await balancer.add_instance("server-1", "127.0.0.1", 8001, weight=2.0)
    assert await balancer.add_instance("server-2", "127.0.0.1", 8002, weight=1.0)
    assert {(await balancer.get_instance()).instance_id for _ in range(4)} == {"server-1", "server-2"}
    sticky = {(await balancer.get_instance(session_id="user_123")).instance_id for _ in range(8)}
    assert len(sticky) == 1
    success, result, instance_id = await balancer.route_request({"n": 1})
    assert (success, result) == (True, {"by": instance_id, "data": {"n": 1}})
    assert set((await balancer.get_statistics())["instances"]) == {"server-1", "server-2"}
    assert await balancer.disable() is True


class OwnBalancer(LoadBalancer):
    """A subclass has an instance of its own, as of every service."""


async def test_a_balancer_of_ones_own_class_is_found_by_its_class():
    own = OwnBalancer.get_instance()
    assert type(own) is OwnBalancer
    assert own is OwnBalancer.get_instance() is not LoadBalancer.get_instance()
    assert await own.get_instance("a session") is None


async def test_batch_processor():
    processor = BatchProcessor.get_instance()
    assert processor is BatchProcessor.get_instance()

    async def process_batch(items):
        return {item.item_id: "processed" for item in items}

    assert await processor.enable(process_batch, max_batch_size=10, batch_timeout=5.0) is True
    success, item_id, batch_id = await processor.submit_item({"data": "value"}, priority=1)
    assert success
    assert await processor.flush() is True
    assert await processor.get_result(item_id, timeout=10) == "processed"
    assert (await processor.get_batch_status(batch_id)).items == 1
    figures = await processor.get_statistics()
    assert (figures["completed_batches"], figures["total_items_processed"]) == (1, 1)
    assert await processor.disable() is True


async def test_settings_that_code_sets_before_the_start(monkeypatch):
    monkeypatch.setitem(PHASE4_CONFIG, "ENABLE_CACHE_MANAGER", True)
    monkeypatch.setitem(PHASE4_CONFIG, "CACHE_L1_MAX_SIZE_MB", 50)
    monkeypatch.setitem(PHASE4_CONFIG, "CACHE_L1_MAX_ENTRIES", 5)
    monkeypatch.setenv("CACHE_L1_MAX_SIZE_MB", "70")
    report = await initialize_phase4_services({"ENABLE_RATE_LIMITER": True, "CACHE_L1_MAX_ENTRIES": 7})
    assert report["success"]
    assert {"CacheManager", "RateLimiter"} <= set(report["services_initialized"])
    status = await get_phase4_status()
    assert status["services"].get("cache_manager", {}).get("l1_max_size_mb") == 50
    cache = CacheManager.get_instance()
    for n in range(20):
        await cache.set(str(n), n)
    assert (await cache.get_statistics())["l1_entries"] == 7, "the dict given to the start wins"
    monkeypatch.setitem(PHASE4_CONFIG, "CACHE_L1_MAX_SIZ_MB", 50)
    report = await initialize_phase4_services()
    assert "CACHE_L1_MAX_SIZE_MB" in report["errors"][0], "a misspelt name is an error, as in that dict"
    assert await shutdown_phase4_services() is True


@pytest.mark.parametrize("config", [5, ["ENABLE_CACHE_MANAGER"]])
async def test_what_are_no_settings_is_refused_all_the_same(monkeypatch, config):
    monkeypatch.setitem(PHASE4_CONFIG, "ENABLE_CACHE_MANAGER", True)
    report = await initialize_phase4_services(config)
    assert report["success"] is False
    assert report["services_initialized"] == []
