"""The queries of psycopg's own calls, seen on a real PostgreSQL."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

psycopg = pytest.importorskip("psycopg")

from bot.core._shared.errors import InvalidArgumentError  # noqa: E402
from bot.core.query_optimizer import QueryOptimizer  # noqa: E402
from bot.core.query_optimizer.instruments import instrument, uninstrument  # noqa: E402

BY_ID = "SELECT v FROM seen WHERE id = %s"


@pytest.fixture
async def connect(postgresql_url: str) -> AsyncIterator[Any]:
    """Opens connections, which are closed after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(**options: Any) -> Any:
            connection = await psycopg.AsyncConnection.connect(postgresql_url, **options)
            stack.push_async_callback(connection.close)
            return connection

        first = await opened(autocommit=True)
        await first.execute("DROP TABLE IF EXISTS seen")
        await first.execute("CREATE TABLE seen (id int PRIMARY KEY, v int)")
        await first.execute("INSERT INTO seen SELECT n, n FROM generate_series(1, 100) AS n")
        yield opened
        await first.execute("DROP TABLE seen")


async def cached(optimizer: QueryOptimizer, connection: Any) -> int:
    async def read(query: str, params: Any) -> Any:
        return (await (await connection.execute(query, params)).fetchone())[0]

    return int(await optimizer.execute(BY_ID, (3,), read))


async def test_queries_are_counted_with_their_lines(seen: QueryOptimizer, connect: Any) -> None:
    connection = instrument(await connect(autocommit=True))
    for number in range(12):
        await connection.execute(BY_ID, (number,))
    async with connection.cursor() as cursor:
        await cursor.execute("SELECT pg_sleep(0.15)")
        await cursor.executemany("UPDATE seen SET v = %s WHERE id = %s", [(1, 1), (2, 2)])
    await connection.execute(psycopg.sql.SQL("SELECT * FROM {}").format(psycopg.sql.Identifier("seen")))
    await connection.execute(b"SELECT 1")
    assert seen.snapshot().total_executions == 16
    [pattern] = await seen.get_n_plus_one_patterns()
    [slow] = await seen.get_slow_queries()
    details = await seen.describe_query(slow.fingerprint)
    assert details is not None
    assert {site.rpartition(":")[0] for site in (*pattern.call_sites, *details.call_sites)} == {__file__}


async def test_what_a_transaction_wrote_is_dropped_when_it_ends(seen: QueryOptimizer, connect: Any) -> None:
    reader = await connect(autocommit=True)
    writer = instrument(await connect())
    await writer.execute("UPDATE seen SET v = 4 WHERE id = 3")  # begins a transaction
    assert await cached(seen, reader) == 3
    await writer.commit()
    assert await cached(seen, reader) == 4
    async with writer.transaction():
        async with writer.transaction():
            await writer.execute("UPDATE seen SET v = 5 WHERE id = 3")
        assert await cached(seen, reader) == 4
    assert await cached(seen, reader) == 5
    async with writer.cursor() as cursor:
        async for _ in cursor.stream("UPDATE seen SET v = 6 WHERE id = 3 RETURNING v"):
            assert await cached(seen, reader) == 5
    await writer.commit()
    assert await cached(seen, reader) == 6
    async with writer.cursor() as cursor:
        await cursor.execute("DELETE FROM seen")
        async with cursor.copy("COPY seen FROM STDIN") as copy:
            await copy.write_row((3, 7))
    await writer.commit()
    assert await cached(seen, reader) == 7


async def test_a_write_that_was_cancelled(seen: QueryOptimizer, connect: Any) -> None:
    reader = await connect(autocommit=True)
    holder, writer = instrument(await connect()), instrument(await connect(autocommit=True))
    await holder.execute("UPDATE seen SET v = 4 WHERE id = 3")
    waiting = asyncio.create_task(writer.execute("UPDATE seen SET v = 5 WHERE id = 3"))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await cached(seen, reader) == 3
    await holder.rollback()
    assert await cached(seen, reader) == 3
    await writer.execute("UPDATE seen SET v = 6 WHERE id = 3")
    assert await cached(seen, reader) == 6


async def test_undone_and_refused(seen: QueryOptimizer, connect: Any) -> None:
    connection = await connect(autocommit=True)
    plain = type(connection)
    with pytest.raises(InvalidArgumentError, match="cache = True"):
        instrument(connection, cache=True)
    instrument(instrument(connection))
    with pytest.raises(psycopg.errors.UndefinedTable):
        await connection.execute("SELECT * FROM nowhere")
    assert uninstrument(connection)
    assert type(connection) is plain
    await connection.execute(BY_ID, (3,))
    assert type(connection.cursor()) is psycopg.AsyncCursor
    assert seen.snapshot().total_executions == 0


async def test_a_pool(seen: QueryOptimizer, connect: Any, postgresql_url: str) -> None:
    psycopg_pool = pytest.importorskip("psycopg_pool")
    async with psycopg_pool.AsyncConnectionPool(postgresql_url, min_size=1, max_size=2, open=False) as pool:
        await pool.wait()
        instrument(pool)
        reader = await connect(autocommit=True)
        assert await cached(seen, reader) == 3
        async with pool.connection() as connection, pool.connection() as another:
            await connection.execute("UPDATE seen SET v = 4 WHERE id = 3")
            await another.execute(BY_ID, (1,))
            assert await cached(seen, reader) == 3
        assert await cached(seen, reader) == 4
        assert seen.snapshot().total_executions == 5
        assert uninstrument(pool)
        async with pool.connection() as connection:
            await connection.execute("SELECT 1")
        assert seen.snapshot().total_executions == 5
