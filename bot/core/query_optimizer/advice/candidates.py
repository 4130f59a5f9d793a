"""Indexes that may serve a query, for a planner's costs to choose from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlglot import exp

from bot.core.query_optimizer.advice.expression_keys import Demand
from bot.core.query_optimizer.advice.gin_candidates import GinSearch, gin_searches
from bot.core.query_optimizer.advice.index_keys import suggestion_of
from bot.core.query_optimizer.advice.indexes import wanted_in
from bot.core.query_optimizer.advice.partial import Predicate, predicates_in
from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.wanted import Wanted, name_of
from bot.core.query_optimizer.models import IndexSuggestion
from bot.core.query_optimizer.sql.scopes import Scope, Source

MAX_CANDIDATES = 60
"""Of one query."""
MAX_INCLUDED = 3
"""Columns that an index holds beside its keys."""


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
    behind: tuple[tuple[str, str], ...] = ()
    """Each of its expressions with a column of it."""
    demands: tuple[tuple[str, Demand], ...] = ()
    """Columns with what each must be."""
    predicate: Any = None
    """The tree of a partial index's condition."""
    entries: int = 0
    """Keys that a search of a GIN index looks up."""


def candidates_of(facts: Facts) -> list[Candidate]:
    """For each table the indexes over parts of what the query asks of it."""
    found: dict[tuple[int, str, str, int], Candidate] = {}
    for number, scope in enumerate(facts.scopes):
        for source, wanted in wanted_in(scope, facts.dialect, facts.reading.query):
            for candidate in _of_table(facts, number, scope, source, wanted):
                key = (number, source.alias, candidate.suggestion.ddl, wanted.by_or)
                if key not in found and len(found) < MAX_CANDIDATES:
                    found[key] = candidate
    return list(found.values())


def _of_table(facts: Facts, number: int, scope: Scope, source: Source, wanted: Wanted) -> Iterator[Candidate]:
    reads = _columns_read(source, facts)
    if scope.node.__class__ is not exp.Select and source is next(iter(scope.sources.values())):
        reads = None  # the rows themselves are changed
    plain = wanted.of_columns() if wanted.expressions else wanted
    kinds = [plain] if wanted is plain else [plain, wanted]
    for each in kinds:
        for part in _parts(each):
            suggestion = suggestion_of(source, part, facts)
            if suggestion is not None:
                yield _candidate(suggestion, number, source, part, wanted, reads)
    if wanted.by_or:
        return
    for predicate in predicates_in(scope, source):
        for each in kinds:
            yield from _partial(facts, number, source, each.without(predicate.condition), predicate)
    for search in gin_searches(scope, source):
        yield _by_gin(search, number, source)
    if reads is not None:
        for part in _parts(plain):
            suggestion = suggestion_of(source, part, facts)
            missing = (
                [] if suggestion is None else sorted(reads.difference(map(str.lower, suggestion.columns)))
            )
            if 1 <= len(missing) <= MAX_INCLUDED:
                held = tuple([_written(name, source, facts) for name in missing])
                covering = suggestion_of(source, part, facts, include=held)
                if covering is not None:
                    yield _candidate(covering, number, source, part, wanted, reads)


def _partial(
    facts: Facts, number: int, source: Source, rest: Wanted, predicate: Predicate
) -> Iterator[Candidate]:
    reads = _columns_read(source, facts, predicate.condition)
    if not (rest.equal or rest.joined or rest.ranged or rest.sorted):
        # The rows are all that matters: by a small key that the query reads, or by the column itself.
        rest = Wanted(rest.dialect)
        key = "id" if reads is not None and "id" in reads else predicate.column
        rest.ranged = {key: key if key == "id" else predicate.name}
    for part in _parts(rest):
        suggestion = suggestion_of(source, part, facts, predicate=predicate.sql)
        if suggestion is None:
            continue
        candidate = _candidate(suggestion, number, source, part, rest, reads)
        few: tuple[tuple[str, Demand], ...] = () if predicate.of_null else ((predicate.column, "few"),)
        yield candidate._replace(
            predicate=predicate.condition,
            demands=(*candidate.demands, *few),
            searched=tuple(dict.fromkeys((*candidate.searched, predicate.column))),
        )


def _by_gin(search: GinSearch, number: int, source: Source) -> Candidate:
    return Candidate(
        search.suggestion, number, _alias(source, "postgres"), (search.condition,), (search.column,),
        joined=(), ordered=False, extreme=False, side=0, reads=None,
        demands=((search.column, search.demand),), entries=search.entries,
    )  # fmt: skip


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
    expressions = [part.expressions[sql] for sql in suggestion.expressions]
    columns = [each if each in suggestion.expressions else each.lower() for each in suggestion.columns]
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
    behind = {key.sql: [name for name, _ in key.demands] for key in expressions}
    narrowing = [(column, condition) for column, condition in part.conditions if column in searched]
    return Candidate(
        suggestion,
        number,
        _alias(source, wanted.dialect),
        tuple([condition for _, condition in narrowing]),
        tuple(dict.fromkeys([name for column, _ in narrowing for name in behind.get(column, [column])])),
        joined,
        bool(part.sorted) and not of_others and not several and columns[equal:] == order,
        part.extreme,
        wanted.by_or,
        reads,
        behind=tuple([(sql, names[0]) for sql, names in behind.items()]),
        demands=tuple([demand for key in expressions for demand in key.demands if demand[1] != "any"]),
    )


def _alias(source: Source, dialect: str) -> str:
    alias = source.node.args.get("alias")
    identifier = alias.this if alias is not None and alias.this is not None else source.node.this
    return name_of(identifier, dialect)


def _written(name: str, source: Source, facts: Facts) -> str:
    """A column of the table as the query writes it; ``name`` is in lower case."""
    for column in facts.census.all(exp.Column):
        if column.name.lower() == name:
            scope = facts.scopes.around(column)
            if scope is not None and scope.source_of(column) is source:
                return name_of(column.this, facts.dialect)
    return name


def _columns_read(source: Source, facts: Facts, without: Any = None) -> frozenset[str] | None:
    """The table's columns that the query reads, but not those ``without`` (a part of it); None if unknown."""
    found = set()
    left_out = set() if without is None else set(map(id, without.find_all(exp.Column)))
    for star in facts.census.all(exp.Star):
        if star.parent.__class__ is not exp.Count:
            return None
    for column in facts.census.all(exp.Column):
        scope = facts.scopes.around(column)
        of = None if scope is None else scope.source_of(column)
        if of is None:
            return None
        if of is source and id(column) not in left_out:
            found.add(column.name.lower())
    return frozenset(found)
