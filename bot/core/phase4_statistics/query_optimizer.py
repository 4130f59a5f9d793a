"""Figures of the query optimizer (pure)."""

from typing import Annotated

from bot.core.phase4_statistics.fields import MB, Figures, counter, gauge


class QueryOptimizerFigures(Figures, frozen=True, kw_only=True):
    """Executions are those on the database; rates are percent of look-ups, since the start or a reset."""

    service = "query_optimizer"

    enabled: bool
    """Whether the service is on."""
    total_unique_queries: Annotated[int, gauge("phase4_query_shapes", "Distinct query shapes known")]
    total_executions: Annotated[int, counter("phase4_query_executions", "Executions on the database")]
    cache_hits: Annotated[int, counter("phase4_query_cache_hits", "Query results answered from the cache")]
    cache_misses: Annotated[
        int, counter("phase4_query_cache_misses", "Query results that were not in the cache")
    ]
    cache_hit_rate_percent: float
    """Percent of look-ups answered from the cache."""
    avg_execution_time_ms: float
    """Milliseconds of an execution on the database, on average."""
    total_execution_time_ms: Annotated[
        float,
        counter("phase4_query_execution_seconds", "Seconds of executions on the database", scale=0.001),
    ]
    """Milliseconds of executions on the database."""
    cached_results_count: Annotated[int, gauge("phase4_query_cache_entries", "Query results held")]
    cached_results_mb: Annotated[
        float, gauge("phase4_query_cache_bytes", "Bytes of query results held", scale=MB)
    ]
    """MB of query results held."""
    cache_evictions: Annotated[int, counter("phase4_query_cache_evictions", "Query results evicted")]
    slow_queries: Annotated[
        int,
        counter("phase4_query_slow_executions", "Executions at or above the slow-query threshold"),
    ]
    n_plus_one_patterns: Annotated[
        int, gauge("phase4_query_n_plus_one_patterns", "Query shapes found to run once per row")
    ]
    change_streams_open: Annotated[
        int, gauge("phase4_query_change_streams_open", "Change streams of MongoDB that are open")
    ]
    change_streams_lost: Annotated[
        int,
        gauge(
            "phase4_query_change_streams_lost",
            "Change streams of MongoDB that are lost or not yet open: results are not cached meanwhile",
        ),
    ]
    change_streams_unavailable: Annotated[
        int,
        gauge(
            "phase4_query_change_streams_unavailable",
            "Databases of MongoDB whose server has no change streams for the client",
        ),
    ]
    change_events: Annotated[
        int, counter("phase4_query_change_events", "Writes that MongoDB's change streams told of")
    ]
    """Writes that MongoDB's change streams told of, those of this process among them."""
    change_stream_resumes: Annotated[
        int, counter("phase4_query_change_stream_resumes", "Change streams that went on where they were")
    ]
    change_stream_gaps: Annotated[
        int, counter("phase4_query_change_stream_gaps", "Change streams that had to begin anew")
    ]

    @property
    def hit_rate(self) -> float:
        """The same as ``cache_hit_rate_percent``."""
        return self.cache_hit_rate_percent

    @property
    def avg_execution_time(self) -> float:
        """The same as ``avg_execution_time_ms``: milliseconds, as the metric ``query_avg_execution_time``."""
        return self.avg_execution_time_ms
