"""The embedded database: an SQLite file."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiosqlite

from bot.service import dataset
from bot.service.database import ConstraintError, Progress, Row, ServiceDatabase
from bot.service.settings import CannotStartError

BUSY_TIMEOUT = 5.0
"""Seconds a writer waits for another before SQLite gives up."""


class SqliteDatabase(ServiceDatabase):
    """An SQLite file. ``replace`` allows an old data set, or a file that is no database, to be replaced."""

    backend = "sqlite"

    def __init__(self, path: Path, *, replace: bool = True) -> None:
        super().__init__()
        self._path = path
        self._replace = replace

    async def prepare(self, progress: Progress) -> None:
        try:
            await asyncio.to_thread(dataset.ensure, self._path, progress, replace=self._replace)
        except (OSError, sqlite3.Error, dataset.ForeignDatabaseError) as error:
            raise CannotStartError(f"cannot create the database {self._path}: {error}") from error

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[aiosqlite.Connection]:
        async with aiosqlite.connect(self._path, timeout=BUSY_TIMEOUT) as connection:
            yield connection

    def _pool_arguments(self) -> dict[str, Any]:
        return {"url": f"sqlite:///{self._path.absolute()}", "timeout": BUSY_TIMEOUT}

    def _is_outage(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.OperationalError) and any(
            word in str(error) for word in ("locked", "unable to open", "disk I/O", "is full")
        )

    async def fetch(self, query: str, params: Sequence[Any] = ()) -> list[Row]:
        async with self._connection() as connection, connection.execute(query, params) as cursor:
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def write(self, query: str, params: Sequence[Any] = ()) -> int:
        async with self._connection() as connection, _written(connection):
            cursor = await connection.execute(query, params)
            return cursor.lastrowid or 0

    async def write_many(self, query: str, rows: Sequence[Sequence[Any]]) -> int:
        async with self._connection() as connection, _written(connection):
            await connection.executemany(query, rows)
        return len(rows)


@contextlib.asynccontextmanager
async def _written(connection: Any) -> AsyncIterator[None]:
    """Commit what the block did, or roll it back."""
    if isinstance(connection, aiosqlite.Connection):  # one of a pool checks them already
        await connection.execute("PRAGMA foreign_keys = ON")
    try:
        yield
        await connection.commit()
    except sqlite3.IntegrityError as error:
        await connection.rollback()
        raise ConstraintError(str(error)) from error
    except Exception:
        await connection.rollback()
        raise
