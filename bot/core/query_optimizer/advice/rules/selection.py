"""Rules about what a SELECT lists and returns."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.rules.nodes import (
    asks_existence_only,
    asks_whether_any,
    has_aggregate,
    is_aggregate,
    unaliased,
)
from bot.core.query_optimizer.advice.rules.registry import Remark
from bot.core.query_optimizer.advice.rules.rule import rule
from bot.core.query_optimizer.sql.scopes import (
    SETS,
    bare,
    is_limited,
    key_of,
    select_in,
)


@rule("Q003", "select-star", "info", exp.Select)
def _select_star(node: Any, facts: Facts) -> Remark | None:
    for item in node.expressions:
        if item.__class__ is exp.Star or (item.__class__ is exp.Column and item.this.__class__ is exp.Star):
            break
    else:
        return None
    scope = facts.scope(node)
    tables = [source for source in scope.sources.values() if source.is_base] if scope else []
    if not tables or node.parent.__class__ is exp.Exists:
        return None
    if node.parent.__class__ is exp.Subquery and node.parent.parent.__class__ is exp.Exists:
        return None
    names = ", ".join(dict.fromkeys(source.name for source in tables))
    return (
        f"SELECT * reads every column of {names}, and others once the table changes.",
        "Name the columns that are used.",
    )


@rule("Q011", "unbounded-result", "info", exp.Select)
def _unbounded_result(node: Any, facts: Facts) -> Remark | None:
    if not facts.is_root(node) or is_limited(node):
        return None
    args = node.args
    if any(args.get(name) for name in ("where", "group", "having", "distinct", "into", "qualify")):
        return None
    scope = facts.scope(node)
    if scope is None or not scope.sources or not all(s.is_base for s in scope.sources.values()):
        return None
    if any(has_aggregate(item) for item in node.expressions):
        return None
    names = ", ".join(source.name for source in scope.sources.values())
    return (
        f"Every row of {names} is fetched: neither WHERE nor LIMIT.",
        "Add a WHERE or a LIMIT, or read in pages by the key.",
    )


@rule("Q024", "correlated-scalar-subquery", "warning", exp.Subquery)
def _correlated_scalar_subquery(node: Any, facts: Facts) -> Remark | None:
    select = node.this
    if select.__class__ is not exp.Select:
        return None
    above = node
    while above.parent is not None and above.parent.__class__ not in (exp.Select, exp.Exists, exp.In):
        above = above.parent
    outer = above.parent
    if outer.__class__ is not exp.Select or above.arg_key != "expressions" or not outer.args.get("from_"):
        return None
    scope, around = facts.scope(select), facts.scope(outer)
    if scope is None or around is None or not scope.sources:
        return None
    for column in select.find_all(exp.Column):
        qualifier = column.table.lower()
        if qualifier and qualifier not in scope.sources and qualifier in around.sources:
            source = next(iter(scope.sources.values()))
            return (
                f"The subquery on {source.name or 'a subquery'} runs once for each row of the outer query.",
                "Join it, grouped by what it is compared with, or use a window function.",
            )
    return None


@rule("Q012", "redundant-distinct", "warning", exp.Distinct)
def _redundant_distinct(node: Any, facts: Facts) -> Remark | None:
    parent = node.parent
    if parent.__class__ in (exp.Min, exp.Max):
        return f"DISTINCT is not needed in {parent.sql_name()}(): a value counts once there.", "Leave it out."
    why = why_distinct_is_redundant(parent) if parent.__class__ is exp.Select else ""
    if not why:
        return None
    if asks_whether_any(parent) or not _is_compared_again(parent) or facts.shows_exact_values(parent):
        return f"DISTINCT changes nothing: {why}.", "Leave it out."
    return (
        f"DISTINCT is not needed: {why}.",
        "Leave it out, unless what it is compared with has another collation or type.",
    )


def _is_compared_again(select: Any) -> bool:
    """Whether other parts of the query compare a SELECT's values, so that it matters which of equal values is
    kept.
    """
    return asks_existence_only(select) or select.parent.__class__ is exp.Union


def why_distinct_is_redundant(select: Any) -> str:
    """Why the DISTINCT of a SELECT removes no row that is seen; empty if it may.

    Of columns whose equal values may be several (see ``column_types``) it holds as far as the query
    around compares as the columns do.
    """
    distinct = select.args.get("distinct")
    if distinct is None or distinct.args.get("on") is not None or is_limited(select):
        return ""
    if asks_whether_any(select):
        return "EXISTS only asks whether there is a row"
    if asks_existence_only(select):
        return "IN asks whether a value is there, not how often"
    parent = select.parent
    if parent.__class__ is exp.Union and parent.args.get("distinct") and not _is_among_other_sets(parent):
        return "UNION removes duplicates anyway"
    group = select.args.get("group")
    if group is None:
        if select.expressions and all(is_aggregate(item) for item in select.expressions):
            return "without GROUP BY an aggregate gives one row"
        return ""
    if any(group.args.get(name) for name in ("cube", "rollup", "grouping_sets", "totals", "all")):
        return ""
    keys = [bare(key) for key in group.expressions]
    if not keys or any(key.__class__ is not exp.Column for key in keys):
        return ""
    aliases = {item.alias.lower() for item in select.expressions if item.__class__ is exp.Alias}
    shown = {key_of(item) for item in map(unaliased, select.expressions) if item.__class__ is exp.Column}
    if all(key_of(key) in shown and key.name.lower() not in aliases for key in keys):
        return "the columns of GROUP BY are selected, so no row comes twice"
    return ""


def _is_among_other_sets(union: Any) -> bool:
    """Whether INTERSECT or EXCEPT stand beside it: their precedence differs by database."""
    top = union
    while top.parent.__class__ in SETS:
        top = top.parent
    return any(node is not top and node.__class__ is not exp.Union for node in top.find_all(*SETS)) or (
        top.__class__ is not exp.Union
    )


@rule("Q015", "union-removes-duplicates", "info", exp.Union)
def _union(node: Any, facts: Facts) -> Remark | None:
    if not node.args.get("distinct"):
        return None
    if asks_existence_only(node) and not is_limited(node):
        if asks_whether_any(node):
            return "UNION sorts out duplicates that EXISTS does not care about.", "Use UNION ALL."
        return (
            "UNION sorts out duplicates, and IN asks whether a value is there, not how often.",
            "Use UNION ALL, unless what it is compared with has another collation or type.",
        )
    left, right = select_in(node.this), select_in(node.args["expression"])
    if left.__class__ is exp.Select and right.__class__ is exp.Select:
        for one, other in zip(left.expressions, right.expressions, strict=False):
            if _differ_surely(unaliased(one), unaliased(other)):
                return (
                    "The parts of this UNION cannot have a row in common, yet all are compared.",
                    "Use UNION ALL unless one part repeats rows by itself.",
                )
    return None


def _differ_surely(one: Any, other: Any) -> bool:
    """Whether two literals are equal in no collation: words that differ in more than case and accents."""
    if one.__class__ is not exp.Literal or other.__class__ is not exp.Literal:
        return False
    if one.is_string != other.is_string:
        return False
    first, second = str(one.this), str(other.this)
    if not one.is_string:
        return first.isdigit() and second.isdigit() and int(first[:40]) != int(second[:40])
    if not (first.isascii() and first.isalpha() and second.isascii() and second.isalpha()):
        return False
    return first.lower() != second.lower()
