"""Everything known about one query shape, for operators."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from bot.core.query_optimizer.analyses import Analyses
from bot.core.query_optimizer.execution.recording import Recorder
from bot.core.query_optimizer.models import Finding, QueryDetails

if TYPE_CHECKING:
    from bot.core.query_optimizer.plans.explain import PlanReader

_VALUE = re.compile(r"'(?:[^']|'')*(?:'|\Z)|\b\d[\d.]*")


async def details_of(
    fingerprint: str, analyses: Analyses, recorder: Recorder, plans: PlanReader | None, ttl: float
) -> QueryDetails | None:
    """None for an unknown shape. The answer never contains a value of a query."""
    shape = recorder.statistics.shape(fingerprint)
    specimen = recorder.specimens.get(fingerprint)
    pattern = recorder.detector.patterns.get(fingerprint)
    text = specimen.shape if specimen else shape.query if shape else pattern.query if pattern else ""
    if not text:
        return None
    query, params = (specimen.query, specimen.params) if specimen and specimen.query else (text, None)
    about = shape.about if shape else None
    if about is None:
        advice, of_shape = analyses.advise(query, params), analyses.advise(text, None).findings
    else:
        from bot.core.query_optimizer.mongodb.advice import advice_on

        plans = None  # of another database
        advice, of_shape = advice_on(text, *about, params), ()
    repeated = recorder.statistics.saved_by_caching(fingerprint)
    plan = None if plans is None else await plans.evidence_for(advice, params)
    result = advice.result(ttl, (), repeated, plan)
    optimized = ""
    if isinstance(result.optimized_query, str) and result.optimized_query != query:
        optimized = analyses.analyse(result.optimized_query).normal_form
    sites = [*(specimen.call_sites if specimen else []), *(pattern.call_sites if pattern else [])]
    return QueryDetails(
        fingerprint=fingerprint,
        query=text,
        query_type=result.query_type,
        tables=result.tables,
        executions=shape.count if shape else 0,
        slow_executions=shape.slow if shape else 0,
        rows=shape.rows if shape else 0,
        avg_time_ms=round(shape.total_ms / shape.count, 3) if shape and shape.count else None,
        max_time_ms=round(shape.max_ms, 3) if shape and shape.count else None,
        last_seen=shape.last_seen if shape else pattern.last_seen if pattern else None,
        call_sites=list(dict.fromkeys(sites)),
        findings=_without_values(result.findings, of_shape),
        optimized_query=optimized,
        index_suggestions=result.index_suggestions,
        cache_suggestion=result.cache_suggestion,
        evidence=result.evidence,
        estimated_improvement=result.estimated_improvement,
        n_plus_one=replace(pattern, call_sites=list(pattern.call_sites)) if pattern else None,
    )


def _without_values(findings: list[Finding], of_shape: tuple[Finding, ...]) -> list[Finding]:
    """The findings on a query, in the words of the same findings on its shape, which has no values."""
    known = {(finding.code, finding.line): finding for finding in of_shape}
    return [
        known.get((finding.code, finding.line))
        or replace(finding, message=_VALUE.sub("…", finding.message), fix=_VALUE.sub("…", finding.fix))
        for finding in findings
    ]
