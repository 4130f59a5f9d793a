"""From names to other names, by what is done to the first: found by any way to write it (pure)."""

from __future__ import annotations

from collections.abc import Iterable

from bot.core.query_optimizer.sql.declarations import EVERY_EVENT
from bot.core.query_optimizer.sql.names import parts_of, read_marks, write_marks

FUNCTION = " (function)"
"""What the name of a trigger's function ends with; no real table has such a name."""


class Edges:
    """For each name, the others that it leads to, and by which events."""

    __slots__ = ("_by_last", "_of")

    def __init__(self) -> None:
        self._of: dict[str, dict[str, frozenset[str]]] = {}
        # The names by their last part: "users" for "shop.users".
        self._by_last: dict[str, list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edges) and self._of == other._of

    __hash__ = None  # type: ignore[assignment]  # it changes

    def add(self, name: str, others: Iterable[str], on: frozenset[str] = EVERY_EVENT) -> None:
        known = self._of.get(name)
        if known is None:
            known = self._of[name] = {}
            self._by_last.setdefault(parts_of(name)[-1], []).append(name)
        for other in others:
            known[other] = known.get(other, on) | on

    def knows(self, name: str) -> bool:
        """Whether a name may be one of these."""
        return any(True for _ in self._same(name))

    def of(self, name: str, events: frozenset[str]) -> set[str]:
        """What a name, or one that may be the same, leads to by any of ``events``."""
        found: set[str] = set()
        for known in self._same(name):
            for other, on in self._of[known].items():
                if not on.isdisjoint(events):
                    found.add(other)
        return found

    def _same(self, name: str) -> Iterable[str]:
        candidates = self._by_last.get(parts_of(name)[-1])
        if candidates is None:
            return ()
        marks = write_marks([name])
        return [known for known in candidates if not marks.isdisjoint(read_marks(frozenset((known,))))]
