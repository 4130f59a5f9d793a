"""Plans by a pool of the connection pool manager, from the settings to the percentage."""

import asyncio
import logging
import sqlite3

import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.query_optimizer import QueryOptimizer

QUERY = "SELECT id FROM files WHERE owner = 7"
ON = {
    "ENABLE_QUERY_OPTIMIZER": True,
    "ENABLE_CONNECTION_POOLING": True,
    "QUERY_OPTIMIZER_EXPLAIN_POOL": "main",
}


@pytest.fixture
def sqlite_url(tmp_path):
    connection = sqlite3.connect(tmp_path / "bot.db")
    connection.execute("CREATE TABLE files (id INTEGER PRIMARY KEY, owner INTEGER)")
    connection.executemany("INSERT INTO files VALUES (?, ?)", [(i, i % 50) for i in range(1000)])
    connection.commit()
    connection.close()
    return f"sqlite:///{tmp_path}/bot.db"


def settings(backend, url, **others):
    pool = {"backend": backend, "url": url, "min_size": 1, "max_size": 2}
    return {**ON, "DATABASE_POOLS": {"main": pool}, **others}


@pytest.fixture
async def stopped():
    yield
    await shutdown_phase4_services()


async def guide_step_4(query, params=None):
    optimization = await QueryOptimizer.get_instance().analyze_query(query, params)
    return optimization.estimated_improvement > 50, optimization


async def test_sqlite_from_the_settings_to_the_percentage(sqlite_url, stopped):
    started = await initialize_phase4_services(settings("sqlite", sqlite_url))
    assert started["success"], started["errors"]
    worth_it, found = await guide_step_4(QUERY)
    assert worth_it
    assert found.estimated_improvement == 98.0
    assert found.evidence[0] == "EXPLAIN: full scan of files, 1,000 rows"
    pools = ConnectionPoolManager.get_instance()
    async with pools.connection("main") as connection:
        await connection.execute(found.index_suggestions[0].ddl)
        await connection.commit()
    await initialize_phase4_services(settings("sqlite", sqlite_url))
    worth_it, found = await guide_step_4(QUERY)
    assert (worth_it, found.index_suggestions) == (False, [])
    figures = (await pools.get_all_statistics())["main"]
    assert (figures["active_connections"], figures["leaked"]) == (0, 0)


async def test_postgresql(postgresql_url, stopped):
    import asyncpg

    connection = await asyncpg.connect(postgresql_url)
    await connection.execute(
        "DROP TABLE IF EXISTS explained; CREATE TABLE explained (id INTEGER, owner INTEGER, kind TEXT);"
        "INSERT INTO explained SELECT i, i % 50, 'k' FROM generate_series(1, 5000) AS i; ANALYZE explained"
    )
    try:
        assert (await initialize_phase4_services(settings("postgresql", postgresql_url)))["success"]
        worth_it, found = await guide_step_4("SELECT id FROM explained WHERE owner = $1", (7,))
        assert worth_it
        assert found.evidence[0].startswith("EXPLAIN: full scan of explained, 5,000 rows")
        await connection.execute(found.index_suggestions[0].ddl)
        await connection.execute(
            "INSERT INTO explained SELECT i, i, 'k' FROM generate_series(100, 9000) AS i"
        )
        await connection.execute("ANALYZE explained")
        await initialize_phase4_services(settings("postgresql", postgresql_url))
        worth_it, found = await guide_step_4("SELECT id FROM explained WHERE owner = $1", (7,))
        assert (worth_it, found.index_suggestions) == (False, [])
        assert "search of explained by idx_explained_owner" in found.evidence[0]
    finally:
        await connection.execute("DROP TABLE explained")
        await connection.close()


