"""What a planner's answer and recorded executions prove about a query (pure).

``estimated_improvement`` is one of two shares, whichever is larger, and never a guess:

* of the recorded time of a query's shape, the part spent on executions that repeated the same text and
  parameters within the cache's TTL while no table it reads was written: a cached result would have saved it;
* of the rows that the full scans of a plan examine, the part that a search on the suggested indexes would
  not. Where the planner can be asked what an index would change (HypoPG), the share of the plan's cost
  instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bot.core.query_optimizer.models import Evidence, IndexSuggestion

SAMPLED_ROWS = 10_000
"""Rows of a table that are read to tell how many values its columns have, where the planner does not say."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a plan reads one table."""

    table: str
    full_scan: bool
    index: str = ""
    columns: frozenset[str] = frozenset()
    """Columns that the search compares, in lower case."""
    expected: float | None = None
    """Rows by the planner's estimate: what remains after its conditions; in MySQL, what is read for them."""
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
    """In the planner's unit; None where it tells none."""

    def scanned(self) -> list[str]:
        """Tables read in full, each once, in lower case."""
        return list(dict.fromkeys(access.table.lower() for access in self.accesses if access.full_scan))


@dataclass(frozen=True, slots=True)
class TableFigures:
    """What the database knows of a table, or a sample of it shows."""

    rows: float
    at_least: bool = False
    """Whether the table may have more: the count stopped at the sample's size."""
    selected: Mapping[str, float] = field(default_factory=dict)
    """DDL of a suggestion -> share (0-1) of the rows that a search on it examines."""


# Plans.

_SQLITE_HOW = (
    r"(?: USING ((?:AUTOMATIC )?(?:PARTIAL )?(?:COVERING )?INDEX|INTEGER PRIMARY KEY|PRIMARY KEY)"
    r"(?: (?!\()(.+?))?(?: \((.*)\))?)?(?: LEFT-JOIN)?\Z"
)
_SQLITE_TERM = re.compile(r"(\w+)[=<>]")


def plan_of_sqlite(rows: Sequence[Sequence[Any]], tables: Mapping[str, str]) -> Plan:
    """From the rows of EXPLAIN QUERY PLAN; ``tables`` names the table behind each alias, in lower case."""
    accesses = []
    sorts = False
    # Names may hold anything, so those that are known are looked for, the longest first.
    names = "|".join(re.escape(name) for name in sorted(tables, key=len, reverse=True))
    form = re.compile(
        rf"(SCAN|SEARCH) (?:TABLE )?(?:\w+\.)?({names})(?: AS ({names}))?{_SQLITE_HOW}", re.IGNORECASE
    )
    for row in rows:
        detail = str(row[3])
        if detail.startswith("USE TEMP B-TREE FOR") and detail.endswith("ORDER BY"):
            sorts = True
        match = form.match(detail) if tables else None
        if match is None:
            continue  # a subquery, a constant row, a view's table
        verb, name, alias, how, index, terms = match.groups()
        table = tables[(alias or name).lower()]
        # An automatic index is built for each execution, from the whole table.
        automatic = (how or "").startswith("AUTOMATIC")
        columns = frozenset(found.lower() for found in _SQLITE_TERM.findall(terms or ""))
        accesses.append(
            Access(
                table,
                full_scan=automatic or (verb == "SCAN" and not index),
                index="" if automatic else (index or how or "").removeprefix("COVERING "),
                columns=frozenset() if automatic else columns,
                one_row="PRIMARY KEY" in (how or "") and terms == "rowid=?",
                buffered=automatic,
            )
        )
    return Plan(tuple(accesses), sorts)


_POSTGRES_SCANS = ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Sample Scan", "Tid Scan")


def plan_of_postgres(document: Any) -> Plan:
    """From what EXPLAIN (FORMAT JSON) answers, as text or decoded."""
    found = json.loads(document) if isinstance(document, str | bytes) else document
    top = found[0]["Plan"]
    accesses: list[Access] = []
    sorts = False
    for node, workers in _postgres_nodes(top, 0):
        kind = node["Node Type"]
        sorts = sorts or kind in ("Sort", "Incremental Sort")
        if kind not in _POSTGRES_SCANS or "Relation Name" not in node:
            continue
        conditions, indexes = [str(node.get("Index Cond", ""))], [str(node.get("Index Name", ""))]
        if kind == "Bitmap Heap Scan":
            inner = [part for part, _ in _postgres_nodes(node, 0) if part["Node Type"] == "Bitmap Index Scan"]
            conditions = [str(part.get("Index Cond", "")) for part in inner]
            indexes = [str(part.get("Index Name", "")) for part in inner]
        expected = float(node["Plan Rows"])
        if node.get("Parallel Aware") and workers:
            # The estimate is for each process, of which the leader counts less the more workers it serves.
            expected *= workers + max(0.0, 1 - 0.3 * workers)
        accesses.append(
            Access(
                str(node["Relation Name"]),
                full_scan=kind == "Seq Scan",
                index=", ".join(filter(None, indexes)),
                columns=frozenset(re.findall(r"\w+", re.sub(r"'[^']*'", "", " ".join(conditions)).lower())),
                expected=expected,
                one_row=kind != "Seq Scan" and any(conditions) and expected <= 1,
            )
        )
    return Plan(tuple(accesses), sorts, float(top["Total Cost"]))


