"""What the bot remembers, in SQLite: connections from the pool, queries through the optimizer."""

from typing import Any

from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.query_optimizer import QueryOptimizer

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS chats (id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS files (chat INTEGER NOT NULL, name TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS subscriptions (feed TEXT, chat INTEGER, PRIMARY KEY (feed, chat));
CREATE TABLE IF NOT EXISTS entries (feed TEXT, link TEXT, title TEXT NOT NULL, PRIMARY KEY (feed, link));
"""


async def create_tables() -> None:
    async with ConnectionPoolManager.get_instance().connection("main") as connection:
        await connection.executescript(SCHEMA)


async def query(text: str, *params: object) -> list[tuple[Any, ...]]:
    """Rows of a query, from the optimizer's cache until a write changes what they were read from."""

    async def run(text: str, params: tuple[object, ...]) -> list[tuple[Any, ...]]:
        async with ConnectionPoolManager.get_instance().connection("main") as connection:
            rows = await connection.execute_fetchall(text, params)
            await connection.commit()
            return list(rows)

    rows: list[tuple[Any, ...]] = await QueryOptimizer.get_instance().execute(text, params, run)
    return rows


async def write_many(text: str, rows: list[tuple[Any, ...]]) -> None:
    """One statement for many rows, in one transaction."""

    async def run(text: str, rows: list[tuple[Any, ...]]) -> None:
        async with ConnectionPoolManager.get_instance().connection("main") as connection:
            await connection.executemany(text, rows)
            await connection.commit()

    await QueryOptimizer.get_instance().execute(text, rows, run)
