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


class ChangesSince:
    """What changed since a load of many keys began, read on while they are stored piece by piece.

    The log alone would not do: the load's own stores are changes, too, and more than it remembers.
    """

    __slots__ = ("_anything", "_keys", "_log", "_namespace", "_seen", "_tags")

    def __init__(self, log: ChangeLog, begun: int, namespace: str) -> None:
        self._log = log
        self._namespace = namespace
        # All of these are changed by _read only.
        self._seen = begun
        self._keys: set[int] = set()
        self._tags: set[str] = set()
        self._anything = False

    def concerns(self, key: str, tags: Collection[str]) -> bool:
        """Whether a value with these tags may be out of date; to be asked before the key is stored."""
        if self._seen != self._log.count:
            self._read()
        if self._anything or hash((self._namespace, key)) in self._keys:
            return True
        return bool(self._tags) and not self._tags.isdisjoint(tags)

    def _read(self) -> None:
        recent, since = self._log._recent, self._log.count - self._seen
        self._seen = self._log.count
        if since > len(recent):
            self._anything = True
            return
        for change in islice(reversed(recent), since):
            if change is None:
                self._anything = True
            elif isinstance(change, frozenset):
                self._tags |= change
            else:
                self._keys.add(change[0])
