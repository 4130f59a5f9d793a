"""How many bytes items count for ``max_batch_bytes`` (pure)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from bot.core._shared.masking import one_line
from bot.core.batch_processor.models import BatchItem

logger = logging.getLogger(__name__)

SizeOf = Callable[[Any], int]
"""A function: the bytes that the data of an item count."""


class Sizes:
    """Measures items by a function of their data, each once.

    What cannot be measured counts as so much that it travels alone; the log says so once.
    """

    def __init__(self) -> None:
        # Changed by the service.
        self.function: SizeOf = len
        self.most = 0
        """The most bytes of a batch; 0: any number, and nothing is measured."""
        self._warned = False

    def measure(self, item: BatchItem) -> int:
        """The item's size, 1 at least; it is kept in the item."""
        if item.size:
            return item.size
        try:
            size = self.function(item.data)
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise ValueError(f"size_of returned {size!r}: expected a whole number >= 0")
            item.size = max(1, size)
        except Exception as error:  # of a user's function, or of data of any type: it must not stop the queue
            if not self._warned:
                self._warned = True
                logger.warning(
                    "The data of a batch item cannot be measured, so it is handled in a batch of its own; "
                    "set size_of: %s", one_line(error),
                )  # fmt: skip
            item.size = max(1, self.most)
        return item.size

    def portions(self, items: list[BatchItem], count: int) -> Iterator[list[BatchItem]]:
        """The items in batches of at most ``count``, and of at most so many bytes."""
        some: list[BatchItem] = []
        total = 0
        for item in items:
            size = self.measure(item) if self.most else 0
            if some and (len(some) >= count or total + size > self.most > 0):
                yield some
                some, total = [], 0
            some.append(item)
            total += size
        if some:
            yield some
