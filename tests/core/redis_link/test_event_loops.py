"""The link under a second event loop, in another thread's, and in a child after a fork."""

import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from bot.core._shared.errors import MisuseError
from bot.core._shared.loop_owner import LoopOwner, still_runs
from bot.core.cache_manager import CacheManager
from bot.core.rate_limiter import RateLimitConfig, RateLimiter
from bot.core.redis_link import RedisLink, RedisUnavailableError

SLOW = RateLimitConfig(0.0001, 1000)


FACTORIES = [pytest.param(asyncio.new_event_loop, id="asyncio")]
with contextlib.suppress(ImportError):
    import uvloop

    FACTORIES.append(pytest.param(uvloop.new_event_loop, id="uvloop"))


def run(factory, coroutine):
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(coroutine)


def connections(server):
    """How many clients the server has, apart from who asks."""
    import redis

    with redis.Redis(port=server.port) as client:
        return len(client.client_list()) - 1


def settles(server, most):
    """Whether the server comes to have at most so many clients."""
    for _ in range(1000):
        if connections(server) <= most:
            return True
        threading.Event().wait(0.01)
    return False


async def use(cache, limiter, value):
    """Everything that goes to Redis, once; whether any of it is degraded."""
    await cache.set("k", value, namespace="n")
    assert await cache.get("k", "n") == value
    assert await cache._l2.link.execute("PING") in (b"PONG", True)
    allowed, status = await limiter.is_allowed("c", SLOW)
    assert allowed
    figures = [await service.get_statistics() for service in (cache, limiter)]
    return status.degraded or any(one["degraded"] for one in figures)


async def enabled(server):
    cache, limiter = CacheManager(), RateLimiter()
    await cache.enable(redis_url=server.url)
    await limiter.enable(redis_url=server.url)
    assert not await use(cache, limiter, 0)
    return cache, limiter


async def disabled(*services):
    for service in services:
        await service.disable()


ONE_LINK = 6
"""Connections of a cache and a limiter at most: calls, reads, the script, two subscriptions."""


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_second_run_goes_on_and_closes_what_the_first_left(redis_server, factory):
    cache, limiter = run(factory, enabled(redis_server))
    for value in range(1, 4):

        async def again(value=value):
            assert not await use(cache, limiter, value)
            return await asyncio.to_thread(settles, redis_server, ONE_LINK)

        assert run(factory, again())
    run(factory, disabled(cache, limiter))
    assert settles(redis_server, 0)
    assert not RedisLink._links


@pytest.mark.parametrize("factory", FACTORIES)
def test_l1_answers_under_the_second_loop(redis_server, factory):
    cache = CacheManager()

    async def setup():
        await cache.enable(redis_url=redis_server.url)
        await cache.set("k", 1, ttl=60, namespace="n")

    async def main():
        for _ in range(100):
            assert await cache.get("k", "n") == 1
        figures = await cache.get_statistics()
        await cache.disable()
        return figures["l1_hits"], figures["degraded"]

    run(factory, setup())
    assert run(factory, main()) == (99, False)


@pytest.mark.parametrize("factory", FACTORIES)
def test_loops_in_turn_that_nobody_closes(redis_server, factory):
    first, second = factory(), factory()
    cache, limiter = first.run_until_complete(enabled(redis_server))
    for value in range(3):
        for loop in (second, first):
            assert not loop.run_until_complete(use(cache, limiter, value))
            assert settles(redis_server, ONE_LINK)
    first.run_until_complete(disabled(cache, limiter))
    assert settles(redis_server, 0)
    for loop in (first, second):
        loop.run_until_complete(asyncio.sleep(0.01))  # what was cancelled ends
        loop.close()


def test_changes_of_others_are_heard_under_the_second_loop(redis_server):
    cache, other = CacheManager(), CacheManager()

    async def setup():
        await cache.enable(redis_url=redis_server.url)
        await cache.set("k", "old", namespace="n")

    async def main():
        await other.enable(redis_url=redis_server.url)
        assert await cache.get("k", "n") == "old"
        await other.set("k", "new", namespace="n")
        async with asyncio.timeout(10):
            while await cache.get("k", "n") != "new":
                await asyncio.sleep(0.01)
        await disabled(cache, other)

    asyncio.run(setup())
    asyncio.run(main())


