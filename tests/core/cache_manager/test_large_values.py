"""Large values: what is compressed, by whom, and what holds while a thread compresses them."""

import asyncio
import os
import random
import threading
import zlib

import pytest

from bot.core.cache_manager import CacheManager, codec, compression, large_values
from bot.core.cache_manager.codec import LARGE, decode, encode
from bot.core.redis_link import RedisLink
from tests.support.waiting import equals, until

TEXT = "".join(f"line {n}: user {n * 7919 % 1000}\n" for n in range(30_000))
OTHER = TEXT[::-1]


# What is compressed.


def test_what_was_compressed_before_is_not_tried_again(monkeypatch):
    tried = []
    compress = zlib.compress
    monkeypatch.setattr(
        codec.zlib, "compress", lambda data, level: tried.append(len(data)) or compress(data, level)
    )
    picture = os.urandom(2**20)
    assert len(encode(picture)) > 2**20
    assert tried == [3 * codec.SAMPLE]
    tried.clear()
    assert len(encode(TEXT)) < len(TEXT) / 2
    assert len(tried) == 2


@pytest.mark.parametrize(
    "size", [1025, codec.SAMPLED_ABOVE, codec.SAMPLED_ABOVE + 1, LARGE, LARGE + 1, 3 * LARGE]
)
@pytest.mark.parametrize("kind", ["text", "noise", "half and half"])
def test_every_size_comes_back(size, kind):
    noise = random.Random(size).randbytes(size)
    half = b"a" * (size // 2)
    value = {"text": b"ab" * (size // 2), "noise": noise, "half and half": half + noise[: size // 2]}[kind]
    assert decode(encode(value)).value == value


# By a thread.


@pytest.fixture
def threads(monkeypatch):
    """The threads that compressed and decompressed."""
    found = []
    for module, name in ((compression, "_if_worth"), (codec, "unpack_rest")):
        work = getattr(module, name)

        def noted(*args, work=work):
            found.append(threading.current_thread())
            return work(*args)

        monkeypatch.setattr(module, name, noted)
    return found


async def read_by(cache, key):
    """What Redis has, past L1."""
    cache._tiers.local.l1.store.clear()
    return await cache.get(key, "default")


async def test_one_way_and_back_by_threads_and_small_ones_here(pair, threads):
    a, b = pair
    assert await a.set("large", TEXT)
    assert await b.get("large", "default") == TEXT
    assert len(threads) == 2
    assert threading.main_thread() not in threads
    threads.clear()
    await a.set_many({"small": "ab" * 1000, "other": TEXT, "noise": os.urandom(2 * LARGE), "last": 1})
    assert threads[0] is threading.main_thread()
    assert len(threads) == 2
    found = await b.get_many(["small", "other", "noise", "last", *[f"k{n}" for n in range(80)]])
    assert found["other"] == TEXT
    assert len(found) == 4
    threads.clear()
    assert await a.add("added", TEXT, 60)
    assert threading.main_thread() not in threads
    assert await read_by(b, "added") == TEXT
    await a.enable(compression=False)
    threads.clear()
    await a.set("large", OTHER)
    assert threads == []
    assert await read_by(b, "large") == OTHER


async def test_loads_bring_large_values_too(pair, threads):
    a, b = pair

    async def load():
        return TEXT

    async def load_many(keys):
        return {key: [key, TEXT] for key in keys} | {"small": 1}

    await a.get_or_load("one", load, tags=["t"])
    await a.get_or_load_many(["k1", "small", "k2"], load_many, tags=["t"])
    assert len(threads) == 3
    assert await read_by(b, "one") == TEXT
    assert [await read_by(b, key) for key in ("k1", "small", "k2")] == [["k1", TEXT], 1, ["k2", TEXT]]
    await a.invalidate_tag("t")
    assert [await read_by(b, key) for key in ("one", "k1", "small")] == [None] * 3


async def test_without_threads_the_loop_does_it(pair, monkeypatch):
    a, b = pair

    def none(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", none)
    assert await a.set("k", TEXT)
    assert await b.get("k", "default") == TEXT


# While a thread compresses.


@pytest.fixture
async def held(redis_server, monkeypatch):
    """Two caches, the first with "old" in Redis, whose threads end when they may."""
    caches = [CacheManager(), CacheManager()]
    for cache in caches:
        await cache.enable(redis_url=redis_server.url)
    await caches[0].set("k", "old")
    begun, go_on = asyncio.Event(), asyncio.Event()
    by_thread = large_values.by_thread

    async def slow(function, *args):
        answer = await by_thread(function, *args)
        if function is compression.packed_by_zlib:
            begun.set()
            await go_on.wait()
        return answer

    monkeypatch.setattr(large_values, "by_thread", slow)
    write = asyncio.ensure_future(caches[0].set("k", TEXT, tags=["t"]))
    await begun.wait()
    yield *caches, write, go_on
    for cache in caches:
        cache._tiers.local.l1.check_invariants()
        await cache.disable()
    assert not RedisLink._links


async def test_nothing_in_between(held):
    a, b, write, go_on = held
    assert await a.get("k") == TEXT, "here it is set at once"
    go_on.set()
    assert await write is True
    assert await read_by(b, "k") == TEXT
    assert not a._l2.large.packing


@pytest.mark.parametrize("by", ["set", "set_many", "another large one"])
async def test_a_later_value_wins(held, by):
    a, b, write, go_on = held
    later = OTHER if by == "another large one" else "later"
    other = asyncio.ensure_future(a.set_many({"k": later}) if by == "set_many" else a.set("k", later))
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(write, other)
    assert await a.get("k") == later
    assert await read_by(a, "k") == later
    assert await read_by(b, "k") == later
    assert not a._l2.large.packing


DROPS = {
    "delete": lambda a, b: a.delete("k"),
    "tag": lambda a, b: a.invalidate_tag("t"),
    "pattern": lambda a, b: a.invalidate_pattern("k*"),
    "clear": lambda a, b: a.clear("default"),
}


@pytest.mark.parametrize("drop", DROPS)
async def test_an_invalidation_in_between_holds(held, drop):
    a, b, write, go_on = held
    await DROPS[drop](a, b)
    go_on.set()
    await write
    assert await a.get("k", "default") is None
    assert await read_by(a, "k") is None
    assert await read_by(b, "k") is None


async def test_so_does_one_by_another_instance(held):
    a, b, write, go_on = held
    await b.delete("k")
    await until(lambda: equals(lambda: _local(a), None))
    go_on.set()
    await write
    assert await read_by(a, "k") is None
    assert await read_by(b, "k") is None


async def _local(cache):
    return cache.get_local("k")


async def test_when_it_is_cancelled_the_value_before_is_not_served(held):
    a, b, write, _ = held
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    assert not a._l2.large.packing
    await until(lambda: equals(lambda: read_by(b, "k"), None))


async def test_when_redis_is_left_the_value_before_is_dropped(held):
    a, b, write, go_on = held
    await a.enable(redis_url="")
    go_on.set()
    await write
    assert await read_by(b, "k") is None


async def test_a_load_that_was_overtaken_stores_nothing(redis_server, held):
    a, b, write, go_on = held
    go_on.set()
    await write
    go_on.clear()

    async def load():
        return OTHER

    read = asyncio.ensure_future(a.get_or_load("loaded", load))
    await until(lambda: equals(lambda: _packing(a), True))
    await a.set("loaded", "newer")
    go_on.set()
    assert await read == OTHER
    assert await read_by(b, "loaded") == "newer"


async def _packing(cache):
    return bool(cache._l2.large.packing)


# Decoded in pieces.

ROWS = [{"id": n, "name": f"user {n}", "tags": ["a", str(n)]} for n in range(40_000)]


async def turns_during(call):
    """What a call returns, and how many turns of the event loop others had meanwhile."""
    task = asyncio.ensure_future(call)
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    return task.result(), turns


@pytest.fixture
def pieces(monkeypatch):
    """The number of steps in which values were decoded so far, one entry for each step."""
    found = []
    thaw = large_values.thaw_in_pieces

    def noted(body, piece):
        steps = thaw(body, piece)
        while True:
            found.append(len(body))
            try:
                next(steps)
            except StopIteration as end:
                return end.value
            yield

    monkeypatch.setattr(large_values, "thaw_in_pieces", noted)
    return found


@pytest.mark.parametrize("compression", [True, False])
@pytest.mark.parametrize("many", [True, False], ids=["get_many", "get"])
async def test_others_run_while_a_large_value_is_decoded(pair, pieces, compression, many):
    a, b = pair
    await a.enable(compression=compression)
    await a.set("rows", ROWS, tags=["t"] if many else [])
    names = ["rows", *[f"none {n}" for n in range(80)]]
    found, turns = await turns_during(b.get_many(names) if many else b.get("rows", "default"))
    assert (found["rows"] if many else found) == ROWS
    assert len(pieces) > 20
    assert turns >= len(pieces) - 1


async def test_several_are_decoded_one_after_the_other(pair, pieces):
    a, b = pair
    await a.set_many({f"k{n}": [n, *ROWS] for n in range(3)})
    assert [found[0] for found in await asyncio.gather(*[b.get(f"k{n}", "default") for n in range(3)])] == [
        0,
        1,
        2,
    ]
    sizes = list(dict.fromkeys(pieces))
    assert pieces == sorted(pieces, key=sizes.index)


async def test_one_that_is_cancelled_between_pieces_lets_the_next_go_on(pair, pieces):
    a, b = pair
    await a.set("rows", ROWS)
    first = asyncio.ensure_future(b.get("rows", "default"))
    await until(lambda: equals(lambda: _some(pieces), True))
    second = asyncio.ensure_future(b.get("rows", "default"))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == ROWS


async def test_what_is_dropped_while_it_is_decoded_is_not_kept(pair, pieces):
    a, b = pair
    await a.set("rows", ROWS)
    read = asyncio.ensure_future(b.get("rows", "default"))
    await until(lambda: equals(lambda: _some(pieces), True))
    await b.delete("rows")
    assert not read.done()
    assert await read == ROWS
    assert await b.get("rows", "default") is None


async def _some(found):
    return bool(found)
