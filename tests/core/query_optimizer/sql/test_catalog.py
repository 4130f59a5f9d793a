"""What a database's catalog tells, on real databases: no stale result of what was defined elsewhere."""

import urllib.parse

import aiosqlite
import asyncpg
import pytest

from bot.core.query_optimizer.service import QueryOptimizer
from bot.core.query_optimizer.sql.declarations import Declaration
from bot.core.query_optimizer.sql.relations import Relations


async def is_stale(optimizer, run, read, write):
    """Whether a read is answered with what was before a write."""
    await optimizer.execute(read, None, run)
    await optimizer.execute(write, None, run)
    return await optimizer.execute(read, None, run) != await run(read, None)


@pytest.fixture
async def postgres(postgresql_url):
    connection = await asyncpg.connect(postgresql_url)
    for statement in (
        "DROP SCHEMA IF EXISTS learnt CASCADE",
        "CREATE SCHEMA learnt",
        "SET search_path = learnt",
    ):
        await connection.execute(statement)

    async def run(query, params):
        if query.startswith("SELECT"):
            return [tuple(row) for row in await connection.fetch(query)]
        return await connection.execute(query)

    async def ask(statements):
        return [await connection.fetch(sql, *(params or ())) for sql, params in statements]

    yield connection, run, ask
    await connection.execute("DROP SCHEMA learnt CASCADE")
    await connection.close()


T = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1);"
F = "LANGUAGE sql {} AS 'SELECT max(v) FROM learnt.t'"


@pytest.mark.parametrize(
    ("setup", "read", "write"),
    [
        (T + "CREATE VIEW v AS SELECT * FROM t", "SELECT * FROM v", "UPDATE t SET v = 2"),
        (T + "CREATE VIEW v AS SELECT * FROM t; CREATE VIEW w AS SELECT * FROM v", "SELECT * FROM w",
         "UPDATE t SET v = 2"),
        ("CREATE TABLE p (id int) PARTITION BY range (id); "
         "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)",
         "SELECT * FROM p1", "INSERT INTO p VALUES (1)"),
        ("CREATE TABLE p (id int); CREATE TABLE h () INHERITS (p)", "SELECT * FROM p",
         "INSERT INTO h VALUES (1)"),
        (T + "CREATE TABLE c (id int REFERENCES t ON DELETE CASCADE); INSERT INTO c VALUES (1)",
         "SELECT * FROM c", "DELETE FROM t"),
        (T + "CREATE TABLE l (v int); CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS "
         "$$ BEGIN INSERT INTO learnt.l VALUES (new.v); RETURN new; END $$; "
         "CREATE TRIGGER g AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION g()", "SELECT * FROM l",
         "UPDATE t SET v = 2"),
        (T + "CREATE TABLE l (v int); CREATE RULE r AS ON UPDATE TO t DO ALSO INSERT INTO l VALUES (new.v)",
         "SELECT * FROM l", "UPDATE t SET v = 2"),
        (T + "CREATE FUNCTION nx() RETURNS int LANGUAGE sql AS 'UPDATE learnt.t SET v = v + 1 RETURNING v'; "
         "CREATE TABLE u (id int DEFAULT nx())", "SELECT v FROM t", "INSERT INTO u DEFAULT VALUES"),
        (T + "CREATE TABLE u (id int); INSERT INTO u VALUES (1); "
         "CREATE FUNCTION um(u) RETURNS int " + F.format("STABLE"),
         "SELECT u.um FROM u", "UPDATE t SET v = 5"),
        (T + "CREATE FUNCTION lower(int) RETURNS int " + F.format("STABLE"), "SELECT lower(id) FROM t",
         "UPDATE t SET v = 5"),
        (T + 'CREATE VIEW "Мой вид" AS SELECT * FROM t', 'SELECT * FROM "Мой вид"', "UPDATE t SET v = 2"),
        ("CREATE TABLE s (id serial, v int)", "SELECT * FROM s_id_seq", "INSERT INTO s (v) VALUES (1)"),
        ("CREATE SEQUENCE q; CREATE TABLE s (id int DEFAULT nextval('q'), v int)", "SELECT * FROM q",
         "INSERT INTO s (v) VALUES (1)"),
    ],
)  # fmt: skip
async def test_postgresql(postgres, setup, read, write):
    connection, run, ask = postgres
    await connection.execute(setup)
    optimizer = QueryOptimizer()
    await optimizer.enable(dialect="postgres")
    optimizer.explain_with(ask, "postgres")
    assert not await is_stale(optimizer, run, read, write)


