"""The query optimizer among faults: no cached result is older than the documentation says.

Each instance has an optimizer, and a cache that tells the others what was written, connected as the start-up
connects them; all use one database, a model. What the documentation promises, and what is checked here:

- A read that begins after a write of the same instance has ended sees it, also if the write failed or was
  cancelled after it had its effect. Others see it ``HEARD`` seconds later, or ``REPEATED`` seconds after a
  fault that was in the way; but not what ends after its instance was switched off. No result outlives its
  TTL.
- What a transaction has written is seen by itself at once, and by others after its commit: never what was
  rolled back.
- Callers of one read share one execution; nobody is cancelled because the one who leads it is.
- A read ends in its time, with an error of the database or of the optimizer at worst.

Not covered: what texts mean (their own tests run them on real databases), scopes, catalogs, MongoDB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import sqlglot.parser  # noqa: F401 - before the optimizer starts a thread that loads it

from bot.core.cache_manager import CacheManager
from bot.core.query_optimizer import QueryOptimizer, QueryTimeoutError
from tests.simulation.faults import KINDS, LASTING, Begin, Fault
from tests.simulation.rows_model import DatabaseError, Row, Rows, Writing
from tests.simulation.world import Instance, Scenario, Violation, World

TTL, QUERY_TIMEOUT = 60.0, 3.0
HEARD = 5.0
REPEATED = 15.0
TOPIC = "tables written"
TABLES = ("users", "items")
QUERIES: dict[str, tuple[str, ...]] = {
    "SELECT version FROM users WHERE id = ?": ("users",),
    "SELECT version FROM items WHERE id = ?": ("items",),
    "SELECT u.version, i.version FROM users u JOIN items i ON u.id = i.id WHERE u.id = ?": ("users", "items"),
}
IDS = 2


class RolledBack(Exception):
    """Its user changed his mind."""


class Reading(NamedTuple):
    """What a read has given."""

    instance: Instance
    begun: float
    ended: float
    rows: list[tuple[Row, int]]


@dataclass(eq=False)
class Run:
    """An execution that callers share."""

    begun: float
    tables: tuple[str, ...]
    task: asyncio.Task[Any] | None


class Services(NamedTuple):
    """Those of one instance."""

    cache: CacheManager
    optimizer: QueryOptimizer


class OptimizerWorld(Scenario):
    """Users who read rows, write them, and write several in transactions."""

    name: ClassVar[str] = "optimizer"
    kinds: ClassVar[tuple[str, ...]] = (
        *(kind for kind in KINDS if kind != "clock step of redis"),
        "cut", "black hole", "black hole", "half open",  # again: what is in the way of messages
        "statements fail", "statements hang", "statements are slow",
    )  # fmt: skip
    lasting: ClassVar[tuple[str, ...]] = (*LASTING, "statements fail", "statements are slow")
    allowed: ClassVar[tuple[type[BaseException], ...]] = (DatabaseError, QueryTimeoutError)
    length: ClassVar[float] = 15.0
    pause: ClassVar[float] = 0.8

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.rows = Rows(world)
        self.readings: list[Reading] = []
        self._runs: dict[tuple[Instance, str, int], list[Run]] = {}

    async def start(self, instance: Instance) -> None:
        cache, optimizer = CacheManager(clock=instance.clock), QueryOptimizer(clock=instance.clock)
        instance.it = Services(cache, optimizer)
        await cache.enable(redis_url=instance.url)
        await optimizer.enable(cache_ttl=TTL, query_timeout=QUERY_TIMEOUT)
        optimizer.after_write(lambda tables: cache.tell(TOPIC, tables))
        cache.listen(TOPIC, optimizer.written_elsewhere)

    async def stop(self, instance: Instance) -> None:
        for service in instance.it:
            await service.disable()

    # Users.

    async def turn(self, instance: Instance, user: int) -> None:
        query, id = self.chance.choice(list(QUERIES)), self.chance.randrange(IDS)
        what = self.chance.random()
        if what < 0.4:
            count = self.chance.choice((1, 1, 3))
            await asyncio.gather(*[self._call(instance, "read", self._read, query, id) for _ in range(count)])
        elif what < 0.6:
            await self._call(instance, "read in steps", self._read_in_steps, query, id)
        elif what < 0.8:
            table = self.chance.choice(TABLES)
            await self._call(instance, "write", self._write, (table, id))
            await self._call(instance, "read", self._read, f"SELECT version FROM {table} WHERE id = ?", id)
        elif what < 0.9:
            await self._call(instance, "transaction", self._in_scope, self._plan())
        else:
            await self._call(instance, "BEGIN", self._in_texts, self._plan())

    async def _call(self, instance: Instance, what: str, operation: Any, *arguments: Any) -> None:
        begun = self.world.now
        await self.world.call(instance, what, lambda: operation(instance, *arguments), of=arguments)
        seconds = self.world.now - begun
        late = "read" in what and seconds > 2 * QUERY_TIMEOUT + 1.0
        if late and self.world.calm(begun, self.world.now, after=0.0):
            self.world.wrong(f"{what} {arguments} took {seconds:.3f} s")

    def _plan(self) -> list[Row]:
        """The rows of a transaction, in the order of their locks."""
        every = [(table, id) for table in TABLES for id in range(IDS)]
        return sorted(self.chance.sample(every, self.chance.choice((1, 2))))

    # Reads.

    async def _read(self, instance: Instance, query: str, id: int) -> Any:
        begun = self.world.now

        async def run(query: str, parameters: Any) -> list[Any]:
            return await self._shared_run(instance, query, id)

        result = await instance.it.optimizer.execute(query, (id,), run)
        self.readings.append(Reading(instance, begun, self.world.now, result))
        return result

    async def _read_in_steps(self, instance: Instance, query: str, id: int) -> Any:
        optimizer: QueryOptimizer = instance.it.optimizer
        begun = self.world.now
        result = await optimizer.get_cached_result(query, (id,))
        if result is None:
            result = await self._select(query, id, {})
            await optimizer.cache_query_result(query, result, params=(id,))
        self.readings.append(Reading(instance, begun, self.world.now, result))
        return result

    async def _shared_run(self, instance: Instance, query: str, id: int) -> list[Any]:
        now = self.world.now
        runs = self._runs.setdefault((instance, query, id), [])
        run = Run(now, QUERIES[query], asyncio.current_task())
        for other in runs:
            if other.task is not None and other.task.cancelling():
                continue  # whoever comes then need not wait for how that ends
            if self.world.calm(other.begun, now, after=REPEATED) and not self._written(run, other.begun):
                self.world.wrong(f"{query} {id} runs twice in {instance.name}, and nothing was written")
        runs.append(run)
        try:
            return await self._select(query, id, {})
        finally:
            runs.remove(run)

    def _written(self, run: Run, since: float) -> bool:
        """Whether a table of it may have been written, or be known to have been, since then."""
        return any(
            not writing.tables.isdisjoint(run.tables)
            and (writing.ended is None or writing.ended + HEARD >= since)
            for writing in self.rows.writings
        )

    async def _select(self, query: str, id: int, pending: dict[Row, int]) -> list[Any]:
        """One round trip; what is there is looked at somewhere within it."""
        await self.rows.trip()
        rows = [(table, id) for table in QUERIES[query]]
        result = [(row, pending.get(row, self.rows.of(row)[-1].version)) for row in rows]
        if self.chance.random() < 0.2:
            await asyncio.sleep(self.chance.uniform(0.0, 1.0))
        await self.rows.trip()
        return result

    # Writes.

    def _begin(self, instance: Instance) -> Writing:
        writing = Writing(instance, self.world.now)
        self.rows.writings.append(writing)
        return writing

    def _end(self, writing: Writing) -> None:
        writing.ended = self.world.now
        self.rows.unlock(writing)

    async def _update(self, row: Row, pending: dict[Row, int], writing: Writing, *, commits: bool) -> None:
        """One statement, of a transaction or by itself."""
        writing.tables.add(row[0])
        version = self.rows.new_version()

        async def run(query: str, parameters: Any) -> int:
            await self.rows.trip()
            pending[row] = version
            if commits:
                self.rows.commit(pending, writing)
            await self.rows.trip()
            if self.chance.random() < 0.1:
                raise DatabaseError("the answer is lost")
            return 1

        optimizer: QueryOptimizer = writing.instance.it.optimizer
        await optimizer.execute(f"UPDATE {row[0]} SET version = ? WHERE id = ?", (version, row[1]), run)

    async def _write(self, instance: Instance, row: Row) -> str:
        writing = self._begin(instance)
        try:
            if not self.rows.lock(row, writing):
                return "locked"
            await self._update(row, {}, writing, commits=True)
        finally:
            self._end(writing)
        return "written"

    async def _in_scope(self, instance: Instance, rows: list[Row]) -> str:
        """A transaction that the driver manages, and the optimizer is told of."""
        writing, pending = self._begin(instance), dict[Row, int]()
        try:
            async with instance.it.optimizer.transaction():
                await self._statements(writing, pending, rows)
                await self._commit(writing, pending)
        except RolledBack:
            return "rolled back"
        finally:
            self._end(writing)
        return "committed"

    async def _in_texts(self, instance: Instance, rows: list[Row]) -> str:
        """A transaction whose BEGIN and COMMIT pass through the optimizer."""
        optimizer: QueryOptimizer = instance.it.optimizer
        writing, pending = self._begin(instance), dict[Row, int]()

        async def trip(query: str, parameters: Any) -> None:
            await self.rows.trip()

        async def commit(query: str, parameters: Any) -> None:
            await self._commit(writing, pending)

        async def roll_back(query: str, parameters: Any) -> None:
            pending.clear()

        try:
            await optimizer.execute("BEGIN", None, trip)
            try:
                await self._statements(writing, pending, rows)
            except Exception:
                await optimizer.execute("ROLLBACK", None, roll_back)
                raise
            await optimizer.execute("COMMIT", None, commit)
        except RolledBack:
            return "rolled back"
        finally:
            self._end(writing)
        return "committed"

    async def _statements(self, writing: Writing, pending: dict[Row, int], rows: list[Row]) -> None:
        for row in rows:
            if not self.rows.lock(row, writing):
                raise RolledBack
            await self._update(row, pending, writing, commits=False)
            await asyncio.sleep(self.chance.choice((0.0, 0.01, 1.0)))
            await self._read_own(writing, pending, row)
        if self.chance.random() < 0.3:
            raise RolledBack

    async def _read_own(self, writing: Writing, pending: dict[Row, int], row: Row) -> None:
        query = next(query for query, tables in QUERIES.items() if tables == (row[0],))

        async def run(query: str, parameters: Any) -> list[Any]:
            return await self._select(query, row[1], pending)

        result = await writing.instance.it.optimizer.execute(query, (row[1],), run)
        if result != [(row, pending[row])]:
            self.world.wrong(f"a transaction has written {pending}, and reads {result}")

    async def _commit(self, writing: Writing, pending: dict[Row, int]) -> None:
        await self.rows.trip()
        self.rows.commit(pending, writing)
        await self.rows.trip()

    # The end.

    async def healed(self, instance: Instance) -> bool:
        await instance.it.cache.set("probe", "there")
        return not instance.it.cache.snapshot().degraded

    async def finish(self, instance: Instance) -> None:
        await asyncio.sleep(max(0.0, self.world.faults_ended + REPEATED + HEARD - self.world.now))
        for query in QUERIES:
            for id in range(IDS):
                await self._read(instance, query, id)

    def check(self) -> None:
        for reading in self.readings:
            for row, version in reading.rows:
                self._check(reading, row, version)

    def _check(self, reading: Reading, row: Row, version: int) -> None:
        history = self.rows.of(row)
        place = next((n for n, one in enumerate(history) if one.version == version), None)
        said = f"{row} {version} read {reading.begun:.6f}..{reading.ended:.6f} in {reading.instance.name}"
        if place is None:
            raise Violation(f"never committed: {said}")
        later = history[place + 1 :]
        if later and later[0].at + TTL + QUERY_TIMEOUT + 1.0 < reading.begun:
            raise Violation(f"{reading.begun - later[0].at:.3f} s old, and the TTL is over: {said}")
        for one in later:
            assert one.by is not None
            if one.by.ended is not None and one.by.ended < reading.begun and self._must_know(reading, one.by):
                raise Violation(f"{reading.begun - one.at:.3f} s old: {said}, after {one}")

    def _must_know(self, reading: Reading, writing: Writing) -> bool:
        """Whether a read that begins after a write must see it."""
        assert writing.ended is not None
        if writing.instance is reading.instance:
            return True
        if writing.ended > writing.instance.stops:
            return False  # its optimizer was switched off before, and nobody was left to tell
        told_by = writing.ended + HEARD
        troubled = [
            end for begun, end in self.world.troubled if begun < told_by and end > writing.begun - REPEATED
        ]
        if writing.instance.killed and troubled:
            return False  # it died with what it had yet to repeat
        return max([told_by, *[end + REPEATED for end in troubled]]) < reading.begun


def _set(name: str, scale: float) -> Begin:
    def begin(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
        rows: Rows = world.scenario.rows  # type: ignore[attr-defined]
        setattr(rows, name, scale * fault.amount)
        return lambda: setattr(rows, name, 0.0)

    return begin


def _hang(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
    rows: Rows = world.scenario.rows  # type: ignore[attr-defined]
    hangs = rows.hangs = asyncio.Event()

    def end() -> None:
        hangs.set()
        if rows.hangs is hangs:
            rows.hangs = None

    return end


OptimizerWorld.own = {
    "statements fail": _set("failing", 0.5),
    "statements hang": _hang,
    "statements are slow": _set("slowness", 2.0),
}
