"""What is known of the tables: keys, indexes and columns that cannot be NULL, learnt from DDL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlglot import exp

from bot.core.query_optimizer.sql.census import Census

_TABLE = re.compile(r'\s*(?:\w+\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:["\w]+\.)?"?(\w+)', re.IGNORECASE)
"""The name in a CREATE TABLE, without its first word, that the parser does not read."""


class DeclaredType(NamedTuple):
    """The type that CREATE TABLE gives a column."""

    kind: Any
    """As sqlglot names it."""
    length: int | None
    is_plain: bool
    """Whether nothing else, such as a COLLATE, changes how its values compare."""


class Schema:
    """Tables as CREATE TABLE, CREATE INDEX and ALTER TABLE describe them. Names are compared without case."""

    def __init__(self) -> None:
        self.not_null: dict[str, set[str]] = {}
        self.indexes: dict[str, list[tuple[str, ...]]] = {}
        """Table -> the columns of each index, primary keys and unique constraints among them."""
        self.unique: dict[str, list[frozenset[str]]] = {}
        self.columns: dict[str, set[str]] = {}
        """Table -> all its columns, of tables whose CREATE was read."""
        self.types: dict[str, dict[str, DeclaredType]] = {}
        self.created: set[str] = set()
        """Tables whose CREATE was read."""
        self.renamed: dict[str, str] = {}
        self._types_in_doubt: set[str] = set()
        self._no_types = False

    def learn(self, census: Census) -> None:
        """Learn what a statement declares; other statements are ignored."""
        statement = census.statement
        if statement.__class__ is exp.Create:
            kind = str(statement.args.get("kind")).upper()
            if kind == "TABLE":
                created = statement.this.this if statement.this.__class__ is exp.Schema else statement.this
                self.created.add(created.name.lower())
            if kind == "TABLE" and statement.this.__class__ is exp.Schema:
                self._learn_table(statement.this.this.name.lower(), statement.this.expressions)
            elif kind == "INDEX" and statement.this.__class__ is exp.Index:
                index = statement.this
                table = index.args.get("table")
                parameters = index.args.get("params")
                columns = parameters.args.get("columns") if parameters is not None else None
                if table is not None and columns:
                    self._add_index(table.name.lower(), columns, unique=bool(statement.args.get("unique")))
        elif statement.__class__ is exp.Alter:
            table = statement.find(exp.Table)
            if table is not None:
                actions = statement.args.get("actions") or (None,)
                if any(action.__class__ is not exp.AddConstraint for action in actions):
                    self._doubt_types(table.name.lower())
                for renamed in statement.find_all(exp.AlterRename):
                    self.renamed[table.name.lower()] = renamed.this.name.lower()
                    if table.name.lower() in self.created:
                        self.created.add(renamed.this.name.lower())
                for added in statement.find_all(exp.ColumnDef):
                    self.columns.setdefault(table.name.lower(), set()).add(added.name.lower())
                for constraint in statement.find_all(exp.PrimaryKey):
                    self._add_index(table.name.lower(), constraint.expressions, unique=True)
                for alone in statement.find_all(exp.UniqueColumnConstraint):
                    self._add_index(table.name.lower(), _listed(alone), unique=True)

        elif statement.__class__ is exp.Command and str(statement.this).upper() == "CREATE":
            unread = _TABLE.match(str(statement.args.get("expression")))
            if unread is not None:
                self.created.add(unread.group(1).lower())

        elif statement.__class__ is exp.Command and str(statement.this).upper() == "ALTER":
            text = str(statement.args.get("expression")).upper()
            if " OWNER TO " not in text:  # not read: it may have changed any column
                self.types.clear()
                self._no_types = True

    def _doubt_types(self, table: str) -> None:
        self.types.pop(table, None)
        self._types_in_doubt.add(table)

    def _learn_types(self, table: str, items: list[Any]) -> None:
        if self._no_types or table in self._types_in_doubt:
            return
        types = {
            item.name.lower(): declared
            for item in items
            if item.__class__ is exp.ColumnDef and (declared := _declared_type(item)) is not None
        }
        if self.types.setdefault(table, types) != types:
            self._doubt_types(table)  # two tables of one name, or one that is created again

    def _learn_table(self, table: str, items: Iterable[Any]) -> None:
        items = list(items)
        self._learn_types(table, items)
        for item in items:
            if item.__class__ is exp.Identifier:  # a column of SQLite without a type
                self.columns.setdefault(table, set()).add(item.name.lower())
                continue
            if item.__class__ is exp.ColumnDef:
                name = item.name.lower()
                self.columns.setdefault(table, set()).add(name)
                for constraint in item.args.get("constraints") or ():
                    kind = constraint.args.get("kind").__class__
                    if kind in (exp.PrimaryKeyColumnConstraint, exp.UniqueColumnConstraint):
                        self._add_index(table, [item.this], unique=True)
                    not_null = kind is exp.NotNullColumnConstraint and not constraint.args["kind"].args.get(
                        "allow_null"
                    )
                    if not_null or kind is exp.PrimaryKeyColumnConstraint:
                        self.not_null.setdefault(table, set()).add(name)
                continue
            for key in item.find_all(exp.PrimaryKey):
                self._add_index(table, key.expressions, unique=True)
                self.not_null.setdefault(table, set()).update(_names(key.expressions))
            for unique in item.find_all(exp.UniqueColumnConstraint):
                self._add_index(table, _listed(unique), unique=True)

    def _add_index(self, table: str, columns: Iterable[Any], *, unique: bool) -> None:
        given = list(columns)
        names = tuple(_names(given))
        if names:
            self.indexes.setdefault(table, []).append(names)
            if unique and len(names) == len(given):
                self.unique.setdefault(table, []).append(frozenset(names))

    def has_key(self, table: str) -> bool:
        """Whether a table has something unique, under this name or the one it is given later."""
        name = table.lower()
        return bool(self.unique.get(name) or self.unique.get(self.renamed.get(name, "")))

    def is_not_null(self, table: str, column: str) -> bool:
        return column.lower() in self.not_null.get(table.lower(), ())

    def serves(self, table: str, columns: tuple[str, ...], equal: int) -> bool:
        """Whether an index serves these columns already, of which the first ``equal`` are compared by =.

        Those may stand in any order; and a unique index over some of them leaves one row at most.
        """
        wanted = [column.lower() for column in columns]
        name = table.lower()
        if any(unique <= set(wanted[:equal]) for unique in self.unique.get(name, ())):
            return True
        for index in self.indexes.get(name, ()):
            head = list(index[: len(wanted)])
            if head[equal:] == wanted[equal:] and set(head[:equal]) == set(wanted[:equal]):
                return True
        return False


_ORDINARY = frozenset(
    (exp.PrimaryKeyColumnConstraint, exp.NotNullColumnConstraint, exp.UniqueColumnConstraint,
     exp.DefaultColumnConstraint, exp.CheckColumnConstraint, exp.AutoIncrementColumnConstraint,
     exp.GeneratedAsIdentityColumnConstraint, exp.Reference, exp.CommentColumnConstraint)
)  # fmt: skip
"""What does not change how a column's values compare, as COLLATE does."""


def _declared_type(column: Any) -> DeclaredType | None:
    kind = column.args.get("kind")
    if kind.__class__ is not exp.DataType:
        return None
    is_plain = (
        not kind.args.get("nested")
        and not kind.args.get("kind")
        and all(
            constraint.args.get("kind").__class__ in _ORDINARY
            for constraint in column.args.get("constraints") or ()
        )
    )
    size = kind.expressions[0].name if len(kind.expressions) == 1 else ""
    return DeclaredType(kind.this, int(size) if size.isdigit() else None, is_plain)


def _listed(constraint: Any) -> list[Any]:
    this = constraint.this
    return list(this.expressions) if this.__class__ is exp.Schema else []


def _names(columns: Iterable[Any]) -> list[str]:
    found: list[str] = []
    for column in columns:
        while column.__class__ in (exp.Ordered, exp.Paren):
            column = column.this
        if column.__class__ not in (exp.Column, exp.Identifier):
            return found  # columns after an expression cannot be searched by
        found.append(column.name.lower())
    return found
