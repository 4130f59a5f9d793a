"""The service's databases: the same answers from each, with pools and without."""

import asyncio
import shutil
import sqlite3

import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.service.database import ConstraintError, DatabaseUnavailableError
from bot.service.databases import open_database
from bot.service.postgresql_database import PostgresqlDatabase, translate
from bot.service.settings import CannotStartError, Urls
from bot.service.sqlite_database import SqliteDatabase
from tests.service.conftest import Service

ADD = "INSERT INTO files (name, kind, size_bytes, sha256, uploaded_by, created_at) VALUES (?, ?, ?, ?, ?, ?)"
NAMED = "SELECT name, uploaded_by FROM files WHERE name = ? ORDER BY id"


@pytest.fixture(params=["sqlite", "sqlite, pool", "postgresql", "postgresql, pool"])
async def database(request, data_dir, tmp_path):
    if request.param.startswith("sqlite"):
        shutil.copy(data_dir / "phase4.db", tmp_path / "own.db")
        made = SqliteDatabase(tmp_path / "own.db")
    else:
        made = PostgresqlDatabase(request.getfixturevalue("service_postgresql_url"))
    await made.prepare(lambda line: pytest.fail(f"it is there already: {line}"))
    manager = ConnectionPoolManager()
    if "pool" in request.param:
        await made.use_pool(manager)
    yield made
    await manager.disable()


def file_of(name, user=1):
    return name, "document", 1, "00", user, 0


async def test_rows_come_as_dicts_of_plain_values(database):
    [row] = await database.fetch(
        "SELECT COUNT(*) AS n, SUM(bytes_done) AS bytes FROM downloads WHERE user_id = ? AND status = ?",
        (1, "done"),
    )
    assert row == {"n": 18402, "bytes": 5999111501051}
    assert type(row["bytes"]) is int
    assert await database.fetch("SELECT id FROM users WHERE id = ?", (-1,)) == []


async def test_calls_of_one_block_share_the_connection_they_open(database):
    before = (await database.figures())["connections_opened"]
    async with database.one_connection():
        for _ in range(3):
            await database.fetch("SELECT 1 AS one")
        await asyncio.ensure_future(database.fetch("SELECT 1 AS one"))
    figures = await database.figures()
    if figures["pool"] is None:
        assert figures["connections_opened"] == before + 1
        assert figures["connections_open"] == 0
        await database.fetch("SELECT 1 AS one")
        assert (await database.figures())["connections_opened"] == before + 2, "the block has ended"
    async with database.one_connection():
        both = [asyncio.ensure_future(database.fetch(f"SELECT {n} AS n")) for n in (1, 2)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*both) == [[{"n": 1}], [{"n": 2}]], "tasks may outlive the block"
    if figures["pool"] is None:
        assert (await database.figures())["connections_open"] == 0
    assert await database.fetch("SELECT 2 AS two") == [{"two": 2}]


async def test_a_write_tells_the_id_of_its_row(database):
    first = await database.write(ADD, file_of("written"))
    second = await database.write(ADD, file_of("written"))
    assert second > first > 12_000
    await database.write("DELETE FROM files WHERE name = ?", ("written",))
    assert await database.fetch(NAMED, ("written",)) == []


async def test_many_rows_are_written_or_none(database):
    assert await database.write_many(ADD, [file_of("many", user) for user in (1, 2, 3)]) == 3
    assert [row["uploaded_by"] for row in await database.fetch(NAMED, ("many",))] == [1, 2, 3]
    with pytest.raises(ConstraintError):
        await database.write_many(ADD, [file_of("none", user) for user in (1, 999_999_999, 3)])
    assert await database.fetch(NAMED, ("none",)) == []
    with pytest.raises(ConstraintError):
        await database.write(ADD, (None, "document", 1, "00", 1, 0))
    await database.write("DELETE FROM files WHERE name = ?", ("many",))


async def test_the_figures_tell_what_was_opened(database):
    await asyncio.gather(*[database.fetch("SELECT 1 AS one") for _ in range(5)])
    figures = await database.figures()
    assert figures["backend"] == database.backend
    if figures["pool"]:
        assert figures["connections_open"] >= 1
    else:
        assert figures["connections_open"] == 0
        assert figures["connections_opened"] >= 5
    assert 1 <= figures["connections_peak"] <= 20


