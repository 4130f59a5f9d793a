"""Reads answered by instruments, against an oracle: no read is older than a commit that had returned.

Several tasks read and write the same few rows, in and out of transactions, on several connections; some
transactions roll back, and some tasks are cancelled. Each row's values only grow.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.instruments import instrument
from bot.core.query_optimizer.instruments.of_pools import observer
from tests.support.searching import cases

ROWS = 4
TASKS = 8
ALL = "SELECT id, v FROM seen ORDER BY id"


class Oracle:
    """What must be visible: for each row the newest value whose commit has returned."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.committed = [0] * ROWS
        self.locks = [asyncio.Lock() for _ in range(ROWS)]
        self.next = 0
        self.reads = 0
        self.stale: list[str] = []

    def new_value(self) -> int:
        self.next += 1
        return self.next

    def check(self, row: int, floor: int, found: int, how: str) -> None:
        self.reads += 1
        if found < floor:
            self.stale.append(f"{how}: row {row} is {found}, and {floor} was committed")


class Actor:
    """What one task does, by the calls of one driver. ``lease()`` is a connection for one transaction."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle

    async def read(self, row: int) -> int:
        raise NotImplementedError

    async def read_all(self) -> list[int]:
        raise NotImplementedError

    async def write(self, row: int, value: int) -> None:
        raise NotImplementedError

    async def transact(self, row: int, value: int, *, commit: bool) -> int:
        """Write in a transaction; returns what it itself then reads."""
        raise NotImplementedError

    async def step(self) -> None:
        oracle = self.oracle
        row, action = oracle.random.randrange(ROWS), oracle.random.random()
        if action < 0.6:
            floor = oracle.committed[row]
            oracle.check(row, floor, await self.read(row), "read")
        elif action < 0.9:
            floors = list(oracle.committed)
            for each, found in enumerate(await self.read_all()):
                oracle.check(each, floors[each], found, "read all")
        else:
            async with oracle.locks[row]:
                value = oracle.new_value()
                if action < 0.95:
                    await self.write(row, value)
                    oracle.committed[row] = value
                else:
                    commit = action < 0.98
                    own = await self.transact(row, value, commit=commit)
                    oracle.check(row, value, own, "own write")
                    if commit:
                        oracle.committed[row] = value


class Asyncpg(Actor):
    def __init__(self, oracle: Oracle, pool: Any) -> None:
        super().__init__(oracle)
        self.pool = pool

    async def read(self, row: int) -> int:
        text = "SELECT v FROM seen WHERE id = $1"
        if self.oracle.random.random() < 0.5:
            return int(await self.pool.fetchval(text, row))
        async with self.pool.acquire() as connection:
            return int((await connection.fetchrow(text, row))["v"])

    async def read_all(self) -> list[int]:
        return [row["v"] for row in await self.pool.fetch(ALL)]

    async def write(self, row: int, value: int) -> None:
        await self.pool.execute("UPDATE seen SET v = $2 WHERE id = $1", row, value)

    async def transact(self, row: int, value: int, *, commit: bool) -> int:
        async with self.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                async with connection.transaction():
                    await connection.execute("UPDATE seen SET v = $2 WHERE id = $1", row, value)
                await asyncio.sleep(0)
                found = int(await connection.fetchval("SELECT v FROM seen WHERE id = $1", row))
            except BaseException:
                await transaction.rollback()
                raise
            await (transaction.commit() if commit else transaction.rollback())
            return found


class Pools(Actor):
    """The pool manager with SQLite."""

    def __init__(self, oracle: Oracle, pools: ConnectionPoolManager) -> None:
        super().__init__(oracle)
        self.pools = pools

    async def read(self, row: int) -> int:
        return int((await self.pools.fetch("main", "SELECT v FROM seen WHERE id = ?", row))[0][0])

    async def read_all(self) -> list[int]:
        return [row[1] for row in await self.pools.fetch("main", ALL)]

    async def write(self, row: int, value: int) -> None:
        await self.pools.execute("main", "UPDATE seen SET v = ? WHERE id = ?", value, row)

    async def transact(self, row: int, value: int, *, commit: bool) -> int:
        found = 0
        with contextlib.suppress(ZeroDivisionError):
            async with self.pools.transaction("main") as connection:
                await self.pools.execute(connection, "UPDATE seen SET v = ? WHERE id = ?", value, row)
                found = (await self.pools.fetch(connection, "SELECT v FROM seen WHERE id = ?", row))[0][0]
                if not commit:
                    raise ZeroDivisionError
        return found


@contextlib.asynccontextmanager
async def asyncpg_pool(url: str) -> AsyncIterator[Any]:
    asyncpg = pytest.importorskip("asyncpg")
    async with asyncpg.create_pool(url, min_size=2, max_size=5) as pool:
        await pool.execute("DROP TABLE IF EXISTS seen; CREATE TABLE seen (id int PRIMARY KEY, v int)")
        await pool.execute(f"INSERT INTO seen SELECT n, 0 FROM generate_series(0, {ROWS - 1}) AS n")
        yield instrument(pool, cache=True)
        await pool.execute("DROP TABLE seen")


@contextlib.asynccontextmanager
async def sqlite_pools(path: Path) -> AsyncIterator[ConnectionPoolManager]:
    pools = ConnectionPoolManager()
    pools.observe(observer(QueryOptimizer.get_instance(), cache=True))
    await pools.create_pool("main", "sqlite", url=f"sqlite:///{path}", min_size=2, max_size=5)
    await pools.execute("main", "CREATE TABLE seen (id int PRIMARY KEY, v int)")
    for row in range(ROWS):
        await pools.execute("main", "INSERT INTO seen VALUES (?, 0)", row)
    yield pools
    await pools.disable()


async def play(actors: list[Actor], steps: int) -> None:
    """All actors at once, each again and again; now and then one is cancelled."""
    oracle = actors[0].oracle

    async def act(actor: Actor) -> None:
        for _ in range(steps):
            step = asyncio.create_task(actor.step())
            if oracle.random.random() < 0.05:
                await asyncio.sleep(oracle.random.random() * 0.002)
                step.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await step

    await asyncio.gather(*map(act, actors))
    assert not oracle.stale, oracle.stale[:5]


@pytest.mark.parametrize("seed", range(2))
async def test_asyncpg(seen: QueryOptimizer, postgresql_url: str, seed: int) -> None:
    oracle = Oracle(seed)
    async with asyncpg_pool(postgresql_url) as pool:
        await play([Asyncpg(oracle, pool) for _ in range(TASKS)], cases(60))
        for row in range(ROWS):
            async with pool.acquire() as connection, connection.transaction():
                truth = await connection.fetchval("SELECT v FROM seen WHERE id = $1", row)
            assert await pool.fetchval("SELECT v FROM seen WHERE id = $1", row) == truth
    assert oracle.reads > 100
    assert seen.snapshot().cache_hits > 20


@pytest.mark.parametrize("seed", range(2))
async def test_sqlite_by_the_pool_manager(seen: QueryOptimizer, tmp_path: Path, seed: int) -> None:
    await seen.enable(dialect="sqlite")
    oracle = Oracle(seed)
    async with sqlite_pools(tmp_path / "seen.db") as pools:
        await play([Pools(oracle, pools) for _ in range(TASKS)], cases(30))
    assert oracle.reads > 50
    assert seen.snapshot().cache_hits > 10
