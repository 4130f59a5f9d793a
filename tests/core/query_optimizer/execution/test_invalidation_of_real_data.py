"""Reads through the optimizer against reads of the database itself, after every write."""

import random
import sqlite3

import pytest

from bot.core.query_optimizer import QueryOptimizer

READS = [
    "SELECT * FROM a ORDER BY 1, 2",
    "SELECT count(*), sum(n) FROM b",
    "SELECT * FROM v ORDER BY 1",
    "WITH b AS (SELECT id, n FROM a) SELECT sum(n) FROM b",
    "SELECT (SELECT max(n) FROM b), count(*) FROM a WHERE id IN (SELECT id FROM c)",
    "SELECT a.id, c.n FROM a LEFT JOIN c ON c.id = a.id ORDER BY 1, 2",
    "SELECT n FROM a UNION SELECT n FROM b ORDER BY 1",
]
WRITES = [
    "INSERT INTO a SELECT max(id) + 1, {n} FROM a",
    "UPDATE a SET n = {n} WHERE id = {i}",
    "UPDATE b SET n = n + (SELECT count(*) FROM a)",
    "DELETE FROM b WHERE id = {i}",
    "INSERT INTO b SELECT id + 100, n FROM a WHERE id = {i} AND id NOT IN (SELECT id FROM b)",
    "INSERT INTO c VALUES ({i}, {n})",
    "WITH t AS (SELECT id FROM a WHERE id < {i}) UPDATE c SET n = {n} WHERE id IN (SELECT id FROM t)",
    "UPDATE a SET n = {n} WHERE id = 1; DELETE FROM c WHERE id = {i}",
    "BEGIN; UPDATE b SET n = {n}; COMMIT",
]  # fmt: skip
POSTGRES_WRITES = [
    "WITH gone AS (DELETE FROM a WHERE id = {i} RETURNING id, n) INSERT INTO c SELECT id, n FROM gone",
    "MERGE INTO a USING b ON a.id = b.id WHEN MATCHED THEN UPDATE SET n = {n}",
    "TRUNCATE c",
    "SELECT bump({i})",
    "DO $$ BEGIN UPDATE a SET n = {n}; END $$",
    'UPDATE "a" SET n = {n} WHERE id = {i}',
]
SQLITE_WRITES = ["REPLACE INTO c VALUES ({i}, {n})", "INSERT OR IGNORE INTO a VALUES ({i}, {n})",
                 "UPDATE main.a SET n = {n} WHERE id = {i}", 'UPDATE "A" SET n = {n}']  # fmt: skip
TABLES = [
    "CREATE TABLE a (id INTEGER, n BIGINT)",
    "CREATE TABLE b (id INTEGER, n BIGINT)",
    "CREATE TABLE c (id INTEGER, n BIGINT)",
    "CREATE VIEW v AS SELECT b.id, count(*) AS times FROM b JOIN c ON c.id = b.id GROUP BY b.id",
    "INSERT INTO a VALUES (1, 1), (2, 2), (3, 3)",
    "INSERT INTO b VALUES (1, 1), (2, 2), (3, 3)",
    "INSERT INTO c VALUES (1, 1), (2, 2)",
]


async def check(optimizer, ask, writes, seed):
    chance = random.Random(seed)
    for statement in TABLES:
        await optimizer.execute(statement, None, ask)
    hits = 0
    for _ in range(60):
        for read in chance.sample(READS, 4):
            before = (await optimizer.get_statistics())["cache_hits"]
            assert await optimizer.execute(read, None, ask) == await ask(read, None), read
            hits += (await optimizer.get_statistics())["cache_hits"] - before
        write = chance.choice(writes).format(n=chance.randrange(1000), i=chance.randrange(1, 6))
        await optimizer.execute(write, None, ask)
        for read in READS:
            cached = await optimizer.get_cached_result(read)
            assert cached is None or cached == await ask(read, None), f"{read} is stale after {write}"
    assert hits > 20, "results were cached at all"


@pytest.mark.parametrize("seed", range(4))
async def test_sqlite(seed):
    connection = sqlite3.connect(":memory:", isolation_level=None)

    async def ask(query, params):
        if query.count(";"):
            connection.executescript(query)
            return []
        return connection.execute(query).fetchall()

    optimizer = QueryOptimizer()
    await optimizer.enable(dialect="sqlite", detect_n_plus_one=False)
    await check(optimizer, ask, WRITES + SQLITE_WRITES, seed)
    await optimizer.disable()
    connection.close()


@pytest.mark.parametrize("seed", range(2))
async def test_postgresql(seed, postgresql_url):
    import asyncpg

    connection = await asyncpg.connect(postgresql_url)
    schema = f"invalidation_{seed}"
    await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}")
    await connection.execute(f"SET search_path = {schema}")
    await connection.execute(
        "CREATE FUNCTION bump(by integer) RETURNS integer LANGUAGE plpgsql AS "
        "$$ BEGIN UPDATE a SET n = n + by; RETURN 1; END $$"
    )

    async def ask(query, params):
        if not query.lstrip().startswith(("SELECT", "WITH b")):
            await connection.execute(query)
            return []
        return [tuple(row) for row in await connection.fetch(query)]

    optimizer = QueryOptimizer()
    await optimizer.enable(dialect="postgres", detect_n_plus_one=False)
    await check(optimizer, ask, WRITES + POSTGRES_WRITES, seed)
    await optimizer.disable()
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    await connection.close()
