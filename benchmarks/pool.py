"""Connection pools: acquiring and giving back against peers, contention, connections used, cost, memory.

"Equal reset behaviour" matters here: a pool that hands out a connection in whatever state the last holder
left it is fast for a bad reason. So each table says what is done between two leases.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.harness import Contender, Result, compare, main, postgresql_server, table, verdict
from bot.core.connection_pool_manager import ConnectionPoolManager

SIZE = 10
"""Connections of each pool."""
TASKS = (1, 10, 100, 1000)
TURNS = 10
"""Operations of each task when many compete, so that what a task itself costs is the same share for all."""

Op = Callable[[], Awaitable[None]]


class Peers:
    """Every pool, warm, and one operation on each: acquire, ``await inside()``, give back."""

    def __init__(self, pg_url: str, redis_url: str) -> None:
        self.pg_url = pg_url
        self.redis_url = redis_url
        self.manager = ConnectionPoolManager()
        self.stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Peers:
        import asyncpg
        import psycopg_pool
        from redis.asyncio import BlockingConnectionPool
        from sqlalchemy.ext.asyncio import create_async_engine

        self.stack.push_async_callback(self.manager.disable)
        for name, reset in (("smart", "smart"), ("always", "always"), ("never", "never")):
            await self.manager.create_pool(
                name, "postgresql", min_size=SIZE, max_size=SIZE, url=self.pg_url, reset=reset,
                acquire_timeout=60,
            )  # fmt: skip
        await self.manager.create_pool(
            "redis", "redis", min_size=SIZE, max_size=SIZE, url=self.redis_url, acquire_timeout=60
        )

        async def nothing(connection: Any) -> None:
            pass

        self.asyncpg = await self.stack.enter_async_context(
            asyncpg.create_pool(self.pg_url, min_size=SIZE, max_size=SIZE)
        )
        self.asyncpg_bare = await self.stack.enter_async_context(
            asyncpg.create_pool(self.pg_url, min_size=SIZE, max_size=SIZE, reset=nothing)
        )
        self.engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(self.pg_url),
            pool_size=SIZE, max_overflow=0, pool_timeout=60,
        )  # fmt: skip
        self.stack.push_async_callback(self.engine.dispose)
        self.psycopg = psycopg_pool.AsyncConnectionPool(
            self.pg_url, min_size=SIZE, max_size=SIZE, open=False, timeout=60
        )
        await self.stack.enter_async_context(self.psycopg)
        await self.psycopg.wait()
        self.redis = BlockingConnectionPool.from_url(self.redis_url, max_connections=SIZE, timeout=60)
        self.stack.push_async_callback(self.redis.disconnect)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.stack.aclose()

    def ours(self, name: str, inside: Op | None = None) -> Op:
        manager = self.manager

        async def op() -> None:
            connection = await manager.acquire_connection(name)
            if inside is not None:
                await inside()
            await manager.release_connection(name, connection)

        return op

    def ours_with(self, name: str) -> Op:
        async def op() -> None:
            async with self.manager.connection(name):
                pass

        return op

    def asyncpgs(self, pool: Any, inside: Op | None = None) -> Op:
        async def op() -> None:
            connection = await pool.acquire()
            if inside is not None:
                await inside()
            await pool.release(connection)

        return op

    def sqlalchemys(self, inside: Op | None = None) -> Op:
        async def op() -> None:
            async with self.engine.connect():
                if inside is not None:
                    await inside()

        return op

    def psycopgs(self, inside: Op | None = None) -> Op:
        async def op() -> None:
            connection = await self.psycopg.getconn()
            if inside is not None:
                await inside()
            await self.psycopg.putconn(connection)

        return op

    def redis_pys(self, inside: Op | None = None) -> Op:
        async def op() -> None:
            connection = await self.redis.get_connection()
            if inside is not None:
                await inside()
            await self.redis.release(connection)

        return op


def repeated(op: Op, tasks: int = 1) -> Callable[[int], Awaitable[None]]:
    """``n`` operations, shared out to so many tasks."""

    async def run(n: int) -> None:
        async def task() -> None:
            for _ in range(max(1, n // tasks)):
                await op()

        if tasks == 1:
            await task()
        else:
            await asyncio.gather(*[task() for _ in range(tasks)])

    return run


async def uncontended(peers: Peers) -> None:
    free = [object()]

    async def floor() -> None:
        free.append(free.pop())

    results = await compare(
        [
            Contender("floor: a coroutine, pop and append", repeated(floor)),
            Contender("ours, reset if needed", repeated(peers.ours("smart"))),
            Contender("ours, reset if needed, async with", repeated(peers.ours_with("smart"))),
            Contender("ours, redis", repeated(peers.ours("redis"))),
            Contender("asyncpg, reset each time", repeated(peers.asyncpgs(peers.asyncpg)), 300),
            Contender("psycopg_pool, rollback if needed", repeated(peers.psycopgs()), 3000),
            Contender("SQLAlchemy, rollback if needed", repeated(peers.sqlalchemys()), 1000),
            Contender("asyncpg, no reset", repeated(peers.asyncpgs(peers.asyncpg_bare)), 3000),
            Contender("ours, no reset", repeated(peers.ours("never"))),
            Contender("redis-py BlockingConnectionPool", repeated(peers.redis_pys()), 3000),
        ]
    )
    print(table("acquire + release, warm, one task, µs", results, baseline="ours, reset if needed"))

    def ratio(theirs: str, mine: str) -> float:
        return results[theirs].microseconds / results[mine].microseconds

    smart, never = "ours, reset if needed", "ours, no reset"
    print(verdict("asyncpg's pool, clean connection: times slower",
                  ratio("asyncpg, reset each time", smart), 3, at_most=False))  # fmt: skip
    print(verdict("asyncpg's pool, no reset: times slower than ours without",
                  ratio("asyncpg, no reset", never), 3, at_most=False))  # fmt: skip
    print(verdict("SQLAlchemy's async pool: times slower",
                  ratio("SQLAlchemy, rollback if needed", smart), 3, at_most=False))  # fmt: skip
    print(verdict("redis-py's BlockingConnectionPool: times slower",
                  ratio("redis-py BlockingConnectionPool", "ours, redis"), 3, at_most=False))  # fmt: skip
    print()


async def always(peers: Peers) -> None:
    """A reset at each release by both: a round trip each, which ours makes after the release."""
    results = await compare(
        [
            Contender("ours, reset each time", repeated(peers.ours("always")), 1000),
            Contender("asyncpg, reset each time", repeated(peers.asyncpgs(peers.asyncpg)), 300),
        ]
    )
    print(table("the same with a reset each time, µs", results, baseline="ours, reset each time"))


FLOOR = "floor: the turn, without a pool"


async def contended(peers: Peers) -> None:
    async def turn() -> None:
        await asyncio.sleep(0)

    ops = {
        FLOOR: turn,
        "ours": peers.ours("smart", turn),
        "ours, no reset": peers.ours("never", turn),
        "ours, redis": peers.ours("redis", turn),
        "asyncpg, reset each time": peers.asyncpgs(peers.asyncpg, turn),
        "asyncpg, no reset": peers.asyncpgs(peers.asyncpg_bare, turn),
        "SQLAlchemy": peers.sqlalchemys(turn),
        "psycopg_pool": peers.psycopgs(turn),
        "redis-py": peers.redis_pys(turn),
    }
    found: dict[str, list[Result]] = {name: [] for name in ops}
    for tasks in TASKS:
        results = await compare(
            [Contender(name, repeated(op, tasks), max(2000, tasks * TURNS)) for name, op in ops.items()],
            repeats=5,
        )
        for name, result in results.items():
            found[name].append(result)
    print(f"### acquire, one turn of the event loop, release; {SIZE} connections, µs per operation\n")
    print("The verdicts are on what is left without the floor.\n")
    print("| tasks | " + " | ".join(map(str, TASKS)) + " |\n|---|" + "---:|" * len(TASKS))
    for name, row in found.items():
        print(f"| {name} | " + " | ".join(f"{result.microseconds:.1f}" for result in row) + " |")
    print()

    def own(name: str) -> list[float]:
        """What the pool costs at each number of tasks, without the tasks and their turns."""
        return [
            result.microseconds - floor.microseconds
            for result, floor in zip(found[name], found[FLOOR], strict=True)
        ]

    mine, bare = own("ours"), own("ours, no reset")
    print(verdict("flat: 1,000 tasks on 10 connections, times the cost of 100", mine[3] / mine[2], 1.3))
    print(verdict("the dearest number of tasks, times the cheapest", max(mine) / min(mine), 3))
    for name, ours in (("asyncpg, no reset", bare), ("SQLAlchemy", mine)):
        worst = min(theirs / cost for theirs, cost in zip(own(name), ours, strict=True))
        print(verdict(f"{name}: times slower, at its best number of tasks", worst, 3, at_most=False))
    print()


async def over_the_driver(peers: Peers) -> None:
    import asyncpg
    from sqlalchemy import text

    bare = await asyncpg.connect(peers.pg_url)

    async def plain() -> None:
        await bare.fetchval("SELECT 1")

    async def ours() -> None:
        async with peers.manager.connection("smart") as connection:
            await connection.fetchval("SELECT 1")

    async def asyncpgs() -> None:
        async with peers.asyncpg.acquire() as connection:
            await connection.fetchval("SELECT 1")

    async def sqlalchemys() -> None:
        async with peers.engine.connect() as connection:
            (await connection.execute(statement)).scalar()

    statement = text("SELECT 1")
    results = await compare(
        [
            Contender("bare connection", repeated(plain), 1000),
            Contender("ours", repeated(ours), 1000),
            Contender("asyncpg's pool", repeated(asyncpgs), 1000),
            Contender("SQLAlchemy (begins and rolls back)", repeated(sqlalchemys), 300),
        ]
    )
    print(table("lease, SELECT 1, release, µs", results, baseline="bare connection"))
    await bare.close()


class Watch:
    """Counts the server's connections of an application, from a thread and a connection of its own."""

    def __init__(self, url: str, application: str) -> None:
        self.url, self.application = url, application
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._watch()))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop.set()
        self._thread.join()

    async def _watch(self) -> None:
        import asyncpg

        connection = await asyncpg.connect(self.url)
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
        while not self._stop.is_set():
            self.peak = max(self.peak, await connection.fetchval(query, self.application))
            await asyncio.sleep(0.002)
        await connection.close()


