"""The queries for PostgreSQL, and the reading of its plans."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bot.core._shared.masking import one_line
from bot.core.query_optimizer.models import Evidence, IndexSuggestion
from bot.core.query_optimizer.plans.evidence import Access, Plan, TableFigures, judge
from bot.core.query_optimizer.plans.plan_costs import Plan as PricedPlan
from bot.core.query_optimizer.plans.postgres_costs import ColumnFigures, Prices, Relation
from bot.core.query_optimizer.plans.prepare import (
    Explainer,
    Prepared,
    Search,
    Statement,
    columns_by_table,
    known_by,
)
from bot.core.query_optimizer.plans.what_if import Option, best_indexes
from bot.core.query_optimizer.sql.schema import Schema

logger = logging.getLogger(__name__)

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
SELECT c.relname::text, c.reltuples::float8, c.relkind::text, c.relpages::float8, c.relallvisible::float8
FROM pg_catalog.pg_class c
WHERE c.oid = ANY ($1::text[]::regclass[])
"""
_COLUMNS = """
SELECT c.relname::text, s.attname::text, s.n_distinct::float8, s.correlation::float8, s.avg_width::float8,
       s.null_frac::float8
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname
WHERE c.oid = ANY ($1::text[]::regclass[])
"""
_PRICES = """
SELECT name::text, setting::float8 FROM pg_catalog.pg_settings WHERE name = ANY ($1::text[])
"""
_HYPOPG = "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'hypopg'"


async def ask_postgres(explainer: Explainer, prepared: Prepared) -> Evidence:
    explain = f"EXPLAIN (FORMAT JSON) {prepared.sql}"
    names = [name for key, name in prepared.tables.items() if key in prepared.aliases]
    rows, indexes, sizes, hypopg, columns, prices = await explainer(
        [
            (explain, prepared.params),
            (_INDEXES, (names,)),
            (_SIZES, (names,)),
            (_HYPOPG, None),
            (_COLUMNS, (names,)),
            (_PRICES, (sorted(Prices.__slots__),)),
        ]
    )
    plan = plan_of_postgres(rows[0][0])
    kinds = {str(name).lower(): str(kind) for name, _, kind, *_ in sizes}
    schema = Schema()
    schema.indexes = {table.lower(): list(of) for table, of in columns_by_table(indexes).items()}
    figures = {
        str(name).lower(): TableFigures(size) for name, size, kind, *_ in sizes if kind != "v" and size >= 0
    }
    known = known_by(prepared, schema.indexes, [name for name, kind in kinds.items() if kind == "v"])
    instead: list[IndexSuggestion] | None = None
    after = None
    relations = _relations(sizes, columns)
    if prepared.searches is not None and relations.keys() >= {each.table for each in prepared.searches}:
        known_prices = Prices(**{str(name): float(value) for name, value in prices})
        priced = PricedPlan(_top(rows[0][0]), relations, known_prices, orders=prepared.orders)
        try:
            chosen = await _chosen(explainer, prepared, prepared.searches, priced, schema)
        except OSError:
            raise
        except Exception as error:
            # A condition that the database does not take alone, or a plan of a form that was not foreseen:
            # the plan itself is evidence still.
            logger.debug(
                "no index was tried: %s: %s", one_line(prepared.normal_form, 200), type(error).__name__
            )
            chosen = None
        if chosen is not None:
            instead, after = chosen
    wanted = [each for each in prepared.suggestions if each.ddl not in known] if instead is None else instead
    basis = "by the planner's cost model"
    if hypopg and wanted:
        # Hypothetical indexes are the session's own, and exist for its EXPLAIN only.
        reset: Statement = ("SELECT hypopg_reset()", None)
        create: list[Statement] = [("SELECT * FROM hypopg_create_index($1)", (each.ddl,)) for each in wanted]
        answers = await explainer([reset, *create, (explain, prepared.params), reset])
        after = plan_of_postgres(answers[-2][0][0]).cost
        basis = "HypoPG"
    return judge(
        plan, prepared.suggestions, figures, known=known, cost_after=after, basis=basis, instead=instead
    )


async def _chosen(
    explainer: Explainer,
    prepared: Prepared,
    searches: Sequence[Search],
    plan: PricedPlan,
    schema: Schema,
) -> tuple[list[IndexSuggestion], float] | None:
    """(the indexes that the planner would use, the cost with them); None if it is not known."""
    statements = [each.statement for each in searches if each.statement]
    answers = await explainer(statements) if statements else []
    expected = {
        id(statement): float(_top(answer[0][0])["Plan Rows"])
        for statement, answer in zip(statements, answers, strict=True)
    }
    options = []
    for candidate, table, statement in searches:
        suggestion = candidate.suggestion
        rows = plan.relations[table].rows
        options.append(
            Option(
                suggestion,
                candidate.scope,
                candidate.alias.lower(),
                table,
                selected=min(1.0, expected[id(statement)] / max(1.0, rows)) if statement else 1.0,
                conditions=len(candidate.conditions),
                searched=candidate.searched,
                joined=candidate.joined,
                ordered=candidate.ordered,
                extreme=candidate.extreme,
                side=candidate.side,
                reads=candidate.reads,
                exists=schema.serves(table, suggestion.columns, len(suggestion.equality_columns)),
            )
        )
    return best_indexes(plan, options, prepared.suggestions)


def _relations(sizes: Sequence[Sequence[Any]], columns: Sequence[Sequence[Any]]) -> dict[str, Relation]:
    """Tables that were analyzed, by their name in lower case."""
    found = {}
    for name, rows, kind, pages, visible in sizes:
        if kind not in ("r", "m") or rows <= 0 or pages <= 0:
            continue
        of = {
            str(column).lower(): ColumnFigures(distinct, correlation or 0.0, width, nulls)
            for table, column, distinct, correlation, width, nulls in columns
            if table == name
        }
        found[str(name).lower()] = Relation(rows, pages, min(1.0, visible / pages), of)
    return found


def _top(document: Any) -> Any:
    found = json.loads(document) if isinstance(document, str | bytes) else document
    return found[0]["Plan"]


_SCANS = ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Sample Scan", "Tid Scan")


def plan_of_postgres(document: Any) -> Plan:
    """Read the answer of EXPLAIN (FORMAT JSON), as text or decoded."""
    top = _top(document)
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
