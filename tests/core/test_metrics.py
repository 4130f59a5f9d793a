"""The Prometheus reader: names, values, resets, threads, bounds."""

import asyncio
import math
import threading

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bot.core import phase4_metrics
from bot.core.cache_manager import CacheManager
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.phase4_metrics import Phase4Collector, register_phase4_metrics
from bot.core.phase4_service import Phase4Service
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimitConfig, RateLimiter


class Samples:
    """What a registry exposes, parsed from its text as a Prometheus server would."""

    def __init__(self, registry):
        self.text = generate_latest(registry).decode()
        self.values = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
        }

    def __call__(self, name, **labels):
        return self.values.get((name, tuple(sorted(labels.items()))))


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def now():
    """A clock that tests turn: a list of one time."""
    return [1000.0]


@pytest.fixture
def scrape(registry, now):
    registry.register(Phase4Collector(clock=lambda: now[0]))
    return lambda: Samples(registry)


@pytest.fixture
async def services():
    yield
    for service in list(Phase4Service._instances.values()):
        await service.disable()


async def test_the_names_of_the_guides_alert_rules(scrape, services, tmp_path):
    optimizer, limiter = QueryOptimizer.get_instance(), RateLimiter.get_instance()
    pools = ConnectionPoolManager.get_instance()
    await optimizer.enable()
    await limiter.enable(RateLimitConfig(requests_per_second=1, burst_size=3))
    await pools.create_pool("db", "sqlite", min_size=1, max_size=4, url=f"sqlite:///{tmp_path}/db")
    await optimizer.record_execution("SELECT 1", 30.0)
    await optimizer.record_execution("SELECT 1", 50.0)
    assert await optimizer.get_cached_result("SELECT 2") is None
    await optimizer.record_execution("SELECT 1", 0.0, cache_hit=True)
    for _ in range(4):
        await limiter.is_allowed(7)
    async with pools.connection("db"):
        seen = scrape()
    assert seen("cache_hit_rate", cache="query_optimizer") == 50.0
    assert seen("rate_limit_block_rate") == 25.0
    assert seen("pool_active_connections", pool="db") == 1
    assert seen("pool_max_size", pool="db") == 4
    assert seen("query_avg_execution_time") == pytest.approx(40.0)
    assert seen("phase4_rate_limit_requests_total", tier="default", outcome="blocked") == 1
    assert seen("phase4_pool_acquired_total", pool="db") == 1
    assert seen("phase4_query_execution_seconds_total") == pytest.approx(0.080)
    assert seen("phase4_service_enabled", service="query_optimizer") == 1
    assert seen("phase4_service_enabled", service="load_balancer") == 0
    assert seen("phase4_service_enabled", service="outbound") == 0


async def test_nothing_happened_is_no_rate_and_no_alert(scrape, services):
    await QueryOptimizer.get_instance().enable()
    await CacheManager.get_instance().enable()
    await RateLimiter.get_instance().enable()
    seen = scrape()
    for name, labels in (
        ("cache_hit_rate", {"cache": "query_optimizer"}),
        ("cache_hit_rate", {"cache": "cache_manager"}),
        ("rate_limit_block_rate", {}),
        ("query_avg_execution_time", {}),
    ):
        assert math.isnan(seen(name, **labels)), name


async def test_with_everything_off_the_names_are_there_without_figures(scrape):
    seen = scrape()
    assert "# TYPE cache_hit_rate gauge" in seen.text
    assert seen("cache_hit_rate", cache="query_optimizer") is None
    assert seen("phase4_scrape_success") == 1


async def test_rates_are_of_the_last_five_minutes(scrape, services, now):
    optimizer = QueryOptimizer.get_instance()
    await optimizer.enable()
    for _ in range(100):
        await optimizer.record_execution("SELECT 1", 0.0, cache_hit=True)
    assert scrape()("cache_hit_rate", cache="query_optimizer") == 100.0
    now[0] += 600
    assert math.isnan(scrape()("cache_hit_rate", cache="query_optimizer"))
    now[0] += 10
    for number in range(10):
        await optimizer.get_cached_result(f"SELECT {number}")
    assert scrape()("cache_hit_rate", cache="query_optimizer") == 0.0, "old hits hide nothing"


