"""Cached results: bounded, private to the cache, dropped when a table they read is written."""

from __future__ import annotations

import datetime
import ipaddress
from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from decimal import Decimal
from sys import getsizeof, modules
from typing import Any
from uuid import UUID

from bot.core._shared.bounded_store import BoundedStore, Entry
from bot.core._shared.isolation import Frozen
from bot.core._shared.measuring import GC_HEADER
from bot.core.query_optimizer.sql.names import NEVER

SPACE = "results"
ENTRY_OVERHEAD = 450
"""Bytes of a result besides its value and key: the entry, its places in dict, queue, expiry and tables."""

LONG_TEXT = 100
"""Characters from which a query's text is stored once for all its results."""

TABLE_OVERHEAD = 300
"""Bytes of a table that results read, besides its name: a small set and its place in a dict."""

TEXT_OVERHEAD = 180
"""Bytes of such a text besides itself."""

MAX_TABLES = 10_000
"""Tables whose last write is remembered; beyond that, the oldest counts as a write to all tables."""

MAX_CONTAINERS = 10_000
"""Lists, dicts and the like in the parameters of a cached result, each counted wherever it stands."""

_NEVER = frozenset((NEVER, f"\0{NEVER}"))
"""The second is how a result of a named database is filed."""

_PLAIN = frozenset((str, int, bytes, bool, type(None)))
_WRITTEN_APART = frozenset(
    (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone, Decimal)
)
_IMMUTABLE = frozenset(
    (
        UUID, ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network,
        ipaddress.IPv6Network, ipaddress.IPv4Interface, ipaddress.IPv6Interface,
    )
)  # fmt: skip


