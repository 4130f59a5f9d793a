"""Does what a pool decides, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.histogram import HistogramSnapshot
from bot.core._shared.loop_owner import seen, still_runs
from bot.core._shared.tasks import BackgroundTasks
from bot.core.connection_pool_manager.connecting import Connector
from bot.core.connection_pool_manager.drivers.base import Driver
from bot.core.connection_pool_manager.errors import (
    LeaseError,
    PoolClosedError,
    PoolConnectError,
    PoolReplacedError,
)
from bot.core.connection_pool_manager.lease import PooledConnection, caller_site, set_own
from bot.core.connection_pool_manager.models import PoolHealth, PoolSpec
from bot.core.connection_pool_manager.pool import (
    BROKEN,
    Action,
    Check,
    Close,
    Grant,
    Leak,
    Open,
    Pool,
    Refuse,
    Reset,
    Returned,
    Slot,
    Verdict,
    Waiter,
)
from bot.core.connection_pool_manager.reports import (
    Reports,
    overdue_calls,
    statistics,
    timeout_error,
    wait_histogram,
)
from bot.core.connection_pool_manager.slow_calls import SlowCalls
from bot.core.connection_pool_manager.stats import Counters

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 2.0
"""Seconds for a polite close; then the socket is closed without one."""
_CLEAN = Verdict.CLEAN
_new_lease = PooledConnection.__new__
_inherited: list[PoolRunner] = []
"""Pools of the process that this one was forked from; to collect them would close what is shared."""


class PoolRunner:
    """One pool at work: its driver, its tasks, its leases. Bound to the event loop it is started on.

    Acquiring a clean connection and giving it back are plain calls, without task, lock or await. A
    caller that is cancelled while it waits leaves the queue; what it had been given, the next one gets.
    """

    def __init__(self, spec: PoolSpec, driver: Driver, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.name = spec.name
        self.spec = spec
        self.driver = driver
        self.clock = clock
        self.loop: asyncio.AbstractEventLoop | None = None
        self.pool = Pool(spec.options, is_open=driver.is_open)
        self._reports = reports = Reports(spec.name)
        self._connector = Connector(driver)
        self._slow_calls = slow_calls = SlowCalls(self.pool, driver, reports)
        driver.report_timeout = lambda guard: slow_calls.timed_out(guard, clock.monotonic())
        self._now = clock.monotonic
        self._verdict = driver.verdict
        self._is_let_go = driver.is_let_go
        self._traces = spec.options.leak_threshold > 0
        self._tasks = BackgroundTasks()
        self._number = 0
        self._drained: asyncio.Event | None = None
        self._process = os.getpid()
        self._is_replaced = False
        self._alarm: Callable[[], Any] | None = None
        self._alarm_at = math.inf
        self._settled: asyncio.Future[None] | None = None  # start waits for the first connections

    # Life.

    async def start(self, *, wants_server: bool = True) -> None:
        """Open the first connection, then the rest up to ``min_size``; raises what is wrong with the first.

        Without ``wants_server`` a server that is not there, or refuses, is no error: the pool tries on.
        Raises PoolConnectError, or what the driver says of bad options.
        """
        self.loop = asyncio.get_running_loop()
        seen(self.loop)
        self._process = os.getpid()
        self._drained = asyncio.Event()
        try:
            await self.driver.start()
            self.pool.opening += 1
            try:
                raw = await self._connector.connect()
            except BaseException as error:
                if wants_server or not isinstance(error, PoolConnectError) or error.is_setting:
                    self.pool.opening -= 1
                    if isinstance(error, Exception):
                        self.pool.last_error = error
                    raise
                self._reports.cannot_start()
                self._not_opened(error)
                self._tasks.spawn(self._keep_house(), name=f"pool-{self.name}")
                return
            self._do(self.pool.opened(self._slot(raw), self._now()))
            self._tasks.spawn(self._keep_house(), name=f"pool-{self.name}")
            await self._filled()
        except BaseException:
            await self.stop(drain=0.0)
            raise

    async def _filled(self) -> None:
        """Wait until min_size connections are there, or one could not be opened: then it is tried on."""
        if not self.pool.opening:
            return
        assert self.loop is not None
        self._settled = self.loop.create_future()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.spec.options.connect_timeout):
                await self._settled
        self._settled = None

    def adopt(self, spec: PoolSpec) -> bool:
        """Go on with other sizes and times, while it serves; False, with nothing done: it cannot."""
        old = self.spec
        if (spec.backend, spec.url, spec.driver_options) != (old.backend, old.url, old.driver_options):
            return False
        if not self.driver.adopt(spec):
            return False
        self.spec = spec
        self._traces = spec.options.leak_threshold > 0
        self._do(self.pool.reconfigure(spec.options, self._now()))
        return True

    def replace(self) -> None:
        """Take no more callers: another pool of that name does. Who waits is told to ask that one."""
        self._is_replaced = True
        self._do(self.pool.close(self._now()))

    def warning(self) -> str | None:
        """What keeps the pool from working since its start; None: it works, or did."""
        pool = self.pool
        if pool.counters.opened or pool.last_error is None:
            return None
        again = "is tried again, rarely: it may lock the user out" if pool.login_refused else "is tried again"
        said = self._connector.masked_text(pool.last_error)
        return f"{said}; until it works callers wait in vain, and it {again}"

    async def stop(self, *, drain: float) -> bool:
        """Refuse waiters, wait ``drain`` seconds for leases, close everything; False if leases were out."""
        self._do(self.pool.close(self._now()))
        pool = self.pool
        clean = True
        try:
            if (pool.leased or pool.proving or pool.closing or pool.opening) and self._drained is not None:
                limit = max(drain, CLOSE_TIMEOUT) if not pool.leased else drain
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if limit == math.inf else limit):
                        await self._drained.wait()
            if pool.leased:
                clean = False
                for slot in pool.leased:
                    self._reports.closed_on_loan(slot, self._now())
        finally:
            # Also when cancelled: neither tasks nor sockets outlive the pool.
            self._cancel_alarm()
            try:
                await self._tasks.stop()
            finally:
                self._terminate_all()
                await self.driver.stop()
        return clean

    @property
    def is_inherited(self) -> bool:
        """Whether this process was forked from the one that the pool is of."""
        return self._process != os.getpid()

    def abandon(self) -> None:
        """Drop everything although the event loop is gone: sockets and threads are closed from here.

        What was inherited by a fork is left alone: sockets and the loop's selector are the parent's, too.
        """
        if self.is_inherited:
            for slot in self.pool.leased:
                _end(slot)
            _inherited.append(self)
            return
        self.pool.close(self._now())
        self._terminate_all()
        self.driver.abandon()

    def _terminate_all(self) -> None:
        pool = self.pool
        for group in (pool.leased, pool.proving, pool.closing):
            for slot in list(group):
                _end(slot)
                self._terminate(slot)
        pool.proving.clear()
        pool.closing.clear()
        pool.counters.released += len(pool.leased)
        pool.leased.clear()
        pool.opening = 0

    # Acquiring.

    def acquire_nowait(self) -> PooledConnection | None:
        """A lease of a clean idle connection, or None: then :meth:`acquire`. Call it on the pool's loop."""
        slot = self.pool.take(self._now())
        if slot is None:
            return None
        if self._traces:
            slot.site = caller_site(2)
        lease = _new_lease(PooledConnection)
        set_own(lease, "_slot", slot)
        set_own(lease, "_runner", self)
        return lease

    async def acquire(self, timeout: float | None = None) -> PooledConnection:
        """A lease, in the order of asking; waits up to ``timeout`` seconds.

        Raises PoolTimeoutError with the pool's figures, and PoolClosedError.
        """
        return self.acquire_nowait() or await self.wait(timeout)

    async def wait(self, timeout: float | None) -> PooledConnection:
        """As :meth:`acquire`, when :meth:`acquire_nowait` had nothing to give."""
        pool = self.pool
        if pool.is_closed or self.loop is None:
            raise self._closed_error()
        now = self._now()
        waiter = Waiter(now, now + (self.spec.options.acquire_timeout if timeout is None else timeout))
        waiter.future = self.loop.create_future()
        if waiter.deadline < self._alarm_at:
            self._set_alarm(waiter.deadline)
        site = caller_site(2) if self._traces else None
        try:
            self._do(pool.request(waiter, now))
            await waiter.future
        except BaseException as error:
            # A waiter that timed out or was refused has left the queue already.
            if isinstance(error, asyncio.CancelledError):
                self._do(pool.withdraw(waiter, self._now(), cancelled=True))
            raise
        slot = waiter.slot
        assert slot is not None
        slot.site = site
        lease = _new_lease(PooledConnection)
        set_own(lease, "_slot", slot)
        set_own(lease, "_runner", self)
        return lease

    # One timer for all waiters, set to the first deadline: one for each would cost more than the rest of
    # a wait, and nearly all are served in time.

    def _set_alarm(self, at: float) -> None:
        self._cancel_alarm()
        self._alarm_at = at
        seconds = max(0.0, at - self._now())
        if self.clock is SYSTEM_CLOCK:
            assert self.loop is not None
            self._alarm = self.loop.call_later(seconds, self._expire).cancel
        else:
            self._alarm = self._tasks.spawn(self._expire_after(seconds), name=self._task_name("timer")).cancel

    def _cancel_alarm(self) -> None:
        cancel, self._alarm, self._alarm_at = self._alarm, None, math.inf
        if cancel is not None:
            cancel()

    async def _expire_after(self, seconds: float) -> None:
        await self.clock.sleep(seconds)
        self._expire()

    def _expire(self) -> None:
        self._alarm, self._alarm_at = None, math.inf
        now = self._now()
        for waiter in self.pool.overdue(now):
            if not waiter.future.done():
                error = timeout_error(self.spec, self.pool, waiter.deadline - waiter.since, now)
                self._do(self.pool.withdraw(waiter, now))
                waiter.future.set_exception(error)
        waiting = [waiter.deadline for waiter in self.pool.waiters if not waiter.future.done()]
        if waiting:
            self._set_alarm(min(waiting))

    # Giving back.

    def release(self, lease: PooledConnection, healthy: bool = True) -> None:
        """End a lease. On the pool's loop it never waits: a reset, if one is needed, runs by itself."""
        slot = lease._slot
        if slot is None:
            raise LeaseError(f"connection of pool {self.name!r}: released twice")
        set_own(lease, "_slot", None)
        demotion = None
        if slot.guard is not None:
            demotion = slot.guard.demotion
            if slot.view is None or demotion is not None or not self._is_let_go(slot.view, slot.guard):
                _end(slot)
        try:
            verdict = self._verdict(slot.raw)
        except Exception as error:
            # A driver's package that changed must cost a connection, not the caller's answer.
            verdict = Verdict.BROKEN
            self._reports.verdict_failed(error)
        if verdict is _CLEAN and healthy and not slot.touched and demotion is None:
            pool = self.pool
            if not pool.waiters:
                if pool.put(slot, self._now()):
                    return
            elif waiter := pool.hand_over(slot, self._now()):
                if not waiter.future.done():  # else cancelled in this very tick: its withdraw hands it on
                    waiter.future.set_result(None)
                return
        if verdict is Verdict.DEMOTED:
            verdict, demotion = _CLEAN, demotion or "the server is not the primary any more"
        if not healthy:
            verdict = Verdict.BROKEN
        elif slot.touched and verdict is _CLEAN and self.spec.options.reset != "never":
            verdict = Verdict.RESET
        if slot in self.pool.leased:  # else the pool was closed over its head
            if demotion is None:
                self._do(self.pool.release(slot, self._now(), verdict))
            else:
                self._release_demoted(slot, verdict, demotion)

    def _release_demoted(self, slot: Slot, verdict: Verdict, said: str) -> None:
        was_known = self.pool.demoted_since is not None
        actions = self.pool.release(slot, self._now(), verdict, demoted=True)
        if self.pool.demoted_since is not None:
            self._reports.demoted(said, was_known=was_known)
        self._do(actions)

    def release_here(self, lease: PooledConnection, healthy: bool) -> None:
        """As :meth:`release`, also when the pool's event loop is gone: then the connection is dropped."""
        loop = self.loop
        if loop is not None and (self.is_inherited or not still_runs(loop)):
            slot = lease._slot
            if slot is None:
                raise LeaseError(f"connection of pool {self.name!r}: released twice")
            set_own(lease, "_slot", None)
            _end(slot)
            if slot in self.pool.leased:
                self.pool.leased.discard(slot)
                self.pool.counters.released += 1
            if not self.is_inherited:
                self._terminate(slot)
            return
        self.release(lease, healthy)

    def lost(self, slot: Slot) -> None:
        """A lease was dropped without release; called by the garbage collector, on any thread."""
        loop = self.loop
        if loop is None or loop.is_closed() or slot not in self.pool.leased or self.is_inherited:
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(self._reclaim, slot)

    def _reclaim(self, slot: Slot) -> None:
        if slot not in self.pool.leased:
            return
        _end(slot)
        if not slot.reported:
            self.pool.counters.leaked += 1
        self._reports.dropped(slot, self._now())
        self._do(self.pool.release(slot, self._now(), Verdict.BROKEN))

    # Doing.

    def _do(self, actions: list[Action]) -> None:
        if not actions and not self.pool.is_closed and self._settled is None:
            return
        for action in actions:
            if isinstance(action, Grant):
                future = action.waiter.future
                if future.done():  # cancelled in this very tick: its withdraw hands the connection on
                    continue
                future.set_result(None)
            elif isinstance(action, Open):
                self._spawn("open", self._open(action.delay), partial(self._not_opened, None))
            elif isinstance(action, Close):
                self._spawn(
                    "close", self._close(action.slot, action.reason), partial(self._closed, action.slot)
                )
            elif isinstance(action, Check):
                if action.is_for_primary:
                    report = partial(self.pool.checked, is_for_primary=True)
                    self._prove_soon("check", action.slot, self._prove_primary, report)
                else:
                    self._prove_soon("check", action.slot, self.driver.ping, self.pool.checked)
            elif isinstance(action, Reset):
                self._prove_soon("reset", action.slot, self.driver.reset, self.pool.was_reset)
            elif isinstance(action, Refuse):
                if not action.waiter.future.done():
                    action.waiter.future.set_exception(self._closed_error())
            elif isinstance(action, Leak):
                self._reports.leak(action, self._now())
            else:
                assert isinstance(action, Returned)
                self._reports.returned(action)
        pool = self.pool
        settled = self._settled
        if settled is not None and not settled.done() and (not pool.opening or pool.failures):
            settled.set_result(None)
        if (
            pool.is_closed
            and self._drained is not None
            and not (pool.leased or pool.proving or pool.closing or pool.opening)
        ):
            self._drained.set()

    def _task_name(self, what: str) -> str:
        return f"pool-{self.name}-{what}"

    def _spawn(self, what: str, work: Coroutine[Any, Any, None], undone: Callable[[], None]) -> None:
        """Run ``work``, which tells the pool of its own end; ``undone`` does if it is cancelled unbegun."""
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
            task = self._tasks.spawn(running, name=self._task_name(what))
        except RuntimeError:  # the loop has ended, and with it everything that it might have done
            running.close()
            work.close()
            return
        task.add_done_callback(ended)

    def _prove_soon(
        self,
        what: str,
        slot: Slot,
        work: Callable[[Any], Coroutine[Any, Any, None]],
        report: Callable[[Slot, bool, float], list[Action]],
    ) -> None:
        self._spawn(what, self._prove(slot, work, report), lambda: self._proved(slot, False, report))

    def _proved(self, slot: Slot, ok: bool, report: Callable[[Slot, bool, float], list[Action]]) -> None:
        if slot in self.pool.proving:
            self._do(report(slot, ok, self._now()))

    async def _prove_primary(self, raw: Any) -> None:
        if await self.driver.is_primary(raw) is False:
            raise PoolConnectError("it leads to a server that does not take writes")

    def _not_opened(self, failure: Exception | None) -> None:
        login_refused = isinstance(failure, PoolConnectError) and failure.login_refused
        self._do(self.pool.open_failed(failure, self._now(), login_refused=login_refused))

    async def _open(self, delay: float) -> None:
        try:
            if delay:
                await self.clock.sleep(delay)
            if self.pool.is_closed:
                self._not_opened(None)
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
            self._not_opened(failure)
            if failure is None:
                raise
            return
        self._reports.opened()
        was_demoted = self.pool.demoted_since is not None
        actions = self.pool.opened(self._slot(raw), self._now(), is_primary=is_primary)
        if was_demoted and self.pool.demoted_since is None:
            self._reports.found_primary()
        self._do(actions)

    async def _is_primary(self, raw: Any) -> bool | None:
        """Whether a new connection leads to a server that takes writes; False also if it does not answer."""
        try:
            async with asyncio.timeout(self.spec.options.validation_timeout):
                return await self.driver.is_primary(raw)
        except Exception as error:
            logger.debug("Pool %r: cannot ask for the primary: %s", self.name, self._connector.masked(error))
            return False
        except BaseException:
            self.driver.terminate(raw)
            raise

    def _slot(self, raw: Any) -> Slot:
        self._number += 1
        return Slot(raw, self._number)

    async def _close(self, slot: Slot, reason: str) -> None:
        logger.debug("Pool %r: connection %d is closed: %s", self.name, slot.number, reason)
        try:
            if reason != BROKEN:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self.driver.close(slot.raw)
        except Exception:
            logger.debug("Pool %r: connection %d not closed politely", self.name, slot.number)
        finally:
            # Whatever happened, and also when cancelled: nothing stays open. Nothing to do if it worked.
            self._closed(slot)

    def _closed(self, slot: Slot) -> None:
        self._terminate(slot)
        if slot in self.pool.closing:
            self._do(self.pool.closed(slot, self._now()))

    def _terminate(self, slot: Slot) -> None:
        try:
            self.driver.terminate(slot.raw)
        except Exception as error:
            said = self._connector.masked(error)
            logger.debug("Pool %r: connection %d not terminated: %s", self.name, slot.number, said)

    async def _prove(
        self,
        slot: Slot,
        work: Callable[[Any], Coroutine[Any, Any, None]],
        report: Callable[[Slot, bool, float], list[Action]],
    ) -> None:
        ok = False
        try:
            async with asyncio.timeout(self.spec.options.validation_timeout):
                await work(slot.raw)
            ok = True
        except Exception as error:
            said = self._connector.masked(error)
            logger.debug("Pool %r: connection %d is broken: %s", self.name, slot.number, said)
        finally:
            self._proved(slot, ok, report)

    async def _keep_house(self) -> None:
        while not self.pool.is_closed:
            options = self.spec.options
            shortest = min(options.idle_timeout, options.max_lifetime, options.keepalive_interval)
            if options.leak_threshold:
                shortest = min(shortest, options.leak_threshold)
            if options.query_timeout:
                shortest = min(shortest, options.query_timeout / 2)
            await self.clock.sleep(min(max(shortest / 10, 0.05), 1.0))
            self._do(self._slow_calls.look(self._now()))
            self._do(self.pool.tick(self._now()))

    # Telling.

    async def check_health(self) -> PoolHealth:
        """Acquire a connection and ping it, within the pool's timeouts."""
        started = time.perf_counter()
        try:
            lease = await self.acquire(min(5.0, self.spec.options.acquire_timeout))
            healthy = False
            try:
                slot = lease._slot
                assert slot is not None
                async with asyncio.timeout(self.spec.options.validation_timeout):
                    await self.driver.ping(slot.raw)
                healthy = True
            finally:
                self.release(lease, healthy)
        except Exception as error:
            return PoolHealth(False, (time.perf_counter() - started) * 1000, self._connector.masked(error))
        milliseconds = (time.perf_counter() - started) * 1000
        if self.pool.demoted_since is not None:
            return PoolHealth(False, milliseconds, self._last_error())
        return PoolHealth(True, milliseconds)

    def _closed_error(self) -> PoolClosedError:
        if self._is_replaced:
            return PoolReplacedError(f"pool {self.name!r} was replaced by one of other settings")
        return PoolClosedError(f"pool {self.name!r} is closed")

    def statistics(self) -> dict[str, Any]:
        """The pool's figures, ready for JSON."""
        return statistics(self.spec, self.pool, self._last_error(), self._now())

    def _last_error(self) -> str | None:
        """What keeps the pool from its work, or a part of it; None: nothing."""
        pool = self.pool
        if pool.last_error is not None:
            return self._connector.masked(pool.last_error)
        if pool.demoted_since is not None:
            return f"the server does not take writes: {self._reports.demotion}"
        if overdue := overdue_calls(pool):
            longest = self._now() - min(slot.call_since for slot in overdue)
            return f"{len(overdue)} calls have had no answer for up to {longest:.1f} s"
        return None

    def histogram(self) -> HistogramSnapshot:
        """How long callers waited for a connection."""
        return wait_histogram(self.spec, self.pool)

    def reset_statistics(self) -> None:
        """Set the counters to zero; what is out on loan stays counted as acquired."""
        leased = len(self.pool.leased)
        counters = self.pool.counters = Counters()
        counters.acquired = counters.peak_active = leased
        counters.peak_connections = self.pool.total


def _end(slot: Slot) -> None:
    """End everything that was taken from the connection's lease."""
    guard, slot.guard, slot.view = slot.guard, None, None
    if guard is not None:
        guard.end()
