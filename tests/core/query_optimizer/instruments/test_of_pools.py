"""The statements on our own pools, seen by the setting QUERY_OPTIMIZER_INSTRUMENT."""

import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.query_optimizer import QueryOptimizer

DIALECTS = {"postgresql": "postgres", "mysql": "mysql", "sqlite": "sqlite"}
MARKS = {"postgresql": "$1", "mysql": "%s", "sqlite": "?"}


@contextlib.asynccontextmanager
async def started(backend: str, url: str, **settings: Any) -> AsyncIterator[tuple[Any, Any]]:
    """(the optimizer, the pools); the pool "main" has a table with the rows (1, 1), (2, 2), (3, 3)."""
    result = await initialize_phase4_services(
        {
            "ENABLE_CONNECTION_POOLING": True,
            "ENABLE_QUERY_OPTIMIZER": True,
            "QUERY_OPTIMIZER_INSTRUMENT": True,
            "QUERY_OPTIMIZER_DIALECT": DIALECTS[backend],
            "DATABASE_POOLS": {"main": {"backend": backend, "url": url, "min_size": 1, "max_size": 3}},
            **settings,
        }
    )
    assert result["success"], result["errors"]
    pools, optimizer = ConnectionPoolManager.get_instance(), QueryOptimizer.get_instance()
    try:
        await pools.execute("main", "DROP TABLE IF EXISTS seen")
        await pools.execute("main", "CREATE TABLE seen (id int PRIMARY KEY, v int)")
        await pools.execute("main", "INSERT INTO seen VALUES (1, 1), (2, 2), (3, 3)")
        await optimizer.reset_statistics()
        yield optimizer, pools
        await pools.execute("main", "DROP TABLE seen")
    finally:
        await shutdown_phase4_services()


