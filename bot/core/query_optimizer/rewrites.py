"""Rewrites that keep the result, row for row; whatever is in doubt is left as it is.

What makes sure of that:

- Only a single SELECT is touched, and only one made of parts that are known (``_KNOWN``). Parts whose
  value depends on the plan are not among them: LIMIT, window functions, random(), columns beside an
  aggregate that are not grouped by, sums of what may be fractions, subqueries of which only some row is
  taken. Nor may a condition compute what may fail (a division, a cast).
- sqlglot's rendering of the query must have the query's own tokens, layout and noise words aside;
  else the query's text would change in ways that no rewrite asked for.
- Positional parameters keep their number and order.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from sqlglot import exp
from sqlglot.errors import SqlglotError

from bot.core.query_optimizer.analyzer import Reading
from bot.core.query_optimizer.census import Census
from bot.core.query_optimizer.dialects import dialect_of
from bot.core.query_optimizer.parameters import Parameters
from bot.core.query_optimizer.rules import (
    conditions_for_where,
    count_as_existence,
    equalities_by_column,
    is_always_true,
    is_join_unused,
    repeated_operands,
    why_distinct_is_redundant,
    why_join_is_inner,
)
from bot.core.query_optimizer.scopes import SETS, Scope, Scopes, bare, in_filter, is_limited, name_key

REWRITES = {
    "Q012": "DISTINCT left out",
    "Q015": "UNION ALL in place of UNION",
    "Q016": "condition moved from HAVING to WHERE",
    "Q017": "EXISTS in place of COUNT(*)",
    "Q020": "JOIN in place of LEFT JOIN",
    "Q022": "ORDER BY of a subquery left out",
    "Q031": "repeated condition left out",
    "Q032": "condition that is always true left out",
    "Q037": "IN in place of OR",
    "Q038": "unused LEFT JOIN left out",
}
"""The rules whose fix is a rewrite, and what it is called."""


def rewrite(reading: Reading, codes: set[str]) -> tuple[str, list[str]]:
    """(the query, rewritten where one of the rules ``codes`` found something, codes of what was done)."""
    wanted = codes & REWRITES.keys()
    if not wanted or len(reading.censuses) != 1 or not _is_sure(reading, reading.censuses[0]):
        return reading.query, []
    try:
        return _rewrite(reading, wanted)
    except (SqlglotError, ValueError, RecursionError):
        return reading.query, []


def _rewrite(reading: Reading, wanted: set[str]) -> tuple[str, list[str]]:
    parameters = Parameters()
    dialect = dialect_of(reading.dialect)
    # All positional parameters get numbers, so that one that moved is noticed.
    named = parameters.name_all(reading.query, reading.tokens, every=True)
    tokens = dialect.tokenize(named)
    tree = dialect.parser().parse(tokens, named)[0]
    if _spelling(tokens) != _spelling(dialect.tokenize(_text(tree, reading.dialect))):
        return reading.query, []
    done = []
    for code, change in _CHANGES.items():
        if code in wanted and change(tree):
            done.append(code)
    if not done:
        return reading.query, []
    text = _text(tree, reading.dialect)
    if _written_parameters(named, tokens) != _written_parameters(text, dialect.tokenize(text)):
        return reading.query, []
    if dialect.parse(text) != [tree]:
        return reading.query, []
    return parameters.restore(text), done


def _text(tree: Any, dialect: str) -> str:
    return str(tree.sql(dialect=dialect or None, comments=False))


_NOISE = frozenset(("AS", "INNER", "OUTER", "ASC", "NOT", ";", "ALL"))
_SAME = {"!=": "<>", "==": "="}


def _spelling(tokens: list[Any]) -> list[str]:
    """A text's tokens without what may be left out or, as NOT, moved; the parser tells those apart."""
    kept = []
    for token in tokens:
        text = token.text
        if token.token_type not in _verbatim():
            text = " ".join(text.upper().split())
            text = _SAME.get(text, text)
            if text in _NOISE:
                continue
        kept.append(text)
    return kept


