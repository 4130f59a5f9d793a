"""A store bounded by entries and by bytes, with a time to live for each entry (pure).

Eviction is S3-FIFO: J. Yang, Y. Zhang, Z. Qiu, Y. Yue, R. Vinayak, "FIFO queues are all you need
for cache eviction", SOSP 2023. A new entry goes to a small queue (a tenth of the store) and reaches
the main queue only if it is read again before it falls out, or if it fell out recently (the ghost
queue remembers hashes only). A scan therefore passes through the small queue and leaves what is
popular alone. A read only increments a number, so it costs less than LRU's reordering. LRU is there
as an option.

Expiry needs no scan: entries are grouped by the second in which they expire.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import repeat
from sys import getsizeof
from typing import Any

SMALL_SHARE = 10
"""The small queue's target is one part in this many of the store."""

MAX_FREQUENCY = 3
"""Reads counted per entry; two bits in the paper."""

_NAME_HEADER = 100
"""Bytes of a string without characters, at the most; each of its characters has four at the most."""

NEVER = math.inf
"""``expires_at`` of an entry without a time to live."""


class Entry:
    """One stored value. Owners read it; only the store changes it, but for ``frequency``.

    A hot path may look an entry up in ``store.space(name)`` itself, if it then checks
    ``now < entry.expires_at`` and increments ``frequency`` while below :data:`MAX_FREQUENCY`.
    """

    __slots__ = (
        "bucket", "drop_at", "expires_at", "frequency", "hashed", "in_main", "key", "live", "meta", "size",
        "space", "thaw", "value",
    )  # fmt: skip

    def __init__(
        self,
        space: str,
        key: Hashable,
        value: Any,
        thaw: Callable[[Any], Any] | None,
        meta: Any,
        size: int,
        expires_at: float,
        drop_at: float,
        hashed: int,
    ) -> None:
        self.space = space
        self.key = key
        self.value = value
        self.thaw = thaw
        """Makes what a caller gets from ``value``; None when ``value`` itself may be handed out."""
        self.meta = meta
        """The owner's own notes, such as tags or tables."""
        self.size = size
        self.expires_at = expires_at
        self.drop_at = drop_at
        """Until then an expired entry is kept for :meth:`BoundedStore.peek`; else the same as above."""
        self.frequency = 0
        self.in_main = False
        self.live = True
        self.hashed = hashed
        """Of space and key: a key of nested tuples is hashed anew each time."""
        self.bucket: dict[Entry, None] | None = None
        """What expires in the same second; None if it never does."""


