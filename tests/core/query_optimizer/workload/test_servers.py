"""Statistics, plans and indexes of real servers."""

import os
from argparse import Namespace
from urllib.parse import urlsplit

import asyncpg
import pytest

from bot.core.query_optimizer.workload.command import Read, report_on
from bot.core.query_optimizer.workload.executions import Execution, SourceError
from bot.core.query_optimizer.workload.existing import needless
from bot.core.query_optimizer.workload.mysql_server import readable_digest
from bot.core.query_optimizer.workload.opening import open_server
from bot.core.query_optimizer.workload.postgres_server import HIDDEN, MISSING, open_postgres, statements_query
from bot.core.query_optimizer.workload.server import schema_of
from bot.core.query_optimizer.workload.shapes import Workload
from tests.support.servers import url_from_environment

DEFAULTS = {
    "top": 20, "literals": False, "unused_after": 0.0, "timeout": 20.0, "database": "", "user": "",
    "max_indexes": 10,
}  # fmt: skip

FILES = f"work_files_{os.getpid()}"
SCHEMA = f"work{os.getpid()}"  # another process may run this file on the same server
TABLES = f"""
DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}; SET search_path = {SCHEMA};
CREATE TABLE files (id bigint PRIMARY KEY, owner bigint NOT NULL, kind text, url text, note text);
INSERT INTO files SELECT i, i % 1000, 'k' || i % 5, 'u' || i, 'n' || i FROM generate_series(1, 20000) i;
CREATE INDEX by_owner ON files (owner); CREATE INDEX by_owner_kind ON files (owner, kind);
CREATE INDEX by_owner_desc ON files (owner DESC); CREATE INDEX by_kind ON files (kind text_pattern_ops);
CREATE INDEX by_kind_c ON files (kind COLLATE "C", url); CREATE INDEX partly ON files (owner) WHERE id > 5;
CREATE INDEX held ON files (owner) INCLUDE (url); CREATE INDEX lowered ON files (lower(kind));
CREATE INDEX lowered_too ON files (lower(kind), url); CREATE INDEX hashed ON files USING hash (owner);
CREATE UNIQUE INDEX unique_id ON files (id); CREATE INDEX plain_id ON files (id);
CREATE UNIQUE INDEX owner_id ON files (owner, id);
CREATE TABLE parts (id bigint, part int) PARTITION BY LIST (part);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE INDEX of_parts ON parts (id); CREATE INDEX of_parts_too ON parts (id);
ANALYZE files;
"""


@pytest.fixture
async def postgres(postgresql_url):
    connection = await asyncpg.connect(postgresql_url)
    await connection.execute(TABLES)
    yield connection
    await connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    await connection.close()


def with_path(url):
    return f"{url}{'&' if '?' in url else '?'}search_path={SCHEMA}"


async def test_indexes_of_postgresql(postgres, postgresql_url):
    server = await open_server(with_path(postgresql_url), 20)
    try:
        use = await server.indexes()
        mine = [each for each in use.indexes if each.schema == SCHEMA]
        found = {pair.index.name: pair.by.name for pair in needless(mine)}
        assert found.pop("by_owner") in ("by_owner_kind", "held", "owner_id")
        assert found.pop("plain_id") in ("unique_id", "files_pkey")
        assert found == {"lowered": "lowered_too"}, (
            "not: another order, class, collation, predicate, method, key"
        )
        assert use.seconds > 0
        assert any("replicas" in note for note in use.notes)
        by_name = {each.name: each for each in mine}
        assert by_name["by_owner"].size > 8192
        assert by_name["files_pkey"].bound
        assert by_name["of_parts"].bound, "indexes of partitions are not judged"
        schema = schema_of(await server.tables(), use.indexes, "postgres")
        assert schema.serves("files", ("owner", "kind"), 2)
        assert not schema.serves("files", ("url",), 1)
        assert schema.is_not_null("files", "owner")
        assert not schema.is_not_null("files", "kind")
    finally:
        await server.close()


async def test_what_is_called_needless_can_be_dropped_without_harm(postgres, postgresql_url):
    """The planner's cost of queries that used them stays within that of a slightly longer index."""
    await postgres.execute(f"DROP INDEX {SCHEMA}.held; DROP INDEX {SCHEMA}.owner_id")
    query = f"EXPLAIN SELECT id FROM {SCHEMA}.files WHERE owner = 7"
    before = (await postgres.fetch(query))[-1][0]
    await postgres.execute(f"DROP INDEX {SCHEMA}.by_owner")
    after = "\n".join(row[0] for row in await postgres.fetch(query))
    assert "owner = 7" in before
    assert "Seq Scan" not in after


