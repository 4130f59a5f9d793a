"""Two instances over a real Redis, and what happens when it fails."""

import asyncio
import enum
import socket

import pytest

from bot.core.cache_manager import CacheManager
from bot.core.cache_manager.codec import VERSION, encode
from bot.core.cache_manager.keys import redis_key, tag_key
from bot.core.redis_link import RedisLink
from tests.support.loader import Loader
from tests.support.servers import RedisServer
from tests.support.waiting import equals, until


async def test_what_one_writes_the_other_reads_with_its_types(pair):
    a, b = pair
    value = {"tuple": (1, 2), 3: {4}, "none": None, "big": 2**80}
    await a.set("k", value, namespace="users")
    assert await b.get("k", namespace="users") == value
    assert type((await b.get("k", namespace="users"))["tuple"]) is tuple
    figures = await b.get_statistics()
    assert (figures["l2_hits"], figures["l1_hits"], figures["l2_connected"]) == (1, 1, True)


@pytest.mark.parametrize("ttl", [10**9, 10**12, 1e15])
async def test_a_ttl_of_any_length_is_read_back(pair, ttl):
    a, b = pair
    assert await a.set("k", [1], ttl=ttl, tags=["t"])
    assert await b.get("k") == [1]
    assert (await b.get_statistics())["l2_undecodable"] == 0


@pytest.mark.parametrize("key", ["message:" + "x" * 4096, "message:\ud83d", "message:" + "ё\udcff" * 4096])
async def test_any_text_is_a_key_for_every_instance(pair, key):
    a, b = pair
    assert await a.set(key, [1], tags=[key])
    assert await b.get(key) == [1]
    assert await b.get_many([key]) == {key: [1]}
    await a.set(key, [2])
    await until(lambda: equals(lambda: b.get(key), [2]))
    assert await b.delete(key)
    await until(lambda: equals(lambda: a.get(key), None))
    await a.set_many({key: 3}, tags=[key])
    assert await b.get(key) == 3
    assert await a.invalidate_tag(key) == 1
    await until(lambda: equals(lambda: b.get(key), None))
    await a.set(key, 4)
    assert await b.invalidate_pattern("message:*") == 1
    assert await b.invalidate_pattern("message:\ud83d*") == 0


async def test_none_is_a_value_in_redis_too(pair):
    a, b = pair
    loads = []

    async def load():
        loads.append(1)

    await a.get_or_load("k", load)
    await b.get_or_load("k", load)
    await b.get_or_load("k", load)
    assert len(loads) == 1


@pytest.mark.parametrize(
    ("pattern", "dropped", "kept"),
    [
        ("user:?", ["user:e", "user:é", "user:😀"], ["user:éé"]),
        ("user:[é]", ["user:é"], ["user:e"]),
        (r"x[a\-z]*", ["x-", "x-1"], ["xb"]),
        (r"k[\]]", ["k]"], ["k"]),
        ("[a", ["a"], ["[a"]),
    ],
)
async def test_a_pattern_means_the_same_keys_in_both_tiers(pair, raw, pattern, dropped, kept):
    a, b = pair
    await a.set_many(dict.fromkeys([*dropped, *kept], 1))
    await raw.execute("SET", redis_key("default", "x") + b"\xff", "no key of ours")
    await b.get_many(dropped)
    assert await a.invalidate_pattern(pattern) == len(dropped)
    for cache in pair:
        await until(lambda cache=cache: equals(lambda: cache.get_many(dropped), {}))
        assert await cache.get_many(kept) == dict.fromkeys(kept, 1)


async def test_a_get_without_namespace_reads_all_used_ones_in_one_round_trip(pair):
    a, b = pair
    await a.set("k", 1, namespace="third")
    for name in ("first", "second", "third"):
        await b.set("other", 0, namespace=name)
    batches = b._l2.link.reader.batches
    assert await b.get("k") == 1
    assert b._l2.link.reader.batches == batches + 1


@pytest.mark.parametrize("count", [3, 100])
async def test_clear_drops_every_namespace_that_was_used(pair, count):
    a, b = pair
    await a.enable(l1_max_entries=5)  # so that L1 does not remember the names
    names = [f"n{n}" for n in range(count)]
    for name in names:
        await a.set("k", 1, namespace=name)
        assert await b.get("k", namespace=name) == 1
    await a.clear()
    for cache in pair:
        for name in names:
            await until(lambda cache=cache, name=name: equals(lambda: cache.get("k", namespace=name), None))


async def test_a_namespace_is_cleared_in_every_instance_and_each_key_counts_once(pair):
    a, b = pair
    keys = ["k", "ключ", "x" * 2000, "\ud800 half", "g*b?[a]"]
    for key in keys:
        await b.set(key, 1, namespace="users")
    await a.set("k", 2, namespace="users")  # in this L1, and in Redis
    await a.set("object", object, namespace="users")  # in this L1 alone
    await b.set("k", 1, namespace="chats")
    assert await a.clear("users") == len(keys) + 1
    assert await a.clear("users") == 0
    for key in keys:
        await until(lambda key=key: equals(lambda: b.get(key, namespace="users"), None))
    assert await b.get("k", namespace="chats") == 1


