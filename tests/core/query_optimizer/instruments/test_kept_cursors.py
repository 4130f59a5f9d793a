"""Reads by aiosqlite's cursors, answered by rows that were kept."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

aiosqlite = pytest.importorskip("aiosqlite")

from bot.core.query_optimizer import QueryOptimizer  # noqa: E402
from bot.core.query_optimizer.instruments import instrument, uninstrument  # noqa: E402
from bot.core.query_optimizer.instruments.kept_cursors import is_over  # noqa: E402

BY_ID = "SELECT v FROM seen WHERE id = ?"
FEW = "SELECT id, v FROM seen WHERE id < 5 ORDER BY id"
ROWS = [(n, n) for n in range(5)]


@pytest.fixture
async def lite(seen: QueryOptimizer) -> QueryOptimizer:
    await seen.enable(dialect="sqlite")
    return seen


@pytest.fixture
async def database(lite: QueryOptimizer, tmp_path: Path) -> AsyncIterator[Any]:
    async with aiosqlite.connect(tmp_path / "seen.db") as connection:
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("CREATE TABLE seen (id INTEGER PRIMARY KEY, v INTEGER)")
        await connection.executemany("INSERT INTO seen VALUES (?, ?)", [(n, n) for n in range(2_000)])
        await connection.commit()
        yield instrument(connection, cache=True)


@pytest.fixture
async def other(database: Any, tmp_path: Path) -> AsyncIterator[Any]:
    async with aiosqlite.connect(tmp_path / "seen.db", isolation_level=None) as connection:
        yield instrument(connection)


async def value(connection: Any, number: int = 3) -> Any:
    async with connection.execute(BY_ID, (number,)) as cursor:
        row = await cursor.fetchone()
    return row and row[0]


async def few(connection: Any) -> Any:
    async with connection.execute(FEW) as cursor:
        return await cursor.fetchall()


def test_the_end_is_known_without_another_fetch() -> None:
    cursor = sqlite3.connect(":memory:").execute("SELECT 1 UNION ALL SELECT 2")
    assert not is_over(cursor)
    cursor.fetchone()
    assert not is_over(cursor)
    cursor.fetchone()
    assert is_over(cursor)


async def test_one_row_is_answered_until_it_is_written(
    lite: QueryOptimizer, database: Any, other: Any
) -> None:
    assert [await value(database) for _ in range(3)] == [3, 3, 3]
    assert [await value(database, -1) for _ in range(2)] == [None, None]
    assert lite.snapshot().cache_hits == 3
    await other.execute("UPDATE seen SET v = 4 WHERE id = 3")
    assert await value(database) == 4


async def test_every_way_to_take_all_rows(lite: QueryOptimizer, database: Any) -> None:
    assert await few(database) == ROWS
    async with database.execute(FEW) as cursor:
        assert [row async for row in cursor] == ROWS
    async with database.execute(FEW) as cursor:
        assert await cursor.fetchmany(7) == ROWS
        assert [await cursor.fetchone(), await cursor.fetchall()] == [None, []]
    cursor = await database.execute(FEW)
    cursor.arraysize = 5
    assert await cursor.fetchmany() == ROWS
    assert isinstance(cursor, aiosqlite.Cursor)
    plain = await (await database.cursor()).execute(FEW)
    for name in ("description", "rowcount", "lastrowid", "row_factory", "connection"):
        assert getattr(cursor, name) == getattr(plain, name)
    await cursor.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed cursor"):
        await cursor.fetchone()
    with pytest.raises(sqlite3.ProgrammingError, match="closed cursor"):
        await cursor.execute(FEW)
    assert lite.snapshot().cache_hits == 3


async def test_nobody_changes_what_is_kept(lite: QueryOptimizer, database: Any) -> None:
    database.row_factory = lambda cursor, row: dict(zip([d[0] for d in cursor.description], row, strict=True))
    for hits in range(3):
        [first, *_] = await few(database)
        assert first == {"id": 0, "v": 0}
        first["v"] = "changed"
        assert lite.snapshot().cache_hits == hits


async def test_a_part_of_the_rows_is_read_from_the_database(
    lite: QueryOptimizer, database: Any, other: Any
) -> None:
    assert await few(database) == ROWS
    cursor = await database.execute(FEW)
    assert await cursor.fetchone() == ROWS[0]
    await other.execute("UPDATE seen SET v = 40 WHERE id = 4")
    assert await few(database) == ROWS  # of the snapshot that the cursor holds
    assert await cursor.fetchmany(2) == ROWS[1:3]
    assert await cursor.fetchall() == ROWS[3:]
    assert await few(database) == [*ROWS[:4], (4, 40)]


async def test_rows_that_are_not_taken_yet_are_as_old_as_those_read_after_them(
    database: Any, other: Any
) -> None:
    await few(database)
    cursor = await database.execute(FEW)
    assert await database.execute_fetchall("SELECT MAX(v) FROM seen") == [(1_999,)]
    await other.execute("UPDATE seen SET v = 5000 WHERE id = 4")
    assert await database.execute_fetchall("SELECT MAX(v) FROM seen") == [(1_999,)]
    assert await cursor.fetchall() == ROWS
    assert await database.execute_fetchall("SELECT MAX(v) FROM seen") == [(5_000,)]


@pytest.mark.parametrize("then", ["fetchall", "close"])
async def test_rows_are_given_once_while_another_query_makes_the_cursor_real(
    lite: QueryOptimizer, database: Any, then: str
) -> None:
    await few(database)
    cursor = await database.execute(FEW)
    another = asyncio.create_task(database.execute_fetchall("SELECT MAX(v) FROM seen"))
    partial = asyncio.create_task(cursor.fetchone())
    await asyncio.sleep(0)
    found = await getattr(cursor, then)()
    assert found == (ROWS if then == "fetchall" else None)
    assert await another == [(1_999,)]
    if then == "fetchall":
        assert await partial is None
        assert await cursor.fetchall() == []
    else:
        with pytest.raises(sqlite3.ProgrammingError, match="closed cursor"):
            await partial
    await few(database)
    assert lite.snapshot().cache_hits == 2  # of two cursors: no other one is left open


async def test_a_write_between_the_query_and_its_rows(
    lite: QueryOptimizer, database: Any, other: Any
) -> None:
    cursor = await database.execute(BY_ID, (3,))
    await other.execute("UPDATE seen SET v = 4 WHERE id = 3")
    assert await cursor.fetchone() == (3,)
    assert await value(database) == 4
    assert lite.snapshot().cache_hits == 0


async def test_transactions_read_the_database(lite: QueryOptimizer, database: Any) -> None:
    await value(database)
    await database.execute("UPDATE seen SET v = 4 WHERE id = 3")
    assert [await value(database), await value(database)] == [4, 4]
    await database.rollback()
    assert await value(database) == 3
    assert lite.snapshot().cache_hits == 0


async def test_factories_that_are_changed_after_the_query(database: Any) -> None:
    await few(database)
    cursor = await database.execute(FEW)
    cursor.row_factory = sqlite3.Row
    assert (await cursor.fetchone())["id"] == 0
    await cursor.close()
    cursor = await database.execute("SELECT 'text' FROM seen WHERE id = 1")
    cursor.row_factory = sqlite3.Row
    await cursor.fetchone()
    async with database.execute("SELECT 'text' FROM seen WHERE id = 1") as cursor:
        assert await cursor.fetchone() == ("text",)
    cursor = await database.execute("SELECT 'text' FROM seen WHERE id = 1")
    database.text_factory = bytes
    assert await cursor.fetchone() == (b"text",)


async def test_a_cursor_that_was_answered_may_run_another_query(database: Any, other: Any) -> None:
    for _ in range(2):
        cursor = await database.execute(BY_ID, (3,))
        cursor.arraysize = 2
    assert await cursor.execute("INSERT INTO seen VALUES (9000, 1)") is cursor
    assert (cursor.rowcount, cursor.lastrowid, cursor.arraysize) == (1, 9_000, 2)
    await database.commit()
    assert await (await cursor.execute(BY_ID, (9_000,))).fetchone() == (1,)
    assert await value(other, 9_000) == 1


async def test_the_last_row_is_that_of_the_connection(database: Any) -> None:
    await database.execute("CREATE TABLE more (id INTEGER PRIMARY KEY)")
    await database.execute("INSERT INTO seen VALUES (9000, 1)")
    await database.commit()
    for _ in range(2):
        assert (await (await database.execute(BY_ID, (1,))).fetchone()) == (1,)
    await database.execute_insert("INSERT INTO more VALUES (9001)")
    await database.commit()
    assert (await database.execute(BY_ID, (1,))).lastrowid == 9_001


async def test_undone_or_closed_meanwhile(database: Any, tmp_path: Path) -> None:
    await few(database)
    cursor, partial = await database.execute(FEW), await database.execute(FEW)
    uninstrument(database)
    assert await cursor.fetchall() == ROWS
    assert [await partial.fetchone(), *await partial.fetchall()] == ROWS
    connection = instrument(await aiosqlite.connect(tmp_path / "seen.db"), cache=True)
    await few(connection)
    cursor = await connection.execute(FEW)
    await connection.close()
    for call in (cursor.fetchall, cursor.close):
        with pytest.raises(ValueError, match=r"closed|no active"):
            await call()


async def test_a_cancelled_query_whose_cursor_is_left_open(database: Any, other: Any) -> None:
    """The thread keeps its cursor until its next call has run, and with it the old snapshot."""
    reading = asyncio.create_task(database._execute(database._conn.execute, "SELECT * FROM seen"))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    await other.execute("UPDATE seen SET v = 4 WHERE id = 3")
    await asyncio.gather(value(database), database.execute_fetchall(BY_ID, (3,)))
    await database.execute("SELECT 1")
    assert await value(database) == 4
    assert await database.execute_fetchall(BY_ID, (3,)) == [(4,)]
