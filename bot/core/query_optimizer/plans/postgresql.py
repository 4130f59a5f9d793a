"""What PostgreSQL is asked, and the reading of its plans."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bot.core._shared.masking import one_line
from bot.core.query_optimizer.models import Evidence, IndexSuggestion
from bot.core.query_optimizer.plans.evidence import Access, Plan, TableFigures, judge
from bot.core.query_optimizer.plans.plan_costs import Plan as PricedPlan
from bot.core.query_optimizer.plans.postgres_catalog import Catalog, catalog_of, questions
from bot.core.query_optimizer.plans.prepare import Explainer, Prepared, Search, Statement, known_by
from bot.core.query_optimizer.plans.what_if import Option, best_indexes

TRIGRAMS = "gin_trgm_ops"
logger = logging.getLogger(__name__)


async def ask_postgres(explainer: Explainer, prepared: Prepared) -> Evidence:
    explain = f"EXPLAIN (FORMAT JSON) {prepared.sql}"
    names = [name for key, name in prepared.tables.items() if key in prepared.aliases]
    rows, *answers = await explainer([(explain, prepared.params), *questions(names)])
    plan = plan_of_postgres(rows[0][0])
    catalog = catalog_of(answers)
    views = [name for name, kind in catalog.kinds.items() if kind == "v"]
    known = known_by(prepared, catalog.plain_indexes(), views)
    figures = {name: TableFigures(size) for name, size in catalog.rows.items()}
    instead: list[IndexSuggestion] | None = None
    after = None
    if prepared.searches is not None and catalog.relations.keys() >= {
        each.table for each in prepared.searches
    }:
        priced = PricedPlan(_top(rows[0][0]), catalog.relations, catalog.prices, orders=prepared.orders)
        try:
            chosen = await _chosen(explainer, prepared, prepared.searches, priced, catalog)
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
    if catalog.hypopg and wanted and all(each.method == "btree" for each in wanted):
        # Hypothetical indexes are the session's own, and exist for its EXPLAIN only.
        reset: Statement = ("SELECT hypopg_reset()", None)
        create: list[Statement] = [("SELECT * FROM hypopg_create_index($1)", (each.ddl,)) for each in wanted]
        hypothetical = await explainer([reset, *create, (explain, prepared.params), reset])
        after = plan_of_postgres(hypothetical[-2][0][0]).cost
        basis = "HypoPG"
    found = judge(
        plan, prepared.suggestions, figures, known=known, cost_after=after, basis=basis, instead=instead
    )
    if prepared.writes is None or not found.improvement:
        return found
    return replace(found, sentences=(*found.sentences, *_maintained(prepared.writes, instead or wanted)))


def _maintained(writes: frozenset[str], suggestions: Sequence[IndexSuggestion]) -> Iterator[str]:
    """What a statement that changes rows would do to the new indexes, which no plan's cost contains."""
    for each in suggestions:
        listed = " ".join((*each.columns, *each.include, each.predicate)).lower()
        changed = [name for name in sorted(writes) if re.search(rf"\b{re.escape(name)}\b", listed)]
        this = f"; this UPDATE does, since it sets {', '.join(changed)}" if changed else ""
        yield f"not in this cost: INSERTs into {each.table}, UPDATEs of its columns write the index{this}"


async def _chosen(
    explainer: Explainer,
    prepared: Prepared,
    searches: Sequence[Search],
    plan: PricedPlan,
    catalog: Catalog,
) -> tuple[list[IndexSuggestion], float] | None:
    """(the indexes that the planner would use, the cost with them); None if it is not known."""
    fitting = [
        each
        for each in searches
        if all(catalog.is_as(each.table, column, demand) for column, demand in each.candidate.demands)
        and not (each.candidate.suggestion.operator_class == TRIGRAMS and catalog.trigrams is None)
    ]
    asked: dict[str, Statement] = {}
    for each in fitting:
        for statement in (each.statement, each.holds):
            if statement is not None:
                asked[repr(statement)] = statement
    answers = await explainer(list(asked.values())) if asked else []
    expected = {
        key: float(_top(answer[0][0])["Plan Rows"]) for key, answer in zip(asked, answers, strict=True)
    }
    options = [_option(each, plan.relations[each.table].rows, expected, catalog) for each in fitting]
    # An index that exists is not made again only to hold more.
    plain = {(each.table, each.suggestion.columns) for each in options if each.exists}
    sensible = [
        option
        for each, option in zip(fitting, options, strict=True)
        if option.share <= _largest_share(each, catalog)
        and not (option.suggestion.include and _is_wide(option, plan))
        and not (option.suggestion.include and (option.table, option.suggestion.columns) in plain)
    ]
    return best_indexes(plan, sensible, prepared.suggestions)


SMALL_SHARE = 0.05
"""Of the rows, that a partial index may hold: those of one state among several."""
MINORITY = 0.15
"""The same for a condition that has no other value to ask for: a boolean, NULL."""


def _largest_share(search: Search, catalog: Catalog) -> float:
    if search.holds is None:
        return 1.0  # it holds every row
    states = [column for column, demand in search.candidate.demands if demand == "few"]
    is_state = any(catalog.types.get((search.table, column), ("", ""))[0] != "bool" for column in states)
    return SMALL_SHARE if is_state else MINORITY


MAX_HELD = 100.0
"""Bytes of the columns that an index holds beside its keys."""


def _is_wide(option: Option, plan: PricedPlan) -> bool:
    columns = plan.relations[option.table].columns
    known = [columns.get(name.lower()) for name in option.suggestion.include]
    return sum(each.width if each is not None else MAX_HELD for each in known) > MAX_HELD


def _option(search: Search, rows: float, expected: Mapping[str, float], catalog: Catalog) -> Option:
    candidate = search.candidate

    def share(statement: Statement | None) -> float:
        return min(1.0, expected[repr(statement)] / max(1.0, rows)) if statement else 1.0

    return Option(
        _as_installed(candidate.suggestion, catalog),
        candidate.scope,
        candidate.alias.lower(),
        search.table,
        selected=share(search.statement),
        conditions=len(candidate.conditions),
        searched=candidate.searched,
        joined=candidate.joined,
        ordered=candidate.ordered,
        extreme=candidate.extreme,
        side=candidate.side,
        reads=candidate.reads,
        exists=catalog.serves(search.table, candidate.suggestion),
        share=share(search.holds),
        behind=dict(candidate.behind),
        entries=candidate.entries,
    )


def _as_installed(suggestion: IndexSuggestion, catalog: Catalog) -> IndexSuggestion:
    """With trigrams' operator class as the session must name it, or with what must be installed first."""
    if suggestion.operator_class != TRIGRAMS:
        return suggestion
    if not catalog.trigrams:
        reason = f"{suggestion.reason}; needs CREATE EXTENSION pg_trgm"
        return replace(suggestion, extension="pg_trgm", reason=reason)
    ddl = suggestion.ddl.replace(f" {TRIGRAMS})", f" {catalog.trigrams})")
    return replace(suggestion, ddl=ddl, operator_class=catalog.trigrams)


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
