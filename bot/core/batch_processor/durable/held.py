"""What this instance holds of the stream (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from bot.core.batch_processor.models import BatchItem


class _Entry(NamedTuple):
    item: BatchItem
    value: bytes


class Held:
    """Entries that were read or claimed here and have not ended, each with its item in the dispatcher."""

    def __init__(self, alone_ended: Callable[[], None]) -> None:
        """``alone_ended()``: another entry may be handled alone now."""
        self._alone_ended = alone_ended
        # Changed by add, drop and clear.
        self._entries: dict[bytes, _Entry] = {}
        self._ids: set[str] = set()
        self.replaceable: set[bytes] = set()
        """Those of them whose item a newer one of its key may replace."""
        self._alone: bytes | None = None
        self.leased: dict[bytes, float] = {}
        """Those of items of lanes: since when each is leased for certain, on the monotonic clock."""

    def __contains__(self, entry: bytes) -> bool:
        return entry in self._entries

    @property
    def entries(self) -> list[bytes]:
        """Their ids in the stream, the oldest first."""
        return list(self._entries)

    @property
    def has_alone(self) -> bool:
        """Whether an entry is handled alone, because its instances ended too often."""
        return self._alone is not None

    def holds(self, item_id: str) -> bool:
        """Whether the item's entry is held."""
        return item_id in self._ids

    def is_in_lane(self, entry: bytes) -> bool:
        """Whether the entry is held, and its item has a lane."""
        held = self._entries.get(entry)
        return held is not None and held.item.lane is not None

    def renewed(self, entries: Iterable[bytes], at: float) -> None:
        """The leases of these entries began anew at this time, or later."""
        leased = self.leased
        for entry in entries:
            if entry in leased:
                leased[entry] = at

    def add(
        self, item: BatchItem, value: bytes, *, alone: bool, since: float = 0.0, replaceable: bool = False
    ) -> None:
        """Hold the entry of an item; ``value`` is the entry's; ``since``: when it was leased, or before."""
        if item.lane is not None:
            self.leased[item.entry] = since
        if replaceable:
            self.replaceable.add(item.entry)
        self._entries[item.entry] = _Entry(item, value)
        self._ids.add(item.item_id)
        if alone:
            self._alone = item.entry

    def set_value(self, entry: bytes, value: bytes) -> None:
        """A newer item's value has taken the place of the entry's."""
        held = self._entries.get(entry)
        if held is not None:
            self._entries[entry] = held._replace(value=value)

    def item_of(self, entry: bytes) -> BatchItem | None:
        """The entry's item; None if it is not held."""
        held = self._entries.get(entry)
        return None if held is None else held.item

    def value_of(self, entry: bytes) -> bytes | None:
        """The entry's value, which no handler can change; None if it is not held."""
        held = self._entries.get(entry)
        return None if held is None else held.value

    def drop(self, entry: bytes) -> None:
        """Hold it no more."""
        held = self._entries.pop(entry, None)
        self.leased.pop(entry, None)
        self.replaceable.discard(entry)
        if held is not None:
            self._ids.discard(held.item.item_id)
        if self._alone == entry:
            self._alone = None
            self._alone_ended()

    def clear(self) -> None:
        """Hold nothing; in a child after a fork all of it is the parent's."""
        self._entries.clear()
        self.leased.clear()
        self._ids.clear()
        self.replaceable.clear()
        self._alone = None
