"""How long a value stays: numbers, timedeltas, functions of the value, and FOREVER."""

import decimal
import logging
import math
from datetime import timedelta

import pytest

from bot.core.cache_manager import FOREVER, LoadOptions, cached
from bot.core.cache_manager.ttls import FOREVER_SECONDS, by_ttl, ttl_for, valid_ttl

YEAR = 365 * 86_400


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (5, 5.0), (0.25, 0.25), (timedelta(minutes=2), 120.0), (timedelta(microseconds=1), 1e-6),
        (FOREVER, FOREVER_SECONDS), (math.inf, FOREVER_SECONDS), (1e15, 1e15),
    ],
)  # fmt: skip
def test_what_is_a_ttl(given, seconds):
    assert valid_ttl("ttl", given) == ttl_for(given, "value") == seconds
    assert ttl_for(lambda value: given, "value") == seconds


@pytest.mark.parametrize(
    "given",
    [
        0, -1, True, False, math.nan, -math.inf, 1.1e15, 10**400, "300", decimal.Decimal(5), timedelta(0),
        timedelta(-1), [5],
    ],
)  # fmt: skip
async def test_what_is_none_is_refused_everywhere(cache, given):
    async def load():
        raise AssertionError("it was called")

    for call in (
        lambda: cache.set("k", 1, given), lambda: cache.set_many({"k": 1}, given),
        lambda: cache.get_or_load("k", load, given), lambda: cache.warm_cache("k", load, given),
        lambda: cache.set("k", 1, lambda value: given), lambda: cache.set_many({"k": 1}, lambda v: given),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"ttl = .*: expected a number of seconds > 0 and .* or FOREVER"):
            await call()
    with pytest.raises(ValueError, match="ttl = "):
        cached(ttl=given)
    assert await cache.get("k") is None


async def test_a_function_of_the_value_decides_for_each(cache, clock):
    def ttl(user):
        return {"gone": None, "young": 10}.get(user, timedelta(seconds=100))

    await cache.set("a", "gone")
    assert not await cache.set("a", "gone", ttl)
    assert await cache.set("b", "young", ttl)
    assert await cache.set_many({"c": "young", "d": "old", "e": "gone", "f": "old"}, ttl) == 3
    assert await cache.warm_cache("g", lambda: _value("young"), ttl)
    assert await cache.warm_cache("h", lambda: _value("gone"), ttl)
    for key, value in {"i": "young", "j": "old", "k": "gone"}.items():
        assert await cache.get_or_load(key, lambda value=value: _value(value), ttl) == value
    assert [key for key in "abcdefghijk" if await cache.get(key)] == list("bcdfgij")
    await clock.advance(11)
    assert [key for key in "abcdefghijk" if await cache.get(key)] == list("dfj")


async def _value(value):
    return value


async def test_a_function_that_would_have_to_be_awaited_is_refused(cache):
    with pytest.raises(ValueError, match=r"ttl = <function _value .* or a plain function of the value"):
        await cache.set("k", 1, _value)
    with pytest.raises(ValueError, match="ttl = <function _value"):
        cached(ttl=_value)


async def test_a_none_has_the_negative_ttl_if_there_is_one(cache):
    options = LoadOptions(negative_ttl=5)
    await cache.get_or_load("k", lambda: _value(None), lambda value: None, options=options)
    assert await cache.get("k", default="absent") is None


async def test_a_wrong_result_is_not_cached_and_logged_once(cache, caplog):
    calls = []

    def wrong(value):
        return -1

    def broken(value):
        return value["missing"]

    async def load():
        calls.append(1)
        return {}

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await cache.get_or_load("wrong", load, wrong) == {}
            assert await cache.get_or_load("broken", load, broken) == {}
            assert await cache.warm_cache("warmed", load, broken)
    assert len(calls) == 9
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "InvalidArgumentError: the result of ttl = -1: expected a number of seconds > 0 and"
        " <= 1,000,000,000,000,000, a timedelta > 0, or FOREVER",
        "KeyError: 'missing'",
    ]


async def test_for_ever_in_memory(cache, clock):
    await cache.set("k", [1], FOREVER, tags=["t"])
    await cache.get_or_load("l", lambda: _value(1), FOREVER, options=LoadOptions(ttl_jitter=100))
    await clock.advance(1000 * YEAR)
    assert await cache.get("k") == [1]
    assert await cache.get("l") == 1
    assert await cache.invalidate_tag("t") == 1


async def test_for_ever_in_redis(pair, raw):
    one, other = pair
    await one.set("k", [1], FOREVER, tags=["t"])
    await one.set_many({"m": [2]}, FOREVER)
    await one.get_or_load("l", lambda: _value("x"), lambda value: FOREVER, tags=["t"])
    assert await other.get_many(["k", "l", "m"]) == {"k": [1], "l": "x", "m": [2]}
    for at in (b"p4c:v:default:k", b"p4c:v:default:l", b"p4c:v:default:m", b"p4c:g:t"):
        assert (await raw.pipeline([("PTTL", at)]))[0] > 1000 * YEAR * 1000, at
    await other.invalidate_tag("t")
    assert await one.get_many(["m"]) == {"m": [2]}


async def test_values_of_several_ttls_in_redis(pair):
    one, other = pair
    await one.set("none", 1)
    stored = await one.set_many({"none": 0, "some": 5}, lambda value: value or None)
    assert stored == 1
    assert await other.get_many(["none", "some"]) == {"some": 5}


def test_pairs_by_ttl():
    pairs = [("a", 1), ("b", 2), ("c", 1)]
    assert by_ttl(pairs, None, 300.0) == {300.0: pairs}
    assert by_ttl(pairs, 5, 300.0) == {5.0: pairs}
    assert by_ttl(pairs, lambda value: value, 300.0) == {1.0: [pairs[0], pairs[2]], 2.0: [pairs[1]]}
