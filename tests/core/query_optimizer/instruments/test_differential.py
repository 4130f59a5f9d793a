"""Random programs of reads and writes: with instruments that answer reads, they see what they see without.

A program runs twice, each time on a new database: on instrumented connections, and on plain ones. Its steps
are taken one by one on several connections, in and out of transactions, so that its answers are certain.
"""

import contextlib
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.instruments import instrument
from tests.support.searching import cases

CONNECTIONS = 3
STEPS = 80
Step = tuple[int, str, Any]
"""Number of the connection, what to do, and with what."""

READS = (
    "SELECT id, v FROM a ORDER BY id",
    "SELECT v FROM a WHERE id = {q}",
    "SELECT COUNT(*) FROM b",
    "SELECT a.id, b.v FROM a JOIN b ON b.id = a.id ORDER BY a.id",
    "SELECT SUM(v) FROM (SELECT v FROM a UNION ALL SELECT v FROM b) AS both_",
    "WITH big AS (SELECT id FROM b WHERE v > 3) SELECT COUNT(*) FROM big",
    "SELECT id FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.id = a.id) ORDER BY id",
    "SELECT * FROM a ORDER BY id LIMIT 3",
    "SELECT COUNT(*) FROM seen_by_view",
)
WRITES = (
    "INSERT INTO a (id, v) VALUES ({q}, {q}) ON CONFLICT (id) DO UPDATE SET v = a.v + 1",
    "UPDATE a SET v = v + 1 WHERE id = {q}",
    "UPDATE b SET v = v + (SELECT COUNT(*) FROM a) WHERE id = {q}",
    "DELETE FROM b WHERE id = {q}",
    "INSERT INTO b (id, v) SELECT id + 100, v FROM a WHERE id = {q} ON CONFLICT (id) DO NOTHING",
    "DELETE FROM a WHERE id IN (SELECT id FROM b WHERE v > {q})",
    "UPDATE A SET v = v + 1 WHERE id = {q}",
)
SCHEMA = """
CREATE TABLE a (id INTEGER PRIMARY KEY, v INTEGER NOT NULL);
CREATE TABLE b (id INTEGER PRIMARY KEY, v INTEGER NOT NULL);
CREATE VIEW seen_by_view AS SELECT a.id FROM a JOIN b ON a.id = b.id;
INSERT INTO a VALUES (1, 1), (2, 2), (3, 3), (4, 4);
INSERT INTO b VALUES (1, 10), (2, 20), (3, 30), (104, 40);
"""


def program(seed: int, kinds: dict[str, Callable[[random.Random], Any]], weights: list[int]) -> list[Step]:
    """Steps: reads often repeat one before, on whatever connection."""
    chance = random.Random(seed)
    steps: list[Step] = []
    for _ in range(STEPS):
        before = [step for step in steps if step[1].startswith("read")]
        if before and chance.random() < 0.4:
            steps.append((chance.randrange(CONNECTIONS), *chance.choice(before[-4:])[1:]))
            continue
        [kind] = chance.choices(list(kinds), weights)
        steps.append((chance.randrange(CONNECTIONS), kind, kinds[kind](chance)))
    return steps


def read(chance: random.Random) -> tuple[str, int]:
    return chance.choice(READS), chance.randrange(1, 6)


def write(chance: random.Random) -> tuple[str, int]:
    return chance.choice(WRITES), chance.randrange(1, 6)


def one_of(*texts: str) -> Callable[[random.Random], str]:
    return lambda chance: chance.choice(texts)


def nothing(_: random.Random) -> None:
    return None


async def outcome(step: Any, errors: tuple[type[BaseException], ...]) -> Any:
    """What a step gives: its rows, or the kind of its error."""
    try:
        return await step
    except errors as error:
        return type(error).__name__


def compare(steps: list[Step], plain: list[Any], watched: list[Any]) -> None:
    for number, (step, expected, found) in enumerate(zip(steps, plain, watched, strict=True)):
        said = "\n".join(map(str, steps[: number + 1]))
        assert found == expected, (
            f"step {number}, {step}: {found}, and without instruments {expected}\n{said}"
        )


# SQLite.

