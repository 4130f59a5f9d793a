"""Rewrites that keep the result, row for row; whatever is in doubt is left as it is.

What makes sure of that:

- Only a single SELECT is touched, and only one made of parts that are known (``_KNOWN``). Parts whose
  value depends on the plan are not among them: LIMIT, window functions, random(), columns beside an
  aggregate that are not grouped by, sums of what may be fractions, subqueries of which only some row is
  taken. Nor may a condition compute what may fail (a division, a cast), or a join stand within another.
- What compares values with each other (DISTINCT, GROUP BY, UNION, MIN) shows one of those that are equal.
  Where such a part occurs the schema must say that equal values are one value (see ``column_types``):
  without a schema, and for case-insensitive columns, floats and decimals, nothing is rewritten.
- A rewrite that takes away what may be refused (a table that is missing, an ORDER BY of a type without
  an order) is not done where it may be: a query that fails goes on to fail.
- sqlglot's rendering of the query must have the query's own tokens, layout and noise words aside, with
  names and strings as they are quoted; else the text would change in ways that no rewrite asked for.
  Comments before and after the query stay; one within it, or one for the database, forbids a rewrite.
- Positional parameters keep their number and order, and the result's columns their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.rules.conditions import (
    equalities_by_column,
    is_always_true,
    repeated_operands,
)
from bot.core.query_optimizer.advice.rules.filters import conditions_for_where, count_as_existence
from bot.core.query_optimizer.advice.rules.joins import is_join_unused, why_join_is_inner
from bot.core.query_optimizer.advice.rules.nodes import asks_existence_only, asks_whether_any
from bot.core.query_optimizer.advice.rules.selection import why_distinct_is_redundant
from bot.core.query_optimizer.sql.analyzer import Reading
from bot.core.query_optimizer.sql.census import Census
from bot.core.query_optimizer.sql.column_types import exact_family, family_shown
from bot.core.query_optimizer.sql.dialects import statements_of, tokens_in
from bot.core.query_optimizer.sql.parameters import Parameters
from bot.core.query_optimizer.sql.schema import Schema
from bot.core.query_optimizer.sql.scopes import (
    SETS,
    Scope,
    Scopes,
    bare,
    in_filter,
    is_limited,
    operands,
    select_in,
)
from bot.core.query_optimizer.sql.spelling import printed, spelling

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


def rewrite(reading: Reading, codes: set[str], schema: Schema | None = None) -> tuple[str, list[str]]:
    """(the query, rewritten where one of the rules ``codes`` found something, codes of what was done).

    ``schema`` is what is known of the tables; the fewer types it has, the fewer rewrites there are.
    """
    wanted = codes & REWRITES.keys()
    if not wanted or len(reading.censuses) != 1:
        return reading.query, []
    census = reading.censuses[0]
    if not _is_sure(reading, census, _Known(census, schema, reading.dialect)):
        return reading.query, []
    try:
        return _rewrite(reading, wanted, schema)
    except MemoryError:
        raise
    except Exception:  # whatever the parser or the printer makes of it: the query stays as it is
        return reading.query, []


def _rewrite(reading: Reading, wanted: set[str], schema: Schema | None) -> tuple[str, list[str]]:
    parameters = Parameters()
    dialect, query = reading.dialect, reading.query
    # All positional parameters get numbers, so that one that moved is noticed.
    named = parameters.name_all(query, reading.tokens, every=True)
    tokens = reading.tokens if named == query else tokens_in(named, dialect)
    before, tokens, after = _around(named, tokens)
    if _has_comment_or_joined_words(named, tokens):
        return query, []
    body = named[len(before) : len(named) - len(after)]
    if before:
        tokens = tokens_in(body, dialect)
    tree = statements_of(tokens, body, dialect)[0]
    plain = printed(tree, dialect)
    if spelling(body, tokens, dialect) != spelling(plain, tokens_in(plain, dialect), dialect):
        return query, []
    items = _named_by_their_text(tree, dialect)
    if any(body.count(item) != plain.count(item) for item in items):
        return query, []
    done: list[str] = []
    known = None
    for code, change in _CHANGES.items():
        if code in wanted:
            known = known or _Known(Census(tree), schema, dialect)
            if change(tree, known):
                done.append(code)
                known = None  # what this one left is looked at anew
    if not done:
        return query, []
    text = printed(tree, dialect)
    if items and _named_by_their_text(tree, dialect) != items:
        return query, []
    after_tokens = tokens_in(text, dialect)
    if _written_parameters(body, tokens) != _written_parameters(text, after_tokens):
        return query, []
    if statements_of(after_tokens, text, dialect) != [tree]:
        return query, []
    return parameters.restore(f"{before}{text}{after}"), done


def _around(text: str, tokens: list[Any]) -> tuple[str, list[Any], str]:
    """(what stands before the query, its tokens, what stands after it: comments, spaces, a semicolon)"""
    end = len(tokens)
    while end and tokens[end - 1].text == ";":
        end -= 1
    if not end:
        raise ValueError("no query")
    return text[: tokens[0].start], tokens[:end], text[tokens[end - 1].end + 1 :]


def _has_comment_or_joined_words(text: str, tokens: list[Any]) -> bool:
    """Whether a comment stands between two tokens; or nothing, between what are two words to sqlglot alone.

    Such as 1_000, which it takes for ``1 AS _000``; and strings that follow each other are one.
    """
    for one, other in pairwise(tokens):
        between = text[one.end + 1 : other.start]
        if between.strip():
            return True
        first, second = text[one.end : one.end + 1], text[other.start : other.start + 1]
        if not between and (first.isalnum() or first in "_$") and (second.isalnum() or second in "_$"):
            return True
        if first == "'" and second == "'":
            return True
    return False


def _named_by_their_text(tree: Any, dialect: str) -> list[str]:
    """What a SELECT lists without an alias, beside columns: SQLite and MySQL name it by its very text.

    PostgreSQL names it by the function, whatever its spelling.
    """
    if dialect == "postgres":
        return []
    return [
        printed(item, dialect)
        for select in tree.find_all(exp.Select)
        if select.parent is None or not _is_within_expression(select)
        for item in select.expressions
        if item.__class__ not in (exp.Alias, exp.Column, exp.Star)
    ]


def _is_within_expression(select: Any) -> bool:
    """Whether nobody sees the names of a SELECT's columns."""
    node = select.parent
    while node.__class__ in (exp.Subquery, *SETS) and node.parent is not None:
        node = node.parent
    return node.__class__ not in (exp.From, exp.Join, exp.CTE, exp.Subquery, *SETS)


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