async def test_mariadb(mysql_url, stopped):
    assert (await initialize_phase4_services(settings("mysql", mysql_url)))["success"]
    pools = ConnectionPoolManager.get_instance()

    async def run(sql):
        async with pools.connection("main") as connection, connection.cursor() as cursor:
            await cursor.execute(sql)
            await connection.commit()

    await run("DROP TABLE IF EXISTS explained")
    await run("CREATE TABLE explained (id INT PRIMARY KEY, owner INT)")
    await run("INSERT INTO explained VALUES " + ", ".join(f"({i}, {i % 50})" for i in range(1000)))
    try:
        worth_it, found = await guide_step_4("SELECT id FROM explained WHERE owner = %s", (7,))
        assert worth_it
        assert found.estimated_improvement == 98.0
        await run(found.index_suggestions[0].ddl)
        await initialize_phase4_services(settings("mysql", mysql_url))
        worth_it, found = await guide_step_4("SELECT id FROM explained WHERE owner = %s", (7,))
        assert (worth_it, found.index_suggestions) == (False, [])
    finally:
        await run("DROP TABLE explained")


async def test_a_database_that_cannot_be_reached(stopped, caplog):
    await initialize_phase4_services(
        settings("postgresql", "postgresql://bot:secret@127.0.0.1:1/bot", QUERY_OPTIMIZER_EXPLAIN_TIMEOUT=0.5)
    )
    caplog.clear()
    for _ in range(3):
        found = await QueryOptimizer.get_instance().analyze_query(QUERY)
        assert (found.estimated_improvement, found.evidence) == (0.0, [])
        assert [each.columns for each in found.index_suggestions] == [("owner",)]
    said = [record for record in caplog.records if "EXPLAIN" in record.getMessage()]
    assert len(said) == 1
    assert "secret" not in caplog.text


async def test_a_pool_without_a_free_connection_is_not_waited_for_long(sqlite_url, stopped):
    await initialize_phase4_services(settings("sqlite", sqlite_url, QUERY_OPTIMIZER_EXPLAIN_TIMEOUT=0.05))
    pools = ConnectionPoolManager.get_instance()
    async with pools.connection("main"), pools.connection("main"):
        found = await QueryOptimizer.get_instance().analyze_query(QUERY)
        assert found.evidence == []
    assert (await pools.get_all_statistics())["main"]["active_connections"] == 0


async def test_a_cancelled_analysis_gives_its_connection_back(sqlite_url, stopped):
    await initialize_phase4_services(settings("sqlite", sqlite_url))
    pools = ConnectionPoolManager.get_instance()
    optimizer = QueryOptimizer.get_instance()
    for turns in range(30):
        analysis = asyncio.create_task(
            optimizer.analyze_query(f"SELECT id AS a{turns} FROM files WHERE owner = 7")
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        analysis.cancel()
        await asyncio.gather(analysis, return_exceptions=True)
    async with pools.connection("main"), pools.connection("main"):
        pass  # both can be had
    assert (await pools.get_all_statistics())["main"]["active_connections"] == 0
    assert (await optimizer.analyze_query(QUERY)).estimated_improvement == 98.0


async def test_without_the_setting_or_without_pools_nothing_is_asked(sqlite_url, stopped, caplog):
    for others in ({"QUERY_OPTIMIZER_EXPLAIN_POOL": ""}, {"ENABLE_CONNECTION_POOLING": False}):
        await initialize_phase4_services(settings("sqlite", sqlite_url))
        with caplog.at_level(logging.WARNING):
            started = await initialize_phase4_services(settings("sqlite", sqlite_url, **others))
        assert started["success"]
        assert (await QueryOptimizer.get_instance().analyze_query(QUERY)).evidence == []
    assert "no plans while ENABLE_CONNECTION_POOLING is off" in caplog.text


@pytest.mark.parametrize("pools", [{}, {"main": {"backend": "redis", "url": "redis://127.0.0.1:1"}}])
async def test_a_pool_that_cannot_explain_is_refused_by_name(pools):
    started = await initialize_phase4_services({**ON, "DATABASE_POOLS": pools})
    assert not started["success"]
    assert "QUERY_OPTIMIZER_EXPLAIN_POOL = 'main'" in started["errors"][0]
    assert "sqlite, postgresql or mysql" in started["errors"][0]