async def test_counters_do_not_go_back_when_statistics_are_reset(scrape, services, tmp_path):
    optimizer, pools = QueryOptimizer.get_instance(), ConnectionPoolManager.get_instance()
    await optimizer.enable()
    await pools.create_pool("db", "sqlite", min_size=1, max_size=4, url=f"sqlite:///{tmp_path}/db")
    for _ in range(3):
        await optimizer.record_execution("SELECT 1", 0.0, cache_hit=True)
        async with pools.connection("db"):
            pass
    assert scrape()("phase4_query_cache_hits_total") == 3
    await optimizer.reset_statistics()
    await pools.reset_statistics()
    assert scrape()("phase4_query_cache_hits_total") == 3
    await optimizer.record_execution("SELECT 1", 0.0, cache_hit=True)
    seen = scrape()
    assert seen("phase4_query_cache_hits_total") == 4
    assert seen("phase4_pool_acquired_total", pool="db") == 3


async def test_made_up_names_do_not_make_up_series(scrape, services):
    limiter = RateLimiter.get_instance()
    await limiter.enable()
    for number in range(1, 200):
        await limiter.is_allowed("secret", RateLimitConfig(requests_per_second=number, burst_size=5))
    seen = scrape()
    tiers = {
        dict(labels)["tier"] for name, labels in seen.values if name == "phase4_rate_limit_requests_total"
    }
    assert len(tiers) == phase4_metrics.MAX_LABEL_VALUES
    assert "secret" not in seen.text


async def test_a_service_whose_statistics_fail_does_not_fail_the_scrape(scrape, services, monkeypatch):
    await RateLimiter.get_instance().enable()
    await QueryOptimizer.get_instance().enable()

    def fail(self):
        raise RuntimeError("broken")

    monkeypatch.setattr(QueryOptimizer, "snapshot", fail)
    seen = scrape()
    assert seen("phase4_service_enabled", service="query_optimizer") == 1
    assert seen("phase4_rate_limit_active_clients", tier="default") == 0


async def test_registering_twice_is_refused(registry):
    register_phase4_metrics(registry)
    with pytest.raises(ValueError, match="cache_hit_rate"):
        register_phase4_metrics(registry)


async def test_a_scrape_from_another_thread_is_answered_by_the_loop(registry, monkeypatch):
    await initialize_phase4_services({"ENABLE_RATE_LIMITER": True})
    read_in = []
    snapshot = RateLimiter.snapshot

    def noting(self):
        read_in.append(threading.get_ident())
        return snapshot(self)

    monkeypatch.setattr(RateLimiter, "snapshot", noting)
    register_phase4_metrics(registry)
    try:
        seen = await asyncio.to_thread(Samples, registry)
        assert seen("phase4_service_enabled", service="rate_limiter") == 1
        assert read_in == [threading.get_ident()]
    finally:
        await shutdown_phase4_services()


async def test_a_blocked_loop_is_told_and_not_waited_for(registry, monkeypatch, caplog):
    monkeypatch.setattr(phase4_metrics, "SCRAPE_TIMEOUT", 0.05)
    register_phase4_metrics(registry)
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(Samples(registry) for _ in range(2)))
    thread.start()
    thread.join()  # on the loop's own thread: it is blocked until the scrapes gave up
    assert [one("phase4_scrape_success") for one in seen] == [0, 0]
    assert caplog.text.count("event loop did not answer") == 1
    await asyncio.sleep(0)
    assert (await asyncio.to_thread(Samples, registry))("phase4_scrape_success") == 1


def test_without_a_loop_the_services_are_read_in_place(registry):
    register_phase4_metrics(registry)
    assert Samples(registry)("phase4_scrape_success") == 1


async def test_every_service_can_be_read_without_waiting(services, tmp_path):
    for cls in (QueryOptimizer, CacheManager, RateLimiter, ConnectionPoolManager):
        service = cls.get_instance()
        await service.enable()
        assert service.statistics() == await service.get_statistics()
