"""What instances share through Redis: ages, channels, large batches, and whatever else lies there."""

import asyncio

import msgspec
import pytest

from bot.core._shared.clock import SystemClock
from bot.core.cache_manager import CacheManager, LoadOptions
from bot.core.cache_manager.keys import redis_key
from tests.support.waiting import equals, until

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


class Wrong(SystemClock):
    """A machine whose wall clock is an hour off."""

    def __init__(self, seconds):
        self._seconds = seconds

    def time(self):
        return super().time() + self._seconds


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_ages_are_those_of_redis_on_a_machine_whose_clock_is_wrong(redis_server, seconds):
    right, wrong = CacheManager(), CacheManager(clock=Wrong(seconds))
    for cache in (right, wrong):
        await cache.enable(redis_url=redis_server.url)
    for writer, reader in ((right, wrong), (wrong, right)):
        await writer.set("k", 1, ttl=100)
        assert await reader.get("k") == 1
        entry = reader._tiers.local.l1.store.peek("default", "k", reader._now())
        assert 90 < entry.expires_at - reader._now() <= 100.5
        await writer.delete("k")
        await until(lambda reader=reader: equals(lambda: reader.get("k"), None))
    for cache in (right, wrong):
        await cache.disable()


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


async def test_many_keys_travel_in_pieces_and_are_counted_as_they_are(pair):
    a, b = pair
    await a.enable(l1_max_entries=100)
    items = {f"k{n}": n for n in range(5_000)}
    assert await a.set_many(items) == 5_000
    assert not (await a.get_statistics())["degraded"]
    assert await b.get_many(items) == items


async def test_what_no_tier_holds_is_not_counted(redis_server, pair):
    a, _ = pair
    await a.enable(l1_max_entries=100)
    redis_server.kill()
    assert await a.set_many({f"k{n}": n for n in range(1_000)}) == 100


@pytest.mark.parametrize("write", ["LPUSH", "SADD", "PFADD"])
async def test_another_type_under_a_key_raises_nowhere(pair, raw, write):
    a, _ = pair
    await raw.execute(write, redis_key("default", "k"), "x")
    assert await a.get("k") is None
    assert await a.get_or_load("k", good) == "good"
    await raw.execute("UNLINK", redis_key("default", "k"))
    await raw.execute(write, redis_key("default", "k"), "x")
    await a.delete("k")
    assert await a.set_many({"k": 1}) == 1
    assert await a.invalidate_pattern("k*") == 1


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
