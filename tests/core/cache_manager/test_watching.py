"""Blocks in which nothing is cached."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from bot.core.cache_manager import CacheManager, LoadOptions, cached
from bot.core.cache_manager.watching import _BYPASS


async def _value(value):
    return value


@pytest.fixture(params=["memory", "lru", pytest.param("redis", marks=pytest.mark.server)])
async def cache(request):
    cache = CacheManager()
    url = request.getfixturevalue("redis_server").url if request.param == "redis" else ""
    await cache.enable(redis_url=url, eviction="lru" if request.param == "lru" else "s3fifo")
    yield cache
    await cache.clear()
    await cache.disable()


async def test_reads_miss_loaders_run_and_nothing_is_stored(cache):
    await cache.set_many({"a": 1, "b": 2})
    await cache.set("n", 3, namespace="names")
    with cache.bypass():
        assert await cache.get("a") is None
        assert await cache.get("a", "default") is None
        assert await cache.get("n", default="absent") == "absent"
        assert cache.get_local("a", default=5) == 5
        assert await cache.get_many(["a", "b"]) == {}
        assert await cache.get_or_load("a", lambda: _value("new")) == "new"
        assert await cache.get_or_load("c", lambda: _value("new"), tags=["t"]) == "new"
        assert not await cache.warm_cache("d", lambda: _value("new"))
        assert not await cache.set("e", 1)
        with pytest.raises(ValueError, match="tags = 't'"):
            await cache.get_or_load("a", lambda: _value("new"), tags="t")
    assert await cache.get_many(list("abcde")) == {"a": 1, "b": 2}
    assert await cache.get("n") == 3
    assert cache.get_local("a") == 1


async def test_what_would_be_replaced_or_dropped_is_dropped(cache):
    await cache.set_many(dict.fromkeys("abcdef", "old"), tags=["t"])
    await cache.set("tagged", 1, tags=["u"])
    with cache.bypass():
        assert not await cache.set("a", "new")
        assert await cache.set_many({"b": "new", "c": "new"}) == 0
        assert await cache.delete("d")
        await cache.invalidate_tag("u")
    assert await cache.get_many([*"abcdef", "tagged"]) == {"e": "old", "f": "old"}


async def test_other_tasks_use_the_cache(cache):
    await cache.set("k", 1)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def admin():
        with cache.bypass():
            entered.set()
            await leave.wait()
            return await cache.get("k")

    task = asyncio.ensure_future(admin())
    await entered.wait()
    assert await cache.get("k") == await cache.get("k", "default") == cache.get_local("k") == 1
    assert await cache.get_or_load("k", lambda: _value(2)) == 1
    assert await cache.get_or_load("l", lambda: _value(2), options=LoadOptions(early_refresh=1)) == 2
    assert await cache.get_many(["k", "l"]) == {"k": 1, "l": 2}
    leave.set()
    assert await task is None


async def test_nested_and_inherited_until_the_block_ends(cache):
    await cache.set("k", 1)
    ended = asyncio.Event()

    async def child():
        during = await cache.get("k")
        await ended.wait()
        return during, await cache.get("k")

    with cache.bypass():
        with cache.bypass():
            task = asyncio.ensure_future(child())
            await asyncio.sleep(0)
        assert await cache.get("k") is None
    ended.set()
    assert await task == (None, 1)
    with pytest.raises(OSError, match="x"), cache.bypass():
        raise OSError("x")
    assert await cache.get("k") == 1
    assert _BYPASS.get() is None


async def test_of_one_cache_only(cache):
    other = CacheManager()
    await other.enable()
    await other.set("k", 1)
    await cache.set("k", 2)
    with other.bypass(), cache.bypass(), other.bypass():
        assert [await cache.get("k"), await other.get("k")] == [None, None]
    with other.bypass():
        assert [await cache.get("k"), await other.get("k")] == [2, None]
    await other.disable()


async def test_a_block_that_ends_in_another_task(cache):
    @asynccontextmanager
    async def block():
        with cache.bypass():
            yield

    await cache.set("k", 1)
    manager = block()
    await asyncio.create_task(manager.__aenter__())
    assert await cache.get("k") == 1, "it began in another task"
    await asyncio.create_task(manager.__aexit__(None, None, None))
    assert await cache.get("k") == 1
    assert cache._bypasses == 0
    assert cache._watched is False


async def test_disabled_and_enabled_within(cache):
    with cache.bypass():
        await cache.disable()
        assert await cache.get_or_load("k", lambda: _value(1)) == 1
        await cache.enable()
        await cache.get_or_load("k", lambda: _value(1))
        assert await cache.get("k") is None
    await cache.get_or_load("k", lambda: _value(2))
    assert await cache.get("k") == 2


async def test_cached_functions():
    cache = CacheManager.get_instance()
    await cache.enable()
    calls = []

    @cached("a")
    async def load(n):
        calls.append(n)
        return n

    @cached("p")
    def plain(n):
        calls.append(n)
        return n

    await load(1)
    plain(1)
    calls.clear()
    with cache.bypass():
        assert [await load(1), await load(1), plain(1), plain(1), plain(2)] == [1, 1, 1, 1, 2]
        assert len(calls) == 5
        await load.refresh(1)
        await plain.refresh(1)
    calls.clear()
    await load(1)
    plain(1)
    plain(2)
    assert calls == [1, 1, 2], "a refresh dropped what it would have replaced"
    await cache.disable()
