"""The queries for SQLite, and the reading of its plans."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bot.core.query_optimizer.models import Evidence
from bot.core.query_optimizer.plans.evidence import Access, Plan, judge
from bot.core.query_optimizer.plans.prepare import (
    Explainer,
    Prepared,
    Statement,
    columns_by_table,
    known_by,
)
from bot.core.query_optimizer.plans.samples import figures_of, samples_for

_INDEXES = """
SELECT m.name, i.name, c.name
FROM sqlite_master AS m JOIN pragma_index_list(m.name) AS i JOIN pragma_index_info(i.name) AS c
WHERE m.type = 'table' AND i.partial = 0 AND lower(m.name) IN ({})
ORDER BY m.name, i.name, c.seqno
"""
_VIEWS = """
SELECT type, name FROM sqlite_master
WHERE name = 'sqlite_stat1' OR (type = 'view' AND lower(name) IN ({0}))
UNION ALL
SELECT 'rowid', name FROM sqlite_master
WHERE type = 'table' AND lower(name) IN ({0}) AND upper(sql) NOT LIKE '%WITHOUT%ROWID%'
  AND upper(sql) NOT LIKE 'CREATE VIRTUAL%'
"""
_SIZES = "SELECT tbl, stat FROM sqlite_stat1 WHERE lower(tbl) IN ({})"


async def ask_sqlite(explainer: Explainer, prepared: Prepared) -> Evidence:
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in prepared.tables) or "''"
    indexes = _INDEXES.format(names)
    rows, found, others = await explainer(
        [
            (f"EXPLAIN QUERY PLAN {prepared.sql}", prepared.params),
            (indexes, None),
            (_VIEWS.format(names), None),
        ]
    )
    has_statistics = any(kind == "table" for kind, _ in others)
    views = [name for kind, name in others if kind == "view"]
    plan = plan_of_sqlite(rows, prepared.aliases)
    ordered_by = {str(name).lower(): "rowid" for kind, name in others if kind == "rowid"}
    samples = samples_for(prepared, plan, "sqlite", ordered_by)
    statements: list[Statement] = [(each.sql, None) for each in samples]
    if has_statistics:
        statements.append((_SIZES.format(names), None))
    answers = list(await explainer(statements)) if statements else []
    sizes = {}
    if has_statistics:
        sizes = {str(table).lower(): float(str(stat).split()[0]) for table, stat in answers.pop()}
    return judge(
        plan,
        prepared.suggestions,
        figures_of(samples, answers, sizes),
        known=known_by(prepared, columns_by_table(found), views),
        stops_early=prepared.stops_early and not plan.sorts,
        top=prepared.top if plan.sorts else None,
    )


_HOW = (
    r"(?: USING ((?:AUTOMATIC )?(?:PARTIAL )?(?:COVERING )?INDEX|INTEGER PRIMARY KEY|PRIMARY KEY)"
    r"(?: (?!\()(.+?))?(?: \((.*)\))?)?(?: LEFT-JOIN)?\Z"
)
_TERM = re.compile(r"(\w+)[=<>]")


def plan_of_sqlite(rows: Sequence[Sequence[Any]], tables: Mapping[str, str]) -> Plan:
    """Read the rows of EXPLAIN QUERY PLAN; ``tables`` gives the table behind each alias, in lower case."""
    accesses = []
    sorts = False
    # Names may contain anything, so search for the known ones, the longest first.
    names = "|".join(re.escape(name) for name in sorted(tables, key=len, reverse=True))
    form = re.compile(rf"(SCAN|SEARCH) (?:TABLE )?(?:\w+\.)?({names})(?: AS ({names}))?{_HOW}", re.IGNORECASE)
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
        columns = frozenset(found.lower() for found in _TERM.findall(terms or ""))
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
