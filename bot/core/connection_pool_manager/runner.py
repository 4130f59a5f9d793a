"""Does what a pool decides, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import MisuseError
from bot.core._shared.tasks import BackgroundTasks
from bot.core.connection_pool_manager.drivers.base import Driver, safe_url, secrets_of
from bot.core.connection_pool_manager.errors import (
    LeaseError,
    PoolClosedError,
    PoolConnectError,
    PoolTimeoutError,
)
from bot.core.connection_pool_manager.lease import PooledConnection, caller_site, describe_site, set_own
from bot.core.connection_pool_manager.models import PoolHealth, PoolSpec
from bot.core.connection_pool_manager.pool import (
    Action,
    Check,
    Close,
    Grant,
    Leak,
    Open,
    Pool,
    Refuse,
    Reset,
    Slot,
    Verdict,
    Waiter,
)

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 2.0
"""Seconds for a polite close; then the socket is closed without one."""
LEAK_REPORTS_PER_MINUTE = 5
_CLEAN = Verdict.CLEAN
_new_lease = PooledConnection.__new__


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
        self._now = clock.monotonic
        self._verdict = driver.verdict
        self._traces = spec.options.leak_threshold > 0
        self._tasks = BackgroundTasks()
        self._secrets = secrets_of(spec.url, spec.driver_options)
        self._number = 0
        self._outage = False  # an outage is logged when it begins and when it ends
        self._drained: asyncio.Event | None = None
        self._reports: list[float] = []
        self._unreported = 0

    # Life.

    async def start(self) -> None:
        """Open the first connection, then the rest up to ``min_size``; raises what is wrong with the first.

        Raises PoolConnectError, or what the driver says of bad options.
        """
        self.loop = asyncio.get_running_loop()
        self._drained = asyncio.Event()
        try:
            await self.driver.start()
            self.pool.opening += 1
            try:
                raw = await self._connect()
            except BaseException as error:
                self.pool.opening -= 1
                if isinstance(error, Exception):
                    self.pool.last_error = error
                raise
            self._do(self.pool.opened(self._slot(raw), self._now()))
            self._tasks.spawn(self._keep_house(), name=f"pool-{self.name}")
            await self._filled()
        except BaseException:
            await self.stop(drain=0.0)
            raise

    async def _filled(self) -> None:
        """Wait until min_size connections are there, or one could not be opened: then it is tried on."""
        pool = self.pool
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.spec.options.connect_timeout):
                while pool.opening and not pool.failures:
                    await asyncio.wait(self._openers(), return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.sleep(0)

    def _openers(self) -> list[asyncio.Task[Any]]:
        name = self._task_name("open")
        return [task for task in self._tasks._tasks if task.get_name() == name]

    async def stop(self, *, drain: float) -> bool:
        """Refuse waiters, wait ``drain`` seconds for leases, close everything; False if leases were out."""
        self._do(self.pool.close(self._now()))
        pool = self.pool
        clean = True
        try:
            if (pool.leased or pool.proving or pool.closing or pool.opening) and self._drained is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(drain, CLOSE_TIMEOUT) if not pool.leased else drain):
                        await self._drained.wait()
            if pool.leased:
                clean = False
                for slot in pool.leased:
                    logger.warning(
                        "Pool %r closed with connection %d on loan since %.1f s, acquired at %s",
                        self.name, slot.number, self._now() - slot.leased_at, describe_site(slot.site),
                    )  # fmt: skip
            await self._tasks.stop()
        finally:
            # Also when cancelled: sockets must not outlive the pool.
            self._terminate_all()
            await self.driver.stop()
        return clean

    def abandon(self) -> None:
        """Drop everything although the event loop is gone: sockets and threads are closed from here."""
        self.pool.close(self._now())
        self._terminate_all()
        self.driver.abandon()

    def _terminate_all(self) -> None:
        pool = self.pool
        for group in (pool.leased, pool.proving, pool.closing):
            for slot in list(group):
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
        lease = self.acquire_nowait()
        if lease is not None:
            return lease
        if self.pool.is_closed:
            raise self._closed_error()
        seconds = self.spec.options.acquire_timeout if timeout is None else timeout
        site = caller_site(1) if self._traces else None
        waiter = Waiter(self._now())
        waiter.future = asyncio.get_running_loop().create_future()
        cancel_timer = self._later(seconds, lambda: self._expire(waiter, seconds))
        try:
            self._do(self.pool.request(waiter, self._now()))
            await waiter.future
            slot = waiter.slot
            assert slot is not None
            slot.site = site
            return PooledConnection(slot, self)
        except BaseException as error:
            # A waiter that timed out or was refused has left the queue already.
            self._do(
                self.pool.withdraw(waiter, self._now(), failed=isinstance(error, asyncio.CancelledError))
            )
            raise
        finally:
            cancel_timer()

    def _expire(self, waiter: Waiter, seconds: float) -> None:
        if waiter.future.done():
            return
        error = self._timeout_error(seconds)
        self._do(self.pool.withdraw(waiter, self._now(), failed=True))
        waiter.future.set_exception(error)

    def _later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], Any]:
        if self.clock is SYSTEM_CLOCK:
            return asyncio.get_running_loop().call_later(seconds, callback).cancel

        async def sleep() -> None:
            await self.clock.sleep(seconds)
            callback()

        return self._tasks.spawn(sleep(), name=self._task_name("timer")).cancel

    # Giving back.

    def release(self, lease: PooledConnection, healthy: bool = True) -> None:
        """End a lease. On the pool's loop it never waits: a reset, if one is needed, runs by itself."""
        slot = lease._slot
        if slot is None:
            raise LeaseError(f"connection of pool {self.name!r}: released twice")
        set_own(lease, "_slot", None)
        verdict = self._verdict(slot.raw)
        if verdict is _CLEAN and healthy and not slot.touched and self.pool.put(slot, self._now()):
            return
        if not healthy:
            verdict = Verdict.DISCARD
        elif slot.touched and verdict is _CLEAN and self.spec.options.reset != "never":
            verdict = Verdict.RESET
        if slot in self.pool.leased:  # else the pool was closed over its head
            self._do(self.pool.release(slot, self._now(), verdict))

    def release_here(self, lease: PooledConnection, healthy: bool) -> None:
        """As :meth:`release`, also when the pool's event loop is gone: then the connection is dropped."""
        if self.loop is not None and (self.loop.is_closed() or not self.loop.is_running()):
            slot = lease._slot
            if slot is None:
                raise LeaseError(f"connection of pool {self.name!r}: released twice")
            set_own(lease, "_slot", None)
            if slot in self.pool.leased:
                self.pool.leased.discard(slot)
                self.pool.counters.released += 1
            self._terminate(slot)
            return
        self.release(lease, healthy)

    def lost(self, slot: Slot) -> None:
        """A lease was dropped without release; called by the garbage collector, on any thread."""
        loop = self.loop
        if loop is None or loop.is_closed() or slot not in self.pool.leased:
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(self._reclaim, slot)

    def _reclaim(self, slot: Slot) -> None:
        if slot not in self.pool.leased:
            return
        if not slot.reported:
            self.pool.counters.leaked += 1
        self._report(
            "Pool %r: connection %d was dropped without being released, acquired at %s; it is replaced",
            self.name, slot.number, describe_site(slot.site),
        )  # fmt: skip
        self._do(self.pool.release(slot, self._now(), Verdict.DISCARD))

    # Doing.

    def _do(self, actions: list[Action]) -> None:
        if not actions and not self.pool.is_closed:
            return
        for action in actions:
            if isinstance(action, Grant):
                future = action.waiter.future
                if future.done():  # cancelled in this very tick: its withdraw hands the connection on
                    continue
                future.set_result(None)
            elif isinstance(action, Open):
                self._spawn("open", self._open(action.delay))
            elif isinstance(action, Close):
                self._spawn("close", self._close(action.slot))
            elif isinstance(action, Check):
                self._spawn("check", self._prove(action.slot, self.driver.ping, self.pool.checked))
            elif isinstance(action, Reset):
                self._spawn("reset", self._prove(action.slot, self.driver.reset, self.pool.was_reset))
            elif isinstance(action, Refuse):
                if not action.waiter.future.done():
                    action.waiter.future.set_exception(self._closed_error())
            else:
                self._leak(action)
        pool = self.pool
        if (
            pool.is_closed
            and self._drained is not None
            and not (pool.leased or pool.proving or pool.closing or pool.opening)
        ):
            self._drained.set()

    def _task_name(self, what: str) -> str:
        return f"pool-{self.name}-{what}"

    def _spawn(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.spawn(work, name=self._task_name(what))

    async def _open(self, delay: float) -> None:
        try:
            if delay:
                await self.clock.sleep(delay)
            if self.pool.is_closed:
                self._do(self.pool.open_failed(None, self._now()))
                return
            raw = await self._connect()
        except BaseException as error:
            failure = error if isinstance(error, Exception) else None
            if failure is not None and not self._outage:
                self._outage = True
                logger.error("Pool %r: %s; trying on", self.name, failure)
            self._do(self.pool.open_failed(failure, self._now()))
            if failure is None:
                raise
            return
        if self._outage:
            self._outage = False
            logger.info("Pool %r: connected again", self.name)
        self._do(self.pool.opened(self._slot(raw), self._now()))

    def _slot(self, raw: Any) -> Slot:
        self._number += 1
        return Slot(raw, self._number)

    async def _connect(self) -> Any:
        seconds = self.spec.options.connect_timeout
        try:
            async with asyncio.timeout(seconds):
                return await self.driver.connect()
        except TimeoutError as error:
            raise PoolConnectError(
                f"cannot connect to {safe_url(self.spec.url)} ({self.spec.backend}): no answer within "
                f"{seconds:g} s; check host, port and firewall, or raise connect_timeout"
            ) from error
        except Exception as error:
            if isinstance(error, MisuseError):
                raise
            if isinstance(error, TypeError) and "argument" in str(error):
                raise MisuseError(
                    f"pool {self.name!r}: the {self.spec.backend} driver refuses its options "
                    f"{sorted(self.spec.driver_options)}: {self.masked(error)}"
                ) from None
            # Not from error: its text and its frames may hold the password.
            raise PoolConnectError(
                f"cannot connect to {safe_url(self.spec.url)} ({self.spec.backend}): {self.masked(error)}; "
                "check that the server runs, and the host, port, user and password of the url"
            ) from None

    def masked(self, error: BaseException) -> str:
        """What an error says, without secrets."""
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return safe_url(text)

    async def _close(self, slot: Slot) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.driver.close(slot.raw)
        except Exception:
            logger.debug("Pool %r: connection %d not closed politely", self.name, slot.number)
        finally:
            # Whatever happened, and also when cancelled: nothing stays open. Nothing to do if it worked.
            self._terminate(slot)
            if slot in self.pool.closing:
                self._do(self.pool.closed(slot, self._now()))

    def _terminate(self, slot: Slot) -> None:
        try:
            self.driver.terminate(slot.raw)
        except Exception:
            logger.debug("Pool %r: connection %d not terminated", self.name, slot.number, exc_info=True)

    async def _prove(
        self,
        slot: Slot,
        work: Callable[[Any], Coroutine[Any, Any, None]],
        report: Callable[[Slot, bool, float], list[Action]],
    ) -> None:
        ok = False
        try:
            async with asyncio.timeout(self.spec.options.connect_timeout):
                await work(slot.raw)
            ok = True
        except Exception as error:
            logger.debug("Pool %r: connection %d is broken: %s", self.name, slot.number, self.masked(error))
        finally:
            if slot in self.pool.proving:
                self._do(report(slot, ok, self._now()))

    async def _keep_house(self) -> None:
        options = self.spec.options
        shortest = min(options.idle_timeout, options.max_lifetime, options.keepalive_interval)
        if options.leak_threshold:
            shortest = min(shortest, options.leak_threshold)
        period = min(max(shortest / 10, 0.05), 1.0)
        while not self.pool.is_closed:
            await self.clock.sleep(period)
            self._do(self.pool.tick(self._now()))

    def _leak(self, leak: Leak) -> None:
        self._report(
            "Pool %r: connection %d is on loan for %.1f s, perhaps never released; acquired at %s",
            self.name, leak.slot.number, leak.held, describe_site(leak.slot.site),
        )  # fmt: skip

    def _report(self, message: str, *args: Any) -> None:
        """Log a leak, but not more than a few a minute: leaks come in swarms."""
        now = self._now()
        self._reports = [at for at in self._reports if now - at < 60]
        if len(self._reports) >= LEAK_REPORTS_PER_MINUTE:
            self._unreported += 1
            return
        self._reports.append(now)
        if self._unreported:
            message += f" ({self._unreported} more such reports were left out)"
            self._unreported = 0
        logger.warning(message, *args)

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
                async with asyncio.timeout(min(5.0, self.spec.options.connect_timeout)):
                    await self.driver.ping(slot.raw)
                healthy = True
            finally:
                self.release(lease, healthy)
        except Exception as error:
            return PoolHealth(False, (time.perf_counter() - started) * 1000, self.masked(error))
        return PoolHealth(True, (time.perf_counter() - started) * 1000)

    def _closed_error(self) -> PoolClosedError:
        return PoolClosedError(f"pool {self.name!r} is closed")

    def _timeout_error(self, seconds: float) -> PoolTimeoutError:
        pool = self.pool
        text = (
            f"Cannot acquire connection from pool {self.name!r} ({self.spec.backend}) within {seconds:g} s: "
            f"active {len(pool.leased)}, idle {len(pool.idle)}, max {pool.options.max_size}, "
            f"waiters {len(pool.waiters)}"
        )
        if pool.leased:
            oldest = min(pool.leased, key=lambda slot: slot.leased_at)
            text += (
                f", longest lease {self._now() - oldest.leased_at:.1f} s (connection {oldest.number}, "
                f"acquired at {describe_site(oldest.site)})"
            )
        cause = pool.last_error
        if cause is not None:
            text += f". The server cannot be reached: {cause}"
        else:
            text += ". Raise POOL_MAX_SIZE or POOL_ACQUIRE_TIMEOUT, or release connections sooner"
        error = PoolTimeoutError(text)
        error.__cause__ = cause
        return error

    def statistics(self) -> dict[str, Any]:
        """The pool's figures, ready for JSON."""
        pool, counters = self.pool, self.pool.counters
        waits = counters.waits
        now = self._now()
        active = len(pool.leased)
        zeros = max(0, counters.acquired - waits.recorded)
        busy = len(pool.proving) + len(pool.closing)
        return {
            "backend": self.spec.backend,
            "url": safe_url(self.spec.url),
            "total_connections": active + len(pool.idle) + busy,
            "active_connections": active,
            "idle_connections": len(pool.idle),
            "busy_connections": busy,
            "opening_connections": pool.opening,
            "waiting": len(pool.waiters),
            "min_size": pool.options.min_size,
            "max_size": pool.options.max_size,
            "utilization_percent": round(active / pool.options.max_size * 100, 1),
            "peak_active": counters.peak_active,
            "peak_connections": max(counters.peak_connections, pool.total - pool.opening),
            "total_acquired": counters.acquired,
            "total_released": counters.released,
            "failed_acquisitions": counters.failed,
            "avg_wait_time_ms": round(waits.total / counters.acquired * 1000, 3)
            if counters.acquired
            else 0.0,
            "p50_wait_time_ms": round(waits.quantile(0.5, zeros) * 1000, 3),
            "p99_wait_time_ms": round(waits.quantile(0.99, zeros) * 1000, 3),
            "max_wait_time_ms": round(waits.longest * 1000, 3),
            "longest_lease_seconds": round(
                max((now - slot.leased_at for slot in pool.leased), default=0.0), 3
            ),
            "leaked": counters.leaked,
            "connections_opened": counters.opened,
            "connections_closed": counters.closed,
            "connect_failures": counters.open_failures,
            "resets": counters.resets,
            "healthy": pool.failures == 0 and not pool.is_closed,
            "last_error": None if pool.last_error is None else self.masked(pool.last_error),
        }

    def reset_statistics(self) -> None:
        """Set the counters to zero; what is out on loan stays counted as acquired."""
        leased = len(self.pool.leased)
        self.pool.counters.__init__()  # type: ignore[misc]
        self.pool.counters.acquired = self.pool.counters.peak_active = leased
