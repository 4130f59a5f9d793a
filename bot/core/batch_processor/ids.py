"""Ids of items and batches (pure)."""

from __future__ import annotations


class Ids:
    """Names for the items and batches of one instance; ``prefix`` is what no other instance has."""

    __slots__ = ("_items", "_suffixes", "prefix")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._items = 0
        """The number of the last item that was given an id of its own."""
        self._suffixes = [""]

    def new_item(self) -> str:
        """An id that no other item has."""
        self._items += 1
        return f"{self.prefix}-{self._items}"

    def of_batch(self, number: int) -> str:
        """The id of a batch."""
        return f"{self.prefix}-b{number}"

    def of_items_in(self, number: int, count: int) -> list[str]:
        """The ids of the items of a batch that were given none before."""
        suffixes = self._suffixes
        while len(suffixes) <= count:
            suffixes.append(f"-{len(suffixes)} ")
        # Made all together, because formatting a number for each would be a tenth of a batch's cost.
        return self.of_batch(number).join(suffixes[: count + 1]).split(" ")

    def batch_number(self, batch_id: str) -> int | None:
        """The opposite of :meth:`of_batch`; None for what is no batch of this instance."""
        prefix, _, digits = batch_id.rpartition("-b")
        if prefix != self.prefix or not (digits.isascii() and digits.isdigit()):
            return None
        return int(digits[:20])
