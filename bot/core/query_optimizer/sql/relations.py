"""What stands behind views, and what changes along with other tables (pure)."""

from __future__ import annotations

from collections.abc import Iterable

from bot.core.query_optimizer.sql.declarations import Declaration
from bot.core.query_optimizer.sql.names import ANY, MONGODB, NEVER, read_marks, write_marks

MAX_RELATIONS = 10_000
"""Views and cascades remembered; with more, every write counts as a write to anything."""


class Relations:
    """Which tables stand behind views, and which change along with others.

    They are stored under every way to write a name; changed only by ``view``, ``cascade`` and ``learn``. An
    unknown name is that of a table, until a statement is seen that may have defined views in a way that
    cannot be read. From then on only names that were seen as created tables are tables, and any other name
    may stand for any table.
    """

    def __init__(self) -> None:
        self._behind: dict[str, set[str]] = {}
        self._along: dict[str, set[str]] = {}
        self._tables: set[str] = set()
        self._functions: set[str] = set()
        self._marks: dict[frozenset[str], frozenset[str]] = {}  # cache of marks_of, until a relation is added
        self.doubt = False
        """Whether views may have been defined in a way that cannot be read."""
        self.overflow = False
        """Whether there are too many to remember: then any write may change anything."""

    def __bool__(self) -> bool:
        return bool(self._behind or self._along or self.doubt)

    def __len__(self) -> int:
        return len(self._behind) + len(self._along)

    def view(self, name: str, tables: Iterable[str]) -> None:
        """A result that reads ``name`` depends on ``tables``; a write to ``name`` may write them."""
        self._add(self._behind, name, tables)

    def cascade(self, table: str, tables: Iterable[str]) -> None:
        """A write to ``table`` changes ``tables`` too, by a trigger or a foreign key."""
        self._add(self._along, table, tables)

    def learn(self, declaration: Declaration) -> None:
        """Learn what a statement declares about a name."""
        kind, name, others = declaration
        if kind == "view":
            self.view(name, others)
        elif kind == "cascade":
            self.cascade(name, others)
        elif kind == "table":
            if len(self._tables) < MAX_RELATIONS:
                self._tables.add(name)
        elif kind in ("renamed", "renamed view"):
            self._rename(name, others, is_view=kind == "renamed view")
        elif kind == "function":
            if len(self._functions) < MAX_RELATIONS:
                self._functions.add(name)
        elif kind == "doubt":
            self.doubt = True
        self._marks.clear()

    @property
    def functions(self) -> frozenset[str]:
        """Names of functions that were seen to be created."""
        return frozenset(self._functions)

    def _rename(self, name: str, others: frozenset[str], *, is_view: bool) -> None:
        is_known = name in self._tables or any(_may_be_one(name, view) for view in self._behind)
        for other in others:
            if name in self._tables:
                self._tables.add(other)
            # In both directions: each table may have been read or written under either name.
            self.view(other, (name,) if is_known or not is_view else (name, ANY))
            self.view(name, (other,))
        self._tables.discard(name)

    def _add(self, where: dict[str, set[str]], name: str, others: Iterable[str]) -> None:
        if name not in where and len(self) >= MAX_RELATIONS:
            self.overflow = True
            return
        where.setdefault(name, set()).update(others)
        self._marks.clear()

    def clear(self) -> None:
        self._behind.clear()
        self._along.clear()
        self._tables.clear()
        self._functions.clear()
        self._marks.clear()
        self.doubt = self.overflow = False

    def read_by(self, names: frozenset[str]) -> frozenset[str]:
        """``names``, and the tables behind those that are views."""
        found = self._closure(names, (self._behind,)) if self._behind else names
        return self._doubted(found) if self.doubt else found

    def marks_of(self, names: frozenset[str]) -> frozenset[str]:
        """What a result that read ``names`` is indexed by: :func:`read_marks` of ``read_by``."""
        marks = self._marks.get(names)
        if marks is None:
            if len(self._marks) >= MAX_RELATIONS:
                self._marks.clear()
            marks = self._marks[names] = read_marks(self.read_by(names))
        return marks

    def written_by(self, names: frozenset[str]) -> frozenset[str]:
        """``names``, and what changes along with them; with ``ANY`` among them, that is anything."""
        if not self:
            return names
        found = self._closure(names, (self._behind, self._along))
        return self._doubted(found) if self.doubt else found

    def all_written(self, names: frozenset[str], anything: bool) -> tuple[frozenset[str], bool]:
        """(``written_by``, whether that may be anything)"""
        found = self.written_by(names)
        return found, anything or self.overflow or ANY in found

    def _doubted(self, names: frozenset[str]) -> frozenset[str]:
        unknown = names - self._tables - {ANY, NEVER}
        # No SQL statement defines what stands behind a collection.
        return names | {ANY} if any(not name.startswith(MONGODB) for name in unknown) else names

    @staticmethod
    def _closure(names: Iterable[str], maps: tuple[dict[str, set[str]], ...]) -> frozenset[str]:
        found = set(names)
        queue = list(found)
        for name in queue:
            marks = write_marks([name])
            for relation in maps:
                for known, others in relation.items():
                    if not marks.isdisjoint(read_marks(frozenset((known,)))):
                        fresh = others - found
                        found |= fresh
                        queue += fresh
        return frozenset(found)


def _may_be_one(name: str, other: str) -> bool:
    return not write_marks([name]).isdisjoint(read_marks(frozenset((other,))))
