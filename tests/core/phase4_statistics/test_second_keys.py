"""Keys by which others call a figure: the same number, and no further metric."""

from __future__ import annotations

import asyncio

import pytest

from bot.core import phase4_metrics
from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.load_balancer import LoadBalancer
from bot.core.phase4_statistics.fields import Metric, declared
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimitConfig, RateLimiter


@pytest.fixture
async def on():
    """``await on(Service)``: a service that is on until the test ends."""
    services = []

    async def started(service, *arguments):
        services.append(service())
        assert await services[-1].enable(*arguments)
        return services[-1]

    yield started
    for service in services:
        await service.disable()


async def test_the_optimizers_average_is_in_milliseconds(on):
    optimizer = await on(QueryOptimizer)
    await optimizer.record_execution("SELECT 1", 200.0)
    await optimizer.record_execution("SELECT 1", 400.0)
    told = await optimizer.get_statistics()
    assert told["avg_execution_time"] == told["avg_execution_time_ms"] == 300.0


async def test_the_caches_memory_tier_by_itself(on):
    cache = await on(CacheManager)
    await cache.set("a", 1)
    await cache.get("a")
    await cache.get("b")
    told = await cache.get_statistics()
    memory = told["l1_memory"]
    assert (memory["entries"], memory["hits"], memory["misses"], memory["evictions"]) == (1, 1, 1, 0)
    assert memory == {key: told[f"l1_{key}"] for key in memory}
    assert {f"l1_{key}" for key in memory} == {key for key in told if key.startswith("l1_")} - {
        "l1_memory",
        "l1_only_values",  # of values, not of the tier
    }


async def test_the_limiters_refusals(on):
    limiter = await on(RateLimiter)
    for _ in range(5):
        await limiter.is_allowed(7, RateLimitConfig(requests_per_second=1, burst_size=2))
    told = await limiter.get_statistics()
    assert told["requests_blocked"] == told["total_blocked"] == 3


async def test_the_batches_of_every_outcome(on):
    async def handle(items):
        if any(item.data == "bad" for item in items):
            raise RuntimeError("no")
        return {item.item_id: None for item in items}

    processor = await on(BatchProcessor, handle, 1)
    await processor.submit_and_wait("good")
    await processor.submit_and_wait("good")
    failing = asyncio.ensure_future(processor.submit_and_wait("bad"))
    while not (await processor.get_statistics())["failed_batches"]:
        await asyncio.sleep(0.01)
    failing.cancel()
    told = await processor.get_statistics()
    assert told["completed_batches"] == 2
    assert told["total_batches"] == told["completed_batches"] + told["failed_batches"]


async def test_an_instances_response_time_is_in_milliseconds(on):
    balancer = await on(LoadBalancer)

    async def answer(instance, data):
        await asyncio.sleep(0.001)
        return "ok"

    balancer.request_handler = answer
    await balancer.add_instance("bot-1", "127.0.0.1", 1)
    assert (await balancer.route_request("hello"))[0]
    told = (await balancer.get_statistics())["instances"]["bot-1"]
    assert told["avg_response_time"] == told["average_response_time_ms"] > 0.0


@pytest.mark.parametrize("kind", phase4_metrics._FIGURES)
def test_a_second_key_is_no_further_metric(kind):
    second = {name for name, value in vars(kind).items() if isinstance(value, property)}
    assert not second & {key for key, _ in declared(kind, Metric)}
    assert all(getattr(kind, name).__doc__ for name in second), "it says what it is the same as"
