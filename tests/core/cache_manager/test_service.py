"""The cache in one process, without Redis, on virtual time."""

import asyncio
import contextlib
import gc
from collections import OrderedDict

import pytest

from bot.core.cache_manager import CacheManager, LoaderTimeoutError, LoadOptions
from tests.support.clock import until_idle


class Loader:
    """Counts its runs and waits for the test."""

    def __init__(self, value="loaded"):
        self.runs = 0
        self.value = value
        self.error = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0

    async def __call__(self):
        self.runs += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return self.value


@pytest.fixture
async def cache(clock):
    cache = CacheManager(clock=clock)
    await cache.enable()
    yield cache
    cache._tiers.local.l1.check_invariants()
    await cache.disable()


async def test_set_get_delete(cache):
    assert await cache.get("k") is None
    assert await cache.set("k", {"a": [1]}) is True
    assert await cache.get("k") == {"a": [1]}
    assert cache.get_local("k") == {"a": [1]}
    assert await cache.delete("k") is True
    assert await cache.delete("k") is False
    assert await cache.get("k", default="none") == "none"


async def test_namespaces_isolate_and_a_get_without_one_looks_into_those_used(cache):
    await cache.set("k", "of users", namespace="users")
    await cache.set("k", "of files", namespace="files")
    assert await cache.get("k") == "of users", "the first one used"
    assert await cache.get("k", namespace="files") == "of files"
    assert await cache.get("k", namespace="default") is None
    await cache.set("k", "of default")
    assert await cache.get("k") == "of default"
    assert cache.get_local("k", "files") == "of files"


async def test_entries_expire(cache, clock):
    await cache.set("k", 1, ttl=10)
    await cache.set("d", 1)
    clock.jump(9.99)
    assert await cache.get("k") == 1
    clock.jump(0.01)
    assert await cache.get("k") is None
    clock.jump(289.99)
    assert await cache.get("d") == 1
    clock.jump(0.01)
    assert await cache.get("d") is None


async def test_nobody_can_change_what_another_gets(cache):
    value = {"list": [1, 2], "nested": {"set": {1}}}
    await cache.set("k", value)
    value["list"].append("after set")
    for _ in range(2):
        got = await cache.get("k")
        assert got == {"list": [1, 2], "nested": {"set": {1}}}
        got["list"].append("changed")
        got["nested"]["set"].add("changed")
    got = await cache.get_or_load("l", Loader([1]))
    got.append(2)
    assert await cache.get("l") == [1]


@pytest.mark.parametrize("value", [None, 0, "", [], {}, False])
async def test_falsy_values_are_values(cache, value):
    loader = Loader(value)
    for _ in range(3):
        assert await cache.get_or_load("k", loader) == value
    assert loader.runs == 1
    assert await cache.get("k", default="absent") == value


async def test_many_at_once(cache):
    assert await cache.set_many({"a": 1, "b": 2, "c": 3}, namespace="n", tags=["t"]) == 3
    assert await cache.get_many(["c", "x", "a"], namespace="n") == {"c": 3, "a": 1}
    assert await cache.get_many([]) == {}
    assert await cache.invalidate_tag("t") == 3


async def test_tags(cache):
    await cache.set("a", 1, tags=["x", "y"])
    await cache.set("b", 2, namespace="n", tags=["x"])
    await cache.set("c", 3, tags=["y"])
    assert await cache.invalidate_tag("x") == 2
    assert await cache.get_many(["a", "c"]) == {"c": 3}
    assert await cache.invalidate_tag("x") == 0
    with pytest.raises(ValueError, match="tags = 'x': expected a sequence"):
        await cache.set("a", 1, tags="x")


async def test_patterns_stay_in_their_namespace(cache):
    for key in ("user:1", "user:2", "other"):
        await cache.set(key, 1)
        await cache.set(key, 1, namespace="n")
    assert await cache.invalidate_pattern("user:*") == 2
    assert await cache.get_many(["user:1", "user:2", "other"], "n") == {"user:1": 1, "user:2": 1, "other": 1}
    assert await cache.get_many(["user:1", "other"]) == {"other": 1}
    assert await cache.clear("n") == 3
    assert await cache.clear() == 1


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


