"""The cache in one process, without Redis, on virtual time."""

import asyncio
import gc
from collections import OrderedDict

import pytest

from bot.core.cache_manager import CacheManager
from tests.support.loader import Loader


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


async def test_several_tags_at_once(cache):
    for key, tags in (("a", ["x"]), ("b", ["y", "x"]), ("c", ["y"]), ("d", ["z"])):
        await cache.set(key, 1, tags=tags)
    assert await cache.invalidate_tags(["x", "y"]) == 3
    assert await cache.get_many(["a", "b", "c", "d"]) == {"d": 1}
    assert await cache.invalidate_tags([]) == 0
    with pytest.raises(ValueError, match="a sequence of strings"):
        await cache.invalidate_tags("xy")


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
