"""exists, ttl, touch, incr and add: in memory, over Redis from several instances, and while Redis is away."""

import asyncio
import math
from datetime import timedelta

import pytest

from bot.core.cache_manager import FOREVER, CacheManager, NotAnIntegerError, UnsupportedValueError
from bot.core.cache_manager.codec import encode
from bot.core.cache_manager.key_commands import LARGEST_COUNT
from bot.core.cache_manager.keys import redis_key
from tests.support.servers import RedisServer
from tests.support.waiting import equals, until


@pytest.fixture(params=["in memory", pytest.param("over Redis", marks=pytest.mark.server)])
async def any_cache(request):
    """A cache without Redis, then one with it."""
    url = "" if request.param == "in memory" else request.getfixturevalue("redis_server").url
    cache = CacheManager()
    await cache.enable(redis_url=url)
    yield cache
    cache._tiers.local.l1.check_invariants()
    await cache.disable()


# One process or several: the same answers.


async def test_a_counter_begins_with_what_is_added_and_keeps_its_time(any_cache):
    assert await any_cache.incr("n", ttl=100) == 1
    assert await any_cache.incr("n", by=41, ttl=5000) == 42
    assert await any_cache.incr("n", by=-50) == -8
    assert await any_cache.get("n") == -8
    assert 90 < await any_cache.ttl("n") <= 100


@pytest.mark.parametrize(
    "start", [0, 127, 128, -1, -32, -33, 255, 256, 65_535, 2**31, -(2**31), 2**32, 2**52, -(2**52)]
)
async def test_any_integer_that_was_set_is_counted_on(any_cache, start):
    await any_cache.set("n", start)
    for by in (1, -2, 300, -70_000, 2**40):
        expected = await any_cache.get("n") + by
        assert await any_cache.incr("n", by) == expected
        assert await any_cache.get("n") == expected


@pytest.mark.parametrize("value", ["7", 1.0, True, None, [1], b"1", 2**70, {"n": 1}, "x" * 5000])
async def test_what_is_no_integer_is_not_counted_on(any_cache, value):
    await any_cache.set("n", value)
    with pytest.raises((NotAnIntegerError, ValueError), match=r"incr: the value of 'n' in 'default'|by = 1"):
        await any_cache.incr("n")
    assert await any_cache.get("n") == value


async def test_a_count_stays_within_its_bounds(any_cache):
    await any_cache.incr("n", LARGEST_COUNT)
    with pytest.raises(ValueError, match="by = 1: expected one that leaves the value, which is 9,007"):
        await any_cache.incr("n")
    assert await any_cache.incr("n", -LARGEST_COUNT) == 0
    assert await any_cache.incr("n", -LARGEST_COUNT) == -LARGEST_COUNT


@pytest.mark.parametrize("by", [True, 1.0, "1", None, math.nan, 2**53, -(2**53), 2**100])
async def test_only_whole_numbers_are_added(any_cache, by):
    with pytest.raises(ValueError, match=r"by = .*: expected a whole number from -9,007"):
        await any_cache.incr("n", by)
    assert not await any_cache.exists("n")


async def test_only_the_first_adds(any_cache):
    assert await any_cache.add("update:1", None, ttl=60)
    assert not await any_cache.add("update:1", "other")
    assert await any_cache.get("update:1", default="absent") is None
    assert await any_cache.delete("update:1")
    assert await any_cache.add("update:1", {"now": (1, 2)})
    assert await any_cache.get("update:1") == {"now": (1, 2)}


async def test_how_long_a_value_has_left(any_cache):
    assert await any_cache.ttl("k") == 0.0
    assert not await any_cache.exists("k")
    await any_cache.set("k", None, ttl=50)
    assert 45 < await any_cache.ttl("k") <= 50
    assert await any_cache.exists("k")
    assert not await any_cache.exists("k", namespace="users")
    await any_cache.touch("k", timedelta(minutes=5))
    assert 295 < await any_cache.ttl("k") <= 300
    await any_cache.touch("k", FOREVER)
    await any_cache.incr("n", ttl=FOREVER)
    await any_cache.add("added", 1, ttl=FOREVER)
    for key in ("k", "n", "added"):
        assert await any_cache.ttl(key) is None
        assert await any_cache.exists(key)


async def test_a_touched_value_lives_longer_or_shorter(any_cache):
    assert not await any_cache.touch("k", 60)
    await any_cache.set("k", [1], ttl=50, tags=["t"])
    assert await any_cache.touch("k", 5000)
    assert 4990 < await any_cache.ttl("k") <= 5000
    assert await any_cache.get("k") == [1]
    assert await any_cache.touch("k", 0.02)
    await until(lambda: equals(lambda: any_cache.exists("k"), False))
    assert not await any_cache.touch("k", 60)
    await any_cache.set("k", [2], tags=["t"])
    await any_cache.touch("k", 60)
    await any_cache.invalidate_tag("t")
    assert not await any_cache.exists("k")