class _Known:
    """What is known of a query's columns."""

    __slots__ = ("census", "dialect", "schema", "scopes")

    def __init__(self, census: Census, schema: Schema | None, dialect: str) -> None:
        self.census = census
        self.schema = schema
        self.dialect = dialect
        self.scopes = Scopes(census, schema)

    def family(self, column: Any) -> str:
        return exact_family(column, self.scopes.around(column), self.dialect)

    def shown(self, select: Any) -> list[str]:
        """What the columns of a SELECT's result are: "" for one whose equal values may be several."""
        scope = self.scopes.by_node.get(id(select))
        return [family_shown(item, scope, self.dialect) for item in select.expressions]

    def compares_anything(self) -> bool:
        """Whether each type has an order, so that no DISTINCT and no ORDER BY is refused for a type."""
        return self.dialect in ("mysql", "sqlite")


def _is_sure(reading: Reading, census: Census, known: _Known) -> bool:
    root = census.statement
    if root.__class__ not in (exp.Select, *SETS) or not census.by_class.keys() <= _KNOWN:
        return False
    if "/*!" in reading.query or "/*+" in reading.query or "/*M!" in reading.query:
        return False  # comments that the database reads
    if any(node.args.get("on") is not None for node in census.all(exp.Distinct)):
        return False
    if any(_is_in_condition(node) for node in census.all(*_MAY_FAIL)):
        return False
    if not all(_is_sum_of_whole_numbers(node) for node in census.all(exp.Sum)):
        return False
    if not all(_gives_one_row_at_most(node) for node in census.all(exp.Subquery)):
        return False
    if not _is_read_alike(census, reading.dialect) or not _is_flat(census):
        return False
    if _has_names_apart_by_case(root, reading.dialect):
        return False
    if any(column.args.get("db") is not None for column in census.all(exp.Column)):
        return False  # here s.t.x is taken for t.x, and s may have a t besides another's
    if any(scope.has_doubled_names for scope in known.scopes):
        return False
    if any(node.args.get("recursive") for node in census.all(exp.With)):
        return False
    return all(map(_is_determined, census.all(exp.Select))) and _shows_exact_values(census, known)


