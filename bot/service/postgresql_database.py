"""PostgreSQL, when ``DATABASE_URL`` names one: the same statements, data set and answers."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from decimal import Decimal
from typing import Any

from bot.core._shared.masking import mask_url, one_line
from bot.service import dataset
from bot.service.database import ConstraintError, Progress, Row, ServiceDatabase
from bot.service.settings import CannotStartError

SCHEMA_NAME = "bot_phase4"
"""The service's tables live in a schema of their own, beside whatever else the database holds."""

CONNECT_TIMEOUT = 10.0
"""Seconds to open a connection at most."""

_BATCH = 10_000
_LOCK_KEY = 0x70686173653400  # of the advisory lock that one starting instance holds at a time


class PostgresqlDatabase(ServiceDatabase):
    """A PostgreSQL database by asyncpg."""

    backend = "postgresql"

    def __init__(self, url: str) -> None:
        super().__init__()
        try:
            import asyncpg
        except ImportError:
            raise CannotStartError(
                "DATABASE_URL names PostgreSQL, and asyncpg is missing: pip install asyncpg"
            ) from None
        self._asyncpg: Any = asyncpg
        self._url = url.replace("postgresql+asyncpg://", "postgresql://")

    async def prepare(self, progress: Progress) -> None:
        try:
            async with self._open() as connection:
                await _ensure(connection, progress)
        except (OSError, TimeoutError, ValueError, self._asyncpg.PostgresError) as error:
            said = one_line(str(error) or repr(error))
            raise CannotStartError(
                f"cannot use the database {mask_url(self._url)}: {said}"
                "\nCheck that the server runs, and host, port, user, password and database of DATABASE_URL."
            ) from None

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[Any]:
        connection = await self._asyncpg.connect(self._url, timeout=CONNECT_TIMEOUT, **_CONNECT_OPTIONS)
        try:
            yield connection
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT)

    def _pool_arguments(self) -> dict[str, Any]:
        return {"url": self._url, **_CONNECT_OPTIONS}

    def _is_outage(self, error: Exception) -> bool:
        asyncpg = self._asyncpg
        return isinstance(
            error,
            asyncpg.PostgresConnectionError
            | asyncpg.InsufficientResourcesError
            | asyncpg.OperatorInterventionError
            | asyncpg.InternalClientError
            | asyncpg.ConnectionDoesNotExistError,
        )

    async def fetch(self, query: str, params: Sequence[Any] = ()) -> list[Row]:
        async with self._connection() as connection:
            return [_row(record) for record in await connection.fetch(translate(query), *params)]

    async def write(self, query: str, params: Sequence[Any] = ()) -> int:
        with self._refusals():
            async with self._connection() as connection:
                return int(await connection.fetchval(translate(query, returning=True), *params) or 0)

    async def write_many(self, query: str, rows: Sequence[Sequence[Any]]) -> int:
        with self._refusals():
            async with self._connection() as connection:
                await connection.executemany(translate(query), rows)  # asyncpg makes it one transaction
        return len(rows)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except self._asyncpg.IntegrityConstraintViolationError as error:
            raise ConstraintError(str(error)) from error


# In the startup packet, so that it is also what a reset of the session goes back to.
_CONNECT_OPTIONS = {
    "server_settings": {"search_path": SCHEMA_NAME, "application_name": "bot-phase4"},
}

_TOKENS = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|\?|\bLIKE\b", re.IGNORECASE)


@functools.lru_cache(maxsize=512)
def translate(query: str, *, returning: bool = False) -> str:
    """``?`` to ``$1``, LIKE to ILIKE (SQLite's ignores case); with ``returning``, an INSERT tells its id."""
    numbers = itertools.count(1)

    def replace(found: re.Match[str]) -> str:
        text = found.group()
        if text == "?":
            return f"${next(numbers)}"
        return "ILIKE" if text.upper() == "LIKE" else text

    query = _TOKENS.sub(replace, query)
    if returning and re.match(r"\s*INSERT\b", query, re.IGNORECASE) and "RETURNING" not in query.upper():
        query = query.rstrip().rstrip(";") + " RETURNING id"
    return query


def _row(record: Any) -> Row:
    # The sum of whole numbers is numeric here, which JSON does not know.
    return {name: _plain(value) if type(value) is Decimal else value for name, value in record.items()}


def _plain(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


_TABLES = re.sub(r"\bINTEGER\b", "BIGINT", dataset.SCHEMA).replace(
    "id BIGINT PRIMARY KEY", "id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"
)


async def _ensure(connection: Any, progress: Progress) -> None:
    """Create the data set unless it is there: one transaction, one instance at a time."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK_KEY)
        if await connection.fetchval("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1", SCHEMA_NAME):
            version = await connection.fetchval(
                f"SELECT CASE WHEN to_regclass('{SCHEMA_NAME}.dataset') IS NULL THEN 0 ELSE 1 END"
            )
            if version:
                version = await connection.fetchval("SELECT version FROM dataset")
            if version == dataset.VERSION:
                return
            raise CannotStartError(
                f"schema {SCHEMA_NAME} holds "
                + (f"version {version} of the data set" if version else "something else")
                + f", and this service needs version {dataset.VERSION}. If nothing in it is needed, drop it:"
                f" DROP SCHEMA {SCHEMA_NAME} CASCADE"
            )
        await connection.execute(
            f"CREATE SCHEMA {SCHEMA_NAME}; {_TABLES} CREATE TABLE dataset (version BIGINT NOT NULL);"
        )
        total, done = dataset.USERS + dataset.FILES + dataset.DOWNLOADS, 0
        for table, rows in dataset.tables(random.Random(dataset.SEED)):
            while batch := list(itertools.islice(rows, _BATCH)):
                await connection.copy_records_to_table(table, schema_name=SCHEMA_NAME, records=batch)
                done, last_id = done + len(batch), batch[-1][0]
                progress(f"creating the data set in PostgreSQL: {done:,} of {total:,} rows")
            await connection.execute("SELECT setval(pg_get_serial_sequence($1, 'id'), $2)", table, last_id)
        await connection.execute(dataset.INDEXES)
        await connection.execute("INSERT INTO dataset VALUES ($1)", dataset.VERSION)
        await connection.execute("ANALYZE users; ANALYZE files; ANALYZE downloads")
