"""Which keys changed while something was read or loaded (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from itertools import islice

MAX_RECENT = 4096
"""How many changes are remembered in detail. If more of them happen during a read, its value is not kept in
L1.
"""


class ChangeLog:
    """Counts every change, and remembers what the latest ones changed.

    A read or a load notes :attr:`count` when it begins, and asks :meth:`since` at its end whether its key
    changed meanwhile: then its value may be out of date.
    """

    __slots__ = ("_recent", "count")

    def __init__(self) -> None:
        # Both are changed only by key, tags and unknown.
        self.count = 0
        # Keys by their hash: a collision only keeps a value out of L1. None: any key.
        self._recent: deque[tuple[int, bool] | frozenset[str] | None] = deque(maxlen=MAX_RECENT)

    def key(self, namespace: str, key: str, loaded: bool = False) -> None:
        """One key changed; ``loaded``: another instance only loaded it."""
        self.count += 1
        self._recent.append((hash((namespace, key)), loaded))

    def tags(self, tags: Sequence[str]) -> None:
        """The values with any of the tags were dropped."""
        self.count += 1
        self._recent.append(frozenset(tags))

    def unknown(self) -> None:
        """Any key may have changed."""
        self.count += 1
        self._recent.append(None)

    def since(
        self,
        begun: int,
        namespace: str,
        key: str,
        tags: Collection[str] | None = None,
        *,
        reloads: bool = True,
    ) -> bool:
        """Whether the key has changed, or may have changed, since the count was ``begun``.

        ``tags`` are those of the value in question; None: unknown, so a drop of any tag may have meant it. A
        load by another instance counts only with ``reloads``: the value that it loaded is as good as this
        one.
        """
        since = self.count - begun
        if since == 0:
            return False
        if since > len(self._recent):
            return True
        at = (hash((namespace, key)), False)
        reloaded = (at[0], reloads)
        for change in islice(reversed(self._recent), since):
            if isinstance(change, frozenset):
                if tags is None or not change.isdisjoint(tags):
                    return True
            elif change is None or change in (at, reloaded):
                return True
        return False
