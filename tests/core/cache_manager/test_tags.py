"""Tags are tokens in Redis: whatever happens to a token, no value that carried it is served again."""

import asyncio

import pytest

from bot.core.cache_manager import CacheManager, LoadOptions
from bot.core.cache_manager.keys import redis_key, tag_key
from bot.core.cache_manager.tags import ANY_TAG
from tests.support.servers import RedisServer, running
from tests.support.waiting import equals, until


@pytest.mark.parametrize("lost", ["evicted", "flushed", "written over", "of another type", "another token"])
async def test_a_token_that_is_lost_is_a_dropped_tag(pair, raw, lost):
    a, b = pair
    await a.set("user:1", "admin", tags=["admins"])
    if lost == "another token":
        await raw.execute("SET", tag_key("admins"), b"x" * 12)
    elif lost == "written over":
        await raw.execute("SET", tag_key("admins"), b"no token")
    else:
        await raw.execute("UNLINK", tag_key("admins"))
    if lost == "of another type":
        await raw.execute("LPUSH", tag_key("admins"), "x")
    assert await b.get("user:1") is None
    await a.invalidate_tag("admins")
    assert await a.get("user:1") is None
    await a.set("user:1", "again", tags=["admins"])
    assert await b.get("user:1") == "again"


async def test_dropping_a_tag_takes_one_command_and_touches_no_value(pair, raw):
    a, _ = pair
    await a.set_many({f"k{n}": n for n in range(600)}, tags=["t"])
    await raw.execute("SADD", "p4c:t:t", "somebody's key")
    await raw.execute("SET", "somebody's key", 1)
    await a.invalidate_tag("t")
    assert await raw.execute("EXISTS", redis_key("default", "k0")) == 1
    assert await raw.execute("EXISTS", "somebody's key") == 1
    for cache in pair:
        assert await cache.get_many([f"k{n}" for n in range(600)]) == {}


async def test_nothing_in_redis_grows_with_the_members_of_a_tag(pair, raw):
    a, _ = pair
    for n in range(20):
        await a.set_many({f"{n}.{i}": 1 for i in range(50)}, ttl=0.2, tags=["t"])
    assert await raw.execute("STRLEN", tag_key("t")) == 12

    async def empty():
        return await raw.execute("DBSIZE") == 0

    await until(empty)


async def test_a_token_lives_as_long_as_the_longest_value(pair, raw):
    a, b = pair
    await a.set("short", 1, ttl=5, tags=["t"])
    await a.set("long", 1, ttl=500, tags=["t"])
    await a.set("short", 1, ttl=5, tags=["t"])
    assert await raw.execute("PTTL", tag_key("t")) > 400_000
    assert await b.get_many(["short", "long"]) == {"short": 1, "long": 1}


@pytest.mark.parametrize("tags", [("t",), lambda value: ["t"]], ids=["known", "told by the value"])
@pytest.mark.parametrize("by", ["this instance", "another instance"])
async def test_a_tag_that_is_dropped_during_a_load_drops_what_it_loads(pair, tags, by):
    a, b = pair
    database = {"k": "old"}
    loading, go_on = asyncio.Event(), asyncio.Event()

    async def load():
        found = database["k"]
        loading.set()
        await go_on.wait()
        return found

    task = asyncio.ensure_future(a.get_or_load("k", load, tags=tags))
    await loading.wait()
    database["k"] = "new"
    dropper = a if by == "this instance" else b
    if by == "another instance":
        a._tiers.local.apply = lambda *change: None  # the message comes too late
    await dropper.invalidate_tag("t")
    go_on.set()
    assert await task == "old"
    assert await b.get_or_load("k", load, tags=tags) == "new"


async def test_a_read_that_knows_its_tags_is_one_round_trip(pair):
    a, b = pair

    async def load():
        raise AssertionError

    await a.set("k", 1, tags=["t", "u"])
    await b.get("absent", namespace="default")  # the connection stands
    before = b._l2.link.reader.batches
    assert await b.get_or_load("k", load, tags=["t", "u"]) == 1
    assert b._l2.link.reader.batches == before + 1


async def test_reads_of_many_values_with_tags_travel_together(pair):
    a, b = pair
    for n in range(40):
        await a.set(f"k{n}", n, tags=[f"t{n}"])
    await b.get("absent", namespace="default")
    before = b._l2.link.reader.batches
    assert await b.get_many([f"k{n}" for n in range(40)]) == {f"k{n}": n for n in range(40)}
    assert b._l2.link.reader.batches <= before + 2, "the values, then the tokens"


async def test_a_stale_value_whose_tag_was_dropped_is_not_served(pair):
    a, b = pair
    options = LoadOptions(stale_ttl=60)

    async def load():
        return "old"

    async def fail():
        raise RuntimeError("down")

    assert await a.get_or_load("k", load, 0.05, tags=["t"], options=options) == "old"
    await asyncio.sleep(0.1)
    assert await b.get_or_load("k", fail, 0.05, tags=["t"], options=options) == "old"
    await a.invalidate_tag("t")
    for cache in pair:
        await until(lambda cache=cache: equals(lambda: _raised(cache, fail, options), True))


async def _raised(cache, fail, options):
    try:
        await cache.get_or_load("k", fail, 0.05, tags=["t"], options=options)
    except RuntimeError:
        return True
    return False


@pytest.mark.server
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "volatile-ttl", "noeviction"])
async def test_under_every_eviction_policy_nothing_dropped_is_served(policy):
    server = RedisServer(extra=("--maxmemory", "4mb", "--maxmemory-policy", policy))
    with running(server):
        a, b = CacheManager(), CacheManager()
        await a.enable(redis_url=server.url, compression=False)
        await b.enable(redis_url=server.url)
        names = [f"u{n}" for n in range(100)]
        for name in names:
            await a.set(name, "old" + "x" * 200, tags=[name])
        for n in range(60):  # others come; on a full server some of the tokens go, or nothing more is taken
            await a.set(f"noise {n}", "y" * 100_000)
        for name in names:
            await a.invalidate_tag(name)
        fresh = CacheManager()
        await fresh.enable(redis_url=server.url)
        for cache in (a, fresh):
            assert await cache.get_many(names) == {}
        await until(lambda: equals(lambda: b.get_many(names), {}))
        for cache in (a, b, fresh):
            await cache.disable()


async def test_a_mark_tells_loads_that_some_tag_was_dropped(pair, raw):
    a, _ = pair
    await a.invalidate_tag("t")
    assert await raw.execute("PTTL", tag_key(ANY_TAG)) > 0


async def test_what_an_earlier_version_wrote_is_a_miss_and_no_warning(pair, raw, caplog):
    a, _ = pair
    await raw.execute("SET", redis_key("default", "k"), bytes([1, 0]) + b"\x00" * 12 + b"\x01")
    assert await a.get("k") is None
    assert (await a.get_statistics())["l2_undecodable"] == 0
    assert "cannot be read" not in caplog.text
