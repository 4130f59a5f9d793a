"""The queries for MySQL and MariaDB, and the reading of their plans."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bot.core.query_optimizer.models import Evidence
from bot.core.query_optimizer.plans.evidence import Access, Plan, judge
from bot.core.query_optimizer.plans.prepare import (
    Explainer,
    Prepared,
    columns_by_table,
    known_by,
    quoted_name,
)
from bot.core.query_optimizer.plans.samples import figures_of, samples_for

_INDEXES = """
SELECT table_name, index_name, column_name FROM information_schema.statistics
WHERE table_schema = DATABASE() AND lower(table_name) IN ({})
ORDER BY table_name, index_name, seq_in_index
"""
_VIEWS = """
SELECT table_name FROM information_schema.views
WHERE table_schema = DATABASE() AND lower(table_name) IN ({})
"""


async def ask_mysql(explainer: Explainer, prepared: Prepared) -> Evidence:
    names = ", ".join("'" + name.replace("'", "''").replace("\\", "\\\\") + "'" for name in prepared.tables)
    rows, found, views = await explainer(
        [
            (f"EXPLAIN FORMAT=JSON {prepared.sql}", prepared.params),
            (_INDEXES.format(names or repr("")), None),
            (_VIEWS.format(names or repr("")), None),
        ]
    )
    plan = plan_of_mysql(rows[0][0], prepared.aliases)
    ordered_by: dict[str, str] = {}
    for table, index, column in found:
        if str(index) == "PRIMARY":
            ordered_by.setdefault(str(table).lower(), quoted_name(str(column), "mysql"))
    samples = samples_for(prepared, plan, "mysql", ordered_by)
    answers = await explainer([(each.sql, None) for each in samples]) if samples else []
    # A full scan examines the whole table.
    sizes = {
        access.table.lower(): access.expected
        for access in plan.accesses
        if access.full_scan and access.expected is not None
    }
    return judge(
        plan,
        prepared.suggestions,
        figures_of(samples, answers, sizes),
        known=known_by(prepared, columns_by_table(found), [row[0] for row in views]),
        stops_early=prepared.stops_early and not plan.sorts,
        top=prepared.top if plan.sorts else None,
    )


def plan_of_mysql(document: Any, tables: Mapping[str, str]) -> Plan:
    """Read the answer of EXPLAIN FORMAT=JSON of MySQL or MariaDB; ``tables`` as for SQLite."""
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
