"""The rewrites, one function each: it changes the tree in place and says whether it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.certainty import ColumnTypes, are_alike, innermost_select, parts_of
from bot.core.query_optimizer.advice.rules.conditions import (
    equalities_by_column,
    is_always_true,
    repeated_operands,
)
from bot.core.query_optimizer.advice.rules.filters import conditions_for_where, count_as_existence
from bot.core.query_optimizer.advice.rules.joins import is_join_unused, why_join_is_inner
from bot.core.query_optimizer.advice.rules.nodes import asks_existence_only
from bot.core.query_optimizer.advice.rules.selection import why_distinct_is_redundant
from bot.core.query_optimizer.sql.column_types import family_shown
from bot.core.query_optimizer.sql.scopes import Scope, bare, in_filter, is_limited, operands


def _outer_parentheses(node: Any) -> Any:
    while node.parent.__class__ is exp.Paren:
        node = node.parent
    return node


def _drop_side(side: Any) -> bool:
    """Take one side out of an AND or OR, so that the other side stands in its place."""
    side = _outer_parentheses(side)
    connector = side.parent
    if connector.__class__ not in (exp.And, exp.Or):
        return False
    other = connector.args["expression"] if side.arg_key == "this" else connector.this
    connector.replace(other)
    return True


def _drop_true_conditions(tree: Any, types: ColumnTypes) -> bool:
    done = False
    for node in list(tree.find_all(exp.EQ, exp.Boolean)):
        if not is_always_true(node) or not in_filter(node):
            continue
        if node.__class__ is exp.Boolean and types.dialect in ("", "sqlite"):
            continue  # true and false may be columns in SQLite
        node = _outer_parentheses(node)
        parent = node.parent
        if parent.__class__ is exp.And:
            done = _drop_side(node) or done
        elif parent.__class__ is exp.Where:
            parent.pop()
            done = True
    return done


def _drop_repeated_conditions(tree: Any, types: ColumnTypes) -> bool:
    done = False
    for node in list(tree.find_all(exp.And, exp.Or)):
        if node.parent is None or _outer_parentheses(node).parent.__class__ is node.__class__:
            continue
        if not in_filter(node):
            continue
        for side in repeated_operands(node):
            done = _drop_side(side) or done
    return done


def _replace_or_by_in(tree: Any, types: ColumnTypes) -> bool:
    done = False
    for node in list(tree.find_all(exp.Or)):
        if node.parent is None or _outer_parentheses(node).parent.__class__ is exp.Or or not in_filter(node):
            continue
        for column, sides in list(equalities_by_column(node)):
            if len(sides) < 2 or not _compares_alike_in_a_list(column, sides, types):
                continue
            values = [bare(side.args["expression"]).copy() for side in sides]
            for side in sides[1:]:
                _drop_side(side)
            sides[0].replace(exp.In(this=column.copy(), expressions=values))
            done = True
    return done


def _compares_alike_in_a_list(column: Any, sides: list[Any], types: ColumnTypes) -> bool:
    """Whether a value in a list is compared as it would be alone.

    SQLite defines IN so. Others convert the list and the column to one type first. Then a float4 of
    PostgreSQL equals a value that it does not equal alone, a cidr refuses a value that it accepts alone,
    and a YEAR of MySQL does not read 99 as 1999.
    """
    if types.dialect == "sqlite":
        scope = types.scopes.around(column)
        source = scope.source_of(column) if scope is not None else None
        return source is not None and source.is_base
    values = [bare(side.args["expression"]) for side in sides]
    if any(value.__class__ is not exp.Literal for value in values):
        return False
    family = types.family(column)
    if values[0].is_string:
        return family == "text"
    return family == "whole" and all(value.this.isdigit() and len(value.this) < 10 for value in values)


def _drop_distinct(tree: Any, types: ColumnTypes) -> bool:
    done = False
    for select in tree.find_all(exp.Select):
        if select.args.get("distinct") is None or not _orders_by_what_it_shows(select):
            continue
        if not types.compares_anything() and not all(types.shown(select)):
            continue
        # Its columns are exact, see _shows_exact_values.
        if why_distinct_is_redundant(select):
            select.set("distinct", None)
            done = True
    for call in tree.find_all(exp.Min, exp.Max):
        distinct = call.this
        select = innermost_select(call)
        if select.args.get("order") is not None and select.args.get("distinct") is not None:
            continue  # without it the ORDER BY may be accepted, and the query would not fail any more
        if distinct.__class__ is exp.Distinct and len(distinct.expressions) == 1:
            call.set("this", distinct.expressions[0])
            done = True
    return done


def _orders_by_what_it_shows(select: Any) -> bool:
    """Whether ORDER BY names only what the SELECT lists: most databases refuse others beside DISTINCT."""
    order = select.args.get("order")
    if order is None:
        return True
    items = [item.this if item.__class__ is exp.Alias else item for item in select.expressions]
    aliases = {item.alias.lower() for item in select.expressions if item.__class__ is exp.Alias}
    return all(
        ordered.this in items
        or (
            ordered.this.__class__ is exp.Column
            and not ordered.this.table
            and ordered.this.name.lower() in aliases
        )
        for ordered in order.expressions
    )


def _drop_order(tree: Any, types: ColumnTypes) -> bool:
    done = False
    for select in tree.find_all(exp.Select):
        order = select.args.get("order")
        if order is None or not asks_existence_only(select) or is_limited(select):
            continue
        if select.args.get("distinct") is not None and not _orders_by_what_it_shows(select):
            continue
        columns = [ordered.this for ordered in order.expressions]
        if any(column.__class__ is not exp.Column for column in columns):
            continue
        if types.compares_anything() or all(map(types.family, columns)):
            select.set("order", None)
            done = True
    return done


def _replace_count_by_exists(tree: Any, types: ColumnTypes) -> bool:
    done = False
    for comparison in list(tree.find_all(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)):
        found = count_as_existence(comparison)
        if found is None or not in_filter(comparison):
            continue
        wanted, select = found
        if select.args.get("order") is not None:
            continue
        select = select.copy()
        select.set("expressions", [exp.Literal.number(1)])
        exists = exp.Exists(this=select)
        comparison.replace(exists if wanted else exp.Not(this=exists))
        done = True
    return done


def _move_having_to_where(tree: Any, types: ColumnTypes) -> bool:
    done = False
    for having in list(tree.find_all(exp.Having)):
        select = having.parent
        for condition in conditions_for_where(having):
            if types.dialect not in ("postgres", "sqlite") and bare(condition.this) not in select.expressions:
                continue  # MySQL's HAVING may not know a column that is not selected
            where = select.args.get("where")
            moved = condition.copy()
            if where is None:
                select.set("where", exp.Where(this=moved))
            else:
                before = where.this
                if before.__class__ is exp.Or:
                    before = exp.Paren(this=before.copy())
                where.set("this", exp.And(this=before, expression=moved))
            if not _drop_side(condition):
                select.set("having", None)
            done = True
    return done


def _replace_union_by_union_all(tree: Any, types: ColumnTypes) -> bool:
    done = False
    for union in tree.find_all(exp.Union):
        if not union.args.get("distinct") or is_limited(union) or not asks_existence_only(union):
            continue
        # Within IN its columns are exact, see _shows_exact_values; within EXISTS they need a comparison.
        if types.compares_anything() or are_alike(parts_of(union), types):
            union.set("distinct", False)
            done = True
    return done


def _replace_left_join_by_join(tree: Any, types: ColumnTypes) -> bool:
    done = False
    for scope in types.scopes:
        if any((join.side or "").upper() in ("RIGHT", "FULL") for join in scope.joins):
            continue
        if any(join.args.get("using") or join.args.get("method") for join in scope.joins):
            continue
        for join in scope.joins:
            if join.args.get("on") is not None and why_join_is_inner(join, scope) is not None:
                join.set("side", None)
                join.set("kind", None)
                done = True
    return done


def _drop_unused_joins(tree: Any, types: ColumnTypes) -> bool:
    done = False
    for scope in types.scopes:
        while _drop_unused_join(scope, types):
            done = True
    return done


def _drop_unused_join(scope: Scope, types: ColumnTypes) -> bool:
    select = scope.node
    if select.__class__ is not exp.Select or select.args.get("distinct") is None:
        return False  # without DISTINCT the join may repeat rows
    joins = select.args.get("joins") or []
    for join in joins:
        side = (join.side or "").upper()
        if join.args.get("using") or join.args.get("method") or side in ("RIGHT", "FULL"):
            return False
        if join.args.get("on") is None and (join.args.get("kind") or "").upper() != "CROSS":
            return False  # a comma: an ON after it cannot use the tables before it
    for join in joins:
        if is_join_unused(join, scope) and all(
            _cannot_fail(condition, types) for condition in operands(join.args["on"], exp.And)
        ):
            select.set("joins", [kept for kept in joins if kept is not join])
            return True
    return False


def _cannot_fail(condition: Any, types: ColumnTypes) -> bool:
    """Whether it compares columns that exist with values of their own type."""
    if condition.__class__ is not exp.EQ:
        return False
    families = []
    for side in (bare(condition.this), bare(condition.args["expression"])):
        if side.__class__ is exp.Literal:
            is_small = side.is_string or len(side.this) < 10
            families.append(family_shown(side, None, types.dialect) if is_small else "")
        else:
            families.append(types.family(side))
    return bool(families[0]) and families[0] == families[1]


# In this order: a rewrite may find what an earlier one has left.
CHANGES: dict[str, Callable[[Any, ColumnTypes], bool]] = {
    "Q032": _drop_true_conditions,
    "Q031": _drop_repeated_conditions,
    "Q037": _replace_or_by_in,
    "Q017": _replace_count_by_exists,
    "Q016": _move_having_to_where,
    "Q012": _drop_distinct,
    "Q015": _replace_union_by_union_all,
    "Q022": _drop_order,
    "Q020": _replace_left_join_by_join,
    "Q038": _drop_unused_joins,
}