async def test_the_plan_for_any_values(postgres, postgresql_url):
    server = await open_postgres(with_path(postgresql_url), 20)
    try:
        explain = "EXPLAIN (FORMAT JSON) SELECT id FROM files WHERE kind = $1 AND url = $2"
        (rows,) = await server.explain([(explain, (None, None))])
        assert "$1" in str(rows[0][0])
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await server.explain([("DELETE FROM files", None)])
        assert (await server.explain([("SELECT count(*) FROM files", None)]))[0][0][0] == 20_000
    finally:
        await server.close()


async def test_without_pg_stat_statements(postgres, postgresql_url):
    if await postgres.fetch("SELECT 1 FROM pg_extension WHERE extname = 'pg_stat_statements'"):
        pytest.skip("this server has it")
    server = await open_server(postgresql_url, 20)
    try:
        with pytest.raises(SourceError) as refused:
            await server.statements("", "")
        assert str(refused.value) == MISSING
        assert "shared_preload_libraries" in MISSING
        assert "CREATE EXTENSION pg_stat_statements;" in MISSING
    finally:
        await server.close()


def test_savings_by_plans(postgres, postgresql_url):
    workload = Workload()
    for number in range(10):
        values = (f"u{number}",)
        workload.add(Execution("SELECT id FROM files WHERE note = $1", 0.5, parameters=values), "postgres")
        workload.add(
            Execution(f"SELECT id FROM files WHERE note = 'u{number}' AND kind = 'k1'", 0.1), "postgres"
        )
        workload.add(Execution(f"SELECT id FROM files WHERE owner = {number}", 2.0), "postgres")
        workload.add(Execution(f"SELECT id FROM missing WHERE note = 'u{number}'", 0.2), "postgres")
    options = Namespace(**DEFAULTS, url=with_path(postgresql_url))
    report = report_on(workload, [Read("x", None, "a log")], schema_of([], [], "postgres"), options)
    first, second = report.judgement.judged[:2]
    assert first.shape.normal_form == "SELECT id FROM files WHERE note = ?", "the saving counts, not the time"
    assert 4.5 < first.saved < 5
    assert 0.9 < second.saved < 1
    owner = next(each for each in report.judgement.judged if "owner" in each.shape.normal_form)
    assert (owner.saved, owner.indexes) == (0, ()), "it has an index"
    missing = next(each for each in report.judgement.judged if "missing" in each.shape.normal_form)
    assert missing.saved == 0
    (index,) = report.judgement.indexes
    assert index.ddl.startswith("CREATE INDEX idx_files_note")
    assert index.seconds == pytest.approx(first.saved + second.saved)
    shown = report.as_text()
    assert "Do first" in shown
    assert "Indexes that another one makes needless" in shown
    assert "'u" not in shown


@pytest.fixture
def statements_url():
    """A server with pg_stat_statements in shared_preload_libraries, which no package from PyPI has."""
    if url := url_from_environment("STATEMENTS"):
        return url
    pytest.skip("set PHASE4_TEST_STATEMENTS_URL to a server that has pg_stat_statements loaded")


async def test_pg_stat_statements(statements_url):
    connection = await asyncpg.connect(statements_url)
    await connection.execute(TABLES)
    await connection.execute("DROP EXTENSION IF EXISTS pg_stat_statements")
    server = await open_server(statements_url, 20)
    try:
        with pytest.raises(SourceError, match="shared_preload_libraries"):
            await server.statements("", "")
        await connection.execute(f"CREATE EXTENSION pg_stat_statements SCHEMA {SCHEMA}")
        await connection.execute(f"SELECT {SCHEMA}.pg_stat_statements_reset()")
        for number in range(1, 8):
            await connection.fetch(f"SELECT id FROM {SCHEMA}.files WHERE url = 'u{number}' LIMIT 3")
        observed = await server.statements("", "")
        (mine,) = [each for each in observed.executions if f"{SCHEMA}.files" in each.text]
        assert (mine.calls, mine.rows) == (7, 7)
        assert mine.seconds >= mine.longest > 0
        assert observed.begins <= observed.ends
        assert not (await server.statements("another", "")).executions
        assert not (await server.statements("", "another")).executions
        await connection.execute(f"DROP ROLE IF EXISTS {SCHEMA}_reader")
        await connection.execute(
            f"CREATE ROLE {SCHEMA}_reader LOGIN; GRANT USAGE ON SCHEMA {SCHEMA} TO {SCHEMA}_reader"
        )
        parts = urlsplit(statements_url)
        reader = parts._replace(netloc=f"{SCHEMA}_reader@{parts.hostname}:{parts.port}").geturl()
        other = await open_server(reader, 20)
        observed = await other.statements("", "")
        await other.close()
        assert not any(f"{SCHEMA}.files" in each.text or each.text == HIDDEN for each in observed.executions)
        assert "GRANT pg_read_all_stats" in observed.notes[0]
        assert observed.hidden_seconds > 0
        await connection.execute(f"REVOKE ALL ON {SCHEMA}.pg_stat_statements FROM public")
        other = await open_server(reader, 20)
        with pytest.raises(SourceError, match="pg_stat_statements cannot be read: InsufficientPrivilege"):
            await other.statements("", "")
        await other.close()
    finally:
        await server.close()
        await connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
        await connection.execute(f"DROP ROLE IF EXISTS {SCHEMA}_reader")
        await connection.close()


