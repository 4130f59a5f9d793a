"""Whatever await of the load balancer is cancelled, nothing stays counted, waiting or running."""

import asyncio

import pytest

from bot.core.load_balancer import LoadBalancer
from bot.core.load_balancer.router import HEDGE_MIN_SAMPLES
from tests.support.clock import until_idle


@pytest.fixture
async def balancer():
    lb = LoadBalancer()
    await lb.enable(check_interval=0, slow_start=0, hedging=True)
    for name in "abc":
        await lb.add_instance(name, "127.0.0.1", 1)
    yield lb
    lb.check_invariants()
    assert [instance.in_flight for instance in lb.instances] == [0] * len(lb.instances)
    assert lb._router.idle
    assert await lb.disable()
    assert lb._waiting == []


async def cancel(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_within_the_handler(balancer):
    async def hang(instance, data):
        await asyncio.Event().wait()

    balancer.request_handler = hang
    task = asyncio.ensure_future(balancer.route_request(1))
    await until_idle()
    await cancel(task)
    figures = await balancer.get_statistics()
    assert figures["failed_requests"] == 0, "that a caller left is no failure"
    assert all(i["failed_requests"] == 0 for i in figures["instances"].values())


async def test_by_a_timeout_of_the_callers_own(balancer):
    async def hang(instance, data):
        await asyncio.Event().wait()

    balancer.request_handler = hang
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await balancer.route_request(1)


async def test_during_a_failover(balancer):
    first = []

    async def fail_then_hang(instance, data):
        if not first:
            first.append(instance.id)
            raise RuntimeError
        await asyncio.Event().wait()

    balancer.request_handler = fail_then_hang
    task = asyncio.ensure_future(balancer.route_request(1))
    await until_idle()
    assert len(first) == 1
    await cancel(task)


@pytest.mark.parametrize("hedges", [1, 2])
async def test_while_hedged(balancer, hedges):
    async def echo(instance, data):
        await asyncio.sleep(0 if hedges == 2 else 0.005)
        return data

    balancer.request_handler = echo
    for _ in range(HEDGE_MIN_SAMPLES):
        await balancer.route_request(1)
    running = []

    async def hang(instance, data):
        running.append(instance.id)
        try:
            await asyncio.Event().wait()
        finally:
            running.remove(instance.id)

    balancer.request_handler = hang
    task = asyncio.ensure_future(balancer.route_request(1, idempotent=True))
    while len(running) < hedges:
        await asyncio.sleep(0)
    await cancel(task)
    await until_idle()
    assert running == []


async def test_while_removing(balancer):
    release = asyncio.Event()

    async def wait(instance, data):
        await release.wait()
        return instance.id

    balancer.request_handler = wait
    requests = [asyncio.ensure_future(balancer.route_request(n)) for n in range(3)]
    await until_idle()
    removing = asyncio.ensure_future(balancer.remove_instance("a"))
    await until_idle()
    await cancel(removing)
    release.set()
    assert {(await request).result for request in requests} == {"a", "b", "c"}
    assert balancer.get_instance_by_id("a") is None, "it left when it was idle"


async def test_while_disabling(balancer):
    release = asyncio.Event()

    async def wait(instance, data):
        await release.wait()

    balancer.request_handler = wait
    request = asyncio.ensure_future(balancer.route_request(1))
    await until_idle()
    stopping = asyncio.ensure_future(balancer.disable())
    await until_idle()
    await cancel(stopping)
    assert not balancer.enabled
    release.set()
    await request


async def test_a_probe(balancer):
    probed = asyncio.Event()

    async def hang(instance):
        probed.set()
        await asyncio.Event().wait()

    await balancer.enable(health_check=hang, check_interval=0.001, check_timeout=60)
    await probed.wait()
    assert await balancer.disable()
    assert asyncio.all_tasks() == {asyncio.current_task()}
