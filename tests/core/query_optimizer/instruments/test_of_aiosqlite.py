"""The queries of aiosqlite's own calls, on a real file."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

aiosqlite = pytest.importorskip("aiosqlite")

from bot.core.query_optimizer import QueryOptimizer  # noqa: E402
from bot.core.query_optimizer.instruments import instrument, uninstrument  # noqa: E402
from tests.support.clock import VirtualClock, until_idle  # noqa: E402

BY_ID = "SELECT v FROM seen WHERE id = ?"


@pytest.fixture
async def lite(seen: QueryOptimizer) -> QueryOptimizer:
    await seen.enable(dialect="sqlite", slow_query_threshold=0.05)
    return seen


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Any]:
    async with aiosqlite.connect(tmp_path / "seen.db") as connection:
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("CREATE TABLE seen (id INTEGER PRIMARY KEY, v INTEGER)")
        await connection.executemany("INSERT INTO seen VALUES (?, ?)", [(n, n) for n in range(2_000)])
        await connection.commit()
        yield connection


@pytest.fixture
async def other(database: Any, tmp_path: Path) -> AsyncIterator[Any]:
    async with aiosqlite.connect(tmp_path / "seen.db", isolation_level=None) as connection:
        yield connection


async def value(connection: Any) -> int:
    return int((await connection.execute_fetchall(BY_ID, (3,)))[0][0])


async def test_queries_are_counted_with_their_lines(lite: QueryOptimizer, database: Any) -> None:
    instrument(database)
    for number in range(12):
        async with database.execute(BY_ID, (number,)) as cursor:
            await cursor.fetchone()
    assert lite.snapshot().total_executions == 12
    [pattern] = await lite.get_n_plus_one_patterns()
    assert [site.rpartition(":")[0] for site in pattern.call_sites] == [__file__]


async def test_the_time_of_fetching_counts(lite: QueryOptimizer, database: Any) -> None:
    instrument(database)
    async with database.execute("SELECT a.id FROM seen AS a, seen AS b WHERE a.v + b.v < 0") as cursor:
        assert await cursor.fetchall() == []
    async with database.execute("SELECT a.id FROM seen AS a, seen AS b WHERE b.id < 200") as cursor:
        assert len(list(await cursor.fetchall())) == 400_000
    slow = await lite.get_slow_queries()
    assert [query.executions for query in slow] == [1, 1]
    assert lite._recorder.statistics.shape(slow[0].fingerprint) is not None
    assert {lite._recorder.statistics.shape(query.fingerprint).rows for query in slow} == {0, 400_000}  # type: ignore[union-attr]


@pytest.mark.parametrize("cache", [False, True])
async def test_waiting_behind_another_query_of_the_connection_does_not_count(
    database: Any, clock: VirtualClock, cache: bool
) -> None:
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable(dialect="sqlite", slow_query_threshold=5)

    def hold(value: int) -> int:
        clock.jump(7)
        return value

    await database.create_function("hold", 1, hold)
    instrument(database, cache=cache, optimizer=optimizer)
    await asyncio.gather(
        database.execute_fetchall("SELECT hold(v) FROM seen WHERE id = 1"),
        value(database),
        database.execute("UPDATE seen SET v = 9 WHERE id = 9"),
    )
    [slow] = await optimizer.get_slow_queries()
    assert slow.query.startswith("SELECT hold")
    assert slow.max_time_ms == 7_000
    assert optimizer.snapshot().total_execution_time_ms == 7_000
    await optimizer.disable()


@contextlib.asynccontextmanager
async def busy(connection: Any) -> AsyncIterator[threading.Event]:
    """The connection's thread does nothing meanwhile but wait, until that is set at the latest."""
    until = threading.Event()
    waiting = asyncio.create_task(aiosqlite.Connection._execute(connection, until.wait))
    await asyncio.sleep(0)
    try:
        yield until
    finally:
        until.set()
        await waiting


async def test_a_write_that_was_cancelled_behind_a_read_that_was_not(
    lite: QueryOptimizer, database: Any, other: Any
) -> None:
    instrument(database, cache=True)
    instrument(other)
    async with busy(other):
        before = asyncio.create_task(other.execute_fetchall("SELECT 1"))
        await asyncio.sleep(0)
        inner = busy(other)
        await inner.__aenter__()
        write = asyncio.create_task(other.execute("UPDATE seen SET v = 4 WHERE id = 3"))
        await asyncio.sleep(0)
        write.cancel()
        await asyncio.wait([write])
    await before
    assert await value(database) == 3
    await inner.__aexit__(None, None, None)
    async with asyncio.timeout(30):  # nothing more is asked of that connection
        while await value(database) != 4:
            await asyncio.sleep(0.01)
    assert write.cancelled()


async def test_a_commit_behind_which_the_next_transaction_begins(
    lite: QueryOptimizer, database: Any, other: Any
) -> None:
    await other.execute("CREATE TABLE more (id INTEGER)")
    instrument(other, cache=True)
    instrument(database)
    await database.execute("UPDATE seen SET v = 4 WHERE id = 3")
    assert await value(other) == 3
    done = threading.Event()
    async with busy(database) as until:
        commit = asyncio.create_task(database.commit())
        following = asyncio.create_task(database.execute("INSERT INTO more VALUES (1)"))
        last = asyncio.create_task(aiosqlite.Connection._execute(database, done.set))
        await asyncio.sleep(0)
        until.set()
        assert done.wait(30)  # all of them run before this loop hears of the first
    await commit
    assert await value(other) == 4
    await asyncio.gather(following, last)
    await database.rollback()


