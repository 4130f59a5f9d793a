"""Changes of other instances, and messages that no instance sends."""

import asyncio

import msgspec
import pytest

from bot.core.cache_manager import CacheManager
from tests.support.proxy import Proxy
from tests.support.waiting import equals, until


@pytest.mark.parametrize("change", ["set", "delete", "tag", "pattern", "clear", "set_many"])
async def test_a_change_in_one_is_seen_by_the_other(pair, change):
    a, b = pair
    await a.set("k", "old", tags=["t"])
    assert await b.get("k") == "old"
    assert b.get_local("k") == "old"
    if change == "set":
        await a.set("k", "new")
    elif change == "set_many":
        await a.set_many({"k": "new"})
    elif change == "delete":
        assert await a.delete("k")
    elif change == "tag":
        assert await a.invalidate_tag("t") == 1
    elif change == "pattern":
        assert await a.invalidate_pattern("k*") == 1
    else:
        await a.clear()
    expected = "new" if change.startswith("set") else None
    await until(lambda: equals(lambda: b.get("k"), expected))


async def test_tags_drop_what_this_instance_read_from_redis_too(pair):
    a, b = pair
    await b.set("one", 1, tags=["t"])
    await b.set("two", 2, tags=["u", "t"])
    await b.set("other", 3, tags=["v"])
    assert await a.get_many(["one", "two", "other"]) == {"one": 1, "two": 2, "other": 3}
    assert await a.invalidate_tags(["t", "u"]) == 2
    assert await a.get_many(["one", "two", "other"]) == {"other": 3}
    await until(lambda: equals(lambda: b.get_many(["one", "two", "other"]), {"other": 3}))


async def test_a_value_loaded_while_another_instance_writes_is_not_kept(pair):
    a, b = pair
    loading, go_on = asyncio.Event(), asyncio.Event()

    async def load():
        loading.set()
        await go_on.wait()
        return "read before the write"

    task = asyncio.ensure_future(b.get_or_load("k", load))
    await loading.wait()
    changes = b._tiers.local.changes.count
    await a.set("k", "new")

    async def heard():
        return b._tiers.local.changes.count > changes

    await until(heard)
    go_on.set()
    assert await task == "read before the write"
    assert await b.get("k") == "new"


@pytest.mark.parametrize("how", ["load", "warm"])
async def test_a_load_whose_set_comes_after_another_instances_change_is_not_kept(pair, redis_server, how):
    a, _ = pair
    database = {"k": "old"}
    async with Proxy(port=redis_server.port) as slow:  # a way to Redis of b's own, which can be held up
        b = CacheManager()
        await b.enable(redis_url=f"redis://127.0.0.1:{slow.port}/0")
        held, go_on = asyncio.Event(), asyncio.Event()
        pipeline = b._l2.link.pipeline

        async def late(commands):
            if not go_on.is_set():
                held.set()
                await go_on.wait()
            return await pipeline(commands)

        b._l2.link.pipeline = late

        async def load():
            return database["k"]

        task = asyncio.ensure_future(b.get_or_load("k", load) if how == "load" else b.warm_cache("k", load))
        await held.wait()
        changes = b._tiers.local.changes.count
        database["k"] = "new"
        await a.delete("k")

        async def heard():
            return b._tiers.local.changes.count > changes

        await until(heard)
        go_on.set()
        await task
        assert [await cache.get_or_load("k", load) for cache in (a, b)] == ["new", "new"]
        await b.disable()


async def test_bots_on_two_databases_hear_nothing_of_each_other(redis_server):
    one, two = CacheManager(), CacheManager()
    await one.enable(redis_url=redis_server.url)
    await two.enable(redis_url=redis_server.url.replace("/0", "/2"))
    other = CacheManager()
    await other.enable(redis_url=redis_server.url)
    await two.set("k", 1)
    await other.set("k", 1)
    await one.clear()
    await until(lambda: equals(lambda: _local(other), None))  # the message has arrived
    assert two.get_local("k") == 1
    for cache in (one, two, other):
        await cache.disable()


async def _local(cache):
    return cache.get_local("k", "default")


@pytest.mark.parametrize(
    "message",
    [
        b"", b"garbage", msgspec.msgpack.encode((b"id", "drop", 5, [])),
        b"\xdd\xff\xff\xff\xff", b"x" * 5_000_000, b"\x91" * 100_000,
    ],
    ids=["empty", "garbage", "wrong type", "huge array", "5 MB", "deep"],
)  # fmt: skip
async def test_a_message_that_is_none_empties_l1_and_is_logged_once(pair, raw, message, caplog):
    a, b = pair
    await a.set("k", 1)
    for _ in range(3):
        await raw.execute("PUBLISH", a._l2.backplane.channel, message)

    async def counted():
        return (await b.get_statistics())["l2_malformed_messages"] == 3

    await until(counted)
    assert caplog.text.count("L1 is emptied") <= 2, "once for each instance"
    assert await b.get("k") == 1


async def test_a_glob_of_another_instance_that_would_cost_too_much_drops_the_namespace(pair, raw):
    a, _ = pair
    await a.set("k", 1)
    await a.set("k", 1, namespace="other")
    glob = "*a" * 500_000
    await raw.execute(
        "PUBLISH", a._l2.backplane.channel, msgspec.msgpack.encode((b"x", "pattern", "default", [glob]))
    )
    await until(lambda: equals(lambda: _local(a), None))
    assert a.get_local("k", "other") == 1
