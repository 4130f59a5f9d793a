"""The service's door to its database: rows as dicts, one connection for each piece of work."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import aiosqlite

BUSY_TIMEOUT = 5.0
"""Seconds a writer waits for another before SQLite gives up."""

Row = dict[str, Any]


class Database(Protocol):
    """What the handlers need of a database."""

    async def fetch(self, query: str, params: Sequence[Any] = ()) -> list[Row]:
        """The rows of a query; ``?`` stands for a parameter."""
        ...

    async def write(self, query: str, params: Sequence[Any] = ()) -> int:
        """Run one statement in a transaction of its own; the id of the row it made, or 0."""
        ...


class SqliteDatabase:
    """An SQLite file, with a connection opened for each call.

    That is what a bot without pools does; with pools the connection comes from there instead.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.opened = 0
        self.open_now = 0
        self.open_peak = 0

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiosqlite.Connection]:
        async with aiosqlite.connect(self._path, timeout=BUSY_TIMEOUT) as connection:
            self.opened += 1
            self.open_now += 1
            self.open_peak = max(self.open_peak, self.open_now)
            try:
                yield connection
            finally:
                self.open_now -= 1

    async def fetch(self, query: str, params: Sequence[Any] = ()) -> list[Row]:
        async with self._connection() as connection, connection.execute(query, params) as cursor:
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def write(self, query: str, params: Sequence[Any] = ()) -> int:
        async with self._connection() as connection:
            cursor = await connection.execute(query, params)
            await connection.commit()
            return cursor.lastrowid or 0

    def figures(self) -> dict[str, Any]:
        """For ``/health``."""
        return {
            "backend": "sqlite",
            "connections_opened": self.opened,
            "connections_open": self.open_now,
            "connections_peak": self.open_peak,
        }