@functools.cache
def _verbatim() -> frozenset[Any]:
    from sqlglot.tokens import TokenType as T  # type: ignore[attr-defined]  # exported, not by its stub

    return frozenset((T.VAR, T.IDENTIFIER, T.STRING, T.NATIONAL_STRING, T.RAW_STRING))


_PARAMETER = re.compile(r"(?:[:@$]|%\()\w+")


def _written_parameters(text: str, tokens: list[Any]) -> tuple[list[str], set[str]]:
    """(the positional parameters in their order, all parameters)"""
    found = []
    for token in tokens:
        if token.text in (":", "@", "$", "%") or token.text[:1] in ("$", "@"):
            match = _PARAMETER.match(text, token.start)
            if match is not None:
                found.append(match.group().lstrip(":@$%("))
    return [name for name in found if name.startswith("phase4_")], set(found)


# Whether a query may be touched at all.

_KNOWN = frozenset(
    (
        exp.Select, exp.From, exp.Table, exp.TableAlias, exp.Alias, exp.Column, exp.Identifier,
        exp.Literal, exp.Star, exp.Join, exp.Where, exp.And, exp.Or, exp.Not, exp.Paren, exp.EQ,
        exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.In, exp.Between, exp.Like, exp.ILike, exp.Is,
        exp.Null, exp.Boolean, exp.Group, exp.Having, exp.Order, exp.Ordered, exp.Count, exp.Min,
        exp.Max, exp.Sum, exp.Subquery, exp.Exists, exp.Union, exp.Intersect, exp.Except,
        exp.Distinct, exp.Placeholder, exp.Parameter, exp.With, exp.CTE, exp.Case, exp.If,
        exp.Coalesce, exp.Lower, exp.Upper, exp.Length, exp.Neg, exp.Tuple, exp.Add, exp.Sub,
        exp.Mul, exp.Abs, exp.Var,
    )
)  # fmt: skip
_MAY_FAIL = (exp.Add, exp.Sub, exp.Mul, exp.Abs)


def _is_sure(reading: Reading, census: Census) -> bool:
    root = census.statement
    if root.__class__ not in (exp.Select, *SETS) or not census.by_class.keys() <= _KNOWN:
        return False
    if "/*!" in reading.query or "/*+" in reading.query:
        return False  # comments that the database reads
    if any(node.args.get("on") is not None for node in census.all(exp.Distinct)):
        return False
    if any(_is_in_condition(node) for node in census.all(*_MAY_FAIL)):
        return False
    if not all(_is_sum_of_whole_numbers(node) for node in census.all(exp.Sum)):
        return False
    if not all(_gives_one_row_at_most(node) for node in census.all(exp.Subquery)):
        return False
    if _has_names_apart_by_case(root):
        return False
    if any(column.args.get("db") is not None for column in census.all(exp.Column)):
        return False  # here s.t.x is taken for t.x, and s may have a t besides another's
    if any(scope.has_doubled_names for scope in Scopes(census)):
        return False
    if any(node.args.get("recursive") for node in census.all(exp.With)):
        return False
    return all(_is_determined(select) for select in census.all(exp.Select))


def _has_names_apart_by_case(root: Any) -> bool:
    """Whether names such as a and "A" occur, which are two in PostgreSQL and one elsewhere."""
    spelled: dict[str, str] = {}
    return any(
        spelled.setdefault(identifier.name.lower(), name_key(identifier)) != name_key(identifier)
        for identifier in root.find_all(exp.Identifier)
    )


def _is_in_condition(node: Any) -> bool:
    while node is not None:
        if node.__class__ in (exp.Where, exp.Join, exp.Having):
            return True
        node = node.parent
    return False


def _is_sum_of_whole_numbers(node: Any) -> bool:
    """Whether a sum is the same in any order: fractions round differently."""
    inner = node.this
    if inner.__class__ is exp.Case:
        values = [branch.args.get("true") for branch in inner.args.get("ifs") or ()]
        values.append(inner.args.get("default"))
        return all(value is None or _is_whole(value) for value in values)
    return _is_whole(inner)


def _is_whole(node: Any) -> bool:
    return node.__class__ is exp.Literal and not node.is_string and node.this.isdigit()