async def test_a_view_that_changes_without_a_write_is_not_cached(postgres):
    connection, run, ask = postgres
    await connection.execute("CREATE VIEW v AS SELECT clock_timestamp()")
    optimizer = QueryOptimizer()
    await optimizer.enable(dialect="postgres")
    optimizer.explain_with(ask, "postgres")
    await optimizer.execute("SELECT * FROM v", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM v") is None


async def test_a_table_is_a_table_and_drops_nothing_else(postgres):
    connection, run, ask = postgres
    await connection.execute(T + "CREATE TABLE u (v int); CREATE VIEW v AS SELECT * FROM u")
    optimizer = QueryOptimizer()
    await optimizer.enable(dialect="postgres")
    optimizer.explain_with(ask, "postgres")
    define = "DO $$ BEGIN EXECUTE 'create view w as select * from t'; END $$"
    for query in ("SELECT * FROM t", "UPDATE u SET v = 1", define):
        await optimizer.execute(query, None, run)
    # What was defined unseen is asked for: no doubt is left.
    assert not await is_stale(optimizer, run, "SELECT * FROM w", "UPDATE t SET v = 2")
    await optimizer.execute("SELECT * FROM t", None, run)
    await optimizer.execute("UPDATE u SET v = 1", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM t") is not None


async def test_sqlite():
    async with aiosqlite.connect(":memory:") as connection:
        await connection.executescript(
            "CREATE TABLE t (v); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT * FROM t;"
            "CREATE TABLE l (v);"
            "CREATE TRIGGER g AFTER UPDATE ON t BEGIN INSERT INTO l VALUES (new.v); END;"
        )

        async def run(query, params):
            async with connection.execute(query) as cursor:
                return list(await cursor.fetchall())

        async def ask(statements):
            return [await run(sql, params) for sql, params in statements]

        for read in ("SELECT * FROM v", "SELECT * FROM l"):
            optimizer = QueryOptimizer()
            await optimizer.enable(dialect="sqlite")
            optimizer.explain_with(ask, "sqlite")
            assert not await is_stale(optimizer, run, read, "UPDATE t SET v = v + 1")


async def test_mysql(mysql_url):
    import asyncmy

    url = urllib.parse.urlsplit(mysql_url)
    connection = await asyncmy.connect(
        host=url.hostname, port=url.port or 3306, user=url.username or "root", password=url.password or "",
        autocommit=True,
    )  # fmt: skip

    async def run(query, params):
        async with connection.cursor() as cursor:
            await cursor.execute(query)
            return list(await cursor.fetchall()) if cursor.description else None

    async def ask(statements):
        return [await run(sql, params) for sql, params in statements]

    for statement in (
        "DROP DATABASE IF EXISTS phase4_learnt", "CREATE DATABASE phase4_learnt", "USE phase4_learnt",
        "CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1, 1)",
        "CREATE VIEW v AS SELECT * FROM t", "CREATE TABLE l (v int)",
        "CREATE TRIGGER g AFTER UPDATE ON t FOR EACH ROW INSERT INTO l VALUES (new.v)",
    ):  # fmt: skip
        await run(statement, None)
    try:
        for read in ("SELECT * FROM v", "SELECT * FROM l"):
            optimizer = QueryOptimizer()
            await optimizer.enable(dialect="mysql")
            optimizer.explain_with(ask, "mysql")
            assert not await is_stale(optimizer, run, read, "UPDATE t SET v = v + 1")
    finally:
        await run("DROP DATABASE phase4_learnt", None)
        connection.close()


def test_a_doubt_that_arises_while_the_catalog_is_read_stays():
    relations = Relations()
    relations.await_catalog(True)
    relations.learn(Declaration("doubt"))
    before = relations.doubts
    relations.learn(Declaration("doubt"))
    relations.learn_catalog([], (), before)
    assert relations.doubt
    relations.learn_catalog([], (), relations.doubts)
    assert not relations.doubt
    relations.learn(Declaration("doubt"))
    relations.clear()
    assert not relations.doubt
    relations.learn(Declaration("doubt"))
    assert relations.doubt


def test_what_a_write_concerns_is_found_anew_after_a_definition():
    relations, written = Relations(), frozenset(("users",))
    assert relations.written_by(written) == written
    relations.cascade("users", ["orders"])
    assert relations.written_by(written) == {"users", "orders"}
    relations.view("all_orders", ["orders"])
    assert relations.written_by(frozenset(("all_orders",))) == {"all_orders", "orders"}
    relations.clear()
    assert relations.written_by(written) == written
