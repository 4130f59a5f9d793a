"""The first tier: this process's memory, bounded in bytes and entries."""

from __future__ import annotations

from sys import getsizeof
from typing import Any, NamedTuple

from bot.core._shared.bounded_store import BoundedStore, Entry
from bot.core._shared.isolation import Frozen
from bot.core.cache_manager.keys import compile_glob

ENTRY_OVERHEAD = 360
"""Bytes of an entry besides its key and value: the entry object, and its places in dict, queue and expiry
heap.
"""

NAMESPACE_OVERHEAD = 220
"""Bytes of a namespace besides its name and entries: a small dict, and its place in another."""

META_SIZE = 110
"""Bytes of an entry's notes: tuples, and a number."""

TAG_OF_ENTRY = 48
"""Bytes of one tag of one entry: its place in a tuple and in a set."""

TAG_OVERHEAD = 300
"""Bytes of a tag besides its name: a small set and its place in a dict."""


class Meta(NamedTuple):
    """What the cache keeps beside an entry's value."""

    tags: tuple[str, ...]
    load_seconds: float


class _Tagged:
    """The entries of a tag, and the one string that all of them share as the tag's name."""

    __slots__ = ("entries", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: set[Entry] = set()

    @property
    def size(self) -> int:
        return getsizeof(self.name) + TAG_OVERHEAD


class L1:
    """Entries by namespace and key, and by tag. Not for concurrent threads; nothing here awaits.

    Its bound counts the bytes in memory of values, keys, tags and namespaces.
    """

    def __init__(self, *, max_bytes: int, max_entries: int, lru: bool = False) -> None:
        # Changed only by put, _dropped and reset.
        self._by_tag: dict[str, _Tagged] = {}
        # Replaced by reset.
        self.store = self._new_store(max_bytes, max_entries, lru)

    def reset(self, *, max_bytes: int, max_entries: int, lru: bool = False) -> None:
        """Drop everything, counters included, and start with other bounds or another eviction."""
        self._by_tag = {}
        self.store = self._new_store(max_bytes, max_entries, lru)

    def _new_store(self, max_bytes: int, max_entries: int, lru: bool) -> BoundedStore:
        return BoundedStore(
            max_bytes=max_bytes,
            max_entries=max_entries,
            on_drop=self._dropped,
            lru=lru,
            space_overhead=NAMESPACE_OVERHEAD,
        )

    def put(
        self,
        namespace: str,
        key: str,
        frozen: Frozen,
        *,
        now: float,
        ttl: float,
        keep: float = 0.0,
        meta: Meta | None = None,
    ) -> bool:
        """Store; False if the value alone is larger than the tier."""
        value, thaw, size = frozen.value, frozen.thaw, frozen.size
        if not key.isascii():
            # A copy of the string: once a string was encoded elsewhere, it keeps its encoded bytes for good.
            key = (key + " ")[:-1]
        size += getsizeof(key) + ENTRY_OVERHEAD
        if meta is not None:
            meta, tags_size = self._noted(meta)
            size += tags_size
        entry = self.store.put(
            namespace, key, value, size=size, now=now, ttl=ttl, thaw=thaw, meta=meta, keep=keep
        )
        if entry is None:
            return False
        if meta is not None and meta.tags:
            # Index it under every tag before its bytes are counted, which may evict this very entry.
            beside = 0
            for tag in meta.tags:
                tagged = self._by_tag.get(tag)
                if tagged is None:
                    tagged = self._by_tag[tag] = _Tagged(tag)
                    beside += tagged.size
                tagged.entries.add(entry)
            if beside:
                self.store.charge(beside)
        return entry.live

    def _noted(self, meta: Meta) -> tuple[Meta, int]:
        """The notes with the tags' own strings, and their bytes."""
        if not meta.tags:
            return meta, META_SIZE
        by_tag = self._by_tag
        tags = tuple([by_tag[tag].name if tag in by_tag else tag for tag in dict.fromkeys(meta.tags)])
        return meta._replace(tags=tags), META_SIZE + TAG_OF_ENTRY * len(tags)

    def _dropped(self, entry: Entry) -> None:
        meta: Meta | None = entry.meta
        if meta is None:
            return
        for tag in meta.tags:
            tagged = self._by_tag.get(tag)
            if tagged is not None:
                tagged.entries.discard(entry)
                if not tagged.entries:
                    del self._by_tag[tag]
                    self.store.refund(tagged.size)

    def drop_tag(self, tag: str) -> list[tuple[str, Any]]:
        """Drop the entries with the tag; returns (namespace, key) of each."""
        tagged = self._by_tag.get(tag)
        gone = [] if tagged is None else [(entry.space, entry.key) for entry in tagged.entries]
        for namespace, key in gone:
            self.store.remove(namespace, key)
        return gone

    def drop_pattern(self, namespace: str, pattern: str) -> list[str]:
        """Drop the keys of a namespace that match a glob; O(keys of the namespace)."""
        matches = compile_glob(pattern).fullmatch
        gone = [str(key) for key in self.store.spaces.get(namespace, ()) if matches(str(key))]
        for key in gone:
            self.store.remove(namespace, key)
        return gone

    def check_invariants(self) -> None:
        """For tests."""
        self.store.check_invariants()
        live = {entry for entries in self.store.spaces.values() for entry in entries.values()}
        for tag, tagged in self._by_tag.items():
            assert tagged.name == tag
            assert tagged.entries
            assert tagged.entries <= live
            assert all(tag in entry.meta.tags for entry in tagged.entries)
