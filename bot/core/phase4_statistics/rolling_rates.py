"""The figures that alerts and dashboards judge, of the last few minutes, from the status (pure).

Statistics count since the start: a rate of them says little about now, and less each day.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from bot.core.phase4_statistics.counting import MonotonicTotals, RecentIncrease

WINDOW = 300.0
"""Seconds that the percentages and averages are of."""

PACE_WINDOW = 10.0
"""Seconds that the figures per second are of."""

_COUNTED = {
    "query_optimizer": ("cache_hits", "cache_misses", "total_executions", "total_execution_time_ms"),
    "cache_manager": ("total_hits", "total_misses", "l1_evictions", "l1_insertions"),
    "batch_processor": ("total_items_processed",),
    "load_balancer": ("total_requests", "failed_requests"),
    "outbound": ("sent",),
}
_OF_LIMITS = ("allowed", "blocked")
_OF_POOLS = ("total_acquired", "failed_acquisitions")


class RecentFigures(Struct, frozen=True):
    """What happened lately; None where nothing did (a rate of nothing is not zero)."""

    query_cache_hit_rate: float | None = None
    """Percent of the query optimizer's look-ups."""
    cache_hit_rate: float | None = None
    """Percent of the cache manager's look-ups, both tiers together."""
    overall_hit_rate: float | None = None
    """Percent of the look-ups of both: where one cache stands before the other, what users experience."""
    cache_eviction_rate: float | None = None
    """Percent of what was put into L1 that displaced something else."""
    query_avg_execution_time_ms: float | None = None
    """Milliseconds of an execution on the database."""
    block_rate: float | None = None
    """Percent of rate-limited requests that were refused."""
    # Per second, of the last ten.
    query_lookups_per_second: float | None = None
    cache_lookups_per_second: float | None = None
    limited_requests_per_second: float | None = None
    queries_per_second: float | None = None
    leases_per_second: float | None = None
    batch_items_per_second: float | None = None
    routed_requests_per_second: float | None = None
    sent_requests_per_second: float | None = None


class RecentReader:
    """Turns successive readings of the status into recent figures.

    Statistics that were reset in between do no harm. For one reader at a time.
    """

    def __init__(self, now: float) -> None:
        self._totals: MonotonicTotals[tuple[str, ...]] = MonotonicTotals()
        self._increase: RecentIncrease[tuple[str, ...]] = RecentIncrease(WINDOW, now)
        self._pace: RecentIncrease[tuple[str, ...]] = RecentIncrease(PACE_WINDOW, now)

    def read(self, now: float, services: Mapping[str, Any]) -> RecentFigures:
        """The figures at ``now`` (monotonic seconds); ``services`` is that part of the status."""
        totals: dict[tuple[str, ...], float] = {}
        for key, reading in _readings(services):
            total = self._totals.advance(key, reading)
            if total is not None:
                totals[key] = total
        grown = self._increase.since(now, totals)
        pace = self._pace.per_second(now, totals)

        def added(service: str, *names: str) -> float | None:
            return _sum(grown, service, names)

        def rate(service: str, *names: str) -> float | None:
            return _sum(pace, service, names)

        return RecentFigures(
            query_cache_hit_rate=_percent(
                added("query_optimizer", "cache_hits"), added("query_optimizer", "cache_hits", "cache_misses")
            ),
            cache_hit_rate=_percent(
                added("cache_manager", "total_hits"), added("cache_manager", "total_hits", "total_misses")
            ),
            overall_hit_rate=_percent(
                _sum_of(added("query_optimizer", "cache_hits"), added("cache_manager", "total_hits")),
                _sum_of(
                    added("query_optimizer", "cache_hits", "cache_misses"),
                    added("cache_manager", "total_hits", "total_misses"),
                ),
            ),
            cache_eviction_rate=_percent(
                added("cache_manager", "l1_evictions"), added("cache_manager", "l1_insertions")
            ),
            query_avg_execution_time_ms=_ratio(
                added("query_optimizer", "total_execution_time_ms"),
                added("query_optimizer", "total_executions"),
            ),
            block_rate=_percent(added("rate_limiter", "blocked"), added("rate_limiter", *_OF_LIMITS)),
            query_lookups_per_second=rate("query_optimizer", "cache_hits", "cache_misses"),
            cache_lookups_per_second=rate("cache_manager", "total_hits", "total_misses"),
            limited_requests_per_second=rate("rate_limiter", *_OF_LIMITS),
            queries_per_second=rate("query_optimizer", "total_executions"),
            leases_per_second=rate("connection_pool_manager", "total_acquired"),
            batch_items_per_second=rate("batch_processor", "total_items_processed"),
            routed_requests_per_second=rate("load_balancer", "total_requests"),
            sent_requests_per_second=rate("outbound", "sent"),
        )


def _sum(grown: Mapping[tuple[str, ...], float], service: str, names: tuple[str, ...]) -> float | None:
    found = [growth for key, growth in grown.items() if key[0] == service and key[-1] in names]
    return sum(found) if found else None


def _sum_of(*parts: float | None) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _readings(services: Mapping[str, Any]) -> list[tuple[tuple[str, ...], float]]:
    found: list[tuple[tuple[str, ...], float]] = []
    for service, names in _COUNTED.items():
        figures = mapping(services.get(service))
        found += [((service, name), float(figures[name])) for name in names if is_number(figures.get(name))]
    # By limit and not in total: limits come and go, and a total that shrinks would look like a reset.
    for limit, figures in mapping(mapping(services.get("rate_limiter")).get("limits")).items():
        found += _of("rate_limiter", str(limit), figures, _OF_LIMITS)
    for pool, figures in pools(services).items():
        found += _of("connection_pool_manager", pool, figures, _OF_POOLS)
    return found


def _of(service: str, what: str, figures: Any, names: tuple[str, ...]) -> list[tuple[tuple[str, ...], float]]:
    known = mapping(figures)
    return [((service, what, name), float(known[name])) for name in names if is_number(known.get(name))]


def pools(services: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Pool name -> its figures."""
    figures = mapping(services.get("connection_pool_manager"))
    return {
        str(name): figures
        for name, figures in figures.items()
        if isinstance(figures, Mapping) and is_number(figures.get("max_size"))
    }


def instances(services: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Id of a load balancer's instance -> its figures."""
    found = mapping(services.get("load_balancer")).get("instances")
    if isinstance(found, Mapping):
        return {str(name): figures for name, figures in found.items() if isinstance(figures, Mapping)}
    if isinstance(found, list):
        return {
            str(figures.get("id", figures.get("instance_id", number))): figures
            for number, figures in enumerate(found)
            if isinstance(figures, Mapping)
        }
    return {}


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is a mapping, an empty one if not: a service may be off, or its reading failed."""
    return value if isinstance(value, Mapping) else {}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _percent(part: float | None, whole: float | None) -> float | None:
    share = _ratio(part, whole)
    return None if share is None else min(100.0, share * 100)
