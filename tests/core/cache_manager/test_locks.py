"""Locks and single loads over several instances and a real Redis, and what happens when an owner dies."""

import asyncio
import multiprocessing
import os
import signal
from collections import OrderedDict

import pytest

from bot.core.cache_manager import CacheManager, LoadOptions, LockTimeoutError, cached
from bot.core.cache_manager import loading as loading_module
from bot.core.cache_manager.keys import LOAD, LOCK, lease_key
from tests.support.servers import RedisServer
from tests.support.waiting import equals, until


@pytest.fixture
async def three(redis_server):
    caches = [CacheManager() for _ in range(3)]
    for cache in caches:
        await cache.enable(redis_url=redis_server.url)
    yield caches
    for cache in caches:
        assert len(cache._locks) == 0
        assert not cache._locks._asleep
        await cache.disable()


class Room:
    """Notices when two are in it."""

    def __init__(self):
        self.inside = self.most = self.visits = 0

    async def stay(self):
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.visits += 1
        for _ in range(3):
            await asyncio.sleep(0)
        self.inside -= 1


async def holding(raw, kind, key="k"):
    return await raw.execute("GET", lease_key(kind, "default", key)) is not None


# A lock.


async def test_one_caller_of_all_instances_is_inside(three, raw):
    room = Room()

    async def visit(cache):
        async with cache.lock("k") as lease:
            assert lease.held
            assert lease.shared
            await room.stay()

    await asyncio.gather(*[visit(cache) for cache in three for _ in range(10)])
    assert (room.most, room.visits) == (1, 30)
    assert not await holding(raw, LOCK)


async def test_without_redis_it_holds_in_this_process(cache):
    room = Room()

    async def visit():
        async with cache.lock("k") as lease:
            assert not lease.shared
            await room.stay()

    await asyncio.gather(*[visit() for _ in range(10)])
    assert (room.most, room.visits, len(cache._locks)) == (1, 10, 0)


async def test_who_gives_up_leaves_the_line_and_the_others_keep_their_order(cache):
    entered = []

    async def visit(number):
        async with cache.lock("k"):
            entered.append(number)
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(visit(number)) for number in range(30)]
    await asyncio.sleep(0)
    (line,) = cache._locks._lines.values()
    assert len(line) == 29
    assert isinstance(line, OrderedDict), "who leaves is found at once, and so is the first"
    for task in tasks[28:3:-3]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert entered == [number for number in range(30) if number not in range(28, 3, -3)]
    assert len(cache._locks) == 0


async def test_who_waits_too_long_is_told(three):
    a, b, _ = three
    async with a.lock("k"):
        for other in (a, b):
            with pytest.raises(LockTimeoutError, match=r"the lock 'k' in 'default' is held .* 0\.05 s"):
                async with other.lock("k", wait=0.05):
                    pytest.fail("two are inside")
        with pytest.raises(TimeoutError):
            async with b.lock("k", wait=0):
                pytest.fail("two are inside")
        async with b.lock("another"), b.lock("k", namespace="other"):
            pass
    async with b.lock("k", wait=0):
        pass


async def test_a_short_lease_is_renewed_while_the_block_runs(pair, raw):
    a, b = pair
    async with a.lock("k", ttl=0.15) as lease:
        renewed = lease.renewed
        await until(lambda: equals(lambda: _is_later(lease, renewed, 0.3), True))
        with pytest.raises(LockTimeoutError):
            async with b.lock("k", wait=0.01):
                pytest.fail("two are inside")
        assert lease.held


async def _is_later(lease, than, seconds):
    return lease.renewed > than + seconds


async def test_an_owner_whose_lease_was_lost_hears_of_it(pair, raw):
    a, b = pair
    async with a.lock("k", ttl=0.1) as lease:
        await raw.execute("DEL", lease_key(LOCK, "default", "k"))
        async with b.lock("k") as other:
            await until(lambda: equals(lambda: _held(lease), False))
            assert other.held
        async with b.lock("k") as other:
            pass
    assert not await holding(raw, LOCK)