LITE: dict[str, Callable[[random.Random], Any]] = {
    "read": read,
    "read by a cursor": read,
    "read one by a cursor": read,
    "read all by a cursor": read,
    "read some by a cursor": read,
    "read in part": read,
    "fetch": nothing,
    "close cursors": nothing,
    "write": write,
    "write many": lambda chance: (WRITES[0], [chance.randrange(1, 6) for _ in range(3)]),
    "insert": lambda chance: chance.randrange(10, 90),
    "script": one_of(
        "UPDATE a SET v = v + 7; DELETE FROM b WHERE id = 2;",
        "BEGIN; UPDATE b SET v = v + 1;",
        "UPDATE a SET v = v * 2; COMMIT;",
    ),
    "text": one_of(
        "BEGIN",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT one",
        "SAVEPOINT two",
        "RELEASE one",
        "ROLLBACK TO one",
        "RELEASE two",
    ),
    "definition": one_of(
        "ALTER TABLE a ADD COLUMN w INTEGER",
        "ALTER TABLE a DROP COLUMN w",
        "ALTER TABLE b RENAME TO c",
        "ALTER TABLE c RENAME TO b",
        "DROP TABLE IF EXISTS b",
        "CREATE TABLE IF NOT EXISTS b (id INTEGER PRIMARY KEY, v INTEGER NOT NULL)",
        "CREATE TEMP TABLE a AS SELECT 1 AS id, 99 AS v",
        "DROP TABLE IF EXISTS temp.a",
        "PRAGMA case_sensitive_like = 1",
        "PRAGMA optimize",
        "DROP VIEW IF EXISTS seen_by_view",
        "CREATE VIEW IF NOT EXISTS seen_by_view AS SELECT id FROM a",
        "CREATE INDEX IF NOT EXISTS i ON a (v)",
    ),
    "commit": nothing,
    "rollback": nothing,
    "row_factory": nothing,
    "returning": lambda chance: chance.randrange(1, 6),
}
LITE_WEIGHTS = [30, 8, 8, 8, 8, 4, 4, 3, 14, 2, 3, 2, 10, 3, 8, 4, 1, 3]


async def one_of_the_rows(cursor: Any) -> Any:
    row = await cursor.fetchone()
    return row and tuple(row), cursor.description, cursor.rowcount, cursor.lastrowid


async def all_rows(cursor: Any) -> Any:
    rows = list(map(tuple, await cursor.fetchall()))
    return rows, cursor.lastrowid, await cursor.fetchone(), list(await cursor.fetchmany())


async def some_rows(cursor: Any) -> Any:
    """In parts of different sizes, the second by the cursor's own."""
    cursor.arraysize = 3
    found = [list(map(tuple, await cursor.fetchmany(2)))]
    while found[-1]:
        found.append(list(map(tuple, await cursor.fetchmany())))
    return found, cursor.arraysize


FETCHES = {
    "read one by a cursor": one_of_the_rows,
    "read all by a cursor": all_rows,
    "read some by a cursor": some_rows,
}


