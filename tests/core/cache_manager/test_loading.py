"""Loads: one for any number of callers, stale values, timeouts, and what is kept of what was loaded."""

import asyncio
import contextlib

import pytest

from bot.core.cache_manager import CacheManager, CircularLoadError, LoaderTimeoutError, LoadOptions
from bot.core.cache_manager.keys import redis_key
from tests.support.clock import until_idle
from tests.support.loader import Loader
from tests.support.waiting import equals, until


async def test_a_thousand_concurrent_misses_are_one_load(cache):
    loader = Loader({"x": 1})
    loader.gate.clear()
    tasks = [asyncio.ensure_future(cache.get_or_load("k", loader)) for _ in range(1000)]
    await until_idle()
    for task in tasks[:200]:
        task.cancel()
    await until_idle()
    loader.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert loader.runs == 1
    assert sum(isinstance(r, asyncio.CancelledError) for r in results[:200]) == 200
    assert results[200:] == [{"x": 1}] * 800
    assert len({id(r) for r in results[200:]}) == 800


async def test_a_load_that_nobody_waits_for_is_cancelled(cache):
    loader = Loader()
    loader.gate.clear()
    task = asyncio.ensure_future(cache.get_or_load("k", loader))
    await until_idle()
    task.cancel()
    await until_idle()
    assert loader.cancelled == 1
    loader.gate.set()
    assert await cache.get_or_load("k", loader) == "loaded"


async def test_an_error_reaches_every_waiter_and_is_not_cached(cache):
    loader = Loader()
    loader.error = KeyError("reason")
    outcomes = await asyncio.gather(
        *[cache.get_or_load("k", loader) for _ in range(5)], return_exceptions=True
    )
    assert [type(error) for error in outcomes] == [KeyError] * 5
    assert loader.runs == 1
    loader.error = None
    assert await cache.get_or_load("k", loader) == "loaded"


@pytest.mark.parametrize("change", ["set", "delete", "pattern", "tag", "clear"])
async def test_a_value_that_was_changed_while_it_loaded_is_not_cached(cache, change):
    loader = Loader("old")
    loader.gate.clear()
    task = asyncio.ensure_future(cache.get_or_load("k", loader, tags=("any",)))
    await until_idle()
    if change == "set":
        await cache.set("k", "new")
    elif change == "delete":
        await cache.delete("k")
    elif change == "pattern":
        await cache.invalidate_pattern("k*")
    elif change == "tag":
        await cache.invalidate_tag("any")
    else:
        await cache.clear()
    loader.gate.set()
    assert await task == "old"
    assert await cache.get("k") == ("new" if change == "set" else None)


async def test_dropping_a_tag_that_a_load_does_not_carry_leaves_its_value_cached(cache):
    loader = Loader("value")
    loader.gate.clear()
    task = asyncio.ensure_future(cache.get_or_load("k", loader, tags=("mine",)))
    await until_idle()
    await cache.invalidate_tags(["another", "and another"])
    loader.gate.set()
    assert await task == "value"
    assert await cache.get("k") == "value"


async def test_tags_that_only_the_loaded_value_can_tell(cache):
    async def loader():
        return {"owner": 7}

    def tags(value):
        return (f"owner:{value['owner']}",)

    await cache.get_or_load("k", loader, tags=tags)
    assert await cache.invalidate_tag("owner:8") == 0
    assert await cache.invalidate_tag("owner:7") == 1
    with pytest.raises(ValueError, match="tags = 'one': expected a sequence"):
        await cache.get_or_load("k", loader, tags=lambda value: "one")


async def test_a_value_is_not_cached_if_a_tag_it_turns_out_to_carry_was_dropped_while_it_loaded(cache):
    gate = asyncio.Event()

    async def loader():
        await gate.wait()
        return "mine"

    task = asyncio.ensure_future(cache.get_or_load("k", loader, tags=lambda value: (value,)))
    await until_idle()
    await cache.invalidate_tags(["mine"])
    gate.set()
    assert await task == "mine"
    assert await cache.get("k") is None


async def test_a_stale_value_is_served_when_the_loader_fails(cache, clock, caplog):
    options = LoadOptions(stale_ttl=60)
    loader = Loader(["good"])
    await cache.get_or_load("k", loader, 10, options=options)
    clock.jump(10)
    loader.error = ConnectionError("database is down")
    for _ in range(3):
        assert await cache.get_or_load("k", loader, 10, options=options) == ["good"]
    assert loader.runs == 4
    figures = await cache.get_statistics()
    assert (figures["stale_served"], figures["load_failures"]) == (3, 3)
    assert "database is down" in caplog.text
    assert await cache.get("k") is None, "a plain get gives nothing stale"
    clock.jump(60)
    with pytest.raises(ConnectionError):
        await cache.get_or_load("k", loader, 10, options=options)


