"""The queries of asyncpg's own calls, seen on a real PostgreSQL."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest

asyncpg = pytest.importorskip("asyncpg")

from bot.core.query_optimizer import QueryOptimizer, optimize_query  # noqa: E402
from bot.core.query_optimizer.instruments import instrument, uninstrument  # noqa: E402
from tests.support.waiting import until  # noqa: E402

BY_ID = "SELECT v FROM seen WHERE id = $1"


@pytest.fixture
async def pool(postgresql_url: str) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(postgresql_url, min_size=1, max_size=3) as pool:
        await pool.execute("DROP TABLE IF EXISTS seen; CREATE TABLE seen (id int PRIMARY KEY, v int)")
        await pool.execute("INSERT INTO seen SELECT n, n FROM generate_series(1, 100) AS n")
        yield pool
        await pool.execute("DROP TABLE seen")


async def test_queries_are_counted_and_timed(seen: QueryOptimizer, pool: Any) -> None:
    assert instrument(pool) is pool
    assert await pool.fetchval(BY_ID, 3) == 3
    async with pool.acquire() as connection:
        assert len(await connection.fetch("SELECT * FROM seen")) == 100
    figures = seen.snapshot()
    assert (figures.total_executions, figures.cache_hits, figures.cached_results_count) == (2, 0, 0)
    assert figures.total_execution_time_ms > 0


async def test_a_slow_query_has_the_line_that_ran_it(seen: QueryOptimizer, pool: Any) -> None:
    instrument(pool)
    await pool.fetch("SELECT pg_sleep(0.15)")
    line = inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]
    [slow] = await seen.get_slow_queries()
    details = await seen.describe_query(slow.fingerprint)
    assert details is not None
    assert details.call_sites == [
        f"{__file__}:{line} in {test_a_slow_query_has_the_line_that_ran_it.__name__}"
    ]


async def test_n_plus_one_has_the_line_that_runs_it(seen: QueryOptimizer, pool: Any) -> None:
    instrument(pool)
    async with pool.acquire() as connection:
        statement = await connection.prepare("SELECT id FROM seen WHERE v = $1")
        for number in range(12):
            await connection.fetchrow(BY_ID, number)
            await statement.fetchval(number)
    patterns = await seen.get_n_plus_one_patterns()
    assert {pattern.query for pattern in patterns} == {
        "SELECT v FROM seen WHERE id = ?", "SELECT id FROM seen WHERE v = ?",
    }  # fmt: skip
    assert all(__file__ in site for pattern in patterns for site in pattern.call_sites)


async def cached(optimizer: QueryOptimizer, pool: Any) -> Any:
    """What the optimizer answers to a caller who uses its own API."""

    async def run(query: str, params: Any) -> Any:
        return await pool.fetchval(query, *params)

    return await optimizer.execute(BY_ID, (3,), run)


async def test_a_write_drops_what_read_its_table(seen: QueryOptimizer, pool: Any) -> None:
    instrument(pool)
    assert await cached(seen, pool) == 3
    await pool.execute("UPDATE seen SET v = 4 WHERE id = 3")
    assert await cached(seen, pool) == 4
    await pool.executemany("UPDATE seen SET v = $2 WHERE id = $1", [(3, 5)])
    assert await cached(seen, pool) == 5
    await pool.execute("DELETE FROM seen")
    await pool.copy_records_to_table("seen", records=[(3, 6)])
    assert await cached(seen, pool) == 6


@optimize_query
async def through(query: str, pool: Any) -> Any:
    return await pool.fetch(query)


async def test_an_execution_of_the_optimizer_is_counted_once(seen: QueryOptimizer, pool: Any) -> None:
    instrument(pool)
    assert await cached(seen, pool) == 3
    assert seen.snapshot().total_executions == 1


async def test_what_a_transaction_wrote_is_dropped_when_it_ends(seen: QueryOptimizer, pool: Any) -> None:
    instrument(pool)
    async with pool.acquire() as connection:
        async with connection.transaction(isolation="serializable"):
            async with connection.transaction():
                await connection.execute("UPDATE seen SET v = 4 WHERE id = 3")
            assert await cached(seen, pool) == 3  # by another connection, which does not see it yet
            assert seen.snapshot().cached_results_count == 1
        assert await cached(seen, pool) == 4
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("UPDATE seen SET v = 5 WHERE id = 3")
        await transaction.rollback()
        assert await cached(seen, pool) == 4


async def test_other_instances_are_told_what_was_written(seen: QueryOptimizer, pool: Any) -> None:
    told: list[list[str]] = []

    async def tell(tables: list[str]) -> None:
        await asyncio.sleep(0)
        told.append(tables)

    seen.after_write(tell)
    instrument(pool)
    async with pool.acquire() as connection:
        async with connection.transaction(isolation="repeatable_read", readonly=False):
            async with connection.transaction():
                await connection.execute("UPDATE seen SET v = 4 WHERE id = 3")
            assert told == [["seen"]]
        assert told == [["seen"], ["seen"]]
        await connection.execute("DELETE FROM seen")
        assert told == [["seen"], ["seen"], ["seen"]]
    assert len(told) == 3
    seen.after_write(None)


async def test_a_transaction_that_began_before_is_known(seen: QueryOptimizer, pool: Any) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE seen SET v = 4 WHERE id = 3")
        instrument(pool)
        assert await cached(seen, pool) == 3
    assert await cached(seen, pool) == 4


async def test_a_write_that_was_cancelled_counts_until_the_server_answers(
    seen: QueryOptimizer, pool: Any
) -> None:
    instrument(pool)
    async with pool.acquire() as other, other.transaction():
        await other.execute("UPDATE seen SET v = 9 WHERE id = 3")
        async with pool.acquire() as connection:
            waiting = asyncio.create_task(connection.execute("UPDATE seen SET v = 4 WHERE id = 3"))
            await asyncio.sleep(0.05)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert await cached(seen, pool) == 3
    assert await cached(seen, pool) == 9


# cache=True


async def test_reads_are_answered_from_the_cache(seen: QueryOptimizer, pool: Any) -> None:
    instrument(pool, cache=True)
    many = "SELECT * FROM seen WHERE id < $1 ORDER BY id"
    async with pool.acquire() as connection:
        first = [
            await connection.fetchval(BY_ID, 3),
            await connection.fetchrow(many, 3),
            await connection.fetch(many, 3),
        ]
        assert seen.snapshot().cache_hits == 0
        again = [await pool.fetchval(BY_ID, 3), await pool.fetchrow(many, 3), await pool.fetch(many, 3)]
    assert first == again
    assert seen.snapshot().cache_hits == 3
    assert type(again[1]) is asyncpg.Record
    assert first[2] is not again[2]
    assert await pool.fetchval(many, 3, column=1) == 1
    await pool.execute("UPDATE seen SET v = 4 WHERE id = 3")
    assert await pool.fetchval(BY_ID, 3) == 4


async def test_a_hit_needs_no_connection(seen: QueryOptimizer, pool: Any) -> None:
    instrument(pool, cache=True)
    await pool.fetchval(BY_ID, 3)
    async with pool.acquire(), pool.acquire(), pool.acquire():  # all there are
        assert await asyncio.wait_for(pool.fetchval(BY_ID, 3), 5) == 3


async def test_a_transaction_reads_the_database(seen: QueryOptimizer, pool: Any) -> None:
    instrument(pool, cache=True)
    await pool.fetchval(BY_ID, 3)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE seen SET v = 4 WHERE id = 3")
        assert await connection.fetchval(BY_ID, 3) == 4
        assert await pool.fetchval(BY_ID, 3) == 3


@pytest.mark.parametrize(
    "alter",
    [
        "SET search_path = other_schema, public",
        "SELECT set_config('search_path', 'other_schema', false)",
        "CREATE TEMP TABLE seen AS SELECT 3 AS id, -1 AS v",
        "DO $$ BEGIN SET search_path = other_schema; END $$",
    ],
)
async def test_a_session_that_differs_is_not_answered(seen: QueryOptimizer, pool: Any, alter: str) -> None:
    await pool.execute("CREATE SCHEMA IF NOT EXISTS other_schema; DROP TABLE IF EXISTS other_schema.seen")
    await pool.execute("CREATE TABLE other_schema.seen AS SELECT 3 AS id, -1 AS v")
    instrument(pool, cache=True)
    assert await pool.fetchval(BY_ID, 3) == 3
    connection = await pool.acquire()
    await connection.execute(alter)
    assert await connection.fetchval(BY_ID, 3) == -1
    assert await pool.fetchval(BY_ID, 3) == 3
    await connection.close()
    await pool.release(connection)
    uninstrument(pool)
    await pool.execute("DROP SCHEMA other_schema CASCADE")


async def test_tenants_are_apart(seen: QueryOptimizer, pool: Any) -> None:
    tenant = "ann"
    instrument(pool, cache=True, tenant=lambda: tenant)
    await pool.fetchval(BY_ID, 3)
    tenant = "ben"
    await pool.fetchval(BY_ID, 3)
    assert seen.snapshot().cache_hits == 0
    await pool.fetchval(BY_ID, 3)
    assert seen.snapshot().cache_hits == 1


async def test_without_its_tenant_a_read_is_not_cached(seen: QueryOptimizer, pool: Any) -> None:
    def tenant() -> Any:
        raise LookupError("no request")

    instrument(pool, cache=True, tenant=tenant)
    assert [await pool.fetchval(BY_ID, 3), await pool.fetchval(BY_ID, 3)] == [3, 3]
    assert (seen.snapshot().cache_hits, seen.snapshot().cached_results_count) == (0, 0)


async def test_what_a_setup_reads_is_no_result(seen: QueryOptimizer, postgresql_url: str, pool: Any) -> None:
    async def setup(connection: Any) -> None:
        await connection.execute("SET application_name = 'bot'")
        assert await connection.fetchval("SELECT 'setup'") == "setup"

    async with asyncpg.create_pool(postgresql_url, min_size=1, max_size=2, setup=setup) as own:
        instrument(own, cache=True)
        assert [await own.fetchval(BY_ID, 3) for _ in range(3)] == [3, 3, 3]
    assert seen.snapshot().cache_hits == 0


async def test_undone_during_a_read(seen: QueryOptimizer, pool: Any) -> None:
    instrument(pool, cache=True)
    await pool.fetchval(BY_ID, 1)
    async with pool.acquire() as holder, holder.transaction():
        await holder.execute("LOCK TABLE seen IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(pool.fetchval(BY_ID, 3))
        await asyncio.sleep(0.05)
        uninstrument(pool)
    assert await reading == 3
    assert seen.snapshot().cached_results_count == 1  # of the first read


async def test_own_types_are_kept(seen: QueryOptimizer, postgresql_url: str) -> None:
    import json

    async def init(connection: Any) -> None:
        await connection.set_type_codec("json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

    async with asyncpg.create_pool(postgresql_url, min_size=1, max_size=2, init=init) as pool:
        instrument(pool, cache=True)
        text = "SELECT '{\"a\": [1]}'::json AS found"
        first = await pool.fetch(text)
        first[0]["found"]["a"].append(2)
        assert [row["found"] for row in await pool.fetch(text)] == [{"a": [1]}]


# On and off


async def test_twice_is_once_and_the_options_change(seen: QueryOptimizer, pool: Any) -> None:
    instrument(pool)
    instrument(pool, cache=True)
    await pool.fetchval(BY_ID, 3)
    await pool.fetchval(BY_ID, 3)
    figures = seen.snapshot()
    assert (figures.total_executions, figures.cache_hits) == (1, 1)


async def test_undone_while_queries_run(seen: QueryOptimizer, pool: Any) -> None:
    plain = type(pool)
    instrument(pool, cache=True)
    running = [asyncio.create_task(pool.fetchval("SELECT pg_sleep(0.3)")) for _ in range(3)]

    async def all_are_busy() -> bool:
        return bool(pool.get_size() == 3 and pool.get_idle_size() == 0)

    await until(all_are_busy)
    assert uninstrument(pool)
    await asyncio.gather(*running)
    assert type(pool) is plain
    assert not uninstrument(pool)
    await seen.reset_statistics()
    async with pool.acquire() as connection:
        assert type(connection._con) is asyncpg.Connection
        await connection.fetchval(BY_ID, 3)
    assert seen.snapshot().total_executions == 0


async def test_a_single_connection(seen: QueryOptimizer, postgresql_url: str, pool: Any) -> None:
    connection = await asyncpg.connect(postgresql_url)
    instrument(connection, cache=True)
    assert [await connection.fetchval(BY_ID, 3) for _ in range(3)] == [3, 3, 3]
    assert seen.snapshot().cache_hits == 2
    await connection.execute("SET search_path = public")
    await connection.fetchval(BY_ID, 3)
    assert seen.snapshot().cache_hits == 2
    assert uninstrument(connection)
    assert type(connection) is asyncpg.Connection
    await connection.close()


async def test_an_optimizer_that_is_off_sees_nothing(seen: QueryOptimizer, pool: Any) -> None:
    instrument(pool, cache=True)
    await seen.disable()
    assert await pool.fetchval(BY_ID, 3) == 3
    async with pool.acquire() as connection, connection.transaction():
        async for row in connection.cursor("SELECT * FROM seen LIMIT 1"):
            assert row["id"]
    assert seen.snapshot().total_executions == 0
    await seen.enable()


async def test_errors_are_those_of_the_driver(seen: QueryOptimizer, pool: Any) -> None:
    instrument(pool, cache=True)
    with pytest.raises(asyncpg.UndefinedTableError):
        await pool.fetch("SELECT * FROM nowhere")
    with pytest.raises(TypeError):
        await pool.fetch()
    with pytest.raises(asyncpg.UniqueViolationError):
        await pool.execute("INSERT INTO seen VALUES (1, 1)")
    with pytest.raises(asyncio.TimeoutError):
        await pool.fetch("SELECT pg_sleep(5)", timeout=0.05)
    assert await pool.fetchval(BY_ID, 3) == 3
