"""What is known of the tables: keys, indexes and columns that cannot be NULL, learnt from DDL."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.census import Census


class Schema:
    """Tables as CREATE TABLE, CREATE INDEX and ALTER TABLE describe them. Names are compared without case."""

    def __init__(self) -> None:
        self.not_null: dict[str, set[str]] = {}
        self.indexes: dict[str, list[tuple[str, ...]]] = {}
        """Table -> the columns of each index, primary keys and unique constraints among them."""
        self.unique: dict[str, list[frozenset[str]]] = {}
        self.columns: dict[str, set[str]] = {}
        """Table -> all its columns, of tables whose CREATE was read."""
        self.renamed: dict[str, str] = {}

    def learn(self, census: Census) -> None:
        """Take in what a statement declares; statements that declare nothing are passed over."""
        statement = census.statement
        if statement.__class__ is exp.Create:
            kind = str(statement.args.get("kind")).upper()
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
                for renamed in statement.find_all(exp.AlterRename):
                    self.renamed[table.name.lower()] = renamed.this.name.lower()
                for added in statement.find_all(exp.ColumnDef):
                    self.columns.setdefault(table.name.lower(), set()).add(added.name.lower())
                for constraint in statement.find_all(exp.PrimaryKey):
                    self._add_index(table.name.lower(), constraint.expressions, unique=True)
                for alone in statement.find_all(exp.UniqueColumnConstraint):
                    self._add_index(table.name.lower(), _listed(alone), unique=True)

    def _learn_table(self, table: str, items: Iterable[Any]) -> None:
        for item in items:
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


def _listed(constraint: Any) -> list[Any]:
    this = constraint.this
    return list(this.expressions) if this.__class__ is exp.Schema else []


def _names(columns: Iterable[Any]) -> list[str]:
    found: list[str] = []
    for column in columns:
        while column.__class__ in (exp.Ordered, exp.Paren):
            column = column.this
        if column.__class__ not in (exp.Column, exp.Identifier):
            return found  # what follows an expression serves nobody who looks for columns
        found.append(column.name.lower())
    return found
