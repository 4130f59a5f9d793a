"""Ages are told by Redis's clock."""

import pytest

from bot.core._shared.clock import SystemClock
from bot.core.cache_manager import CacheManager
from tests.support.waiting import equals, until


class Wrong(SystemClock):
    """A machine whose wall clock is an hour off."""

    def __init__(self, seconds):
        self._seconds = seconds

    def time(self):
        return super().time() + self._seconds


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_ages_are_those_of_redis_on_a_machine_whose_clock_is_wrong(redis_server, seconds):
    right, wrong = CacheManager(), CacheManager(clock=Wrong(seconds))
    for cache in (right, wrong):
        await cache.enable(redis_url=redis_server.url)
    for writer, reader in ((right, wrong), (wrong, right)):
        await writer.set("k", 1, ttl=100)
        assert await reader.get("k") == 1
        entry = reader._tiers.local.l1.store.peek("default", "k", reader._now())
        assert 90 < entry.expires_at - reader._now() <= 100.5
        await writer.delete("k")
        await until(lambda reader=reader: equals(lambda: reader.get("k"), None))
    for cache in (right, wrong):
        await cache.disable()
