"""The one Prometheus reader: what ``get_phase4_status`` tells, as metrics.

``register_phase4_metrics(registry)`` is all a bot needs. Nothing is counted twice and nothing is added
to the hot paths: figures are read when a server scrapes. The package prometheus-client is the extra
``metrics``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bot.core._shared import __version__
from bot.core._shared.histogram import HistogramSnapshot
from bot.core.enhanced_startup_phase4 import phase4_histograms, phase4_loop, phase4_status
from bot.core.phase4_statistics.counting import MonotonicTotals
from bot.core.phase4_statistics.rolling_rates import (
    RecentFigures,
    RecentReader,
    instances,
    is_number,
    mapping,
    pools,
)

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ImportError as error:  # pragma: no cover - every test environment has it
    raise ImportError(
        "metrics need prometheus-client: pip install prometheus-client", name="prometheus-client"
    ) from error

__all__ = ["Phase4Collector", "register_phase4_metrics"]

logger = logging.getLogger(__name__)

SCRAPE_TIMEOUT = 5.0
"""Seconds that a scrape from another thread waits for the event loop to answer."""

MAX_LABEL_VALUES = 100
"""Pools, limits and instances shown each; a bot that makes up names must not make up series."""

_SERVICES = (
    "query_optimizer",
    "cache_manager",
    "connection_pool_manager",
    "rate_limiter",
    "batch_processor",
    "load_balancer",
    "outbound",
)


class _Reading(NamedTuple):
    status: Mapping[str, Any]
    recent: RecentFigures
    histograms: list[HistogramSnapshot]


class _Figure(NamedTuple):
    """One key of the statistics and the metric it becomes."""

    key: str
    metric: str
    labels: tuple[str, ...] = ()
    scale: float = 1.0


# name -> (type, help, names of labels). The first five are those of the guide's alert rules.
_FAMILIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "cache_hit_rate": (
        "gauge",
        "Percent of look-ups answered from the cache, last 5 minutes; NaN of none",
        ("cache",),
    ),
    "rate_limit_block_rate": (
        "gauge",
        "Percent of limited requests that were refused, last 5 minutes; NaN of none",
        (),
    ),
    "pool_active_connections": ("gauge", "Connections on loan", ("pool",)),
    "pool_max_size": ("gauge", "Connections the pool may have", ("pool",)),
    "query_avg_execution_time": (
        "gauge",
        "Milliseconds of an execution on the database, average of the last 5 minutes; NaN of none",
        (),
    ),
    "phase4_info": ("gauge", "Version of the library", ("version",)),
    "phase4_scrape_success": (
        "gauge",
        "1 if the services could be read, 0 if the event loop did not answer in time",
        (),
    ),
    "phase4_uptime_seconds": ("gauge", "Seconds since the services were started", ()),
    "phase4_service_enabled": ("gauge", "1 if the service is on", ("service",)),
    "phase4_service_degraded": ("gauge", "1 if the service goes on without its backend", ("service",)),
    "phase4_query_cache_hits": ("counter", "Query results answered from the cache", ()),
    "phase4_query_cache_misses": ("counter", "Query results that were not in the cache", ()),
    "phase4_query_cache_entries": ("gauge", "Query results held", ()),
    "phase4_query_cache_bytes": ("gauge", "Bytes of query results held", ()),
    "phase4_query_cache_evictions": ("counter", "Query results displaced by others", ()),
    "phase4_query_executions": ("counter", "Executions on the database", ()),
    "phase4_query_execution_seconds": ("counter", "Seconds of executions on the database", ()),
    "phase4_query_slow_executions": ("counter", "Executions at or above the slow-query threshold", ()),
    "phase4_query_shapes": ("gauge", "Distinct query shapes known", ()),
    "phase4_query_n_plus_one_patterns": ("gauge", "Query shapes found to run once per row", ()),
    "phase4_cache_hits": ("counter", "Look-ups answered, by tier (l1: memory, l2: Redis)", ("tier",)),
    "phase4_cache_misses": ("counter", "Look-ups a tier could not answer", ("tier",)),
    "phase4_cache_entries": ("gauge", "Entries in memory", ("tier",)),
    "phase4_cache_bytes": ("gauge", "Bytes in memory", ("tier",)),
    "phase4_cache_max_bytes": ("gauge", "Bytes the cache may take in memory", ("tier",)),
    "phase4_cache_evictions": ("counter", "Entries displaced by others", ("tier",)),
    "phase4_cache_insertions": ("counter", "Entries put into memory", ("tier",)),
    "phase4_cache_eviction_rate_percent": (
        "gauge",
        "Percent of what was put into memory that displaced something, last 5 minutes; NaN of none",
        (),
    ),
    "phase4_cache_l2_configured": ("gauge", "1 if there is a Redis behind the memory", ()),
    "phase4_cache_l2_connected": ("gauge", "1 while Redis answers", ()),
    "phase4_cache_l2_errors": ("counter", "Operations that Redis refused or did not answer", ()),
    "phase4_cache_loads": ("counter", "Loaders run", ()),
    "phase4_cache_load_failures": ("counter", "Loaders that raised", ()),
    "phase4_cache_stale_served": ("counter", "Expired values served because a loader failed", ()),
    "phase4_cache_warming_tasks": ("gauge", "Keys kept warm", ()),
    "phase4_pool_connections": ("gauge", "Connections by state", ("pool", "state")),
    "phase4_pool_min_size": ("gauge", "Connections the pool keeps", ("pool",)),
    "phase4_pool_utilization_percent": ("gauge", "Connections on loan, percent of the most", ("pool",)),
    "phase4_pool_waiters": ("gauge", "Callers that wait for a connection", ("pool",)),
    "phase4_pool_acquired": ("counter", "Leases", ("pool",)),
    "phase4_pool_released": ("counter", "Leases given back", ("pool",)),
    "phase4_pool_failed_acquisitions": ("counter", "Callers that got no connection", ("pool",)),
    "phase4_pool_connect_failures": ("counter", "Connections that could not be opened", ("pool",)),
    "phase4_pool_leaked": ("counter", "Leases held beyond the leak threshold", ("pool",)),
    "phase4_pool_longest_lease_seconds": ("gauge", "Age of the oldest lease", ("pool",)),
    "phase4_pool_overdue_calls": ("gauge", "Calls that have had no answer for long", ("pool",)),
    "phase4_pool_query_timeouts": ("counter", "Calls ended for their timeout", ("pool",)),
    "phase4_pool_demoted": ("gauge", "1 while the server takes no writes", ("pool",)),
    "phase4_pool_healthy": ("gauge", "1 while the pool can connect", ("pool",)),
    "phase4_rate_limit_requests": ("counter", "Requests by limit and outcome", ("tier", "outcome")),
    "phase4_rate_limit_active_clients": ("gauge", "Clients whose bucket is not full", ("tier",)),
    "phase4_batch_pending_items": ("gauge", "Items that wait or are being handled", ()),
    "phase4_batch_max_pending_items": ("gauge", "Items that may be pending; beyond, they are refused", ()),
    "phase4_batch_stream_length": ("gauge", "Durable mode: items of all instances that have not ended", ()),
    "phase4_batch_reclaimed_items": ("counter", "Durable mode: items taken over from another instance", ()),
    "phase4_batch_pending_batches": ("gauge", "Batches that wait or are being handled", ()),
    "phase4_batch_batches": ("counter", "Batches by outcome", ("outcome",)),
    "phase4_batch_items": ("counter", "Items by outcome", ("outcome",)),
    "phase4_batch_retries": ("counter", "Handler runs that repeated a failed one", ()),
    "phase4_batch_dead_letters": ("gauge", "Items given up on and kept for a look", ()),
    "phase4_batch_average_size": ("gauge", "Items of a batch on average", ()),
    "phase4_batch_throughput_items_per_second": ("gauge", "Items that ended, lately", ()),
    "phase4_load_balancer_instances": ("gauge", "Instances known", ()),
    "phase4_load_balancer_healthy_instances": ("gauge", "Instances that get requests", ()),
    "phase4_load_balancer_requests": ("counter", "Requests routed by outcome", ("outcome",)),
    "phase4_load_balancer_retries": ("counter", "Requests sent again to another instance", ()),
    "phase4_load_balancer_average_response_seconds": ("gauge", "Response time on average", ()),
    "phase4_load_balancer_distribution_variance_percent": (
        "gauge",
        "How far requests are from their share, percent",
        (),
    ),
    # Not "instance": that is Prometheus's own name for what it scrapes, and would be renamed there.
    "phase4_load_balancer_instance_healthy": ("gauge", "1 while the instance is healthy", ("bot_instance",)),
    "phase4_load_balancer_instance_active": ("gauge", "Requests in progress", ("bot_instance",)),
    "phase4_load_balancer_instance_requests": ("counter", "Requests by instance", ("bot_instance",)),
    "phase4_load_balancer_instance_failures": ("counter", "Failed requests by instance", ("bot_instance",)),
    "phase4_outbound_requests": ("counter", "Requests to Telegram by outcome", ("outcome",)),
    "phase4_outbound_queued": ("gauge", "Requests that wait to leave", ()),
    "phase4_outbound_max_queued": ("gauge", "Requests that may wait; beyond, they are refused", ()),
    "phase4_outbound_in_flight": ("gauge", "Requests that have left and have no answer yet", ()),
    "phase4_outbound_refusals": ("counter", "Requests that Telegram refused with a wait", ("scope",)),
    "phase4_outbound_retries": ("counter", "Requests that wait for another try after a refusal", ()),
    "phase4_outbound_chats_held": ("gauge", "Chats that Telegram said to wait for", ()),
    "phase4_outbound_broadcasts_running": ("gauge", "Broadcasts that run", ()),
    "phase4_outbound_broadcasts_finished": ("counter", "Broadcasts that have reached their end", ()),
    "phase4_outbound_broadcast_recipients": (
        "counter",
        "Recipients of broadcasts by outcome",
        ("outcome",),
    ),
    "phase4_outbound_held_globally_seconds": ("gauge", "Seconds for which nothing is sent to anybody", ()),
}

_RENAMED = {"instance": "bot_instance"}

_MB = 1_048_576.0

_FIGURES: dict[str, tuple[_Figure, ...]] = {
    "query_optimizer": (
        _Figure("cache_hits", "phase4_query_cache_hits"),
        _Figure("cache_misses", "phase4_query_cache_misses"),
        _Figure("cached_results_count", "phase4_query_cache_entries"),
        _Figure("cached_results_mb", "phase4_query_cache_bytes", scale=_MB),
        _Figure("cache_evictions", "phase4_query_cache_evictions"),
        _Figure("total_executions", "phase4_query_executions"),
        _Figure("total_execution_time_ms", "phase4_query_execution_seconds", scale=0.001),
        _Figure("slow_queries", "phase4_query_slow_executions"),
        _Figure("total_unique_queries", "phase4_query_shapes"),
        _Figure("n_plus_one_patterns", "phase4_query_n_plus_one_patterns"),
    ),
    "cache_manager": (
        _Figure("l1_hits", "phase4_cache_hits", ("l1",)),
        _Figure("l2_hits", "phase4_cache_hits", ("l2",)),
        _Figure("l1_misses", "phase4_cache_misses", ("l1",)),
        _Figure("l2_misses", "phase4_cache_misses", ("l2",)),
        _Figure("l1_entries", "phase4_cache_entries", ("l1",)),
        _Figure("l1_memory_mb", "phase4_cache_bytes", ("l1",), _MB),
        _Figure("l1_max_size_mb", "phase4_cache_max_bytes", ("l1",), _MB),
        _Figure("l1_evictions", "phase4_cache_evictions", ("l1",)),
        _Figure("l1_insertions", "phase4_cache_insertions", ("l1",)),
        _Figure("l2_enabled", "phase4_cache_l2_configured"),
        _Figure("l2_connected", "phase4_cache_l2_connected"),
        _Figure("l2_errors", "phase4_cache_l2_errors"),
        _Figure("loads", "phase4_cache_loads"),
        _Figure("load_failures", "phase4_cache_load_failures"),
        _Figure("stale_served", "phase4_cache_stale_served"),
        _Figure("warming_tasks", "phase4_cache_warming_tasks"),
    ),
    "batch_processor": (
        _Figure("pending_items", "phase4_batch_pending_items"),
        _Figure("max_pending", "phase4_batch_max_pending_items"),
        _Figure("stream_length", "phase4_batch_stream_length"),
        _Figure("reclaimed_items", "phase4_batch_reclaimed_items"),
        _Figure("pending_batches", "phase4_batch_pending_batches"),
        _Figure("completed_batches", "phase4_batch_batches", ("completed",)),
        _Figure("failed_batches", "phase4_batch_batches", ("failed",)),
        _Figure("total_items_processed", "phase4_batch_items", ("processed",)),
        _Figure("failed_items", "phase4_batch_items", ("failed",)),
        _Figure("cancelled_items", "phase4_batch_items", ("cancelled",)),
        _Figure("dead_lettered_items", "phase4_batch_items", ("dead_lettered",)),
        _Figure("refused_items", "phase4_batch_items", ("refused",)),
        _Figure("retries", "phase4_batch_retries"),
        _Figure("dead_letters", "phase4_batch_dead_letters"),
        _Figure("avg_batch_size", "phase4_batch_average_size"),
        _Figure("throughput_items_per_sec", "phase4_batch_throughput_items_per_second"),
    ),
    "load_balancer": (
        _Figure("total_instances", "phase4_load_balancer_instances"),
        _Figure("healthy_instances", "phase4_load_balancer_healthy_instances"),
        _Figure("successful_requests", "phase4_load_balancer_requests", ("succeeded",)),
        _Figure("failed_requests", "phase4_load_balancer_requests", ("failed",)),
        _Figure("average_response_time_ms", "phase4_load_balancer_average_response_seconds", scale=0.001),
        _Figure("rejected_requests", "phase4_load_balancer_requests", ("rejected",)),
        _Figure("retries", "phase4_load_balancer_retries"),
        _Figure("distribution_variance", "phase4_load_balancer_distribution_variance_percent"),
    ),
    "outbound": (
        _Figure("sent", "phase4_outbound_requests", ("sent",)),
        _Figure("failed", "phase4_outbound_requests", ("failed",)),
        _Figure("cancelled", "phase4_outbound_requests", ("cancelled",)),
        _Figure("unqueued", "phase4_outbound_requests", ("unqueued",)),
        _Figure("superseded", "phase4_outbound_requests", ("superseded",)),
        _Figure("unchanged", "phase4_outbound_requests", ("unchanged",)),
        _Figure("dropped", "phase4_outbound_requests", ("dropped",)),
        _Figure("expired", "phase4_outbound_requests", ("expired",)),
        _Figure("held_too_long", "phase4_outbound_requests", ("held_too_long",)),
        _Figure("refused_full", "phase4_outbound_requests", ("refused_full",)),
        _Figure("queued", "phase4_outbound_queued"),
        _Figure("max_pending", "phase4_outbound_max_queued"),
        _Figure("in_flight", "phase4_outbound_in_flight"),
        _Figure("refusals_chat", "phase4_outbound_refusals", ("chat",)),
        _Figure("refusals_global", "phase4_outbound_refusals", ("global",)),
        _Figure("retries", "phase4_outbound_retries"),
        _Figure("chats_held", "phase4_outbound_chats_held"),
        _Figure("held_globally_seconds", "phase4_outbound_held_globally_seconds"),
        _Figure("broadcasts_running", "phase4_outbound_broadcasts_running"),
        _Figure("broadcasts_finished", "phase4_outbound_broadcasts_finished"),
        _Figure("broadcast_sent", "phase4_outbound_broadcast_recipients", ("sent",)),
        _Figure("broadcast_blocked", "phase4_outbound_broadcast_recipients", ("blocked",)),
        _Figure("broadcast_deactivated", "phase4_outbound_broadcast_recipients", ("deactivated",)),
        _Figure("broadcast_not_found", "phase4_outbound_broadcast_recipients", ("not_found",)),
        _Figure("broadcast_failed", "phase4_outbound_broadcast_recipients", ("failed",)),
    ),
}

# Of each pool, limit and instance; its name is the first label.
_POOL_FIGURES = (
    _Figure("active_connections", "pool_active_connections"),
    _Figure("max_size", "pool_max_size"),
    _Figure("active_connections", "phase4_pool_connections", ("active",)),
    _Figure("idle_connections", "phase4_pool_connections", ("idle",)),
    _Figure("busy_connections", "phase4_pool_connections", ("busy",)),
    _Figure("opening_connections", "phase4_pool_connections", ("opening",)),
    _Figure("min_size", "phase4_pool_min_size"),
    _Figure("utilization_percent", "phase4_pool_utilization_percent"),
    _Figure("waiting", "phase4_pool_waiters"),
    _Figure("total_acquired", "phase4_pool_acquired"),
    _Figure("total_released", "phase4_pool_released"),
    _Figure("failed_acquisitions", "phase4_pool_failed_acquisitions"),
    _Figure("connect_failures", "phase4_pool_connect_failures"),
    _Figure("leaked", "phase4_pool_leaked"),
    _Figure("longest_lease_seconds", "phase4_pool_longest_lease_seconds"),
    _Figure("overdue_calls", "phase4_pool_overdue_calls"),
    _Figure("query_timeouts", "phase4_pool_query_timeouts"),
    _Figure("demoted", "phase4_pool_demoted"),
    _Figure("healthy", "phase4_pool_healthy"),
)
_LIMIT_FIGURES = (
    _Figure("allowed", "phase4_rate_limit_requests", ("allowed",)),
    _Figure("blocked", "phase4_rate_limit_requests", ("blocked",)),
    _Figure("active_clients", "phase4_rate_limit_active_clients"),
)
_INSTANCE_FIGURES = (
    _Figure("healthy", "phase4_load_balancer_instance_healthy"),
    _Figure("active_requests", "phase4_load_balancer_instance_active"),
    _Figure("total_requests", "phase4_load_balancer_instance_requests"),
    _Figure("failed_requests", "phase4_load_balancer_instance_failures"),
)


class Phase4Collector(Collector):
    """The services as Prometheus metrics, read at each scrape.

    May be collected from any thread: the services are read on the event loop that uses them. Counters
    never go back, also when statistics are reset: what a reset took away stays in the total (but for
    what was counted since the scrape before it). Services that are off, and keys that a version does
    not have, are left out.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        more_histograms: Callable[[], Iterable[HistogramSnapshot]] = tuple,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._more_histograms = more_histograms
        # Scrapes may come from several threads at once; what follows is theirs together.
        self._lock = threading.Lock()
        self._recent = RecentReader(clock())
        self._totals: MonotonicTotals[tuple[str, ...]] = MonotonicTotals()
        self._shown: dict[str, set[str]] = {}
        self._unanswered = False

    def describe(self) -> Iterable[Metric]:
        """Every metric by name, without reading a service; a registry finds duplicates by it."""
        return _Families(self._totals).metrics()

    def collect(self) -> Iterable[Metric]:
        """What a scrape gets."""
        reading = self._read()
        with self._lock:
            families = _Families(self._totals)
            families.add("phase4_scrape_success", (), reading is not None)
            families.add("phase4_info", (__version__,), 1)
            if reading is not None:
                self._fill(families, reading)
            return families.metrics()

    def _read(self) -> _Reading | None:
        """Read the services on the event loop that uses them; None if it does not answer."""
        loop = self._loop if self._loop is not None and not self._loop.is_closed() else phase4_loop()
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if loop is None or loop is here or not loop.is_running():
            return self._read_here()
        answer: concurrent.futures.Future[_Reading] = concurrent.futures.Future()

        def read() -> None:
            if not answer.set_running_or_notify_cancel():
                return  # the scrape has timed out
            try:
                answer.set_result(self._read_here())
            except BaseException as error:
                answer.set_exception(error)

        try:
            loop.call_soon_threadsafe(read)
            reading = answer.result(SCRAPE_TIMEOUT)
        except (TimeoutError, RuntimeError):  # blocked, or closed since
            answer.cancel()
            if not self._unanswered:
                logger.warning("Metrics: the event loop did not answer within %g s", SCRAPE_TIMEOUT)
            self._unanswered = True
            return None
        self._unanswered = False
        return reading

    def _read_here(self) -> _Reading:
        status = phase4_status()
        with self._lock:
            recent = self._recent.read(self._clock(), status["services"])
        return _Reading(status, recent, [*phase4_histograms(), *self._more_histograms()])

    def _fill(self, families: _Families, reading: _Reading) -> None:
        services = mapping(reading.status.get("services"))
        families.add("phase4_uptime_seconds", (), reading.status.get("uptime_seconds"))
        for service in _SERVICES:
            figures = mapping(services.get(service))
            families.add("phase4_service_enabled", (service,), service in services)
            families.add("phase4_service_degraded", (service,), figures.get("degraded"))
            for figure in _FIGURES.get(service, ()):
                families.add(figure.metric, figure.labels, figures.get(figure.key), figure.scale)
        for group, members, wanted in (
            ("pool", pools(services), _POOL_FIGURES),
            ("tier", mapping(mapping(services.get("rate_limiter")).get("limits")), _LIMIT_FIGURES),
            ("bot_instance", instances(services), _INSTANCE_FIGURES),
        ):
            for name, known in self._bounded(group, members):
                for figure in wanted:
                    families.add(figure.metric, (name, *figure.labels), known.get(figure.key), figure.scale)
        self._add_recent(families, reading.recent, services)
        for snapshot in reading.histograms:
            families.add_histogram(snapshot)

    def _bounded(self, group: str, members: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Members by name; those beyond MAX_LABEL_VALUES, ever, are left out."""
        shown = self._shown.setdefault(group, set())
        for name, figures in members.items():
            if name in shown or len(shown) < MAX_LABEL_VALUES:
                shown.add(name)
                yield str(name), mapping(figures)

    def _add_recent(self, families: _Families, recent: RecentFigures, services: Mapping[str, Any]) -> None:
        for service, metric, labels, value in (
            ("query_optimizer", "cache_hit_rate", ("query_optimizer",), recent.query_cache_hit_rate),
            ("cache_manager", "cache_hit_rate", ("cache_manager",), recent.cache_hit_rate),
            ("cache_manager", "phase4_cache_eviction_rate_percent", (), recent.cache_eviction_rate),
            ("rate_limiter", "rate_limit_block_rate", (), recent.block_rate),
            ("query_optimizer", "query_avg_execution_time", (), recent.query_avg_execution_time_ms),
        ):
            if service in services:
                # NaN compares as neither above nor below: a night without a request raises no alert.
                families.add(metric, labels, math.nan if value is None else value)


class _Families:
    """Metric families under construction, in the order of the table."""

    def __init__(self, totals: MonotonicTotals[tuple[str, ...]]) -> None:
        self._totals = totals
        self._built: dict[str, Metric] = {
            name: (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(name, text, labels=labels)
            for name, (kind, text, labels) in _FAMILIES.items()
        }

    def add(self, name: str, labels: tuple[str, ...], value: Any, scale: float = 1.0) -> None:
        """Add a sample; anything but a number is a key that is not there, and left out."""
        if not is_number(value):
            return
        family = self._built[name]
        reading: float | None = float(value) * scale
        if isinstance(family, CounterMetricFamily):
            assert reading is not None
            reading = self._totals.advance((name, *labels), reading)
            if reading is None:
                return
        family.add_metric(labels, reading)  # type: ignore[attr-defined]

    def add_histogram(self, snapshot: HistogramSnapshot) -> None:
        """Add a histogram; those of one name share a family and the names of its labels."""
        name = f"phase4_{snapshot.name}"
        # See phase4_load_balancer_instance_healthy for why "instance" is renamed.
        given = {_RENAMED.get(label, label): value for label, value in snapshot.labels.items()}
        names = sorted(given)
        family = self._built.get(name)
        if family is None:
            family = HistogramMetricFamily(name, snapshot.description, labels=names)
            self._built[name] = family
        labels = tuple(str(given[label]) for label in names)
        key = (name, *labels)
        # Bucket by bucket, since each is a counter; what a reset took away stays in all of them.
        below = 0.0
        buckets: list[tuple[str, float]] = []
        previous = 0
        for bound, count in [*snapshot.buckets, (math.inf, snapshot.count)]:
            grown = self._totals.advance((*key, repr(bound)), float(count - previous))
            previous = count
            if grown is None:
                return
            below += grown
            buckets.append(("+Inf" if math.isinf(bound) else repr(bound), below))
        total = self._totals.advance((*key, "sum"), snapshot.sum)
        if total is not None:
            family.add_metric(labels, buckets, total)  # type: ignore[attr-defined]

    def metrics(self) -> list[Metric]:
        return list(self._built.values())


def register_phase4_metrics(
    registry: CollectorRegistry = REGISTRY, *, loop: asyncio.AbstractEventLoop | None = None
) -> Phase4Collector:
    """Show the services in ``registry`` (by default that of ``prometheus_client.start_http_server``).

    ``loop`` is the event loop that uses the services; without it the running one, or the one that
    ``initialize_phase4_services`` ran on. Returns the collector, for ``registry.unregister``. Raises
    ValueError if the registry has these metrics already.
    """
    if loop is None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
    collector = Phase4Collector(loop)
    registry.register(collector)
    return collector
