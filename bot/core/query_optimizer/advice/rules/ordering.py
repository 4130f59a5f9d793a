"""Rules about ORDER BY, LIMIT and OFFSET, locks, and WITH."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.rules.nodes import (
    asks_existence_only,
    has_aggregate,
)
from bot.core.query_optimizer.advice.rules.registry import Remark
from bot.core.query_optimizer.advice.rules.rule import rule
from bot.core.query_optimizer.sql.scopes import (
    SETS,
    bare,
    is_limited,
)


@rule("Q007", "offset-paging", "warning", exp.Offset)
def _offset_paging(node: Any, facts: Facts) -> Remark | None:
    value = node.args["expression"]
    if value.__class__ is exp.Literal and value.this == "0":
        return None
    return (
        "OFFSET reads and throws away every row before the page.",
        "Remember the last row's key: WHERE key > ? ORDER BY key LIMIT n.",
    )


@rule("Q010", "order-by-random", "warning", exp.Ordered, needs=(exp.Rand, exp.Anonymous))
def _order_by_random(node: Any, facts: Facts) -> Remark | None:
    by = bare(node.this)
    is_random = by.__class__ is exp.Rand or (
        by.__class__ is exp.Anonymous and by.name.lower() in ("random", "rand", "newid")
    )
    if not is_random:
        return None
    fix = "TABLESAMPLE, or " if facts.dialect == "postgres" else ""
    return (
        "ORDER BY random() draws a number for every row and sorts them all.",
        f"Use {fix}a random key: WHERE id >= ? ORDER BY id LIMIT n.",
    )


@rule("Q014", "limit-without-order", "info", exp.Limit)
def _limit_without_order(node: Any, facts: Facts) -> Remark | None:
    query = node.parent
    if query.__class__ not in (exp.Select, *SETS) or query.args.get("order"):
        return None
    value = node.args.get("expression")
    if value.__class__ is exp.Literal and value.this in ("0", "1"):
        return None
    if query.__class__ is exp.Select:
        if not query.args.get("from_") or asks_existence_only(query):
            return None
        if not query.args.get("group") and any(has_aggregate(item) for item in query.expressions):
            return None
    return "LIMIT without ORDER BY: which rows come is up to the database.", "Add an ORDER BY."


@rule("Q021", "order-by-position", "info", exp.Ordered)
def _order_by_position(node: Any, facts: Facts) -> Remark | None:
    if node.this.__class__ is not exp.Literal or node.this.is_string:
        return None
    if node.parent.parent.__class__ not in (exp.Select, *SETS):
        return None  # in a window it is a constant
    return (
        f"ORDER BY {node.this.this} sorts by whatever column comes there.",
        "Name the column.",
    )


@rule("Q022", "order-in-subquery", "info", exp.Order)
def _order_in_subquery(node: Any, facts: Facts) -> Remark | None:
    select = node.parent
    if select.__class__ is not exp.Select or is_limited(select) or facts.is_root(select):
        return None
    if select.args.get("distinct") is not None and select.args["distinct"].args.get("on") is not None:
        return None
    if asks_existence_only(select):
        return "ORDER BY in the subquery of IN or EXISTS sorts for nothing.", "Leave it out."
    parent = select.parent
    if parent.__class__ is exp.Subquery and parent.parent.__class__ in (exp.From, exp.Join):
        outer = facts.scopes.around(parent)
        if outer is not None and outer.node.find(exp.Anonymous, exp.GroupConcat, exp.ArrayAgg, exp.Window):
            return None  # they see the order in practice
        return (
            "The order of a subquery in FROM is not kept by the query around it.",
            "Move ORDER BY to the end of the outer query.",
        )
    return None


@rule("Q029", "lock-without-where", "warning", exp.Lock)
def _lock_without_where(node: Any, facts: Facts) -> Remark | None:
    select = node.parent
    if select.__class__ is not exp.Select or select.args.get("where") or is_limited(select):
        return None
    return (
        "A locking read without WHERE locks every row of the table.",
        "Add a WHERE that picks the rows to be changed.",
    )


@rule("Q033", "unused-cte", "warning", exp.With)
def _unused_cte(node: Any, facts: Facts) -> Remark | None:
    used = {
        table.name.lower() for table in facts.census.all(exp.Table) if table.args.get("db") is None
    }  # fmt: skip
    for cte in node.expressions:
        if cte.alias.lower() in used or cte.this.find(exp.Insert, exp.Update, exp.Delete, exp.Merge):
            continue
        if facts.census.statement.find(exp.Command):
            continue
        return f"WITH {cte.alias} is never used.", "Leave it out."
    return None