class Lite:
    """One connection, and its open cursors."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.cursors: list[Any] = []

    async def take(self, kind: str, what: Any) -> Any:
        connection = self.connection
        if kind.startswith("read"):
            text, number = what
            params = (number,) if "{q}" in text else None
            text = text.replace("{q}", "?")
            if kind == "read":
                return list(map(tuple, await connection.execute_fetchall(text, params)))
            if kind == "read by a cursor":
                async with connection.execute(text, params) as cursor:
                    return [tuple(row) async for row in cursor]
            if kind in FETCHES:
                async with connection.execute(text, params) as cursor:
                    return await FETCHES[kind](cursor)
            self.cursors.append(await connection.execute(text, params))
            return tuple(await self.cursors[-1].fetchone() or ())
        if kind == "fetch":
            return [list(map(tuple, await cursor.fetchmany(1))) for cursor in self.cursors]
        if kind == "close cursors":
            while self.cursors:
                await self.cursors.pop().close()
            return None
        if kind == "write":
            text, number = what
            return (
                await connection.execute(text.replace("{q}", "?"), (number,) * text.count("{q}"))
            ).rowcount
        if kind == "write many":
            text, numbers = what
            await connection.executemany(text.replace("{q}", "?"), [(n, n) for n in numbers])
            return None
        if kind == "insert":
            return tuple(await connection.execute_insert("INSERT INTO a (id, v) VALUES (?, 0)", (what,)))
        if kind == "returning":
            text = "UPDATE b SET v = v + 1 WHERE id <= ? RETURNING id, v"
            return sorted(map(tuple, await connection.execute_fetchall(text, (what,))))
        if kind == "script":
            return bool(await connection.executescript(what))
        if kind in ("text", "definition"):
            await (await connection.execute(what)).close()
            return None
        if kind == "row_factory":
            connection.row_factory = None if connection.row_factory else sqlite3.Row
            return None
        return await getattr(connection, kind)()


async def run_lite(path: Path, steps: list[Step], level: str | None, *, watched: bool) -> list[Any]:
    aiosqlite = pytest.importorskip("aiosqlite")
    with contextlib.closing(sqlite3.connect(path)) as first:
        first.execute("PRAGMA journal_mode = WAL")
        first.executescript(SCHEMA)
    async with contextlib.AsyncExitStack() as stack:
        takers = []
        for _ in range(CONNECTIONS):
            connection = await stack.enter_async_context(
                aiosqlite.connect(path, isolation_level=level, timeout=0)
            )
            takers.append(Lite(instrument(connection, cache=True) if watched else connection))
        return [await outcome(takers[n].take(kind, what), (sqlite3.Error,)) for n, kind, what in steps]


@pytest.mark.parametrize("level", ["", None])
async def test_sqlite(seen: QueryOptimizer, tmp_path: Path, level: str | None) -> None:
    await seen.enable(dialect="sqlite", detect_n_plus_one=False)
    await seen.declare_view("seen_by_view", "a", "b")
    for seed in range(cases(30)):
        steps = program(seed, LITE, LITE_WEIGHTS)
        plain = await run_lite(tmp_path / f"plain{seed}.db", steps, level, watched=False)
        watched = await run_lite(tmp_path / f"watched{seed}.db", steps, level, watched=True)
        compare(steps, plain, watched)
        for path in tmp_path.iterdir():
            path.unlink()
    assert seen.snapshot().cache_hits > 20


# PostgreSQL.

SCHEMAS = """
DROP SCHEMA IF EXISTS diff CASCADE;
DROP SCHEMA IF EXISTS diff_other CASCADE;
CREATE SCHEMA diff;
CREATE SCHEMA diff_other;
CREATE TABLE diff_other.a (id INTEGER PRIMARY KEY, v INTEGER NOT NULL);
INSERT INTO diff_other.a VALUES (1, 100), (2, 200);
"""
FUNCTION = """
CREATE FUNCTION bump() RETURNS INTEGER AS 'UPDATE a SET v = v + 1 RETURNING v' LANGUAGE SQL VOLATILE;
"""
IN_PART = "WITH gone AS (DELETE FROM b WHERE id = {q} RETURNING id) SELECT id FROM gone"

PG: dict[str, Callable[[random.Random], Any]] = {
    "read": read,
    "read by the pool": read,
    "read a row": read,
    "read a value": read,
    "read prepared": read,
    "read kept statement": nothing,
    "read by a cursor": read,
    "read by COPY": one_of("SELECT COUNT(*) FROM a", "DELETE FROM b WHERE id = 2 RETURNING id"),
    "write": write,
    "write by the pool": write,
    "write prepared": write,
    "write and read": lambda chance: (IN_PART, chance.randrange(1, 6)),
    "write many": lambda chance: [chance.randrange(1, 6) for _ in range(3)],
    "copy": lambda chance: chance.randrange(200, 220),
    "start": one_of("read_committed", "repeatable_read", "serializable"),
    "commit": nothing,
    "rollback": nothing,
    "text": one_of(
        "BEGIN",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "COMMIT",
        "ROLLBACK",
        "COMMIT AND CHAIN",
        "SAVEPOINT one",
        "ROLLBACK TO SAVEPOINT one",
        "RELEASE one",
        "UPDATE a SET v = v + 7; DELETE FROM b WHERE id = 2",
        "BEGIN; UPDATE b SET v = v + 1",
        "UPDATE a SET v = v * 2; COMMIT",
    ),
    "odd text": one_of(
        "SET search_path = diff_other, diff",
        "SET LOCAL search_path = diff_other, diff",
        "SET search_path = diff",
        "SELECT set_config('search_path', 'diff_other,diff', false)",
        "RESET ALL",
        "DISCARD ALL",
        "CREATE TEMP TABLE a AS SELECT 1 AS id, 99 AS v",
        "CREATE TEMP TABLE IF NOT EXISTS a (id int PRIMARY KEY, v int) ON COMMIT DROP",
        "DROP TABLE IF EXISTS pg_temp.a",
        "DO $$ BEGIN UPDATE a SET v = v + 3; END $$",
        "SELECT bump()",
        "TRUNCATE b",
        "PREPARE writing AS UPDATE a SET v = v + 11",
        "EXECUTE writing",
        "ALTER TABLE a ADD COLUMN w INTEGER",
        "ALTER TABLE a DROP COLUMN w",
        "ALTER TABLE b RENAME TO c",
        "ALTER TABLE c RENAME TO b",
        "LISTEN news",
        "ANALYZE a",
        "LOCK TABLE a",
        "SELECT v FROM a FOR UPDATE",
        "INSERT INTO diff_other.a VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET v = diff_other.a.v + 1",
        "MERGE INTO a USING b ON a.id = b.id WHEN MATCHED THEN UPDATE SET v = b.v",
        "EXPLAIN ANALYZE UPDATE a SET v = v + 5",
        "DECLARE reading CURSOR WITH HOLD FOR SELECT * FROM a",
        "UPDATE seen_by_view SET id = id + 300 WHERE id = 3",
        "SELECT 1 AS id, 5 AS v INTO b",
        "DROP TABLE IF EXISTS b CASCADE",
        "CREATE TABLE IF NOT EXISTS b (id int PRIMARY KEY, v int)",
        "CREATE OR REPLACE VIEW seen_by_view AS SELECT id FROM a",
    ),
    "lease another": nothing,
    "set a codec": nothing,
}
PG_WEIGHTS = [20, 12, 4, 4, 4, 3, 3, 2, 8, 6, 2, 2, 2, 2, 6, 5, 4, 10, 12, 6, 1]


class Pg:
    """A lease of a pool, its open transactions, and a statement that it keeps."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.connection: Any = None
        self.transactions: list[Any] = []
        self.kept: Any = None

    async def take(self, kind: str, what: Any) -> Any:
        if kind.startswith(("read", "write")) and isinstance(what, tuple):
            return await self.query(kind, *what)
        connection = self.connection
        if kind == "read by COPY":
            read: list[bytes] = []
            await connection.copy_from_query(what, output=lambda data: gather(read, data))
            return b"".join(read)
        if kind == "read kept statement":
            return self.kept and list(map(tuple, await self.kept.fetch()))
        if kind == "write many":
            text = "INSERT INTO a (id, v) VALUES ($1, $1) ON CONFLICT (id) DO UPDATE SET v = a.v + 1"
            return await connection.executemany(text, [(number,) for number in what])
        if kind == "copy":
            return await connection.copy_records_to_table("b", records=[(what, what)], columns=["id", "v"])
        if kind == "start":
            transaction = connection.transaction(isolation=None if self.transactions else what)
            await transaction.start()
            self.transactions.append(transaction)
            return None
        if kind in ("commit", "rollback"):
            return await getattr(self.transactions.pop(), kind)() if self.transactions else None
        if kind == "lease another":
            self.transactions.clear()
            self.kept = None
            await self.pool.release(connection)
            self.connection = await self.pool.acquire()
            return None
        if kind == "set a codec":
            await connection.set_type_codec(
                "int4", encoder=str, decoder=lambda text: f"<{text}>", schema="pg_catalog"
            )
            return None
        return await connection.execute(what)

    async def query(self, kind: str, text: str, number: int) -> Any:
        params = (number,) if "{q}" in text else ()
        text = text.replace("{q}", "$1::int")
        connection = self.connection
        if kind == "read by the pool":
            return list(map(tuple, await self.pool.fetch(text, *params)))
        if kind == "read a row":
            return tuple(await connection.fetchrow(text, *params) or ())
        if kind == "read a value":
            return await connection.fetchval(text, *params, column=0)
        if kind in ("read prepared", "write prepared"):
            self.kept = await connection.prepare(text.replace("$1::int", str(number)))
            return list(map(tuple, await self.kept.fetch()))
        if kind == "read by a cursor":
            async with connection.transaction():
                return [tuple(row) async for row in connection.cursor(text, *params)]
        if kind == "write by the pool":
            return await self.pool.execute(text, *params)
        if kind == "write":
            return await connection.execute(text, *params)
        return list(map(tuple, await connection.fetch(text, *params)))


