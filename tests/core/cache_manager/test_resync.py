"""Changes that Redis did not take are made good when it takes them again."""

import asyncio

import pytest

from bot.core.cache_manager import CacheManager, LockTimeoutError
from bot.core.cache_manager.keys import redis_key, tag_key
from bot.core.redis_link import RedisLink
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, running
from tests.support.waiting import equals, until


async def test_the_old_value_is_never_served_after_a_lost_connection(pair, redis_server, raw):
    """What was set while Redis was frozen must not be outlived by what Redis still holds."""
    a, b = pair
    await a.set("k", "old", ttl=600)
    assert await b.get("k") == "old"
    redis_server.freeze()
    await a.set("k", "new", ttl=600)
    assert await a.get("k") == "new"
    redis_server.thaw()

    async def healed():
        figures = [await cache.get_statistics() for cache in pair]
        await a.get("probe")
        await b.get("probe")
        return not any(f["degraded"] for f in figures) and a._l2.in_step

    await until(healed)
    assert await a.get("k") in ("new", None)
    await until(lambda: equals(lambda: b.get("k"), await_value(a)))
    assert await b.get("k") != "old"


def await_value(cache):
    return cache.get_local("k")


@pytest.mark.server
async def test_a_full_server_leaves_handlers_working_and_no_old_value_behind(caplog):
    server = RedisServer(extra=("--maxmemory", "4mb", "--maxmemory-policy", "noeviction"))
    with running(server):
        cache = CacheManager()
        await cache.enable(redis_url=server.url, compression=False)
        await cache.set("k", "old")
        for n in range(200):
            await cache.set(f"fill {n}", "x" * 100_000)
        assert await cache.set("k", "new") is True
        assert await cache.get("k") == "new"
        other = CacheManager()
        await other.enable(redis_url=server.url)
        assert await other.get("k") in ("new", None)
        assert (await cache.get_statistics())["l2_errors"] > 0
        assert caplog.text.count("Redis refused") == 1
        await cache.disable()
        await other.disable()


@pytest.mark.parametrize("change", ["set", "delete", "tag", "pattern", "clear"])
async def test_what_redis_refused_for_a_while_is_made_good_when_it_no_longer_does(pair, raw, change):
    a, b = pair
    await a.set("k", "old", tags=["t"])
    assert await b.get("k") == "old"
    await raw.execute("REPLICAOF", "127.0.0.1", "1")  # as during a failover: READONLY
    if change == "set":
        await a.set("k", "new")
    elif change == "delete":
        await a.delete("k")
    elif change == "tag":
        await a.invalidate_tag("t")
    elif change == "pattern":
        await a.invalidate_pattern("k*")
    else:
        await a.clear()
    expected = "new" if change == "set" else None
    assert await a.get("k") == expected
    await raw.execute("REPLICAOF", "NO", "ONE")
    await until(lambda: equals(lambda: b.get("k"), None))
    # Of a dropped tag the token goes; its values stay until they expire, and count for nothing.
    gone = tag_key("t") if change == "tag" else redis_key("default", "k")
    await until(lambda: equals(lambda: raw.execute("EXISTS", gone), 0))
    assert await a.get("k") == expected
    await a.set("after", 1)
    assert await b.get("after") == 1


async def test_a_refusal_that_lasts_keeps_nobody_from_leaving(redis_server, raw):
    cache = CacheManager()
    await cache.enable(redis_url=redis_server.url)
    await raw.execute("REPLICAOF", "127.0.0.1", "1")
    await cache.delete("k")
    assert not cache._l2.in_step
    assert await cache.disable()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not RedisLink._links


async def test_a_write_that_was_cancelled_half_way_is_made_good(pair, redis_server, raw):
    a, b = pair
    await a.set("k", "old")
    redis_server.freeze()
    write = asyncio.ensure_future(a.set("k", "new"))
    await asyncio.sleep(0.01)
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    redis_server.thaw()
    await until(lambda: equals(lambda: raw.execute("EXISTS", redis_key("default", "k")), 0))
    assert await a.get("k") == "new"
    assert await b.get("k") is None


async def test_others_hear_that_messages_of_a_service_were_lost_on_the_way(redis_server):
    """Only the sender was cut off, so nothing else would tell them."""
    heard = []
    teller, listener = CacheManager(), CacheManager()
    async with Proxy(port=redis_server.port) as way:
        await teller.enable(redis_url=f"redis://127.0.0.1:{way.port}/0")
        await listener.enable(redis_url=redis_server.url)
        await listener.get("anything")  # its subscription stands
        listener.listen("news", heard.append)
        await way.refuse()
        await teller.tell("news", ["missed"])
        assert heard == []
        await way.listen()

        async def told():
            await teller.get("probe")
            return heard == [None]

        await until(told)
        await teller.tell("news", ["arrives"])

        async def heard_again():
            return heard == [None, ["arrives"]]

        await until(heard_again)
        assert teller._l2.in_step
        await teller.disable()
        await listener.disable()


async def test_a_lock_stays_when_everything_else_is_dropped(pair, raw):
    a, b = pair
    await a.set("k", "old")
    resync = a._tiers.shared.resync
    async with b.lock("report"):
        resync.missed_all()
        await resync.run()
        assert await raw.execute("GET", redis_key("default", "k")) is None
        with pytest.raises(LockTimeoutError):
            async with a.lock("report", wait=0):
                pytest.fail("two are in the block")
