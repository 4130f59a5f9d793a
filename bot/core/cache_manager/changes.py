"""Which keys changed while something was read or loaded (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from itertools import islice

MAX_RECENT = 4096
"""How many changes are remembered in detail. If more of them happen during a read, its value is not kept in
L1.
"""

FEW = 32
"""Changes that are compared one by one; what came after more of them is looked up in an index."""


class ChangeLog:
    """Counts every change, and remembers what the latest ones changed.

    A read or a load notes :attr:`count` when it begins, and asks :meth:`since` at its end whether its key
    changed meanwhile: then its value may be out of date.
    """

    __slots__ = ("_index", "_recent", "count")

    def __init__(self) -> None:
        self._index = _Index()
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
        if since > FEW:
            self._index.read(self._recent, self.count)
            return self._index.since(begun, at[0], tags, reloads=reloads)
        reloaded = (at[0], reloads)
        for change in islice(reversed(self._recent), since):
            if isinstance(change, frozenset):
                if tags is None or not change.isdisjoint(tags):
                    return True
            elif change is None or change in (at, reloaded):
                return True
        return False


class _Index:
    """When each key and tag changed last, by the log's count. It reads on only when it is asked.

    So changes that nobody asks about cost nothing, and each of the others is read once.
    """

    __slots__ = ("_any_tag", "_anything", "_changed", "_dropped", "_most", "_reloaded", "_seen")

    def __init__(self) -> None:
        # All of these are changed by read only.
        self._seen = 0
        self._changed: dict[int, int] = {}
        self._reloaded: dict[int, int] = {}
        self._dropped: dict[str, int] = {}
        self._any_tag = 0
        self._anything = 0
        self._most = 2 * MAX_RECENT

    def read(self, recent: deque[tuple[int, bool] | frozenset[str] | None], count: int) -> None:
        """Read what is new in ``recent``, whose last change is the one of ``count``."""
        size = len(self._changed) + len(self._reloaded) + len(self._dropped)
        forget = size > self._most
        if forget:  # what is no longer remembered leaves the index, too
            self._changed, self._reloaded, self._dropped = {}, {}, {}
        new = len(recent) if forget else min(count - self._seen, len(recent))
        self._seen = count
        number = count - new
        for change in reversed(list(islice(reversed(recent), new))):
            number += 1
            if change is None:
                self._anything = number
            elif isinstance(change, frozenset):
                self._any_tag = number
                self._dropped.update(dict.fromkeys(change, number))
            elif change[1]:
                self._reloaded[change[0]] = number
            else:
                self._changed[change[0]] = number
        if forget:
            size = len(self._changed) + len(self._reloaded) + len(self._dropped)
            self._most = 2 * max(size, MAX_RECENT)

    def since(self, begun: int, at: int, tags: Collection[str] | None, *, reloads: bool) -> bool:
        """As :meth:`ChangeLog.since`, of what was read."""
        if self._anything > begun or self._changed.get(at, 0) > begun:
            return True
        if reloads and self._reloaded.get(at, 0) > begun:
            return True
        if self._any_tag <= begun:
            return False
        return tags is None or any(self._dropped.get(tag, 0) > begun for tag in tags)


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
