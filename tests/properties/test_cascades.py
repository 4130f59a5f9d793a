"""Cached reads against the database's own answers, where a write to one table changes others."""

import random
import urllib.parse

import aiosqlite
import asyncpg
import pytest

from bot.core.query_optimizer.service import QueryOptimizer
from tests.support.cascading_schemas import schema_of, write_of
from tests.support.searching import cases

WRITES = 25


class Counted:
    """Runs statements on a connection, and counts them."""

    def __init__(self, run):
        self._run = run
        self.reads = 0

    async def __call__(self, query, params):
        if query.startswith("SELECT"):
            self.reads += 1
            return sorted(await self._run(query), key=repr)
        return await self._run(query)

    async def ask(self, statements):
        return [await self._run(sql) for sql, _ in statements]


async def search(dialect, make_run, learns, number, tally):
    """One schema and its writes; ``learns`` is where the optimizer knows the schema from."""
    chosen = random.Random(f"{dialect} {number}")
    run = Counted(await make_run())
    optimizer = QueryOptimizer()
    await optimizer.enable(dialect=dialect)
    schema = schema_of(dialect, chosen)
    for statement in schema.statements:
        if learns == "definitions":
            await optimizer.execute(statement, None, run)
        else:
            await run(statement, None)
    if learns == "catalog":
        optimizer.explain_with(run.ask, dialect, timeout=60)
    reads = [f"SELECT * FROM {name}" for name in schema.reads]
    for read in reads:
        await optimizer.execute(read, None, run)
    for _ in range(WRITES):
        write = write_of(dialect, chosen, schema.tables)
        before = {read: await run(read, None) for read in reads}
        try:
            await optimizer.execute(write, None, run)
        except Exception:
            tally["refused"] += 1
        for read in reads:
            asked = run.reads
            answer = await optimizer.execute(read, None, run)
            dropped = run.reads > asked
            right = await run(read, None)
            assert answer == right, f"{dialect} {number} {learns}: {read} after {write}\n{schema.statements}"
            tally["reads"] += 1
            tally["dropped"] += dropped
            tally["changed"] += right != before[read]


@pytest.fixture
def tally():
    found = {"reads": 0, "dropped": 0, "changed": 0, "refused": 0}
    yield found
    print(found)


@pytest.mark.parametrize("learns", ["definitions", "catalog"])
async def test_postgresql(postgresql_url, learns, tally):
    connection = await asyncpg.connect(postgresql_url)

    async def run(query):
        if query.lstrip().startswith(("SELECT", "WITH")):
            return [tuple(row) for row in await connection.fetch(query)]
        return await connection.execute(query)

    async def make_run():
        await connection.execute(
            "DROP SCHEMA IF EXISTS cascades CASCADE; CREATE SCHEMA cascades; SET search_path = cascades"
        )
        return run

    try:
        for number in range(cases(10)):
            await search("postgres", make_run, learns, number, tally)
        await connection.execute("DROP SCHEMA IF EXISTS cascades CASCADE")
    finally:
        await connection.close()
    assert tally["dropped"] < tally["reads"] / 2, "not everything is dropped"


@pytest.mark.parametrize("learns", ["definitions", "catalog"])
async def test_sqlite(learns, tally):
    opened = []

    async def make_run():
        connection = await aiosqlite.connect(":memory:", isolation_level=None)
        opened.append(connection)
        await connection.execute("PRAGMA foreign_keys = ON")
        await connection.execute("PRAGMA recursive_triggers = ON")

        async def run(query):
            async with connection.execute(query) as cursor:
                return [tuple(row) for row in await cursor.fetchall()]

        return run

    try:
        for number in range(cases(15)):
            await search("sqlite", make_run, learns, number, tally)
    finally:
        for connection in opened:
            await connection.close()
    assert tally["dropped"] < tally["reads"] / 2, "not everything is dropped"


@pytest.mark.parametrize("learns", ["definitions", "catalog"])
async def test_mysql(mysql_url, learns, tally):
    import asyncmy

    url = urllib.parse.urlsplit(mysql_url)
    connection = await asyncmy.connect(
        host=url.hostname, port=url.port or 3306, user=url.username or "root", password=url.password or "",
        autocommit=True,
    )  # fmt: skip

    async def run(query):
        async with connection.cursor() as cursor:
            await cursor.execute(query)
            return [tuple(row) for row in await cursor.fetchall()] if cursor.description else None

    async def make_run():
        for statement in (
            "DROP DATABASE IF EXISTS h_cascades",
            "CREATE DATABASE h_cascades",
            "USE h_cascades",
        ):
            await run(statement)
        return run

    try:
        for number in range(cases(10)):
            await search("mysql", make_run, learns, number, tally)
        await run("DROP DATABASE IF EXISTS h_cascades")
    finally:
        connection.close()
    assert tally["dropped"] < tally["reads"] / 2, "not everything is dropped"