async def test_several_tags_at_once(cache):
    for key, tags in (("a", ["x"]), ("b", ["y", "x"]), ("c", ["y"]), ("d", ["z"])):
        await cache.set(key, 1, tags=tags)
    assert await cache.invalidate_tags(["x", "y"]) == 3
    assert await cache.get_many(["a", "b", "c", "d"]) == {"d": 1}
    assert await cache.invalidate_tags([]) == 0
    with pytest.raises(ValueError, match="a sequence of strings"):
        await cache.invalidate_tags("xy")


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


async def test_l1_is_bounded_in_bytes_and_entries(cache):
    await cache.enable(l1_max_size_mb=0.5, l1_max_entries=10_000)
    for n in range(2_000):
        await cache.set(f"k{n}", "x" * (n % 2_000))
    figures = await cache.get_statistics()
    assert figures["l1_memory_mb"] <= 0.5
    assert figures["l1_evictions"] > 0
    assert await cache.set("large", "x" * 600_000) is False
    await cache.enable(l1_max_entries=10)
    assert (await cache.get_statistics())["l1_entries"] <= 10


async def test_off_holds_nothing_and_passes_through(cache):
    await cache.set("k", 1)
    await cache.disable()
    loader = Loader()
    assert await cache.get("k") is None
    assert cache.get_local("k") is None
    assert await cache.set("k", 1) is False
    assert await cache.set_many({"k": 1}) == 0
    assert await cache.get_many(["k"]) == {}
    assert await cache.delete("k") is False
    assert await cache.invalidate_pattern("*") == await cache.invalidate_tag("t") == await cache.clear() == 0
    assert await cache.warm_cache("k", loader) is False
    assert [await cache.get_or_load("k", loader) for _ in range(2)] == ["loaded"] * 2
    assert loader.runs == 2
    await cache.enable()
    assert await cache.get("k") is None


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


async def test_figures(cache):
    await cache.set("k", 1)
    for _ in range(3):
        await cache.get("k")
    await cache.get("x")
    figures = await cache.get_statistics()
    assert (figures["l1_hits"], figures["l1_misses"], figures["l1_hit_rate_percent"]) == (3, 1, 75.0)
    assert (figures["total_hits"], figures["total_misses"], figures["hit_rate"]) == (3, 1, 75.0)
    assert (figures["l1_entries"], figures["l2_connected"], figures["degraded"]) == (1, False, False)
    await cache.reset()
    figures = await cache.get_statistics()
    assert (figures["l1_hits"], figures["l1_entries"]) == (0, 0)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda c: c.set("", 1), "key = ''"),
        (lambda c: c.set("k", 1, ttl=0), "ttl = 0"),
        (lambda c: c.set("k", 1, ttl=float("nan")), "ttl = nan"),
        (lambda c: c.set("k", 1, ttl="5"), "ttl = '5'"),
        (lambda c: c.set("k", 1, namespace=""), "namespace = ''"),
        (lambda c: c.invalidate_pattern(""), "pattern = ''"),
        (lambda c: c.enable(l1_max_size_mb=0), "l1_max_size_mb = 0"),
        (lambda c: c.enable(l1_max_entries=1.5), "l1_max_entries = 1.5"),
        (lambda c: c.enable(redis_url="http://x:secret@y"), r"redis url = 'http://\*\*\*@y'"),
    ],
)
async def test_misuse_is_named(cache, call, word):
    with pytest.raises(ValueError, match=word):
        await call(cache)


@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "1"])
async def test_a_bad_interval_is_named(cache, value):
    async def loader():
        return 1

    with pytest.raises(ValueError, match=r"^interval = "):
        await cache.warm_cache("k", loader, interval=value)


