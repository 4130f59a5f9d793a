"""A cache on virtual time; two caches over a Redis of the test's own, and a way to that Redis beside them."""

import pytest

from bot.core.cache_manager import CacheManager
from bot.core.redis_link import RedisLink


@pytest.fixture
async def cache(clock):
    """One cache without Redis."""
    cache = CacheManager(clock=clock)
    await cache.enable()
    yield cache
    cache._tiers.local.l1.check_invariants()
    await cache.disable()


@pytest.fixture
async def pair(redis_server):
    """Two caches that share one Redis, as two processes of a bot would."""
    caches = [CacheManager(), CacheManager()]
    for cache in caches:
        await cache.enable(redis_url=redis_server.url)
    yield caches
    for cache in caches:
        cache._tiers.local.l1.check_invariants()
        await cache.disable()
    assert not RedisLink._links


@pytest.fixture
async def raw(redis_server):
    """Another program's connection to the same Redis."""
    link = RedisLink(redis_server.url)
    yield link
    await link.close()
