"""Where Phase 4 is put together: build, wire, start in order, stop in reverse, report.

Importing this module imports no service and no driver; each is imported when its flag is set.
The decorators can be imported from here too: ``cached``, ``invalidate``, ``optimize_query``,
``rate_limited`` and ``limited_slots``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from bot.core._shared.errors import InvalidArgumentError, invalid, message_of
from bot.core._shared.masking import MAX_TOLD, masked_traceback, one_line
from bot.core._shared.tasks import LoopLocalLock, to_the_end
from bot.core.phase4_config import ConfigError, Phase4Config
from bot.core.phase4_service import Phase4Service
from bot.core.phase4_wiring import SERVICES, Wiring

if TYPE_CHECKING:
    from aiohttp import web

    from bot.core._shared.histogram import HistogramSnapshot
    from bot.core.cache_manager import cached, invalidate
    from bot.core.phase4_admin.audit import Audit
    from bot.core.phase4_admin.library import Library
    from bot.core.phase4_admin.mount import Mounted
    from bot.core.phase4_config.dashboard import DashboardSettings
    from bot.core.phase4_statistics.states import States
    from bot.core.query_optimizer import optimize_query
    from bot.core.rate_limiter import limited_slots, rate_limited

__all__ = [
    "PHASE4_CONFIG",
    "cached",
    "get_phase4_status",
    "initialize_phase4_services",
    "invalidate",
    "limited_slots",
    "mount_phase4",
    "optimize_query",
    "rate_limited",
    "reset_phase4_services",
    "shutdown_phase4_services",
]

logger = logging.getLogger(__name__)

PHASE4_CONFIG: dict[str, Any] = {}
"""Settings that code sets before the start: ``PHASE4_CONFIG["CACHE_L1_MAX_SIZE_MB"] = 50``.

Read by each :func:`initialize_phase4_services`, and as good as the dict given to it, which wins setting by
setting. Changed by the bot only.
"""


class _Runtime:
    """What the start-up itself remembers. Changed by initialize and shutdown, but for what says otherwise."""

    def __init__(self) -> None:
        self.transition = LoopLocalLock()
        self.started_at: float | None = None
        self.process: Any = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.failures: dict[str, str] = {}
        """Package -> what the service said at the last start that it had trouble with."""
        self.states: States | None = None
        """Changed by every reading of the status, and made by the first."""
        self.audit: Audit | None = None
        """Of every mount; made for the first."""
        self.mounts: list[Mounted] = []
        """Dashboards on a port of their own. Changed by mount_phase4 and _close."""
        self.dashboard: tuple[DashboardSettings, Mounted] | None = None
        """That of PHASE4_DASHBOARD_PORT. Changed by _serve_dashboard."""


_runtime = _Runtime()


async def initialize_phase4_services(
    config: Mapping[str, Any] | Phase4Config | None = None, from_host: Any = None
) -> dict[str, Any]:
    """Start every service whose ``ENABLE_*`` flag is set; stop those whose flag no longer is.

    ``config`` overrides every other source of settings (see ``phase4_config``), and so does PHASE4_CONFIG,
    over which it wins. ``from_host`` is where the bot keeps its own settings: a class, a module, an object or
    a dict, of which ours are taken; they win over files, and the environment wins over them.

    Returns ``success``, ``errors`` (each names the service or setting), ``warnings`` (what runs, but not as
    it was set: a Redis that refuses the password, a pool whose server is not there yet; and names that look
    like settings and are none), ``services_initialized`` (class names) and ``summary``. Never raises for a
    bad setting or a service that cannot start: a bad setting changes nothing, and a service that cannot
    start stays off without stopping the others.
    """
    async with _runtime.transition:
        _runtime.loop = asyncio.get_running_loop()
        try:
            settings, warnings = _settings(config, from_host)
        except ConfigError as error:
            running_on = [wiring.class_name for wiring in SERVICES if wiring.running() is not None]
            logger.error(
                "Phase 4 continues with the old settings: %s" if running_on else "Phase 4 not started: %s",
                one_line("; ".join(error.problems), MAX_TOLD),
            )
            return _report(running_on, [f"configuration: {problem}" for problem in error.problems])
        started: list[str] = []
        errors: list[str] = []
        fresh: list[Phase4Service] = []
        try:
            for wiring in SERVICES:
                running = wiring.running()
                _runtime.failures.pop(wiring.package, None)
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
            warnings += await _warnings()
            if settings.sets("dashboard") or _runtime.dashboard is not None:
                await _serve_dashboard(settings.dashboard, warnings)
        except BaseException:
            # Cancelled half-way: what this call started, nobody would know to stop.
            await to_the_end(_disable(reversed(fresh)))
            raise
        if started and _runtime.started_at is None:
            _runtime.started_at = time.monotonic()
        if not started:
            _runtime.started_at = None
        report = _report(started, errors, warnings)
        logger.info("%s", report["summary"])
        return report


def _settings(config: Mapping[str, Any] | Phase4Config | None, host: Any) -> tuple[Phase4Config, list[str]]:
    """The settings to start with, and what to warn of. Raises ConfigError."""
    if isinstance(config, Phase4Config):
        if host is not None:
            raise ConfigError("from_host and a Phase4Config cannot be combined: pass only one of them")
        return config, []
    if PHASE4_CONFIG and (config is None or isinstance(config, Mapping)):
        config = {**PHASE4_CONFIG, **(config or {})}
    settings, warnings = Phase4Config.read(config, host=host)
    for warning in warnings:
        logger.warning("Phase 4 configuration: %s", one_line(warning, MAX_TOLD))
    return settings, [f"configuration: {one_line(warning, MAX_TOLD)}" for warning in warnings]


async def _warnings() -> list[str]:
    """What runs, but not as it was set."""
    from bot.core._shared.packages import too_old  # here, not above: the import of this module is kept short

    running = [(wiring, service) for wiring in SERVICES if (service := wiring.running()) is not None]
    # All at once: servers that do not answer cost one timeout, not one each.
    told = await asyncio.gather(*[_warnings_of(wiring, service) for wiring, service in running])
    old = too_old([wiring.package for wiring, _ in running], sys.modules)
    return [warning for found in told for warning in found] + [f"packages: {warning}" for warning in old]


async def _warnings_of(wiring: Wiring, service: Phase4Service) -> list[str]:
    try:
        return [_said(wiring, warning) for warning in await service.find_warnings()]
    except Exception as error:
        logger.error("Phase 4: %s cannot be checked\n%s", wiring.class_name, masked_traceback(error))
        return [_said(wiring, f"cannot be checked: {one_line(error)}")]


def _tell(wiring: Wiring, error: Exception, errors: list[str]) -> None:
    """Log what a service failed with, and add it to the report."""
    message = _said(wiring, message_of(error) or type(error).__name__)
    logger.error("Phase 4: %s", message)
    errors.append(message)
    _runtime.failures[wiring.package] = message.partition(": ")[2]


def _said(wiring: Wiring, text: str) -> str:
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

    ``timestamp`` (ISO 8601, UTC), ``uptime_seconds``, ``process``, the statistics of each enabled
    service, both at the top level and under ``services``, and ``states``: of every service its ``state``
    (ok, degraded, off or failed), the ``reason`` in words, and ``since`` when it was seen so. Cheap enough
    to be polled every second.
    """
    return phase4_status()


