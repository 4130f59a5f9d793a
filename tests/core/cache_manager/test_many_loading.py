"""get_or_load_many: one loader for what is missing, one load of each key."""

import asyncio
import collections

import pytest

from bot.core.cache_manager import CacheManager, CircularLoadError, LoaderTimeoutError
from bot.core.cache_manager.many_loading import MAX_KEYS
from tests.support.waiting import equals, until


class Source:
    """What is loaded from; it remembers what it was asked for."""

    def __init__(self, rows=None):
        self.rows = {} if rows is None else rows
        self.calls = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, keys):
        self.calls.append(list(keys))
        await self.gate.wait()
        return {key: self.rows.get(key, f"value of {key}") for key in keys if self.rows.get(key, 0) != "none"}


async def loading(cache):
    return len(cache._loads.flights)


async def test_one_call_loads_all_that_is_missing(cache):
    source = Source()
    await cache.set("b", "cached")
    found = await cache.get_or_load_many(["a", "b", "c", "a"], source)
    assert found == {"a": "value of a", "b": "cached", "c": "value of c"}
    assert list(found) == ["a", "b", "c"]
    assert source.calls == [["a", "c"]]
    assert await cache.get_or_load_many(iter("abc"), source) == found
    assert source.calls == [["a", "c"]]
    assert (await cache.get_statistics())["loads"] == 1
    assert await cache.get_or_load_many([], source) == {}


async def test_what_the_loader_leaves_out_is_left_out_and_asked_for_again(cache):
    source = Source({"gone": "none", "null": None})
    for calls in (1, 2):
        assert await cache.get_or_load_many(["gone", "null"], source) == {"null": None}
        assert len(source.calls) == calls
    assert source.calls == [["gone", "null"], ["gone"]]


async def test_a_key_that_is_being_loaded_is_awaited(cache):
    source, other = Source(), Source()
    source.gate.clear()
    other.gate.clear()
    first = asyncio.create_task(cache.get_or_load_many(["a", "b"], source))
    await until(lambda: equals(lambda: loading(cache), 2))

    async def load_one():
        raise AssertionError("b is being loaded")

    single = asyncio.create_task(cache.get_or_load("b", load_one))
    second = asyncio.create_task(cache.get_or_load_many(["b", "c"], other))
    await until(lambda: equals(lambda: loading(cache), 3))
    source.gate.set()
    other.gate.set()
    assert await first == {"a": "value of a", "b": "value of b"}
    assert await second == {"b": "value of b", "c": "value of c"}
    assert await single == "value of b"
    assert (source.calls, other.calls) == ([["a", "b"]], [["c"]])


async def test_a_key_that_one_load_does_not_know_is_loaded_by_the_next(cache):
    source, other = Source({"a": "none"}), Source()
    source.gate.clear()
    first = asyncio.create_task(cache.get_or_load_many(["a"], source))
    await until(lambda: equals(lambda: loading(cache), 1))

    async def load_one():
        return "alone"

    second = asyncio.create_task(cache.get_or_load_many(["a"], other))
    third = asyncio.create_task(cache.get_or_load("a", load_one))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.gate.set()
    assert await first == {}
    assert (await second)["a"] == await third == await cache.get("a")


async def test_a_failure_reaches_those_who_asked_for_its_keys_and_is_not_cached(cache):
    gate = asyncio.Event()

    async def fail(keys):
        await gate.wait()
        raise ConnectionError("away")

    first = asyncio.create_task(cache.get_or_load_many(["a", "b"], fail))
    await until(lambda: equals(lambda: loading(cache), 2))
    second = asyncio.create_task(cache.get_or_load_many(["b", "c"], Source()))
    third = asyncio.create_task(cache.get_or_load_many(["c"], Source()))
    for _ in range(5):
        await asyncio.sleep(0)
    gate.set()
    for task in (first, second):
        with pytest.raises(ConnectionError, match="away"):
            await task
    assert await third == {"c": "value of c"}
    assert await cache.get_or_load_many(["a", "b"], Source()) == {"a": "value of a", "b": "value of b"}