@pytest.mark.parametrize("factory", FACTORIES)
def test_another_threads_loop_is_served_while_the_first_runs(redis_server, factory):
    async def main():
        cache, limiter = await enabled(redis_server)
        for value in range(3):
            in_thread = await asyncio.to_thread(run, factory, use(cache, limiter, value))
            assert in_thread is False
            assert not await use(cache, limiter, value)
        assert await asyncio.to_thread(settles, redis_server, ONE_LINK)
        await asyncio.to_thread(run, factory, disabled(cache, limiter))
        assert await asyncio.to_thread(settles, redis_server, 0)

    run(factory, main())
    assert not RedisLink._links


def test_a_service_of_another_threads_own_has_a_link_of_its_own(redis_server):
    async def own():
        return await use(*(services := await enabled(redis_server)), 1) or await disabled(*services)

    async def main():
        services = await enabled(redis_server)
        assert await asyncio.to_thread(asyncio.run, own()) is None
        assert not await use(*services, 2)
        await disabled(*services)

    asyncio.run(main())
    assert not RedisLink._links


def test_a_loop_that_is_blocked_is_an_error_in_bounded_time(redis_server):
    link = RedisLink(redis_server.url, timeout=0.1)
    errors = []

    def in_thread():
        try:
            asyncio.run(link.execute("PING"))
        except RedisUnavailableError as error:
            errors.append(str(error))

    async def main():
        await link.execute("PING")
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join(20)  # holds this event loop
        assert await link.execute("PING") in (b"PONG", True)
        await link.close()

    asyncio.run(main())
    assert len(errors) == 1
    assert "blocked or has ended" in errors[0]


def test_the_client_itself_belongs_to_one_loop(redis_server):
    link = RedisLink(redis_server.url)

    async def other():
        link.client()

    async def main():
        await link.execute("PING")
        with pytest.raises(MisuseError, match="another thread"):
            await asyncio.to_thread(asyncio.run, other())
        await link.close()

    asyncio.run(main())


FORKS = """
    import asyncio, os, sys
    from bot.core.cache_manager import CacheManager
    from bot.core.rate_limiter import RateLimitConfig, RateLimiter

    factory = asyncio.new_event_loop
    if sys.argv[2] == "uvloop":
        import uvloop
        factory = uvloop.new_event_loop
    cache, limiter = CacheManager(), RateLimiter()

    def run(coroutine):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(coroutine)

    async def use(value):
        for turn in range(20):
            await cache.set("k%d" % value, value * 100 + turn, namespace="n")
            assert await cache._l2.link.reader.get(b"nothing") is None
            assert await cache.get("k%d" % value, "n") == value * 100 + turn
            allowed, status = await limiter.is_allowed(value, RateLimitConfig(0.0001, 1000))
            assert allowed and not status.degraded, status
        for service in (cache, limiter):
            assert not (await service.get_statistics())["degraded"]

    async def whole(value):
        await use(value)
        await cache.disable()
        await limiter.disable()

    def fork(child):
        pid = os.fork()
        if pid == 0:
            try:
                child()
            except BaseException as error:
                print("child:", repr(error), flush=True)
                os._exit(1)
            os._exit(0)
        return pid

    def ended(pid):
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    async def main():
        await cache.enable(redis_url=sys.argv[1])
        await limiter.enable(redis_url=sys.argv[1])
        await use(1)
        children = [fork(lambda n=n: run(whole(n))) for n in (2, 3)]
        await use(1)  # beside them
        for pid in children:
            await asyncio.to_thread(ended, pid)
        await use(1)

    loop = factory()
    loop.run_until_complete(main())
    ended(fork(lambda: run(whole(4))))      # forked between two turns of the loop
    if sys.argv[2] != "uvloop":
        ended(fork(lambda: loop.run_until_complete(whole(5))))   # the child goes on with its copy
    loop.run_until_complete(whole(6))
    loop.close()
    print("all served")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("factory", ["asyncio", "uvloop"])
def test_a_child_after_a_fork_has_connections_of_its_own(redis_server, factory):
    if factory == "uvloop":
        pytest.importorskip("uvloop")
    script = textwrap.dedent(FORKS)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, redis_server.url, factory],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.stdout == "all served\n", ran.stdout + ran.stderr


def test_an_owner_knows_whether_its_loop_still_runs():
    owner = LoopOwner()
    seen = []

    async def claim():
        seen.append((owner.claim(), owner.claim(), owner.elsewhere, still_runs(owner.loop)))

    async def main():
        await claim()
        seen.append(await asyncio.to_thread(lambda: owner.elsewhere))

    asyncio.run(main())
    assert seen == [(True, False, False, True), True]
    assert not owner.elsewhere
    assert not still_runs(owner.loop)
    asyncio.run(claim())
    assert seen[2] == (True, False, False, True)
    owner.release()
    assert owner.loop is None
