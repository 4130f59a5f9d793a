"""Conditions that a partial index may be for: constants, which the query's text itself has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlglot import exp

from bot.core.query_optimizer.advice.wanted import name_of
from bot.core.query_optimizer.sql.scopes import Scope, Source, bare


class Predicate(NamedTuple):
    """A condition on one column of a table."""

    condition: Any
    """Its tree."""
    sql: str
    """In PostgreSQL's dialect, without the table's name."""
    column: str
    """In lower case."""
    name: str
    of_null: bool
    """Whether it only asks if there is a value."""


def predicates_in(scope: Scope, source: Source) -> Iterator[Predicate]:
    """The conditions on a table whose rows an index could be limited to. Not with a parameter: a prepared
    statement's plan must hold for every value, so it does not use the index.
    """
    for condition in scope.conditions():
        column = _column_of(condition)
        if column is None or scope.source_of(column) is not source:
            continue
        copy = condition.copy()
        for each in [*copy.find_all(exp.Column)]:
            each.set("table", None)
        yield Predicate(
            condition,
            copy.sql(dialect="postgres"),
            column.name.lower(),
            name_of(column.this, "postgres"),
            condition.__class__ is exp.Is and condition.args["expression"].__class__ is exp.Null,
        )


def _column_of(condition: Any) -> Any:
    """The column of a condition such as ``status = 'active'``, ``deleted``, ``NOT deleted``, ``a IS NULL``;
    None for other conditions.
    """
    kind = condition.__class__
    if kind is exp.Column:
        return condition
    if kind is exp.Not:
        inner = bare(condition.this)
        return inner if inner.__class__ is exp.Column else _column_of_is(inner)
    if kind is exp.Is:
        return _column_of_is(condition)
    if kind is not exp.EQ:
        return None
    one, other = bare(condition.this), bare(condition.args["expression"])
    if one.__class__ is not exp.Column:
        one, other = other, one
    is_plain = one.__class__ is exp.Column and other.__class__ in (exp.Literal, exp.Boolean)
    return one if is_plain else None


def _column_of_is(condition: Any) -> Any:
    if condition.__class__ is not exp.Is or condition.this.__class__ is not exp.Column:
        return None
    compared = condition.args["expression"].__class__
    return condition.this if compared in (exp.Null, exp.Boolean) else None
