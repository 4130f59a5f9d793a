"""Which keys changed while something was read or loaded (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from itertools import islice

MAX_RECENT = 4096
"""Changes remembered by what they changed; a read that more of them came between is not kept in L1."""


class ChangeLog:
    """Every change is counted; the last ones are remembered by what they changed.

    A read or a load notes :attr:`count` when it begins, and asks :meth:`since` at its end whether its
    key was among the changes that came meanwhile: then what it found may be older than they are.
    """

    __slots__ = ("_recent", "count")

    def __init__(self) -> None:
        # Both are changed only by key, tags and unknown.
        self.count = 0
        # Keys by their hash: one taken for another only keeps a value out of L1. None: any key.
        self._recent: deque[tuple[int, bool] | frozenset[str] | None] = deque(maxlen=MAX_RECENT)

    def key(self, namespace: str, key: str, loaded: bool = False) -> None:
        """One key changed; ``loaded``: another instance only loaded it."""
        self.count += 1
        self._recent.append((hash((namespace, key)), loaded))

    def tags(self, tags: Sequence[str]) -> None:
        """What carries any of the tags was dropped."""
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
        """Whether the key was, or may have been, changed since the count was ``begun``.

        ``tags`` are those of the value in question; None: unknown, so a drop of any tag may have meant it.
        That another instance loaded it counts with ``reloads`` only: what was loaded is as good here.
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
