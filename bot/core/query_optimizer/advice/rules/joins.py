"""Rules about how tables are joined."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.rules.nodes import (
    is_null,
    joined_by_comma,
    may_be_one_row_or_lateral,
)
from bot.core.query_optimizer.advice.rules.registry import Remark
from bot.core.query_optimizer.advice.rules.rule import rule
from bot.core.query_optimizer.sql.scopes import (
    COMPARISONS,
    Scope,
    bare,
    operands,
)


@rule("Q006", "implicit-cross-join", "warning", exp.Select)
def _implicit_cross_join(node: Any, facts: Facts) -> Remark | None:
    scope = facts.scope(node)
    if scope is None or len(scope.sources) < 2:
        return None
    for join in scope.joins:
        if joined_by_comma(join):
            break
    else:
        return None
    if any(may_be_one_row_or_lateral(s, node) for s in scope.sources.values()):
        return None
    group = {name: name for name in scope.sources}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    unclear = 0
    conditions = [*scope.conditions()]
    for join in scope.joins:
        on = join.args.get("on")
        if on is not None:
            conditions += operands(on, exp.And)
        if on is None and not joined_by_comma(join):
            # USING, NATURAL and CROSS join with what stands before.
            names = list(scope.sources)
            alias = join.this.alias_or_name.lower()
            if alias in names and names.index(alias):
                group[root(alias)] = root(names[names.index(alias) - 1])
    for condition in conditions:
        columns = list(condition.find_all(exp.Column))
        named = {column.table.lower() for column in columns if column.table} & scope.sources.keys()
        if any(not column.table for column in columns) and len(columns) > 1:
            unclear += 1
        first = next(iter(named), None)
        for name in named:
            group[root(name)] = root(first or name)
    parts = {root(name) for name in scope.sources}
    if len(parts) - unclear <= 1:
        return None
    names = [source.name or source.alias for source in scope.sources.values()]
    return (
        f"{' and '.join(names[:3])} are joined by a comma and nothing relates them: every row of one meets "
        "every row of the other.",
        "Write JOIN ... ON, or CROSS JOIN if that is meant.",
    )


@rule("Q020", "outer-join-made-inner", "warning", exp.Join)
def _outer_join_made_inner(node: Any, facts: Facts) -> Remark | None:
    scope = facts.scope(node.parent)
    condition = why_join_is_inner(node, scope) if scope is not None else None
    if condition is None:
        return None
    name = node.this.alias_or_name
    return (
        f"LEFT JOIN {name} keeps rows without a match, and a condition of WHERE on {name} drops them.",
        "Write JOIN, or move the condition into ON if the rows are wanted.",
    )


def why_join_is_inner(join: Any, scope: Scope) -> Any:
    """The condition of WHERE that rows without a match never meet; None if there is none."""
    side = join.args.get("side")
    if not side or side.upper() != "LEFT" or join.args.get("method") or join.this.__class__ is not exp.Table:
        return None
    if (join.args.get("kind") or "").upper() not in ("", "OUTER"):
        return None  # LEFT ANTI JOIN and the like
    alias = join.this.alias_or_name.lower()
    if scope.has_doubled_names:
        return None
    for condition in scope.conditions():
        if _rejects_null_of(condition, alias):
            return condition
    return None


_NULL_REJECTING = frozenset((*COMPARISONS, exp.NEQ, exp.Like, exp.ILike))
_MAY_TAKE_A_SIDE = _NULL_REJECTING | {exp.Is, exp.In, exp.Between, exp.Not, exp.And, exp.Or}


def _rejects_null_of(condition: Any, alias: str) -> bool:
    """Whether a condition is never true when every column of ``alias`` is NULL."""
    kind = condition.__class__
    if kind in _NULL_REJECTING:
        sides = [bare(condition.this), bare(condition.args["expression"])]
        if any(side.__class__ in _MAY_TAKE_A_SIDE for side in sides):
            return False  # a = 1 IS NULL: in most databases a condition on the result of a = 1
    elif (
        kind is exp.Between
        or (kind is exp.In and condition.expressions)
        or (
            kind is exp.Is
            and condition.args.get("negate")
            and condition.args["expression"].__class__ is exp.Null
        )
    ):
        sides = [bare(condition.this)]
    elif kind is exp.Not:
        inner = bare(condition.this)
        if is_null(inner):
            sides = [bare(inner.this)]
        else:
            return False
    else:
        return False
    return any(side.__class__ is exp.Column and side.table.lower() == alias for side in sides)


@rule("Q025", "natural-join", "warning", exp.Join)
def _natural_join(node: Any, facts: Facts) -> Remark | None:
    if (node.args.get("method") or "").upper() != "NATURAL":
        return None
    return (
        f"NATURAL JOIN {node.this.alias_or_name} joins by whatever columns have the same name: a new "
        "column changes the result.",
        "Write JOIN ... USING (column) or ON.",
    )


@rule("Q026", "comma-beside-join", "warning", exp.Select)
def _comma_beside_join(node: Any, facts: Facts) -> Remark | None:
    if facts.dialect == "sqlite":
        return None  # which joins from left to right
    joins = node.args.get("joins") or ()
    commas = [j for j in joins if joined_by_comma(j) and j.this.__class__ in (exp.Table, exp.Subquery)]
    if not commas or all(joined_by_comma(join) for join in joins):
        return None
    if any(join.this.find(exp.Anonymous, exp.Unnest, exp.Lateral) for join in commas):
        return None
    return (
        "Commas and JOIN in one FROM: JOIN binds more tightly, so its ON cannot see the tables before the "
        "comma.",
        "Write every table with JOIN.",
    )


@rule("Q038", "unused-outer-join", "warning", exp.Join)
def _unused_outer_join(node: Any, facts: Facts) -> Remark | None:
    scope = facts.scope(node.parent)
    if scope is None or not is_join_unused(node, scope):
        return None
    if node.parent.args.get("distinct"):
        effect = "it repeats rows, which DISTINCT removes again"
    else:
        effect = "all it can do is to repeat rows"
    return f"LEFT JOIN {node.this.alias_or_name} is not used: {effect}.", "Leave it out."


def is_join_unused(join: Any, scope: Scope) -> bool:
    """Whether a LEFT JOIN's columns are used only in its own ON, as far as the query shows."""
    select = scope.node
    if select.__class__ is not exp.Select or select.args.get("group") or (join.side or "").upper() != "LEFT":
        return False
    if select.args.get("locks") or scope.has_doubled_names:
        return False  # FOR UPDATE locks its rows, too
    on = join.args.get("on")
    if on is None or join.args.get("method") or join.this.__class__ is not exp.Table:
        return False
    if join.parent is not select or any(source.node.args.get("joins") for source in scope.sources.values()):
        return False  # a join within a join: its parts would vanish as well
    if any(source.node.__class__ not in (exp.Table, exp.Subquery) for source in scope.sources.values()):
        return False  # a function or LATERAL, that may use it
    if (join.args.get("kind") or "").upper() not in ("", "OUTER"):
        return False
    alias = join.this.alias_or_name.lower()
    inside = {id(column) for column in on.find_all(exp.Column)}
    for node in select.find_all(exp.Column, exp.Star, exp.AggFunc, exp.Anonymous):
        if node.__class__ is not exp.Column:
            return False  # a COUNT(*), SUM and the like count the repeated rows, so they use the join
        table = node.table.lower()
        if id(node) not in inside and (table == alias or not table):
            return False
    return True