async def connections_used(pg_url: str) -> None:
    """The guide's workload: 50 users at once who read from the database, with and without a pool."""
    from bot.service.data_api import USER_RECENT
    from bot.service.postgresql_database import PostgresqlDatabase

    logging.disable(logging.CRITICAL)
    print("### 50 tasks that read at once, 1,000 reads\n")
    print("| | connections at peak, seen by the server | reads a second |\n|---|---:|---:|")
    peaks = []
    for pooled in (False, True):
        database = PostgresqlDatabase(pg_url)
        await database.prepare(lambda line: None)
        manager = ConnectionPoolManager()
        await manager.enable(min_size=5, max_size=15)
        if pooled:
            await database.use_pool(manager)

        async def user(number: int, database: PostgresqlDatabase = database) -> None:
            for turn in range(20):
                await database.fetch(USER_RECENT, (number * 20 + turn + 1,))

        with Watch(pg_url, "bot-phase4") as watch:
            start = time.perf_counter()
            await asyncio.gather(*[user(number) for number in range(50)])
            seconds = time.perf_counter() - start
        await manager.disable()
        peaks.append(watch.peak)
        what = "a pool of 15" if pooled else "a connection for each read"
        print(f"| {what} | {watch.peak} | {1000 / seconds:.0f} |")
    print()
    print(verdict("percent fewer connections at peak", (1 - peaks[1] / peaks[0]) * 100, 70, at_most=False))
    print()


