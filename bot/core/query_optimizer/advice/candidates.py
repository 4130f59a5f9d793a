"""Indexes that may serve a query, for a planner's costs to choose from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlglot import exp

from bot.core.query_optimizer.advice.index_keys import suggestion_of
from bot.core.query_optimizer.advice.indexes import wanted_in
from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.wanted import Wanted, name_of
from bot.core.query_optimizer.models import IndexSuggestion
from bot.core.query_optimizer.sql.scopes import Source

MAX_CANDIDATES = 24
"""Of one query."""


class Candidate(NamedTuple):
    """An index that may serve a query, with what its search would use."""

    suggestion: IndexSuggestion
    scope: int
    """The number of the SELECT that it is for."""
    alias: str
    """The name of the table in the query, as PostgreSQL folds it."""
    conditions: tuple[Any, ...]
    """Trees of the conditions with constants that narrow the search."""
    searched: tuple[str, ...]
    """The columns of these conditions, in lower case."""
    joined: tuple[str, ...]
    """Its columns, in lower case, that are compared with another table's or an outer query's."""
    ordered: bool
    """Whether it gives the order that the query wants."""
    extreme: bool
    """Whether only the first or last row of this order is wanted."""
    side: int
    """Of the OR that it is for, from 1; 0 if it serves alone."""
    reads: frozenset[str] | None
    """The table's columns that the query reads, in lower case; None if it is not known."""


def candidates_of(facts: Facts) -> list[Candidate]:
    """For each table the indexes over parts of what the query asks of it."""
    found: dict[tuple[int, str, str, int], Candidate] = {}
    for number, scope in enumerate(facts.scopes):
        for source, wanted in wanted_in(scope, facts.dialect):
            reads = _columns_read(source, facts)
            for part in _parts(wanted):
                suggestion = suggestion_of(source, part, facts)
                if suggestion is None:
                    continue
                key = (number, source.alias, suggestion.ddl, wanted.by_or)
                if key not in found and len(found) < MAX_CANDIDATES:
                    found[key] = _candidate(suggestion, number, source, part, wanted, reads)
    return list(found.values())


def _parts(wanted: Wanted) -> Iterator[Wanted]:
    yield wanted
    if wanted.joined and (wanted.equal or wanted.ranged):
        yield wanted.only(joined=True, ordered=False)
        yield wanted.only(joined=False, ordered=False)
    if wanted.sorted:
        yield wanted.only(joined=False)
        yield wanted.only(joined=False, ordered=False)
    for column in wanted.ranged:
        yield wanted.only(joined=False, ranged=column, ordered=False)
        if wanted.joined:
            each = wanted.only(joined=False, ranged=column, ordered=False)
            each.equal = {**wanted.equal, **wanted.joined}
            yield each


def _candidate(
    suggestion: IndexSuggestion,
    number: int,
    source: Source,
    part: Wanted,
    wanted: Wanted,
    reads: frozenset[str] | None,
) -> Candidate:
    columns = [column.lower() for column in suggestion.columns]
    equal = len(suggestion.equality_columns)
    searched = columns[:equal]
    if columns[equal:] and columns[equal] in part.ranged:
        searched = columns[: equal + 1]
    order = [column for column in part.sorted if column not in columns[:equal]]
    # A search for several values gives the order of each, not of all.
    several = any(
        condition.__class__ is exp.In or condition.find(exp.Any) is not None
        for column, condition in part.conditions
        if column in columns[:equal]
    )
    constant = {column for column, _ in part.conditions}
    joined = tuple([column for column in columns[:equal] if column not in constant])
    of_others = any(column in wanted.joined for column in joined)
    return Candidate(
        suggestion,
        number,
        _alias(source, wanted.dialect),
        tuple([condition for column, condition in part.conditions if column in searched]),
        tuple(dict.fromkeys([column for column, _ in part.conditions if column in searched])),
        joined,
        bool(part.sorted) and not of_others and not several and columns[equal:] == order,
        part.extreme,
        wanted.by_or,
        reads,
    )


def _alias(source: Source, dialect: str) -> str:
    alias = source.node.args.get("alias")
    identifier = alias.this if alias is not None and alias.this is not None else source.node.this
    return name_of(identifier, dialect)


def _columns_read(source: Source, facts: Facts) -> frozenset[str] | None:
    found = set()
    for star in facts.census.all(exp.Star):
        if star.parent.__class__ is not exp.Count:
            return None
    for column in facts.census.all(exp.Column):
        scope = facts.scopes.around(column)
        of = None if scope is None else scope.source_of(column)
        if of is None:
            return None
        if of is source:
            found.add(column.name.lower())
    return frozenset(found)
