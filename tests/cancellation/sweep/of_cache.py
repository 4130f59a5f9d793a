"""The calls of the cache."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from bot.core.cache_manager import CacheManager, LoadOptions, cached, invalidate
from bot.core.phase4_service import Phase4Service
from tests.cancellation.sweep.worlds import World, scenario


async def _load() -> dict[str, int]:
    await asyncio.sleep(0)
    await asyncio.sleep(0.0005)
    return {"loaded": 1}


async def _load_many(keys: list[str]) -> dict[str, int]:
    await asyncio.sleep(0)
    return dict.fromkeys(keys, 1)


async def emptied(world: Any) -> None:
    await world.cache.clear("s")


async def filled(world: Any) -> None:
    await world.cache.set_many({f"k{n}": {"v": n} for n in range(8)}, namespace="s", tags=("t",))


async def only_shared(world: Any) -> None:
    """In Redis and not in memory, if there is a Redis."""
    await filled(world)
    if world.shared:
        world.cache._tiers.local.clear("s")


async def switched_on(world: Any) -> None:
    assert await world.cache.enable(redis_url=world.url)


async def lock_is_free(world: Any) -> None:
    async with world.cache.lock("lock", namespace="s", wait=5.0):
        pass


class CacheWorld(World):
    name = "cache"
    shared: ClassVar[bool] = True

    async def start(self) -> None:
        self.url = self.servers.redis if self.shared else ""
        self.cache = Phase4Service._instances[CacheManager] = CacheManager()
        await self.cache.enable(redis_url=self.url, default_ttl=60)
        self.counted = 0

        @cached(ttl=60, namespace="s")
        async def read(number: int) -> dict[str, int]:
            await asyncio.sleep(0)
            return {"number": number}

        @invalidate(function=read)
        async def write(number: int) -> int:
            await asyncio.sleep(0)
            return number

        self.read, self.write = read, write

    async def stop(self) -> None:
        await self.cache.clear("s")
        await self.cache.disable()

    async def held(self) -> list[str]:
        cache = self.cache
        found = []
        if len(cache._locks):
            found.append(f"locks: {list(cache._locks._lines)}")
        if cache._locks._asleep:
            found.append(f"waits for locks: {cache._locks._asleep}")
        return found

    @scenario("CacheManager.get", before=only_shared)
    async def get_in_a_namespace(self) -> None:
        assert await self.cache.get("k1", "s") == {"v": 1}

    @scenario("CacheManager.get", before=only_shared)
    async def get_anywhere(self) -> None:
        assert await self.cache.get("k1") == {"v": 1}

    @scenario("CacheManager.get_many", before=only_shared)
    async def get_many(self) -> None:
        assert len(await self.cache.get_many([f"k{n}" for n in range(9)], "s")) == 8

    @scenario("CacheManager.set")
    async def set(self) -> None:
        assert await self.cache.set("k1", {"v": 1}, namespace="s", tags=("t", "u"))

    @scenario("CacheManager.set_many")
    async def set_many(self) -> None:
        assert await self.cache.set_many({f"k{n}": n for n in range(600)}, namespace="s", tags=("t",)) == 600

    @scenario("CacheManager.add", before=emptied)
    async def add(self) -> None:
        assert await self.cache.add("k1", 1, namespace="s")

    @scenario("CacheManager.incr")
    async def incr(self) -> None:
        assert await self.cache.incr("counter", namespace="s") > 0

    @scenario("CacheManager.exists", before=only_shared)
    async def exists(self) -> None:
        assert await self.cache.exists("k1", "s")

    @scenario("CacheManager.touch", before=filled)
    async def touch(self) -> None:
        assert await self.cache.touch("k1", 90, "s")

    @scenario("CacheManager.ttl", before=only_shared)
    async def ttl(self) -> None:
        assert 0 < (await self.cache.ttl("k1", "s") or 0) <= 90

    @scenario("CacheManager.delete", before=filled)
    async def delete(self) -> None:
        assert await self.cache.delete("k1", "s")

    @scenario("CacheManager.invalidate_pattern", before=filled)
    async def invalidate_pattern(self) -> None:
        assert await self.cache.invalidate_pattern("k*", "s") == 8

    @scenario("CacheManager.invalidate_tag", before=filled)
    async def invalidate_tag(self) -> None:
        await self.cache.invalidate_tag("t")

    @scenario("CacheManager.invalidate_tags", before=filled)
    async def invalidate_tags(self) -> None:
        await self.cache.invalidate_tags(["t", "u"])

    @scenario("CacheManager.clear", before=filled)
    async def clear(self) -> None:
        await self.cache.clear("s")

    @scenario("CacheManager.get_or_load", before=emptied)
    async def get_or_load(self) -> None:
        assert await self.cache.get_or_load("k1", _load, namespace="s") == {"loaded": 1}

    @scenario("CacheManager.get_or_load", before=emptied)
    async def get_or_load_by_two(self) -> None:
        other = asyncio.ensure_future(self.cache.get_or_load("k1", _load, namespace="s"))
        try:
            assert await self.cache.get_or_load("k1", _load, namespace="s") == {"loaded": 1}
        finally:
            # Who is not cancelled gets the value.
            assert await asyncio.shield(other) == {"loaded": 1}

    @scenario("CacheManager.get_or_load", before=emptied, after=lock_is_free)
    async def get_or_load_under_a_lock(self) -> None:
        options = LoadOptions(hard_timeout=10.0, stale_ttl=5.0)
        found = await self.cache.get_or_load("k1", _load, 1, "s", tags=("t",), options=options, lock=True)
        assert found == {"loaded": 1}

    @scenario("CacheManager.get_or_load_many", before=emptied)
    async def get_or_load_many(self) -> None:
        keys = [f"k{n}" for n in range(5)]
        assert await self.cache.get_or_load_many(keys, _load_many, namespace="s") == dict.fromkeys(keys, 1)

    @scenario("CacheManager.lock", "Lock.__aenter__", "Lock.__aexit__", after=lock_is_free)
    async def lock(self) -> None:
        async with self.cache.lock("lock", namespace="s") as lease:
            assert lease.held
            await asyncio.sleep(0)

    @scenario("CacheManager.lock", after=lock_is_free)
    async def lock_behind_another(self) -> None:
        async def hold() -> None:
            async with self.cache.lock("lock", namespace="s"):
                await asyncio.sleep(0.001)

        first = asyncio.ensure_future(hold())
        behind = asyncio.ensure_future(hold())
        try:
            async with self.cache.lock("lock", namespace="s"):
                pass
        finally:
            await asyncio.gather(asyncio.shield(first), asyncio.shield(behind))

    @scenario("CacheManager.warm_cache", before=emptied, after=lambda world: world.unwarmed())
    async def warm_cache(self) -> None:
        assert await self.cache.warm_cache("k1", _load, interval=600, namespace="s")

    async def unwarmed(self) -> None:
        self.cache.stop_warming("k1", "s")

    @scenario("CachedFunction.__call__", before=emptied)
    async def call_cached(self) -> None:
        assert await self.read(1) == {"number": 1}

    @scenario("CachedFunction.refresh", "CachedPlainFunction.refresh")
    async def refresh_cached(self) -> None:
        assert await self.read.refresh(1) == {"number": 1}

    @scenario("CachedFunction.invalidate", "CachedPlainFunction.invalidate")
    async def invalidate_cached(self) -> None:
        await self.read.invalidate(1)

    @scenario("CachedFunction.cache_clear", "CachedPlainFunction.cache_clear")
    async def clear_cached(self) -> None:
        await self.read.cache_clear()

    @scenario("invalidate")
    async def call_invalidating(self) -> None:
        assert await self.write(1) == 1

    @scenario("CacheManager.tell")
    async def tell(self) -> None:
        task = self.cache.tell("sweep", ["a"])
        if task is not None:
            await asyncio.shield(task)

    @scenario("CacheManager.reset", "CacheManager.reset_statistics", before=filled)
    async def reset(self) -> None:
        await self.cache.reset()

    @scenario("CacheManager.find_warnings")
    async def find_warnings(self) -> None:
        assert await self.cache.find_warnings() == []

    @scenario("CacheManager.disable", before=switched_on, after=switched_on)
    async def disable(self) -> None:
        assert await self.cache.disable()

    @scenario("CacheManager.enable", before=lambda world: world.cache.disable(), after=switched_on)
    async def enable(self) -> None:
        assert await self.cache.enable(redis_url=self.url)

    @scenario("CacheManager.enable", before=switched_on, after=switched_on)
    async def enable_with_the_other_tiers(self) -> None:
        assert await self.cache.enable(redis_url="" if self.shared else self.servers.redis)

    @scenario("CacheManager.enable", before=switched_on, after=switched_on)
    async def enable_with_another_redis(self) -> None:
        assert await self.cache.enable(redis_url=f"{self.servers.redis}&key_prefix=other")


class CacheAloneWorld(CacheWorld):
    name = "cache without Redis"
    shared = False
