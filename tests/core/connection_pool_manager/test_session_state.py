"""No state goes from one lease to the next, on the other backends too; and packages that changed."""

import asyncio

import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.connection_pool_manager.drivers import session_state


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    yield manager
    await manager.disable()


@pytest.mark.parametrize(
    ("dirty", "probe", "clean"),
    [
        ("START TRANSACTION", "SELECT @@in_transaction", 0),
        ("SET @leak = 1", "SELECT @leak", None),
        ("SET SESSION sql_mode = ''", "SELECT @@sql_mode <> ''", 1),
        ("CREATE TEMPORARY TABLE leak (x int)", "SELECT COUNT(*) FROM leak", "no such table"),
        ("SELECT GET_LOCK('phase4-leak', 0)", "SELECT IS_USED_LOCK('phase4-leak') IS NULL", 1),
        ("BEGIN NOT ATOMIC SET SESSION time_zone = '+03:00'; END", "SELECT @@time_zone", "SYSTEM"),
        ("IF 1 THEN SET SESSION time_zone = '+03:00'; END IF", "SELECT @@time_zone", "SYSTEM"),
        ("EXECUTE IMMEDIATE 'SET time_zone = \"+03:00\"'", "SELECT @@time_zone", "SYSTEM"),
        ("SELECT 1 # it's\n; SET time_zone = '+03:00'", "SELECT @@time_zone", "SYSTEM"),
        ("BEGIN/**/NOT ATOMIC SET time_zone = '+03:00'; END", "SELECT @@time_zone", "SYSTEM"),
    ],
)
async def test_mysql(pools, mysql_url, dirty, probe, clean):
    await pools.create_pool("p", "mysql", min_size=1, max_size=1, url=mysql_url)
    async with pools.connection("p") as conn, conn.cursor() as cursor:
        await cursor.execute(dirty)
        await cursor.fetchall()
    async with pools.connection("p") as conn, conn.cursor() as cursor:
        if clean == "no such table":
            with pytest.raises(Exception, match="leak"):
                await cursor.execute(probe)
        else:
            await cursor.execute(probe)
            assert (await cursor.fetchone())[0] == clean


@pytest.mark.parametrize(
    ("dirty", "probe", "clean"),
    [
        ("BEGIN", "SELECT 1", 1),
        ("CREATE TEMP TABLE leak (x)", "SELECT COUNT(*) FROM sqlite_temp_master", 0),
        ("PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys", 1),
    ],
)
async def test_sqlite(pools, tmp_path, dirty, probe, clean):
    await pools.create_pool("p", "sqlite", min_size=1, max_size=1, url=f"sqlite:///{tmp_path}/p.db")
    async with pools.connection("p") as conn:
        await conn.execute(dirty)
    async with pools.connection("p") as conn:
        assert not conn.in_transaction
        assert await (await conn.execute(probe)).fetchone() == (clean,)


async def test_redis(pools, redis_url):
    await pools.create_pool("p", "redis", min_size=1, max_size=1, url=redis_url)
    async with pools.connection("p") as conn:
        number = await conn.client_id()
        await conn.execute_command("SELECT", 3)
        await conn.client_setname("leak")
    async with pools.connection("p") as conn:
        assert not await conn.client_getname()
        assert (await conn.client_info())["db"] != 3
        assert await conn.client_id() != number
    for turn in (1, 2, 3):
        async with pools.connection("p") as conn:
            await conn.set("pool-state", turn)
            resets = (await pools.get_statistics())["p"]["resets"]
    assert resets == 2, "a clean connection is used again as it is"


@pytest.mark.server
@pytest.mark.parametrize("backend", ["sqlite", "redis", "mysql"])
async def test_a_tracker_that_sees_nothing_is_noticed(pools, request, tmp_path, monkeypatch, caplog, backend):
    """As if a later version of the package did not call the method that the tracker hangs on."""
    from bot.core.connection_pool_manager.drivers import driver_class

    url = f"sqlite:///{tmp_path}/p.db" if backend == "sqlite" else request.getfixturevalue(f"{backend}_url")
    monkeypatch.setattr(driver_class(backend), "seen", lambda self, raw: 0)
    await pools.create_pool("p", backend, min_size=1, max_size=1, url=url)
    for _ in range(3):
        async with pools.connection("p") as conn:
            assert conn.use_count == 1, "nobody had it before"
    assert caplog.text.count("hides the statements of a connection") == 1


async def test_the_lease_of_a_cancelled_query_is_clean_for_the_next(pools, postgresql_url):
    await pools.create_pool("p", "postgresql", min_size=1, max_size=1, url=postgresql_url)

    async def slow():
        async with pools.connection("p") as conn:
            await conn.execute("CREATE TEMP TABLE IF NOT EXISTS leak AS SELECT 1 FROM pg_sleep(10)")

    for _ in range(3):
        query = asyncio.create_task(slow())
        await asyncio.sleep(0.1)
        query.cancel()
        with pytest.raises(asyncio.CancelledError):
            await query
        async with pools.connection("p", 5) as conn:
            assert await conn.fetchval("SELECT to_regclass('pg_temp.leak') IS NULL")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SELECT 1", session_state.CLEAN),
        ("SELECT begin, start FROM shifts WHERE begin > 3", session_state.CLEAN),
        ("INSERT INTO notes VALUES ('it''s; BEGIN here')", session_state.CLEAN),
        ("INSERT INTO notes VALUES ('it\\'s mine')", session_state.CLEAN),
        ("INSERT INTO notes VALUES ('it\\'s; yours')", session_state.RESET),
        ("SELECT 5 # ' \n INTO @leak -- '", session_state.RESET),
        ("BEGIN", session_state.CLEAN),
        ("begin work;", session_state.CLEAN),
        ("START TRANSACTION", session_state.CLEAN),
        ("START TRANSACTION READ ONLY", session_state.READ_ONLY),
        ("START SLAVE", session_state.DISCARD),
        ("BEGIN NOT ATOMIC SELECT 1; END", session_state.DISCARD),
        ("SELECT 1; BEGIN NOT ATOMIC SELECT 1; END", session_state.DISCARD),
        ("FOR i IN 1..2 DO SELECT 1; END FOR", session_state.DISCARD),
        ("SOMETHING NEW", session_state.DISCARD),
        ("SET time_zone = '+03:00'", session_state.RESET),
        ("CALL something()", session_state.RESET),
    ],
)
def test_what_is_not_understood_of_mysql_is_dirty(text, found):
    assert session_state.classify_mysql(text) == found