_PREDICATES = frozenset(
    (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.In, exp.Between, exp.Like, exp.ILike, exp.Is,
     exp.Exists)
)  # fmt: skip
_CONNECTORS = frozenset((exp.And, exp.Or, exp.Not))


def _is_read_alike(census: Census, dialect: str) -> bool:
    """Whether the conditions mean the same to every reader.

    ``a = 1 IS NULL`` is grouped in one way here and in another there; and a number as a condition,
    0.5 say, may be true within an AND and false alone.
    """
    for node in census.all(*_PREDICATES):
        for part in (node.this, node.args.get("expression"), node.args.get("low"), node.args.get("high")):
            if part.__class__ in _PREDICATES and part.__class__ is not exp.Exists:
                return False
            if part.__class__ in _CONNECTORS:
                return False
    conditions = [node.this for node in census.all(exp.Where, exp.Having)]
    conditions += [on for join in census.all(exp.Join) if (on := join.args.get("on")) is not None]
    stack = list(conditions)
    while stack:
        node = stack.pop()
        kind = node.__class__
        if kind in (exp.And, exp.Or):
            stack += (node.this, node.args["expression"])
        elif kind in (exp.Not, exp.Paren):
            stack.append(node.this)
        elif kind is exp.Column:
            if dialect not in ("postgres", "sqlite"):
                return False
        elif kind not in _PREDICATES and kind is not exp.Boolean:
            return False
    return True


def _is_flat(census: Census) -> bool:
    """Whether each FROM is a plain list of joins: ``a LEFT JOIN (b JOIN c ON ...) ON ...`` is none."""
    for join in census.all(exp.Join):
        if join.parent.__class__ is not exp.Select or not _is_source(join.this):
            return False
        if (join.args.get("kind") or "").upper() not in ("", "INNER", "OUTER", "CROSS"):
            return False
    return all(_is_source(clause.this) for clause in census.all(exp.From))


def _is_source(node: Any) -> bool:
    if node.args.get("joins"):
        return False
    if node.__class__ is exp.Table:
        return node.this.__class__ is exp.Identifier
    return node.__class__ is exp.Subquery and node.this.__class__ in (exp.Select, *SETS)


def _has_names_apart_by_case(root: Any, dialect: str) -> bool:
    """Whether names such as a and "A" occur, which are two in PostgreSQL and one elsewhere.

    MySQL, on Linux, tells the tables a and A apart however they are written.
    """
    spelled: dict[str, str] = {}
    for identifier in root.find_all(exp.Identifier):
        name = identifier.name
        exact = name
        if dialect in ("postgres", "sqlite") and not identifier.args.get("quoted") and name.isascii():
            exact = name.lower()
        if spelled.setdefault(name.casefold(), exact) != exact:
            return True
    return False