@pytest.mark.parametrize("call", [lambda c: c.get(5), lambda c: c.set(None, 1), lambda c: c.delete(b"k")])
async def test_what_is_no_key_is_a_type_error(cache, call):
    with pytest.raises(TypeError, match="expected a string"):
        await call(cache)


async def test_a_value_that_cannot_be_copied_is_refused(cache):
    with pytest.raises(TypeError, match="a value of type generator cannot be copied"):
        await cache.set("k", (n for n in range(3)))


@pytest.mark.parametrize("key", ["message:" + "x" * 4096, "message:\ud83d", "message:" + "ё\udcff" * 4096])
@pytest.mark.parametrize("eviction", ["s3fifo", "lru"])
async def test_any_text_is_a_key(cache, key, eviction):
    await cache.enable(eviction=eviction)
    loader = Loader([1])
    assert await cache.get_or_load(key, loader, namespace="n") == [1]
    assert await cache.get_or_load(key, loader, namespace="n") == [1]
    assert loader.runs == 1
    assert await cache.get(key) == await cache.get(key, "n") == cache.get_local(key, "n") == [1]
    assert cache.get_local(key) == [1]
    assert await cache.get(key + "!") is None
    assert await cache.set_many({key: 1, key + "!": 2}) == 2
    assert await cache.get_many([key, key + "!", "other"]) == {key: 1, key + "!": 2}
    assert await cache.delete(key)
    assert await cache.get(key, "default") is None
    assert await cache.invalidate_pattern("message:*", namespace="n") == 1
    await cache.set(key, 1, tags=[key])
    assert await cache.invalidate_tag(key) == 1


async def test_a_loaded_value_that_cannot_be_copied_is_answered_and_said_once(cache, caplog):
    async def loader():
        return (n for n in range(3))

    for _ in range(3):
        assert list(await cache.get_or_load("k", loader)) == [0, 1, 2]
    [line] = caplog.messages
    assert (
        "What the loader of 'k' returns is not cached: TypeError: a value of type generator cannot be copied"
        in line
    )


async def test_an_object_that_points_back_is_cached_with_its_graph(cache):
    class User:
        pass

    user, post = User(), User()
    user.posts, post.user = [post] * 100, user
    assert await cache.set("user", user)
    got = await cache.get("user")
    assert got is not user
    assert got.posts[99].user is got


async def test_l1_is_bounded_whatever_the_values_are(cache):
    await cache.enable(l1_max_size_mb=1)
    for n in range(50):
        await cache.set(f"k{n}", OrderedDict(text=str(n % 10) * 100_000))
    statistics = await cache.get_statistics()
    assert 5 < statistics["l1_entries"] < 12
    assert 0.5 < statistics["l1_memory_mb"] <= 1


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


def test_on_under_one_loop_and_off_under_another():
    cache = CacheManager()

    async def use():
        await cache.enable()
        await cache.warm_cache("k", Loader("v"), interval=60)
        return await cache.get("k")

    assert asyncio.run(use()) == "v"
    assert asyncio.run(use()) == "v"
    assert asyncio.run(cache.disable())
    gc.collect()


async def test_a_million_strangers_do_not_make_namespaces_pile_up(cache):
    await cache.enable(l1_max_entries=100)
    for n in range(2_000):
        await cache.set("k", n, namespace=f"stranger {n}")
    assert len(cache._tiers.local.l1.store.spaces) <= 101
    assert len(cache._used) <= 64


async def test_lru_is_an_option(cache):
    await cache.enable(eviction="lru", l1_max_entries=3)
    for key in "abc":
        await cache.set(key, key)
    assert await cache.get("a") == "a"
    assert cache.get_local("b", "default") == "b"
    await cache.set("d", "d")
    assert await cache.get_many("abcd") == {"a": "a", "b": "b", "d": "d"}
    loader = Loader("loaded")
    assert [await cache.get_or_load("x", loader) for _ in range(3)] == ["loaded"] * 3
    assert loader.runs == 1
    with pytest.raises(ValueError, match="eviction = 'fifo'"):
        await cache.enable(eviction="fifo")


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