async def test_clear_leaves_what_only_others_have_used(pair):
    a, b = pair
    await a.set("k", 1, namespace="mine")
    await b.set("k", 1, namespace="yours")
    await a.clear()
    assert await b.get("k", namespace="yours") == 1


async def test_concurrent_reads_travel_together(pair):
    a, b = pair
    await a.set_many({f"k{n}": n for n in range(1200)})
    await b.get("absent", namespace="default")  # the connection stands
    before = b._l2.link.reader.batches
    values = await asyncio.gather(*[b.get(f"k{n}", namespace="default") for n in range(1200)])
    assert values == list(range(1200))
    # Two that leave early, so that the server has work, and the rest in batches of 500 at most.
    assert b._l2.link.reader.batches - before == 5


async def test_a_cancelled_read_harms_no_other(pair):
    a, b = pair
    await a.set_many({f"k{n}": n for n in range(100)})
    tasks = [asyncio.ensure_future(b.get(f"k{n % 100}", namespace="default")) for n in range(200)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[1::2] == [n % 100 for n in range(1, 200, 2)]
    assert await b.get("k0") == 0


class Colour(enum.Enum):
    RED = 1


async def test_what_redis_cannot_carry_stays_in_l1_and_drops_what_was_there(pair, caplog):
    a, b = pair
    await a.set("k", "plain")
    for _ in range(3):
        await a.set("k", {"colour": Colour.RED})
    assert await a.get("k") == {"colour": Colour.RED}
    assert await b.get("k") is None
    assert caplog.text.count("stay in L1") == 1
    assert (await a.get_statistics())["l1_only_values"] == 3


@pytest.mark.parametrize("payload", [b"garbage", b"", bytes([VERSION + 1]) + b"\x00" * 20])
async def test_foreign_bytes_under_a_key_are_a_miss(pair, raw, payload, caplog):
    a, _ = pair
    await raw.execute("SET", redis_key("default", "k"), payload)
    for _ in range(3):
        assert await a.get("k") is None
    assert caplog.text.count("cannot be read") == 1

    async def load():
        return "loaded"

    assert await a.get_or_load("k", load) == "loaded"


async def test_a_value_of_another_type_under_a_key_is_a_miss(pair, raw):
    a, _ = pair
    await raw.execute("LPUSH", redis_key("default", "k"), "x")
    assert await a.get("k") is None
    assert await a.set("k", "fine")


async def test_time_to_live_is_the_same_in_both_tiers(pair, raw):
    a, b = pair
    await a.set("k", 1, ttl=100)
    assert 99_000 < await raw.execute("PTTL", redis_key("default", "k")) <= 100_000
    await b.get("k")
    entry = b._tiers.local.l1.store.peek("default", "k", b._now())
    assert 99 < entry.expires_at - b._now() < 101  # the clocks differ by up to a round trip
    await raw.execute("SET", redis_key("default", "late"), encode(1, expires_at=1.0))
    assert await b.get("late") == 1
    assert b.get_local("late") is None, "what has expired by its own account is not kept"


async def test_redis_killed_in_the_middle_of_load_and_started_again(pair, redis_server, caplog):
    a, b = pair
    await a.set("kept", "in L1")
    await b.get("kept")
    errors, stop = [], asyncio.Event()

    async def handler(cache, n):
        async def load():
            return n

        while not stop.is_set():
            try:
                assert await cache.get_or_load(f"k{n}", load, ttl=0.05) == n
                assert await cache.get("kept") in ("in L1", None)
                await cache.set(f"s{n}", n)
            except Exception as error:
                errors.append(error)
            await asyncio.sleep(0.001)

    tasks = [asyncio.ensure_future(handler(cache, n)) for n in range(10) for cache in pair]
    await asyncio.sleep(0.2)
    redis_server.kill()
    await asyncio.sleep(0.3)
    figures = await a.get_statistics()
    assert figures["degraded"] is True
    assert figures["l2_connected"] is False
    redis_server.start()

    async def healed():
        return not (await a.get_statistics())["degraded"] and not (await b.get_statistics())["degraded"]

    await until(healed)
    await asyncio.sleep(0.1)
    stop.set()
    await asyncio.gather(*tasks)
    assert errors == []
    assert caplog.text.count("going on without it") <= 3, "said once, not per call"
    await a.set("after", 1)
    await until(lambda: equals(lambda: b.get("after"), 1))


async def test_while_redis_is_away_l1_serves_and_misses_load(pair, redis_server):
    a, _ = pair
    await a.set("k", "v")
    redis_server.kill()
    assert await a.get("k") == "v"
    assert await a.get("absent") is None
    assert await a.get("k") == "v"
    assert await a.set("new", 1) is True
    assert await a.get("new") == 1
    assert await a.invalidate_pattern("new") == 1
    assert await a.invalidate_tag("t") == 0
    assert await a.delete("k") is True
    assert await a.get("k") is None


async def test_a_server_that_accepts_and_never_answers_costs_one_timeout(caplog):
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    cache = CacheManager()
    loop = asyncio.get_running_loop()
    try:
        await cache.enable(redis_url=url)
        start = loop.time()

        async def load():
            return "loaded"

        for n in range(50):
            assert await cache.get_or_load(f"k{n}", load) == "loaded"
        assert loop.time() - start < 5, "not a timeout for each of fifty"
        assert (await cache.get_statistics())["degraded"]
    finally:
        await cache.disable()
        listener.close()


@pytest.mark.parametrize("change", ["tag", "set"])
async def test_a_tag_that_another_program_wrote_over_costs_the_cached_values_and_no_more(pair, raw, change):
    a, b = pair
    await a.set("k", "old", tags=["t"])
    assert await b.get("k") == "old"
    await raw.execute("SET", tag_key("t"), "of another type")
    if change == "tag":
        await b.invalidate_tag("t")
        assert await b.get("k") is None, "who carries the tag is not known any more"
    else:
        await b.set("other", 1, tags=["t"])
        assert await b.get("other") == 1
        third = CacheManager()
        await third.enable(redis_url=a._l2.link.url)
        assert await third.get("k") is None, "what Redis holds of before counts for nothing"
        await third.disable()
    if change == "tag":
        await until(lambda: equals(lambda: a.get("k"), None))
    await a.set("k", "new", tags=["t"])
    assert await b.get("k") == "new"
    assert b._l2.in_step, "Redis is used again"
    assert await a.invalidate_tag("t") == 1
    await until(lambda: equals(lambda: b.get("k"), None))


@pytest.mark.server
async def test_no_server_at_start_is_no_error(caplog):
    server = RedisServer()
    cache = CacheManager()
    assert await cache.enable(redis_url=server.url)
    await cache.set("k", 1)
    assert await cache.get("k") == 1
    server.start()
    try:

        async def healed():
            await cache.get("probe")
            return not (await cache.get_statistics())["degraded"] and cache._l2.in_step

        await until(healed)
        assert await cache.set("k", 2)
        other = CacheManager()
        await other.enable(redis_url=server.url)
        assert await other.get("k") == 2
        await other.disable()
    finally:
        await cache.disable()
        server.close()


async def test_a_password_is_in_no_log_and_no_status(caplog):
    cache = CacheManager()
    await cache.enable(redis_url="redis://:hunter2@127.0.0.1:1/0")
    await cache.get("k")
    assert "hunter2" not in caplog.text + repr(await cache.get_statistics())
    await cache.disable()


def test_on_under_one_loop_and_off_under_another(redis_url):
    cache = CacheManager()

    async def use(value):
        await cache.enable(redis_url=redis_url)
        await cache.set("loops", value)
        return await cache.get("loops")

    assert asyncio.run(use(1)) == 1
    assert asyncio.run(use(2)) == 2
    assert asyncio.run(cache.disable())
    assert not RedisLink._links


async def test_off_leaves_no_task_and_no_connection(redis_server, raw):
    cache = CacheManager()
    await cache.enable(redis_url=redis_server.url)
    await asyncio.gather(*[cache.get(f"k{n}") for n in range(20)])
    await cache.set("k", 1)
    assert await cache.disable()
    assert asyncio.all_tasks() == {asyncio.current_task()}

    async def alone():
        return len((await raw.execute("CLIENT", "LIST")).strip().splitlines()) == 1

    await until(alone)


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
    assert await a.get_or_load("k", Loader("good")) == "good"
    await raw.execute("UNLINK", redis_key("default", "k"))
    await raw.execute(write, redis_key("default", "k"), "x")
    await a.delete("k")
    assert await a.set_many({"k": 1}) == 1
    assert await a.invalidate_pattern("k*") == 1


@pytest.mark.parametrize(
    ("command", "change"),
    [
        ("delete", lambda cache: cache.delete("k")),
        ("drop_tags", lambda cache: cache.invalidate_tag("t")),
        ("drop_pattern", lambda cache: cache.invalidate_pattern("k*")),
        ("drop_pattern", lambda cache: cache.clear("default")),
    ],
)
async def test_a_read_while_redis_has_yet_to_drop_a_value_brings_it_back_for_no_longer(
    pair, monkeypatch, command, change
):
    cache, _ = pair
    await cache.set("k", "old", tags=["t"])
    l2 = cache._tiers.shared.l2
    drop = getattr(l2, command)

    async def slow(*arguments):
        assert await cache.get("k", "default") == "old", "Redis still has it"
        return await drop(*arguments)

    monkeypatch.setattr(l2, command, slow)
    await change(cache)
    assert await cache.get("k", "default") is None


async def test_a_status_finds_out_that_redis_is_back_although_nobody_uses_the_cache(redis_server):
    cache = CacheManager()
    await cache.enable(redis_url=redis_server.url)
    await cache.set("k", 1)
    redis_server.kill()
    assert await cache.get("other") is None
    assert (await cache.get_statistics())["degraded"]
    redis_server.start()

    async def whole():
        return not (await cache.get_statistics())["degraded"]

    await until(whole)
    await cache.disable()
