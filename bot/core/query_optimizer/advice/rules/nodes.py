"""Questions about single nodes that several rules ask."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.sql.scopes import (
    Source,
    select_in,
)


def is_null(condition: Any) -> bool:
    """Whether it is ``x IS NULL``; some dialects' IS NOT NULL is an Is as well."""
    return (
        condition.__class__ is exp.Is
        and condition.args["expression"].__class__ is exp.Null
        and not condition.args.get("negate")
    )


def unaliased(item: Any) -> Any:
    return item.this if item.__class__ is exp.Alias else item


def is_within(node: Any, kind: type) -> bool:
    return node.parent.__class__ is kind


def names_table(node: Any) -> bool:
    return node.this.__class__ is exp.Table and bool(node.this.name)


def is_aggregate(item: Any) -> bool:
    return isinstance(unaliased(item), exp.AggFunc)


def has_aggregate(item: Any) -> bool:
    for found in item.find_all(exp.AggFunc, exp.Anonymous):
        if found.parent.__class__ is exp.Window:
            continue
        if found.__class__ is not exp.Anonymous or found.name.lower() in ("total", "json_group_array"):
            return True
    return False


def joined_by_comma(join: Any) -> bool:
    return join is not None and not any(
        join.args.get(name) for name in ("on", "using", "kind", "side", "method")
    )


def may_be_one_row_or_lateral(source: Source, select: Any) -> bool:
    node = source.node
    if node.__class__ is exp.Table:
        if not source.name:
            return True  # a function
        if source.is_base:
            return False
        # A WITH query: often one row of settings.
        statement = select
        while statement.parent is not None:
            statement = statement.parent
        for cte in statement.find_all(exp.CTE):
            if cte.alias.lower() == source.name.lower():
                return is_one_row(select_in(cte.this))
        return False
    if node.__class__ is exp.Subquery:
        return is_one_row(select_in(node))
    return True


def is_one_row(select: Any) -> bool:
    if select.__class__ is not exp.Select:
        return True
    if not select.args.get("from_"):
        return True
    limit = select.args.get("limit")
    if limit is not None and getattr(limit.args.get("expression"), "this", None) == "1":
        return True
    return not select.args.get("group") and any(has_aggregate(item) for item in select.expressions)


def asks_existence_only(query: Any) -> bool:
    """Whether a query is the whole of an IN's or EXISTS's subquery."""
    parent = query.parent
    if parent.__class__ is exp.Exists:
        return True
    if parent.__class__ is exp.Subquery:
        if parent.parent.__class__ is exp.Exists:
            return True
        return parent.parent.__class__ is exp.In and parent.arg_key == "query"
    return parent.__class__ is exp.In and query.arg_key == "query"


def asks_whether_any(query: Any) -> bool:
    """Whether a query is the whole of an EXISTS's subquery."""
    parent = query.parent
    if parent.__class__ is exp.Subquery:
        parent = parent.parent
    return parent.__class__ is exp.Exists


def in_where_or_on(node: Any) -> bool:
    parent = node.parent
    while parent is not None and parent.__class__ in (exp.And, exp.Or, exp.Paren):
        parent = parent.parent
    return parent.__class__ in (exp.Where, exp.Join)


def in_where_or_having(node: Any) -> bool:
    parent = node.parent
    while parent is not None and parent.__class__ in (exp.And, exp.Or, exp.Paren):
        parent = parent.parent
    return parent.__class__ in (exp.Where, exp.Having)