def test_every_version_of_the_view():
    new = statements_query("public.pg_stat_statements", ["total_exec_time", "max_exec_time", "toplevel"])
    assert "s.total_exec_time" in new
    assert "NOT s.toplevel" in new
    old = statements_query("public.pg_stat_statements", ["total_time", "max_time"])
    assert "s.total_time" in old
    assert "s.max_time" in old
    assert "toplevel" not in old


@pytest.mark.parametrize(
    ("digest", "text"),
    [
        ("SELECT `a` FROM `t` WHERE `b` IN (...) ", "SELECT `a` FROM `t` WHERE `b` IN (?)"),
        ("INSERT INTO `t` VALUES (...) /* , ... */ ", "INSERT INTO `t` VALUES (?) /* , ... */"),
        ("SELECT `f` ( ?, ... ) ", "SELECT `f` ( ? )"),
    ],
)
def test_a_digest_as_sql(digest, text):
    assert readable_digest(digest) == text


async def execute(url, *statements):
    import asyncmy

    parts = urlsplit(url)
    connection = await asyncmy.connect(
        host=parts.hostname, port=parts.port, user=parts.username, db=parts.path[1:], autocommit=True
    )
    async with connection.cursor() as cursor:
        for statement in statements:
            await cursor.execute(statement)
            await cursor.fetchall()
    connection.close()


async def test_indexes_of_mysql(mysql_url):
    await execute(
        mysql_url,
        f"DROP TABLE IF EXISTS {FILES}",
        f"CREATE TABLE {FILES} (id BIGINT PRIMARY KEY, owner BIGINT NOT NULL, kind VARCHAR(20), body TEXT, "
        "KEY by_owner (owner), KEY by_owner_id (owner, id), KEY by_kind (kind), "
        "KEY by_kind_owner (kind, owner), KEY start (kind(5)), UNIQUE KEY once (owner, id))",
    )
    server = await open_server(mysql_url, 20)
    try:
        use = await server.indexes()
        mine = [each for each in use.indexes if each.table == FILES]
        assert {pair.index.name for pair in needless(mine)} == {"by_owner", "by_owner_id"}
        schema = schema_of(await server.tables(), mine, "mysql")
        assert schema.serves(FILES, ("kind", "owner"), 2)
        assert schema.is_not_null(FILES, "owner")
        assert schema.types[FILES]["kind"].length == 20
    finally:
        await server.close()
        await execute(mysql_url, f"DROP TABLE {FILES}")


@pytest.fixture
def mysql_statistics_url():
    """A server with performance_schema and mysql.slow_log, both of which are off by default in MariaDB."""
    if url := url_from_environment("MYSQL_STATISTICS"):
        return url
    pytest.skip(
        "set PHASE4_TEST_MYSQL_STATISTICS_URL to a server with performance_schema = ON and log_output = TABLE"
    )


async def test_statistics_of_mysql(mysql_statistics_url):
    marked = [f"SELECT {number} AS work_marked" for number in range(5)]
    await execute(mysql_statistics_url, *marked)
    server = await open_server(mysql_statistics_url, 20)
    try:
        observed = await server.statements("", "")
        (mine,) = [each for each in observed.executions if "work_marked" in each.text]
        assert mine.calls >= 5
        assert mine.rows >= 5
        assert observed.begins <= observed.ends
        by_user = await server.statements("", urlsplit(mysql_statistics_url).username)
        assert {each.text for each in by_user.executions} >= set(marked)
        assert {each.calls for each in by_user.executions} == {1}
        assert 0 < max(each.seconds for each in by_user.executions) < 600
        assert not (await server.statements("", "nobody")).executions
    finally:
        await server.close()
