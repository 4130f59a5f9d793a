"""The figures that alerts and dashboards judge, of the last few minutes, from the status (pure).

Statistics count since the start: a rate of them says little about now, and less each day.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Struct

from bot.core.phase4_statistics.batch_processor import BatchProcessorFigures
from bot.core.phase4_statistics.cache_manager import CacheManagerFigures
from bot.core.phase4_statistics.connection_pools import PoolFigures
from bot.core.phase4_statistics.counting import MonotonicTotals, RecentIncrease
from bot.core.phase4_statistics.fields import Key, declared, gauge, is_number, key_of
from bot.core.phase4_statistics.load_balancer import LoadBalancerFigures
from bot.core.phase4_statistics.outbound import OutboundFigures
from bot.core.phase4_statistics.query_optimizer import QueryOptimizerFigures
from bot.core.phase4_statistics.rate_limiter import LimitFigures

WINDOW = 300.0
"""Seconds that the percentages and averages are of."""

PACE_WINDOW = 10.0
"""Seconds that the figures per second are of."""

Growth = Mapping[tuple[Key, str], float]
"""How much each counter grew, by its place and the name of the member that it is of."""


class Rate(Struct, frozen=True):
    """What some counters together grew by: for each that others did, or, without others, in a second."""

    part: tuple[Key, ...]
    whole: tuple[Key, ...] = ()
    percent: bool = False

    @property
    def service(self) -> str:
        """The service that it is of; the first, where it is of two."""
        return self.part[0].figures.service

    def of(self, lately: Growth, a_second: Growth) -> float | None:
        """Its value; None where nothing happened."""
        if not self.whole:
            return _sum(a_second, self.part)
        part, whole = _sum(lately, self.part), _sum(lately, self.whole)
        if part is None or not whole:
            return None
        return min(100.0, part / whole * 100) if self.percent else part / whole


def _keys(*figures: object) -> tuple[Key, ...]:
    return tuple(key_of(figure) for figure in figures)


def _percent(part: tuple[Key, ...], whole: tuple[Key, ...]) -> Rate:
    return Rate(part, whole, percent=True)


def _per_second(*figures: object) -> Rate:
    return Rate(_keys(*figures))


_QUERY_HITS = _keys(QueryOptimizerFigures.cache_hits)
_QUERY_LOOKUPS = _keys(QueryOptimizerFigures.cache_hits, QueryOptimizerFigures.cache_misses)
_HITS = _keys(CacheManagerFigures.total_hits)
_LOOKUPS = _keys(CacheManagerFigures.total_hits, CacheManagerFigures.total_misses)
# By limit and not in total: limits come and go, and a total that shrinks would look like a reset.
_BLOCKED = _keys(LimitFigures.blocked)
_LIMITED = _keys(LimitFigures.allowed, LimitFigures.blocked)

_HIT_RATE = gauge(
    "cache_hit_rate", "Percent of look-ups answered from the cache, last 5 minutes; NaN of none", "cache"
)


class RecentFigures(Struct, frozen=True):
    """What happened lately; None where nothing did (a rate of nothing is not zero)."""

    query_cache_hit_rate: Annotated[
        float | None, _percent(_QUERY_HITS, _QUERY_LOOKUPS), _HIT_RATE.of("query_optimizer")
    ] = None
    """Percent of the query optimizer's look-ups."""
    cache_hit_rate: Annotated[float | None, _percent(_HITS, _LOOKUPS), _HIT_RATE.of("cache_manager")] = None
    """Percent of the cache manager's look-ups, both tiers together."""
    overall_hit_rate: Annotated[float | None, _percent(_QUERY_HITS + _HITS, _QUERY_LOOKUPS + _LOOKUPS)] = None
    """Percent of the look-ups of both: where one cache stands before the other, what users experience."""
    cache_eviction_rate: Annotated[
        float | None,
        _percent(_keys(CacheManagerFigures.l1_evictions), _keys(CacheManagerFigures.l1_insertions)),
        gauge(
            "phase4_cache_eviction_rate_percent",
            "Percent of what was put into memory that displaced something, last 5 minutes; NaN of none",
        ),
    ] = None
    """Percent of what was put into L1 that displaced something else."""
    query_avg_execution_time_ms: Annotated[
        float | None,
        Rate(
            _keys(QueryOptimizerFigures.total_execution_time_ms),
            _keys(QueryOptimizerFigures.total_executions),
        ),
        gauge(
            "query_avg_execution_time",
            "Milliseconds of an execution on the database, average of the last 5 minutes; NaN of none",
        ),
    ] = None
    """Milliseconds of an execution on the database."""
    block_rate: Annotated[
        float | None,
        _percent(_BLOCKED, _LIMITED),
        gauge(
            "rate_limit_block_rate",
            "Percent of limited requests that were refused, last 5 minutes; NaN of none",
        ),
    ] = None
    """Percent of rate-limited requests that were refused."""
    # Of the last ten seconds.
    query_lookups_per_second: Annotated[float | None, Rate(_QUERY_LOOKUPS)] = None
    cache_lookups_per_second: Annotated[float | None, Rate(_LOOKUPS)] = None
    limited_requests_per_second: Annotated[float | None, Rate(_LIMITED)] = None
    queries_per_second: Annotated[float | None, _per_second(QueryOptimizerFigures.total_executions)] = None
    leases_per_second: Annotated[float | None, _per_second(PoolFigures.total_acquired)] = None
    batch_items_per_second: Annotated[
        float | None, _per_second(BatchProcessorFigures.total_items_processed)
    ] = None
    routed_requests_per_second: Annotated[float | None, _per_second(LoadBalancerFigures.total_requests)] = (
        None
    )
    sent_requests_per_second: Annotated[float | None, _per_second(OutboundFigures.sent)] = None


_RATES = dict(declared(RecentFigures, Rate))
_COUNTERS = tuple(dict.fromkeys(key for rate in _RATES.values() for key in rate.part + rate.whole))


class RecentReader:
    """Turns successive readings of the status into recent figures.

    Statistics that were reset in between do no harm. For one reader at a time.
    """

    def __init__(self, now: float) -> None:
        self._totals: MonotonicTotals[tuple[Key, str]] = MonotonicTotals()
        self._increase: RecentIncrease[tuple[Key, str]] = RecentIncrease(WINDOW, now)
        self._pace: RecentIncrease[tuple[Key, str]] = RecentIncrease(PACE_WINDOW, now)

    def read(self, now: float, services: Mapping[str, Any]) -> RecentFigures:
        """The figures at ``now`` (monotonic seconds); ``services`` is that part of the status."""
        totals: dict[tuple[Key, str], float] = {}
        for place in _COUNTERS:
            for member, figures in place.figures.told(services).items():
                reading = figures.get(place.key)
                if not is_number(reading):
                    continue
                total = self._totals.advance((place, member), float(reading))
                if total is not None:
                    totals[place, member] = total
        lately = self._increase.since(now, totals)
        a_second = self._pace.per_second(now, totals)
        return RecentFigures(**{name: rate.of(lately, a_second) for name, rate in _RATES.items()})


def _sum(growth: Growth, counters: tuple[Key, ...]) -> float | None:
    found = [added for (place, _), added in growth.items() if place in counters]
    return sum(found) if found else None
