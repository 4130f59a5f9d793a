"""CPython keeps the attributes of an object quick to read only while there are few of them.

They lie in a plain array beside the object, which specialised instructions read by position, while
there is room in the keys that all objects of the class share: 30 (SHARED_KEYS_MAX_SIZE in CPython's
dictobject.c), less one that the first object takes away. With a thirtieth attribute they move to a dict
of the object's own, and each read of any of them becomes a look-up. Counted by valgrind under CPython
3.11, a method that returns four of 29 attributes costs 1,351 instructions, and of 30 or more 1,419. A hit
in L1 reads four.
"""

import pytest

from bot.core.cache_manager import CacheManager

FAST_ATTRIBUTES = 29


@pytest.mark.parametrize("redis", ["alone", "with Redis"])
async def test_what_hot_paths_read_has_no_more_attributes_than_cpython_keeps_quick(redis):
    cache = CacheManager()
    # No server answers there; the second tier is made all the same.
    await cache.enable(redis_url="" if redis == "alone" else "redis://127.0.0.1:1/0")
    await cache.get_or_load("k", _load)
    tiers = [cache._tiers, cache._tiers.local, cache._tiers.shared]
    for part in [cache, cache._loads, cache._warmer, *filter(None, tiers)]:
        assert len(vars(part)) <= FAST_ATTRIBUTES, f"{type(part).__name__}: {sorted(vars(part))}"
    await cache.disable()


async def _load():
    return 1
