"""What a planner's answer and recorded executions prove about a query (pure).

``estimated_improvement`` is one of two shares, whichever is larger, and never a guess:

* of the recorded time of a query's shape, the part spent on executions that repeated the same text and
  parameters within the cache's TTL while no table it reads was written: a cached result would have saved it;
* of the rows that the full scans of a plan examine, the part that a search on the suggested indexes would
  not. In PostgreSQL, the share of the plan's cost instead: by its planner with a hypothetical index (HypoPG),
  else by its cost model with its statistics (:mod:`.what_if`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bot.core.query_optimizer.models import Evidence, IndexSuggestion


@dataclass(frozen=True, slots=True)
class Access:
    """How a plan reads one table."""

    table: str
    full_scan: bool
    index: str = ""
    columns: frozenset[str] = frozenset()
    """Columns that the search compares, in lower case."""
    expected: float | None = None
    """Rows by the planner's estimate: those that remain after its conditions; in MySQL, those that are read
    for them.
    """
    one_row: bool = False
    """Whether a unique key leaves one row at most."""
    buffered: bool = False
    """Whether a full scan serves many rows of a join at once, from a buffer or an index made for it."""


@dataclass(frozen=True, slots=True)
class Plan:
    accesses: tuple[Access, ...]
    sorts: bool = False
    """Whether rows are sorted because no index gives their order."""
    cost: float | None = None
    """In the planner's unit; None if it gives none."""

    def scanned(self) -> list[str]:
        """Tables read in full, each once, in lower case."""
        return list(dict.fromkeys(access.table.lower() for access in self.accesses if access.full_scan))


@dataclass(frozen=True, slots=True)
class TableFigures:
    """What the database knows about a table, or what a sample shows."""

    rows: float
    at_least: bool = False
    """Whether the table may have more: the count stopped at the sample's size."""
    selected: Mapping[str, float] = field(default_factory=dict)
    """DDL of a suggestion -> share (0-1) of the rows that a search on it examines."""


def is_served(suggestion: IndexSuggestion, plan: Plan) -> bool:
    """Whether the plan searches the suggestion's table by all of its columns for searching.

    And, if some columns are for the order, whether it does not sort. False for a table that is not in the
    plan.
    """
    name = suggestion.table.rpartition(".")[2].lower()
    accesses = [access for access in plan.accesses if access.table.lower() == name]
    if not accesses or any(access.full_scan for access in accesses):
        return False
    if suggestion.sort_columns and plan.sorts:
        return False
    searched = {column.lower() for column in suggestion.columns if column not in suggestion.sort_columns}
    return all(access.one_row or (access.index and searched <= access.columns) for access in accesses)


def judge(
    plan: Plan,
    suggestions: Sequence[IndexSuggestion],
    figures: Mapping[str, TableFigures],
    *,
    known: frozenset[str] = frozenset(),
    stops_early: bool = False,
    top: int | None = None,
    cost_after: float | None = None,
    basis: str = "",
    instead: Sequence[IndexSuggestion] | None = None,
) -> Evidence:
    """What a plan proves of the suggestions.

    ``figures`` are of tables by their name in lower case; ``known`` is the DDL of suggestions that an
    existing index serves by its columns, or that are for a view; ``stops_early`` that a LIMIT may end the
    scans before they have read all; ``top`` how many rows the query wants of a table's order, where it wants
    nothing else; ``cost_after`` the cost with the suggested indexes, and ``basis`` how it is known;
    ``instead`` the indexes to suggest, if the planner's costs chose them.
    """
    served = known | {each.ddl for each in suggestions if is_served(each, plan)}
    open_ = {each.table.rpartition(".")[2].lower(): each for each in suggestions if each.ddl not in served}
    sentences = [_said(access, figures.get(access.table.lower())) for access in plan.accesses]
    if plan.sorts:
        sentences.append("EXPLAIN: rows are sorted, no index gives their order")
    if plan.cost is not None:
        sentences.append(f"EXPLAIN: cost {plan.cost:.1f}")
    examined = saved = 0.0
    buffered = {access.table.lower() for access in plan.accesses if access.buffered}
    if not stops_early:
        for table in plan.scanned():
            figure = figures.get(table)
            if figure is None:
                examined = 0.0
                break  # if one size is unknown, no share can be computed
            examined += figure.rows
            suggestion = open_.get(table)
            if suggestion is not None and top is not None and suggestion.sort_columns == suggestion.columns:
                share: float | None = top / figure.rows if figure.rows else None
            else:
                share = figure.selected.get(suggestion.ddl) if suggestion is not None else None
            if table in buffered:
                # Read once for many searches: how much those would examine together is unknown.
                continue
            if suggestion is not None and share is not None and share < 1:
                saved += figure.rows * (1 - share)
                sentences.append(
                    f"a search on {suggestion.table} ({', '.join(suggestion.columns)}) would examine about "
                    f"{max(1, round(figure.rows * share)):,} of {_rows_shown(figure)} rows"
                )
    improvement = 100 * saved / examined if examined else 0.0
    if cost_after is not None and plan.cost:
        improvement = 100 * max(0.0, 1 - cost_after / plan.cost)
        if improvement:
            sentences.append(f"EXPLAIN: cost {cost_after:.1f} with the suggested index ({basis})")
    if instead is not None and not instead and open_ and not served:
        sentences.append("EXPLAIN: the planner would not use the index, or gain nothing by it")
    return Evidence(
        round(improvement, 2),
        tuple(dict.fromkeys(sentences)),
        frozenset(served),
        None if instead is None else tuple(instead),
    )


def _rows_shown(figure: TableFigures) -> str:
    return f"{figure.rows:,.0f}{' or more' if figure.at_least else ''}"


def _said(access: Access, figure: TableFigures | None) -> str:
    expected = ""
    if access.expected is not None and (figure is None or round(figure.rows) != round(access.expected)):
        expected = f", {access.expected:,.0f} rows expected"
    if access.full_scan:
        of = "" if figure is None else f", {_rows_shown(figure)} rows"
        return f"EXPLAIN: full scan of {access.table}{of}{expected}"
    by = f" by {access.index}" if access.index else ""
    verb = "search" if access.columns else "scan"
    return f"EXPLAIN: {verb} of {access.table}{by}{expected}"
