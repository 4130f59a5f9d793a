"""Hooks for the cache's events."""

import asyncio
import logging

import pytest

from bot.core.cache_manager import CacheEvent, CacheManager, LoaderTimeoutError, LoadOptions, cached
from bot.core.cache_manager.events import KINDS, MAX_PENDING, Hooks
from tests.support.clock import until_idle


async def _value(value):
    return value


async def _fails():
    raise LookupError("gone")


def listen(cache, *kinds):
    heard = []
    for kind in kinds or KINDS:
        cache.on(kind, lambda event: heard.append((event.kind, event.namespace, event.key)))
    return heard


async def told(heard):
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    now, heard[:] = list(heard), []
    return now


@pytest.mark.parametrize("eviction", ["s3fifo", "lru"])
async def test_reads_writes_and_loads(cache, eviction):
    await cache.enable(eviction=eviction)
    heard = listen(cache)
    await cache.get("k")
    await cache.set("k", 1)
    await cache.get("k")
    await cache.get("k", "default")
    assert cache.get_local("k", "default") == 1
    assert await told(heard) == [
        ("miss", None, "k"), ("set", "default", "k"), ("hit", None, "k"), ("hit", "default", "k"),
        ("hit", "default", "k"),
    ]  # fmt: skip
    await cache.get_many(["k", "l"])
    await cache.set_many({"m": 1, "n": 2}, namespace="names")
    assert await told(heard) == [
        ("hit", "default", "k"), ("miss", "default", "l"), ("set", "names", "m"), ("set", "names", "n"),
    ]  # fmt: skip
    await cache.get_or_load("o", lambda: _value(1))
    await cache.get_or_load("o", lambda: _value(1))
    with pytest.raises(LookupError):
        await cache.get_or_load("p", _fails)
    await cache.warm_cache("q", lambda: _value(1))
    await cache.warm_cache("r", _fails)
    assert await told(heard) == [
        ("miss", "default", "o"), ("load", "default", "o"), ("hit", "default", "o"),
        ("miss", "default", "p"), ("error", "default", "p"), ("load", "default", "q"),
        ("error", "default", "r"),
    ]  # fmt: skip


@pytest.mark.parametrize("eviction", ["s3fifo", "lru"])
async def test_values_are_refreshed_early_while_somebody_listens(cache, clock, eviction):
    await cache.enable(eviction=eviction)
    heard = listen(cache, "hit", "load")
    options = LoadOptions(early_refresh=1.0)

    async def slow():
        clock.jump(2.0)
        return 1

    await cache.get_or_load("k", slow, 100, options=options)
    clock.jump(99.9)
    for _ in range(200):
        await cache.get_or_load("k", slow, 100, options=options)
        await until_idle()
        if heard.count(("load", "default", "k")) > 1:
            break
    assert (await cache.get_statistics())["early_refreshes"] == 1


async def test_what_events_tell(cache):
    heard = []
    for kind in ("invalidate", "load", "error"):
        cache.on(kind, heard.append)
    await cache.delete("k")
    await cache.invalidate_tags(["a", "b"])
    await cache.invalidate_pattern("m:*", "menus")
    await cache.clear("menus")
    await cache.clear()
    with pytest.raises(LookupError):
        await cache.get_or_load("p", _fails)
    await cache.get_or_load("q", lambda: _value(1))
    await asyncio.sleep(0)
    assert heard[:5] == [
        CacheEvent("invalidate", "default", "k"), CacheEvent("invalidate", tags=("a", "b")),
        CacheEvent("invalidate", "menus", pattern="m:*"), CacheEvent("invalidate", "menus", pattern="*"),
        CacheEvent("invalidate", pattern="*"),
    ]  # fmt: skip
    assert isinstance(heard[5].error, LookupError)
    assert heard[6].seconds is not None
    assert heard[6].seconds >= 0


async def test_evictions(cache):
    await cache.enable(l1_max_entries=10)
    heard = listen(cache, "evict")
    for n in range(30):
        await cache.set(f"k{n}", n)
    assert len(await told(heard)) == (await cache.get_statistics())["l1_evictions"] == 20
    await cache.enable(eviction="lru")
    for n in range(12):
        await cache.set(f"k{n}", n)
    assert await told(heard) == [("evict", "default", "k0"), ("evict", "default", "k1")]