@pytest.mark.parametrize("pooled", ["0", "1"])
def test_the_service_answers_the_same_from_postgresql(service, data_dir, service_postgresql_url, pooled):
    other = Service(data_dir, DATABASE_URL=service_postgresql_url, ENABLE_CONNECTION_POOLING=pooled)
    try:
        other.start()
        for path in ("/api/data?user_id=1", "/api/data?search=Debian", "/api/data?search=100%25_"):
            assert other.call(path).body == service.call(path).body
        by_kind = {row["kind"]: row for row in other.call("/api/data").body["by_kind"]}
        assert by_kind == {row["kind"]: row for row in service.call("/api/data").body["by_kind"]}
        name = f"pg%20{pooled}.pdf"
        assert other.call(f"/api/upload?name={name}&user_id=5", method="POST", body=b"x").status == 201
        assert len(other.call(f"/api/data?search={name}").body["files"]) == 1
        health = other.call("/health").body
        assert health["database"]["backend"] == "postgresql"
        assert ("service" in health["phase4"].get("connection_pool_manager", {})) is (pooled == "1")
        assert other.stop() == 0
    finally:
        other.close()


async def test_two_instances_that_start_at_once_make_one_data_set(empty_postgresql):
    url = await asyncio.to_thread(empty_postgresql)
    lines = []
    await asyncio.gather(*[PostgresqlDatabase(url).prepare(lines.append) for _ in range(3)])
    assert sum("74,000 of 74,000" in line for line in lines) == 1
    assert await PostgresqlDatabase(url).fetch("SELECT COUNT(*) AS n FROM downloads") == [{"n": 60_000}]


async def test_an_interrupted_start_leaves_nothing(empty_postgresql):
    database = PostgresqlDatabase(await asyncio.to_thread(empty_postgresql))

    def interrupt(line):
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await database.prepare(interrupt)
    await database.prepare(lambda line: None)
    assert await database.fetch("SELECT COUNT(*) AS n FROM downloads") == [{"n": 60_000}]


async def test_a_schema_that_is_not_the_services_is_left_alone(empty_postgresql):
    import asyncpg

    url = await asyncio.to_thread(empty_postgresql)
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE SCHEMA bot_phase4; CREATE TABLE bot_phase4.users (mine int)")
    with pytest.raises(CannotStartError, match="schema bot_phase4 holds something else"):
        await PostgresqlDatabase(url).prepare(lambda line: None)
    assert await connection.fetch("SELECT mine FROM bot_phase4.users") == []
    await connection.close()


async def test_a_file_of_the_bots_own_is_not_replaced(tmp_path):
    path = tmp_path / "mine.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    database = open_database(f"sqlite:///{path}", tmp_path / "unused.db")
    with pytest.raises(CannotStartError, match="does not belong to the service"):
        await database.prepare(lambda line: None)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://bot:hunter2@h/db", "the service runs on postgresql"),
        ("oracle://bot:hunter2@h/db", "the service runs on postgresql"),
        ("sqlite://", "the service runs on postgresql"),
        ("postgresql://bot:hunter2@127.0.0.1:1/db", "Check that the server runs"),
    ],
)
def test_a_url_the_service_cannot_run_on_is_a_clear_message(data_dir, url, words):
    refused = Service(data_dir, DATABASE_URL=url)
    refused.start(wait=False)
    output = refused.finish()
    assert refused.process.returncode == 1
    assert "Cannot start: " in output
    assert words in output
    assert "hunter2" not in output
    assert "Traceback" not in output


async def test_a_database_that_is_away_is_told_once(caplog):
    database = PostgresqlDatabase("postgresql://bot:hunter2@127.0.0.1:1/db")
    for _ in range(3):
        with pytest.raises(DatabaseUnavailableError):
            await database.fetch("SELECT 1")
    assert caplog.text.count("The database cannot be used") == 1
    assert "hunter2" not in caplog.text


def test_a_fault_in_another_setting_does_not_change_the_database(monkeypatch):
    monkeypatch.setenv("RATE_LIMIT_DEFAULT_RPS", "-1")
    monkeypatch.setenv("DATABASE_URL", "postgresql://db/x")
    assert Urls.load(None).database == "postgresql://db/x"
    assert Urls.load({"DATABASE_URL": "", "BATCH_MAX_SIZE": -1}).database == ""


def test_statements_are_translated_outside_of_literals_only():
    assert translate("SELECT '?' FROM t WHERE a = ? AND b LIKE ? -- ?") == (
        "SELECT '?' FROM t WHERE a = $1 AND b ILIKE $2 -- ?"
    )
    assert translate("INSERT INTO t VALUES (?);", returning=True) == "INSERT INTO t VALUES ($1) RETURNING id"
    assert translate("DELETE FROM t", returning=True) == "DELETE FROM t"
