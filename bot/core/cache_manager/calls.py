"""The calls of one cached function: their keys, tags, counts, and what can be done with their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bot.core.cache_manager.call_keys import CallKeys
from bot.core.cache_manager.call_tags import TagsOfCall
from bot.core.cache_manager.keys import valid_key
from bot.core.cache_manager.models import LoadOptions, Tags, TagsOf
from bot.core.cache_manager.service import CacheManager
from bot.core.cache_manager.ttls import FOREVER, FOREVER_SECONDS, Ttl, TtlOf


class CacheInfo(NamedTuple):
    """What a cached function was asked, since it was decorated, in this process."""

    hits: int
    """Calls that were answered without running the function: from memory, from Redis, or by the run of
    another call."""

    misses: int
    """Runs of the function. Calls while the cache is off are not counted."""

    size: int
    """Results in this process's memory now."""

    ttl: Ttl | TtlOf | None
    """As it was given, in seconds if it is no function; None: the cache's default."""


class _Counts:
    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0


class Calls:
    """One cached function. Its methods become attributes of what the decorator returns."""

    def __init__(
        self,
        function: Callable[..., Any],
        keys: CallKeys,
        ttl: float | TtlOf | None,
        namespace: str,
        tags: tuple[str, ...] | TagsOfCall | TagsOf,
        options: LoadOptions,
        *,
        by_value: bool,
    ) -> None:
        """``by_value``: ``tags`` is a function of the result, and not of a call's arguments."""
        self.function = function
        self.keys = keys
        self.ttl = ttl
        self.namespace = namespace
        self.options = options
        self.counts = _Counts()
        """Changed by the decorator's hit, and by Run."""
        self._tags: Any = tags
        self._by_call = callable(tags) and not by_value

    def attach_to(self, caching: Any, awaited: bool) -> None:
        """Give a decorated function its attributes."""
        key_of = self.keys.key_of
        caching.namespace = self.namespace
        caching.cache_key = lambda *args, **kwargs: key_of(args, kwargs)
        caching.cache_tags = self.cache_tags
        caching.invalidate = self.invalidate
        caching.refresh = self.refresh if awaited else self.refresh_plain
        caching.cache_info = self.cache_info
        caching.cache_clear = self.cache_clear

    def tags_of(self, args: Any, kwargs: Any) -> Tags:
        """The tags of a call, for :meth:`CacheManager.get_or_load`."""
        found: Tags = self._tags(args, kwargs) if self._by_call else self._tags
        return found

    def cache_tags(self, /, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        found = self.tags_of(args, kwargs)
        if callable(found):
            raise TypeError("cache_tags: the tags are a function of the value; call that")
        return tuple(found)

    async def invalidate(self, /, *args: Any, **kwargs: Any) -> bool:
        return await CacheManager.get_instance().delete(self.keys.key_of(args, kwargs), self.namespace)

    def cache_info(self) -> CacheInfo:
        cache = CacheManager.get_instance()
        now = cache._now()
        found = cache._tiers.local.l1.store.spaces.get(self.namespace, {})
        own = self.keys.own
        size = sum(entry.expires_at > now and own(str(key)) for key, entry in found.items())
        return CacheInfo(
            self.counts.hits, self.counts.misses, size, FOREVER if self.ttl == FOREVER_SECONDS else self.ttl
        )

    async def cache_clear(self) -> int:
        cache = CacheManager.get_instance()
        return sum([await cache.invalidate_pattern(one, self.namespace) for one in self.keys.patterns()])

    async def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        cache = CacheManager.get_instance()
        if not cache.enabled:
            cache._used_while_off()
            return await self.function(*args, **kwargs)
        key = valid_key(self.keys.key_of(args, kwargs))
        seconds = cache._settings.default_ttl if self.ttl is None else self.ttl
        tags: Any = self.tags_of(args, kwargs)
        run = Run(self, args, kwargs)
        if cache._bypassed():
            value = await run()
            await cache._tiers.drop_keys(self.namespace, (key,))
            return value
        return await cache._loads.reload(key, run, seconds, self.namespace, tags, self.options)

    async def refresh_plain(self, /, *args: Any, **kwargs: Any) -> Any:
        cache = CacheManager.get_instance()
        if not cache.enabled:
            cache._used_while_off()
            return self.function(*args, **kwargs)
        key = self.keys.key_of(args, kwargs)
        value = self.load_now(cache, key, args, kwargs)
        if cache._bypassed():
            await cache.delete(key, self.namespace)
        return value

    def load_now(self, cache: CacheManager, at: str, args: Any, kwargs: Any) -> Any:
        """Run a plain function, and keep its result in L1."""
        seconds = cache._settings.default_ttl if self.ttl is None else self.ttl
        tags: Any = self.tags_of(args, kwargs)
        run = Run(self, args, kwargs)
        if cache._bypassed():
            return run()
        return cache._loads.load_now(valid_key(at), run, seconds, self.namespace, tags, self.options)


class Run:
    """One call, as the loader of its key."""

    __slots__ = ("_args", "_calls", "_kwargs", "begun")

    def __init__(self, calls: Calls, args: Any, kwargs: Any) -> None:
        self._calls = calls
        self._args = args
        self._kwargs = kwargs
        self.begun = False

    def __call__(self) -> Any:
        self.begun = True
        self._calls.counts.misses += 1
        return self._calls.function(*self._args, **self._kwargs)