def _shows_exact_values(census: Census, known: _Known) -> bool:
    """Whether nothing that is seen depends on which of several equal values a plan comes upon."""
    if not all(_is_exact_call(call, known) for call in census.all(exp.Min, exp.Max)):
        return False
    for select in census.all(exp.Select):
        args = select.args
        if args.get("distinct") is not None and not _is_unseen(select) and not all(known.shown(select)):
            return False
        group = args.get("group")
        if (
            group is not None
            and (args.get("having") is not None or not _is_unseen(select))
            and not all(known.family(key) for key in group.expressions)
        ):
            return False
    for node in census.all(*SETS):
        if node.__class__ is exp.Union and (not node.args.get("distinct") or _is_unseen(node)):
            continue
        if not _are_alike(_parts(node), known):
            return False
    return True


def _is_exact_call(call: Any, known: _Known) -> bool:
    return bool(family_shown(call, known.scopes.around(call), known.dialect))


def _is_unseen(query: Any) -> bool:
    """Whether all that is seen of a query is whether it has a row."""
    while query.parent.__class__ is exp.Union:
        query = query.parent
    return asks_whether_any(query)


def _parts(node: Any) -> list[Any]:
    """The SELECTs of a set operation."""
    found, stack = [], [node]
    while stack:
        query = select_in(stack.pop())
        if query.__class__ in SETS:
            stack += (query.this, query.args["expression"])
        else:
            found.append(query)
    return found


def _are_alike(parts: list[Any], known: _Known) -> bool:
    """Whether the SELECTs show columns of the same types, whose equal values are one."""
    shown = [tuple(known.shown(part)) if part.__class__ is exp.Select else () for part in parts]
    return all(shown[0]) and bool(shown[0]) and len(set(shown)) == 1


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


def _without_true(tree: Any, known: _Known) -> bool:
    done = False
    for node in list(tree.find_all(exp.EQ, exp.Boolean)):
        if not is_always_true(node) or not in_filter(node):
            continue
        if node.__class__ is exp.Boolean and known.dialect in ("", "sqlite"):
            continue  # which a column of SQLite may be called
        node = _outer_parentheses(node)
        parent = node.parent
        if parent.__class__ is exp.And:
            done = _leave_out(node) or done
        elif parent.__class__ is exp.Where:
            parent.pop()
            done = True
    return done


def _without_repetition(tree: Any, known: _Known) -> bool:
    done = False
    for node in list(tree.find_all(exp.And, exp.Or)):
        if node.parent is None or _outer_parentheses(node).parent.__class__ is node.__class__:
            continue
        if not in_filter(node):
            continue
        for side in repeated_operands(node):
            done = _leave_out(side) or done
    return done


def _in_for_or(tree: Any, known: _Known) -> bool:
    done = False
    for node in list(tree.find_all(exp.Or)):
        if node.parent is None or _outer_parentheses(node).parent.__class__ is exp.Or or not in_filter(node):
            continue
        for column, sides in list(equalities_by_column(node)):
            if len(sides) < 2 or not _is_in_the_same(column, sides, known):
                continue
            values = [bare(side.args["expression"]).copy() for side in sides]
            for side in sides[1:]:
                _leave_out(side)
            sides[0].replace(exp.In(this=column.copy(), expressions=values))
            done = True
    return done


def _is_in_the_same(column: Any, sides: list[Any], known: _Known) -> bool:
    """Whether a list of values is compared as each alone is.

    SQLite defines IN so. Others bring the list and the column to one type first: then a float4 in
    PostgreSQL equals what it does not alone, a cidr refuses what it takes alone, and in MySQL a YEAR
    does not know 99 for 1999.
    """
    if known.dialect == "sqlite":
        scope = known.scopes.around(column)
        source = scope.source_of(column) if scope is not None else None
        return source is not None and source.is_base
    values = [bare(side.args["expression"]) for side in sides]
    if any(value.__class__ is not exp.Literal for value in values):
        return False
    family = known.family(column)
    if values[0].is_string:
        return family == "text"
    return family == "whole" and all(value.this.isdigit() and len(value.this) < 10 for value in values)