@pytest.fixture(
    params=[*(pytest.param(name, marks=pytest.mark.server) for name in ("postgresql", "mysql")), "sqlite"]
)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A backend, and the url of a database of it."""
    if request.param == "sqlite":
        return "sqlite", f"sqlite:///{tmp_path / 'seen.db'}"
    return request.param, request.getfixturevalue(f"{request.param}_url")


async def value(pools: Any, backend: str) -> int:
    return int((await pools.fetch("main", f"SELECT v FROM seen WHERE id = {MARKS[backend]}", 3))[0][0])


async def test_statements_are_counted_with_their_lines(backend: tuple[str, str]) -> None:
    async with started(*backend) as (optimizer, pools):
        for number in range(12):
            sql = f"SELECT v FROM seen WHERE id = {MARKS[backend[0]]}"
            await pools.fetch("main", sql, number)
        assert optimizer.snapshot().cached_results_count == 0
        [pattern] = await optimizer.get_n_plus_one_patterns()
        assert (pattern.query, pattern.count) == ("SELECT v FROM seen WHERE id = ?", 12)
        assert [site.rpartition(":")[0] for site in pattern.call_sites] == [__file__]


async def test_results_are_dropped_when_a_transaction_ends(backend: tuple[str, str]) -> None:
    async with started(*backend) as (optimizer, pools):

        async def cached() -> Any:
            async def run(query: str, params: Any) -> Any:
                return await value(pools, backend[0])

            return await optimizer.execute("SELECT v FROM seen WHERE id = 3", None, run)

        assert await cached() == 3
        async with pools.transaction("main") as connection:
            await pools.execute(connection, "UPDATE seen SET v = 4 WHERE id = 3")
            async with pools.transaction(connection):
                await pools.execute(connection, "UPDATE seen SET v = 5 WHERE id = 3")
            assert await cached() == 3
        assert await cached() == 5
        assert await cached() == 5
        assert optimizer.snapshot().cache_hits >= 1


async def test_reads_are_answered_if_the_settings_say_so(backend: tuple[str, str]) -> None:
    async with started(*backend, QUERY_OPTIMIZER_INSTRUMENT_CACHE=True) as (optimizer, pools):
        found = [await value(pools, backend[0]) for _ in range(3)]
        assert found == [3, 3, 3]
        assert optimizer.snapshot().cache_hits == (0 if backend[0] == "mysql" else 2)
        await pools.execute("main", "UPDATE seen SET v = 4 WHERE id = 3")
        assert await value(pools, backend[0]) == 4


async def test_reads_of_a_replica_are_watched_and_not_answered(postgresql_url: str) -> None:
    """It may be behind: what it says after a write may be what was there before."""
    pool = {"backend": "postgresql", "url": postgresql_url, "min_size": 1, "max_size": 3}
    pool["options"] = {"replicas": [postgresql_url]}  # one that is never behind will do
    settings = {"QUERY_OPTIMIZER_INSTRUMENT_CACHE": True, "DATABASE_POOLS": {"main": pool}}
    async with started("postgresql", postgresql_url, **settings) as (optimizer, pools):
        read = "SELECT v FROM seen WHERE id = $1"
        for _ in range(3):
            assert await pools.fetchval("main", read, 3, read_only=True) == 3
        assert pools.snapshot().pools["main"].reads_by_replicas == 3
        assert optimizer.snapshot().cache_hits == 0
        assert optimizer.snapshot().total_executions == 3
        for _ in range(2):
            assert await pools.fetchval("main", read, 3) == 3
        assert optimizer.snapshot().cache_hits == 1


async def test_a_lease_that_changed_its_session_is_not_answered(postgresql_url: str) -> None:
    async with started("postgresql", postgresql_url, QUERY_OPTIMIZER_INSTRUMENT_CACHE=True) as (seen, pools):
        await value(pools, "postgresql")
        async with pools.connection("main") as connection:
            await connection.execute("CREATE TEMP TABLE seen AS SELECT 3 AS id, -1 AS v")
            assert await connection.fetchval("SELECT v FROM seen WHERE id = $1", 3) == -1
            assert await value(pools, "postgresql") == 3
        assert [await value(pools, "postgresql") for _ in range(4)] == [3, 3, 3, 3]
        assert seen.snapshot().cache_hits >= 3


async def test_what_a_lease_left_open_ends_with_it(postgresql_url: str) -> None:
    async with started("postgresql", postgresql_url, QUERY_OPTIMIZER_INSTRUMENT_CACHE=True) as (_, pools):
        async with pools.connection("main") as connection:
            await connection.execute("BEGIN")
            await connection.execute("UPDATE seen SET v = 4 WHERE id = 3")
        assert await value(pools, "postgresql") == 3
        async with pools.connection("main") as connection:
            statement = await connection.prepare("UPDATE seen SET v = 5 WHERE id = 3")
            await statement.fetch()
        assert await value(pools, "postgresql") == 5


async def test_prepared_statements_of_mysql(mysql_url: str) -> None:
    async with started("mysql", mysql_url) as (optimizer, pools), pools.connection("main") as connection:
        statement = await connection.prepare("UPDATE seen SET v = ? WHERE id = ?")
        await statement.execute((4, 3))
        await connection.commit()
        assert optimizer.snapshot().total_executions == 1


async def test_the_setting_can_be_taken_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'seen.db'}"
    async with started("sqlite", url) as (optimizer, pools):
        await pools.fetch("main", "SELECT * FROM seen")
        assert optimizer.snapshot().total_executions == 1
        settings = {
            "ENABLE_CONNECTION_POOLING": True,
            "ENABLE_QUERY_OPTIMIZER": True,
            "DATABASE_POOLS": {"main": {"backend": "sqlite", "url": url, "min_size": 1, "max_size": 3}},
        }
        await initialize_phase4_services(settings)
        await pools.fetch("main", "SELECT * FROM seen")
        assert optimizer.snapshot().total_executions == 1
        assert all(slot.raw.phase4_watch is None for slot in pools._pools["main"].pool.idle)


async def test_without_pools_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await initialize_phase4_services({"ENABLE_QUERY_OPTIMIZER": True, "QUERY_OPTIMIZER_INSTRUMENT": True})
    await shutdown_phase4_services()
    assert "QUERY_OPTIMIZER_INSTRUMENT: no pools to see" in caplog.text