async def test_a_slow_loader_is_not_waited_for_when_there_is_a_stale_value(cache, clock):
    options = LoadOptions(stale_ttl=60, soft_timeout=0.01)
    loader = Loader("first")
    assert await cache.get_or_load("k", loader, 10, options=options) == "first"
    clock.jump(10)
    loader.value = "second"
    loader.gate.clear()
    assert await cache.get_or_load("k", loader, 10, options=options) == "first"
    loader.gate.set()
    await until_idle()
    assert await cache.get("k") == "second", "the load went on"


async def test_a_load_that_outlasts_a_time_off_is_neither_kept_nor_joined(cache):
    old, new = Loader("old"), Loader("new")
    old.gate.clear()
    before = asyncio.ensure_future(cache.get_or_load("k", old))
    await until_idle()
    await cache.disable()
    await cache.delete("k")  # the value changes, and a cache that is off does not hear of it
    await cache.enable()
    after = asyncio.ensure_future(cache.get_or_load("k", new))
    await until_idle()
    assert after.done(), "it does not wait for the load from before"
    assert await after == "new"
    await cache.delete("k")
    await cache.disable()
    await cache.enable()
    old.gate.set()
    assert await before == "old"
    assert await cache.get("k") is None


async def test_a_stop_does_not_cancel_who_has_a_stale_value_to_fall_back_on(cache, clock):
    options = LoadOptions(stale_ttl=60, soft_timeout=30)
    loader = Loader("first")
    await cache.get_or_load("k", loader, 10, options=options)
    clock.jump(10)
    loader.gate.clear()
    read = asyncio.ensure_future(cache.get_or_load("k", loader, 10, options=options))
    await until_idle()
    await cache.disable()
    assert await read == "first"


async def test_a_loader_that_hangs_is_cancelled_at_the_hard_timeout(cache):
    loader = Loader()
    loader.gate.clear()
    with pytest.raises(LoaderTimeoutError, match=r"loader of 'k' took longer than 0\.01 s"):
        await cache.get_or_load("k", loader, options=LoadOptions(hard_timeout=0.01))
    assert loader.cancelled == 1


async def test_a_loaders_own_timeout_is_its_own(cache):
    loader = Loader()
    loader.error = TimeoutError("the database's")
    with pytest.raises(TimeoutError, match="the database's"):
        await cache.get_or_load("k", loader, options=LoadOptions(hard_timeout=5))


async def test_what_is_cached_can_depend_on_the_value(cache, clock):
    empty = Loader(None)
    await cache.get_or_load("a", empty, 100, options=LoadOptions(negative_ttl=5))
    clock.jump(5)
    await cache.get_or_load("a", empty, 100, options=LoadOptions(negative_ttl=0))
    await cache.get_or_load("a", empty, 100, options=LoadOptions(negative_ttl=0))
    assert empty.runs == 3
    picky = Loader([])
    for _ in range(2):
        await cache.get_or_load("b", picky, options=LoadOptions(cache_if=bool))
    assert picky.runs == 2


async def test_early_refresh_replaces_a_value_before_it_expires(cache, clock):
    options = LoadOptions(early_refresh=1.0)
    runs = []

    async def slow():
        runs.append(clock.monotonic())
        clock.jump(2.0)  # the load takes two seconds
        return len(runs)

    assert await cache.get_or_load("k", slow, 100, options=options) == 1
    clock.jump(50)
    for _ in range(100):
        assert await cache.get_or_load("k", slow, 100, options=options) == 1
    assert len(runs) == 1, "far from the end nobody refreshes"
    clock.jump(49.9)
    for _ in range(200):
        await cache.get_or_load("k", slow, 100, options=options)
        await until_idle()
        if len(runs) > 1:
            break
    assert len(runs) == 2
    assert await cache.get("k") == 2
    assert (await cache.get_statistics())["early_refreshes"] == 1


async def test_jitter_shortens_a_ttl_and_never_lengthens_it(cache, clock):
    for n in range(100):
        await cache.get_or_load(f"k{n}", Loader(n), 100, options=LoadOptions(ttl_jitter=50))
    clock.jump(50)
    assert len(await cache.get_many([f"k{n}" for n in range(100)])) == 100
    clock.jump(25)
    assert 10 < len(await cache.get_many([f"k{n}" for n in range(100)])) < 90
    clock.jump(25)
    assert await cache.get_many([f"k{n}" for n in range(100)]) == {}


async def test_a_loaded_value_that_cannot_be_copied_is_answered_and_said_once(cache, caplog):
    async def loader():
        return (n for n in range(3))

    for _ in range(3):
        assert list(await cache.get_or_load("k", loader)) == [0, 1, 2]
    [line] = caplog.messages
    assert (
        "The value from the loader of 'k' is not cached: TypeError: a value of type generator cannot be"
        in line
    )


@pytest.mark.parametrize(
    "options",
    [
        {"stale_ttl": -1},
        {"ttl_jitter": 101},
        {"soft_timeout": float("nan")},
        {"cache_if": 5},
        {"negative_ttl": "1"},
    ],
)
def test_bad_options_are_named(options):
    [name] = options
    with pytest.raises(ValueError, match=f"{name} = "):
        LoadOptions(**options)


