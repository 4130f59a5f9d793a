"""Settings of the query optimizer (pure)."""

from typing import Annotated, Literal

from msgspec import Meta, field

from bot.core.phase4_config.fields import Count, PositiveSeconds, Seconds, doc, starting
from bot.core.phase4_config.settings import Settings

EXPLAINING = {"sqlite": "sqlite", "postgresql": "postgres", "mysql": "mysql"}
"""Backends that explain a query, and the dialects that they speak."""


Dialect = Literal["", "postgres", "mysql", "sqlite"]


class QueryOptimizerSettings(Settings, frozen=True, rename=starting("QUERY_OPTIMIZER_")):
    """Times are seconds."""

    cache_ttl: Annotated[PositiveSeconds, doc("seconds a query result stays cached")] = 300.0
    cache_max_size_mb: Annotated[
        float, Meta(gt=0, le=1_000_000, description="MB of memory for cached query results")
    ] = 50.0
    cache_max_entries: Annotated[Count, doc("the most query results that are cached")] = 10_000
    slow_query_threshold: Annotated[
        PositiveSeconds, doc("an execution that takes this many seconds or more counts as slow")
    ] = 1.0
    query_timeout: Annotated[Seconds, doc("seconds after which a shared read is given up; 0: never")] = 120.0
    detect_n_plus_one: Annotated[bool, doc("detect N+1 queries")] = True
    dialect: Annotated[Dialect, doc("SQL dialect of the queries; empty: generic")] = ""
    n_plus_one_threshold: Annotated[
        int,
        Meta(
            ge=2,
            le=10_000,
            description="executions of one query with different values, in one request, that count as N+1",
        ),
    ] = 10
    n_plus_one_window: Annotated[
        PositiveSeconds, doc("seconds within which these executions must happen")
    ] = 2.0
    n_plus_one_total: Annotated[
        PositiveSeconds,
        doc("seconds that as many executions in one request, however far apart, must take together"),
    ] = 2.0
    views: Annotated[dict[str, list[str]], doc("views: name -> tables that it reads")] = field(
        default_factory=dict
    )
    cascades: Annotated[
        dict[str, list[str]],
        doc("table -> tables that a write to it also changes (trigger, foreign key, partition)"),
    ] = field(default_factory=dict)
    pure_functions: Annotated[
        list[str],
        doc("your database functions that change nothing and depend only on their arguments"),
    ] = field(default_factory=list)
    explain_pool: Annotated[
        str, doc("name of a pool in DATABASE_POOLS that runs EXPLAIN for advice; empty: none")
    ] = ""
    explain_timeout: Annotated[
        PositiveSeconds, doc("seconds that the analysis of a new query waits for its plan")
    ] = 2.0
    catalog_max_age: Annotated[
        PositiveSeconds,
        doc("seconds for which the catalog of that pool's database counts; read again at half of it"),
    ] = 300.0
    instrument: Annotated[
        bool,
        doc("see every statement on the pools but Redis: counts, times, N+1, what writes drop"),
    ] = False
    instrument_cache: Annotated[
        bool, doc("with QUERY_OPTIMIZER_INSTRUMENT: also answer their reads from the cache, where certain")
    ] = False
    mongodb_change_streams: Annotated[
        bool,
        doc("drop results of MongoDB by writes of other programs, too, if the server has change streams"),
    ] = False
    tracing: Annotated[
        bool, doc("make OpenTelemetry spans of queries; needs opentelemetry-api (extra: opentelemetry)")
    ] = False
    graphql_max_depth: Annotated[
        int, Meta(ge=1, le=1000, description="the greatest depth of a GraphQL operation, in fields")
    ] = 50
    graphql_max_complexity: Annotated[
        Count, doc("the most fields in a GraphQL operation, each multiplied by its page sizes")
    ] = 10_000


DEFAULTS = QueryOptimizerSettings()
