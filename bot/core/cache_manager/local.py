"""The first tier, L1, as this process uses it: its values, the namespaces used here, and what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bot.core._shared.bounded_store import MAX_FREQUENCY, Entry
from bot.core._shared.isolation import Frozen
from bot.core.cache_manager.changes import ChangeLog
from bot.core.cache_manager.keys import MAX_KEY
from bot.core.cache_manager.l1 import L1, Meta
from bot.core.cache_manager.models import ABSENT, DEFAULT_NAMESPACE
from bot.core.cache_manager.stats import Counters

MAX_NAMESPACES = 64
"""Namespaces that a ``get`` without one looks into; those used later than these must be named."""

MAX_GLOB_WORK = 1_000_000
"""Characters of a glob times keys to compare with it, beyond which the whole namespace is dropped."""

NO_ROOM = 1
"""Bytes of an L1 that no entry fits into."""


class LocalTier:
    """L1 with the log of every change that may touch it. While closed, it holds nothing and accepts nothing.

    Each change made here or heard of from another instance goes through one of its methods, which drop the
    affected entries from L1 and log the change. Nothing here awaits.
    """

    def __init__(self, now: Callable[[], float], counters: Counters) -> None:
        self._now = now
        self._counters = counters
        self.l1 = L1(max_bytes=NO_ROOM, max_entries=1)
        self.is_open = False
        """Changed only by open and close."""
        self.changes = ChangeLog()
        self.used: dict[str, None] = {DEFAULT_NAMESPACE: None}
        """Namespaces used here, in order of first use; always the same dict. Changed only by use."""
        self.used_more = False
        """Whether more were used, whose names are not kept."""

    def open(self, *, max_bytes: int, max_entries: int, lru: bool) -> None:
        """Begin with an empty L1 of these bounds."""
        if not self.is_open:
            self.changes.unknown()  # what was dropped while it was closed, nobody noted
        self.l1.reset(max_bytes=max_bytes, max_entries=max_entries, lru=lru)
        self.is_open = True

    def close(self) -> None:
        """Drop every entry."""
        self.l1.reset(max_bytes=NO_ROOM, max_entries=1)
        self.is_open = False

    # Reading.

    def hit(self, entry: Entry) -> Any:
        """The value of an entry for one reader, counted."""
        if entry.frequency < MAX_FREQUENCY:
            entry.frequency += 1
        self._counters.l1_hits += 1
        return entry.value if entry.thaw is None else entry.thaw(entry.value)

    def find(self, key: str, namespaces: Iterable[str]) -> Any:
        """The value in the first namespace that has it, ABSENT if none has; it counts as a read for LRU."""
        now = self._now()
        get = self.l1.store.get
        for name in namespaces:
            entry = get(name, key, now)
            if entry is not None:
                return self.hit(entry)
        return ABSENT

    def stale(self, namespace: str, key: str) -> Frozen | None:
        """The last value, even if it has expired, as long as it is kept."""
        entry = self.l1.store.peek(namespace, key, self._now())
        return None if entry is None else Frozen(entry.value, entry.thaw, entry.size)

    def has(self, namespace: str, key: str) -> bool:
        """Whether it holds the key, expired or not; does not count as a read."""
        return self.l1.store.peek(namespace, key, self._now()) is not None

    def value(self, namespace: str, key: str, default: Any) -> Any:
        """The value for one reader, not counted; ``default`` if there is none that has not expired."""
        entry = self._live(namespace, key)
        if entry is None:
            return default
        return entry.value if entry.thaw is None else entry.thaw(entry.value)

    def expires_in(self, namespace: str, key: str) -> float:
        """Seconds that the value lives; 0.0 if there is none."""
        entry = self._live(namespace, key)
        return 0.0 if entry is None else entry.expires_at - self._now()

    def _live(self, namespace: str, key: str) -> Entry | None:
        now = self._now()
        entry = self.l1.store.peek(namespace, key, now)
        return entry if entry is not None and entry.expires_at > now else None

    # Changing.

    def use(self, namespace: str) -> None:
        """Remember that a namespace is used here."""
        if namespace not in self.used:
            if len(self.used) < MAX_NAMESPACES:
                self.used[namespace] = None
            else:
                self.used_more = True

    def store(
        self,
        namespace: str,
        key: str,
        frozen: Frozen,
        ttl: float,
        tags: tuple[str, ...] = (),
        load_seconds: float = 0.0,
        keep: float = 0.0,
    ) -> bool:
        """Set a key, for ``ttl`` seconds and ``keep`` more as a stale value; False if L1 does not hold it."""
        if namespace not in self.used:
            self.use(namespace)
        self.l1.store.remove(namespace, key)
        self.changes.key(namespace, key)
        meta = Meta(tags, load_seconds) if tags or load_seconds else None
        return self.l1.put(namespace, key, frozen, now=self._now(), ttl=ttl, keep=keep, meta=meta)

    def replace(self, namespace: str, key: str, frozen: Frozen, ttl: float) -> bool:
        """Give a key another value with the tags and the expiry of the one before, or for ``ttl`` seconds.

        False if L1 does not hold it.
        """
        entry = self._live(namespace, key)
        if entry is None:
            return self.store(namespace, key, frozen, ttl)
        tags = () if entry.meta is None else entry.meta.tags
        keep = entry.drop_at - entry.expires_at
        return self.store(namespace, key, frozen, entry.expires_at - self._now(), tags, keep=keep)

    def touch(self, namespace: str, key: str, ttl: float) -> bool:
        """Let a value live for ``ttl`` seconds from now on; False if there is none."""
        entry = self._live(namespace, key)
        # The value is as good as it was. A read in progress knows another expiry, and is not kept.
        self.changes.key(namespace, key, loaded=True)
        if entry is not None:
            self.l1.store.reschedule(entry, self._now() + ttl)
        return entry is not None

    def delete(self, namespace: str, key: str) -> bool:
        """Drop a key; False if L1 did not hold it."""
        entry = self.l1.store.peek(namespace, key, self._now())
        if entry is not None:
            self.l1.store.discard(entry)
        self.changes.key(namespace, key)
        return entry is not None

    def drop_tags(self, tags: Sequence[str]) -> int:
        """Drop the entries with any of the tags; returns how many."""
        self.changes.tags(tags)
        return sum(len(self.l1.drop_tag(tag)) for tag in tags)

    def drop_pattern(self, namespace: str, pattern: str) -> list[str]:
        """Drop the keys of a namespace that match a glob; returns them."""
        self.changes.unknown()
        return self.l1.drop_pattern(namespace, pattern)

    def clear(self, namespace: str | None = None) -> int:
        """Drop a namespace, or all; returns how many entries."""
        self.changes.unknown()
        return self.l1.store.clear(namespace)

    def forget(self) -> None:
        """Drop everything, since anything may have changed elsewhere."""
        self.clear()

    def apply(self, what: str, name: str, keys: Sequence[str]) -> None:
        """Apply another instance's change, see :class:`Backplane`; an unknown one drops everything."""
        if what == "drop" or what == "load":
            loaded = what == "load"
            for key in keys:
                self.l1.store.remove(name, key)
                self.changes.key(name, key, loaded)
        elif what == "tags":
            self.drop_tags(keys)
        elif what == "pattern":
            work = sum(map(len, keys)) * len(self.l1.store.spaces.get(name, ()))
            if work > MAX_GLOB_WORK or len(keys) != 1 or len(keys[0]) > MAX_KEY:
                self.clear(name)
            else:
                self.drop_pattern(name, keys[0])
        elif what == "clear":
            self.clear(name)
        else:
            self.forget()
