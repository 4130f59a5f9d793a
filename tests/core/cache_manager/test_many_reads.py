"""Many keys read from Redis at once: they mean the same as each of them read alone."""

import asyncio

import pytest

from bot.core.cache_manager import CacheManager, LoadOptions
from bot.core.cache_manager.codec import encode
from bot.core.cache_manager.keys import redis_key
from bot.core.cache_manager.many_reads import MANY, PIECE, ManyReads
from bot.core.redis_link import RedisLink
from tests.support.servers import RedisServer
from tests.support.waiting import until

KEYS = [f"k{n}" for n in range(3 * PIECE)]


def forget(cache):
    """Empty L1, so that the next read asks Redis."""
    cache._tiers.local.l1.store.clear()


async def test_they_are_what_each_is_alone(pair):
    a, b = pair
    values = {
        "plain": 1, "none": None, "text": "я" * 20_000, "set": {1, 2}, "tagged": [1], "nested": {"a": [(1,)]},
        "x" * 2000: "long name",
    }  # fmt: skip
    for name, value in values.items():
        await a.set(name, value, tags=["t"] if name == "tagged" else ())

    async def load():
        return "kept"

    await a.get_or_load("stale", load, ttl=60, options=LoadOptions(stale_ttl=60))
    wanted = [*KEYS[:MANY], *values, "stale", *KEYS[MANY : 2 * PIECE]]
    found = await b.get_many(wanted)
    assert found == {**values, "stale": "kept"}
    assert list(found) == [name for name in wanted if name in found], "in the order of the keys"
    assert (await b.get_statistics())["l2_misses"] == 2 * PIECE
    before = (await b.get_statistics())["l2_hits"]
    assert await b.get_many(wanted) == found
    assert (await b.get_statistics())["l2_hits"] == before, "L1 has them now"
    found["set"].add(3)
    assert (await b.get("set", "default")) == {1, 2}


async def test_one_command_serves_some_hundred_keys(pair, raw):
    a, b = pair
    await a.set_many({key: [key] for key in KEYS})
    await raw.execute("CONFIG", "RESETSTAT")
    assert len(await b.get_many(KEYS)) == len(KEYS)
    calls = (await raw.execute("INFO", "commandstats"))["cmdstat_mget"]["calls"]
    assert calls == len(KEYS) / PIECE


async def test_a_dropped_tag_an_expired_value_and_a_deleted_one_are_misses(pair):
    a, b = pair
    await a.set_many(dict.fromkeys(KEYS[:200], 1), tags=["t", "u"])
    await a.set_many(dict.fromkeys(KEYS[200:400], 2), tags=["u"])
    await a.set_many(dict.fromkeys(KEYS[400:], 3))
    await a.invalidate_tag("t")
    await a.delete(KEYS[500])
    forget(b)
    found = await b.get_many(KEYS)
    assert set(found) == set(KEYS) - set(KEYS[:200]) - {KEYS[500]}
    assert [found[KEYS[200]], found[KEYS[400]]] == [2, 3]


async def test_what_cannot_be_read_is_a_miss_among_values(pair, raw):
    a, b = pair
    await a.set_many({key: key for key in KEYS[:200]})
    await raw.execute("SET", redis_key("default", KEYS[0]), b"nonsense")
    await raw.execute("SET", redis_key("default", KEYS[1]), encode([1] * 5000)[:-9])
    await raw.execute("DEL", redis_key("default", KEYS[2]))
    await raw.execute("SADD", redis_key("default", KEYS[2]), "of another kind")
    found = await b.get_many(KEYS[:200])
    assert set(found) == set(KEYS[3:200])
    assert (await b.get_statistics())["l2_undecodable"] == 2


def hold(link, begun, go_on):
    """Let the answers to MGET wait on their way back."""
    pipeline = link.pipeline

    async def held(commands):
        answers = await pipeline(commands)
        if commands[0][0] == "MGET":
            begun.set()
            await go_on.wait()
        return answers

    link.pipeline = held


