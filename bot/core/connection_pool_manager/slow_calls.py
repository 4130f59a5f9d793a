"""Calls that take too long: they are logged, and ended after ``query_timeout``."""

from __future__ import annotations

import logging

from bot.core.connection_pool_manager.drivers.base import Driver
from bot.core.connection_pool_manager.errors import QueryTimeoutError
from bot.core.connection_pool_manager.guard import Guard
from bot.core.connection_pool_manager.lease import describe_site
from bot.core.connection_pool_manager.pool import Action, Pool
from bot.core.connection_pool_manager.reports import Reports, overdue_calls

logger = logging.getLogger(__name__)

OVERDUE_AFTER = 10.0
"""Seconds without an answer after which a call is logged; half of ``query_timeout`` if that is less."""


class SlowCalls:
    """Looks at the calls on one pool's leases from time to time, so that no call needs a timer."""

    def __init__(self, pool: Pool, driver: Driver, reports: Reports) -> None:
        self._pool = pool
        self._driver = driver
        self._reports = reports
        self._told = False  # logged once each time that calls become overdue

    def look(self, now: float) -> list[Action]:
        """End calls that have run for ``query_timeout`` and log overdue ones; returns what to do next."""
        limit = self._driver.spec.options.query_timeout
        overdue_after = min(OVERDUE_AFTER, limit / 2) if limit else OVERDUE_AFTER
        for slot in list(self._pool.leased):
            guard = slot.guard
            call = None if guard is None else self._driver.call_in_progress(slot.raw, guard)
            if guard is None or call is None or call != slot.call:
                slot.call, slot.call_since, slot.is_overdue = call, now, False
            elif limit and now - slot.call_since >= limit:
                slot.call = None
                self.timed_out(guard, now)
                self._driver.interrupt(slot.raw)
            elif now - slot.call_since >= overdue_after:
                slot.is_overdue = True
        return self._tell_of_overdue(now)

    def timed_out(self, guard: Guard, now: float) -> None:
        """A call had no answer within its limit: give its guard the error to raise."""
        driver = self._driver
        spec = driver.spec
        name, seconds = driver.own_limit or ("query_timeout", spec.options.query_timeout)
        raised = "raise POOL_QUERY_TIMEOUT, or the pool's query_timeout"
        if driver.own_limit is not None:
            raised = f"raise the pool's {name}"
        elif driver.takes_timeout:
            raised += ", or give the call timeout=seconds"
        self._pool.counters.query_timeouts += 1
        guard.timed_out = QueryTimeoutError(
            f"pool {spec.name!r} ({spec.backend}): no answer within {name} = {seconds:g} s; the "
            f"connection fell silent, or the statement needs longer: {raised}"
        )
        self._reports.limited(now, "%s", guard.timed_out)

    def _tell_of_overdue(self, now: float) -> list[Action]:
        overdue = overdue_calls(self._pool)
        if overdue and not self._told:
            first = min(overdue, key=lambda slot: slot.call_since)
            limit = self._driver.spec.options.query_timeout
            logger.warning(
                "Pool %r: no answer for %.1f s on %d of %d connections (connection %d, acquired at %s): slow "
                "statements, or dead connections; each is ended %s", self._reports.name,
                now - first.call_since, len(overdue), self._pool.options.max_size, first.number,
                describe_site(first.site), f"after query_timeout = {limit:g} s" if limit else "never",
            )  # fmt: skip
        self._told = bool(overdue)
        # Slow statements or silent connections? Ping the idle ones before callers find out one by one.
        return self._pool.probe(min(slot.call_since for slot in overdue)) if overdue else []
