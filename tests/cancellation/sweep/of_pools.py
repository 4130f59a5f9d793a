"""The calls of the connection pools."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any, ClassVar

from bot.core.connection_pool_manager import ConnectionPoolManager, LeaseError, UnknownPoolError
from bot.core.phase4_config import PoolSettings
from tests.cancellation.sweep.worlds import World, scenario

NAME = "swept"


async def created(world: Any) -> None:
    pools = world.pools
    if NAME not in pools._pools:
        await pools.create_pool(NAME, world.backend, 1, 2, url=world.url)


async def closed(world: Any) -> None:
    await world.pools.close_pool("other")


async def nothing_written(world: Any) -> None:
    """What was cancelled before its commit left nothing that is locked or half done."""
    async with world.pools.transaction("main") as conn:
        await world.pools.execute(conn, "UPDATE swept SET v = v + 1 WHERE id = 1")


class SqliteWorld(World):
    name = "pools of sqlite"
    backend: ClassVar[str] = "sqlite"

    async def start(self) -> None:
        self.url = self.address()
        self.pools = ConnectionPoolManager()
        await self.pools.create_pool("main", self.backend, 1, 2, url=self.url)
        await self.pools.execute("main", "DROP TABLE IF EXISTS swept")
        await self.pools.execute("main", "CREATE TABLE swept (id int PRIMARY KEY, v int)")
        await self.pools.execute("main", "INSERT INTO swept VALUES (1, 1), (2, 2)")

    def address(self) -> str:
        return f"sqlite:///{self.servers.folder / 'swept.db'}"

    async def stop(self) -> None:
        await self.pools.disable()

    async def held(self) -> list[str]:
        found = []
        for name, runner in self.pools._pools.items():
            figures = runner.figures()
            if figures.active_connections or figures.waiting or figures.busy_connections:
                found.append(
                    f"pool {name}: {figures.active_connections} leases, {figures.waiting} waiters, "
                    f"{figures.busy_connections} busy"
                )
            runner.pool.check_invariants()
        if self.pools._replaced:
            found.append(f"replaced pools: {self.pools._replaced}")
        return found

    @scenario("ConnectionPoolManager.acquire_connection", "ConnectionPoolManager.release_connection")
    async def acquire_connection(self) -> None:
        conn = await self.pools.acquire_connection("main", 5)
        await self.pools.release_connection("main", conn)

    @scenario("PooledConnection.__aenter__", "PooledConnection.__aexit__")
    async def lease_as_a_block(self) -> None:
        async with await self.pools.acquire_connection("main", 5):
            await asyncio.sleep(0)

    @scenario("ConnectionPoolManager.connection", "LeaseContext.__aenter__", "LeaseContext.__aexit__")
    async def connection(self) -> None:
        async with self.pools.connection("main", 5) as conn:
            await conn.execute("SELECT 1")

    @scenario("ConnectionPoolManager.connection")
    async def connection_behind_others(self) -> None:
        async def hold() -> None:
            async with self.pools.connection("main", 5):
                await asyncio.sleep(0.001)

        others = [asyncio.ensure_future(hold()) for _ in range(3)]
        try:
            async with self.pools.connection("main", 5):
                await asyncio.sleep(0)
        finally:
            await asyncio.shield(asyncio.gather(*others))

    @scenario("ConnectionPoolManager.connection")
    async def connection_to_read(self) -> None:
        async with self.pools.connection("main", 5, read_only=True) as conn:
            await conn.execute("SELECT 1")

    @scenario("ConnectionPoolManager.execute")
    async def execute(self) -> None:
        assert await self.pools.execute("main", "UPDATE swept SET v = v + 1 WHERE id = 2") == 1

    @scenario("ConnectionPoolManager.fetch")
    async def fetch(self) -> None:
        assert len(await self.pools.fetch("main", "SELECT * FROM swept")) == 2

    @scenario("ConnectionPoolManager.fetch")
    async def fetch_with_a_timeout(self) -> None:
        assert len(await self.pools.fetch("main", "SELECT * FROM swept", timeout=30)) == 2

    @scenario("ConnectionPoolManager.fetchrow")
    async def fetchrow(self) -> None:
        assert (await self.pools.fetchrow("main", "SELECT id FROM swept ORDER BY id"))[0] == 1

    @scenario("ConnectionPoolManager.fetchval")
    async def fetchval(self) -> None:
        assert await self.pools.fetchval("main", "SELECT count(*) FROM swept") == 2

    @scenario(
        "ConnectionPoolManager.transaction",
        "TransactionContext.__aenter__",
        "TransactionContext.__aexit__",
        after=nothing_written,
    )
    async def transaction(self) -> None:
        async with self.pools.transaction("main") as conn:
            await self.pools.execute(conn, "UPDATE swept SET v = v + 1 WHERE id = 1")

    @scenario("ConnectionPoolManager.transaction", after=nothing_written)
    async def transaction_in_another(self) -> None:
        async with self.pools.transaction("main") as conn:
            await self.pools.execute(conn, "UPDATE swept SET v = v + 1 WHERE id = 1")
            async with self.pools.transaction(conn):
                await self.pools.execute(conn, "UPDATE swept SET v = v + 1 WHERE id = 2")

    @scenario("ConnectionPoolManager.health_check_all", "ConnectionPoolManager.find_warnings")
    async def health_check_all(self) -> None:
        assert all((await self.pools.health_check_all()).values())
        await self.pools.find_warnings()

    @scenario("ConnectionPoolManager.create_pool", after=closed)
    async def create_pool(self) -> None:
        assert await self.pools.create_pool("other", self.backend, 2, 3, url=self.url)

    @scenario(
        "ConnectionPoolManager.close_pool",
        before=lambda world: world.pools.create_pool("other", world.backend, 2, 3, url=world.url),
        after=closed,
    )
    async def close_pool(self) -> None:
        assert await self.pools.close_pool("other")

    @scenario("ConnectionPoolManager.resize_pool")
    async def resize_pool(self) -> None:
        assert await self.pools.resize_pool("main", 2, 3)
        assert await self.pools.resize_pool("main", 1, 2)

    @scenario("ConnectionPoolManager.enable", after=lambda world: world.pools.enable(pools={}))
    async def enable_with_pools(self) -> None:
        for size in (2, 3):
            settings = PoolSettings(backend=self.backend, url=self.url, min_size=1, max_size=size)
            assert await self.pools.enable(pools={"other": settings})

    @scenario("ConnectionPoolManager.reset", "ConnectionPoolManager.reset_statistics")
    async def reset(self) -> None:
        await self.pools.reset()

    async def _second(self) -> None:
        self.second = ConnectionPoolManager()
        await self.second.create_pool("main", self.backend, 1, 2, url=self.url)

    @scenario(
        "ConnectionPoolManager.disable",
        before=lambda world: world._second(),
        after=lambda world: world.second.disable(),
    )
    async def disable(self) -> None:
        assert await self.second.disable()

    @scenario(
        "ConnectionPoolManager.disable",
        before=lambda world: world._second(),
        after=lambda world: world.second.disable(),
    )
    async def disable_while_one_is_on_loan(self) -> None:
        conn = await self.second.acquire_connection("main", 5)
        try:
            await self.second.disable(drain_timeout=0.001)
        finally:
            await asyncio.shield(self._given_back(conn))

    async def _given_back(self, conn: Any) -> None:
        with contextlib.suppress(UnknownPoolError, LeaseError):  # the pool is gone, its connections with it
            await self.second.release_connection("main", conn)


class PostgresqlWorld(SqliteWorld):
    name = "pools of postgresql"
    backend = "postgresql"

    def address(self) -> str:
        return self.servers.postgresql

    @scenario("ConnectionPoolManager.notify")
    async def notify(self) -> None:
        await self.pools.notify("main", "swept", "x")

    @scenario(
        "ConnectionPoolManager.listen",
        "Notifications.__aenter__",
        "Notifications.__aexit__",
        "Notifications.__anext__",
    )
    async def listen(self) -> None:
        async with self.pools.listen("main", "swept") as notifications:
            await self.pools.notify("main", "swept", "x")
            await anext(notifications)


class RedisPoolWorld(World):
    name = "pools of redis"

    async def start(self) -> None:
        self.pools = ConnectionPoolManager()
        await self.pools.create_pool("main", "redis", 1, 2, url=self.servers.redis)

    async def stop(self) -> None:
        await self.pools.disable()

    held = SqliteWorld.held

    # redis-py sends within asyncio.wait_for, which before 3.12 lost a cancellation that came with the result.
    @scenario("ConnectionPoolManager.connection", swallowed=sys.version_info < (3, 12))
    async def connection(self) -> None:
        async with self.pools.connection("main", 5) as conn:
            await conn.set("swept", 1)
            assert await conn.get("swept")

    @scenario("ConnectionPoolManager.health_check_all")
    async def health_check_all(self) -> None:
        assert all((await self.pools.health_check_all()).values())