@pytest.fixture
async def held(redis_server):
    """A cache with values in Redis only, an event for "it was asked", and one that lets answers come."""
    cache = CacheManager()
    await cache.enable(redis_url=redis_server.url)
    await cache.set_many(dict.fromkeys(KEYS, "old"))
    forget(cache)
    begun, go_on = asyncio.Event(), asyncio.Event()
    hold(cache._l2.link, begun, go_on)
    yield cache, begun, go_on
    cache._tiers.local.l1.check_invariants()
    await cache.disable()
    assert not RedisLink._links


@pytest.mark.parametrize("change", ["set", "delete", "clear"])
async def test_what_changed_meanwhile_is_not_kept(held, change):
    cache, begun, go_on = held
    read = asyncio.ensure_future(cache.get_many(KEYS))
    await begun.wait()
    if change == "set":
        await cache.set("k1", "new")
    elif change == "delete":
        await cache.delete("k1")
    else:
        await cache.clear("default")
    go_on.set()
    assert (await read)["k1"] == "old", "it was when it was asked for"
    assert await cache.get("k1", "default") == ("new" if change == "set" else None)
    assert await cache.get("k2", "default") == (None if change == "clear" else "old")


async def test_a_cancelled_read_leaves_no_task(held):
    cache, begun, go_on = held
    tasks = asyncio.all_tasks()
    read = asyncio.ensure_future(cache.get_many(KEYS))
    await begun.wait()
    read.cancel()
    with pytest.raises(asyncio.CancelledError):
        await read
    assert asyncio.all_tasks() <= tasks
    go_on.set()
    assert len(await cache.get_many(KEYS)) == len(KEYS)


@pytest.mark.parametrize("leave", ["off", "without Redis"])
async def test_when_redis_is_left_the_rest_is_not_asked_for(held, leave):
    cache, begun, go_on = held
    read = asyncio.ensure_future(cache.get_many(KEYS))
    await begun.wait()
    await (cache.disable() if leave == "off" else cache.enable(redis_url=""))
    go_on.set()
    assert await read == dict.fromkeys(KEYS[:PIECE], "old")
    await cache.enable(redis_url="")
    assert await cache.get_many(KEYS) == {}, "nothing of it was kept"


@pytest.mark.server
async def test_without_redis_l1_answers(caplog):
    server = RedisServer()
    server.start()
    cache = CacheManager()
    try:
        await cache.enable(redis_url=server.url)
        await cache.set_many(dict.fromkeys(KEYS, 1))
        forget(cache)
        assert len(await cache.get_many(KEYS[:100])) == 100
        link = cache._l2.link
        server.kill()

        async def not_hearing():
            return not cache._l2.backplane.hearing

        await until(not_hearing)
        assert link.available
        assert await cache.get_many(KEYS) == dict.fromkeys(KEYS[:100], 1)
        assert not link.available
        assert await cache.get_many(KEYS) == dict.fromkeys(KEYS[:100], 1)
    finally:
        await cache.disable()
        server.close()
    assert caplog.text.count("going on without it") == 1


async def test_what_redis_has_not_heard_of_is_not_read(pair):
    a, _ = pair
    await a.set_many(dict.fromkeys(KEYS, "old"))
    forget(a)
    shared = a._l2
    shared.resync.missed([redis_key("default", "k1")])
    found = await ManyReads(shared).read("default", KEYS[:100])
    assert [type(value) is str for value in found] == [n != 1 for n in range(100)]


async def test_an_answer_that_is_none_is_a_failure(pair, monkeypatch):
    a, _ = pair
    for answer in (None, 1, [], [b"x"] * 3, "text"):

        async def nonsense(commands, answer=answer):
            return [answer]

        monkeypatch.setattr(a._l2.link, "pipeline", nonsense)
        assert await a.get_many(KEYS[:MANY]) == {}
    monkeypatch.undo()
    assert (await a.get_statistics())["l2_errors"] == 5


async def test_a_bad_key_is_refused_before_anything_is_asked(pair, monkeypatch):
    a, _ = pair
    monkeypatch.setattr(a._l2.link, "pipeline", None)
    with pytest.raises(TypeError, match="key"):
        await a.get_many([*KEYS, 5])