async def _held(lease):
    return lease.held


@pytest.mark.parametrize("turns", range(0, 40, 2))
async def test_cancelled_at_any_moment_it_is_free_again(pair, turns):
    a, b = pair

    async def visit(cache):
        async with cache.lock("k", ttl=5):
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(visit(cache)) for cache in (a, a, b)]
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in tasks[:2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with b.lock("k", wait=4):
        pass
    assert len(a._locks) == 0


@pytest.mark.parametrize("given", [{"ttl": 0}, {"ttl": True}, {"wait": -1}, {"key": ""}, {"namespace": ""}])
def test_what_is_wrong_is_said_at_once(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} = "):
        CacheManager().lock(**{"key": "k", **given})


@pytest.mark.server
async def test_while_redis_is_away_it_holds_in_this_process():
    server = RedisServer()
    server.start()
    a, b = CacheManager(), CacheManager()
    try:
        for cache in (a, b):
            await cache.enable(redis_url=server.url)
        server.freeze()
        async with a.lock("k") as lease, b.lock("k") as other:
            assert (lease.shared, other.shared) == (False, False)
            with pytest.raises(LockTimeoutError):
                async with a.lock("k", wait=0):
                    pytest.fail("two are inside")
        server.thaw()
        for cache in (a, b):
            await until(lambda cache=cache: equals(lambda: _answers(cache), True))
        async with a.lock("k") as lease:
            assert lease.shared
    finally:
        for cache in (a, b):
            await cache.disable()
        server.close()


async def _answers(cache):
    await cache.get("something else")
    return cache._tiers.shared.link.available


# A load.


class Source:
    def __init__(self, value="loaded"):
        self.value = value
        self.loads = 0
        self.gate = asyncio.Event()

    async def __call__(self):
        self.loads += 1
        await self.gate.wait()
        return self.value


async def test_one_instance_loads_for_all(three, raw):
    source = Source()
    tasks = [asyncio.create_task(cache.get_or_load("k", source, lock=True)) for cache in three * 20]
    await until(lambda: equals(lambda: holding(raw, LOAD), True))
    await until(lambda: equals(lambda: _asleep(three), 2))
    source.gate.set()
    assert await asyncio.gather(*tasks) == ["loaded"] * 60
    assert source.loads == 1
    assert not await holding(raw, LOAD)


async def _asleep(caches):
    return sum(len(cache._locks._asleep) for cache in caches)


async def test_a_setting_and_the_decorator_lock_loads_too(three):
    source = Source()
    source.gate.set()
    for cache in three:
        await cache.enable(load_lock=True)
    assert (
        await asyncio.gather(*[cache.get_or_load("k", source, tags=["t"]) for cache in three])
        == ["loaded"] * 3
    )
    assert source.loads == 1
    await asyncio.gather(*[cache.get_or_load("free", source, lock=False) for cache in three])
    assert source.loads >= 2

    @cached("p", lock=True)
    async def function(n):
        return n

    assert function.__wrapped__ is not None
    with pytest.raises(ValueError, match="lock = True: expected none for a plain def"):
        cached("p", lock=True)(lambda: 1)
    with pytest.raises(ValueError, match="lock = 1: expected True, False or None"):
        LoadOptions(lock=1)


async def test_a_load_that_fails_is_tried_by_the_next(pair):
    a, b = pair
    gate = asyncio.Event()

    async def fail():
        await gate.wait()
        raise ConnectionError("away")

    source = Source()
    source.gate.set()
    first = asyncio.create_task(a.get_or_load("k", fail, lock=True))
    await until(lambda: equals(lambda: _has_line(a), True))
    second = asyncio.create_task(b.get_or_load("k", source, lock=True))
    await until(lambda: equals(lambda: _asleep(pair), 1))
    gate.set()
    with pytest.raises(ConnectionError):
        await first
    assert (await second, source.loads) == ("loaded", 1)


async def _has_line(cache):
    return len(cache._locks) > 0


async def test_a_load_whose_lease_another_took_stores_nothing_over_it(pair, raw):
    a, b = pair
    slow, quick = Source("old"), Source("new")
    quick.gate.set()
    first = asyncio.create_task(a.get_or_load("k", slow, lock=True, tags=["t"]))
    await until(lambda: equals(lambda: _loads(slow), 1))
    # As if this process had stood still for longer than its lease.
    await raw.execute("DEL", lease_key(LOAD, "default", "k"))
    begun = a._tiers.local.changes.count
    assert await b.get_or_load("k", quick, lock=True, tags=["t"]) == "new"
    await until(lambda: equals(lambda: _heard(a, begun), True))
    slow.gate.set()
    assert await first == "old"
    for cache in (a, b):
        assert await cache.get("k") == "new"


async def test_redis_refuses_what_was_loaded_under_a_lost_lease(pair, raw):
    a, _ = pair
    slow = Source("old")
    first = asyncio.create_task(a.get_or_load("k", slow, lock=True))
    await until(lambda: equals(lambda: _loads(slow), 1))
    await raw.execute("SET", lease_key(LOAD, "default", "k"), "another's token")
    slow.gate.set()
    assert await first == "old"
    assert await a.get("k") is None
    assert await raw.execute("GET", lease_key(LOAD, "default", "k")) == b"another's token"


async def _heard(cache, begun):
    return cache._tiers.local.changes.count > begun


async def _loads(source):
    return source.loads


async def test_who_waits_for_a_slow_instance_loads_at_last(pair, monkeypatch):
    monkeypatch.setattr(loading_module, "LOAD_WAIT", 0.1)
    a, b = pair
    slow, quick = Source("slow"), Source("quick")
    quick.gate.set()
    first = asyncio.create_task(a.get_or_load("k", slow, lock=True))
    await until(lambda: equals(lambda: _loads(slow), 1))
    assert await b.get_or_load("k", quick, lock=True) == "quick"
    slow.gate.set()
    await first


async def test_while_redis_is_away_loads_are_not_locked():
    cache = CacheManager()
    await cache.enable(redis_url="redis://127.0.0.1:1/0", load_lock=True)
    source = Source()
    source.gate.set()
    assert await cache.get_or_load("k", source) == "loaded"
    assert len(cache._locks) == 0
    await cache.disable()


def _die_while_loading(url, loading):
    async def load():
        loading.set()
        await asyncio.Event().wait()

    async def main():
        cache = CacheManager()
        await cache.enable(redis_url=url)
        await cache.get_or_load("k", load, lock=True)

    asyncio.run(main())


async def test_when_the_owner_is_killed_another_loads(redis_server, raw, monkeypatch):
    monkeypatch.setattr(loading_module, "LOAD_LEASE", 0.5)  # inherited by the process that is forked
    context = multiprocessing.get_context("fork")
    loading = context.Event()
    owner = context.Process(target=_die_while_loading, args=(redis_server.url, loading))
    owner.start()
    caches = [CacheManager(), CacheManager()]
    try:
        assert await asyncio.to_thread(loading.wait, 20)
        for cache in caches:
            await cache.enable(redis_url=redis_server.url)
        source = Source()
        source.gate.set()
        tasks = [asyncio.create_task(cache.get_or_load("k", source, lock=True)) for cache in caches]
        await until(lambda: equals(lambda: _asleep(caches), 2))
        assert source.loads == 0
        os.kill(owner.pid, signal.SIGKILL)
        assert await asyncio.gather(*tasks) == ["loaded", "loaded"]
        assert source.loads == 1
    finally:
        owner.kill()
        owner.join()
        for cache in caches:
            await cache.disable()
