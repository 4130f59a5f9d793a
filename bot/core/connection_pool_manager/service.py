"""The connection pool manager: pools by name."""

from __future__ import annotations

import asyncio
import logging
import math
from asyncio import get_running_loop
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import MisuseError, invalid
from bot.core._shared.histogram import HistogramSnapshot
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks, LoopLocalLock, run_on_loop
from bot.core._shared.validation import valid_seconds
from bot.core.connection_pool_manager.drivers import driver_class
from bot.core.connection_pool_manager.drivers.base import Driver, Watch
from bot.core.connection_pool_manager.errors import (
    LeaseError,
    PoolReplacedError,
    PoolSetupError,
    UnknownPoolError,
)
from bot.core.connection_pool_manager.lease import PooledConnection
from bot.core.connection_pool_manager.lease_context import LeaseContext, is_orphan, release
from bot.core.connection_pool_manager.listening import ListenCalls, Listeners
from bot.core.connection_pool_manager.models import (
    BACKENDS,
    BackendType,
    PoolHealth,
    PoolOptions,
    PoolSpec,
)
from bot.core.connection_pool_manager.runner import PoolRunner
from bot.core.connection_pool_manager.specs import PoolSpecs
from bot.core.connection_pool_manager.sql_calls import SqlCalls
from bot.core.phase4_config import PoolSettings
from bot.core.phase4_service import Phase4Service
from bot.core.phase4_statistics.connection_pools import ConnectionPoolManagerFigures

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 5.0

SQL_BACKENDS = ("postgresql", "mysql", "sqlite")
OBSERVED = (*SQL_BACKENDS, "mongodb")

Observer = Callable[[str, str, bool], Callable[[Any], Watch]]
"""Given a pool's name and backend, what makes a Watch of a connection."""


