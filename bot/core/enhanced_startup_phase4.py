"""Where Phase 4 is put together: build, wire, start in order, stop in reverse, report.

Importing this module imports no service and no driver; each is imported when its flag is set.
The decorators ``cached``, ``optimize_query`` and ``rate_limited`` can be imported from here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bot.core._shared.errors import message_of
from bot.core._shared.masking import MAX_TOLD, masked_traceback, one_line
from bot.core._shared.tasks import LoopLocalLock
from bot.core.phase4_config import EXPLAINING, ConfigError, Phase4Config, TierBackoff
from bot.core.phase4_service import Phase4Service

if TYPE_CHECKING:
    from bot.core._shared.histogram import HistogramSnapshot
    from bot.core.cache_manager import cached
    from bot.core.phase4_admin.library import Library
    from bot.core.query_optimizer import optimize_query
    from bot.core.rate_limiter import rate_limited

__all__ = [
    "cached",
    "get_phase4_status",
    "initialize_phase4_services",
    "optimize_query",
    "rate_limited",
    "reset_phase4_services",
    "shutdown_phase4_services",
]

logger = logging.getLogger(__name__)


class _Wiring(NamedTuple):
    """One service: the flag that switches it on, where its class lives, and how it is enabled."""

    flag: str
    package: str
    class_name: str
    enable: Callable[[Any, Phase4Config], Awaitable[Any]]

    def service_class(self) -> type[Phase4Service] | None:
        """The class, imported; None while this version does not have the service."""
        module = importlib.import_module(f"bot.core.{self.package}")
        return getattr(module, self.class_name, None)

    def instance(self) -> Phase4Service | None:
        """The process's instance, enabled or not; imports nothing and makes none."""
        module = sys.modules.get(f"bot.core.{self.package}")
        found = getattr(module, self.class_name, None)
        return Phase4Service._instances.get(found) if found is not None else None

    def running(self) -> Phase4Service | None:
        """The process's instance if it is enabled; imports nothing."""
        instance = self.instance()
        return instance if instance is not None and instance.enabled else None


async def _enable_query_optimizer(optimizer: Any, config: Phase4Config) -> None:
    await optimizer.enable(**config.query_optimizer.values("explain_pool", "explain_timeout"))
    _explain(optimizer, config)
    if config.ENABLE_CACHE_MANAGER and config.CACHE_L2_REDIS_URL:
        # The cache's instances hear of each other; so a write here drops results over there too.
        from bot.core.cache_manager import CacheManager

        cache = CacheManager.get_instance()
        optimizer.after_write(lambda tables: cache.tell(_TABLES_WRITTEN, tables))
        cache.listen(_TABLES_WRITTEN, optimizer.written_elsewhere)
    else:
        optimizer.after_write(None)


def _explain(optimizer: Any, config: Phase4Config) -> None:
    """Hand the optimizer the pool that it asks for plans, or take it away."""
    name = config.QUERY_OPTIMIZER_EXPLAIN_POOL
    if name and not config.ENABLE_CONNECTION_POOLING:
        logger.warning(
            "QUERY_OPTIMIZER_EXPLAIN_POOL = %r: no plans while ENABLE_CONNECTION_POOLING is off", name
        )
    if not name or not config.ENABLE_CONNECTION_POOLING:
        optimizer.explain_with(None)
        return
    from bot.core.connection_pool_manager import ConnectionPoolManager
    from bot.core.query_optimizer.plans.explain import pool_explainer

    dialect = EXPLAINING[config.DATABASE_POOLS[name].backend]
    timeout = config.QUERY_OPTIMIZER_EXPLAIN_TIMEOUT
    explainer = pool_explainer(ConnectionPoolManager.get_instance(), name, dialect, timeout)
    optimizer.explain_with(explainer, dialect, timeout=timeout)


async def _enable_rate_limiter(limiter: Any, config: Phase4Config) -> None:
    from bot.core.rate_limiter import Backoff, RateLimitConfig

    def backoff(own: bool | TierBackoff) -> Backoff | Literal["default"] | None:
        if isinstance(own, bool):
            return "default" if own else None
        return Backoff(own.base, own.max, own.grace)

    settings = config.rate_limiter
    await limiter.enable(
        default_limit=RateLimitConfig(settings.default_rps, settings.burst_size),
        tiers={
            tier: RateLimitConfig(limit.requests_per_second, limit.burst_size, backoff=backoff(limit.backoff))
            for tier, limit in settings.tiers.items()
        },
        **settings.values("default_rps", "burst_size", "tiers"),
    )


async def _enable_cache_manager(cache: Any, config: Phase4Config) -> None:
    await cache.enable(**config.cache_manager.values())


async def _enable_connection_pool_manager(pools: Any, config: Phase4Config) -> None:
    from bot.core.connection_pool_manager.specs import urls_of

    settings = config.connection_pools
    await pools.enable(
        **settings.sizes(),
        pools=settings.pools,
        urls={**urls_of(config), "DATABASE_URL": settings.database_url},
    )


async def _enable_batch_processor(processor: Any, config: Phase4Config) -> None:
    await processor.enable(**config.batch_processor.values())


