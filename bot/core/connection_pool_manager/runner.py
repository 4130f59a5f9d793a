"""Carries out what a pool decides, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from typing import Any

import msgspec

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.histogram import HistogramSnapshot
from bot.core._shared.loop_owner import seen, still_runs
from bot.core._shared.tasks import BackgroundTasks, to_the_end
from bot.core.connection_pool_manager.alarm import Alarm
from bot.core.connection_pool_manager.connecting import Connector
from bot.core.connection_pool_manager.connection_tasks import CLOSE_TIMEOUT, ConnectionTasks
from bot.core.connection_pool_manager.drivers.base import Driver
from bot.core.connection_pool_manager.errors import (
    LeaseError,
    PoolClosedError,
    PoolConnectError,
    PoolReplacedError,
)
from bot.core.connection_pool_manager.health import Health
from bot.core.connection_pool_manager.lease import (
    PooledConnection,
    caller_site,
    end_use,
    set_runner,
    set_slot,
)
from bot.core.connection_pool_manager.models import PoolHealth, PoolSpec
from bot.core.connection_pool_manager.pool import (
    Action,
    Grant,
    Leak,
    Pool,
    Refuse,
    Returned,
    Slot,
    Verdict,
    Waiter,
)
from bot.core.connection_pool_manager.replicas import Replicas, replica_specs
from bot.core.connection_pool_manager.reports import (
    Reports,
    figures_of,
    not_idle_error,
    timeout_error,
    wait_histogram,
)
from bot.core.connection_pool_manager.slow_calls import SlowCalls
from bot.core.connection_pool_manager.stats import Counters
from bot.core.phase4_statistics.connection_pools import PoolFigures

_CLEAN = Verdict.CLEAN
_new_lease = PooledConnection.__new__
_inherited: list[PoolRunner] = []
"""Pools of the parent process of a fork. They are kept: to collect them would close shared sockets."""


class PoolRunner:
    """One running pool: its driver, its tasks, its leases. Bound to the event loop that it is started on.

    Acquiring a clean connection and giving it back are plain calls, without task, lock or await. A caller
    that is cancelled while it waits leaves the queue; the next one gets the connection that it had been
    given.
    """

    def __init__(self, spec: PoolSpec, driver: Driver, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.name = spec.name
        self.spec = spec
        self.driver = driver
        self.clock = clock
        self.loop: asyncio.AbstractEventLoop | None = None
        self.pool = Pool(spec.options, is_open=driver.is_open)
        self.pool.has_other_hosts = len(getattr(driver, "places", ())) > 1
        self._reports = reports = Reports(spec.name)
        self._connector = Connector(driver)
        self.health = Health(self.pool, self._connector, reports)
        self._slow_calls = slow_calls = SlowCalls(self.pool, driver, reports)
        driver.report_timeout = lambda guard: slow_calls.timed_out(guard, clock.monotonic())
        self._now = clock.monotonic
        self._verdict = driver.verdict
        self._is_let_go = driver.is_let_go
        self._traces = spec.options.leak_threshold > 0
        self._tasks = tasks = BackgroundTasks()
        self._connections = ConnectionTasks(
            self.pool, driver, self._connector, reports, tasks, clock, self._do
        )
        self._alarm = Alarm(self._expire, tasks, clock, name=f"pool-{spec.name}-timer")
        self._drained: asyncio.Event | None = None
        self._process = os.getpid()
        self._is_replaced = False
        self.replicas: Replicas[PoolRunner] = Replicas(
            [PoolRunner(each, driver.twin(each), clock=clock) for each in replica_specs(spec)]
        )
        self._settled: asyncio.Future[None] | None = None  # start waits for the first connections

    # Life.

    async def start(self, *, wants_server: bool = True) -> None:
        """Open the first connection, then the others up to ``min_size``. Raises the error of the first.

        Without ``wants_server`` it is no error if the server is unreachable or refuses: the pool keeps
        trying. Raises PoolConnectError, or the driver's error for bad options.
        """
        self.loop = asyncio.get_running_loop()
        seen(self.loop)
        self._process = os.getpid()
        self._drained = asyncio.Event()
        try:
            await self.driver.start()
            await self.replicas.start()
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
                self._connections.not_opened(error)
                self._tasks.spawn(self._keep_house(), name=f"pool-{self.name}")
                return
            self._do(self.pool.opened(self._connections.new_slot(raw), self._now()))
            self._tasks.spawn(self._keep_house(), name=f"pool-{self.name}")
            await self._filled()
        except BaseException:
            await self.stop(drain=0.0)
            raise

    async def _filled(self) -> None:
        """Wait until min_size connections are open, or one could not be opened, which is retried later."""
        if not self.pool.opening:
            return
        assert self.loop is not None
        self._settled = self.loop.create_future()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.spec.options.connect_timeout):
                await self._settled
        self._settled = None

    def adopt(self, spec: PoolSpec) -> bool:
        """Change sizes and times while the pool is in use. False, with nothing done, if other settings
        differ.
        """
        old = self.spec
        if spec != msgspec.structs.replace(old, options=spec.options):
            return False
        if not self.driver.adopt(spec):
            return False
        self.spec = spec
        self.replicas.adopt(spec)
        self._traces = spec.options.leak_threshold > 0
        self._do(self.pool.reconfigure(spec.options, self._now()))
        return True

    def replace(self) -> None:
        """Refuse callers from now on: another pool of that name serves them, and waiters go there."""
        self._is_replaced = True
        self.replicas.replace()
        self._do(self.pool.close(self._now()))

    async def stop(self, *, drain: float) -> bool:
        """Refuse waiters, wait ``drain`` seconds for leases, close everything; False if leases were out."""
        if not self.replicas.members:
            return await self._stop(drain)
        return all(await asyncio.gather(self._stop(drain), self.replicas.stop(drain=drain)))

    async def _stop(self, drain: float) -> bool:
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
            self._alarm.cancel()
            await to_the_end(self._end())
        return clean

    async def _end(self) -> None:
        try:
            await self._tasks.stop()
        finally:
            self._connections.terminate_all()
            await self.driver.stop()

    @property
    def is_inherited(self) -> bool:
        """Whether this process was forked from the one that the pool is of."""
        return self._process != os.getpid()

    def abandon(self) -> None:
        """Close sockets and threads without the event loop, which is gone.

        After a fork nothing is closed: sockets and the loop's selector belong to the parent, too.
        """
        self.replicas.abandon()
        if self.is_inherited:
            for slot in self.pool.leased:
                end_use(slot)
            _inherited.append(self)
            return
        self.pool.close(self._now())
        self._connections.terminate_all()
        self.driver.abandon()

    # Reading.

    def serves_reads(self) -> bool:
        """Of a replica's pool: False while it is known that its server is the primary of the url."""
        return not (self.spec.is_host and getattr(self.driver, "accepts_writes", None))

    def load(self) -> float:
        """Leases and callers that wait, for each connection that there may be."""
        return (len(self.pool.leased) + len(self.pool.waiters)) / self.spec.options.max_size

    async def acquire_to_read(self, timeout: float | None = None) -> PooledConnection:
        """A lease of a replica; if none works, of this pool. Otherwise as :meth:`acquire`."""
        now = self._now()
        seconds = self.spec.options.acquire_timeout if timeout is None else timeout
        if self.replicas.members:
            lease = await self.replicas.acquire(seconds, now)
            if lease is not None:
                self.pool.counters.reads_by_replicas += 1
                return lease
            self.pool.counters.reads_by_primary += 1
        return await self.acquire(seconds and max(0.001, round(seconds - (self._now() - now), 3)))

    # Acquiring.

    def acquire_nowait(self) -> PooledConnection | None:
        """A lease of a clean idle connection; None: use :meth:`acquire`. Call it on the pool's loop."""
        slot = self.pool.take(self._now())
        if slot is None:
            return None
        if self._traces:
            slot.site = caller_site(3)
        lease = _new_lease(PooledConnection)
        set_slot(lease, slot)
        set_runner(lease, self)
        return lease

    async def acquire(self, timeout: float | None = None) -> PooledConnection:
        """A lease; callers are served in order. Waits up to ``timeout`` seconds; 0: not at all.

        Raises PoolTimeoutError with the pool's figures, and PoolClosedError.
        """
        return self.acquire_nowait() or await self.wait(timeout)

    async def wait(self, timeout: float | None) -> PooledConnection:
        """As :meth:`acquire`, after :meth:`acquire_nowait` returned None."""
        pool = self.pool
        if pool.is_closed or self.loop is None:
            raise self._closed_error()
        now = self._now()
        if timeout == 0:
            return self._at_once(now)
        waiter = Waiter(now, now + (self.spec.options.acquire_timeout if timeout is None else timeout))
        waiter.future = self.loop.create_future()
        if waiter.deadline < self._alarm.at:
            self._alarm.set(waiter.deadline)
        try:
            if actions := pool.request(waiter, now):
                self._do(actions)
            await waiter.future
        except BaseException as error:
            # A waiter that timed out or was refused has left the queue already.
            if isinstance(error, asyncio.CancelledError):
                self._do(pool.withdraw(waiter, self._now(), cancelled=True))
            elif isinstance(error, PoolReplacedError):
                error.seconds_left = max(0.001, waiter.deadline - self._now())
            raise
        slot = waiter.slot
        assert slot is not None
        # Not before the wait: a site is larger than all else that a waiter keeps.
        slot.site = caller_site(3) if self._traces else None
        lease = _new_lease(PooledConnection)
        set_slot(lease, slot)
        set_runner(lease, self)
        return lease

    def _at_once(self, now: float) -> PooledConnection:
        slot = self.pool.take_at_once(now)
        if slot is None:
            raise not_idle_error(self.spec, self.pool, now)
        slot.site = caller_site(4) if self._traces else None
        return PooledConnection(slot, self)

    def _expire(self) -> None:
        now = self._now()
        for waiter in self.pool.overdue(now):
            if not waiter.future.done():
                error = timeout_error(self.spec, self.pool, waiter.deadline - waiter.since, now)
                self._do(self.pool.withdraw(waiter, now))
                waiter.future.set_exception(error)
        following = self.pool.next_deadline()
        if following < math.inf:
            self._alarm.set(following)

    async def open_apart(self) -> Any:
        """A connection of the driver's that is none of the pool's; the caller closes it.

        Raises PoolConnectError, or MisuseError for options that the driver refuses.
        """
        return await self._connector.connect()

    # Giving back.

    def release(self, lease: PooledConnection, healthy: bool = True) -> None:
        """End a lease; call it on the pool's loop. It never waits: a reset, if needed, runs in a task."""
        slot = lease._slot
        if slot is None:
            raise LeaseError(f"connection of pool {self.name!r}: released twice")
        set_slot(lease, None)
        demotion = None
        if slot.guard is not None:
            demotion = slot.guard.demotion
            if slot.view is None or demotion is not None or not self._is_let_go(slot.view, slot.guard):
                end_use(slot)
        try:
            verdict = self._verdict(slot.raw)
        except Exception as error:
            # If the driver's package has changed, that may cost a connection, but not the caller's result.
            verdict = Verdict.BROKEN
            self._reports.verdict_failed(error)
        if verdict is _CLEAN and healthy and not slot.touched and demotion is None:
            pool = self.pool
            if not pool.waiters:
                if pool.put(slot, self._now()):
                    return
            elif waiter := pool.hand_over(slot, self._now()):
                # done: cancelled in this tick, and its withdraw passes the connection on
                if not waiter.future.done():
                    waiter.future.set_result(None)
                return
        if verdict is Verdict.DEMOTED:
            verdict, demotion = _CLEAN, demotion or "the server is not the primary any more"
        if not healthy:
            verdict = Verdict.BROKEN
        elif slot.touched and verdict is _CLEAN and self.spec.options.reset != "never":
            verdict = Verdict.RESET
        if slot in self.pool.leased:  # else the pool was closed meanwhile
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
            set_slot(lease, None)
            end_use(slot)
            if slot in self.pool.leased:
                self.pool.leased.discard(slot)
                self.pool.counters.released += 1
            if not self.is_inherited:
                self._connections.terminate(slot)
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
        end_use(slot)
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
                if future.done():  # cancelled in this tick: its withdraw passes the connection on
                    continue
                future.set_result(None)
            elif isinstance(action, Refuse):
                if not action.waiter.future.done():
                    action.waiter.future.set_exception(self._closed_error())
            elif isinstance(action, Leak):
                self._reports.leak(action, self._now())
            elif isinstance(action, Returned):
                self._reports.returned(action)
            else:
                self._connections.start(action)
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
            return PoolHealth(False, milliseconds, self.health.problem(self._now()))
        return PoolHealth(True, milliseconds)

    def _closed_error(self) -> PoolClosedError:
        if self._is_replaced:
            return PoolReplacedError(f"pool {self.name!r} was replaced by one of other settings")
        return PoolClosedError(f"pool {self.name!r} is closed")

    def masked(self, error: BaseException) -> str:
        """What an error of the driver's says, without secrets."""
        return self._connector.masked(error)

    def figures(self) -> PoolFigures:
        """The pool's figures, ready for JSON."""
        now = self._now()
        return msgspec.structs.replace(
            figures_of(self.spec, self.pool, self.health.problem(now), now),
            replicas=len(self.replicas.members),
            replicas_working=len(self.replicas.serving(now)),
        )

    def histogram(self) -> HistogramSnapshot:
        """How long callers waited for a connection."""
        return wait_histogram(self.spec, self.pool)

    def reset_statistics(self) -> None:
        """Set the counters to zero; leased connections stay counted as acquired."""
        leased = len(self.pool.leased)
        counters = self.pool.counters = Counters()
        counters.acquired = counters.peak_active = leased
        counters.peak_connections = self.pool.total
