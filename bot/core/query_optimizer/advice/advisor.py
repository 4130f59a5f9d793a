"""Everything that can be said about a text without executing it."""

from __future__ import annotations

import logging
from dataclasses import replace

from sqlglot import exp

from bot.core._shared.masking import one_line
from bot.core.query_optimizer.advice.indexes import suggestions_for
from bot.core.query_optimizer.advice.rewrites import REWRITES, rewrite
from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.rules.findings import findings_of
from bot.core.query_optimizer.models import Advice, Finding, IndexSuggestion
from bot.core.query_optimizer.sql.analyzer import Reading
from bot.core.query_optimizer.sql.schema import Schema
from bot.core.query_optimizer.sql.scopes import columns_by_clause

logger = logging.getLogger(__name__)


MAX_CONNECTED = 1_000
"""ANDs and ORs of a statement above which no advice is given: they nest, and rules search up and down."""


def advise(reading: Reading, schema: Schema | None = None, alike: Advice | None = None) -> Advice:
    """Rules, rewrites and index suggestions for a text that was read. Never raises.

    ``alike`` is the advice on a text that differs in numbers alone: rules look at numbers, and what an index
    serves does not depend on them.
    """
    try:
        return _advise(reading, schema, alike)
    except (RecursionError, AttributeError, TypeError, KeyError, ValueError, IndexError) as error:
        # A tree of an unforeseen form: no advice is better than no answer.
        logger.debug("no advice on %s: %s", one_line(reading.analysis.normal_form, 200), one_line(error))
        return Advice(reading.query, reading.analysis, reading.query)


def _advise(reading: Reading, schema: Schema | None, alike: Advice | None) -> Advice:
    findings: list[Finding] = []
    suggestions: dict[str, IndexSuggestion] = {}
    columns: dict[str, dict[str, None]] = {}
    scopes = None
    for census in reading.censuses:
        if len(census.all(exp.And, exp.Or)) > MAX_CONNECTED:
            return Advice(reading.query, reading.analysis, reading.query)
        facts = Facts(reading, census, schema)
        scopes = facts.scopes
        findings += findings_of(facts)
        if alike is not None:
            continue
        for suggestion in suggestions_for(facts):
            suggestions.setdefault(suggestion.ddl, suggestion)
        for clause, names in columns_by_clause(census, facts.scopes).items():
            known = columns.get(clause)
            columns[clause] = names if known is None else known | names
    optimized: str = reading.query
    done: list[str] = []
    if findings:
        optimized, done = rewrite(reading, {finding.code for finding in findings}, schema, scopes)
    if done:
        findings = [
            replace(finding, fix=f"{finding.fix} (Done in optimized_query: {REWRITES[finding.code]}.)")
            if finding.code in done
            else finding
            for finding in findings
        ]
    return Advice(
        query=reading.query,
        analysis=reading.analysis,
        optimized_query=optimized,
        findings=tuple(findings),
        recommendations=tuple(map(str, findings)),
        index_suggestions=tuple(suggestions.values()) if alike is None else alike.index_suggestions,
        columns=(
            {clause: tuple(names) for clause, names in columns.items()} if alike is None else alike.columns
        ),
    )
