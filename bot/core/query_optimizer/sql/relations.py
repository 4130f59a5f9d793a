"""What stands behind views, and what changes along with other tables (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bot.core.query_optimizer.sql.declarations import EVERY_EVENT, Declaration
from bot.core.query_optimizer.sql.edges import FUNCTION, Edges
from bot.core.query_optimizer.sql.names import ANY, GRAPHQL, MONGODB, NEVER, read_marks, write_marks

MAX_RELATIONS = 10_000
"""Views and cascades remembered; with more, every write counts as a write to anything."""

MAX_WRITTEN = 1_000
"""Sets of written names for which it is remembered what changes along with them."""

MAX_TABLES = 40_000
"""Names of tables remembered."""

MAX_ASKED = 1_000
"""Names remembered that a catalog does not have."""


class Written(NamedTuple):
    """What a write changes."""

    tables: frozenset[str]
    """The names written, and what changes along with them."""
    anything: bool
    """Whether that may be any table."""
    marks: frozenset[str]
    """:func:`write_marks` of the tables."""


class Layer:
    """What one source says about names: views, what changes along, tables, functions."""

    __slots__ = ("along", "behind", "functions", "overflow", "tables")

    def __init__(self) -> None:
        self.behind = Edges()
        """Views, and what they read."""
        self.along = Edges()
        """Tables, and what changes along with them."""
        self.tables: set[str] = set()
        self.functions: set[str] = set()
        self.overflow = False
        """Whether there are too many to remember."""

    def __len__(self) -> int:
        return len(self.behind) + len(self.along)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layer) and all(
            getattr(self, name) == getattr(other, name) for name in Layer.__slots__
        )

    __hash__ = None  # type: ignore[assignment]  # it changes

    def add(self, where: Edges, name: str, others: Iterable[str], on: frozenset[str] = EVERY_EVENT) -> None:
        if name not in where and len(self) >= MAX_RELATIONS:
            self.overflow = True
            return
        where.add(name, others, on)

    def knows(self, name: str) -> bool:
        return name in self.tables or self.behind.knows(name) or self.along.knows(name)

    def learn(self, declaration: Declaration) -> None:
        kind, name, others, on = declaration
        if kind == "view":
            self.add(self.behind, name, others)
        elif kind == "cascade":
            self.add(self.along, name, others, on)
        elif kind == "table":
            if len(self.tables) < MAX_TABLES:
                self.tables.add(name)
        elif kind in ("renamed", "renamed view"):
            self._rename(name, others, is_view=kind == "renamed view")
        elif kind == "function" and len(self.functions) < MAX_RELATIONS:
            self.functions.add(name)

    def _rename(self, name: str, others: frozenset[str], *, is_view: bool) -> None:
        is_known = name in self.tables or self.behind.knows(name)
        for other in others:
            if name in self.tables:
                self.tables.add(other)
            # In both directions: each table may have been read or written under either name.
            self.add(self.behind, other, (name,) if is_known or not is_view else (name, ANY))
            self.add(self.behind, name, (other,))
        self.tables.discard(name)


class Relations:
    """Which tables stand behind views, and which change along with others.

    Without a catalog, an unknown name is that of a table, until a statement is seen that may have defined
    views in a way that cannot be read. From then on only names that were seen as created tables are tables,
    and any other name may stand for any table. With a catalog (``awaits_catalog``), results of a name that
    it does not have are not kept before it was asked again.
    """

    def __init__(self) -> None:
        self._seen = Layer()
        """What was declared, or seen in statements: it only grows."""
        self._catalog = Layer()
        """What the catalog says: it is replaced as a whole."""
        # What marks_of and all_written found, until anything changes.
        self._marks: dict[frozenset[str], frozenset[str]] = {}
        self._written: dict[tuple[frozenset[str], frozenset[str]], Written] = {}
        self._asked: set[str] = set()
        """Names for which the catalog was asked and that it does not have."""
        # Statements that may have defined views in a way that cannot be read; and how many of them there had
        # been when the catalog was read.
        self._doubts = 0
        self._settled = 0
        self.awaits_catalog = False
        """Whether there is a catalog to ask. Set by ``await_catalog`` alone."""
        self.is_current = False
        """Whether the catalog was read and is not too old."""

    def __bool__(self) -> bool:
        return bool(self._seen or self._catalog or self.doubt or self.awaits_catalog)

    def __len__(self) -> int:
        return len(self._seen) + len(self._catalog)

    @property
    def doubt(self) -> bool:
        """Whether views may have been defined in a way that cannot be read, since the catalog was."""
        return self._doubts > self._settled

    @property
    def doubts(self) -> int:
        """How often there was reason to doubt."""
        return self._doubts

    @property
    def overflow(self) -> bool:
        """Whether there are too many to remember: then any write may change anything."""
        return self._seen.overflow or self._catalog.overflow

    @property
    def functions(self) -> frozenset[str]:
        """Names of functions of the database's own."""
        return frozenset(self._seen.functions | self._catalog.functions)

    # Learning.

    def view(self, name: str, tables: Iterable[str]) -> None:
        """A result that reads ``name`` depends on ``tables``; a write to ``name`` may write them."""
        self.learn(Declaration("view", name, frozenset(tables)))

    def cascade(self, table: str, tables: Iterable[str]) -> None:
        """A write to ``table`` changes ``tables`` too, by a trigger or a foreign key."""
        self.learn(Declaration("cascade", table, frozenset(tables)))

    def learn(self, declaration: Declaration) -> None:
        """Learn what a statement declares about a name."""
        if declaration.kind == "doubt":
            self._doubts += 1
        else:
            self._seen.learn(declaration)
        self._forget()

    def await_catalog(self, awaits: bool) -> None:
        """From now on there is a catalog that was not read yet, or none."""
        self.awaits_catalog, self.is_current = awaits, False
        self._catalog = Layer()
        self._asked.clear()
        self._forget()

    def learn_catalog(self, declarations: Iterable[Declaration], asked: Iterable[str], doubts: int) -> bool:
        """Replace what the catalog said; ``asked`` are names that it was read for, and ``doubts`` were there
        before that began. True if it says something else than before.
        """
        layer = Layer()
        for declaration in declarations:
            layer.learn(declaration)
        changed = not self.is_current or layer != self._catalog
        self._catalog, self.is_current = layer, True
        self._settled = max(self._settled, doubts)
        self._asked = {name for name in self._asked if not layer.knows(name)}
        for name in asked:
            if len(self._asked) < MAX_ASKED and not layer.knows(name):
                self._asked.add(name)
        self._forget()
        return changed

    def lose_catalog(self) -> None:
        """What the catalog said is too old."""
        self.is_current = False
        self._forget()

    def clear(self) -> None:
        self._seen, self._catalog = Layer(), Layer()
        self._asked.clear()
        self.is_current = False
        self._settled = self._doubts
        self._forget()

    def _forget(self) -> None:
        """Something has changed: what was found before may not hold."""
        self._marks.clear()
        self._written.clear()

    # Asking.

    def unknown(self, names: frozenset[str]) -> set[str]:
        """Those of ``names``, and of what they read, that a catalog is to be asked for."""
        return self._unknown(self._behind(names)) if self.awaits_catalog else set()

    def _unknown(self, names: Iterable[str]) -> set[str]:
        if len(self._asked) >= MAX_ASKED:
            return set()
        return {name for name in self._strangers(names) if name not in self._asked}

    def _strangers(self, names: Iterable[str]) -> list[str]:
        """Those that are not known to be anything."""
        seen, catalog = self._seen, self._catalog
        return [
            name
            for name in names
            if name not in _NO_TABLES
            and not name.startswith(MONGODB)
            and not seen.knows(name)
            and not (self.is_current and catalog.knows(name))
        ]

    def _behind(self, names: frozenset[str]) -> frozenset[str]:
        maps = [layer.behind for layer in (self._seen, self._catalog) if layer.behind]
        return _closure(names, maps, EVERY_EVENT) if maps else names

    def read_by(self, names: frozenset[str]) -> frozenset[str]:
        """``names``, and the tables behind those that are views."""
        found = self._behind(names)
        if self.awaits_catalog and (strangers := self._strangers(found)):
            # A name that the catalog was asked for is that of a table elsewhere, or of a session's own.
            certain = self.is_current and self._asked.issuperset(strangers)
            found |= {ANY if certain else NEVER}
        return self._doubted(found) if self.doubt else found

    def marks_of(self, names: frozenset[str]) -> frozenset[str]:
        """What a result that read ``names`` is indexed by: :func:`read_marks` of ``read_by``."""
        marks = self._marks.get(names)
        if marks is None:
            if len(self._marks) >= MAX_RELATIONS:
                self._marks.clear()
            marks = self._marks[names] = read_marks(self.read_by(names))
        return marks

    def written_by(self, names: frozenset[str], events: frozenset[str] = EVERY_EVENT) -> frozenset[str]:
        """``names``, and what changes along with them by ``events``; with ``ANY`` among them, that is
        anything.
        """
        return self.all_written(names, events).tables

    def all_written(self, names: frozenset[str], events: frozenset[str] = EVERY_EVENT) -> Written:
        """What a write to ``names`` changes by ``events``."""
        found = self._written.get((names, events))
        if found is None:
            if len(self._written) >= MAX_WRITTEN:
                self._written.clear()
            tables = self._written_by(names, events)
            anything = self.overflow or ANY in tables
            found = self._written[names, events] = Written(tables, anything, frozenset(write_marks(tables)))
        return found

    def _written_by(self, names: frozenset[str], events: frozenset[str]) -> frozenset[str]:
        if not self:
            return names
        if events != EVERY_EVENT:
            # What else happens to a name is known of tables whose definition was seen.
            tables = (self._seen.tables, self._catalog.tables)
            if not all(any(name in known for known in tables) for name in names):
                events = EVERY_EVENT
        layers = (self._seen, self._catalog)
        maps = [edges for layer in layers for edges in (layer.behind, layer.along) if edges]
        found = _closure(names, maps, events)
        if self.awaits_catalog and not (self.is_current and not self._unknown(names)):
            return found | {ANY} if are_tables(names) else found
        return self._doubted(found) if self.doubt else found

    def _doubted(self, names: frozenset[str]) -> frozenset[str]:
        unknown = names - self._seen.tables - self._catalog.tables - {ANY, NEVER}
        # No SQL statement defines what stands behind a collection.
        return names | {ANY} if any(not name.startswith(MONGODB) for name in unknown) else names


_NO_TABLES = frozenset((ANY, NEVER, GRAPHQL))


def are_tables(names: Iterable[str]) -> bool:
    """Whether one of them is that of a table, and not of a collection."""
    return any(not name.startswith(MONGODB) and name not in _NO_TABLES for name in names)


def _closure(names: Iterable[str], maps: list[Edges], events: frozenset[str]) -> frozenset[str]:
    """``names``, and all that ``maps`` lead to: by ``events`` from the names, by any event from there on."""
    found = set(names)
    queue = [(name, events) for name in found]
    walked = set(found) if events == EVERY_EVENT else set()  # those in the queue with every event
    for name, on in queue:
        fresh: set[str] = set()
        for edges in maps:
            fresh |= edges.of(name, on)
        if name.endswith(FUNCTION) and not any(name in edges for edges in maps):
            fresh.add(ANY)  # a function whose body was not seen
        fresh -= walked
        walked |= fresh
        found |= fresh
        queue += [(other, EVERY_EVENT) for other in fresh]
    return frozenset(name for name in found if not name.endswith(FUNCTION))
