"""Rules about conditions that repeat or contradict each other, and about lists of values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlglot import exp

from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.rules.nodes import (
    in_where_or_having,
    is_null,
)
from bot.core.query_optimizer.advice.rules.registry import Remark
from bot.core.query_optimizer.advice.rules.rule import rule
from bot.core.query_optimizer.sql.scopes import (
    COMPARISONS,
    ColumnKey,
    bare,
    in_filter,
    is_plain_constant,
    key_of,
    operands,
    written,
)

MAX_COMPARED = 20
"""Values in an IN up to which Q030 compares them with other conditions."""

LONG_LIST = 100
"""Values in an IN from which Q023 is reported."""


@rule("Q023", "long-in-list", "info", exp.In)
def _long_in_list(node: Any, facts: Facts) -> Remark | None:
    if len(node.expressions) < LONG_LIST:
        return None
    fix = {
        "postgres": "Pass one array: = ANY($1).",
        "sqlite": "Pass one JSON array: IN (SELECT value FROM json_each(?)).",
    }.get(facts.dialect, "Put the values into a temporary table and join it, or ask in parts.")
    column = node.this.find(exp.Column)
    name = written(column) if column is not None else "an expression"
    return f"{len(node.expressions)} values in the IN of {name}: parsed and planned anew each time.", fix


@rule("Q027", "compared-with-itself", "warning", *COMPARISONS, exp.NEQ)
def _compared_with_itself(node: Any, facts: Facts) -> Remark | None:
    one, other = bare(node.this), bare(node.args["expression"])
    if one.__class__ is not exp.Column or other.__class__ is not exp.Column or key_of(one) != key_of(other):
        return None
    if not in_filter(node):
        return None  # SET x = x has its uses
    if written(one) != written(other):
        return None  # T.a and t.a may be of two tables in MySQL
    instead = f", or {written(one)} IS NOT NULL" if node.__class__ in (exp.EQ, exp.GTE, exp.LTE) else ""
    return f"{written(one)} is compared with itself.", f"Say which two columns are meant{instead}."


_MOMENT_WORDS = ("time", "timestamp", "datetime", "created", "updated", "modified", "when")


@rule("Q028", "between-dates", "info", exp.Between)
def _between_dates(node: Any, facts: Facts) -> Remark | None:
    column, high = bare(node.this), node.args["high"]
    if column.__class__ is not exp.Column or high.__class__ is not exp.Literal or not high.is_string:
        return None
    name = column.name.lower()
    if not (name.endswith(("_at", "_ts", "_time")) or name in _MOMENT_WORDS):
        return None
    text = high.this
    if len(text) != 10 or text[4] != "-" or text[7] != "-":
        return None
    return (
        f"BETWEEN ends at midnight: what {written(column)} holds of the last day is left out.",
        f"Write {written(column)} >= start AND {written(column)} < the day after.",
    )


@rule("Q030", "never-true", "error", exp.And)
def _never_true(node: Any, facts: Facts) -> Remark | None:
    if node.parent.__class__ in (exp.And, exp.Paren) or not in_filter(node):
        return None  # the outermost AND covers all of them
    conditions = operands(node, exp.And)
    if not _may_share_a_column(conditions):
        return None
    tests: dict[ColumnKey, list[_Test]] = {}
    names: dict[ColumnKey, str] = {}
    for condition in conditions:
        for column, test in _tests_in(condition):
            key = key_of(column)
            if names.setdefault(key, written(column)) != written(column):
                continue  # T.a and t.a may be of two tables in MySQL
            for before in tests.get(key, ()):
                if _exclude(before, test, column, facts):
                    given = ", with the values given" if before.values and test.values else ""
                    return (
                        f"{names[key]} {before} and {names[key]} {test} exclude each other{given}: the "
                        "condition is never true.",
                        "Use OR, or leave one out.",
                    )
            tests.setdefault(key, []).append(test)
    return None


def _may_share_a_column(conditions: list[Any]) -> bool:
    """Whether two of them may be on one column, or one demands two things of it: a quick look, since in most
    statements each is on a column of its own.
    """
    names = set()
    for condition in conditions:
        column = condition.args.get("this")
        if column.__class__ is not exp.Column or condition.__class__ is exp.Between:
            return True
        names.add(written(column).lower())
    return len(names) < len(conditions)


class _Test(NamedTuple):
    """What one condition demands of a column."""

    kind: Any
    """EQ, GT, GTE, LT, LTE, In, or Null and Not for IS NULL and IS NOT NULL."""
    values: list[Any]
    """Literals."""

    def __str__(self) -> str:
        """Without the values, which may be about a person, and stand in a log."""
        return _SHOWN[self.kind]


_SHOWN = {
    exp.EQ: "= ?", exp.GT: "> ?", exp.GTE: ">= ?", exp.LT: "< ?", exp.LTE: "<= ?", exp.In: "IN (?, ...)",
    exp.Null: "IS NULL", exp.Not: "IS NOT NULL",
}  # fmt: skip
_MIRRORED = {exp.EQ: exp.EQ, exp.GT: exp.LT, exp.GTE: exp.LTE, exp.LT: exp.GT, exp.LTE: exp.GTE}


def _tests_in(condition: Any) -> Iterator[tuple[Any, _Test]]:
    """(column, test) for each column that a condition compares with literals."""
    kind = condition.__class__
    if kind in _MIRRORED:
        one, other = bare(condition.this), bare(condition.args["expression"])
        if one.__class__ is exp.Literal:
            one, other, kind = other, one, _MIRRORED[kind]
        if one.__class__ is exp.Column and other.__class__ is exp.Literal:
            yield one, _Test(kind, [other])
        return
    column = bare(condition.args.get("this") or condition)
    if kind is exp.Between and column.__class__ is exp.Column:
        for end, sign in (("low", exp.GTE), ("high", exp.LTE)):
            if bare(condition.args[end]).__class__ is exp.Literal:
                yield column, _Test(sign, [bare(condition.args[end])])
    elif kind is exp.In and column.__class__ is exp.Column and condition.expressions:
        values = condition.expressions
        if len(values) <= MAX_COMPARED and all(value.__class__ is exp.Literal for value in values):
            yield column, _Test(exp.In, values)
    elif is_null(condition) and column.__class__ is exp.Column:
        yield column, _Test(exp.Null, [])
    elif kind is exp.Not and is_null(column) and bare(column.this).__class__ is exp.Column:
        yield bare(column.this), _Test(exp.Not, [])


def _exclude(one: _Test, other: _Test, column: Any, facts: Facts) -> bool:
    """Whether no value of the column passes both tests."""
    if exp.Null in (one.kind, other.kind):
        # In MySQL, IS NULL is true of the date 0000-00-00, and of the last row inserted.
        return one.kind is not other.kind and facts.dialect in ("postgres", "sqlite")
    if exp.Not in (one.kind, other.kind):
        return False
    if one.kind in _POINTS and other.kind in _POINTS:
        return all(_are_never_equal(a, b, column, facts) for a in one.values for b in other.values)
    if other.kind in _POINTS:
        one, other = other, one
    if one.kind in _POINTS:
        return all(_is_outside(value, other, column, facts) for value in one.values)
    if one.kind in (exp.LT, exp.LTE):
        one, other = other, one
    if one.kind not in (exp.GT, exp.GTE) or other.kind not in (exp.LT, exp.LTE):
        return False
    low, high = one.values[0], other.values[0]
    if low == high:
        return exp.GT is one.kind or exp.LT is other.kind
    return _is_below(high, low, column, facts)


_POINTS = (exp.EQ, exp.In)


def _is_outside(value: Any, bound: _Test, column: Any, facts: Facts) -> bool:
    limit = bound.values[0]
    if value == limit:
        return bound.kind in (exp.GT, exp.LT)
    if bound.kind in (exp.GT, exp.GTE):
        return _is_below(value, limit, column, facts)
    return _is_below(limit, value, column, facts)


def _is_below(one: Any, other: Any, column: Any, facts: Facts) -> bool:
    """Whether a number is below another in whatever order the column has.

    A text column of SQLite sorts 10 before 9, and to MySQL's dates 70 is before 69. Of numbers with equally
    many digits, all agree, except where these may be a year or a date whose year has two.
    """
    first, second = str(one.this), str(other.this)
    if one.is_string or other.is_string or len(first) > 15 or len(second) > 15:
        return False
    if float(first) >= float(second):
        return False
    if facts.dialect == "postgres" or facts.family(column) == "whole":
        return True
    if not (first.isdigit() and second.isdigit() and len(first) == len(second)):
        return False
    return facts.dialect == "sqlite" or len(first) not in (2, 6, 12)


def _are_never_equal(one: Any, other: Any, column: Any, facts: Facts) -> bool:
    """Whether no value of the column equals both literals.

    Strings: where the column is known to tell any two apart. 'a' and 'A' may be one, as may '1' and '01',
    '2024-01-01' and '2024-01-01 00:00', and any two words for MySQL's numbers. Numbers: where no float
    comes between, and in MySQL where they cannot be a year or a date in two notations.
    """
    if one.is_string != other.is_string:
        return False
    first, second = str(one.this), str(other.this)
    if one.is_string:
        return first != second and facts.family(column) == "text"
    if len(first) > 15 or len(second) > 15 or float(first) == float(second):
        return False
    if facts.dialect in ("postgres", "sqlite") or facts.family(column) == "whole":
        return True
    if not (first.isdigit() and second.isdigit() and len(first) == len(second)):
        return False
    return len(first) == 1 or "0" not in (first[0], second[0])


@rule("Q031", "repeated-condition", "info", exp.And, exp.Or)
def _repeated_condition(node: Any, facts: Facts) -> Remark | None:
    if node.parent.__class__ is node.__class__:
        return None
    repeated = repeated_operands(node)
    if not repeated:
        return None
    column = repeated[0].find(exp.Column)
    on = f" on {written(column)}" if column is not None else ""
    return f"The same condition{on} stands there twice.", "Leave one out, or correct it."


def repeated_operands(connector: Any) -> list[Any]:
    """The operands of an AND or OR that equal an earlier one."""
    sides = operands(connector, connector.__class__)
    if len({side.__class__ for side in sides}) == len(sides):
        return []
    seen: dict[Any, list[Any]] = {}
    found = []
    for side in sides:
        this = side.args.get("this")
        key = (side.__class__, key_of(this) if this.__class__ is exp.Column else None)
        alike = seen.get(key)
        if alike is None:
            seen[key] = [side]
        elif any(side == other for other in alike) and not _has_positional_parameter(side):
            found.append(side)
        else:
            alike.append(side)
    return found


def _has_positional_parameter(node: Any) -> bool:
    """Two of them look the same but stand for different values."""
    return any(parameter.args.get("this") is None for parameter in node.find_all(exp.Placeholder))


@rule("Q032", "always-true", "info", exp.EQ, exp.Boolean)
def _always_true(node: Any, facts: Facts) -> Remark | None:
    if not is_always_true(node) or not in_filter(node) or not in_where_or_having(node):
        return None
    if node.parent.__class__ is exp.Where and node.parent.parent.__class__ in (exp.Update, exp.Delete):
        return None  # WHERE TRUE says that all rows are intended
    return "A condition that is always true.", "Leave it out."


def is_always_true(node: Any) -> bool:
    """``TRUE`` or ``1 = 1``."""
    if node.__class__ is exp.Boolean:
        return bool(node.this)
    if node.__class__ is not exp.EQ:
        return False
    one, other = bare(node.this), bare(node.args["expression"])
    if one.__class__ is not exp.Literal or other.__class__ is not exp.Literal:
        return False
    return bool(one.is_string == other.is_string and one.this == other.this)


@rule("Q034", "like-without-wildcard", "info", exp.Like)
def _like_without_wildcard(node: Any, facts: Facts) -> Remark | None:
    pattern = node.args["expression"]
    if pattern.__class__ is not exp.Literal or not pattern.is_string or not in_filter(node):
        return None
    if any(mark in pattern.this for mark in "%_\\") or bare(node.this).__class__ is not exp.Column:
        return None
    name = written(bare(node.this))
    hint = " (with COLLATE NOCASE if case must not matter)" if facts.dialect in ("", "sqlite") else ""
    return f"LIKE without a wildcard on {name}.", f"Compare with ={hint}."


@rule("Q037", "or-of-equalities", "info", exp.Or)
def _or_of_equalities(node: Any, facts: Facts) -> Remark | None:
    if node.parent.__class__ is exp.Or or not in_filter(node):
        return None
    for column, sides in equalities_by_column(node):
        if len(sides) > 1:
            return f"{len(sides)} equalities on {written(column)} joined by OR.", "Use IN."
    return None


def equalities_by_column(connector: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Columns, each with the ``column = constant`` of one kind that an OR has for it."""
    found: dict[Any, tuple[Any, list[Any]]] = {}
    for side in operands(connector, exp.Or):
        if side.__class__ is not exp.EQ:
            continue
        column, value = bare(side.this), bare(side.args["expression"])
        if column.__class__ is not exp.Column or not is_plain_constant(value):
            continue
        kind = (value.__class__, value.args.get("is_string"))
        if value.__class__ is exp.Literal and not value.is_string and not value.this.isdigit():
            continue  # 1 and 1.5 need not be of one type
        if value.__class__ not in (exp.Literal, exp.Placeholder, exp.Parameter):
            continue
        found.setdefault((key_of(column), kind), (column, []))[1].append(side)
    yield from found.values()


def _is_inside(connector: Any) -> bool:
    """Whether an AND or OR is an operand of another of its kind, which covers all operands."""
    parent = connector.parent
    while parent.__class__ is exp.Paren:
        parent = parent.parent
    return parent.__class__ is connector.__class__


@rule("Q039", "optional-filter", "info", exp.Or)
def _optional_filter(node: Any, facts: Facts) -> Remark | None:
    if _is_inside(node) or not in_filter(node):
        return None
    for side in operands(node, exp.Or):
        if side.__class__ is not exp.Is or side.args.get("negate"):
            continue
        tested = bare(side.this)
        while tested.__class__ in (exp.Cast, exp.TryCast):
            tested = bare(tested.this)  # $1::int: PostgreSQL asks for the type of a parameter
        if tested.__class__ in (exp.Placeholder, exp.Parameter):
            return (
                "A filter that a NULL parameter switches off: one plan has to serve both cases, so no index "
                "does.",
                "Leave the condition out of the text when there is nothing to filter by.",
            )
    return None
