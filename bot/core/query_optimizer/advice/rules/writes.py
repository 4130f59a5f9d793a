"""Rules about statements that write."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.rules.conditions import is_always_true
from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.rules.nodes import (
    is_within,
    names_table,
)
from bot.core.query_optimizer.advice.rules.registry import Remark
from bot.core.query_optimizer.advice.rules.rule import rule
from bot.core.query_optimizer.sql.scopes import (
    bare,
    is_limited,
    operands,
)


@rule("Q001", "update-without-where", "error", exp.Update)
def _update_without_where(node: Any, facts: Facts) -> Remark | None:
    if is_within(node, exp.When) or not names_table(node) or is_limited(node):
        return None
    name = node.this.name
    if node.args.get("where"):
        return _of_every_row(node, f"UPDATE of every row of {name}")
    if node.this.args.get("joins"):
        return None  # a join restricts it
    clause = node.args.get("from_")
    if clause is not None:
        if facts.dialect not in ("postgres", "sqlite") or clause.find(exp.Lateral):
            return None  # in other dialects the FROM may name the table itself
        return (
            f"UPDATE of every row of {name}: nothing relates it to the tables of the FROM.",
            f"Add a WHERE that relates them, as {name}.id = ....",
        )
    return f"UPDATE of every row of {name}.", "Add a WHERE, or WHERE TRUE if all are meant."


@rule("Q002", "delete-without-where", "error", exp.Delete)
def _delete_without_where(node: Any, facts: Facts) -> Remark | None:
    if not names_table(node) or is_limited(node):
        return None
    name = node.this.name
    if node.args.get("where"):
        return _of_every_row(node, f"DELETE of every row of {name}")
    if node.this.args.get("joins") or node.args.get("tables"):
        return None
    if node.args.get("using"):
        if facts.dialect != "postgres":
            return None
        return (
            f"DELETE of every row of {name}: nothing relates it to the tables of the USING.",
            f"Add a WHERE that relates them, as {name}.id = ....",
        )
    return f"DELETE of every row of {name}.", "Add a WHERE; TRUNCATE is faster if all are meant."


def _of_every_row(node: Any, what: str) -> Remark | None:
    """The remark on a WHERE that is always true; WHERE TRUE says that all rows are meant."""
    condition = bare(node.args["where"].this)
    if condition.__class__ is exp.Boolean or not _holds_always(condition):
        return None
    return f"{what}: its WHERE is always true.", "Correct the WHERE, or write WHERE TRUE if all are meant."


def _holds_always(condition: Any) -> bool:
    if condition.__class__ is exp.Or:
        return any(map(_holds_always, operands(condition, exp.Or)))
    if condition.__class__ is exp.And:
        return all(map(_holds_always, operands(condition, exp.And)))
    return is_always_true(condition)


@rule("Q018", "insert-without-columns", "warning", exp.Insert)
def _insert_without_columns(node: Any, facts: Facts) -> Remark | None:
    if node.this.__class__ is not exp.Table or node.args.get("expression") is None:
        return None
    return (
        f"INSERT INTO {node.this.name} without a list of columns: it breaks, or fills the wrong ones, when "
        "the table changes.",
        f"Write INSERT INTO {node.this.name} (column, ...).",
    )


@rule("Q035", "replace-into", "info", exp.Insert)
def _replace_into(node: Any, facts: Facts) -> Remark | None:
    first = facts.reading.tokens[0].text.upper()
    alternative = str(node.args.get("alternative") or "").upper()
    if alternative != "REPLACE" and not (first == "REPLACE" and facts.is_root(node)):
        return None
    fix = "ON DUPLICATE KEY UPDATE" if facts.dialect == "mysql" else "ON CONFLICT (...) DO UPDATE"
    return (
        "REPLACE deletes the old row and inserts a new one: columns left out are lost, and foreign keys "
        "cascade.",
        f"Use INSERT ... {fix}.",
    )


@rule("Q036", "table-without-key", "info", exp.Create)
def _table_without_key(node: Any, facts: Facts) -> Remark | None:
    if str(node.args.get("kind")).upper() != "TABLE" or node.this.__class__ is not exp.Schema:
        return None
    if node.args.get("expression") is not None or node.find(
        exp.PrimaryKey, exp.PrimaryKeyColumnConstraint, exp.UniqueColumnConstraint,
        exp.TemporaryProperty, exp.PartitionedOfProperty, exp.InheritsProperty, exp.LikeProperty,
    ):  # fmt: skip
        return None
    if not node.find(exp.ColumnDef):
        return None
    if facts.schema is not None and facts.schema.has_key(node.this.this.name):
        return None  # a unique index made by a statement of its own
    return (
        f"Table {node.this.this.name} has neither primary key nor unique column: a row can be neither "
        "found quickly nor told from its copy.",
        "Declare a PRIMARY KEY.",
    )


_FLOATS = (exp.DataType.Type.FLOAT, exp.DataType.Type.DOUBLE)
_MONEY = frozenset((
    "price", "prices", "amount", "balance", "cost", "costs", "fee", "fees", "salary", "payment", "payout",
    "revenue", "income", "budget", "debt", "wage", "refund", "deposit", "turnover", "subtotal", "usd",
    "eur", "rub", "money", "cash",
))  # fmt: skip
_NO_MONEY = frozenset((
    "rate", "ratio", "score", "factor", "percent", "pct", "weight", "avg", "mean", "predicted", "per",
    "index",
))  # fmt: skip


@rule("Q042", "float-for-money", "warning", exp.ColumnDef)
def _float_for_money(node: Any, facts: Facts) -> Remark | None:
    kind = node.args.get("kind")
    if kind.__class__ is not exp.DataType or kind.this not in _FLOATS:
        return None
    words = set(node.name.lower().split("_"))
    if not words & _MONEY or words & _NO_MONEY:
        return None
    instead = "" if facts.dialect == "sqlite" else " or NUMERIC"
    return (
        f"{node.name} is a float, and sounds like money: 0.1 + 0.2 is not 0.3 in it.",
        f"Use an integer of the smallest unit{instead}.",
    )
