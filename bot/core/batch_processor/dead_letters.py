"""Items that were given up, kept in memory (pure)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from bot.core.batch_processor.models import DeadLetter


class DeadLetters:
    """The last ``limit`` dead letters, by item id; the oldest is dropped for a new one."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.dropped = 0
        self._held: OrderedDict[str, DeadLetter] = OrderedDict()  # the oldest first

    def __len__(self) -> int:
        return len(self._held)

    def add(self, letter: DeadLetter) -> DeadLetter | None:
        """Keep one, in the place of one with the same id; returns the one that had to go for it."""
        self._held.pop(letter.item_id, None)  # the new one is the newest
        self._held[letter.item_id] = letter
        if len(self._held) <= self.limit:
            return None
        self.dropped += 1
        return self._held.popitem(last=False)[1]

    def all(self) -> list[DeadLetter]:
        """The oldest first."""
        return list(self._held.values())

    def get(self, item_id: str) -> DeadLetter | None:
        return self._held.get(item_id)

    def take(self, item_ids: Iterable[str] | None = None, limit: int | None = None) -> list[DeadLetter]:
        """Remove and return those of ``item_ids`` (of all, if None), at most ``limit``, oldest first."""
        wanted = (
            list(self._held) if item_ids is None else [i for i in dict.fromkeys(item_ids) if i in self._held]
        )
        return [self._held.pop(item_id) for item_id in wanted[:limit]]
