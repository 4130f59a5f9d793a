"""A service that lives on one event loop, used from another thread: it works or says so; nothing hangs."""

import asyncio
import threading

import pytest

from bot.core._shared.errors import MisuseError
from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.load_balancer import LoadBalancer
from bot.core.load_balancer.models import InstanceState
from bot.core.outbound import Limits, Outbound, Request
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimitConfig, RateLimiter

GUARD = 30.0
"""Seconds after which a test gives up what hangs."""


@pytest.fixture
async def stopped():
    """Services that are disabled at the end."""
    services = []
    yield services
    for service in services:
        await service.disable()


async def elsewhere(call):
    """What ``await call()`` gives under an event loop of another thread, while this one goes on."""

    async def main():
        async with asyncio.timeout(GUARD):
            return await call()

    return await asyncio.to_thread(asyncio.run, main())


async def load(*args):
    return [1]


async def handle(items):
    return ["done" for _ in items]


async def cache(stopped):
    service = CacheManager()
    stopped.append(service)
    await service.enable()
    return service


@pytest.mark.parametrize("name", ["hit", "miss", "in flight"])
async def test_the_cache_serves_every_thread(stopped, name):
    service = await cache(stopped)
    go_on = asyncio.Event()

    async def slow():
        await go_on.wait()
        return [1]

    await service.set("hit", [1])
    here = asyncio.create_task(service.get_or_load("in flight", slow))
    await asyncio.sleep(0)
    assert await elsewhere(lambda: service.get_or_load(name, load)) == [1]
    go_on.set()
    assert await here == [1]


async def test_the_limiter_has_one_line_for_all_threads(stopped):
    limiter = RateLimiter()
    stopped.append(limiter)
    await limiter.enable(RateLimitConfig(20, 1))
    here = [asyncio.create_task(limiter.acquire(1)) for _ in range(3)]
    there = await elsewhere(lambda: limiter.acquire(1))
    assert all(status.allowed for status in [there, *await asyncio.gather(*here)])


async def test_the_optimizer_runs_a_query_for_a_caller_of_another_thread(stopped):
    optimizer = QueryOptimizer()
    stopped.append(optimizer)
    await optimizer.enable()
    go_on = asyncio.Event()

    async def slow(query, params):
        await go_on.wait()
        return [1]

    here = asyncio.create_task(optimizer.execute("SELECT a FROM t", None, slow))
    await asyncio.sleep(0)
    assert await elsewhere(lambda: optimizer.execute("SELECT a FROM t", None, load)) == [1]
    go_on.set()
    assert await here == [1]


BATCH_CALLS = {
    "submit_and_wait": lambda processor: processor.submit_and_wait(1),
    "submit_item": lambda processor: processor.submit_item(1),
    "submit_many": lambda processor: processor.submit_many([1]),
    "get_result": lambda processor: processor.get_result("known"),
    "flush": lambda processor: processor.flush(),
}


@pytest.mark.parametrize("name", BATCH_CALLS)
async def test_the_batch_processor_says_that_it_works_elsewhere(stopped, name):
    processor = BatchProcessor()
    stopped.append(processor)
    await processor.enable(handle, batch_timeout=60.0)
    await processor.submit_item(1, key="known")
    with pytest.raises(MisuseError, match="batch processor works under another event loop, which is running"):
        await elsewhere(lambda: BATCH_CALLS[name](processor))


@pytest.mark.parametrize("loop", ["with a loop", "without a loop"])
async def test_a_handler_that_another_thread_sets_handles_what_waits(stopped, loop):
    processor = BatchProcessor()
    stopped.append(processor)
    await processor.enable(batch_timeout=0.01)
    _, item_id, _ = await processor.submit_item(1)

    def set_handler():
        processor.process_handler = handle

    async def set_under_a_loop():
        set_handler()

    if loop == "with a loop":
        await elsewhere(set_under_a_loop)
    else:
        thread = threading.Thread(target=set_handler)
        thread.start()
        await asyncio.to_thread(thread.join)
    assert await processor.get_result(item_id, timeout=GUARD) == "done"


async def test_outbound_says_that_it_serves_another_thread(stopped):
    outbound = Outbound()
    stopped.append(outbound)
    await outbound.enable(Limits(), broadcast_store="")
    await outbound.call(load, Request("sendMessage", 1))
    with pytest.raises(MisuseError, match="used by an event loop in another thread"):
        await elsewhere(lambda: outbound.call(load, Request("sendMessage", 1)))


async def test_a_pool_says_that_it_belongs_to_another_loop(stopped, tmp_path):
    pools = ConnectionPoolManager()
    stopped.append(pools)
    await pools.create_pool("main", "sqlite", url=f"sqlite:///{tmp_path}/a.db", min_size=1, max_size=1)
    with pytest.raises(MisuseError, match="pool 'main' belongs to another running event loop"):
        await elsewhere(lambda: pools.acquire_connection("main"))


@pytest.fixture
async def busy(stopped):
    """A balancer whose instance "a" handles a request until the event is set; the tasks of the requests."""
    go_on = asyncio.Event()
    begun = asyncio.Event()

    async def handler(instance, data):
        begun.set()
        await go_on.wait()
        return "done"

    balancer = LoadBalancer()
    stopped.append(balancer)
    await balancer.enable(request_handler=handler, check_interval=0)
    await balancer.add_instance("a", "127.0.0.1", 1)
    request = asyncio.create_task(balancer.route_request({}))
    await begun.wait()
    yield balancer, go_on
    go_on.set()
    assert (await request).success


@pytest.mark.parametrize("name", ["remove", "drain", "disable"])
async def test_a_balancers_wait_in_another_thread_ends_with_the_requests(busy, name):
    balancer, go_on = busy
    calls = {
        "remove": lambda: balancer.remove_instance("a", timeout=10 * GUARD),
        "drain": lambda: balancer.drain_instance("a", timeout=10 * GUARD),
        "disable": lambda: balancer.disable(drain_timeout=10 * GUARD),
    }
    waiting = asyncio.create_task(elsewhere(calls[name]))
    while not balancer._waiting:
        await asyncio.sleep(0.001)
    go_on.set()
    assert await waiting is True


async def test_an_instance_that_another_thread_adds_is_checked_here(stopped):
    balancer = LoadBalancer()
    stopped.append(balancer)
    await balancer.enable(check_interval=0.01, failure_threshold=1)
    await elsewhere(lambda: balancer.add_instance("a", "127.0.0.1", 1))
    async with asyncio.timeout(GUARD):
        while balancer.get_instance_by_id("a").state is not InstanceState.UNHEALTHY:
            await asyncio.sleep(0.01)


async def test_every_service_can_be_disabled_from_another_thread(stopped):
    services = [BatchProcessor(), CacheManager(), LoadBalancer(), Outbound(), QueryOptimizer(), RateLimiter()]
    for service in services:
        stopped.append(service)
        await service.enable()
        assert await elsewhere(service.disable) is True
        assert not service.enabled
