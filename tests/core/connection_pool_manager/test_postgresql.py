"""The pool over a real PostgreSQL: nothing leaks, the bound holds, cancellation costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator

import asyncpg
import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager, LeaseError, PoolTimeoutError
from tests.support.apart import execute_on_postgresql


@pytest.fixture
async def manager() -> AsyncIterator[ConnectionPoolManager]:
    made = ConnectionPoolManager()
    yield made
    await made.disable()


async def settled(manager: ConnectionPoolManager, name: str) -> None:
    async with asyncio.timeout(5):
        while (await manager.get_statistics())[name]["busy_connections"]:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("dirty", "probe", "clean"),
    [
        ("BEGIN", "SELECT pg_current_xact_id_if_assigned() IS NULL", True),
        ("SET statement_timeout = 12345", "SHOW statement_timeout", "0"),
        ("SELECT set_config('statement_timeout', '12345', false)", "SHOW statement_timeout", "0"),
        ("/* a */ SET statement_timeout = 12345", "SHOW statement_timeout", "0"),
        ("CREATE TEMP TABLE leak (x int)", "SELECT to_regclass('pg_temp.leak') IS NULL", True),
        ("LISTEN leak", "SELECT count(*) FROM pg_listening_channels()", 0),
        (
            "SELECT pg_advisory_lock(4711)",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            0,
        ),
        ("PREPARE leak AS SELECT 1", "SELECT count(*) FROM pg_prepared_statements WHERE from_sql", 0),
        ("SET ROLE pg_monitor", "SELECT current_user = session_user", True),
    ],
)
async def test_no_state_goes_from_one_lease_to_the_next(
    manager: ConnectionPoolManager, postgresql_url: str, dirty: str, probe: str, clean: object
) -> None:
    await manager.create_pool("pg", "postgresql", min_size=1, max_size=1, url=postgresql_url)
    async with manager.connection("pg") as conn:
        await conn.execute(dirty)
        assert dirty == "BEGIN" or await conn.fetchval(probe) != clean, "the probe sees the change"
    async with manager.connection("pg") as conn:
        assert not conn.is_in_transaction()
        assert await conn.fetchval(probe) == clean


async def test_a_clean_lease_costs_no_reset(manager: ConnectionPoolManager, postgresql_url: str) -> None:
    await manager.create_pool("pg", "postgresql", min_size=1, max_size=1, url=postgresql_url)
    for _ in range(5):
        async with manager.connection("pg") as conn:
            assert await conn.fetchval("SELECT 1") == 1
    assert (await manager.get_statistics())["pg"]["resets"] == 0
    async with manager.connection("pg") as conn:
        assert conn.raw_connection is not None
    await settled(manager, "pg")
    assert (await manager.get_statistics())["pg"]["resets"] == 1


async def test_a_thousand_tasks_use_at_most_max_size_server_connections(
    manager: ConnectionPoolManager, postgresql_url: str
) -> None:
    await manager.create_pool(
        "pg", "postgresql", min_size=1, max_size=15, url=postgresql_url,
        server_settings={"application_name": "thousand"},
    )  # fmt: skip
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'thousand'"

    async def work() -> int:
        async with manager.connection("pg", timeout=60) as conn:
            return int(await conn.fetchval(count))

    seen = await asyncio.gather(*(work() for _ in range(1000)))
    assert 2 <= max(seen) <= 15
    assert (await manager.get_statistics())["pg"]["total_acquired"] == 1000


async def test_random_cancellation_loses_no_connection(
    manager: ConnectionPoolManager, postgresql_url: str
) -> None:
    await manager.create_pool("pg", "postgresql", min_size=0, max_size=10, url=postgresql_url)
    rng = random.Random(7)

    async def work() -> None:
        async with manager.connection("pg", timeout=60) as conn:
            await conn.fetchval("SELECT pg_sleep(0.002)")

    tasks = [asyncio.create_task(work()) for _ in range(500)]
    while not all(task.done() for task in tasks):
        rng.choice(tasks).cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert any(task.cancelled() for task in tasks)
    assert all(task.cancelled() or task.exception() is None for task in tasks)
    await settled(manager, "pg")
    figures = (await manager.get_statistics())["pg"]
    assert figures["active_connections"] == figures["waiting"] == 0
    assert figures["idle_connections"] == figures["total_connections"] <= 10
    manager._pools["pg"].pool.check_invariants()
    async with manager.connection("pg") as conn:
        assert await conn.fetchval("SELECT 7") == 7


async def test_exhaustion_and_misuse_are_told(manager: ConnectionPoolManager, postgresql_url: str) -> None:
    await manager.create_pool("pg", "postgresql", min_size=0, max_size=1, url=postgresql_url)
    held = await manager.acquire_connection("pg")
    with pytest.raises(PoolTimeoutError, match="active 1, idle 0, max 1, waiters 1, longest lease"):
        await manager.acquire_connection("pg", timeout=0.01)
    await manager.release_connection("pg", held)
    with pytest.raises(LeaseError, match="released twice"):
        await manager.release_connection("pg", held)
    with pytest.raises(LeaseError, match="after the connection was released"):
        await held.fetchval("SELECT 1")


async def test_a_change_of_the_schema_fails_one_statement_and_not_one_for_each_connection(
    manager: ConnectionPoolManager, postgresql_url: str
) -> None:
    await manager.create_pool("pg", "postgresql", min_size=5, max_size=5, url=postgresql_url)

    async def read_on_each() -> int:
        failed = 0
        async with contextlib.AsyncExitStack() as stack:
            leases = [await stack.enter_async_context(manager.connection("pg")) for _ in range(5)]
            for lease in leases:
                try:
                    async with lease.transaction():
                        await lease.fetch("SELECT * FROM changing")
                except asyncpg.InvalidCachedStatementError:
                    failed += 1
        return failed

    async with manager.connection("pg") as conn:
        await conn.execute("DROP TABLE IF EXISTS changing; CREATE TABLE changing (a int)")
    assert await read_on_each() == 0
    async with manager.connection("pg") as conn:
        await conn.execute("ALTER TABLE changing ADD COLUMN b int")
    assert await read_on_each() == 1
    assert await read_on_each() == 0
    async with manager.connection("pg") as conn:
        await conn.execute("DROP TABLE changing")


async def test_a_pool_that_serves_is_healthy_although_the_server_allows_it_no_more_connections(
    manager: ConnectionPoolManager, postgresql_url: str
) -> None:
    role = "phase4_limited"
    await asyncio.to_thread(execute_on_postgresql, postgresql_url, f"DROP ROLE IF EXISTS {role}")
    await asyncio.to_thread(
        execute_on_postgresql, postgresql_url, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 2"
    )
    url = re.sub(r"//[^@/]*@?", f"//{role}@", postgresql_url, count=1)
    await manager.create_pool("pg", "postgresql", min_size=1, max_size=6, url=url)

    async def work() -> None:
        async with manager.connection("pg", timeout=30) as conn:
            await conn.execute("SELECT pg_sleep(0.01)")

    await asyncio.gather(*(work() for _ in range(30)))
    figures = (await manager.get_statistics())["pg"]
    assert figures["connect_failures"] > 0, "the limit was met"
    assert figures["failed_acquisitions"] == 0, "and every call served"
    assert figures["healthy"]
    assert "too many connections" in figures["last_error"]
    for _ in range(50):
        await work()
        assert (await manager.get_statistics())["pg"]["healthy"]
    await manager.disable()
    await asyncio.to_thread(execute_on_postgresql, postgresql_url, f"DROP ROLE {role}")
