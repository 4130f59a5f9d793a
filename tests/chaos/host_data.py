"""Versioned rows, behind the query optimizer and the cache, and transfers between accounts."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from bot.core.cache_manager import CacheManager
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.query_optimizer import QueryOptimizer
from tests.chaos.ledger import Ledger

READ = "SELECT version FROM queried WHERE id = $1"
WRITE = "UPDATE queried SET version = version + 1 WHERE id = $1 RETURNING version"


class DataApi:
    """Each answer tells the version that was read or written."""

    def __init__(self, given: dict[str, Any], ledger: Ledger) -> None:
        self._ledger = ledger
        self._mysql = "mysql" in given["settings"]["DATABASE_POOLS"]
        self._ttl = given["cache_ttl"]
        self._pools = ConnectionPoolManager.get_instance()
        self._held: dict[int, str] = {}
        """Server process -> who has it on loan."""

    async def query(self, request: web.Request) -> web.Response:
        """Read through the query optimizer."""

        async def run(sql: str, params: Any) -> Any:
            return await self._pools.fetchval("postgresql", sql, *params)

        row = int(request.query["id"])
        version = await QueryOptimizer.get_instance().execute(READ, (row,), run)
        return web.json_response({"version": version})

    async def write_query(self, request: web.Request) -> web.Response:
        """Write through the query optimizer, which drops what it read before."""

        async def run(sql: str, params: Any) -> Any:
            return await self._pools.fetchval("postgresql", sql, *params)

        row = int(request.query["id"])
        version = await QueryOptimizer.get_instance().execute(WRITE, (row,), run)
        return web.json_response({"version": version})

    async def cached(self, request: web.Request) -> web.Response:
        """Read through the cache."""
        row = int(request.query["id"])
        version = await CacheManager.get_instance().get_or_load(
            f"row:{row}", lambda: self._load(row), ttl=self._ttl, tags=_tags(row), lock=row % 4 == 3
        )
        return web.json_response({"version": version})

    async def _load(self, row: int) -> int:
        if self._mysql:
            return await self._pools.fetchval("mysql", "SELECT version FROM cached WHERE id = %s", row)
        return await self._pools.fetchval("postgresql", "SELECT version FROM cached WHERE id = $1", row)

    async def write_cached(self, request: web.Request) -> web.Response:
        """Write beside the cache, and drop what it holds: by its tag, or by its key."""
        row = int(request.query["id"])
        cache = CacheManager.get_instance()
        try:
            if self._mysql:
                async with self._pools.transaction("mysql") as conn:
                    await self._pools.execute(
                        conn, "UPDATE cached SET version = version + 1 WHERE id = %s", row
                    )
                    version = await self._pools.fetchval(
                        conn, "SELECT version FROM cached WHERE id = %s", row
                    )
            else:
                version = await self._pools.fetchval(
                    "postgresql",
                    "UPDATE cached SET version = version + 1 WHERE id = $1 RETURNING version",
                    row,
                )
        finally:
            # Also after an error: the change may have been made.
            if tags := _tags(row):
                await cache.invalidate_tags(tags)
            else:
                await cache.delete(f"row:{row}")
        return web.json_response({"version": version})

    async def transfer(self, request: web.Request) -> web.Response:
        """Move 1 between two accounts, all or nothing; ``id`` names the transfer."""
        name, giver, taker = (request.query[key] for key in ("id", "giver", "taker"))
        async with self._pools.transaction("postgresql") as conn:
            server = conn.get_server_pid()
            if server in self._held:
                self._ledger.note("two holders", server=server, first=self._held[server], second=name)
            self._held[server] = name
            try:
                # In one order for all, or two transfers wait for each other.
                for account, sign in sorted([(int(giver), -1), (int(taker), 1)]):
                    await self._pools.execute(
                        conn, "UPDATE accounts SET balance = balance + $1 WHERE id = $2", sign, account
                    )
                    await asyncio.sleep(0.002)
                await self._pools.execute(
                    conn, "INSERT INTO transfers VALUES ($1, $2, $3)", name, int(giver), int(taker)
                )
            finally:
                self._held.pop(server, None)
        return web.json_response({"id": name})


def _tags(row: int) -> tuple[str, ...]:
    """Half of the rows are dropped by a tag."""
    return (f"row-{row}",) if row % 2 else ()