def phase4_status() -> dict[str, Any]:
    """:func:`get_phase4_status` for code that cannot await, on the thread that uses the services."""
    services: dict[str, Any] = {}
    for wiring in SERVICES:
        instance = wiring.running()
        if instance is None:
            continue
        try:
            services[wiring.package] = instance.statistics()
        except Exception as error:
            logger.error("Phase 4: statistics of %s failed\n%s", wiring.class_name, masked_traceback(error))
            services[wiring.package] = {"enabled": True, "error": one_line(error)}
    started_at = _runtime.started_at
    from datetime import UTC, datetime  # here: a start needs none

    now = datetime.now(UTC).isoformat()
    return {
        "timestamp": now,
        "uptime_seconds": 0.0 if started_at is None else round(time.monotonic() - started_at, 3),
        "process": _process_figures(),
        **services,
        "services": services,
        "states": _states(now, services),
    }


def _states(now: str, services: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    if _runtime.states is None:
        from bot.core.phase4_statistics.states import States  # here: a start needs none

        _runtime.states = States()
    return _runtime.states.read(now, services, _runtime.failures)


def phase4_histograms() -> list[HistogramSnapshot]:
    """Waits and durations of the running services, for a metrics reader."""
    found: list[HistogramSnapshot] = []
    for wiring in SERVICES:
        instance = wiring.running()
        if instance is not None:
            found += instance.histograms()
    return found


def phase4_library() -> Library:
    """What an operator's view of the services gets of this module."""
    from bot.core.phase4_admin.audit import Audit
    from bot.core.phase4_admin.library import Library

    packages = {wiring.package: wiring for wiring in SERVICES}

    def collector(more: Callable[[], list[HistogramSnapshot]]) -> Any:
        metrics = importlib.import_module("bot.core.phase4_metrics")  # which imports this module
        return metrics.Phase4Collector(more_histograms=more)

    if _runtime.audit is None:
        _runtime.audit = Audit()
    return Library(
        get_phase4_status,
        lambda package: packages[package].running(),
        collector,
        phase4_loop,
        _runtime.audit,
    )


@overload
def mount_phase4(
    target: web.Application,
    *,
    prefix: str | None = None,
    token: str | None = None,
    trusted_proxies: Collection[str] = (),
    name: str = "",
    health: Callable[[], Awaitable[str]] | None = None,
    figures: Callable[[], Awaitable[Mapping[str, Any]]] | None = None,
    **more: Any,
) -> Mounted: ...


@overload
def mount_phase4(
    target: int,
    *,
    host: str = "127.0.0.1",
    prefix: str | None = None,
    token: str | None = None,
    trusted_proxies: Collection[str] = (),
    name: str = "",
    health: Callable[[], Awaitable[str]] | None = None,
    figures: Callable[[], Awaitable[Mapping[str, Any]]] | None = None,
) -> Coroutine[Any, Any, Mounted]: ...


def mount_phase4(target: Any, **options: Any) -> Any:
    """Serve the dashboard, ``/health`` and ``/metrics`` from this process.

    ``mount_phase4(app)``: by the bot's own aiohttp application, before it starts, below ``prefix``
    ("/phase4"). ``await mount_phase4(8081)``: on a port of its own, of ``host`` (the loopback), until
    ``shutdown_phase4_services`` or ``close()`` of what it returns. Before or after the services are
    started, and as often as there are places.

    ``token``: what it asks for, at least 16 characters; else the setting PHASE4_DASHBOARD_TOKEN.
    Without one it answers to this machine only, so a ``host`` that others reach needs one.
    ``trusted_proxies``: addresses whose ``X-Forwarded-For`` is believed. ``name``: what the page calls the
    bot. ``health``: the bot's own check,
    why it cannot do its work, empty if it can; ``/health`` is 503 then. ``figures``: what ``/health`` tells
    beside it to those who have access.

    Raises InvalidArgumentError, OSError for a port that is taken, ImportError without aiohttp.
    """
    try:
        admin = importlib.import_module("bot.core.phase4_admin.mount")
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise ImportError("mount_phase4 needs aiohttp: pip install aiohttp", name="aiohttp") from None
    if not isinstance(target, int):
        if "host" in options:
            raise invalid("host", options["host"], "none: the bot decides where its application listens")
        return admin.mount_on(target, phase4_library(), **options)

    async def mounted() -> Mounted:
        for old in [old for old in _runtime.mounts if old.stranded]:
            await _close(old)  # an event loop that has ended, and perhaps holds the port
        made: Mounted = await admin.mount_at(target, phase4_library(), **options)
        _runtime.mounts.append(made)
        return made

    return mounted()


async def _serve_dashboard(settings: DashboardSettings, warnings: list[str]) -> None:
    """Serve it as the settings say: it stays if they are the same. What goes wrong stops nothing else."""
    if _runtime.dashboard is not None:
        before, held = _runtime.dashboard
        if settings == before and held in _runtime.mounts and not held.stranded:
            return
        await _close(held)
        _runtime.dashboard = None
    if not settings.port:
        return
    try:
        made = await mount_phase4(settings.port, host=settings.host, token=settings.token, name=settings.name)
    except (InvalidArgumentError, OSError, ImportError) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or message_of(error)
        warning = one_line(f"PHASE4_DASHBOARD_PORT: no dashboard: {said}", MAX_TOLD)
        logger.warning("Phase 4: %s", one_line(warning))
        warnings.append(warning)
        return
    _runtime.dashboard = (settings, made)
    logger.info("Phase 4: the dashboard is at %s", one_line(made.url))


async def _close(mounted: Mounted) -> None:
    """End a mount on a port of its own."""
    if mounted in _runtime.mounts:
        _runtime.mounts.remove(mounted)
    try:
        await mounted.close()
    except Exception as error:
        logger.error("Phase 4: a dashboard did not stop cleanly\n%s", masked_traceback(error))


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
        for mounted in reversed(_runtime.mounts[:]):
            await _close(mounted)
        for wiring in reversed(SERVICES):
            # Off or not: a disable that was cancelled has left an instance off and something to give back.
            instance = wiring.instance()
            if instance is not None:
                clean = await _disable([instance]) and clean
        _runtime.started_at = None
        _runtime.failures.clear()
        _runtime.process = None
        _runtime.loop = None
    return clean


async def _disable(services: Iterable[Phase4Service]) -> bool:
    """Switch these off in turn; True if all of them stopped cleanly. A failure is logged."""
    clean = True
    for service in services:
        try:
            clean = await service.disable() and clean
        except Exception as error:
            logger.error(
                "Phase 4: %s did not stop cleanly\n%s", type(service).__name__, masked_traceback(error)
            )
            clean = False
    return clean


async def reset_phase4_services() -> bool:
    """Set the statistics of running services to zero and drop their caches; they stay on."""
    clean = True
    for wiring in SERVICES:
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
    "invalidate": "cache_manager",
    "limited_slots": "rate_limiter",
    "optimize_query": "query_optimizer",
    "rate_limited": "rate_limiter",
}


def __getattr__(name: str) -> Any:
    if name in _DECORATORS:
        return getattr(importlib.import_module(f"bot.core.{_DECORATORS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
