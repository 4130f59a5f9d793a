"""Whatever await of the cache is cancelled, Redis comes to hold nothing old and no connection stays."""

import asyncio

import pytest

from bot.core.cache_manager import CacheManager
from bot.core.redis_link import RedisLink
from tests.support.waiting import equals, until

AWAITS = range(12)
"""More than any of the calls has; those beyond its end find it done."""


class CancelledAt:
    """Awaits a call; the task is cancelled as it begins to wait for the n-th time."""

    def __init__(self, call, at):
        self.call = call
        self.at = at
        self.reached = False

    def __await__(self):
        steps = self.call.__await__()
        resume = steps.send, None
        waits = 0
        while True:
            step, argument = resume
            try:
                waiting_for = step(argument)
            except StopIteration as end:
                return end.value
            if waits == self.at:
                self.reached = True
                asyncio.current_task().cancel()
            waits += 1
            try:
                yield waiting_for
                resume = steps.send, None
            except BaseException as error:
                resume = steps.throw, error


async def cancelled(call, at):
    """Whether the call was cancelled at that await; False if it had ended before."""
    guarded = CancelledAt(call, at)

    async def run():
        await guarded

    task = asyncio.ensure_future(run())
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None
    return guarded.reached


CHANGES = {
    "set": lambda a: a.set("k", "new"),
    "set with tags": lambda a: a.set("k", "new", tags=["t"]),
    "set_many": lambda a: a.set_many({"k": "new", **{f"n{n}": n for n in range(600)}}),
    "set what Redis does not carry": lambda a: a.set("k", object),
    "delete": lambda a: a.delete("k"),
    "invalidate_tag": lambda a: a.invalidate_tag("t"),
    "invalidate_tags": lambda a: a.invalidate_tags(["t", *(f"t{n}" for n in range(300))]),
    "invalidate_pattern": lambda a: a.invalidate_pattern("k*"),
    "clear": lambda a: a.clear(),
}


@pytest.mark.parametrize("at", AWAITS)
@pytest.mark.parametrize("change", CHANGES)
async def test_what_was_half_changed_is_the_same_for_all_in_the_end(pair, change, at):
    a, b = pair
    await a.set("k", "old", tags=["t"])
    assert await b.get("k") == "old"
    await cancelled(CHANGES[change](a), at)

    async def in_step():
        return a._l2.in_step

    await until(in_step)
    # Changed or not changed at all: if this instance no longer gives the old value, nobody does.
    mine = await a.get("k")
    if mine != "old":
        await until(lambda: equals(lambda: _is_old(b), False))
        fresh = CacheManager()
        await fresh.enable(redis_url=a._l2.link.url)
        assert await fresh.get("k") != "old"
        await fresh.disable()


async def _is_old(cache):
    return await cache.get("k") == "old"


@pytest.mark.parametrize("at", AWAITS)
async def test_a_load_that_is_cancelled_leaves_nothing_half_stored(pair, at):
    a, b = pair

    async def load():
        await asyncio.sleep(0)
        return "loaded"

    await cancelled(a.get_or_load("k", load, tags=["t"]), at)
    assert await a.get_or_load("k", load, tags=["t"]) == "loaded"
    await a.invalidate_tag("t")
    await until(lambda: equals(lambda: b.get("k"), None))
    assert len(a._loads.flights) == 0


@pytest.mark.parametrize("at", AWAITS)
async def test_disable_gives_everything_back(redis_server, at):
    cache = CacheManager()
    await cache.enable(redis_url=redis_server.url)
    await cache.set("k", 1, tags=["t"])
    await cache.get("absent", namespace="default")
    await cancelled(cache.disable(), at)
    assert not cache.enabled
    assert not RedisLink._links, "at once, and not at the next call"
    assert await cache.disable()
    assert not RedisLink._links
    await until(lambda: equals(lambda: _connections(redis_server), 0))


@pytest.mark.parametrize("at", AWAITS)
async def test_enable_is_done_or_not_begun(redis_server, at):
    cache = CacheManager()
    await cache.enable(redis_url=redis_server.url)
    other = redis_server.url.replace("/0", "/1")
    await cancelled(cache.enable(redis_url=other), at)
    assert cache._l2.link.url == cache._settings.redis_url
    assert list(RedisLink._links) == [cache._l2.link.url]
    await cache.set("k", 1)
    assert await cache.get("k") == 1
    assert await cache.disable()
    assert not RedisLink._links
    await until(lambda: equals(lambda: _connections(redis_server), 0))


async def _connections(server):
    link = RedisLink(server.url)
    try:
        listed = await link.execute("CLIENT", "LIST")
        return len(listed.strip().splitlines()) - 1
    finally:
        await link.close()