async def _enable_load_balancer(balancer: Any, config: Phase4Config) -> None:
    await balancer.enable(**config.load_balancer.values())


async def _enable_outbound(outbound: Any, config: Phase4Config) -> None:
    from bot.core.outbound import Limits

    settings = config.outbound
    await outbound.enable(
        Limits(
            group=(settings.group_limit, settings.group_window),
            chat=(1, 1.0 / settings.chat_rate),
            chat_burst=settings.chat_burst,
            bulk=(settings.bulk_limit, 1.0),
            bulk_reserve=settings.bulk_reserve,
            edits=settings.edits,
            typing=settings.typing_limits,
            paid=(settings.paid_limit, 1.0),
        ),
        max_pending=settings.max_pending,
        max_in_flight=settings.max_in_flight,
        max_wait=settings.max_wait,
        drain_timeout=settings.drain_timeout,
        skip_equal_edits=settings.skip_equal_edits,
        broadcast_store=settings.broadcast_store,
        redis_url=settings.redis_url,
        bot_id=settings.bot_id or "default",
    )


# In the order of start: what others may lean on comes first. Stopped in reverse.
_SERVICES = (
    _Wiring(
        "ENABLE_CONNECTION_POOLING",
        "connection_pool_manager",
        "ConnectionPoolManager",
        _enable_connection_pool_manager,
    ),
    _Wiring("ENABLE_CACHE_MANAGER", "cache_manager", "CacheManager", _enable_cache_manager),
    _Wiring("ENABLE_QUERY_OPTIMIZER", "query_optimizer", "QueryOptimizer", _enable_query_optimizer),
    _Wiring("ENABLE_RATE_LIMITER", "rate_limiter", "RateLimiter", _enable_rate_limiter),
    _Wiring("ENABLE_BATCH_PROCESSOR", "batch_processor", "BatchProcessor", _enable_batch_processor),
    _Wiring("ENABLE_LOAD_BALANCER", "load_balancer", "LoadBalancer", _enable_load_balancer),
    _Wiring("ENABLE_OUTBOUND", "outbound", "Outbound", _enable_outbound),
)


_TABLES_WRITTEN = "query_optimizer.tables_written"


class _Runtime:
    """What the start-up itself remembers. Changed only by initialize and shutdown."""

    def __init__(self) -> None:
        self.transition = LoopLocalLock()
        self.started_at: float | None = None
        self.process: Any = None
        self.loop: asyncio.AbstractEventLoop | None = None


_runtime = _Runtime()


async def initialize_phase4_services(
    config: Mapping[str, Any] | Phase4Config | None = None,
) -> dict[str, Any]:
    """Start every service whose ``ENABLE_*`` flag is set; stop those whose flag no longer is.

    ``config`` overrides every other source of settings (see ``phase4_config``). Returns ``success``,
    ``errors`` (each names the service or setting), ``warnings`` (what runs, but not as it was set: a pool
    whose server is not there yet), ``services_initialized`` (class names) and ``summary``. Never raises
    for a bad setting or a service that cannot start: a bad setting changes nothing, and a service that
    cannot start stays off without stopping the others.
    """
    async with _runtime.transition:
        _runtime.loop = asyncio.get_running_loop()
        try:
            settings = config if isinstance(config, Phase4Config) else Phase4Config.load(config)
        except ConfigError as error:
            logger.error("Phase 4 not started: %s", one_line("; ".join(error.problems), MAX_TOLD))
            return _report([], [f"configuration: {problem}" for problem in error.problems])
        started: list[str] = []
        errors: list[str] = []
        warnings: list[str] = []
        fresh: list[Phase4Service] = []
        try:
            for wiring in _SERVICES:
                running = wiring.running()
                if not getattr(settings, wiring.flag):
                    if running is not None:
                        try:
                            await running.disable()
                        except Exception as error:
                            _tell(wiring, error, errors)
                    continue
                found = None
                try:
                    found = wiring.service_class()
                    if found is None:
                        errors.append(f"{wiring.class_name}: not part of this version; unset {wiring.flag}")
                        continue
                    instance = found.get_instance()
                    if running is None:
                        fresh.append(instance)
                    await wiring.enable(instance, settings)
                    started.append(wiring.class_name)
                except Exception as error:
                    _tell(wiring, error, errors)
                    if found is not None and found.get_instance().enabled:
                        started.append(wiring.class_name)  # in part, such as all pools but one
                if found is not None and found.get_instance().enabled:
                    warnings += [_said(wiring, warning) for warning in found.get_instance().warnings()]
        except BaseException:
            # Cancelled half-way: what this call started, nobody would know to stop.
            for instance in reversed(fresh):
                await instance.disable()
            raise
        if started and _runtime.started_at is None:
            _runtime.started_at = time.monotonic()
        if not started:
            _runtime.started_at = None
        report = _report(started, errors, warnings)
        logger.info("%s", report["summary"])
        return report


