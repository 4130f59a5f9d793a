"""Keys that are loaded again and again."""

import asyncio

import pytest

from bot.core.cache_manager import CacheManager
from tests.support.loader import Loader
from tests.support.waiting import until


async def test_warming(cache, clock):
    loader = Loader("v1")
    assert await cache.warm_cache("k", loader, ttl=3600, interval=600, namespace="w") is True
    assert await cache.get("k", namespace="w") == "v1"
    loader.value = "v2"
    await clock.advance(600)
    assert await cache.get("k", namespace="w") == "v2"
    loader.error = RuntimeError("for once")
    await clock.advance(600)
    loader.error = None
    loader.value = "v3"
    await clock.advance(600)
    assert await cache.get("k", namespace="w") == "v3", "a failed turn is not the last one"
    assert (await cache.get_statistics())["warming_tasks"] == 1
    assert cache.stop_warming("k", "w")
    assert not cache.stop_warming("k", "w")
    runs = loader.runs
    await clock.advance(3600)
    assert loader.runs == runs


async def test_a_first_warming_that_fails_says_so_and_is_tried_again(cache, clock):
    loader = Loader("v")
    loader.error = RuntimeError("not yet")
    assert await cache.warm_cache("k", loader, interval=60) is False
    loader.error = None
    await clock.advance(60)
    assert await cache.get("k") == "v"
    await cache.enable(warming=False)
    assert await cache.warm_cache("once", loader, interval=60) is True
    assert (await cache.get_statistics())["warming_tasks"] == 0
    await cache.enable(warming=True)
    assert (await cache.get_statistics())["warming_tasks"] == 1, "the first goes on"


async def test_warming_that_hangs_is_given_up_and_tried_again(cache, clock, caplog):
    hanging, cancelled = asyncio.Event(), []

    async def hang():
        hanging.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    assert await cache.warm_cache("k", hang, interval=60, timeout=0.01) is False
    assert cancelled == [1]
    assert "took longer than 0.01 s" in caplog.text
    assert (await cache.get_statistics())["warming_tasks"] == 1


async def test_a_warming_that_is_under_way_when_the_cache_goes_off_leaves_nothing_in_it(cache):
    loading, go_on = asyncio.Event(), asyncio.Event()

    async def load():
        loading.set()
        await go_on.wait()
        return "v"

    task = asyncio.ensure_future(cache.warm_cache("k", load))
    await loading.wait()
    await cache.disable()
    go_on.set()
    await task
    figures = await cache.get_statistics()
    assert (figures["l1_entries"], figures["warming_tasks"]) == (0, 0)
    await cache.enable()
    assert await cache.get("k") is None


@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "1"])
async def test_a_bad_interval_is_named(cache, value):
    async def loader():
        return 1

    with pytest.raises(ValueError, match=r"^interval = "):
        await cache.warm_cache("k", loader, interval=value)


async def test_warming_goes_on_when_redis_is_switched_off(redis_server):
    cache = CacheManager()
    await cache.enable(redis_url=redis_server.url)
    loads = []

    async def load():
        loads.append(1)

    await cache.warm_cache("k", load, interval=0.01)
    await cache.enable(redis_url="")
    assert (await cache.get_statistics())["warming_tasks"] == 1
    before = len(loads)

    async def again():
        return len(loads) > before

    await until(again)
    await cache.disable()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_warming_goes_on_under_a_second_event_loop():
    cache = CacheManager()
    loads = []

    async def load():
        loads.append(1)

    async def first():
        await cache.enable()
        await cache.warm_cache("k", load, interval=0.01)

    async def second():
        await cache.enable()
        before = len(loads)
        while len(loads) == before:
            await asyncio.sleep(0.005)
        await cache.disable()

    asyncio.run(first())
    asyncio.run(asyncio.wait_for(second(), 10))