async def test_who_is_cancelled_cancels_nobody_else(cache):
    source = Source()
    source.gate.clear()
    first = asyncio.create_task(cache.get_or_load_many(["a", "b"], source))
    await until(lambda: equals(lambda: loading(cache), 2))
    second = asyncio.create_task(cache.get_or_load_many(["b"], Source()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    source.gate.set()
    assert await second == {"b": "value of b"}


async def test_when_all_are_cancelled_the_load_is(cache):
    ended = asyncio.Event()

    async def load(keys):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    tasks = [asyncio.create_task(cache.get_or_load_many(keys, load)) for keys in (["a", "b"], ["b", "a"])]
    await until(lambda: equals(lambda: loading(cache), 2))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.wait_for(ended.wait(), 5)
    await until(lambda: equals(lambda: loading(cache), 0))
    assert len(cache._loads.batches) == 0


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_at_any_moment_it_leaves_nothing(cache, turns):
    task = asyncio.create_task(cache.get_or_load_many(["a", "b"], Source()))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: equals(lambda: loading(cache), 0))
    assert await cache.get_or_load_many(["a"], Source()) == {"a": "value of a"}


@pytest.mark.parametrize("own", ["a", "b"])
async def test_a_loader_that_waits_for_one_of_its_keys_gets_an_error(cache, own):
    async def load(keys):
        return {own: await cache.get_or_load(own, lambda: asyncio.sleep(0))}

    with pytest.raises(CircularLoadError, match="circular load"):
        await cache.get_or_load_many(["a", "b"], load)

    async def many(keys):
        return await cache.get_or_load_many([own], Source())

    with pytest.raises(CircularLoadError, match="circular load"):
        await cache.get_or_load_many(["a", "b"], many)


async def test_a_load_that_takes_too_long_is_given_up(cache):
    await cache.enable(load_timeout=0.01)
    with pytest.raises(LoaderTimeoutError, match=r"loading 2 keys, 'a' among them took longer than 0\.01 s"):
        await cache.get_or_load_many(["a", "b"], lambda keys: asyncio.Event().wait())


async def test_a_change_during_the_load_is_not_undone(cache):
    source = Source()
    source.gate.clear()
    task = asyncio.create_task(cache.get_or_load_many(["a", "b"], source))
    await until(lambda: equals(lambda: loading(cache), 2))
    await cache.set("a", "newer")
    await cache.delete("b")
    source.gate.set()
    assert await task == {"a": "value of a", "b": "value of b"}
    assert await cache.get_many(["a", "b"]) == {"a": "newer"}


async def test_ttl_and_tags_may_be_of_the_value(cache, clock):
    source = Source({"a": 1, "b": 100, "c": 0})
    found = await cache.get_or_load_many(
        "abc", source, ttl=lambda n: n or None, tags=lambda n: [f"n:{n}"], namespace="numbers"
    )
    assert found == {"a": 1, "b": 100, "c": 0}
    assert await cache.get_many("abc", "numbers") == {"a": 1, "b": 100}
    await clock.advance(2)
    assert await cache.get_many("abc", "numbers") == {"b": 100}
    assert await cache.invalidate_tag("n:100") == 1


async def test_a_value_that_cannot_be_copied_is_for_its_caller(cache):
    async def load(keys):
        return {key: asyncio.get_running_loop() for key in keys}

    found = await cache.get_or_load_many(["a", "b"], load)
    assert set(found.values()) == {asyncio.get_running_loop()}
    assert await cache.get_many(["a", "b"]) == {}


async def test_callers_share_nothing_that_can_change(cache):
    source = Source({"a": [1]})
    tasks = [cache.get_or_load_many(["a"], source) for _ in range(3)]
    for found in await asyncio.gather(*tasks):
        assert found == {"a": [1]}
        found["a"].append(2)
    assert (len(source.calls), source.rows["a"]) == (1, [1])


async def test_while_off_the_loader_gets_every_key():
    source = Source({"b": "none"})
    assert await CacheManager().get_or_load_many("aba", source) == {"a": "value of a"}
    assert source.calls == [["a", "b"]]


async def test_in_a_bypass_the_loader_gets_every_key_and_nothing_is_cached(cache):
    source = Source()
    await cache.set("a", "cached")
    with cache.bypass():
        assert await cache.get_or_load_many("ab", source) == {"a": "value of a", "b": "value of b"}
    assert await cache.get_many("ab") == {"a": "cached"}


async def test_hooks_hear_of_each_key_that_was_loaded(cache):
    heard = []
    for kind in ("load", "error"):
        cache.on(kind, lambda event: heard.append((event.kind, event.key, type(event.error))))
    await cache.get_or_load_many("ab", Source())
    with pytest.raises(TypeError):
        await cache.get_or_load_many("c", lambda keys: asyncio.sleep(0))
    await asyncio.sleep(0)
    nothing = type(None)
    assert heard == [("load", "a", nothing), ("load", "b", nothing), ("error", None, TypeError)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"keys": [1]}, "key = 1"), ({"keys": [""]}, "key = ''"), ({"ttl": -1}, "ttl = -1"),
        ({"tags": "t"}, "tags = 't'"), ({"namespace": ""}, "namespace = ''"),
        ({"keys": map(str, range(MAX_KEYS + 1))}, "keys = 10001: expected at most"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said_before_anything_is_loaded(cache, given, expected):
    source = Source()
    with pytest.raises((TypeError, ValueError), match=expected):
        await cache.get_or_load_many(**{"keys": ["a"], "loader": source, **given})
    assert source.calls == []


@pytest.mark.parametrize("answer", [None, ["a"], "a", 5])
async def test_a_loader_that_gives_no_mapping_is_told(cache, answer):
    async def load(keys):
        return answer

    with pytest.raises(TypeError, match=r"loader of many keys returned a .*: expected a mapping"):
        await cache.get_or_load_many(["a"], load)


async def test_what_was_not_asked_for_is_not_cached(cache):
    async def load(keys):
        return collections.defaultdict(list, a=1, intruder=2)

    assert await cache.get_or_load_many(["a", "b"], load) == {"a": 1}
    assert await cache.get("intruder") is None


# Over Redis.


async def test_what_one_instance_loaded_another_reads_in_one_round_trip(pair):
    a, b = pair
    source = Source({"k3": range(3), "k4": "x" * 300_000})
    keys = [f"k{n}" for n in range(600)] + ["ключ", "x" * 2000]
    found = await a.get_or_load_many(keys, source)
    assert (len(found), source.calls) == (602, [keys])
    reads = b._tiers.shared.link.reader.batches
    assert await b.get_or_load_many(keys, source, namespace="default") == found
    assert source.calls[1:] == [["k3"]], "what Redis cannot carry"
    assert b._tiers.shared.link.reader.batches - reads <= 10, "and not one for each key"


@pytest.mark.parametrize("tags", [("t",), lambda value: ("t", value)], ids=["given", "of the value"])
async def test_tags_are_dropped_everywhere(pair, tags):
    a, b = pair
    source = Source()
    keys = [f"k{n}" for n in range(5)]
    await a.get_or_load_many(keys, source, tags=tags)
    assert await b.get_many(keys) == await a.get_many(keys)
    await b.invalidate_tag("t")
    await until(lambda: equals(lambda: a.get_many(keys), {}))
    assert await b.get_many(keys) == {}


async def test_a_tag_that_is_dropped_during_the_load_drops_what_it_brings(pair):
    a, b = pair
    for tags in (("t",), lambda value: ("t",)):
        source = Source()
        source.gate.clear()
        task = asyncio.create_task(a.get_or_load_many(["a", "b"], source, tags=tags))
        await until(lambda source=source: equals(lambda: _calls(source), 1))
        await b.invalidate_tag("t")
        source.gate.set()
        assert len(await task) == 2
        assert await b.get_many(["a", "b"]) == {}


@pytest.mark.parametrize("change", ["set", "delete", "tag"])
async def test_a_key_that_changes_while_others_are_stored_is_not_stored_with_its_old_value(pair, change):
    """The first round trip has begun, and the key is to go with the last one."""
    a, b = pair
    keys = [f"k{n}" for n in range(6_000)]  # more than the log of changes remembers
    l2 = a._tiers.shared.l2
    as_it_is, trips = l2.set_many, []

    async def set_many(namespace, pairs, *rest):
        trips.append(len(pairs))
        if len(trips) == 1:
            if change == "set":
                await a.set("k5999", "newer")
            elif change == "delete":
                await a.delete("k5999")
            else:
                await a.invalidate_tag("tag of k5999")
        return await as_it_is(namespace, pairs, *rest)

    l2.set_many = set_many
    tags = (lambda value: (value.replace("value", "tag"),)) if change == "tag" else ()
    await a.get_or_load_many(keys, Source(), tags=tags)
    expected = "newer" if change == "set" else None
    assert (await a.get("k5999"), await b.get("k5999")) == (expected, expected)
    assert sum(trips) - (change == "set") == 5_999, "all the others"
    assert await b.get("k5998") == "value of k5998"


async def _calls(source):
    return len(source.calls)


async def test_while_redis_is_away_it_loads_all_the_same(redis_server):
    cache = CacheManager()
    await cache.enable(redis_url="redis://127.0.0.1:1/0")
    source = Source()
    for _ in range(2):
        assert await cache.get_or_load_many("ab", source, tags=["t"]) == {
            "a": "value of a",
            "b": "value of b",
        }
    assert source.calls == [["a", "b"]]
    await cache.disable()
