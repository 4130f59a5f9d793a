"""Rules about GROUP BY."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.rules.nodes import unaliased
from bot.core.query_optimizer.advice.rules.registry import Remark
from bot.core.query_optimizer.advice.rules.rule import rule
from bot.core.query_optimizer.sql.scopes import Scope, Source, bare, is_constant, operands, written


@rule("Q041", "bare-column", "warning", exp.Group)
def _bare_column(node: Any, facts: Facts) -> Remark | None:
    """PostgreSQL refuses it itself; MySQL does unless ONLY_FULL_GROUP_BY is off, as MariaDB has it."""
    select = node.parent
    scope = facts.scope(select)
    if facts.dialect not in ("mysql", "sqlite") or select.__class__ is not exp.Select or scope is None:
        return None
    if any(node.args.get(name) for name in ("cube", "rollup", "grouping_sets", "all")):
        return None
    items = select.expressions
    if facts.dialect == "sqlite" and _has_one_extreme(items):
        return None  # the columns beside it are of the row that has it
    known = _grouped(node, items)
    if known is None:
        return None
    _add_equal(known, select, scope)
    for item in items:
        expression = unaliased(item)
        if isinstance(expression, exp.Star) or expression.find(exp.Select, exp.Window):
            continue
        if (item.alias_or_name or "").lower() in known and item.__class__ is exp.Alias:
            continue
        for column in expression.find_all(exp.Column):
            if _is_aggregated(column) or column.name.lower() in known or column.is_star:
                continue
            source = scope.source_of(column)
            if source is None or not source.is_base or _is_determined(source, known, scope, facts):
                continue
            return (
                f"{written(column)} is neither grouped nor aggregated: it is of any row of its group.",
                "Add it to the GROUP BY, or say which one: MIN(), MAX(), or a window function.",
            )
    return None


def _has_one_extreme(items: list[Any]) -> bool:
    return sum(len(list(item.find_all(exp.Min, exp.Max))) for item in items) == 1


def _grouped(group: Any, items: list[Any]) -> set[str] | None:
    """Names of the columns and aliases that a GROUP BY mentions; None if they are not known."""
    known: set[str] = set()
    for key in group.expressions:
        key = bare(key)
        if key.__class__ is exp.Literal:
            if key.is_string or not key.this.isdigit() or not 0 < int(key.this) <= len(items):
                return None
            key = items[int(key.this) - 1]
        if key.__class__ is exp.Column and not key.args.get("table"):
            aliased = [i for i in items if i.__class__ is exp.Alias and i.alias.lower() == key.name.lower()]
            for item in aliased:
                known.update(column.name.lower() for column in item.find_all(exp.Column))
        known.add((key.alias_or_name or "").lower())
        known.update(column.name.lower() for column in key.find_all(exp.Column))
    return known


def _add_equal(known: set[str], select: Any, scope: Scope) -> None:
    """Add columns that equal a known one or a constant."""
    conditions = list(scope.conditions())
    for join in scope.joins:
        on = join.args.get("on")
        if on is not None:
            conditions += operands(on, exp.And)
    pairs = []
    for condition in conditions:
        if condition.__class__ is not exp.EQ:
            continue
        one, other = bare(condition.this), bare(condition.args["expression"])
        if one.__class__ is not exp.Column:
            one, other = other, one
        if one.__class__ is not exp.Column:
            continue
        if is_constant(other):
            known.add(one.name.lower())
        elif other.__class__ is exp.Column:
            pairs.append((one.name.lower(), other.name.lower()))
    for _ in pairs:
        for one, other in pairs:
            if one in known or other in known:
                known.update((one, other))


def _is_aggregated(column: Any) -> bool:
    node = column.parent
    while node is not None and node.__class__ is not exp.Select:
        # A function that is not known may be an aggregate.
        if isinstance(node, exp.AggFunc | exp.Anonymous | exp.AnyValue):
            return True
        node = node.parent
    return False


def _is_determined(source: Source, known: set[str], scope: Scope, facts: Facts) -> bool:
    """Whether a table's key is grouped; without a schema, what sounds like one where tables are joined."""
    name = source.name.lower()
    if facts.schema is not None and name in facts.schema.columns:
        return any(key <= known for key in facts.schema.unique.get(name, ()))
    if "id" in known:
        return True
    # Nobody groups a single table by its key.
    return len(scope.sources) > 1 and any(key.endswith(("id", "key")) for key in known)
