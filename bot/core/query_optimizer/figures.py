"""What the query optimizer tells of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot.core._shared.bounded_store import BoundedStore
from bot.core.phase4_statistics.fields import MB
from bot.core.phase4_statistics.query_optimizer import QueryOptimizerFigures
from bot.core.query_optimizer.stats import ExecutionStatistics

if TYPE_CHECKING:
    from bot.core.query_optimizer.mongodb.change_streams import StreamCounts


def figures_of(
    executed: ExecutionStatistics,
    hits: int,
    misses: int,
    results: BoundedStore,
    patterns: int,
    streams: StreamCounts | None = None,
    *,
    enabled: bool,
) -> QueryOptimizerFigures:
    """``hits`` and ``misses`` are of the cached ``results``; ``patterns`` those of N+1 queries found;
    ``streams`` are MongoDB's change streams, None if there were none.
    """
    looked_up = hits + misses
    return QueryOptimizerFigures(
        enabled=enabled,
        total_unique_queries=len(executed),
        total_executions=executed.executions,
        cache_hits=hits,
        cache_misses=misses,
        cache_hit_rate_percent=round(hits / looked_up * 100, 2) if looked_up else 0.0,
        avg_execution_time_ms=round(executed.average_ms, 3),
        total_execution_time_ms=round(executed.total_ms, 3),
        cached_results_count=len(results),
        cached_results_mb=round(results.bytes_used / MB, 3),
        cache_evictions=results.evictions,
        slow_queries=executed.slow,
        n_plus_one_patterns=patterns,
        change_streams_open=0 if streams is None else streams.open,
        change_streams_lost=0 if streams is None else streams.lost,
        change_streams_unavailable=0 if streams is None else streams.unavailable,
        change_events=0 if streams is None else streams.events,
        change_stream_resumes=0 if streams is None else streams.resumes,
        change_stream_gaps=0 if streams is None else streams.gaps,
    )
