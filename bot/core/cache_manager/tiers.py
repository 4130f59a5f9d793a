"""Both tiers together: where a value is found, and changes made in both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from bot.core._shared.bounded_store import Entry
from bot.core._shared.clock import Clock
from bot.core._shared.isolation import freeze
from bot.core.cache_manager.backplane import Listener
from bot.core.cache_manager.compression import Pack
from bot.core.cache_manager.keys import valid_name
from bot.core.cache_manager.l2 import PIECE_KEYS
from bot.core.cache_manager.local import LocalTier
from bot.core.cache_manager.many_writes import ManyWrites
from bot.core.cache_manager.models import ABSENT, DEFAULT_NAMESPACE, FirstOfType, LookUp
from bot.core.cache_manager.shared import SharedTier
from bot.core.cache_manager.stats import Counters
from bot.core.redis_link import RedisLink

_NOTHING: dict[Any, Any] = {}


class Tiers:
    """The tier of this process and, while Redis is joined, the tier that instances share.

    Keys, namespaces and tags given here have been validated. While it is closed, reads find nothing and
    writes do nothing.
    """

    def __init__(
        self,
        clock: Clock,
        counters: Counters,
        first_of_type: FirstOfType,
        on_route: Callable[[], None],
        on_closed: Callable[[], None],
    ) -> None:
        """``on_route`` is called whenever :attr:`spaces`, :attr:`default` or :attr:`shared` was set.

        ``on_closed`` is called when a value is looked for while closed.
        """
        self._clock = clock
        self._now = clock.monotonic
        self._counters = counters
        self._first_of_type = first_of_type
        self._on_route = on_route
        self._on_closed = on_closed
        self.local = LocalTier(clock.monotonic, counters)
        self.shared: SharedTier | None = None
        """Changed only by join and leave."""
        self.lru = False
        """Whether L1 is LRU, which must be told of each read. Changed only by open."""
        # What reads look into first: L1's entries by namespace, and those of the default namespace. Empty
        # while L1 may be stale, or must be told of each read. Changed only by _route.
        self.spaces: dict[str, dict[Any, Entry]] = _NOTHING
        self.default: dict[Any, Entry] = _NOTHING
        self.listeners: dict[str, Listener] = {}
        """The listeners to messages of other instances, by topic."""

    @property
    def trusted(self) -> bool:
        """Whether L1 is up to date: there are no other instances, or their changes are received."""
        return self.shared is None or self.shared.backplane.hearing

    # From opening to closing.

    def open(self, *, max_bytes: int, max_entries: int, lru: bool) -> None:
        """Hold entries within these bounds. L1 keeps those it has, unless its eviction changes."""
        if self.local.is_open and lru == self.lru:
            self.local.l1.store.resize(max_bytes=max_bytes, max_entries=max_entries)
            return
        self.lru = lru
        self.local.open(max_bytes=max_bytes, max_entries=max_entries, lru=lru)
        self._route()

    def close(self) -> None:
        """Drop every entry of L1. Redis is left by :meth:`leave`."""
        self.local.close()
        self._route()

    async def link_to(self, url: str) -> RedisLink | None:
        """A link for :meth:`join`; None if that Redis is joined already, or the url is empty.

        Raises RedisUnavailableError if the redis package is missing, ValueError for what is no URL.
        """
        if not url or (self.shared is not None and self.shared.link.url == url):
            return None
        link = RedisLink.shared(url)
        try:
            link.client()
        except BaseException:
            await link.release()
            raise
        return link

    def join(self, link: RedisLink, *, pack: Pack | None) -> None:
        """Share values through ``link``, which :meth:`leave` releases. ``pack`` makes them smaller."""
        # What other instances changed until now was not heard of: no load that runs is to be stored there.
        self.local.changes.unknown()
        self.shared = SharedTier(
            link,
            self.local,
            self._counters,
            self._clock,
            self._first_of_type,
            self.listeners,
            self._route,
            pack=pack,
        )
        self._route()
        self.shared.backplane.start()

    async def leave(self) -> None:
        """Stop sharing. After its first step Redis is left for good, even if this is cancelled later."""
        shared, self.shared = self.shared, None
        self._on_route()
        try:
            if shared is not None:
                await shared.leave()
        finally:
            self._route()

    def _route(self) -> None:
        if self.trusted and not self.lru:
            self.spaces = self.local.l1.store.spaces
            self.default = self.local.l1.store.space(DEFAULT_NAMESPACE)
        else:
            self.spaces = self.default = _NOTHING
        self._on_route()

    # Reading.

    async def find(
        self, key: str, namespace: str | None, look_up: LookUp | None = None, *, renamed: bool = False
    ) -> Any:
        """The value of a key that was not found in its first place; ABSENT if it is nowhere.

        ``renamed``: it was looked for under what the caller gave, which is not what it is stored as.
        """
        local = self.local
        if not local.is_open:
            self._on_closed()
            return ABSENT
        if namespace is None:
            entry = self.in_used_namespaces(key)
            if entry is not None:
                return local.hit(entry)
            namespaces = list(local.used)
        else:
            if namespace not in local.used:
                valid_name(namespace, "namespace")
            namespaces = [namespace]
        if (self.lru or renamed) and self.trusted:
            found = local.find(key, namespaces)
            if found is not ABSENT:
                return found
        shared = self.shared
        if shared is not None:
            # L1 may be stale, but it is all there is while Redis is unreachable.
            if not shared.link.available and (found := local.find(key, namespaces)) is not ABSENT:
                return found
            if len(namespaces) == 1:
                return await shared.read(namespaces[0], key, look_up)
            # Requested together, they go in one round trip; the first that has the key wins.
            for found in await asyncio.gather(*[shared.read(name, key) for name in namespaces]):
                if found is not ABSENT:
                    return found
            return ABSENT
        self._counters.l1_misses += 1
        return ABSENT

    def in_used_namespaces(self, key: str) -> Entry | None:
        """The entry of a key in the first of the namespaces used here that has it in L1."""
        spaces, now = self.spaces, self._now()
        for name in self.local.used:
            entry: Entry | None = spaces.get(name, _NOTHING).get(key)
            if entry is not None and entry.expires_at > now:
                return entry
        return None

    # Changing.

    async def set_many(
        self, namespace: str, pairs: Sequence[tuple[str, Any]], ttl: float, tags: tuple[str, ...]
    ) -> int:
        """Set several keys, some hundred in one round trip; returns how many of them a tier holds."""
        local = self.local
        local.use(namespace)
        tokens: dict[str, bytes] | None = None
        if self.shared is not None and tags:
            tokens = await self.shared.l2.open_tags(tags, max(1, int(ttl * 1000)))
        in_l2 = 0
        elsewhere: list[str] = []
        position = 0
        while position < len(pairs) and local.is_open:
            if position:
                await asyncio.sleep(0)  # let others run
            shared = self.shared
            if shared is not None:
                taken, stored = await ManyWrites(shared).set_piece(
                    namespace, pairs, position, ttl, tags, tokens
                )
            else:
                frozen = [(key, freeze(value)) for key, value in pairs[position : position + PIECE_KEYS]]
                for key, one in frozen:
                    local.store(namespace, key, one, ttl, tags)
                taken, stored = len(frozen), False
            if stored:
                in_l2 += taken
            else:
                elsewhere += [key for key, _ in pairs[position : position + taken]]
            position += taken
        return in_l2 + sum(local.has(namespace, key) for key in elsewhere)

    async def drop_keys(self, namespace: str, keys: Sequence[str]) -> int:
        """Drop keys in both tiers; returns how many of them L1 had, or Redis if it had more."""
        local = self.local
        here = sum([local.delete(namespace, key) for key in keys])
        if self.shared is None:
            return here
        there = 0
        try:
            for start in range(0, len(keys), PIECE_KEYS):
                there += await self.shared.l2.delete(namespace, keys[start : start + PIECE_KEYS])
        finally:
            # Again: a read may have found in Redis, and kept, what was dropped there after that. So below.
            for key in keys:
                local.delete(namespace, key)
        return max(here, there)

    async def drop_pattern(self, namespace: str, pattern: str) -> int:
        """Drop the keys of a namespace that match a glob; returns how many."""
        gone = set(self.local.drop_pattern(namespace, pattern))
        if self.shared is not None:
            try:
                gone |= set(await self.shared.l2.drop_pattern(namespace, pattern, "pattern"))
            finally:
                self.local.drop_pattern(namespace, pattern)
        return len(gone)

    async def drop_tags(self, tags: tuple[str, ...]) -> int:
        """Drop the entries with any of the tags; returns how many of L1."""
        gone = self.local.drop_tags(tags)
        if self.shared is not None:
            try:
                await self.shared.l2.drop_tags(tags)
            finally:
                self.local.drop_tags(tags)
        return gone

    async def clear(self, namespace: str | None) -> int:
        """Drop a namespace, or all that this process has used; how many keys, as ``CacheManager.clear``."""
        local = self.local
        spaces = local.l1.store.spaces
        names = list({**local.used, **spaces}) if namespace is None else [namespace]
        here = {name: set(spaces.get(name, ())) for name in names} if self.shared is not None else {}
        gone = local.clear(namespace)
        if self.shared is None:
            return gone
        l2 = self.shared.l2
        try:
            if namespace is None and local.used_more:
                await l2.drop_values()
            else:
                for name in names:
                    gone += len(set(await l2.drop_pattern(name, "*", "clear")) - here[name])
        finally:
            local.clear(namespace)
        return gone
