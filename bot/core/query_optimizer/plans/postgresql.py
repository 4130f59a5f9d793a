"""The queries for PostgreSQL, and the reading of its plans."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bot.core.query_optimizer.models import Evidence
from bot.core.query_optimizer.plans.evidence import Access, Plan, TableFigures, judge
from bot.core.query_optimizer.plans.prepare import Explainer, Prepared, Statement, columns_by_table, known_by

_INDEXES = """
SELECT t.relname::text, i.indexrelid::text, a.attname::text
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0
WHERE i.indrelid = ANY ($1::text[]::regclass[]) AND i.indisvalid AND i.indpred IS NULL
  AND k.place <= i.indnkeyatts
ORDER BY 1, 2, k.place
"""
_SIZES = """
SELECT c.relname::text, c.reltuples::float8, c.relkind::text FROM pg_catalog.pg_class c
WHERE c.oid = ANY ($1::text[]::regclass[])
"""
_HYPOPG = "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'hypopg'"


async def ask_postgres(explainer: Explainer, prepared: Prepared) -> Evidence:
    explain = f"EXPLAIN (FORMAT JSON) {prepared.sql}"
    names = [name for key, name in prepared.tables.items() if key in prepared.aliases]
    rows, indexes, sizes, hypopg = await explainer(
        [
            (explain, prepared.params),
            (_INDEXES, (names,)),
            (_SIZES, (names,)),
            (_HYPOPG, None),
        ]
    )
    plan = plan_of_postgres(rows[0][0])
    known = known_by(prepared, columns_by_table(indexes), [name for name, _, kind in sizes if kind == "v"])
    by_table = {each.table.rpartition(".")[2].lower(): each for each in prepared.suggestions}
    expected = {access.table.lower(): access.expected for access in plan.accesses if access.full_scan}
    figures = {}
    for table, size, kind in sizes:
        if kind == "v" or size < 0:
            continue  # never analyzed
        rows_expected, suggestion = expected.get(table.lower()), by_table.get(table.lower())
        selected = {}
        if suggestion is not None and rows_expected is not None and size and suggestion.ddl not in known:
            selected = {suggestion.ddl: min(1.0, rows_expected / size)}
        figures[table.lower()] = TableFigures(size, selected=selected)
    wanted = [each for each in prepared.suggestions if each.ddl not in known]
    after = None
    if hypopg and wanted:
        # Hypothetical indexes are the session's own, and exist for its EXPLAIN only.
        reset: Statement = ("SELECT hypopg_reset()", None)
        create: list[Statement] = [("SELECT * FROM hypopg_create_index($1)", (each.ddl,)) for each in wanted]
        answers = await explainer([reset, *create, (explain, prepared.params), reset])
        after = plan_of_postgres(answers[-2][0][0]).cost
    return judge(
        plan,
        prepared.suggestions,
        figures,
        known=known,
        stops_early=prepared.stops_early and not plan.sorts,
        top=prepared.top if plan.sorts else None,
        cost_after=after,
    )


_SCANS = ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Sample Scan", "Tid Scan")


def plan_of_postgres(document: Any) -> Plan:
    """Read the answer of EXPLAIN (FORMAT JSON), as text or decoded."""
    found = json.loads(document) if isinstance(document, str | bytes) else document
    top = found[0]["Plan"]
    accesses: list[Access] = []
    sorts = False
    for node, workers in _postgres_nodes(top, 0):
        kind = node["Node Type"]
        sorts = sorts or kind in ("Sort", "Incremental Sort")
        if kind not in _SCANS or "Relation Name" not in node:
            continue
        conditions, indexes = [str(node.get("Index Cond", ""))], [str(node.get("Index Name", ""))]
        if kind == "Bitmap Heap Scan":
            inner = [part for part, _ in _postgres_nodes(node, 0) if part["Node Type"] == "Bitmap Index Scan"]
            conditions = [str(part.get("Index Cond", "")) for part in inner]
            indexes = [str(part.get("Index Name", "")) for part in inner]
        expected = float(node["Plan Rows"])
        if node.get("Parallel Aware") and workers:
            # The estimate is for one process; the leader counts less the more workers it has.
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
