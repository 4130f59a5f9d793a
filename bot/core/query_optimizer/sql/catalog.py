"""What a database's catalog says about its tables, as declarations.

Views, partitions and heirs, cascading keys, triggers, rules, policies, sequences, defaults and checks that
write, and functions of the user's own: read from a pool, they are known as if their definitions had passed
through.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bot.core.query_optimizer.sql.bodies import Body, written_in
from bot.core.query_optimizer.sql.declarations import EVERY_EVENT, Declaration
from bot.core.query_optimizer.sql.functions import Known
from bot.core.query_optimizer.sql.names import ANY, NEVER, names_given

_SEQUENCES = frozenset(("nextval", "setval", "currval", "lastval"))
"""They change sequences alone, whose readers depend on every write."""

_HARMLESS = frozenset(("moddatetime", "insert_username"))
"""Functions of PostgreSQL's own extensions for triggers that change the row that is written alone."""

_LANGUAGES = {"plpgsql": "postgres", "sql": "postgres", "mysql": "mysql"}


class Learnt(NamedTuple):
    """What a catalog declares."""

    declarations: list[Declaration]
    unclear: dict[str, str]
    """Tables to which a write may write anything, and why."""


def learnt(rows: Iterable[Sequence[Any]], dialect: str) -> Learnt:
    """What rows of the catalog declare."""
    reader = _Reader([tuple(_text(part) for part in row) for row in rows], dialect)
    reader.read()
    return Learnt(reader.found, reader.unclear)


class _Reader:
    """Reads the rows of one catalog. ``found`` and ``unclear`` are what it is for."""

    def __init__(self, rows: list[tuple[str, ...]], dialect: str) -> None:
        self.rows = rows
        self.dialect = dialect
        self.found: list[Declaration] = []
        self.unclear: dict[str, str] = {}
        # Bodies of the user's own functions by name, each after a line with its language.
        self._sources: dict[str, list[str]] = {}
        self._bodies: dict[str, Body] = {}

    def read(self) -> None:
        for kind, name, text in self.rows:
            if kind == "function":
                self._sources.setdefault(name.lower(), []).append(text)
        self.found += [Declaration("function", name) for name in self._sources]
        known = Known(own=frozenset(self._sources))
        for kind, name, text in self.rows:
            if kind != "function":
                try:
                    names = names_given(name, self.dialect)
                except ValueError:
                    continue
                self._row(kind.split(), names, text, known)

    def _row(self, kind: list[str], names: list[str], text: str, known: Known) -> None:
        what, events = kind[0], frozenset(kind[1:]) or EVERY_EVENT
        if what == "table":
            self.found += [Declaration("table", each) for each in names]
        elif what == "any":
            self.found += [Declaration("view", each, frozenset((ANY,))) for each in names]
        elif what == "writes":
            self._along(names, Body(frozenset((ANY,)), text), events)
        elif what == "trigger" and self.dialect != "sqlite":
            self._along(names, self._body(text), events)
        elif what in ("key", "heir"):
            self._pair(what, names, text, events)
        elif what == "policy":
            self._policy(names, text, known)
        else:
            self._defined(what, names, text, known)

    def _along(self, names: list[str], body: Body, events: frozenset[str]) -> None:
        if body.writes:
            self.found += [Declaration("cascade", each, body.writes, events) for each in names]
        if body.why:
            self.unclear.setdefault(names[0], body.why)

    def _pair(self, what: str, names: list[str], text: str, events: frozenset[str]) -> None:
        try:
            others = names_given(text, self.dialect)
        except ValueError:
            self._along(names, Body(frozenset((ANY,)), "what it refers to has no plain name"), EVERY_EVENT)
            return
        # A child's rows change with those of its parent; rows of heirs and partitions are the parent's, too.
        self.found += [Declaration("cascade", each, frozenset(names), events) for each in others]
        if what == "heir":
            self.found += [Declaration("cascade", each, frozenset(others)) for each in names]

    def _policy(self, names: list[str], text: str, known: Known) -> None:
        """Which rows of a table are seen depends on what its policy reads."""
        from bot.core.query_optimizer.sql.analyzer import analyze

        found = analyze(f"SELECT 1 WHERE {text}", self.dialect, known)
        reads = found.reads | ({ANY} if found.writes_anything or not found.reads else set())
        if found.reads or found.writes_anything:
            self.found += [Declaration("view", each, reads) for each in names]

    def _defined(self, what: str, names: list[str], text: str, known: Known) -> None:
        from bot.core.query_optimizer.sql.analyzer import analyze

        declared = [each for each in analyze(text, self.dialect, known).declares if each.kind != "doubt"]
        if what == "view" and not any(each.kind == "view" for each in declared):
            declared = [Declaration("view", each, frozenset((ANY, NEVER))) for each in names]
        elif what == "defined" and not any(each.kind in ("table", "view") for each in declared):
            declared = [*declared, *[Declaration("table", each) for each in names]]
        self.found += declared

    def _body(self, text: str) -> Body:
        language, _, source = text.partition("\n")
        dialect = _LANGUAGES.get(language)
        if language in _HARMLESS:
            return Body(frozenset())
        if dialect is None or not source.strip():
            return Body(frozenset((ANY,)), f"it runs what is written in {language}")
        return written_in(source, dialect, self._own, _SEQUENCES)

    def _own(self, name: str) -> Body | None:
        """What the user's own functions with a name write."""
        sources = self._sources.get(name)
        if sources is None:
            return None
        if name not in self._bodies:
            self._bodies[name] = Body(frozenset())  # for one that calls itself
            bodies = [self._body(text) for text in sources]
            why = next((body.why for body in bodies if body.why), "")
            self._bodies[name] = Body(frozenset().union(*[body.writes for body in bodies]), why)
        return self._bodies[name]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)