class BoundedStore:
    """Entries by (space, key), within ``max_entries`` and ``max_bytes`` after every call.

    Get, put, remove and evict are O(1) amortized. Not for concurrent threads; no call awaits, so
    tasks of one loop need no lock. ``on_drop`` hears of every entry with ``meta`` that leaves
    (evicted, expired, removed or replaced), after it has left; of the store's methods it may call
    :meth:`refund`.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        max_entries: int,
        on_drop: Callable[[Entry], None] | None = None,
        lru: bool = False,
        space_overhead: int = 0,
    ) -> None:
        """``space_overhead``: bytes to count for each space besides its name; 0 counts no name either."""
        if max_bytes < 1 or max_entries < 1:
            raise ValueError(f"max_bytes = {max_bytes}, max_entries = {max_entries}: expected 1 or more")
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self._on_drop = on_drop
        self._space_overhead = space_overhead
        # All of what follows is changed only by put, _drop, _evict_one, clear and resize.
        self._spaces: dict[str, dict[Hashable, Entry]] = {}
        self._pinned: set[str] = set()
        self._count = 0
        self._bytes = 0
        self._beside = 0  # of _bytes, what is charged beside the entries
        # The queues may hold entries that are no longer live; they are skipped when met, and
        # _compact keeps them a minority.
        self._small: deque[Entry] = deque()
        self._main: deque[Entry] = deque()
        self._small_count = 0
        self._small_bytes = 0
        # Instead of the queues, if least recently used is asked for: the next to leave comes first.
        self._lru: OrderedDict[Entry, None] | None = OrderedDict() if lru else None
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        # Hashes of keys that were not admitted: two sets of at most as many as there are entries, the
        # older one forgotten when the newer is full. Changed only by admits and admitted.
        self._door: set[int] = set()
        self._old_door: set[int] = set()
        self._expiring: dict[int, dict[Entry, None]] = {}
        self._due: list[int] = []  # heap of the keys of _expiring, and of some that are there no more
        self.evictions = 0
        self.expirations = 0
        self.insertions = 0
        self.on_evict: Callable[[Entry], None] | None = None
        """Called with each entry that is evicted, before it leaves; it must change nothing."""

    def __len__(self) -> int:
        return self._count

    def admits(self, space: str, key: Hashable) -> bool:
        """Whether something that can be had again from elsewhere should be stored here.

        Always while there is room. In a full store only what is asked for a second time may push
        something out: a doorkeeper (G. Einziger, R. Friedman, B. Manes, "TinyLFU", 2017). It works by
        hashes, so a key may be mistaken for another; what is wanted once costs half.
        """
        # inlined: has_room
        if self._count < self.max_entries and self._bytes * 64 < self.max_bytes * 63:
            return True
        key_hash = hash((space, key))
        door = self._door
        if key_hash in door or key_hash in self._old_door or key_hash in self._ghosts:
            return True
        door.add(key_hash)
        if len(door) >= self._count and len(door) >= 64:
            self._old_door, self._door = door, set()
        return False

    def has_room(self) -> bool:
        """Whether :meth:`admits` admits anything."""
        return self._count < self.max_entries and self._bytes * 64 < self.max_bytes * 63

    def admitted(self, space: str, keys: Sequence[Hashable]) -> list[int]:
        """The positions of the keys, all different, that :meth:`admits` would admit into a full store."""
        hashes = list(map(hash, zip(repeat(space), keys, strict=False)))
        door, old_door, ghosts = self._door, self._old_door, self._ghosts
        known: list[int] = []
        if not (door.isdisjoint(hashes) and old_door.isdisjoint(hashes) and ghosts.keys().isdisjoint(hashes)):
            known = [
                position
                for position, key_hash in enumerate(hashes)
                if key_hash in door or key_hash in old_door or key_hash in ghosts
            ]
            taken = {hashes[position] for position in known}
            hashes = [key_hash for key_hash in hashes if key_hash not in taken]
        door.update(hashes)
        if len(door) >= self._count and len(door) >= 64:
            self._old_door, self._door = door, set()
        return known

    @property
    def bytes_used(self) -> int:
        """The sum of the sizes given to :meth:`put`, of the spaces and of what is charged."""
        return self._bytes

    def charge(self, size: int) -> None:
        """Count bytes that the owner keeps beside the entries, evicting until both bounds hold."""
        self._bytes += size
        self._beside += size
        while self._count and self._bytes > self.max_bytes:
            self._evict_one(incoming=0)

    def refund(self, size: int) -> None:
        """Count them no more."""
        self._bytes -= size
        self._beside -= size

    def space(self, name: str) -> dict[Hashable, Entry]:
        """The live entries of one space, for reading; the same dict for as long as the store lives."""
        if name in self._spaces and name not in self._pinned:
            self.refund(self._space_size(name))  # as one of a few that stay, it is part of the program
        self._pinned.add(name)
        return self._spaces.setdefault(name, {})

    @property
    def spaces(self) -> dict[str, dict[Hashable, Entry]]:
        """The live entries by space, for reading. A space that empties is forgotten, unless asked for."""
        return self._spaces

    def entries(self, space: str | None = None) -> Iterator[Entry]:
        """What is stored, expired entries included until they are met; a copy, safe to remove from."""
        names = list(self._spaces) if space is None else [space]
        for name in names:
            yield from list(self._spaces.get(name, {}).values())

    def get(self, space: str, key: Hashable, now: float) -> Entry | None:
        """The live entry of ``key``, counted as a read; None if absent or expired at ``now``."""
        found = self._spaces.get(space)
        entry = found.get(key) if found is not None else None
        if entry is None:
            return None
        if entry.expires_at <= now:
            if entry.drop_at <= now:
                self.expirations += 1
                self._drop(entry)
            return None
        if self._lru is not None:
            self._lru.move_to_end(entry)
        elif entry.frequency < MAX_FREQUENCY:
            entry.frequency += 1
        return entry

    def peek(self, space: str, key: Hashable, now: float) -> Entry | None:
        """The entry of ``key`` even if expired, as long as it is kept; not counted as a read."""
        found = self._spaces.get(space)
        entry = found.get(key) if found is not None else None
        return entry if entry is not None and now < entry.drop_at else None

    def put(
        self,
        space: str,
        key: Hashable,
        value: Any,
        *,
        size: int,
        now: float,
        ttl: float | None = None,
        thaw: Callable[[Any], Any] | None = None,
        meta: Any = None,
        keep: float = 0.0,
    ) -> Entry | None:
        """Store ``value``, replacing what ``key`` had, and evict until both bounds hold.

        ``size`` is in bytes, ``ttl`` in seconds (None: no expiry), ``keep`` the seconds that it stays
        for :meth:`peek` after it expired. Returns None, with nothing stored
        and the old entry gone, when the value and what is charged are larger than the store.
        """
        due = self._due
        if due and due[0] <= now:
            self.expire(now)
        found = self._spaces.get(space)
        old = found.get(key) if found is not None else None
        if old is not None:
            self._drop(old)
        if ttl is not None and ttl <= 0:
            return None
        # For its space, which may be new, or become so by what is evicted.
        room = 0
        full = self._count >= self.max_entries
        if self._bytes + size + 4 * len(space) + self._space_overhead + _NAME_HEADER > self.max_bytes:
            full = True
            room = 0 if space in self._pinned else self._space_size(space)
            if size + room > self.max_bytes:
                return None
        expires_at = NEVER if ttl is None else now + ttl
        hashed = hash((space, key))
        entry = Entry(space, key, value, thaw, meta, size, expires_at, expires_at + keep, hashed)
        if old is not None:
            # A rewritten entry keeps its standing; rewriting alone is no sign of being read.
            entry.frequency, entry.in_main = old.frequency, old.in_main
        elif hashed in self._ghosts:
            del self._ghosts[hashed]
            entry.in_main = True
        if full:
            while self._count and (
                self._count >= self.max_entries or self._bytes + size + room > self.max_bytes
            ):
                self._evict_one(incoming=size + room)
            if self._bytes + size + room > self.max_bytes:
                return None  # nothing is left to evict; what the owner keeps beside takes the room
        if ttl is not None:
            second = math.ceil(entry.drop_at)
            bucket = self._expiring.get(second)
            if bucket is None:
                bucket = self._expiring[second] = {}
                heapq.heappush(self._due, second)
            bucket[entry] = None
            entry.bucket = bucket
        found = self._spaces.get(space)  # which what was evicted may have ended
        if found is None:
            found = self._spaces[space] = {}
            beside = self._space_size(space)
            self._bytes += beside
            self._beside += beside
        found[key] = entry
        self._count += 1
        self._bytes += size
        self.insertions += 1
        if self._lru is not None:
            self._lru[entry] = None
        elif entry.in_main:
            self._main.append(entry)
        else:
            self._small.append(entry)
            self._small_count += 1
            self._small_bytes += size
        if old is not None:
            self._compact()
        return entry

    def remove(self, space: str, key: Hashable) -> bool:
        """Drop one entry; False if there was none."""
        entry = self._spaces.get(space, {}).get(key)
        if entry is None:
            return False
        self._drop(entry)
        self._compact()
        return True

    def discard(self, entry: Entry) -> bool:
        """Drop this very entry; False if it has already left."""
        if not entry.live:
            return False
        self._drop(entry)
        self._compact()
        return True

    def reschedule(self, entry: Entry, expires_at: float) -> None:
        """Let a live entry expire at another time; :meth:`peek` finds it as long after that as before."""
        keep = 0.0
        if entry.bucket is not None:
            keep = entry.drop_at - entry.expires_at
            self._unschedule(entry, entry.bucket)
        entry.expires_at, entry.drop_at = expires_at, expires_at + keep
        if entry.drop_at != NEVER:
            second = math.ceil(entry.drop_at)
            if second not in self._expiring:
                self._expiring[second] = {}
                heapq.heappush(self._due, second)
            entry.bucket = self._expiring[second]
            entry.bucket[entry] = None

    def _unschedule(self, entry: Entry, bucket: dict[Entry, None]) -> None:
        del bucket[entry]
        entry.bucket = None
        if not bucket:
            del self._expiring[math.ceil(entry.drop_at)]
            if len(self._due) > 2 * len(self._expiring) + 64:
                self._due = sorted(self._expiring)

    def expire(self, now: float) -> int:
        """Drop everything that expired in seconds wholly past; how many. O(1) when nothing did."""
        due = self._due
        dropped = 0
        while due and due[0] <= now:
            for entry in self._expiring.pop(heapq.heappop(due), {}):
                entry.bucket = None
                self._drop(entry)
                dropped += 1
        if dropped:
            self.expirations += dropped
            self._compact()
        return dropped

    def clear(self, space: str | None = None) -> int:
        """Drop everything, or one space; how many entries that was."""
        gone = list(self.entries(space))
        for entry in gone:
            self._drop(entry)
        if space is None:
            self._ghosts.clear()
        self._compact()
        return len(gone)

    def resize(self, *, max_bytes: int, max_entries: int) -> None:
        """Change the bounds, evicting at once what no longer fits."""
        self.max_bytes, self.max_entries = max_bytes, max_entries
        while self._count and (self._count > max_entries or self._bytes > max_bytes):
            self._evict_one(incoming=0)

    def _space_size(self, name: str) -> int:
        return getsizeof(name) + self._space_overhead if self._space_overhead else 0

    # How entries leave.

    def _drop(self, entry: Entry) -> None:
        entry.live = False
        found = self._spaces[entry.space]
        del found[entry.key]
        if not found and entry.space not in self._pinned:
            del self._spaces[entry.space]
            self.refund(self._space_size(entry.space))
        self._count -= 1
        self._bytes -= entry.size
        if self._lru is not None:
            self._lru.pop(entry, None)
        elif not entry.in_main:
            self._small_count -= 1
            self._small_bytes -= entry.size
        if entry.bucket is not None:
            self._unschedule(entry, entry.bucket)
        if entry.meta is not None and self._on_drop is not None:
            self._on_drop(entry)
        entry.value = entry.thaw = entry.meta = None  # a dead entry may wait long in its queue

    def _evict_one(self, *, incoming: int) -> None:
        """Make one entry leave. There is at least one: an entry never exceeds the store alone."""
        if self._lru is not None:
            self.evictions += 1
            entry = next(iter(self._lru))
            if self.on_evict is not None:
                self.on_evict(entry)
            self._drop(entry)
            return
        while True:
            small_is_over = (
                self._small_bytes * SMALL_SHARE >= self.max_bytes
                if self._bytes + incoming > self.max_bytes
                else self._small_count * SMALL_SHARE >= self.max_entries
            )
            if self._small_count > 0 and (small_is_over or self._count == self._small_count):
                entry = self._small.popleft()
                if not entry.live:
                    continue
                if entry.frequency > 0:
                    self._small_count -= 1
                    self._small_bytes -= entry.size
                    entry.frequency = 0
                    entry.in_main = True
                    self._main.append(entry)
                    continue
                ghosts = self._ghosts
                ghosts[entry.hashed] = None
                # As many ghosts as the main queue has entries, as in the paper.
                limit = max(16, self._count - self._small_count)
                while len(ghosts) > limit:
                    ghosts.popitem(last=False)
            else:
                entry = self._main.popleft()
                if not entry.live:
                    continue
                if entry.frequency > 0:
                    entry.frequency -= 1
                    self._main.append(entry)
                    continue
            self.evictions += 1
            if self.on_evict is not None:
                self.on_evict(entry)
            self._drop(entry)
            return

    def _compact(self) -> None:
        """Rebuild a queue once most of it is dead, so that removals cost O(1) amortized memory."""
        if len(self._small) > 2 * self._small_count + 64:
            self._small = deque(entry for entry in self._small if entry.live)
        if len(self._main) > 2 * (self._count - self._small_count) + 64:
            self._main = deque(entry for entry in self._main if entry.live)

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts of the store disagree. For tests: O(n)."""
        live = [entry for found in self._spaces.values() for entry in found.values()]
        assert all(entry.live for entry in live)
        assert len(live) == self._count <= self.max_entries
        assert sum(entry.size for entry in live) + self._beside == self._bytes
        assert self._bytes <= self.max_bytes or not live
        assert self._beside >= sum(
            self._space_size(name) for name in self._spaces if name not in self._pinned
        )
        scheduled = [entry for bucket in self._expiring.values() for entry in bucket]
        assert all(bucket is entry.bucket for bucket in self._expiring.values() for entry in bucket)
        assert all((entry.bucket is None) == (entry.drop_at == NEVER) for entry in live)
        assert all(entry.hashed == hash((entry.space, entry.key)) for entry in live)
        assert sorted(map(id, scheduled)) == sorted(id(entry) for entry in live if entry.drop_at != NEVER)
        assert set(self._due) >= self._expiring.keys(), "each second is in the heap"
        assert len(self._due) <= 2 * len(self._expiring) + 65
        if self._lru is not None:
            assert set(self._lru) == set(live)
            return
        small = [entry for entry in self._small if entry.live]
        main = [entry for entry in self._main if entry.live]
        assert sorted(map(id, small + main)) == sorted(map(id, live)), "each entry in one queue, once"
        assert not any(entry.in_main for entry in small)
        assert all(entry.in_main for entry in main)
        assert len(small) == self._small_count
        assert sum(entry.size for entry in small) == self._small_bytes
