"""Whoever cancels a call to Redis has it cancelled, whatever the client library does with it."""

import asyncio
import contextlib

import pytest

from bot.core._shared.errors import BackendError
from bot.core.redis_link import RedisLink, RedisRefusedError


@pytest.mark.parametrize("ending", ["an answer", "an error"])
async def test_a_cancellation_that_the_client_swallows_is_not_lost(redis_url, ending):
    link = RedisLink(redis_url)
    begun = asyncio.Event()

    async def swallow(client):
        try:
            begun.set()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            # As asyncio.wait_for did before Python 3.12, when both come in one turn of the loop.
            if ending == "an error":
                return await client.execute_command("NONSENSE")
            return await client.ping()

    calling = asyncio.ensure_future(link.run(swallow))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert calling.cancelled()
    with pytest.raises(RedisRefusedError):
        await link.execute("NONSENSE")
    await link.close()


async def test_a_cache_whose_disable_is_cancelled_gives_everything_back(redis_server):
    import redis

    from bot.core.cache_manager import CacheManager

    def connections():
        with redis.Redis(port=redis_server.port) as client:
            return len(client.client_list()) - 1

    for turns in range(12):
        cache = CacheManager()
        await cache.enable(redis_url=redis_server.url)
        await cache.set("k", 1)
        await cache._l2.link.reader.get(b"k")
        ending = asyncio.ensure_future(cache.disable())
        for _ in range(turns):
            await asyncio.sleep(0)
        ending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ending
        await cache.disable()
        assert not RedisLink._links
        async with asyncio.timeout(10):
            while await asyncio.to_thread(connections):
                await asyncio.sleep(0.01)


async def test_calls_cancelled_at_any_turn_leave_a_link_that_works(redis_server):
    """While connections are lost, a primary is demoted, and its name leads nowhere else."""
    import redis

    link = RedisLink(redis_server.url)
    script = link.batched_script("return {redis.call('INCR', KEYS[1])}", lambda found, calls: found)
    await link.execute("SET", "a", 1)
    here = redis.Redis(port=redis_server.port)
    calls = [
        lambda: link.execute("SET", "a", 2),
        lambda: link.pipeline([("SET", "a", 2), ("PUBLISH", "c", "m")]),
        lambda: link.script("return redis.call('INCR', KEYS[1])")(["n"]),
        lambda: script.call(b"n", b""),
        lambda: link.reader.get(b"a"),
    ]
    for trouble in (("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"), ("REPLICAOF", "127.0.0.1", 1)):
        for turns in range(1, 30, 3):
            here.execute_command(*trouble)
            link.parts.primary.look_at = 0.0
            made = [asyncio.ensure_future(call()) for call in calls]
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            for one in made:
                one.cancel()
            await asyncio.wait(made, timeout=10)
            assert all(one.done() for one in made)
            # Calls of a batched script are tried elsewhere by a task of the link's, which ends by itself.
            async with asyncio.timeout(10):
                while link.parts.primary.looking is not None:
                    await asyncio.sleep(0.001)
    here.execute_command("REPLICAOF", "NO", "ONE")
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(BackendError):
                assert await link.execute("SET", "a", 3)
                assert await script.call(b"n", b"")
                assert await link.reader.get(b"a") == b"3"
                break
            await asyncio.sleep(0.01)
    await script.stop()
    await link.close()
    async with asyncio.timeout(10):
        while len(here.client_list()) > 1:
            await asyncio.sleep(0.01)
