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
    query_timeout: Annotated[
        Seconds, doc("seconds after which a read that callers share is given up; 0: never")
    ] = 120.0
    detect_n_plus_one: Annotated[bool, doc("watch for the N+1 query pattern")] = True
    dialect: Annotated[Dialect, doc("SQL dialect of analysed queries; empty: generic")] = ""
    n_plus_one_threshold: Annotated[
        int,
        Meta(
            ge=2,
            le=10_000,
            description="how many different values of one query in a request are an N+1 pattern",
        ),
    ] = 10
    n_plus_one_window: Annotated[PositiveSeconds, doc("seconds within which those queries must run")] = 2.0
    views: Annotated[dict[str, list[str]], doc("views: name -> tables whose writes change it")] = field(
        default_factory=dict
    )
    cascades: Annotated[
        dict[str, list[str]],
        doc("table -> tables that a write to it changes too, by trigger, foreign key or partition"),
    ] = field(default_factory=dict)
    pure_functions: Annotated[
        list[str],
        doc("the database's own functions that change nothing and depend on their arguments alone"),
    ] = field(default_factory=list)
    explain_pool: Annotated[
        str, doc("name of the pool in DATABASE_POOLS that explains analysed SELECTs; empty: none")
    ] = ""
    explain_timeout: Annotated[
        PositiveSeconds, doc("the longest that the analysis of a new query waits for its plan, in seconds")
    ] = 2.0
    graphql_max_depth: Annotated[
        int, Meta(ge=1, le=1000, description="the most fields from the root of a GraphQL operation down")
    ] = 50
    graphql_max_complexity: Annotated[
        Count, doc("the most fields that a GraphQL operation may ask for, lists counted by their page size")
    ] = 10_000


DEFAULTS = QueryOptimizerSettings()