def _gives_one_row_at_most(subquery: Any) -> bool:
    """Whether it is no scalar subquery, or one whose only row an aggregate makes."""
    parent = subquery.parent
    if parent.__class__ in (exp.From, exp.Join, exp.Exists, exp.CTE, *SETS):
        return True
    if parent.__class__ is exp.In and subquery.arg_key == "query":
        return True
    select = subquery.this
    if select.__class__ is not exp.Select or select.args.get("group"):
        return False
    return bool(select.expressions) and all(
        (item.this if item.__class__ is exp.Alias else item).__class__ in _AGGREGATES
        for item in select.expressions
    )


_AGGREGATES = (exp.Count, exp.Min, exp.Max, exp.Sum)


def _is_determined(select: Any) -> bool:
    """Whether beside aggregates there are only columns that are grouped by.

    SQLite, and MySQL if told to, take any row's value for the others.
    """
    group = select.args.get("group")
    if group is not None and any(
        group.args.get(name) for name in ("cube", "rollup", "grouping_sets", "totals", "all")
    ):
        return False
    parts = [*select.expressions]
    parts += [select.args[name] for name in ("having", "order") if select.args.get(name) is not None]
    if group is None and not any(_aggregates_of(part, select) for part in parts):
        return select.args.get("having") is None
    keys = list(group.expressions) if group is not None else []
    if any(key.__class__ is not exp.Column for key in keys):
        return False
    names = {(key.table.lower(), key.name.lower()) for key in keys}
    aliases = {item.alias.lower() for item in select.expressions if item.__class__ is exp.Alias}
    for part in parts:
        for column in part.find_all(exp.Column):
            if column.this.__class__ is exp.Star:
                return False
            if _innermost_select(column) is not select or _is_inside_aggregate(column, select):
                continue
            if (column.table.lower(), column.name.lower()) in names:
                continue
            if part is select.args.get("order") and not column.table and column.name.lower() in aliases:
                continue
            return False
        if part.__class__ is exp.Star:
            return False
        if any(subquery.find(exp.Column) for subquery in part.find_all(exp.Subquery, exp.Exists)):
            return False
    return True


def _aggregates_of(part: Any, select: Any) -> bool:
    return any(_innermost_select(found) is select for found in part.find_all(*_AGGREGATES))


def _innermost_select(node: Any) -> Any:
    while node is not None and node.__class__ is not exp.Select:
        node = node.parent
    return node


def _is_inside_aggregate(node: Any, select: Any) -> bool:
    while node is not select:
        if node.__class__ in _AGGREGATES:
            return True
        node = node.parent
    return False


# The rewrites. Each changes the tree in place and says whether it did.


def _outer_parentheses(node: Any) -> Any:
    while node.parent.__class__ is exp.Paren:
        node = node.parent
    return node


def _leave_out(side: Any) -> bool:
    """Take one side of an AND or OR out, so that the other stands in its place."""
    side = _outer_parentheses(side)
    connector = side.parent
    if connector.__class__ not in (exp.And, exp.Or):
        return False
    other = connector.args["expression"] if side.arg_key == "this" else connector.this
    connector.replace(other)
    return True


def _without_true(tree: Any) -> bool:
    done = False
    for node in list(tree.find_all(exp.EQ, exp.Boolean)):
        if not is_always_true(node) or not in_filter(node):
            continue
        node = _outer_parentheses(node)
        parent = node.parent
        if parent.__class__ is exp.And:
            done = _leave_out(node) or done
        elif parent.__class__ is exp.Where:
            parent.pop()
            done = True
    return done


def _without_repetition(tree: Any) -> bool:
    done = False
    for node in list(tree.find_all(exp.And, exp.Or)):
        if node.parent is None or _outer_parentheses(node).parent.__class__ is node.__class__:
            continue
        if not in_filter(node):
            continue
        for side in repeated_operands(node):
            done = _leave_out(side) or done
    return done


