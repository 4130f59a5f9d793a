"""Whether a query may be rewritten at all: only if every part of it is understood."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.rules.nodes import asks_whether_any
from bot.core.query_optimizer.sql.analyzer import Reading
from bot.core.query_optimizer.sql.census import Census
from bot.core.query_optimizer.sql.column_types import exact_family, family_shown
from bot.core.query_optimizer.sql.schema import Schema
from bot.core.query_optimizer.sql.scopes import SETS, Scopes, select_in

_UNDERSTOOD = frozenset(
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


class ColumnTypes:
    """What is known of the types of a query's columns. A type is a family such as "text"; unknown is ""."""

    __slots__ = ("census", "dialect", "schema", "scopes")

    def __init__(
        self, census: Census, schema: Schema | None, dialect: str, scopes: Scopes | None = None
    ) -> None:
        self.census = census
        self.schema = schema
        self.dialect = dialect
        self.scopes = scopes or Scopes(census, schema)

    def family(self, column: Any) -> str:
        """The type of a column whose equal values are identical; "": another type, or unknown."""
        return exact_family(column, self.scopes.around(column), self.dialect)

    def shown(self, select: Any) -> list[str]:
        """The types of the columns of a SELECT's result; "" for one whose equal values may differ."""
        scope = self.scopes.by_node.get(id(select))
        return [family_shown(item, scope, self.dialect) for item in select.expressions]

    def compares_anything(self) -> bool:
        """Whether every type has an order, so that no DISTINCT or ORDER BY is refused for a type."""
        return self.dialect in ("mysql", "sqlite")


def may_be_rewritten(reading: Reading, census: Census, types: ColumnTypes) -> bool:
    """Whether all of the query is understood, so that the rewrites keep its result."""
    root = census.statement
    if root.__class__ not in (exp.Select, *SETS) or not census.by_class.keys() <= _UNDERSTOOD:
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
    if not _has_unambiguous_conditions(census, reading.dialect) or not _is_flat(census):
        return False
    if _has_names_that_differ_in_case(root, reading.dialect):
        return False
    if any(column.args.get("db") is not None for column in census.all(exp.Column)):
        return False  # the scopes take s.t.x for t.x, and two schemas may have a table t
    if any(scope.has_doubled_names for scope in types.scopes):
        return False
    if any(node.args.get("recursive") for node in census.all(exp.With)):
        return False
    return all(map(_is_determined, census.all(exp.Select))) and _shows_exact_values(census, types)


_PREDICATES = frozenset(
    (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.In, exp.Between, exp.Like, exp.ILike, exp.Is,
     exp.Exists)
)  # fmt: skip
_CONNECTORS = frozenset((exp.And, exp.Or, exp.Not))


def _has_unambiguous_conditions(census: Census, dialect: str) -> bool:
    """Whether every database reads the conditions in the same way.

    Databases group ``a = 1 IS NULL`` differently. A number as a condition, such as 0.5, may be true
    within an AND and false alone.
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
    """Whether each FROM is a plain list of joins, unlike ``a LEFT JOIN (b JOIN c ON ...) ON ...``."""
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


def _has_names_that_differ_in_case(root: Any, dialect: str) -> bool:
    """Whether names such as a and "A" occur: two names in PostgreSQL, one elsewhere.

    MySQL on Linux tells the tables a and A apart, quoted or not.
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


def _shows_exact_values(census: Census, types: ColumnTypes) -> bool:
    """Whether the result does not depend on which of several equal values a plan finds first."""
    if not all(_is_exact_call(call, types) for call in census.all(exp.Min, exp.Max)):
        return False
    for select in census.all(exp.Select):
        args = select.args
        if (
            args.get("distinct") is not None
            and not _only_existence_matters(select)
            and not all(types.shown(select))
        ):
            return False
        group = args.get("group")
        if (
            group is not None
            and (args.get("having") is not None or not _only_existence_matters(select))
            and not all(types.family(key) for key in group.expressions)
        ):
            return False
    for node in census.all(*SETS):
        if node.__class__ is exp.Union and (not node.args.get("distinct") or _only_existence_matters(node)):
            continue
        if not are_alike(parts_of(node), types):
            return False
    return True


def _is_exact_call(call: Any, types: ColumnTypes) -> bool:
    return bool(family_shown(call, types.scopes.around(call), types.dialect))


def _only_existence_matters(query: Any) -> bool:
    """Whether only one thing matters about a query: whether it has a row."""
    while query.parent.__class__ is exp.Union:
        query = query.parent
    return asks_whether_any(query)


def parts_of(node: Any) -> list[Any]:
    """The SELECTs of a set operation."""
    found, stack = [], [node]
    while stack:
        query = select_in(stack.pop())
        if query.__class__ in SETS:
            stack += (query.this, query.args["expression"])
        else:
            found.append(query)
    return found


def are_alike(parts: list[Any], types: ColumnTypes) -> bool:
    """Whether the SELECTs show columns of the same types, whose equal values are identical."""
    shown = [tuple(types.shown(part)) if part.__class__ is exp.Select else () for part in parts]
    return all(shown[0]) and bool(shown[0]) and len(set(shown)) == 1


def _is_in_condition(node: Any) -> bool:
    while node is not None:
        if node.__class__ in (exp.Where, exp.Join, exp.Having):
            return True
        node = node.parent
    return False


def _is_sum_of_whole_numbers(node: Any) -> bool:
    """Whether a sum is the same in any order: sums of fractions are not."""
    inner = node.this
    if inner.__class__ is exp.Case:
        values = [branch.args.get("true") for branch in inner.args.get("ifs") or ()]
        values.append(inner.args.get("default"))
        return all(value is None or _is_whole(value) for value in values)
    return _is_whole(inner)


def _is_whole(node: Any) -> bool:
    return node.__class__ is exp.Literal and not node.is_string and node.this.isdigit()


def _gives_one_row_at_most(subquery: Any) -> bool:
    """Whether it is not a scalar subquery, or an aggregate makes its only row."""
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
    """Whether beside aggregates there are only columns of GROUP BY.

    For other columns SQLite takes the value of any row, and so does MySQL in some modes.
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
            if innermost_select(column) is not select or _is_inside_aggregate(column, select):
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
    return any(innermost_select(found) is select for found in part.find_all(*_AGGREGATES))


def innermost_select(node: Any) -> Any:
    while node is not None and node.__class__ is not exp.Select:
        node = node.parent
    return node


def _is_inside_aggregate(node: Any, select: Any) -> bool:
    while node is not select:
        if node.__class__ in _AGGREGATES:
            return True
        node = node.parent
    return False
