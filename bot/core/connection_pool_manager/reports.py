"""What a pool reports: figures, the error of a caller that waited in vain, and few log lines."""

from __future__ import annotations

import logging
import math
from typing import Any

from bot.core._shared.histogram import HistogramSnapshot
from bot.core._shared.masking import mask_url, masked_traceback, one_line
from bot.core.connection_pool_manager.errors import PoolTimeoutError
from bot.core.connection_pool_manager.lease import describe_site
from bot.core.connection_pool_manager.models import PoolSpec
from bot.core.connection_pool_manager.pool import SEARCH_INTERVAL, Leak, Pool, Returned, Slot
from bot.core.phase4_statistics.connection_pools import PoolFigures

logger = logging.getLogger(__name__)

LEAK_REPORTS_PER_MINUTE = 5
OUTAGE_CALM = 60.0
"""Seconds between two log lines about failed connects while the pool still serves its callers."""


class Reports:
    """The log lines of one pool: a problem is logged when it begins and when it ends, not each time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.demotion = ""
        """What the server said when it last refused as a demoted one. Changed only by demoted."""
        # Times of the leaks logged in the last minute, and how many were not logged since. Changed only by
        # limited.
        self._told_at: list[float] = []
        self._left_out = 0
        # Whether connections cannot be opened, and when that was last logged. Changed only by cannot_open and
        # opened.
        self._outage = False
        self._outage_told_at = -math.inf
        self._verdict_told = False

    # Leases.

    def limited(self, now: float, message: str, *args: Any) -> None:
        """Log a warning, but only a few each minute: leaks come in bursts."""
        self._told_at = [at for at in self._told_at if now - at < 60]
        if len(self._told_at) >= LEAK_REPORTS_PER_MINUTE:
            self._left_out += 1
            return
        self._told_at.append(now)
        if self._left_out:
            message += f" ({self._left_out} more such reports were left out)"
            self._left_out = 0
        logger.warning(message, *args)

    def leak(self, leak: Leak, now: float) -> None:
        self.limited(
            now, "Pool %r: connection %d has been leased for %.1f s, perhaps for ever; acquired at %s",
            self.name, leak.slot.number, leak.held, describe_site(leak.slot.site),
        )  # fmt: skip

    def dropped(self, slot: Slot, now: float) -> None:
        self.limited(
            now, "Pool %r: connection %d was dropped without being released, acquired at %s; it is replaced",
            self.name, slot.number, describe_site(slot.site),
        )  # fmt: skip

    def not_prepared(self, slot: Slot, said: str, now: float) -> None:
        self.limited(
            now, "Pool %r: connection %d was reset, and could not be prepared again, so it is replaced: %s",
            self.name, slot.number, said,
        )  # fmt: skip

    def returned(self, back: Returned) -> None:
        logger.info(
            "Pool %r: connection %d, whose long lease was reported, was released after %.1f s",
            self.name, back.slot.number, back.held,
        )  # fmt: skip

    def closed_on_loan(self, slot: Slot, now: float) -> None:
        logger.warning(
            "Pool %r closed while connection %d was leased, for %.1f s; acquired at %s",
            self.name, slot.number, now - slot.leased_at, describe_site(slot.site),
        )  # fmt: skip

    def verdict_failed(self, error: Exception) -> None:
        if not self._verdict_told:
            self._verdict_told = True
            logger.error(
                "Pool %r: the driver does not show the state of a connection, so each is "
                "replaced after its lease\n%s",
                self.name, masked_traceback(error),
            )  # fmt: skip

    # The server.

    def cannot_start(self) -> None:
        """The first connection was not opened: the caller reports that; the log tells when one is opened."""
        self._outage = True

    def cannot_open(self, failure: Exception, now: float, *, is_serving: bool) -> None:
        """A connection was not opened; the failure's text is fit for the log."""
        # When the server's limit of connections is reached, attempts fail and succeed in turn.
        if not self._outage and (now - self._outage_told_at >= OUTAGE_CALM or not is_serving):
            self._outage = True
            self._outage_told_at = now
            logger.error("Pool %r: %s; still trying", self.name, failure)

    def opened(self) -> None:
        if self._outage:
            self._outage = False
            logger.info("Pool %r: connected again", self.name)

    def demoted(self, said: str, *, was_known: bool) -> None:
        self.demotion = one_line(said)
        if not was_known:
            logger.warning(
                "Pool %r: the server does not accept writes (any more): %s; the pool looks for another by "
                "reconnecting, at most every %g s", self.name, self.demotion, SEARCH_INTERVAL,
            )  # fmt: skip

    def found_primary(self) -> None:
        logger.warning(
            "Pool %r: found a server that accepts writes; older connections are checked before they "
            "are used again", self.name,
        )  # fmt: skip


def overdue_calls(pool: Pool) -> list[Slot]:
    """Leases whose call has had no answer for long: slow statements, or silent connections."""
    return [slot for slot in pool.leased if slot.is_overdue and slot.call is not None]