async def test_a_load_that_hangs_lets_its_callers_go_and_the_next_starts_anew():
    cache = CacheManager()
    await cache.enable(load_timeout=0.05)
    end = asyncio.Event()

    async def hang():
        while not end.is_set():  # it takes no notice of being cancelled
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()
        return "late"

    async def load():
        return "new"

    waiting = [asyncio.ensure_future(cache.get_or_load("k", hang)) for _ in range(3)]
    for waiter in waiting:
        with pytest.raises(LoaderTimeoutError, match=r"loading .k. took longer than 0\.05 s"):
            await waiter
    await cache.enable(load_timeout=0)
    assert await cache.get_or_load("k", load) == "new"
    end.set()
    await asyncio.sleep(0)
    assert await cache.get("k") == "new", "what comes too late is not kept"
    await cache.disable()


@pytest.mark.parametrize("value", [-1, True, "1", float("nan")])
async def test_a_load_timeout_that_is_none_is_named(value):
    with pytest.raises(ValueError, match="load_timeout = "):
        await CacheManager().enable(load_timeout=value)


async def test_instances_that_load_the_same_key_at_once_leave_one_value_in_redis(pair, raw):
    loads = []

    async def load():
        loads.append(1)
        await asyncio.sleep(0.01)
        return "v"

    for n in range(20):
        await asyncio.gather(*[cache.get_or_load(f"k{n}", load) for cache in pair])
        assert await raw.execute("EXISTS", redis_key("default", f"k{n}")) == 1
    assert len(loads) <= 40


STALE = LoadOptions(stale_ttl=3600)


async def good():
    return "good"


async def fail():
    raise RuntimeError("down")


async def test_a_stale_value_is_there_after_a_restart(redis_server):
    before = CacheManager()
    await before.enable(redis_url=redis_server.url)
    await before.get_or_load("k", good, 0.05, options=STALE)
    await before.disable()
    after = CacheManager()
    await after.enable(redis_url=redis_server.url)
    await until(lambda: equals(lambda: after.get("k"), None))
    assert await after.get_or_load("k", fail, 0.05, options=STALE) == "good"
    with pytest.raises(RuntimeError):
        await after.get_or_load("k", fail, 0.05)
    await after.disable()


async def test_a_stale_value_is_there_after_another_instance_reloaded(pair):
    a, b = pair
    await a.get_or_load("k", good, 0.05, options=STALE)
    await until(lambda: equals(lambda: b.get("k"), None))
    await b.get_or_load("k", good, 0.05, options=STALE)  # a drops its own
    await until(lambda: equals(lambda: a.get("k"), None))
    assert await a.get_or_load("k", fail, 0.05, options=STALE) == "good"


@pytest.mark.parametrize("change", ["delete", "set", "tag", "pattern", "clear"])
@pytest.mark.parametrize("many", [False, True])
async def test_who_changed_something_joins_no_load_from_before_the_change(cache, change, many):
    source, gate, reading = ["old"], asyncio.Event(), asyncio.Event()

    async def load(keys=None):
        value = source[0]
        reading.set()
        if value == "old":
            await gate.wait()
        return value if keys is None else dict.fromkeys(keys, value)

    async def read():
        if many:
            return (await cache.get_or_load_many(["k"], load, tags=["t"]))["k"]
        return await cache.get_or_load("k", load, tags=["t"])

    early = asyncio.ensure_future(read())
    await reading.wait()
    joined = asyncio.ensure_future(read())
    await until_idle()
    source[0] = "new"
    if change == "set":
        await cache.set("other", 1)
        await cache.set("k", "set")
        await cache.delete("k")
    elif change == "delete":
        await cache.delete("k")
    elif change == "tag":
        await cache.invalidate_tag("t")
    elif change == "pattern":
        await cache.invalidate_pattern("k*")
    else:
        await cache.clear()
    assert await asyncio.wait_for(read(), 30) == "new"
    gate.set()
    assert [await early, await joined] == ["old", "old"]
    assert await cache.get("k") == "new"
    assert not cache._loads.begun
    assert not len(cache._loads.flights)


async def test_a_change_of_something_else_lets_callers_join(cache):
    gate = asyncio.Event()
    runs = []

    async def load():
        runs.append(1)
        await gate.wait()
        return 1

    first = asyncio.ensure_future(cache.get_or_load("k", load, tags=["t"]))
    await until_idle()
    await cache.set("other", 1)
    await cache.invalidate_tag("u")
    second = asyncio.ensure_future(cache.get_or_load("k", load, tags=["t"]))
    await until_idle()
    gate.set()
    assert [await first, await second, len(runs)] == [1, 1, 1]


async def test_a_loader_that_drops_and_asks_for_its_own_key_ends(cache):
    async def load():
        await cache.delete("k")
        return await cache.get_or_load("k", load)

    with pytest.raises((RecursionError, CircularLoadError)):
        await cache.get_or_load("k", load)