def _without_distinct(tree: Any, known: _Known) -> bool:
    done = False
    for select in tree.find_all(exp.Select):
        if select.args.get("distinct") is None or not _orders_by_what_it_shows(select):
            continue
        if not known.compares_anything() and not all(known.shown(select)):
            continue
        # What is seen of it is exact, see _shows_exact_values.
        if why_distinct_is_redundant(select):
            select.set("distinct", None)
            done = True
    for call in tree.find_all(exp.Min, exp.Max):
        distinct = call.this
        select = _innermost_select(call)
        if select.args.get("order") is not None and select.args.get("distinct") is not None:
            continue  # it may become what the order asks for, and with that a query that is not refused
        if distinct.__class__ is exp.Distinct and len(distinct.expressions) == 1:
            call.set("this", distinct.expressions[0])
            done = True
    return done


def _orders_by_what_it_shows(select: Any) -> bool:
    """Beside DISTINCT an ORDER BY of anything else is refused by most databases."""
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


def _without_order(tree: Any, known: _Known) -> bool:
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
        if known.compares_anything() or all(map(known.family, columns)):
            select.set("order", None)
            done = True
    return done


def _exists_for_count(tree: Any, known: _Known) -> bool:
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


def _where_for_having(tree: Any, known: _Known) -> bool:
    done = False
    for having in list(tree.find_all(exp.Having)):
        select = having.parent
        for condition in conditions_for_where(having):
            if known.dialect not in ("postgres", "sqlite") and bare(condition.this) not in select.expressions:
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
            if not _leave_out(condition):
                select.set("having", None)
            done = True
    return done


def _union_all(tree: Any, known: _Known) -> bool:
    done = False
    for union in tree.find_all(exp.Union):
        if not union.args.get("distinct") or is_limited(union) or not asks_existence_only(union):
            continue
        # Within IN its columns are exact, see _shows_exact_values; within EXISTS they need a comparison.
        if known.compares_anything() or _are_alike(_parts(union), known):
            union.set("distinct", False)
            done = True
    return done


def _inner_for_outer(tree: Any, known: _Known) -> bool:
    done = False
    for scope in known.scopes:
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


def _without_join(tree: Any, known: _Known) -> bool:
    done = False
    for scope in known.scopes:
        while _leave_out_a_join(scope, known):
            done = True
    return done


def _leave_out_a_join(scope: Scope, known: _Known) -> bool:
    select = scope.node
    if select.__class__ is not exp.Select or select.args.get("distinct") is None:
        return False  # without DISTINCT the rows that it repeats are seen
    joins = select.args.get("joins") or []
    for join in joins:
        side = (join.side or "").upper()
        if join.args.get("using") or join.args.get("method") or side in ("RIGHT", "FULL"):
            return False
        if join.args.get("on") is None and (join.args.get("kind") or "").upper() != "CROSS":
            return False  # a comma, before which its ON may not look
    for join in joins:
        if is_join_unused(join, scope) and all(
            _cannot_fail(condition, known) for condition in operands(join.args["on"], exp.And)
        ):
            select.set("joins", [kept for kept in joins if kept is not join])
            return True
    return False


def _cannot_fail(condition: Any, known: _Known) -> bool:
    """Whether it compares what is there with what it can be compared with."""
    if condition.__class__ is not exp.EQ:
        return False
    families = []
    for side in (bare(condition.this), bare(condition.args["expression"])):
        if side.__class__ is exp.Literal:
            is_small = side.is_string or len(side.this) < 10
            families.append(family_shown(side, None, known.dialect) if is_small else "")
        else:
            families.append(known.family(side))
    return bool(families[0]) and families[0] == families[1]


# In this order: what one leaves, the next may find.
_CHANGES: dict[str, Callable[[Any, _Known], bool]] = {
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
