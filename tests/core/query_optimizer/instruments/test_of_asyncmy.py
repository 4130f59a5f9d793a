"""The queries of asyncmy's own calls, on a real MySQL or MariaDB."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

asyncmy = pytest.importorskip("asyncmy")
cursors = pytest.importorskip("asyncmy.cursors")

from bot.core._shared.errors import InvalidArgumentError  # noqa: E402
from bot.core.query_optimizer import QueryOptimizer  # noqa: E402
from bot.core.query_optimizer.instruments import instrument, uninstrument  # noqa: E402

BY_ID = "SELECT v FROM seen WHERE id = %s"


@pytest.fixture
async def my(seen: QueryOptimizer) -> QueryOptimizer:
    await seen.enable(dialect="mysql", slow_query_threshold=0.1)
    return seen


@pytest.fixture
async def pool(mysql_url: str) -> AsyncIterator[Any]:
    parts = urlsplit(mysql_url)
    pool = await asyncmy.create_pool(
        host=parts.hostname, port=parts.port or 3306, user=unquote(parts.username or "root"),
        password=unquote(parts.password or ""), db=parts.path.strip("/"), minsize=1, maxsize=3,
    )  # fmt: skip
    await run(pool, "DROP TABLE IF EXISTS seen")
    await run(pool, "CREATE TABLE seen (id int PRIMARY KEY, v int)")
    await run(pool, "INSERT INTO seen VALUES (1, 1), (2, 2), (3, 3)")
    yield pool
    await run(pool, "DROP TABLE seen")
    pool.close()
    await pool.wait_closed()


async def run(pool: Any, text: str, args: Any = None) -> Any:
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(text, args)
        rows = await cursor.fetchall()
        await connection.commit()
        return rows


async def cached(optimizer: QueryOptimizer, pool: Any) -> int:
    async def read(query: str, params: Any) -> Any:
        return (await run(pool, query, params))[0][0]

    return int(await optimizer.execute(BY_ID, (3,), read))


async def test_queries_are_counted_with_their_lines(my: QueryOptimizer, pool: Any) -> None:
    instrument(pool)
    async with pool.acquire() as connection, connection.cursor(cursors.DictCursor) as cursor:
        for number in range(12):
            await cursor.execute(BY_ID, (number,))
        await cursor.execute(BY_ID, (3,))
        assert await cursor.fetchall() == [{"v": 3}]
        await cursor.execute("SELECT SLEEP(0.15)")
    assert my.snapshot().total_executions == 14
    [pattern] = await my.get_n_plus_one_patterns()
    [slow] = await my.get_slow_queries()
    details = await my.describe_query(slow.fingerprint)
    assert details is not None
    assert {site.rpartition(":")[0] for site in (*pattern.call_sites, *details.call_sites)} == {__file__}


async def test_a_batch_is_one_execution(my: QueryOptimizer, pool: Any) -> None:
    instrument(pool)
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.executemany("UPDATE seen SET v = %s WHERE id = %s", [(7, 1), (8, 2)])
        await connection.commit()
    assert my.snapshot().total_executions == 1


async def test_what_a_transaction_wrote_is_dropped_when_it_ends(my: QueryOptimizer, pool: Any) -> None:
    instrument(pool)
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await connection.begin()
        await cursor.execute("UPDATE seen SET v = 4 WHERE id = 3")
        assert await cached(my, pool) == 3
        await connection.commit()
        assert await cached(my, pool) == 4
        await cursor.execute("UPDATE seen SET v = 5 WHERE id = 3")
        assert await cached(my, pool) == 4
        await cursor.execute("CREATE TABLE IF NOT EXISTS seen_too (id int)")  # commits
        assert await cached(my, pool) == 5
        await cursor.execute("DROP TABLE seen_too")


async def test_prepared_statements(my: QueryOptimizer, pool: Any) -> None:
    instrument(pool)
    assert await cached(my, pool) == 3
    async with pool.acquire() as connection:
        async with await connection.prepare("UPDATE seen SET v = ? WHERE id = ?") as statement:
            assert (await statement.execute((4, 3))).affected_rows == 1
            assert statement.parameter_count == 2
            await connection.commit()
        assert await cached(my, pool) == 4
        async with await connection.prepare("SELECT v FROM seen WHERE id = ?") as statement:
            assert (await statement.execute((3,))).rows == ((4,),)
    assert my.snapshot().total_executions == 4


async def test_reads_cannot_be_answered(pool: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="cache = True"):
        instrument(pool, cache=True)


async def test_undone(my: QueryOptimizer, pool: Any) -> None:
    plain = type(pool)
    instrument(pool)
    async with pool.acquire() as connection:
        assert uninstrument(pool)
        async with connection.cursor() as cursor:
            await cursor.execute(BY_ID, (3,))
            assert type(cursor) is cursors.Cursor
    assert type(pool) is plain
    assert my.snapshot().total_executions == 0
