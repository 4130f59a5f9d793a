"""Rows of a table that are read to learn what share of it a search would find, if no planner tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bot.core.query_optimizer.models import IndexSuggestion
from bot.core.query_optimizer.plans.evidence import Plan, TableFigures
from bot.core.query_optimizer.plans.prepare import Prepared, quoted_name

SAMPLED_ROWS = 10_000
"""Rows that are read at each end of a table, by its primary key."""
ALIKE = 0.05
"""How far the shares at the two ends may be apart, as parts of 1; else the share of the whole is unknown."""


class Sample(NamedTuple):
    """A statement whose row is (rows, rows of the most frequent key, rows that satisfy the conditions)."""

    table: str
    """In lower case."""
    suggestion: IndexSuggestion | None
    """None if no key is compared for equality."""
    sql: str
    knows_values: bool
    """Whether the conditions' values are known; else the most frequent key counts."""
    last: bool
    """Whether it reads the end of the table."""


def samples_for(prepared: Prepared, plan: Plan, dialect: str, ordered_by: Mapping[str, str]) -> list[Sample]:
    """One or two samples of each table that the plan reads in full. ``ordered_by``: for tables in lower case
    what they are read by from either end, as SQL; a table without it is sampled at its beginning only.
    """
    by_table = {each.table.rpartition(".")[2].lower(): each for each in prepared.suggestions}
    found: list[Sample] = []
    for table in plan.scanned():
        if table not in prepared.tables:
            continue
        suggestion = by_table.get(table)
        keys = suggestion.equality_columns if suggestion is not None else ()
        order = ordered_by.get(table, "")
        for last in (False, True) if order and keys else (False,):
            condition = prepared.constants.get(suggestion.ddl, "") if suggestion is not None else ""
            sql = _sample(prepared.tables[table], keys, condition, order, dialect, last=last)
            found.append(Sample(table, suggestion if keys else None, sql, bool(condition), last))
    return found


def _sample(table: str, keys: Sequence[str], condition: str, order: str, dialect: str, *, last: bool) -> str:
    listed = ", ".join(quoted_name(key, dialect) for key in keys)
    by = f" ORDER BY {order}{' DESC' if last else ''}" if order else ""
    rows = f"SELECT {listed or '1 AS one'} FROM {table}{by} LIMIT {SAMPLED_ROWS}"  # noqa: S608 - names
    most, matching = "0", "0"
    if keys:
        most = f"SELECT max(n) FROM (SELECT count(*) AS n FROM ({rows}) AS s GROUP BY {listed}) AS g"  # noqa: S608
    if condition:
        # Conditions of the query itself, read and written by a parser.
        matching = f"SELECT count(*) FROM ({rows}) AS m WHERE {condition}"  # noqa: S608
    return f"SELECT count(*), ({most}), ({matching}) FROM ({rows}) AS r"  # noqa: S608 - names


def figures_of(
    samples: Sequence[Sample],
    answers: Sequence[Sequence[Sequence[Any]]],
    sizes: Mapping[str, float],
) -> dict[str, TableFigures]:
    """What samples show. A share is known if they hold the whole table, or if both ends of it are alike."""
    rows_of: dict[str, int] = {}
    shares: dict[str, list[float]] = {}
    for sample, answer in zip(samples, answers, strict=True):
        rows, most, matching = (int(each or 0) for each in answer[0][:3])
        if not sample.last:
            rows_of[sample.table] = rows
        if rows and sample.suggestion is not None:
            counted = matching if sample.knows_values else most
            shares.setdefault(sample.table, []).append(counted / rows)
    found = {}
    for table, rows in rows_of.items():
        size = sizes.get(table)
        suggestion = next((each.suggestion for each in samples if each.table == table), None)
        known = shares.get(table, ())
        is_whole = rows < SAMPLED_ROWS
        alike = len(known) == 2 and max(known) - min(known) <= ALIKE
        selected = {}
        if suggestion is not None and known and (is_whole or alike):
            selected = {suggestion.ddl: sum(known) / len(known)}
        found[table] = TableFigures(
            max(rows, size or 0.0), at_least=size is None and rows >= SAMPLED_ROWS, selected=selected
        )
    return found
