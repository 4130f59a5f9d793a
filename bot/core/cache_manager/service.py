"""The cache: memory first, Redis second, one load for any number of concurrent misses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import replace
from threading import get_ident
from typing import Any, ClassVar

from bot.core._shared.bounded_store import MAX_FREQUENCY
from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import invalid
from bot.core._shared.isolation import freeze
from bot.core._shared.registered_types import register_type
from bot.core._shared.tasks import BackgroundTasks, to_the_end
from bot.core._shared.validation import valid_seconds
from bot.core.cache_manager.compression import pack_of
from bot.core.cache_manager.figures import figures_of
from bot.core.cache_manager.keys import MAX_KEY, compile_glob, printable, valid_key, valid_name
from bot.core.cache_manager.loading import Loads
from bot.core.cache_manager.locking import Locking
from bot.core.cache_manager.locks import Locks
from bot.core.cache_manager.many_loading import ManyLoading
from bot.core.cache_manager.messages import Messages
from bot.core.cache_manager.models import (
    ABSENT,
    DEFAULT_NAMESPACE,
    PLAIN,
    FirstOfType,
    Loader,
    LoadOptions,
    LookUp,
    Tags,
    valid_tags,
    valid_tags_of,
)
from bot.core.cache_manager.stats import Counters
from bot.core.cache_manager.tiers import Tiers
from bot.core.cache_manager.ttls import Ttl, TtlOf, by_ttl, ttl_for, valid_ttl_or_function
from bot.core.cache_manager.warming import TIMEOUT, Warmer
from bot.core.phase4_config import CacheManagerSettings, converted
from bot.core.phase4_statistics.cache_manager import CacheManagerFigures
from bot.core.phase4_statistics.fields import MB
from bot.core.phase4_statistics.states import WITHOUT_REDIS

_NOTHING: dict[Any, Any] = {}


class CacheManager(ManyLoading, Locking, Messages):
    """Two tiers: L1 in this process, bounded; L2 in Redis, shared by instances. While off, it holds
    nothing.

    **What a caller gets is its own.** A mutable value is copied when it is stored and for each reader, so no
    caller can change what another gets, and L1 gives the same as L2. Immutable values (numbers, strings,
    bytes, dates, and tuples and frozensets of them) are handed out as they are. Objects that are not plain
    data are copied as by ``copy.deepcopy``, cycles included, and stay in L1: L2 holds plain data only. What
    cannot be copied is not cached; that is logged once for each type.

    **Redis may become unreachable at any time.** No call raises an error for that: reads of L2 are misses,
    and L1 goes on. When Redis is back, keys that were changed meanwhile are dropped there, and L1 is
    emptied, since the changes of the other instances were missed.
    """

    service_name: ClassVar[str] = "cache_manager"
    flag: ClassVar[str] = "ENABLE_CACHE_MANAGER"
    while_off: ClassVar[str] = "nothing is cached"

    register_type = staticmethod(register_type)

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._now = clock.monotonic
        # Code that enables the cache itself and warms keys wants them refreshed, without a flag.
        self._settings = CacheManagerSettings(warming=True)
        self._counters = Counters()
        self._tasks = BackgroundTasks()
        first_of_type = FirstOfType()
        self._tiers = Tiers(clock, self._counters, first_of_type, self._route, self._used_while_off)
        self._locks = Locks(self._tiers, self._tasks, clock)
        self._loads = Loads(
            self._tiers, clock, self._counters, self._tasks, first_of_type, self._hooks, self._locks
        )
        self._warmer = Warmer(self._tiers, self._counters, self._tasks, clock, first_of_type, self._hooks)
        self._used = self._tiers.local.used
        self._thread: int | None = None
        """The thread that enabled it last."""

    # Lifecycle.

    async def enable(
        self,
        max_size_mb: float | None = None,
        *,
        l1_max_size_mb: float | None = None,
        l1_max_entries: int | None = None,
        eviction: str | None = None,
        default_ttl: float | None = None,
        compression: bool | None = None,
        compression_format: str | None = None,
        redis_url: str | None = None,
        warming: bool | None = None,
        warming_interval: float | None = None,
        load_timeout: float | None = None,
        load_lock: bool | None = None,
    ) -> bool:
        """Switch on, or reconfigure; None leaves what was set before.

        L1 holds at most ``l1_max_entries`` (10,000) entries of ``l1_max_size_mb`` (100) MB together;
        ``max_size_mb`` is another name for the latter. ``eviction`` is "s3fifo" or "lru", whose reads cost
        more; changing it empties L1. ``default_ttl`` (300) and ``warming_interval`` (600) are seconds;
        ``redis_url`` "" is L1 only; ``warming`` allows refreshes in the background (True). A load that takes
        longer than ``load_timeout`` seconds (120; 0: no limit) is given up: its callers get
        LoaderTimeoutError, and the next caller starts a new one. With ``load_lock`` one instance loads a key
        for all (see LoadOptions). ``compression`` (True) makes large values smaller in Redis, by
        ``compression_format``: "zlib", or "zstd", which Python before 3.14 has from backports.zstd only.
        Raises ValueError for values out of bounds, MisuseError if there is no zstd, and RedisUnavailableError
        if the redis package is missing; an unreachable server is no error, since it
        may come later.
        """
        if max_size_mb is not None:
            if l1_max_size_mb is not None:
                raise invalid("max_size_mb", max_size_mb, "max_size_mb or l1_max_size_mb, not both")
            l1_max_size_mb = converted(
                CacheManagerSettings.hint("l1_max_size_mb"), "max_size_mb", max_size_mb
            )
        async with self._transition:
            settings = self._settings.changed(
                l1_max_size_mb=l1_max_size_mb,
                l1_max_entries=l1_max_entries,
                eviction=eviction,
                default_ttl=default_ttl,
                compression=compression,
                compression_format=compression_format,
                redis_url=redis_url,
                warming=warming,
                warming_interval=warming_interval,
                load_timeout=load_timeout,
                load_lock=load_lock,
            )
            pack = pack_of(settings.compression_format)
            url = settings.redis_url
            link = await self._tiers.link_to(url)
            cancelled: asyncio.CancelledError | None = None
            if link is not None or not url:
                try:
                    await self._tiers.leave()
                except asyncio.CancelledError as error:
                    cancelled = error  # it is left nonetheless, so go on and join the other one first
            self._settings = settings
            self._loads.timeout = settings.load_timeout or None
            self._loads.locked = settings.load_lock
            self._tiers.open(
                max_bytes=max(1, int(settings.l1_max_size_mb * MB)),
                max_entries=settings.l1_max_entries,
                lru=settings.eviction == "lru",
            )
            self._switched_on()
            self._thread = get_ident()
            if link is not None:
                self._tiers.join(link, pack=pack if settings.compression else None)
            elif self._tiers.shared is not None:
                self._tiers.shared.pack = pack if settings.compression else None
            if settings.warming:
                self._warmer.resume()
            else:
                self._warmer.pause()
            if cancelled is not None:
                raise cancelled
            if self._tiers.shared is not None:
                await self._tiers.shared.settled()
        return True

    async def disable(self) -> bool:
        """Switch off: every entry of L1 is dropped, tasks end, connections close. L2 keeps its values."""
        async with self._transition:
            self._enabled = False
            self._warmer.forget_all()
            self._tiers.close()
            try:
                await self._tiers.leave()
            finally:
                await to_the_end(self._tasks.stop())
                self._loads.rest()
        return True

    def warnings(self) -> list[str]:
        """What is wrong with the Redis of the second tier."""
        shared = self._tiers.shared
        return [] if shared is None else shared.link.warnings(WITHOUT_REDIS[self.service_name])

    # Reading.

    async def get(self, key: str, namespace: str | None = None, default: Any = None) -> Any:
        """The cached value, a copy if it is mutable; ``default`` if there is none.

        Without a ``namespace`` it looks into ``default``, then into the namespaces that this process
        has used, in order of first use: first all of L1, then all of L2.
        """
        entry = (self._default if namespace is None else self._spaces.get(namespace, _NOTHING)).get(key)
        if entry is not None and entry.expires_at > self._now():
            if entry.frequency < MAX_FREQUENCY:
                entry.frequency += 1
            self._counters.l1_hits += 1
            thaw = entry.thaw
            return entry.value if thaw is None else thaw(entry.value)
        l2 = self._l2
        if namespace is not None and l2 is not None and l2.link.available:
            # The commonest case of Tiers.find, in place: under load each coroutine in between counts.
            if namespace not in self._used:
                valid_name(namespace, "namespace")
            # inlined: the beginning of valid_key
            if (type(key) is str and key and len(key) < 65 and key.isascii()) or valid_key(key) is key:
                found = await l2.read(namespace, key)
                return default if found is ABSENT else found
        found = await self._look_further(key, namespace)
        return default if found is ABSENT else found

    def _look_further(self, key: str, namespace: str | None) -> Awaitable[Any]:
        stored = valid_key(key)
        return self._find(stored, namespace, renamed=stored is not key)

    def get_local(self, key: str, namespace: str | None = None, default: Any = None) -> Any:
        """:meth:`get` from L1 alone, without awaiting; a miss is not counted."""
        entry = (self._default if namespace is None else self._spaces.get(namespace, _NOTHING)).get(key)
        if entry is None:
            stored = valid_key(key)
            if self._watched:
                return self._watched_local(stored, namespace, default)
            if self._tiers.lru and self._tiers.trusted:
                found = self._tiers.local.find(stored, self._used if namespace is None else (namespace,))
                return default if found is ABSENT else found
            if namespace is None:
                entry = self._tiers.in_used_namespaces(stored)
            elif stored is not key:
                entry = self._spaces.get(namespace, _NOTHING).get(stored)
        if entry is None or entry.expires_at <= self._now():
            return default
        if entry.frequency < MAX_FREQUENCY:
            entry.frequency += 1
        self._counters.l1_hits += 1
        thaw = entry.thaw
        return entry.value if thaw is None else thaw(entry.value)

    # Writing.

    async def set(
        self,
        key: str,
        value: Any,
        ttl: Ttl | TtlOf | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        tags: Sequence[str] = (),
    ) -> bool:
        """Keep ``value`` for ``ttl`` (default: the configured one); True if a tier holds it.

        ``ttl`` is seconds, a timedelta, ``FOREVER``, or a function of the value that returns one of them. If
        that returns None, the value is not kept, and the former one is dropped. A value larger than L1 skips
        L1; one that L2 cannot carry stays in L1. Raises TypeError for a value that cannot be copied, such as
        an open file.
        """
        key = valid_key(key)
        if namespace not in self._used:
            valid_name(namespace, "namespace")
        if tags != ():
            tags = valid_tags(tags)
        seconds = self._settings.default_ttl if ttl is None else ttl_for(ttl, value)
        if not self._enabled:
            self._used_while_off()
            return False
        tiers = self._tiers
        if not seconds or (self._observed and self._bypassed()):
            await tiers.drop_keys(namespace, (key,))
            return False
        if tiers.shared is None:
            stored = tiers.local.store(namespace, key, freeze(value), seconds, tags)
        else:
            stored = await tiers.shared.store(namespace, key, value, None, seconds, tags)
        if self._observed and stored:
            self._hooks.tell("set", namespace, key)
        return stored

    async def set_many(
        self,
        items: Mapping[str, Any],
        ttl: Ttl | TtlOf | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        tags: Sequence[str] = (),
    ) -> int:
        """:meth:`set` for several keys, some hundred per round trip; returns how many a tier holds."""
        pairs = [(valid_key(key), value) for key, value in items.items()]
        valid_name(namespace, "namespace")
        tags = valid_tags(tags)
        groups = by_ttl(pairs, ttl, self._settings.default_ttl)
        if not self._enabled:
            self._used_while_off()
            return 0
        stored = 0
        bypassed = self._observed and self._bypassed()
        for seconds, group in groups.items():
            if seconds and group and not bypassed:
                stored += await self._tiers.set_many(namespace, group, seconds, tags)
                if self._observed:
                    self._hooks.tell_each("set", namespace, [key for key, _ in group])
            elif group:
                await self._tiers.drop_keys(namespace, [key for key, _ in group])
        return stored

    # Dropping.

    async def delete(self, key: str, namespace: str = DEFAULT_NAMESPACE) -> bool:
        """Drop one key in both tiers, for every instance; False if neither had it."""
        key = valid_key(key)
        valid_name(namespace, "namespace")
        if not self._enabled:
            self._used_while_off()
            return False
        gone = await self._tiers.drop_keys(namespace, (key,)) > 0
        if self._observed:
            self._hooks.tell("invalidate", namespace, key)
        return gone

    async def invalidate_pattern(self, pattern: str, namespace: str = DEFAULT_NAMESPACE) -> int:
        """Drop the keys of one namespace that match a glob (``user:*``); returns how many.

        It reads every key of the namespace here and scans the keys in Redis: use tags on hot paths.
        """
        pattern = valid_name(printable(pattern) if isinstance(pattern, str) else pattern, "pattern")
        valid_name(namespace, "namespace")
        compile_glob(pattern)
        if not self._enabled:
            self._used_while_off()
            return 0
        gone = await self._tiers.drop_pattern(namespace, pattern)
        self._hooks.tell("invalidate", namespace, pattern=pattern)
        return gone

    async def invalidate_tag(self, tag: str) -> int:
        """Drop every entry, in any namespace, with the tag; returns how many of L1."""
        return await self.invalidate_tags((tag,))

    async def invalidate_tags(self, tags: Sequence[str]) -> int:
        """Drop every entry, in any namespace, with any of the tags; returns how many of L1.

        In Redis it is one small command for each tag, however many values have it; their number is unknown.
        """
        tags = tuple(dict.fromkeys(valid_tags(tags)))
        if not self._enabled:
            self._used_while_off()
            return 0
        if not tags:
            return 0
        gone = await self._tiers.drop_tags(tags)
        self._hooks.tell("invalidate", tags=tags)
        return gone

    async def clear(self, namespace: str | None = None) -> int:
        """Drop a namespace, or all that this process has used, in both tiers; returns how many keys.

        It is dropped in every instance; what only another instance's memory held is not counted. A process
        that has used more than ``MAX_NAMESPACES`` drops every namespace in Redis, and counts L1 only.
        """
        if namespace is not None:
            valid_name(namespace, "namespace")
        if not self._enabled:
            self._used_while_off()
            return 0
        gone = await self._tiers.clear(namespace)
        self._hooks.tell("invalidate", namespace, pattern="*")
        return gone

    # Loading.

    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        ttl: Ttl | TtlOf | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        tags: Tags = (),
        options: LoadOptions = PLAIN,
        lock: bool | None = None,
    ) -> Any:
        """The cached value, or what ``await loader()`` returns, which is then cached for ``ttl``.

        None and other falsy values are values. Any number of concurrent misses in this process run one load.
        A caller that is cancelled does not cancel the load for the others. The loader's exception reaches
        every waiter and is not cached. If the key was changed or dropped during the load, the loaded value is
        returned and not cached. A loader that waits for its own key, even through other loads and tasks,
        raises CircularLoadError. ``tags`` may be a function of the loaded value. So may ``ttl``: as for
        :meth:`set`, but an invalid result, or an error, means that the value is not cached, and is logged
        once. See :class:`LoadOptions` for stale values, timeouts and early refresh.
        """
        if not self._enabled:
            self._used_while_off()
            return await loader()
        entry = self._spaces.get(namespace, _NOTHING).get(key)
        now = self._now()
        if entry is None or entry.expires_at <= now:
            stored = valid_key(key)
            valid_name(namespace, "namespace")
            if stored is not key:
                key = stored
                entry = self._spaces.get(namespace, _NOTHING).get(key)
        if entry is not None and entry.expires_at > now:
            if options.early_refresh:
                seconds = self._settings.default_ttl if ttl is None else valid_ttl_or_function("ttl", ttl)
                self._loads.refresh_early(entry, key, loader, seconds, namespace, tags, options)
            # inlined: LocalTier.hit
            if entry.frequency < MAX_FREQUENCY:
                entry.frequency += 1
            self._counters.l1_hits += 1
            return entry.value if entry.thaw is None else entry.thaw(entry.value)
        checked = valid_tags_of(tags)
        if self._bypasses and self._bypassed():
            return await loader()
        look_up = LookUp(checked, options.stale_ttl) if checked or options.stale_ttl else None
        found = await self._find(key, namespace, look_up)
        if found is not ABSENT and not options.early_refresh:
            return found
        seconds = self._settings.default_ttl if ttl is None else valid_ttl_or_function("ttl", ttl)
        if found is not ABSENT:
            entry = self._tiers.local.l1.store.peek(namespace, key, now)
            self._loads.refresh_early(entry, key, loader, seconds, namespace, tags, options)
            return found
        if lock is not None:
            options = replace(options, lock=lock)
        return await self._loads.load(key, loader, seconds, namespace, checked, options, look_up)

    # Warming.

    async def warm_cache(
        self,
        key: str,
        loader_func: Loader,
        ttl: Ttl | TtlOf | None = None,
        interval: float | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        timeout: float = TIMEOUT,
    ) -> bool:
        """Load a key now and every ``interval`` seconds, until :meth:`stop_warming` or :meth:`disable`.

        True if the first load succeeded; a load that fails, or takes longer than ``timeout`` seconds and is
        cancelled then, is logged and tried again at the next turn. ``interval`` None takes the configured
        one. Instances spread their turns by up to a tenth. Warming the same key again replaces its loader.
        With ``warming`` switched off there is the first load only; in a bypass there is none. It goes on when
        the cache is reconfigured, with Redis or without.
        """
        key = valid_key(key)
        valid_name(namespace, "namespace")
        seconds = self._settings.default_ttl if ttl is None else valid_ttl_or_function("ttl", ttl)
        every = None if interval is None else valid_seconds("interval", interval)
        valid_seconds("timeout", timeout)
        if not self._enabled:
            self._used_while_off()
            return False
        if self._bypassed():
            return False

        def load() -> Coroutine[Any, Any, bool]:
            return self._warmer.load(namespace, key, loader_func, seconds, timeout)

        loaded = await load()
        if self._settings.warming and self._enabled:
            self._warmer.keep(namespace, key, load, lambda: every or self._settings.warming_interval)
        return loaded

    def stop_warming(self, key: str, namespace: str = DEFAULT_NAMESPACE) -> bool:
        """Stop warming a key; False if it was not warmed."""
        return self._warmer.forget(namespace, valid_key(key))

    # Figures.

    def snapshot(self) -> CacheManagerFigures:
        """Counts since the start or the last reset; rates are percent, sizes MB."""
        size, warmed = self._settings.l1_max_size_mb, len(self._warmer)
        if self._l2 is not None:
            self._l2.look()
        return figures_of(self._counters, self._tiers, size, warmed, enabled=self._enabled)

    async def reset_statistics(self) -> None:
        """Counters to zero; nothing cached is dropped."""
        self._counters.reset()
        store = self._tiers.local.l1.store
        store.evictions = store.expirations = store.insertions = 0

    async def reset(self) -> None:
        await self.reset_statistics()
        await self.clear()


__all__ = ["DEFAULT_NAMESPACE", "MAX_KEY", "CacheManager"]
