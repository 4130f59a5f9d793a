"""A pool of connections to a database among faults: a connection has one holder.

The database is a model: rows, and a transaction for each connection. What is checked:

- No two hold one connection, whoever is cancelled and whatever breaks.
- The database never has more connections of one process than ``max_size``.
- Nobody gets a connection with what another has left in it: a transaction, a setting.
- What was committed is there, and nothing else.
- Everybody who waits gets a connection or an error within the time that he gave, and a second.
- After ``stop`` the database has no connection.

Not covered: drivers of real databases (their tests use real servers), replicas, listening, resizing, slow
calls, more than one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from bot.core._shared.errors import Phase4Error
from bot.core.connection_pool_manager.drivers.base import Driver
from bot.core.connection_pool_manager.models import PoolOptions, PoolSpec
from bot.core.connection_pool_manager.pool import Verdict
from bot.core.connection_pool_manager.runner import PoolRunner
from tests.simulation.faults import Begin, Fault
from tests.simulation.world import Instance, Scenario, Violation, World

MOST = 2
TIMEOUT = 3.0
OPTIONS: dict[str, Any] = {
    "min_size": 1, "max_size": MOST, "connect_timeout": 2.0, "acquire_timeout": TIMEOUT, "idle_timeout": 5.0,
    "max_lifetime": 10.0,
}  # fmt: skip


class ModelConnection:
    """A connection as its driver has it, and the database's session behind it."""

    def __init__(self, database: ModelDatabase, instance: Instance, number: int) -> None:
        self.database, self.instance, self.number = database, instance, number
        self.stands = True
        self.ended = asyncio.get_running_loop().create_future()
        self.uncommitted: dict[int, int] | None = None
        self.setting = "default"
        self.holder: object = None

    def session(self) -> ModelConnection:
        """Itself; who takes the pool's ``raw_connection`` has it reset whatever the driver says."""
        return self

    async def call(self, action: Callable[[], Any] = lambda: None) -> Any:
        """One round trip."""
        await self.database.round_trip(self)
        result = action()
        await self.database.round_trip(self)
        return result

    def end(self) -> None:
        if self.stands:
            self.stands = False
            self.database.sessions.pop(self, None)
            self.ended.set_result(None)


class ModelDatabase:
    """Rows, sessions, and what is wrong with it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows: dict[int, int] = {}
        self.sessions: dict[ModelConnection, None] = {}
        self.refuses = False
        self.hangs: asyncio.Event | None = None
        self._numbers = 0

    async def round_trip(self, connection: ModelConnection | None = None) -> None:
        if self.hangs is not None:
            waits = [asyncio.ensure_future(self.hangs.wait())]
            if connection is not None:
                waits.append(connection.ended)  # type: ignore[arg-type]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waits[0].cancel()
        await asyncio.sleep(self.world.chance.uniform(0.0001, 0.01))
        if connection is not None and not connection.stands:
            raise ConnectionResetError("the database has closed it")

    async def open(self, instance: Instance) -> ModelConnection:
        await self.round_trip()
        if self.refuses:
            raise ConnectionRefusedError("nobody listens")
        self._numbers += 1
        made = ModelConnection(self, instance, self._numbers)
        self.sessions[made] = None
        of_instance = [session for session in self.sessions if session.instance is instance]
        if len(of_instance) > MOST:
            self.world.wrong(f"{len(of_instance)} connections of {instance.name}")
        return made


class ModelDriver(Driver):
    """The database's driver."""

    backend = "redis"
    schemes = ("redis",)
    package = extra = "none"

    def __init__(self, spec: PoolSpec, database: ModelDatabase, instance: Instance) -> None:
        super().__init__(spec)
        self.database, self.instance = database, instance

    async def connect(self) -> ModelConnection:
        made = await self.database.open(self.instance)
        try:
            await made.call()  # the login
        except BaseException:
            made.end()
            raise
        return made

    def is_open(self, raw: ModelConnection) -> bool:
        return raw.stands

    def verdict(self, raw: ModelConnection) -> Verdict:
        if not raw.stands:
            return Verdict.BROKEN
        return Verdict.RESET if raw.uncommitted is not None or raw.setting != "default" else Verdict.CLEAN

    async def ping(self, raw: ModelConnection) -> None:
        await raw.call()

    async def reset(self, raw: ModelConnection) -> None:
        def forget() -> None:
            raw.uncommitted, raw.setting = None, "default"

        await raw.call(forget)

    async def close(self, raw: ModelConnection) -> None:
        await self.database.round_trip()
        raw.end()

    def terminate(self, raw: ModelConnection) -> None:
        raw.end()