def not_idle_error(spec: PoolSpec, pool: Pool, now: float) -> PoolTimeoutError:
    """Why a caller that does not wait (``timeout=0``) got nothing, with the pool's figures."""
    error = PoolTimeoutError(
        f"Pool {spec.name!r} ({spec.backend}): no connection is idle, and timeout = 0 does not wait: "
        f"{_figures_in_words(pool, now)}. A larger min_size keeps more connections open"
    )
    error.__cause__ = pool.last_error
    return error


def _figures_in_words(pool: Pool, now: float) -> str:
    text = (
        f"active {len(pool.leased)}, idle {len(pool.idle)}, max {pool.options.max_size}, "
        f"waiters {len(pool.waiters)}"
    )
    if pool.leased:
        oldest = min(pool.leased, key=lambda slot: slot.leased_at)
        text += (
            f", longest lease {now - oldest.leased_at:.1f} s (connection {oldest.number}, "
            f"acquired at {describe_site(oldest.site)})"
        )
    return text


def timeout_error(spec: PoolSpec, pool: Pool, seconds: float, now: float) -> PoolTimeoutError:
    """Why a caller waited ``seconds`` in vain, with the pool's figures and what to do."""
    text = (
        f"Cannot acquire connection from pool {spec.name!r} ({spec.backend}) within {seconds:g} s: "
        f"{_figures_in_words(pool, now)}"
    )
    cause = pool.last_error
    if pool.opening:
        text += f", opening {pool.opening}"
    if cause is not None and pool.is_serving(now):
        text += f". No further connection can be opened: {cause}"
    elif cause is not None:
        text += f". The server cannot be reached: {cause}"
    elif pool.opening and len(pool.leased) < pool.options.max_size:
        text += ". The server has not answered the attempts to connect yet"
    else:
        text += ". Raise POOL_MAX_SIZE or POOL_ACQUIRE_TIMEOUT, or release connections sooner"
    error = PoolTimeoutError(text)
    error.__cause__ = cause
    return error


def figures_of(spec: PoolSpec, pool: Pool, last_error: str | None, now: float) -> PoolFigures:
    """A pool's figures."""
    counters = pool.counters
    waits = counters.waits
    active = len(pool.leased)
    zeros = max(0, counters.acquired - waits.recorded)
    busy = len(pool.proving) + len(pool.closing)
    overdue = overdue_calls(pool)
    return PoolFigures(
        backend=spec.backend,
        url=mask_url(spec.url),
        total_connections=active + len(pool.idle) + busy,
        active_connections=active,
        idle_connections=len(pool.idle),
        busy_connections=busy,
        opening_connections=pool.opening,
        waiting=len(pool.waiters),
        min_size=pool.options.min_size,
        max_size=pool.options.max_size,
        utilization_percent=round(active / pool.options.max_size * 100, 1),
        peak_active=counters.peak_active,
        peak_connections=max(counters.peak_connections, pool.total - pool.opening),
        total_acquired=counters.acquired,
        total_released=counters.released,
        failed_acquisitions=counters.timed_out,
        cancelled_acquisitions=counters.cancelled,
        avg_wait_time_ms=round(waits.total / counters.acquired * 1000, 3) if counters.acquired else 0.0,
        p50_wait_time_ms=round(waits.quantile(0.5, zeros) * 1000, 3),
        p99_wait_time_ms=round(waits.quantile(0.99, zeros) * 1000, 3),
        max_wait_time_ms=round(waits.longest * 1000, 3),
        longest_lease_seconds=round(max((now - slot.leased_at for slot in pool.leased), default=0.0), 3),
        leaked=counters.leaked,
        connections_opened=counters.opened,
        connections_closed=counters.closed,
        connect_failures=counters.open_failures,
        resets=counters.resets,
        query_timeouts=counters.query_timeouts,
        refused_as_demoted=counters.refused_as_demoted,
        notifications=counters.notifications,
        notifications_dropped=counters.notifications_dropped,
        listen_losses=counters.listen_losses,
        replicas=0,
        replicas_working=0,
        reads_by_replicas=counters.reads_by_replicas,
        reads_by_primary=counters.reads_by_primary,
        demoted=pool.demoted_since is not None,
        overdue_calls=len(overdue),
        longest_call_seconds=round(
            max((now - slot.call_since for slot in pool.leased if slot.call is not None), default=0.0), 3
        ),
        healthy=pool.is_serving(now) and len(overdue) < pool.options.max_size,
        degraded=bool(overdue) or pool.demoted_since is not None,
        last_error=last_error,
    )


def wait_histogram(spec: PoolSpec, pool: Pool) -> HistogramSnapshot:
    """How long callers waited for a connection."""
    counters = pool.counters
    return counters.waits.snapshot(
        "pool_wait_seconds",
        "Seconds that callers waited for a connection of the pool.",
        {"pool": spec.name, "backend": spec.backend},
        zeros=max(0, counters.acquired - counters.waits.recorded),
    )