class ConnectionPoolManager(SqlCalls, ListenCalls, Phase4Service):
    """Pools of database connections by name.

    A connection is leased to one holder at a time; waiters are served in order; a cancelled waiter takes
    nothing with it. ``create_pool`` switches a manager that is off on; ``disable`` closes every pool. It may
    be disabled or enabled again under another event loop than that of its pools.
    """

    service_name: ClassVar[str] = "connection_pool_manager"
    flag: ClassVar[str] = "ENABLE_CONNECTION_POOLING"
    while_off: ClassVar[str] = "there are no pools"

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._clock = clock
        # An entry is changed only under the lock of its name. Reads need no lock.
        self._pools: dict[str, PoolRunner] = {}
        self._changing: defaultdict[str, LoopLocalLock] = defaultdict(LoopLocalLock)
        self._specs = PoolSpecs()
        self._made_from_settings: set[str] = set()
        self._replaced: set[PoolRunner] = set()  # by a pool with other settings; waiting for their leases
        self._tasks = BackgroundTasks()
        self._observer: Observer | None = None
        self._listeners = Listeners(self._runner_here)

    # On and off.

    async def enable(
        self,
        *,
        min_size: int | None = None,
        max_size: int | None = None,
        acquire_timeout: float | None = None,
        connect_timeout: float | None = None,
        idle_timeout: float | None = None,
        max_lifetime: float | None = None,
        keepalive_interval: float | None = None,
        leak_threshold: float | None = None,
        query_timeout: float | None = None,
        pools: Mapping[str, PoolSettings] | None = None,
        urls: Mapping[str, str] | None = None,
    ) -> bool:
        """Switch on. The figures are defaults for pools created from now on; times are seconds.

        ``pools`` (the setting ``DATABASE_POOLS``) exist from then on, even if their server cannot be reached
        yet: see :meth:`warnings`. A pool that was made so before is closed if it is not in ``pools`` any
        more; one whose settings changed is changed while in use. ``urls`` gives a backend's url for pools
        that name none. Raises InvalidArgumentError, and PoolSetupError naming every pool with a wrong
        setting; the others run.
        """
        async with self._transition:
            given = {
                "min_size": min_size,
                "max_size": max_size,
                "acquire_timeout": acquire_timeout,
                "connect_timeout": connect_timeout,
                "idle_timeout": idle_timeout,
                "max_lifetime": max_lifetime,
                "keepalive_interval": keepalive_interval,
                "leak_threshold": leak_threshold,
                "query_timeout": query_timeout,
            }
            if any(value is not None for value in given.values()):
                self._specs.defaults = (self._specs.defaults or PoolOptions()).changed(**given)
            if urls is not None:
                self._specs.urls = {backend: url for backend, url in urls.items() if url}
            self._switched_on()
            if pools is None:
                return True
            self._specs.configured = dict(pools)
            return await self._create_configured()

    async def _create_configured(self) -> bool:
        configured = self._specs.configured or {}
        gone = list(self._made_from_settings - set(configured))
        self._made_from_settings.difference_update(gone)
        await asyncio.gather(*[self._drop(name) for name in gone])
        # Concurrently: several servers that do not answer cost one timeout together.
        told = await asyncio.gather(*[self._configure(name, pool) for name, pool in configured.items()])
        if failures := [failure for failure in told if failure is not None]:
            raise PoolSetupError("; ".join(failures))
        return True

    async def _configure(self, name: str, settings: PoolSettings) -> str | None:
        """Create the pool of one entry of the settings; returns what went wrong, or None."""
        try:
            if not name:
                raise invalid("name", name, "a non-empty string")
            spec = self._specs.spec(name, settings.backend, None, None, None, {})
            running = self._pools.get(name)
            if running is not None and running.spec != spec and name in self._made_from_settings:
                await self._change(spec)
            await self._create(spec, wants_server=False)
        except Exception as error:
            logger.error("Pool %r not created: %s", name, one_line(error))
            return f"pool {name!r}: {one_line(str(error))}"
        self._made_from_settings.add(name)
        return None

    async def _change(self, spec: PoolSpec) -> None:
        """Change the settings of the pool of that name while it is in use.

        Sizes and times change in place. With another url or other driver options a new pool takes over: it
        gives the new leases, and connections of the old pool are closed when they are released.
        """
        async with self._changing[spec.name]:
            running = self._pools.get(spec.name)
            if running is not None and not is_orphan(running):
                await self._change_running(running, spec)

    async def _change_running(self, running: PoolRunner, spec: PoolSpec) -> None:
        """As :meth:`_change`, under the lock of the pool's name."""
        assert running.loop is not None
        adopted = False

        async def adopt() -> None:
            nonlocal adopted
            adopted = running.adopt(spec)

        if await run_on_loop(running.loop, adopt) and adopted:
            return
        fresh = PoolRunner(spec, self._driver(spec), clock=self._clock)
        await fresh.start(wants_server=False)
        self._pools[spec.name] = fresh
        self._listeners.move(spec.name)
        if running.loop is get_running_loop():
            running.replace()
            self._replaced.add(running)
            self._tasks.spawn(self._finish(running), name=f"pool-{spec.name}-replaced")
        else:
            await self._stop(running, DRAIN_SECONDS)

    async def _finish(self, runner: PoolRunner) -> None:
        """Wait for the leases of a pool that was replaced."""
        try:
            await runner.stop(drain=math.inf)
        finally:
            self._replaced.discard(runner)

    def warnings(self) -> list[str]:
        """Pools of the settings whose server has not been reached yet, each with the reason."""
        found = []
        for name in sorted(self._made_from_settings):
            runner = self._pools.get(name)
            said = None if runner is None else runner.health.warning()
            if said is not None:
                found.append(f"pool {name!r}: {said}")
        return found

    async def disable(self, *, drain_timeout: float = DRAIN_SECONDS) -> bool:
        """Close every pool, waiting ``drain_timeout`` seconds for leases; True if all came back."""
        async with self._transition:
            self._enabled = False
            self._made_from_settings.clear()
            # Wait for pools that are being created, so that they are closed too.
            names = list(self._changing)
            found = await asyncio.gather(*[self._drop(name, drain_timeout) for name in names])
            clean = False not in found
            if self._replaced:
                await asyncio.wait(self._tasks.running(), timeout=drain_timeout)
                clean = clean and not self._replaced
            await self._tasks.stop()
            for runner in list(self._replaced):  # of an event loop that has ended
                runner.abandon()
            self._replaced.clear()
            return clean

    async def _stop(self, runner: PoolRunner, drain: float) -> bool:
        clean = True
        if runner.is_inherited:
            runner.abandon()
            return True

        async def stop() -> None:
            nonlocal clean
            clean = await runner.stop(drain=drain)

        assert runner.loop is not None
        if not await run_on_loop(runner.loop, stop):
            runner.abandon()
        return clean

    def _abandon(self, runner: PoolRunner) -> None:
        runner.abandon()
        self._listeners.abandon(runner.name)

    # Pools.

    async def create_pool(
        self,
        name: str,
        backend: BackendType | str,
        min_size: int | None = None,
        max_size: int | None = None,
        url: str | None = None,
        **driver_options: Any,
    ) -> bool:
        """Create a pool and open its first ``min_size`` connections; True once it works.

        ``backend`` is a :class:`BackendType`, or its name: mongodb, redis, postgresql, mysql, sqlite. Without
        ``url``: the one of the entry ``name`` of ``DATABASE_POOLS``, else of ``MONGODB_URL``, ``REDIS_URL``
        or ``DATABASE_URL``, else the backend's usual local address (sqlite has none). ``driver_options`` may
        hold the fields of ``PoolOptions`` (seconds); ``init``, a function that prepares each new connection,
        or ``'module:function'``; ``password``, if it is a function, or ``password_file``, asked at each new
        connection; ``replicas``, urls for leases that only read (postgresql, mysql). The rest goes to the
        driver (mongodb: also ``collection``, ``database``, ``driver``).
        If the pool exists with these settings, nothing happens.
        Switches the manager on if it is off.

        Raises InvalidArgumentError, MissingDriverError, PoolConnectError; MisuseError if a different pool
        has that name. Nothing is left of a pool that could not be created.
        """
        if not isinstance(name, str) or not name:
            raise invalid("name", name, "a non-empty string")
        if backend not in BACKENDS:
            raise invalid("backend", backend, "one of " + ", ".join(map(repr, BACKENDS)))
        backend = str(backend)  # of a BackendType, its name
        spec = self._specs.spec(name, backend, min_size, max_size, url, driver_options)
        was_on = self._enabled
        self._enabled = True  # set before it is made, so that a disable meanwhile wins
        try:
            await self._create(spec)
        except BaseException:
            if not was_on and not self._pools:
                self._enabled = False
            raise
        return True

    async def _create(self, spec: PoolSpec, *, wants_server: bool = True) -> None:
        async with self._changing[spec.name]:
            running = self._pools.get(spec.name)
            if running is not None and not is_orphan(running):
                if running.spec == spec:
                    return
                raise MisuseError(
                    f"name = {spec.name!r}: a pool of that name has other settings; resize_pool changes "
                    "its sizes, for others close_pool it first"
                )
            if running is not None:
                self._abandon(running)
                del self._pools[spec.name]
            runner = PoolRunner(spec, self._driver(spec), clock=self._clock)
            await runner.start(wants_server=wants_server)
            self._pools[spec.name] = runner
            if (said := runner.health.warning()) is not None:
                logger.warning("Pool %r: %s", spec.name, one_line(said))

    async def resize_pool(self, name: str, min_size: int | None = None, max_size: int | None = None) -> bool:
        """Change how many connections a pool keeps and may have, while it is in use; True.

        What is not given stays; a ``max_size`` below the minimum lowers that, too. More room serves callers
        that wait at once. Surplus connections are closed when they are idle, so no lease is interrupted.
        With mongodb another ``max_size`` needs another client: new leases are of that, and the old one is
        closed after its last lease. It lasts until the settings are applied again.

        Raises InvalidArgumentError, UnknownPoolError.
        """
        if min_size is None and max_size is None:
            raise invalid("min_size", None, "a size; neither min_size nor max_size is given")
        self._find(name)
        async with self._changing[name]:
            running = self._find(name)
            options = running.spec.options.changed(min_size=min_size, max_size=max_size)
            spec = msgspec.structs.replace(running.spec, options=options)
            if is_orphan(running):
                running.spec = spec  # the pool is opened with these when it is used again
            else:
                await self._change_running(running, spec)
        return True

    async def close_pool(self, name: str, *, drain_timeout: float = DRAIN_SECONDS) -> bool:
        """Close a pool, waiting up to ``drain_timeout`` seconds for its leases; True if all came back.

        False also when there is no such pool.
        """
        return bool(name in self._changing and await self._drop(name, drain_timeout))

    async def _drop(self, name: str, drain: float = DRAIN_SECONDS) -> bool | None:
        """Whether all leases came back; None: there is no such pool."""
        async with self._changing[name]:
            runner = self._pools.pop(name, None)
            if runner is None:
                return None
            try:
                await self._listeners.close(name)
            finally:
                clean = await self._stop(runner, drain)
            return clean

    # Connections.

    async def acquire_connection(
        self, name: str, timeout: float | None = None, *, read_only: bool = False
    ) -> PooledConnection:
        """Lease a connection of pool ``name``, waiting up to ``timeout`` seconds (None: the pool's own).

        With ``timeout=0`` nothing waits: it leases a connection that is idle, without a ping, or raises.
        With ``read_only=True`` it is of the replica with the least load, if the pool has replicas and one
        works, else of the primary. Give it back by :meth:`release_connection`.

        Raises PoolTimeoutError, with the figures, UnknownPoolError, PoolClosedError; never returns None.
        """
        if timeout is not None:
            valid_seconds("timeout", timeout, zero=True)
        if read_only is not False:
            return await self._acquire_to_read(name, timeout, read_only)
        runner = self._pools.get(name)
        if runner is not None and runner.loop is get_running_loop():
            lease = runner.acquire_nowait() if runner.pool.idle else None
            if lease is not None:
                return lease
            try:
                return await runner.wait(timeout)
            except PoolReplacedError as replaced:
                timeout = timeout if replaced.seconds_left is None else replaced.seconds_left
        while True:
            runner = await self._runner_here(name)
            try:
                return await runner.acquire(timeout)
            except PoolReplacedError as replaced:
                timeout = timeout if replaced.seconds_left is None else replaced.seconds_left

    async def _acquire_to_read(self, name: str, timeout: float | None, read_only: object) -> PooledConnection:
        if read_only is not True:
            raise invalid("read_only", read_only, "True or False")
        while True:
            runner = await self._runner_here(name)
            try:
                return await runner.acquire_to_read(timeout)
            except PoolReplacedError:
                continue

    async def _runner_here(self, name: str) -> PoolRunner:
        runner = self._find(name)
        if runner.loop is get_running_loop():
            return runner
        if not is_orphan(runner):
            raise MisuseError(f"pool {name!r} belongs to another running event loop; make one pool for each")
        # Its event loop ended without closing it (asyncio.run was called again), or this process was forked:
        # open the pool again on this loop.
        async with self._changing[name]:
            runner = self._find(name)
            if runner.loop is not get_running_loop():
                self._abandon(runner)
                fresh = PoolRunner(runner.spec, self._driver(runner.spec), clock=self._clock)
                fresh.pool.counters = runner.pool.counters
                await fresh.start()
                self._pools[name] = runner = fresh
        return runner

    def _backend_of(self, target: object) -> str | None:
        if isinstance(target, PooledConnection):
            return target.backend
        runner = self._pools.get(target) if isinstance(target, str) else None
        return None if runner is None else runner.spec.backend

    def _find(self, name: str) -> PoolRunner:
        runner = self._pools.get(name)
        if runner is None:
            known = ", ".join(repr(known) for known in self._pools) or "none"
            off = "" if self._enabled else f"; connection pooling is off: set {self.flag}, or call enable"
            raise UnknownPoolError(f"name = {name!r}: expected the name of a pool; known pools: {known}{off}")
        return runner

    async def release_connection(self, name: str, conn: PooledConnection, is_healthy: bool = True) -> bool:
        """Give a lease back: True. With ``is_healthy=False`` its connection is closed and replaced.

        Does not wait, so it cannot be interrupted. Raises LeaseError if ``conn`` is not a lease of that
        pool or was released already.
        """
        if type(conn) is not PooledConnection:
            raise LeaseError(
                f"conn = {type(conn).__name__}: expected an object that acquire_connection returned"
            )
        runner = conn._runner
        if runner.name != name:
            raise LeaseError(f"name = {name!r}: expected {runner.name!r}, the pool this connection is from")
        if runner.loop is get_running_loop():
            runner.release(conn, is_healthy)
        else:
            release(conn, is_healthy)
        return True

    def connection(self, name: str, timeout: float | None = None, *, read_only: bool = False) -> LeaseContext:
        """``async with manager.connection(name) as conn``: acquire, and release at the end of the block."""
        return LeaseContext(self, name, timeout, read_only)

    # Watching.

    def observe(self, observer: Observer | None) -> None:
        """Let ``observer`` see the statements on the leases of all pools but those of Redis; None ends
        that.

        ``observer(pool, backend, replica)`` is asked once for each pool, and for each of its replicas, and
        answers with what makes a ``Watch`` of the driver's connection, for each connection; for MongoDB,
        of the client that its leases share, which has ``end()`` alone.
        """
        self._observer = observer
        runners = (*self._pools.values(), *self._replaced)
        for runner in (each for pool in runners for each in (pool, *pool.replicas.members)):
            runner.driver.observer = self._observer_of(runner.spec)
            pool = runner.pool
            for slot in (*pool.idle, *pool.leased, *pool.proving):
                runner.driver.let_watch(slot.raw)

    def _observer_of(self, spec: PoolSpec) -> Callable[[Any], Watch] | None:
        if self._observer is None or spec.backend not in OBSERVED:
            return None
        return self._observer(spec.name, spec.backend, spec.is_replica)

    def _driver(self, spec: PoolSpec) -> Driver:
        driver = driver_class(spec.backend)(spec)
        driver.observer = self._observer_of(spec)
        return driver

    # Telling.

    def snapshot(self) -> ConnectionPoolManagerFigures:
        """Pool name -> figures; see ``docs/connection_pool_manager.md``."""
        pools = {name: runner.figures() for name, runner in self._pools.items()}
        return ConnectionPoolManagerFigures(pools=pools)

    async def get_all_statistics(self) -> dict[str, Any]:
        """The same as :meth:`get_statistics`."""
        return await self.get_statistics()

    async def reset_statistics(self) -> None:
        """Set every pool's counters to zero."""
        for runner in self._pools.values():
            runner.reset_statistics()

    def histograms(self) -> list[HistogramSnapshot]:
        """How long callers waited for a connection, for each pool."""
        return [runner.histogram() for runner in self._pools.values()]

    async def health_check_all(self) -> dict[str, PoolHealth]:
        """Ping one connection of each pool, all pools at once; each answer is true when healthy."""
        names = list(self._pools)
        return dict(zip(names, await asyncio.gather(*map(self._check, names)), strict=True))

    async def _check(self, name: str) -> PoolHealth:
        try:
            return await (await self._runner_here(name)).check_health()
        except Exception as error:
            return PoolHealth(False, 0.0, one_line(str(error)))
