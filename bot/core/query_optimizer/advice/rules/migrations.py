"""Rules about changes of PostgreSQL tables in use, after squawk (https://squawkhq.com/docs/rules).

A table that the same text creates is empty and used by nobody, so they leave it in peace.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.rules.registry import Remark
from bot.core.query_optimizer.advice.rules.rule import rule
from bot.core.query_optimizer.sql.schema import Schema

_D = exp.DataType.Type


def _is_in_use(table: str, facts: Facts) -> bool:
    """Whether a table of PostgreSQL may have rows and readers: nothing that is known creates it."""
    return facts.dialect == "postgres" and bool(table) and table.lower() not in _schema(facts).created


def _schema(facts: Facts) -> Schema:
    if facts.schema is not None:
        return facts.schema
    found = Schema()
    for census in facts.reading.censuses:
        found.learn(census)
    return found


@rule("Q050", "index-not-concurrently", "warning", exp.Create, exp.Drop)
def _index_not_concurrently(node: Any, facts: Facts) -> Remark | None:
    if str(node.args.get("kind")).upper() != "INDEX" or node.args.get("concurrently"):
        return None
    if node.__class__ is exp.Drop:
        if facts.dialect != "postgres" or node.args.get("cascade"):
            return None
        return "DROP INDEX waits for the whole table and stops its readers.", "Use DROP INDEX CONCURRENTLY."
    table = node.this.args.get("table") if node.this.__class__ is exp.Index else None
    if table is None or not _is_in_use(table.name, facts):
        return None
    return (
        f"CREATE INDEX stops writes to {table.name} until it is built.",
        "Use CREATE INDEX CONCURRENTLY, outside a transaction.",
    )


@rule("Q051", "constraint-checks-table", "warning", exp.Alter)
def _constraint_checks_table(node: Any, facts: Facts) -> Remark | None:
    added = [a for a in node.args.get("actions") or () if a.__class__ is exp.AddConstraint]
    if not added or not _is_in_use(node.this.name, facts):
        return None
    name = node.this.name
    for action in added:
        if action.find(exp.PrimaryKey, exp.UniqueColumnConstraint):
            return (
                f"The constraint builds an index while nobody can use {name}.",
                "CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT ... USING INDEX.",
            )
        if action.find(exp.ForeignKey, exp.CheckColumnConstraint) and not node.args.get("not_valid"):
            return (
                f"The constraint checks every row of {name} while others wait.",
                "Add it NOT VALID, then VALIDATE CONSTRAINT.",
            )
    return None


# Types to which PostgreSQL converts nothing without rewriting it; text, varchar and numeric may only widen.
_REWRITING = frozenset(
    (_D.SMALLINT, _D.INT, _D.BIGINT, _D.FLOAT, _D.DOUBLE, _D.BOOLEAN, _D.UUID, _D.JSON, _D.JSONB, _D.DATE)
)


@rule("Q052", "type-change-rewrites", "warning", exp.AlterColumn)
def _type_change_rewrites(node: Any, facts: Facts) -> Remark | None:
    kind = node.args.get("dtype")
    table = node.parent.this.name if node.parent.__class__ is exp.Alter else ""
    if kind.__class__ is not exp.DataType or kind.this not in _REWRITING or kind.args.get("nested"):
        return None
    if not _is_in_use(table, facts):
        return None
    return (
        f"The new type of {node.name} rewrites {table} and its indexes while nobody can use it.",
        "Add a column of the new type, fill it in portions, then change over.",
    )


_VOLATILE = frozenset((
    "uuid", "gen_random_uuid", "uuidv4", "uuidv7", "uuid_generate_v1", "uuid_generate_v1mc",
    "uuid_generate_v4", "rand", "random", "gen_random_bytes", "clock_timestamp", "timeofday", "nextval",
))  # fmt: skip
_SERIAL = frozenset((_D.SERIAL, _D.BIGSERIAL, _D.SMALLSERIAL))


@rule("Q053", "column-rewrites-table", "warning", exp.ColumnDef)
def _column_rewrites_table(node: Any, facts: Facts) -> Remark | None:
    if node.parent.__class__ is not exp.Alter or not _is_in_use(node.parent.this.name, facts):
        return None
    kind = node.args.get("kind")
    fills = kind.__class__ is exp.DataType and kind.this in _SERIAL
    for constraint in _constraints(node):
        if constraint.__class__ in (exp.ComputedColumnConstraint, exp.GeneratedAsIdentityColumnConstraint):
            fills = True
        elif constraint.__class__ is exp.DefaultColumnConstraint:
            fills = fills or any(map(_is_volatile, constraint.find_all(exp.Func)))
    if not fills:
        return None
    return (
        f"{node.name} has another value in each row, so {node.parent.this.name} is rewritten while nobody "
        "can use it.",
        "Add it without a default, SET DEFAULT for new rows, then fill it in portions.",
    )


def _is_volatile(call: Any) -> bool:
    return str(call.name if call.__class__ is exp.Anonymous else call.sql_name()).lower() in _VOLATILE


@rule("Q054", "foreign-key-without-index", "info", exp.Create, exp.Alter, needs=(exp.Reference,))
def _foreign_key_without_index(node: Any, facts: Facts) -> Remark | None:
    """Only where the text has more than this statement: an index may be in one that is not known."""
    if facts.dialect != "postgres" or (facts.schema is None and len(facts.reading.censuses) < 2):
        return None
    target = node.this.this if node.this.__class__ is exp.Schema else node.this
    if target.__class__ is not exp.Table:
        return None
    schema = _schema(facts)
    table = target.name.lower()
    if table not in schema.created:
        return None
    for columns in _foreign_keys(node):
        wanted = {column.lower() for column in columns}
        if not any(set(index[: len(wanted)]) == wanted for index in schema.indexes.get(table, ())):
            listed = ", ".join(columns)
            return (
                f"No index of {target.name} begins with its foreign key ({listed}): deleting or changing a "
                "row that it refers to reads the whole table.",
                f"CREATE INDEX ON {target.name} ({listed}).",
            )
    return None


def _foreign_keys(node: Any) -> Iterator[list[str]]:
    for key in node.find_all(exp.ForeignKey):
        yield [column.name for column in key.expressions]
    for column in node.find_all(exp.ColumnDef):
        if any(constraint.__class__ is exp.Reference for constraint in _constraints(column)):
            yield [column.name]


@rule("Q055", "required-column-without-default", "warning", exp.ColumnDef)
def _required_column_without_default(node: Any, facts: Facts) -> Remark | None:
    if node.parent.__class__ is not exp.Alter or not _is_in_use(node.parent.this.name, facts):
        return None
    kind = node.args.get("kind")
    if kind.__class__ is not exp.DataType or kind.this in _SERIAL:
        return None
    required = False
    for constraint in _constraints(node):
        if constraint.__class__ is exp.NotNullColumnConstraint:
            required = required or not constraint.args.get("allow_null")
        elif constraint.__class__ is not exp.Reference:
            return None  # a default, or something that gives one
    if not required:
        return None
    return (
        f"{node.name} is NOT NULL without a default: it fails if {node.parent.this.name} has a row.",
        "Give a DEFAULT, or add it as NULL, fill it, and SET NOT NULL.",
    )


def _constraints(column: Any) -> list[Any]:
    return [constraint.args.get("kind") for constraint in column.args.get("constraints") or ()]
