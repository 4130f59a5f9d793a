"""The optimizer's slow queries and N+1 findings as the page shows them, without anything of a user's."""

from __future__ import annotations

from typing import Any

MAX_LISTED = 240
"""Characters of a shape in a list; opened, it is shown whole."""


async def found_queries(optimizer: Any, most: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Slow query shapes and N+1 findings, ``most`` of each; none while the optimizer is off (None)."""
    if optimizer is None:
        return [], []
    slow = [
        {
            "query": _listed(query.query),
            "fingerprint": query.fingerprint,
            "executions": query.executions,
            "slow": query.slow_executions,
            "avg_ms": query.avg_time_ms,
            "max_ms": query.max_time_ms,
            "last_seen": query.last_seen,
        }
        for query in (await optimizer.get_slow_queries())[:most]
    ]
    patterns = [
        {
            "query": _listed(pattern.query),
            "fingerprint": pattern.fingerprint,
            "count": pattern.count,
            "requests": pattern.contexts,
            "last_seen": pattern.last_seen,
        }
        for pattern in (await optimizer.get_n_plus_one_patterns())[:most]
    ]
    return slow, patterns


async def opened_query(optimizer: Any, fingerprint: str) -> dict[str, Any] | None:
    """One shape with all that is known of it; None if nothing is."""
    details = None if optimizer is None else await optimizer.describe_query(fingerprint)
    if details is None:
        return None
    pattern = details.n_plus_one
    return {
        "fingerprint": details.fingerprint,
        "query": details.query,
        "type": details.query_type.value,
        "tables": details.tables,
        "executions": details.executions,
        "slow": details.slow_executions,
        "rows": details.rows,
        "avg_ms": details.avg_time_ms,
        "max_ms": details.max_time_ms,
        "last_seen": details.last_seen,
        "where": details.call_sites,
        "findings": [
            {"code": each.code, "severity": each.severity, "message": each.message, "fix": each.fix}
            for each in details.findings
        ],
        "better": details.optimized_query,
        "indexes": [{"ddl": each.ddl, "reason": each.reason} for each in details.index_suggestions],
        "caching": details.cache_suggestion,
        "evidence": details.evidence,
        "improvement": details.estimated_improvement or None,
        "n_plus_one": None
        if pattern is None
        else {"count": pattern.count, "requests": pattern.contexts, "instead": pattern.suggestion},
    }


def _listed(shape: str) -> str:
    return shape if len(shape) <= MAX_LISTED else shape[: MAX_LISTED - 1] + "…"