async def test_a_touched_count_keeps_its_tags(any_cache):
    await any_cache.set("n", 5, tags=["t", "ü"])
    assert await any_cache.incr("n") == 6
    assert await any_cache.touch("n", 60)
    assert await any_cache.incr("n") == 7
    await any_cache.invalidate_tag("ü")
    assert not await any_cache.exists("n")
    assert await any_cache.incr("n") == 1
    assert await any_cache.add("m", 1)
    await any_cache.set("m", 1, tags=["t"])
    assert not await any_cache.add("m", 2)
    await any_cache.invalidate_tag("t")
    assert await any_cache.add("m", 3)
    assert await any_cache.get("m") == 3


@pytest.mark.parametrize("ttl", [0, -1, math.nan, "60", True])
async def test_a_ttl_is_checked_where_it_enters(any_cache, ttl):
    for call in (any_cache.touch("k", ttl), any_cache.incr("k", ttl=ttl), any_cache.add("k", 1, ttl)):
        with pytest.raises(ValueError, match="ttl = "):
            await call
    assert not await any_cache.exists("k")


async def test_while_off_nothing_is_there():
    cache = CacheManager()
    assert (await cache.exists("k"), await cache.ttl("k"), await cache.touch("k", 1)) == (False, 0.0, False)
    assert (await cache.incr("k", 3), await cache.incr("k", 3), await cache.add("k", 1)) == (3, 3, True)


async def test_times_are_those_of_the_clock(cache, clock):
    await cache.incr("n", ttl=10)
    await cache.set("stale", 1, ttl=10)
    await clock.advance(4)
    assert await cache.ttl("n") == pytest.approx(6)
    await cache.incr("n", ttl=10)
    assert await cache.touch("stale", 10)
    await clock.advance(6)
    assert (await cache.exists("n"), await cache.incr("n")) == (False, 1)
    assert await cache.ttl("stale") == pytest.approx(4)


# Several instances.


@pytest.fixture
async def three(redis_server):
    caches = [CacheManager() for _ in range(3)]
    for cache in caches:
        await cache.enable(redis_url=redis_server.url)
    yield caches
    for cache in caches:
        cache._tiers.local.l1.check_invariants()
        await cache.disable()


async def test_a_count_by_three_instances_is_exact(three):
    sums = await asyncio.gather(
        *[cache.incr("n", by) for by in (1, 3) for cache in three for _ in range(100)]
    )
    assert max(sums) == 3 * 100 * 4
    assert len(set(sums)) == 600
    for cache in three:
        await until(lambda cache=cache: equals(lambda: cache.get("n"), 1200))


async def test_a_tagged_count_is_exact_too(three):
    await three[0].set("n", 0, tags=["t"])
    await asyncio.gather(*[cache.incr("n") for cache in three for _ in range(30)])
    await until(lambda: equals(lambda: three[1].get("n"), 90))


async def test_of_three_instances_one_adds(three):
    won = await asyncio.gather(*[cache.add("job", n) for n, cache in enumerate(three) for _ in range(20)])
    assert sum(won) == 1
    value = won.index(True) // 20
    for cache in three:
        await until(lambda cache=cache: equals(lambda: cache.get("job"), value))


async def test_others_hear_of_a_count_a_touch_and_an_addition(pair):
    a, b = pair
    await a.set("n", 1)
    assert await b.get("n") == 1
    await a.incr("n")
    await until(lambda: equals(lambda: b.get("n"), 2))
    await a.touch("n", 9000)
    await until(lambda: equals(lambda: _in_hundreds(b.ttl("n")), 90))


async def _in_hundreds(seconds):
    return round(await seconds / 100)


async def test_a_load_elsewhere_does_not_store_over_an_addition(pair):
    a, b = pair
    added = asyncio.Event()

    async def load():
        await added.wait()
        return "loaded"

    async def heard():
        return b._tiers.local.changes.count - begun

    async def begun_loading():
        return len(b._loads.flights)

    begun = b._tiers.local.changes.count
    loading = asyncio.create_task(b.get_or_load("k", load))
    await until(lambda: equals(begun_loading, 1))
    assert await a.add("k", "added")
    await until(lambda: equals(heard, 1))
    added.set()
    assert await loading == "loaded"
    for cache in pair:
        assert await cache.get("k") == "added"


async def test_what_redis_cannot_carry_is_not_added(pair):
    with pytest.raises(UnsupportedValueError, match="object"):
        await pair[0].add("k", object())
    assert not await pair[0].exists("k")


async def test_a_value_that_stays_in_memory_is_touched_there(pair):
    await pair[0].set("k", object(), ttl=10)
    assert await pair[0].touch("k", 1000)
    assert await pair[0].ttl("k") > 900


# What is not as it should be.


@pytest.mark.parametrize(
    "junk",
    [b"", b"\x00", b"junk", b"\x02\xff" + b"\xff" * 40, b"\x02\x02" + bytes(12) + b"\xff\xff", bytes(10_000)],
)
async def test_what_another_program_wrote_counts_as_nothing(pair, raw, junk):
    at = redis_key("default", "n")
    await raw.execute("SET", at, junk)
    assert not await pair[0].touch("n", 60)
    assert await pair[0].ttl("n") == 0.0
    assert await pair[0].incr("n") == 1
    await raw.execute("SET", at, junk)
    assert await pair[0].add("n", 5)