def _tell(wiring: _Wiring, error: Exception, errors: list[str]) -> None:
    """Log what a service failed with, and add it to the report."""
    message = _said(wiring, message_of(error) or type(error).__name__)
    logger.error("Phase 4: %s", message)
    errors.append(message)


def _said(wiring: _Wiring, text: str) -> str:
    return one_line(f"{wiring.class_name}: {text}", MAX_TOLD)


def _report(started: list[str], errors: list[str], warnings: Sequence[str] = ()) -> dict[str, Any]:
    if started:
        summary = f"Phase 4: {len(started)} service(s) running: {', '.join(started)}"
    elif errors:
        summary = "Phase 4: no service running"
    else:
        summary = "Phase 4 is off: no ENABLE_* flag is set"
    if errors:
        summary += f"; {len(errors)} error(s)"
    if warnings:
        summary += f"; {len(warnings)} warning(s)"
    return {
        "success": not errors,
        "errors": errors,
        "warnings": list(warnings),
        "services_initialized": started,
        "summary": summary,
    }


async def get_phase4_status() -> dict[str, Any]:
    """What runs and how it does, measured now.

    ``timestamp`` (ISO 8601, UTC), ``uptime_seconds``, ``process``, and the statistics of each enabled
    service, both at the top level and under ``services``. Cheap enough to be polled every second.
    """
    return phase4_status()


def phase4_status() -> dict[str, Any]:
    """:func:`get_phase4_status` for code that cannot await, on the thread that uses the services."""
    services: dict[str, Any] = {}
    for wiring in _SERVICES:
        instance = wiring.running()
        if instance is None:
            continue
        try:
            services[wiring.package] = instance.statistics()
        except Exception as error:
            logger.error("Phase 4: statistics of %s failed\n%s", wiring.class_name, masked_traceback(error))
            services[wiring.package] = {"enabled": True, "error": one_line(error)}
    started_at = _runtime.started_at
    return {
        "timestamp": datetime.now(UTC).isoformat(),
        "uptime_seconds": 0.0 if started_at is None else round(time.monotonic() - started_at, 3),
        "process": _process_figures(),
        **services,
        "services": services,
    }


def phase4_histograms() -> list[HistogramSnapshot]:
    """Waits and durations of the running services, for a metrics reader."""
    found: list[HistogramSnapshot] = []
    for wiring in _SERVICES:
        instance = wiring.running()
        if instance is not None:
            found += instance.histograms()
    return found


def phase4_library() -> Library:
    """What an operator's view of the services gets of this module."""
    from bot.core.phase4_admin.library import Library

    packages = {wiring.package: wiring for wiring in _SERVICES}

    def collector(more: Callable[[], list[HistogramSnapshot]]) -> Any:
        metrics = importlib.import_module("bot.core.phase4_metrics")  # which imports this module
        return metrics.Phase4Collector(more_histograms=more)

    return Library(get_phase4_status, lambda package: packages[package].running(), collector)


def phase4_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that :func:`initialize_phase4_services` last ran on; None before it has."""
    return _runtime.loop


def _process_figures() -> dict[str, Any]:
    import psutil  # here, not above: it takes 10 ms and only the status wants it

    if _runtime.process is None:
        _runtime.process = psutil.Process()
    process = _runtime.process
    with process.oneshot():
        figures = {
            "rss_mb": round(process.memory_info().rss / 1_048_576, 1),
            # Percent of one core since the previous status; 0.0 the first time.
            "cpu_percent": process.cpu_percent(None),
            "threads": process.num_threads(),
        }
    with contextlib.suppress(RuntimeError):  # read where no event loop runs
        figures["tasks"] = len(asyncio.all_tasks())
    figures["open_fds"] = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    return figures


async def shutdown_phase4_services() -> bool:
    """Stop every running service, the last started first; True if all of them stopped cleanly.

    May run under another event loop than the start did, as in ``asyncio.run`` at exit. One that is
    cancelled on the way is finished by the next.
    """
    clean = True
    async with _runtime.transition:
        for wiring in reversed(_SERVICES):
            # Off or not: a disable that was cancelled has left an instance off and something to give back.
            instance = wiring.instance()
            if instance is None:
                continue
            try:
                clean = await instance.disable() and clean
            except Exception as error:
                logger.error(
                    "Phase 4: %s did not stop cleanly\n%s", wiring.class_name, masked_traceback(error)
                )
                clean = False
        _runtime.started_at = None
        _runtime.process = None
        _runtime.loop = None
    return clean


async def reset_phase4_services() -> bool:
    """Set the statistics of running services to zero and drop their caches; they stay on."""
    clean = True
    for wiring in _SERVICES:
        instance = wiring.running()
        if instance is None:
            continue
        try:
            await instance.reset()
        except Exception as error:
            logger.error("Phase 4: %s could not be reset\n%s", wiring.class_name, masked_traceback(error))
            clean = False
    return clean


_DECORATORS = {
    "cached": "cache_manager",
    "optimize_query": "query_optimizer",
    "rate_limited": "rate_limiter",
}


def __getattr__(name: str) -> Any:
    if name in _DECORATORS:
        return getattr(importlib.import_module(f"bot.core.{_DECORATORS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