def _refuse(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
    database: ModelDatabase = world.scenario.database  # type: ignore[attr-defined]
    database.refuses = True
    return lambda: setattr(database, "refuses", False)


def _hang(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
    database: ModelDatabase = world.scenario.database  # type: ignore[attr-defined]
    hangs = database.hangs = asyncio.Event()

    def end() -> None:
        hangs.set()
        if database.hangs is hangs:
            database.hangs = None

    return end


def _close_sessions(world: World, instance: Instance, fault: Fault) -> None:
    database: ModelDatabase = world.scenario.database  # type: ignore[attr-defined]
    for session in list(database.sessions):
        if world.chance.random() < 0.7:
            session.end()


class PoolWorld(Scenario):
    """Users who change rows in transactions, and some who forget to end them."""

    name: ClassVar[str] = "pool"
    share: ClassVar[float] = 1.5
    kinds: ClassVar[tuple[str, ...]] = (
        "database refuses", "database hangs", "database closes", "stop process", "kill process",
    )  # fmt: skip
    own: ClassVar[dict[str, Begin]] = {
        "database refuses": _refuse,
        "database hangs": _hang,
        "database closes": _close_sessions,
    }
    lasting: ClassVar[tuple[str, ...]] = ("database refuses",)
    quiet: ClassVar[str] = "cannot connect"
    allowed: ClassVar[tuple[type[BaseException], ...]] = (Phase4Error, ConnectionError)
    instances: ClassVar[tuple[int, ...]] = (1, 2)
    users: ClassVar[int] = 4
    length: ClassVar[float] = 15.0
    pause: ClassVar[float] = 0.6

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.database = ModelDatabase(world)
        self.written: list[int] = []
        # Rows whose commit was sent: each is there or not if its answer was lost.
        self.committed: dict[int, bool] = {}

    async def start(self, instance: Instance) -> None:
        options = PoolOptions(validation_timeout=1.0, **OPTIONS).validate()
        spec = PoolSpec("p", "redis", "redis://h", options, {})
        instance.it = PoolRunner(spec, ModelDriver(spec, self.database, instance), clock=instance.clock)
        await instance.it.start(wants_server=False)

    async def stop(self, instance: Instance) -> None:
        await instance.it.stop(drain=5.0)

    def gone(self, instance: Instance) -> None:
        left = [session.number for session in self.database.sessions if session.instance is instance]
        if left:
            self.world.wrong(f"{instance.name} has left connections {left}")

    async def turn(self, instance: Instance, user: int) -> None:
        row = len(self.written)
        self.written.append(row)
        call = await self.world.call(instance, "write", lambda: self._write(instance, row), row=row)
        if call.ended is not None and call.ended - call.begun > 60:
            self.world.wrong(f"{call} took {call.ended - call.begun:.3f} s")

    async def _write(self, instance: Instance, row: int) -> str:
        runner: PoolRunner = instance.it
        begun = self.world.now
        try:
            lease = await runner.acquire()
        finally:
            waited = self.world.now - begun
            if waited > TIMEOUT + 1.0 and not self._was_stopped(instance, begun):
                self.world.wrong(f"waited for {waited:.3f} s in {instance.name}")
        me = object()
        raw = lease.session()
        try:
            if raw.holder is not None:
                self.world.wrong(f"connection {raw.number} has two holders")
            if raw.uncommitted is not None or raw.setting != "default":
                self.world.wrong(f"connection {raw.number} comes with what another left")
            raw.holder = me
            await self._use(raw, row)
        finally:
            if raw.holder is me:
                raw.holder = None
            runner.release(lease)
        return "written"

    async def _use(self, raw: ModelConnection, row: int) -> None:
        def begin() -> None:
            raw.uncommitted = {row: row}
            if row % 3 == 0:
                raw.setting = "mine"

        def commit() -> None:
            self.database.rows.update(raw.uncommitted or {})
            raw.uncommitted = None

        await raw.call(begin)
        await asyncio.sleep(self.chance.choice((0.0, 0.01, 0.5)))
        if row % 5 == 0:
            return  # its user forgot to end the transaction
        self.committed[row] = False
        await raw.call(commit)
        self.committed[row] = True

    def _was_stopped(self, instance: Instance, begun: float) -> bool:
        """Whether a process may have stood still meanwhile."""
        return not self.world.calm(begun, self.world.now, after=0.0)

    async def healed(self, instance: Instance) -> bool:
        try:
            lease = await instance.it.acquire(1.0)
            try:
                await lease.call()
            finally:
                instance.it.release(lease)
        except (Phase4Error, ConnectionError):
            return False
        return True

    def check(self) -> None:
        for row in self.written:
            known = self.committed.get(row)
            if known and row not in self.database.rows:
                raise Violation(f"row {row} was committed, and is gone")
            if known is None and row in self.database.rows:
                raise Violation(f"row {row} is there, and nobody committed it")