def _postgres_nodes(node: Mapping[str, Any], workers: int) -> Iterator[tuple[Mapping[str, Any], int]]:
    queue = [(node, workers)]
    for each, inherited in queue:  # grows while it is read
        yield each, inherited
        below = int(each.get("Workers Planned", inherited))
        queue += [(part, below) for part in each.get("Plans", ())]


def plan_of_mysql(document: Any, tables: Mapping[str, str]) -> Plan:
    """From what EXPLAIN FORMAT=JSON of MySQL or MariaDB answers; ``tables`` as for SQLite."""
    top = json.loads(document) if isinstance(document, str | bytes) else document
    accesses: list[Access] = []
    sorts = False
    cost = top.get("query_block", {}).get("cost_info", {}).get("query_cost")
    queue: list[Any] = [top]
    for node in queue:  # grows while it is read
        if isinstance(node, list):
            queue += node
            continue
        if not isinstance(node, dict):
            continue
        # MariaDB has "filesort" only where it sorts; MySQL says so in using_filesort, and may not.
        sorts = sorts or "filesort" in node or node.get("using_filesort") is True
        table = node.get("table")
        if isinstance(table, dict) and "access_type" in table:
            name = tables.get(str(table.get("table_name")).lower())
            if name is not None:
                # MySQL's rows_examined_per_scan and MariaDB's rows: read by this access, before conditions.
                rows = table.get("rows_examined_per_scan", table.get("rows"))
                accesses.append(
                    Access(
                        name,
                        full_scan=table["access_type"] == "ALL",
                        index=str(table.get("key", "")),
                        columns=frozenset(str(part).lower() for part in table.get("used_key_parts", ()))
                        if table["access_type"] != "index"
                        else frozenset(),
                        expected=None if rows is None else float(rows),
                        one_row=table["access_type"] in ("const", "eq_ref", "system"),
                        buffered="using_join_buffer" in table or "buffer_type" in node,
                    )
                )
        queue += node.values()
    return Plan(tuple(accesses), sorts, None if cost is None else float(cost))


# What they prove.


def is_served(suggestion: IndexSuggestion, plan: Plan) -> bool:
    """Whether the plan searches the suggestion's table by all the columns that it has for searching.

    And, where some are for the order, sorts nothing. False for a table that the plan does not show.
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
) -> Evidence:
    """What a plan proves of the suggestions.

    ``figures`` are of tables by their name in lower case; ``known`` is the DDL of suggestions that an
    existing index serves by its columns, or that are for a view; ``stops_early`` that a LIMIT may end the
    scans before they have read all; ``top`` how many rows the query wants of a table's order, where it wants
    nothing else; ``cost_after`` the cost with the suggested indexes.
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
                break  # without the size of one, shares of all cannot be told
            examined += figure.rows
            suggestion = open_.get(table)
            if suggestion is not None and top is not None and suggestion.sort_columns == suggestion.columns:
                share: float | None = top / figure.rows if figure.rows else None
            else:
                share = figure.selected.get(suggestion.ddl) if suggestion is not None else None
            if table in buffered:
                # Read once for many searches: what those would examine together is not known.
                continue
            if suggestion is not None and share is not None and share < 1:
                saved += figure.rows * (1 - share)
                sentences.append(
                    f"a search on {suggestion.table} ({', '.join(suggestion.columns)}) would examine about "
                    f"{max(1, round(figure.rows * share)):,} of {_rows(figure)} rows"
                )
    improvement = 100 * saved / examined if examined else 0.0
    if cost_after is not None and plan.cost:
        improvement = 100 * max(0.0, 1 - cost_after / plan.cost)
        sentences.append(f"EXPLAIN: cost {cost_after:.1f} with the suggested index (HypoPG)")
    return Evidence(round(improvement, 2), tuple(dict.fromkeys(sentences)), frozenset(served))


def _rows(figure: TableFigures) -> str:
    return f"{figure.rows:,.0f}{' or more' if figure.at_least else ''}"


def _said(access: Access, figure: TableFigures | None) -> str:
    expected = ""
    if access.expected is not None and (figure is None or round(figure.rows) != round(access.expected)):
        expected = f", {access.expected:,.0f} rows expected"
    if access.full_scan:
        of = "" if figure is None else f", {_rows(figure)} rows"
        return f"EXPLAIN: full scan of {access.table}{of}{expected}"
    by = f" by {access.index}" if access.index else ""
    verb = "search" if access.columns else "scan"
    return f"EXPLAIN: {verb} of {access.table}{by}{expected}"