async def gather(read: list[bytes], data: bytes) -> None:
    read.append(data)


async def run_pg(url: str, steps: list[Step], *, watched: bool) -> list[Any]:
    asyncpg = pytest.importorskip("asyncpg")
    errors = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
    settings = {"search_path": "diff", "lock_timeout": "20ms"}
    first = await asyncpg.connect(url, server_settings=settings)
    try:
        await first.execute(SCHEMAS)
        await first.execute(SCHEMA)
        await first.execute(FUNCTION)
    finally:
        await first.close()
    async with asyncpg.create_pool(
        url, min_size=1, max_size=CONNECTIONS + 2, server_settings=settings
    ) as pool:
        takers = [Pg(instrument(pool, cache=True) if watched else pool) for _ in range(CONNECTIONS)]
        for taker in takers:
            taker.connection = await pool.acquire()
        outcomes = [await outcome(takers[n].take(kind, what), errors) for n, kind, what in steps]
        for taker in takers:
            await pool.release(taker.connection)
    return outcomes


@pytest.mark.server
async def test_postgresql(seen: QueryOptimizer, postgresql_url: str) -> None:
    await seen.enable(dialect="postgres", detect_n_plus_one=False)
    await seen.declare_view("seen_by_view", "a", "b")
    for seed in range(cases(15)):
        steps = program(seed, PG, PG_WEIGHTS)
        plain = await run_pg(postgresql_url, steps, watched=False)
        watched = await run_pg(postgresql_url, steps, watched=True)
        compare(steps, plain, watched)
    assert seen.snapshot().cache_hits > 20
