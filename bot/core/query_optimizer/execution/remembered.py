"""What is known about texts; the least recently used is forgotten first (pure)."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """Values by text, within ``max_size`` in all; a value larger than that is not kept.

    The order of the dict is the order of use. cachetools' LRUCache does the same, but would take a third of
    the time of an answer for a known text.
    """

    __slots__ = ("_max_size", "_values", "size")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._values: dict[str, tuple[T, int]] = {}  # the least recently used first
        self.size = 0

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, text: object) -> bool:
        return text in self._values

    def get(self, text: str) -> T | None:
        found = self._values.pop(text, None)
        if found is None:
            return None
        self._values[text] = found
        return found[0]

    def put(self, text: str, value: T, size: int) -> None:
        """Keep ``value``, which takes ``size``; others are dropped if necessary."""
        values = self._values
        before = values.pop(text, None)
        if before is not None:
            self.size -= before[1]
        if size > self._max_size:
            return
        values[text] = (value, size)
        self.size += size
        while self.size > self._max_size:
            oldest = next(iter(values))
            self.size -= values.pop(oldest)[1]
