"""How many requests are in flight, of all chats together (pure)."""

from __future__ import annotations

import math

from bot.core.outbound.models import Priority

RESERVED_SHARE = 0.1
"""Of slots, and on top of the places to wait: kept for answers."""

_ANSWER = Priority.ANSWER


class Slots:
    """What is in flight; a tenth of the slots is kept for answers."""

    __slots__ = ("_most_of_others", "most", "taken")

    def __init__(self, most: int) -> None:
        self.taken = 0
        """Changed by take, give_back and clear only."""
        self.allow(most)

    def allow(self, most: int) -> None:
        """So many may be in flight; those that are stay."""
        self.most = most
        self._most_of_others = most - min(most - 1, math.ceil(most * RESERVED_SHARE))

    def free(self, priority: int) -> bool:
        """Whether a request of this priority may leave."""
        return self.taken < (self.most if priority == _ANSWER else self._most_of_others)

    def take(self) -> None:
        """A request leaves."""
        self.taken += 1

    def give_back(self) -> None:
        """It has ended, however."""
        self.taken -= 1

    def clear(self) -> None:
        """Nothing is in flight any more."""
        self.taken = 0
