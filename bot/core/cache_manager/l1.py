"""The first tier: this process's memory, bounded in bytes and entries."""

from __future__ import annotations

from typing import Any, NamedTuple

from bot.core._shared.bounded_store import BoundedStore, Entry
from bot.core._shared.isolation import Frozen
from bot.core.cache_manager.keys import compile_glob

ENTRY_OVERHEAD = 520
"""Bytes of an entry besides its key and value: the entry, its places in dict, queue and expiry."""


class Meta(NamedTuple):
    """What the cache notes of an entry."""

    tags: tuple[str, ...]
    load_seconds: float


class L1:
    """Entries by namespace and key, and by tag. Not for concurrent threads; nothing here awaits."""

    def __init__(self, *, max_bytes: int, max_entries: int, lru: bool = False) -> None:
        self.store = BoundedStore(
            max_bytes=max_bytes, max_entries=max_entries, on_drop=self._dropped, lru=lru
        )
        # Changed only by put and _dropped.
        self._by_tag: dict[str, set[Entry]] = {}

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
        value, thaw, size = frozen
        size += len(key) + ENTRY_OVERHEAD
        entry = self.store.put(
            namespace, key, value, size=size, now=now, ttl=ttl, thaw=thaw, meta=meta, keep=keep
        )
        if entry is None:
            return False
        if meta is not None:
            for tag in meta.tags:
                self._by_tag.setdefault(tag, set()).add(entry)
        return True

    def _dropped(self, entry: Entry) -> None:
        meta: Meta | None = entry.meta
        if meta is None:
            return
        for tag in meta.tags:
            entries = self._by_tag.get(tag)
            if entries is not None:
                entries.discard(entry)
                if not entries:
                    del self._by_tag[tag]

    def drop_tag(self, tag: str) -> list[tuple[str, Any]]:
        """Drop what carries the tag: (namespace, key) of each."""
        gone = [(entry.space, entry.key) for entry in self._by_tag.get(tag, ())]
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
        for tag, entries in self._by_tag.items():
            assert entries
            assert entries <= live
            assert all(tag in entry.meta.tags for entry in entries)