async def test_a_load_that_is_given_up(cache, clock):
    real = CacheManager()
    await real.enable(load_timeout=0.01)
    heard = []
    real.on("error", heard.append)
    with pytest.raises(LoaderTimeoutError):
        await real.get_or_load("k", lambda: asyncio.sleep(60))
    await asyncio.sleep(0)
    assert [type(event.error) for event in heard] == [LoaderTimeoutError]
    await real.disable()


async def test_cached_functions_and_what_redis_refuses(redis_server, raw):
    cache = CacheManager.get_instance()
    await cache.enable(redis_url=redis_server.url)
    heard = listen(cache)

    @cached("f")
    async def load(n):
        return n

    @cached("p")
    def plain(n):
        return n

    await load(1)
    await load(1)
    plain(1)
    plain(1)
    assert await told(heard) == [
        ("miss", "default", "f:1"), ("load", "default", "f:1"), ("hit", "default", "f:1"),
        ("load", "default", "p:1"), ("hit", "default", "p:1"),
    ]  # fmt: skip
    await raw.execute("SET", "p4c:v:default:list", "x")
    await raw.execute("DEL", "p4c:v:default:list")
    await raw.execute("LPUSH", "p4c:v:default:list", "x")
    await cache.get("list", "default")
    assert [kind for kind, *_ in await told(heard)][-1] == "miss"
    await cache.disable()


async def test_one_that_ends_is_called_no_more_and_costs_nothing(cache):
    heard = []
    ends = [cache.on(kind, heard.append) for kind in KINDS]
    assert cache._watched
    for end in ends:
        end()
        end()
    await cache.set("k", 1)
    assert await cache.get("k") == 1
    await asyncio.sleep(0)
    assert heard == []
    assert not cache._watched
    assert not cache._observed
    assert cache._spaces is cache._tiers.spaces
    assert cache._tiers.local.l1.store.on_evict is None


async def test_one_that_raises_is_contained_and_logged_once(cache, caplog):
    heard = []

    def broken(event):
        raise ValueError("of the callback")

    cache.on("set", broken)
    cache.on("set", lambda event: _fails())
    cache.on("set", heard.append)
    for n in range(5):
        assert await cache.set(f"k{n}", n)
        await asyncio.sleep(0)
    assert len(heard) == 5
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(messages) == 2
    assert "event set failed (this is logged once)" in messages[0]
    assert "ValueError: of the callback" in messages[0]
    assert "it returned a coroutine, which is not awaited" in messages[1]


async def test_a_callback_may_use_the_cache_and_is_part_of_no_load_and_no_bypass(cache):
    seen, tasks = [], []

    def on_load(event):
        seen.append(cache.get_local("k", default="absent"))
        tasks.append(asyncio.ensure_future(cache.delete("k")))

    cache.on("load", on_load)
    cache.on("hit", lambda event: seen.append(cache.get_local("k")))
    await cache.get_or_load("k", lambda: _value(1))
    await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert seen == [1]
    await cache.set("k", 2)
    with cache.bypass():
        await cache.get_or_load("other", lambda: _value(1))
        assert await cache.get("k") is None
    await cache.get("k")
    await asyncio.sleep(0)
    assert seen == [1, 2], "what a callback reads is no event"


def test_under_one_event_loop_after_another_and_under_none():
    hooks = Hooks(lambda: None)
    heard = []
    hooks.on("hit", lambda event: heard.append(event.key))

    async def tell(key):
        hooks.tell("hit", "default", key)

    async def tell_and_wait(key):
        await tell(key)
        await asyncio.sleep(0)

    asyncio.run(tell("a"))
    hooks.tell("hit", "default", "b")
    asyncio.run(tell_and_wait("c"))
    assert heard == ["a", "b", "c"]
    for n in range(MAX_PENDING + 5):
        hooks.tell("hit", "default", str(n))
    assert len(hooks._pending) == MAX_PENDING


async def _awaited(event):
    pass


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("hits", print), ValueError, "event = 'hits': expected one of hit, miss, set"),
        (([], print), ValueError, r"event = \[\]"),
        (("hit", None), ValueError, "callback = None: expected a function"),
        (("hit", _awaited), TypeError, "expected a plain function, which may start a task"),
    ],
)
def test_misuse_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        CacheManager().on(*arguments)