async def memory(pg_url: str) -> None:
    import asyncpg

    count = 50

    def used() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    manager = ConnectionPoolManager()
    await manager.create_pool("warm", "postgresql", min_size=1, max_size=1, url=pg_url)
    tracemalloc.start()
    before = used()
    bare = [await asyncpg.connect(pg_url) for _ in range(count)]
    of_bare = (used() - before) / count
    for connection in bare:
        await connection.close()
    del bare, connection
    before = used()
    await manager.create_pool("many", "postgresql", min_size=count, max_size=count, url=pg_url)
    of_pooled = (used() - before) / count
    before = used()
    leases = [await manager.acquire_connection("many") for _ in range(count)]
    of_lease = (used() - before) / count
    for lease in leases:
        await manager.release_connection("many", lease)
    tracemalloc.stop()
    await manager.disable()
    print("### memory of this process for each PostgreSQL connection, bytes\n")
    print("| bare asyncpg connection | in the pool | while leased, beyond that |\n|---:|---:|---:|")
    print(f"| {of_bare:,.0f} | {of_pooled:,.0f} | {of_lease:,.0f} |\n")


async def bench() -> None:
    from tests.support.servers import RedisServer, running

    with postgresql_server() as pg_url, running(RedisServer()) as redis:
        if pg_url is None:
            print("left out: PHASE4_BENCH_POSTGRESQL_URL names no PostgreSQL, and none can be started")
            return
        async with Peers(pg_url, redis.url) as peers:  # type: ignore[attr-defined]
            await uncontended(peers)
            await always(peers)
            await contended(peers)
            await over_the_driver(peers)
        await connections_used(pg_url)
        await memory(pg_url)


if __name__ == "__main__":
    main(bench)