def _in_for_or(tree: Any) -> bool:
    done = False
    for node in list(tree.find_all(exp.Or)):
        if node.parent is None or _outer_parentheses(node).parent.__class__ is exp.Or or not in_filter(node):
            continue
        for column, sides in list(equalities_by_column(node)):
            if len(sides) < 2:
                continue
            values = [bare(side.args["expression"]).copy() for side in sides]
            for side in sides[1:]:
                _leave_out(side)
            sides[0].replace(exp.In(this=column.copy(), expressions=values))
            done = True
    return done


def _without_distinct(tree: Any) -> bool:
    done = False
    for select in tree.find_all(exp.Select):
        if why_distinct_is_redundant(select):
            select.set("distinct", None)
            done = True
    for call in tree.find_all(exp.Min, exp.Max):
        distinct = call.this
        if distinct.__class__ is exp.Distinct and len(distinct.expressions) == 1:
            call.set("this", distinct.expressions[0])
            done = True
    return done


def _without_order(tree: Any) -> bool:
    done = False
    for select in tree.find_all(exp.Select):
        if select.args.get("order") is not None and _is_existence_query(select) and not is_limited(select):
            select.set("order", None)
            done = True
    return done


def _is_existence_query(query: Any) -> bool:
    parent = query.parent
    if parent.__class__ is exp.Subquery and parent.parent.__class__ in (exp.In, exp.Exists):
        return parent.parent.__class__ is exp.Exists or parent.arg_key == "query"
    return parent.__class__ is exp.Exists or (parent.__class__ is exp.In and query.arg_key == "query")


def _exists_for_count(tree: Any) -> bool:
    done = False
    for comparison in list(tree.find_all(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)):
        found = count_as_existence(comparison)
        if found is None or not in_filter(comparison):
            continue
        wanted, select = found
        select = select.copy()
        select.set("expressions", [exp.Literal.number(1)])
        select.set("order", None)
        exists = exp.Exists(this=select)
        comparison.replace(exists if wanted else exp.Not(this=exists))
        done = True
    return done


def _where_for_having(tree: Any) -> bool:
    done = False
    for having in list(tree.find_all(exp.Having)):
        select = having.parent
        for condition in conditions_for_where(having):
            where = select.args.get("where")
            moved = condition.copy()
            if where is None:
                select.set("where", exp.Where(this=moved))
            else:
                before = where.this
                if before.__class__ is exp.Or:
                    before = exp.Paren(this=before.copy())
                where.set("this", exp.And(this=before, expression=moved))
            if not _leave_out(condition):
                select.set("having", None)
            done = True
    return done


def _union_all(tree: Any) -> bool:
    done = False
    for union in tree.find_all(exp.Union):
        if not union.args.get("distinct") or is_limited(union) or not _is_existence_query(union):
            continue
        union.set("distinct", False)
        done = True
    return done


def _inner_for_outer(tree: Any) -> bool:
    done = False
    for scope in Scopes(Census(tree)):
        if any((join.side or "").upper() in ("RIGHT", "FULL") for join in scope.joins):
            continue
        for join in scope.joins:
            if join.parent is scope.node and why_join_is_inner(join, scope) is not None:
                join.set("side", None)
                join.set("kind", None)
                done = True
    return done


def _without_join(tree: Any) -> bool:
    done = False
    for scope in Scopes(Census(tree)):
        while _leave_out_a_join(scope):
            done = True
    return done


def _leave_out_a_join(scope: Scope) -> bool:
    select = scope.node
    if select.__class__ is not exp.Select or select.args.get("distinct") is None:
        return False  # without DISTINCT the rows that it repeats are seen
    joins = select.args.get("joins") or []
    if any(j.args.get("using") or j.args.get("method") or j.side in ("RIGHT", "FULL") for j in joins):
        return False
    for join in joins:
        if is_join_unused(join, scope):
            select.set("joins", [kept for kept in joins if kept is not join])
            return True
    return False


# In this order: what one leaves, the next may find.
_CHANGES: dict[str, Callable[[Any], bool]] = {
    "Q032": _without_true,
    "Q031": _without_repetition,
    "Q037": _in_for_or,
    "Q017": _exists_for_count,
    "Q016": _where_for_having,
    "Q012": _without_distinct,
    "Q015": _union_all,
    "Q022": _without_order,
    "Q020": _inner_for_outer,
    "Q038": _without_join,
}
