"""Rules about statements that write."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.rules.nodes import (
    is_within,
    names_table,
)
from bot.core.query_optimizer.advice.rules.registry import Remark
from bot.core.query_optimizer.advice.rules.rule import rule
from bot.core.query_optimizer.sql.scopes import (
    is_limited,
)


@rule("Q001", "update-without-where", "error", exp.Update)
def _update_without_where(node: Any, facts: Facts) -> Remark | None:
    if is_within(node, exp.When) or node.args.get("where") or not names_table(node) or is_limited(node):
        return None
    if node.args.get("from_") or node.this.args.get("joins"):
        return None  # a join restricts it
    return f"UPDATE of every row of {node.this.name}.", "Add a WHERE, or WHERE TRUE if all are meant."


@rule("Q002", "delete-without-where", "error", exp.Delete)
def _delete_without_where(node: Any, facts: Facts) -> Remark | None:
    if node.args.get("where") or node.args.get("using") or not names_table(node) or is_limited(node):
        return None
    if node.this.args.get("joins") or node.args.get("tables"):
        return None
    return f"DELETE of every row of {node.this.name}.", "Add a WHERE; TRUNCATE is faster if all are meant."


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
