"""The tasks that open, check, reset and close the connections of one pool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from bot.core._shared.clock import Clock
from bot.core._shared.tasks import BackgroundTasks
from bot.core.connection_pool_manager.connecting import Connector
from bot.core.connection_pool_manager.drivers.base import Driver
from bot.core.connection_pool_manager.errors import PoolConnectError
from bot.core.connection_pool_manager.lease import end_use
from bot.core.connection_pool_manager.pool import BROKEN, Action, Check, Close, Open, Pool, Reset, Slot
from bot.core.connection_pool_manager.reports import Reports

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 2.0
"""Seconds that a driver has to close a connection; then its socket is closed at once."""

Report = Callable[[Slot, bool, float], list[Action]]
"""Tells the pool whether a check or a reset worked; returns what to do next."""


class ConnectionTasks:
    """Opens, checks, resets and closes connections, each in a task of its own.

    Every task reports its outcome to the pool, also if it is cancelled, even before it began. ``act`` does
    what follows from the report.
    """

    def __init__(
        self,
        pool: Pool,
        driver: Driver,
        connector: Connector,
        reports: Reports,
        tasks: BackgroundTasks,
        clock: Clock,
        act: Callable[[list[Action]], None],
    ) -> None:
        self.name = reports.name
        self.pool = pool
        self.driver = driver
        self._connector = connector
        self._reports = reports
        self._tasks = tasks
        self._clock = clock
        self._now = clock.monotonic
        self._act = act
        self._number = 0  # number of the latest connection; changed only by new_slot

    def start(self, action: Open | Close | Check | Reset) -> None:
        """Begin an action that the pool decided on."""
        if isinstance(action, Open):
            self._spawn("open", self._open(action.delay), partial(self.not_opened, None))
        elif isinstance(action, Close):
            self._spawn("close", self._close(action.slot, action.reason), partial(self._closed, action.slot))
        elif isinstance(action, Reset):
            self._prove_soon("reset", action.slot, self.driver.restore, self.pool.was_reset)
        elif action.is_for_primary:
            report = partial(self.pool.checked, is_for_primary=True)
            self._prove_soon("check", action.slot, self._prove_primary, report)
        else:
            self._prove_soon("check", action.slot, self.driver.ping, self.pool.checked)

    def _spawn(self, what: str, work: Coroutine[Any, Any, None], undone: Callable[[], None]) -> None:
        """Run ``work``, which reports its end to the pool. ``undone`` does if it is cancelled unbegun."""
        began = False

        async def run() -> None:
            nonlocal began
            began = True
            await work

        def ended(_: asyncio.Task[None]) -> None:
            if not began:
                work.close()
                undone()

        running = run()
        try:
            task = self._tasks.spawn(running, name=f"pool-{self.name}-{what}")
        except RuntimeError:  # the loop has ended, so nothing can be done there any more
            running.close()
            work.close()
            return
        task.add_done_callback(ended)

    # Opening.

    async def _open(self, delay: float) -> None:
        try:
            if delay:
                await self._clock.sleep(delay)
            if self.pool.is_closed:
                self.not_opened(None)
                return
            if self.pool.is_searching:
                self.driver.look_elsewhere()
            raw = await self._connector.connect()
            is_primary = None if self.pool.demoted_since is None else await self._is_primary(raw)
        except BaseException as error:
            failure = error if isinstance(error, Exception) else None
            if failure is not None:
                now = self._now()
                self._reports.cannot_open(failure, now, is_serving=self.pool.is_serving(now))
            self.not_opened(failure)
            if failure is None:
                raise
            return
        self._reports.opened()
        was_demoted = self.pool.demoted_since is not None
        actions = self.pool.opened(self.new_slot(raw), self._now(), is_primary=is_primary)
        if was_demoted and self.pool.demoted_since is None:
            self._reports.found_primary()
        self._act(actions)

    def not_opened(self, failure: Exception | None) -> None:
        """Report to the pool that a connection was not opened; None: the attempt was given up."""
        login_refused = isinstance(failure, PoolConnectError) and failure.login_refused
        self._act(self.pool.open_failed(failure, self._now(), login_refused=login_refused))

    async def _is_primary(self, raw: Any) -> bool | None:
        """Whether a new connection leads to a server that accepts writes; False also without an answer."""
        try:
            async with asyncio.timeout(self.pool.options.validation_timeout):
                return await self.driver.is_primary(raw)
        except Exception as error:
            logger.debug("Pool %r: cannot ask for the primary: %s", self.name, self._connector.masked(error))
            return False
        except BaseException:
            self.driver.terminate(raw)
            raise

    def new_slot(self, raw: Any) -> Slot:
        """A numbered slot for a connection that was opened."""
        self._number += 1
        return Slot(raw, self._number)

    # Checking and resetting.

    def _prove_soon(
        self,
        what: str,
        slot: Slot,
        work: Callable[[Any], Coroutine[Any, Any, None]],
        report: Report,
    ) -> None:
        self._spawn(what, self._prove(slot, work, report), lambda: self._proved(slot, False, report))

    async def _prove(
        self, slot: Slot, work: Callable[[Any], Coroutine[Any, Any, None]], report: Report
    ) -> None:
        ok = False
        try:
            async with asyncio.timeout(self.pool.options.validation_timeout):
                await work(slot.raw)
            ok = True
        except Exception as error:
            said = self._connector.masked(error)
            logger.debug("Pool %r: connection %d is broken: %s", self.name, slot.number, said)
            if isinstance(error, PoolConnectError) and error.is_of_init:
                self._reports.not_prepared(slot, said, self._now())
        finally:
            self._proved(slot, ok, report)

    def _proved(self, slot: Slot, ok: bool, report: Report) -> None:
        if slot in self.pool.proving:
            self._act(report(slot, ok, self._now()))

    async def _prove_primary(self, raw: Any) -> None:
        if await self.driver.is_primary(raw) is False:
            raise PoolConnectError("it leads to a server that does not accept writes")

    # Closing.

    async def _close(self, slot: Slot, reason: str) -> None:
        logger.debug("Pool %r: connection %d is closed: %s", self.name, slot.number, reason)
        try:
            if reason != BROKEN:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self.driver.close(slot.raw)
        except Exception:
            logger.debug("Pool %r: connection %d did not close in time", self.name, slot.number)
        finally:
            # Also after an error or a cancellation nothing stays open. After a good close this does nothing.
            self._closed(slot)

    def _closed(self, slot: Slot) -> None:
        self.terminate(slot)
        if slot in self.pool.closing:
            self._act(self.pool.closed(slot, self._now()))

    def terminate(self, slot: Slot) -> None:
        """Close the connection's socket at once, without telling the server."""
        try:
            self.driver.terminate(slot.raw)
        except Exception as error:
            said = self._connector.masked(error)
            logger.debug("Pool %r: connection %d not terminated: %s", self.name, slot.number, said)

    def terminate_all(self) -> None:
        """Close every connection that is not idle at once, and end its lease. For a pool that is closed."""
        pool = self.pool
        for group in (pool.leased, pool.proving, pool.closing):
            for slot in list(group):
                end_use(slot)
                self.terminate(slot)
        pool.proving.clear()
        pool.closing.clear()
        pool.counters.released += len(pool.leased)
        pool.leased.clear()
        pool.opening = 0
