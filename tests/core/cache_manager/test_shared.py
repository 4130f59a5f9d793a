"""What was under way when Redis is left keeps nothing any more: it may be old, or of another Redis."""

import asyncio

import pytest

from bot.core.cache_manager import CacheManager

LEAVE = {
    "off": lambda cache: cache.disable(),
    "without Redis": lambda cache: cache.enable(redis_url=""),
}


@pytest.fixture
async def held(redis_server):
    """A cache, an event for "what is held has begun", and one that lets it go on."""
    cache = CacheManager()
    await cache.enable(redis_url=redis_server.url)
    begun, go_on = asyncio.Event(), asyncio.Event()
    yield cache, begun, go_on
    await cache.disable()


def hold(of, name, begun, go_on):
    """Let a method of an object begin, and end only when it may."""
    method = getattr(of, name)

    async def held(*args):
        found = await method(*args)
        begun.set()
        await go_on.wait()
        return found

    setattr(of, name, held)


@pytest.mark.parametrize("leave", LEAVE)
async def test_a_read_that_ends_after_redis_was_left_is_answered_and_not_kept(held, leave):
    cache, begun, go_on = held
    await cache.set("k", "of Redis", namespace="n")
    cache._tiers.local.l1.store.clear()
    hold(cache._l2.link.reader, "get", begun, go_on)
    read = asyncio.ensure_future(cache.get("k", "n"))
    await begun.wait()
    await LEAVE[leave](cache)
    go_on.set()
    assert await read == "of Redis"
    await cache.enable(redis_url="")
    assert await cache.get("k", "n") is None


@pytest.mark.parametrize("leave", LEAVE)
async def test_a_set_whose_tags_come_after_redis_was_left_changes_nothing(held, leave):
    cache, begun, go_on = held
    hold(cache._l2.l2, "open_tags", begun, go_on)
    write = asyncio.ensure_future(cache.set("k", "new", tags=["t"]))
    await begun.wait()
    await LEAVE[leave](cache)
    go_on.set()
    assert await write is False
    await cache.enable(redis_url="")
    assert await cache.get("k") is None


@pytest.mark.parametrize("tags", [(), ("t",)], ids=["no tags", "tags"])
async def test_a_load_that_ends_after_the_cache_went_off_leaves_nothing_in_it(held, tags):
    cache, begun, go_on = held

    async def load():
        begun.set()
        await go_on.wait()
        return "loaded"

    task = asyncio.ensure_future(cache.get_or_load("k", load, tags=tags))
    await begun.wait()
    await cache.disable()
    go_on.set()
    assert await task == "loaded"
    assert (await cache.get_statistics())["l1_entries"] == 0