class ResultCache:
    """Results by query and parameters.

    Every write gets the next number. A reader of the database notes the number first (``begin``), and its
    result is stored only if no table that it read was written since: a read that was in progress during a
    write is never cached.
    """

    def __init__(self, *, max_bytes: int, max_entries: int, begun: int = 0) -> None:
        """``begun``: the last number of the cache before; what was read then is too old for this one."""
        self.store = BoundedStore(max_bytes=max_bytes, max_entries=max_entries, on_drop=self._dropped)
        self.live = self.store.space(SPACE)
        # Changed only by put, _dropped and the methods that record writes.
        self._by_table: dict[str, set[Entry]] = {}
        # Long texts of queries, each kept and counted once: [the text, results of it]. As above.
        self._texts: dict[str, list[Any]] = {}
        self._write_number = begun
        # Mark -> number of its last write, in no order; see _forget_oldest.
        self._last_write: dict[str, int] = {}
        self._last_write_to_all = begun

    def begin(self) -> int:
        """The number to give to :meth:`put` with a result that is read from now on."""
        return self._write_number

    def version(self, tables: Iterable[str]) -> int:
        """Changes whenever one of the tables is written: tells apart readers before and after."""
        newest = self._last_write_to_all
        if last := self._last_write:
            for table in tables:
                written = last.get(table, 0)
                if written > newest:
                    newest = written
        return newest

    def written_since(self, begun: int, tables: Iterable[str]) -> bool:
        """Whether one of the tables was written after ``begin`` gave that number."""
        if self._write_number == begun:
            return False
        if self._last_write_to_all > begun:
            return True
        last = self._last_write
        return any(last.get(table, 0) > begun for table in tables)

    def put(
        self, key: Hashable, frozen: Frozen, tables: frozenset[str], *, begun: int, now: float, ttl: float
    ) -> bool:
        """Store a result that was read after ``begun``; False if it may be stale or is too large."""
        if not _NEVER.isdisjoint(tables) or self.written_since(begun, tables):
            return False
        text = _text_of(key)
        if len(text) < LONG_TEXT:
            text, shared_key, size = "", key, size_of_key(key)
        else:
            shared_key, size = self._shared(key, text), size_of_key(key) - getsizeof(text)
        entry = self.store.put(
            SPACE,
            shared_key,
            frozen.value,
            size=frozen.size + size + ENTRY_OVERHEAD,
            now=now,
            ttl=ttl,
            thaw=frozen.thaw,
            meta=tables,
        )
        if entry is None:
            return False
        # Index it completely before its bytes are counted, which may evict this very entry.
        beside = 0
        for table in tables:
            entries = self._by_table.get(table)
            if entries is None:
                self._by_table[table] = {entry}
                beside += getsizeof(table) + TABLE_OVERHEAD
            else:
                entries.add(entry)
        if text:
            known = self._texts.get(text)
            if known is None:
                self._texts[text] = [text, 1]
                beside += getsizeof(text) + TEXT_OVERHEAD
            else:
                known[1] += 1
        if beside:
            self.store.charge(beside)
        return entry.live

    def _shared(self, key: Hashable, text: str) -> Hashable:
        """The key with the one string that all of its long ``text`` have."""
        known = self._texts.get(text)
        return key if known is None else _with_text(key, text, known[0])

    def _dropped(self, entry: Entry) -> None:
        for table in entry.meta or ():
            entries = self._by_table.get(table)
            if entries is not None:
                entries.discard(entry)
                if not entries:
                    del self._by_table[table]
                    self.store.refund(getsizeof(table) + TABLE_OVERHEAD)
        known = self._texts.get(_text_of(entry.key)) if self._texts else None
        if known is not None:
            text = known[0]
            known[1] -= 1
            if not known[1]:
                del self._texts[text]
                self.store.refund(getsizeof(text) + TEXT_OVERHEAD)

    def write(self, tables: Collection[str]) -> int:
        """Tables were, or may have been, written: drop the results that read them; returns how many."""
        number = self._write_number = self._write_number + 1
        last, by_table = self._last_write, self._by_table
        dropped = 0
        last.update(dict.fromkeys(tables, number))
        if by_table and not by_table.keys().isdisjoint(tables):
            for table in tables:
                for entry in list(by_table.get(table, ())):
                    dropped += self.store.discard(entry)
        if len(last) > MAX_TABLES:
            self._forget_oldest()
        return dropped

    def _forget_oldest(self) -> None:
        """Too many tables are remembered: those written longest ago count as all tables from now on.

        A tenth of them at once, since each search for the oldest looks at all.
        """
        last = self._last_write
        for table in sorted(last, key=last.__getitem__)[: len(last) - MAX_TABLES * 9 // 10]:
            self._last_write_to_all = max(self._last_write_to_all, last.pop(table))

    def write_anything(self) -> int:
        """Something unknown was written: drop everything."""
        self._write_number += 1
        self._last_write_to_all = self._write_number
        self._last_write.clear()
        return self.store.clear()

    def check_invariants(self) -> None:
        """For tests."""
        self.store.check_invariants()
        indexed = {entry for entries in self._by_table.values() for entry in entries}
        assert indexed <= set(self.live.values())
        assert all(self._by_table.values())
        texts = [text for entry in self.live.values() if len(text := _text_of(entry.key)) >= LONG_TEXT]
        assert {text: known[1] for text, known in self._texts.items()} == Counter(texts)


def _text_of(key: Any) -> str:
    """The query's text in a key: that itself, or one of :func:`key_of`, or (scope, one of these)."""
    if type(key) is not tuple:
        return key if type(key) is str else ""
    first = key[0]
    if len(key) == 2:
        rest = key[1]
        if type(rest) is str:
            return rest
        if type(rest) is tuple and rest and type(rest[0]) is str:
            return rest[0]
    elif len(key) != 4:
        return ""
    return first if type(first) is str else ""


def _with_text(key: Any, text: str, shared: str) -> Hashable:
    if type(key) is tuple:
        return tuple([_with_text(part, text, shared) if type(part) in (str, tuple) else part for part in key])
    return shared if key == text else key


def size_of_key(key: Any) -> int:
    """Bytes of a key: its text and its parameters."""
    if type(key) is tuple and len(key) == 4 and (key[1] is tuple or key[1] is list):
        text, _, kinds, values = key  # as key_of makes them
        size = int(key.__sizeof__() + text.__sizeof__() + values.__sizeof__()) + GC_HEADER
        if type(kinds) is tuple:
            size += kinds.__sizeof__() + 2 * GC_HEADER + sum([value.__sizeof__() for value in values])
        return size
    size = 0
    parts = [key]
    for part in parts:  # grows while it is read
        kind = part.__class__
        if kind is tuple or kind is frozenset:
            parts += part
        elif kind not in _PLAIN and isinstance(part, type):
            continue
        size += getsizeof(part)
    return size


def key_of(query: str, params: Any) -> Hashable:
    """The cache key of a query with parameters; raises TypeError if they are not plain data.

    ``query`` without parameters; ``(query, tuple or list, types, values)`` for plain values, and of one value
    its type and itself; ``(query, what freeze_params gives)`` for all else.
    """
    kind = type(params)
    if kind is tuple or kind is list:
        # Flat, since a key is hashed at each step of a miss: these and their types say it all.
        if len(params) == 1:
            value = params[0]
            if type(value) in _PLAIN:
                return query, kind, type(value), value
        else:
            kinds = tuple(map(type, params))
            if _PLAIN.issuperset(kinds):
                return query, kind, kinds, tuple(params)
    elif params is None:
        return query
    return query, freeze_params(params)


def hash_of(number: int, query: str, params: Any) -> int:
    """A hash of what :func:`key_of` gives, with a ``number``; raises TypeError as that does."""
    return hash((number, key_of(query, params)))


def _fraction() -> Any:
    """The class of fractions; None if nothing imported it, so that there is none."""
    return getattr(modules.get("fractions"), "Fraction", None)


def freeze_params(value: Any) -> Hashable:
    """A hashable form of plain data, which differs for values that a driver may send differently.

    1, True, 1.0 and "1" are four values; [1, 2] and (1, 2) are two (an array and a row), and so are equal
    values that are written differently, and dicts in another order (in JSON). Raises TypeError for unknown
    types, and for more than ``MAX_CONTAINERS`` containers, each counted wherever it stands.
    """
    return _frozen(value, _PARAMETERS, [MAX_CONTAINERS])


_PARAMETERS = object()
"""The container of all parameters: names in a dict have no order."""


def _frozen(value: Any, where: object, left: list[int]) -> Hashable:
    # ``where`` has no default: Python 3.13.0 bounds no recursion of calls that leave an argument out.
    kind = type(value)
    if kind in _PLAIN:
        return kind, value
    if kind is float:
        # 0.0 equals -0.0, and NaN does not equal itself
        return float, value if value and value == value else repr(value)
    left[0] -= 1
    if left[0] < 0:  # a few lists that hold one another twice make a value without end
        raise TypeError(f"parameters of more than {MAX_CONTAINERS:,} parts")
    if kind is tuple or kind is list:
        return kind, tuple(
            [(item.__class__, item) if type(item) in _PLAIN else _frozen(item, None, left) for item in value]
        )
    if kind is dict:
        items = [(_frozen(name, None, left), _frozen(item, None, left)) for name, item in value.items()]
        return dict, frozenset(items) if where is _PARAMETERS else tuple(items)
    if kind is set or kind is frozenset:
        return kind, frozenset([_frozen(item, None, left) for item in value])
    if kind in _WRITTEN_APART:
        # 12:00+00:00 equals 13:00+01:00, and 1.0 equals 1.00.
        return kind, value, repr(value)
    if kind in _IMMUTABLE or (isinstance(value, UUID) and kind.__module__.startswith("asyncpg.")):
        return kind, value
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return kind, tuple([_frozen(item, None, left) for item in value])
    if kind.__module__ == "bson.objectid" or kind is _fraction():
        return kind, value
    raise TypeError(f"parameter of type {kind.__qualname__}: expected plain data")