async def test_a_read_between_a_write_and_the_rollback_of_another_task(
    lite: QueryOptimizer, database: Any
) -> None:
    instrument(database, cache=True)
    done = threading.Event()
    async with busy(database) as until:
        write = asyncio.create_task(database.execute("UPDATE seen SET v = 4 WHERE id = 3"))
        await until_idle()
        read = asyncio.create_task(value(database))
        await until_idle()
        rollback = asyncio.create_task(database.rollback())
        await until_idle()
        last = asyncio.create_task(aiosqlite.Connection._execute(database, done.set))
        await until_idle()
        until.set()
        assert done.wait(30)
    await asyncio.gather(write, rollback, last)
    assert await read == 4  # as one connection sees it, whatever its tasks
    assert await value(database) == 3


async def test_a_cursor_keeps_its_snapshot_after_a_rollback(
    lite: QueryOptimizer, database: Any, other: Any
) -> None:
    instrument(other)
    instrument(database, cache=True)
    cursor = await database.execute("SELECT id FROM seen ORDER BY id")
    await cursor.fetchone()
    await database.rollback()
    await other.execute("UPDATE seen SET v = 4 WHERE id = 3")
    assert await value(database) == 3  # as SQLite shows it to this connection
    await cursor.close()
    assert await value(database) == 4


async def test_reads_are_answered_until_a_write_is_committed(
    lite: QueryOptimizer, database: Any, other: Any
) -> None:
    instrument(database, cache=True)
    instrument(other)
    assert [await value(database), await value(database)] == [3, 3]
    assert lite.snapshot().cache_hits == 1
    await other.execute("BEGIN")
    await other.execute("UPDATE seen SET v = 4 WHERE id = 3")
    assert await value(database) == 3
    await other.commit()
    assert await value(database) == 4
    await other.execute("BEGIN")
    await other.execute("UPDATE seen SET v = 5 WHERE id = 3")
    await other.rollback()
    assert await value(database) == 4


async def test_its_own_transaction_reads_the_database(lite: QueryOptimizer, database: Any) -> None:
    instrument(database, cache=True)
    await value(database)
    await database.execute("UPDATE seen SET v = 4 WHERE id = 3")
    assert [await value(database), await value(database)] == [4, 4]
    await database.rollback()
    assert await value(database) == 3
    assert lite.snapshot().cache_hits == 0


async def test_nothing_is_kept_while_a_cursor_shows_the_past(
    lite: QueryOptimizer, database: Any, other: Any
) -> None:
    instrument(database, cache=True)
    instrument(other)
    cursor = await database.execute("SELECT * FROM seen")
    await cursor.fetchone()
    await other.execute("UPDATE seen SET v = 4 WHERE id = 3")
    await other.commit()
    assert await value(database) == 3  # of the snapshot that the cursor holds
    await cursor.close()
    assert await value(database) == 4


async def test_rows_of_another_kind_are_apart(lite: QueryOptimizer, database: Any) -> None:
    instrument(database, cache=True)
    assert type((await database.execute_fetchall(BY_ID, (3,)))[0]) is tuple
    database.row_factory = sqlite3.Row
    for _ in range(2):
        assert (await database.execute_fetchall(BY_ID, (3,)))[0]["v"] == 3
    assert lite.snapshot().cache_hits == 1


@pytest.mark.parametrize(
    "alter", ["CREATE TEMP TABLE seen AS SELECT 3 AS id, -1 AS v", "PRAGMA case_sensitive_like = ON"]
)
async def test_a_session_that_differs_is_not_answered(
    lite: QueryOptimizer, database: Any, alter: str
) -> None:
    instrument(database, cache=True)
    await value(database)
    await database.execute(alter)
    await value(database)
    await value(database)
    assert lite.snapshot().cache_hits == 0


async def test_own_functions_alter_it(lite: QueryOptimizer, database: Any) -> None:
    instrument(database, cache=True)
    await value(database)
    await database.create_function("lower", 1, lambda text: "mine")
    await value(database)
    assert lite.snapshot().cache_hits == 0


async def test_a_cancelled_write_counts_until_the_next_answer(
    lite: QueryOptimizer, database: Any, other: Any
) -> None:
    instrument(database, cache=True)
    instrument(other)
    await database.execute("UPDATE seen SET v = 4 WHERE id = 3")  # holds the lock
    waiting = asyncio.create_task(other.execute("UPDATE seen SET v = 5 WHERE id = 3"))
    await asyncio.sleep(0.02)
    waiting.cancel()
    await asyncio.wait([waiting])
    await database.commit()
    await value(database)
    await other.execute("SELECT 1")  # queued behind the write, which has run by then
    assert await value(database) == 5


async def test_closing_undoing_and_errors(lite: QueryOptimizer, database: Any, tmp_path: Path) -> None:
    plain = type(database)
    instrument(database, cache=True)
    with pytest.raises(sqlite3.OperationalError):
        await database.execute("SELECT * FROM nowhere")
    assert uninstrument(database)
    assert type(database) is plain
    connection = instrument(await aiosqlite.connect(tmp_path / "seen.db"))
    await connection.execute("DELETE FROM seen")
    await connection.close()
    with pytest.raises(ValueError, match=r"closed|no active"):
        await connection.execute("SELECT 1")