async def test_a_key_of_another_type_counts_as_nothing(pair, raw):
    await raw.execute("LPUSH", redis_key("default", "n"), "x")
    assert not await pair[0].touch("n", 60)
    assert await pair[0].incr("n", 4) == 4


async def test_a_stale_value_is_no_value(pair, raw):
    payload = encode(7, expires_at=1.0, keep=1e9)
    await raw.execute("SET", redis_key("default", "n"), payload)
    assert not await pair[0].exists("n")
    assert await pair[0].incr("n") == 1


async def test_a_value_without_an_expiry_keeps_none(pair, raw):
    at = redis_key("default", "n")
    await raw.execute("SET", at, encode(7))
    assert await pair[0].incr("n") == 8
    assert await raw.execute("PTTL", at) == -1


@pytest.mark.server
async def test_away_each_process_counts_alone_and_forgets_it_when_redis_is_back():
    server = RedisServer()
    server.start()
    a, b = CacheManager(), CacheManager()
    try:
        for cache in (a, b):
            await cache.enable(redis_url=server.url)
        assert await a.incr("n", 10) == 10
        await a.set("kept", 1)
        server.freeze()
        # The first call finds out; the others do not wait.
        assert await a.incr("n") == 1
        assert (await a.incr("n"), await b.incr("n")) == (2, 1)
        assert (await a.add("job", 1), await a.add("job", 1), await b.add("job", 2)) == (True, False, True)
        assert await a.exists("job")
        assert await a.touch("job", 900)
        assert await a.ttl("job") > 800
        assert (await a.get_statistics())["degraded"]
        server.thaw()
        # What was sent before it hung may have been counted there.
        for cache in (a, b):
            await until(lambda cache=cache: equals(lambda: _answered(cache), True))
        assert await a.get("n") in (10, 11)
        await until(lambda: equals(lambda: a.exists("job"), False))
        total = await a.incr("n")
        await until(lambda: equals(lambda: b.get("n"), total))
        await until(lambda: equals(lambda: _settled(a), True))
    finally:
        for cache in (a, b):
            await cache.disable()
        server.close()


async def _answered(cache):
    await cache.get("something else")
    return cache._tiers.shared.link.available and cache._tiers.trusted


async def _settled(cache):
    return cache._tiers.shared.in_step


@pytest.mark.server
async def test_a_full_redis_counts_in_memory():
    server = RedisServer(extra=("--maxmemory", "1mb", "--maxmemory-policy", "noeviction"))
    server.start()
    cache = CacheManager()
    try:
        await cache.enable(redis_url=server.url)
        server.execute("CONFIG", "SET", "maxmemory", "1")
        assert (await cache.incr("n"), await cache.incr("n")) == (1, 2)
        assert (await cache.get_statistics())["l2_errors"] > 0
    finally:
        await cache.disable()
        server.close()


async def test_a_cancelled_count_leaves_no_old_value_behind(pair):
    a, b = pair
    await a.set("n", 0)
    assert await b.get("n") == 0
    for turns in range(12):
        call = asyncio.create_task(a.incr("n"))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    # Those that had been sent are carried to their end, which may be after that of a later one.
    await asyncio.gather(*[task for task in asyncio.all_tasks() if task.get_name() == "cache-key-command"])
    counted = await a.incr("n")
    for cache in pair:
        await until(lambda cache=cache: equals(lambda: cache.get("n"), counted))
    assert counted <= 13


async def test_a_cache_that_is_switched_off_meanwhile_answers_all_the_same(redis_server):
    cache = CacheManager()
    await cache.enable(redis_url=redis_server.url)
    calls = [asyncio.create_task(cache.incr("n")) for _ in range(20)]
    await asyncio.sleep(0)
    await cache.disable()
    assert all(isinstance(count, int) for count in await asyncio.gather(*calls))


async def test_without_the_right_to_publish_it_counts_all_the_same(redis_server, raw):
    await raw.execute(
        "ACL", "SETUSER", "quiet", "on", "nopass", "~*", "resetchannels", "+@all",
    )  # fmt: skip
    cache = CacheManager()
    await cache.enable(redis_url=redis_server.url.replace("redis://", "redis://quiet:x@"))
    try:
        assert (await cache.incr("n"), await cache.incr("n")) == (1, 2)
        assert any("PUBLISH" in what for what in (await cache.get_statistics())["l2_refused"])
    finally:
        await cache.disable()
        await raw.execute("ACL", "DELUSER", "quiet")


async def test_under_a_prefix_every_key_begins_with_it(redis_server, raw):
    cache = CacheManager()
    await cache.enable(redis_url=f"{redis_server.url}?key_prefix=shop")
    try:
        await cache.set("n", 4)
        assert await cache.incr("n") == 5
        assert await cache.touch("n", 60)
        assert not await cache.add("n", 1)
        assert await cache.exists("n")
        assert await raw.execute("KEYS", "*n") == [b"shop:p4c:v:default:n"]
    finally:
        await cache.disable()
