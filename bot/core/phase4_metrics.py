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
from bot.core.phase4_statistics.batch_processor import BatchProcessorFigures
from bot.core.phase4_statistics.cache_manager import CacheManagerFigures
from bot.core.phase4_statistics.connection_pools import PoolFigures
from bot.core.phase4_statistics.counting import MonotonicTotals
from bot.core.phase4_statistics.fields import Figures, Metric, declared, gauge, is_number, mapping
from bot.core.phase4_statistics.load_balancer import InstanceFigures, LoadBalancerFigures
from bot.core.phase4_statistics.outbound import OutboundFigures
from bot.core.phase4_statistics.query_optimizer import QueryOptimizerFigures
from bot.core.phase4_statistics.rate_limiter import LimitFigures, RateLimiterFigures, SlotFigures
from bot.core.phase4_statistics.rolling_rates import Rate, RecentFigures, RecentReader

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.metrics_core import Metric as Family
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


class _Reading(NamedTuple):
    status: Mapping[str, Any]
    recent: RecentFigures
    histograms: list[HistogramSnapshot]


_INFO = gauge("phase4_info", "Version of the library", "version")
_SUCCESS = gauge(
    "phase4_scrape_success", "1 if the services could be read, 0 if the event loop did not answer in time"
)
_UPTIME = gauge("phase4_uptime_seconds", "Seconds since the services were started")
_ENABLED = gauge("phase4_service_enabled", "1 if the service is on", "service")

_FIGURES: tuple[type[Figures], ...] = (
    QueryOptimizerFigures,
    CacheManagerFigures,
    PoolFigures,
    RateLimiterFigures,
    LimitFigures,
    SlotFigures,
    BatchProcessorFigures,
    LoadBalancerFigures,
    InstanceFigures,
    OutboundFigures,
)
_SERVICES = tuple(dict.fromkeys(figures.service for figures in _FIGURES))

_RENAMED = {"instance": InstanceFigures.label}
"""Labels of histograms that have another name here; see InstanceFigures."""


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
        self._shown: dict[type[Figures], set[str]] = {}
        self._unanswered = False

    def describe(self) -> Iterable[Family]:
        """Every metric by name, without reading a service; a registry finds duplicates by it."""
        return _Families(self._totals).metrics()

    def collect(self) -> Iterable[Family]:
        """What a scrape gets."""
        reading = self._read()
        with self._lock:
            families = _Families(self._totals)
            families.add(_SUCCESS, (), reading is not None)
            families.add(_INFO, (__version__,), 1)
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
        families.add(_UPTIME, (), reading.status.get("uptime_seconds"))
        for service in _SERVICES:
            families.add(_ENABLED, (service,), service in services)
        for kind in _FIGURES:
            metrics = declared(kind, Metric)
            for member, figures in self._bounded(kind, services):
                for key, metric in metrics:
                    families.add(metric, (*member, *metric.values), figures.get(key))
        self._add_recent(families, reading.recent, services)
        for snapshot in reading.histograms:
            families.add_histogram(snapshot)

    def _bounded(
        self, kind: type[Figures], services: Mapping[str, Any]
    ) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
        """Figures with their member's label, if any; members beyond MAX_LABEL_VALUES, ever, are left out."""
        shown = self._shown.setdefault(kind, set())
        for name, figures in kind.told(services).items():
            if name in shown or len(shown) < MAX_LABEL_VALUES:
                shown.add(name)
                yield ((name,) if kind.label else ()), figures

    def _add_recent(self, families: _Families, recent: RecentFigures, services: Mapping[str, Any]) -> None:
        rates = dict(declared(RecentFigures, Rate))
        for field, metric in declared(RecentFigures, Metric):
            if rates[field].service in services:
                value = getattr(recent, field)
                # NaN compares as neither above nor below: a night without a request raises no alert.
                families.add(metric, metric.values, math.nan if value is None else value)


class _Families:
    """Metric families under construction, in the order in which they are declared."""

    def __init__(self, totals: MonotonicTotals[tuple[str, ...]]) -> None:
        self._totals = totals
        self._built: dict[str, Family] = {}
        for metric, labels in _every_metric():
            if metric.name not in self._built:
                family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                self._built[metric.name] = family(metric.name, metric.help, labels=labels)

    def add(self, metric: Metric, labels: tuple[str, ...], value: Any) -> None:
        """Add a sample; anything but a number is a key that is not there, and left out."""
        if not is_number(value):
            return
        family = self._built[metric.name]
        reading: float | None = float(value) * metric.scale
        if isinstance(family, CounterMetricFamily):
            assert reading is not None
            reading = self._totals.advance((metric.name, *labels), reading)
            if reading is None:
                return
        family.add_metric(labels, reading)  # type: ignore[attr-defined]

    def add_histogram(self, snapshot: HistogramSnapshot) -> None:
        """Add a histogram; those of one name share a family and the names of its labels."""
        name = f"phase4_{snapshot.name}"
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

    def metrics(self) -> list[Family]:
        return list(self._built.values())


def _every_metric() -> Iterator[tuple[Metric, tuple[str, ...]]]:
    """Every declared metric with the names of its labels; once for each figure."""
    for _, metric in declared(RecentFigures, Metric):
        yield metric, metric.labels
    for metric in (_INFO, _SUCCESS, _UPTIME, _ENABLED):
        yield metric, metric.labels
    for kind in _FIGURES:
        for _, metric in declared(kind, Metric):
            yield metric, (kind.label, *metric.labels) if kind.label else metric.labels


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
