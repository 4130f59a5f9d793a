"""Nothing that was taken from a lease works after its release, on any driver, however it was kept."""

import asyncio
import copy
import pickle

import asyncpg
import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager, LeaseError, LeaseReleasedError

RELEASED = (LeaseReleasedError, asyncpg.InterfaceError)
"""asyncpg's own objects count leases by themselves, and say so in their own words."""


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    yield manager
    await manager.disable()


async def refused(works):
    """Asserts that the call, or what it gives when awaited, is refused for the release."""

    async def call():
        result = works()
        await (anext(aiter(result)) if hasattr(result, "__aiter__") else result)

    with pytest.raises(RELEASED, match="released"):
        await call()


async def test_a_kept_cursor_does_not_commit_the_next_holders_transaction(pools):
    await pools.create_pool("p", "sqlite", 1, 1, url="sqlite://")
    async with pools.connection("p") as conn:
        await conn.execute("CREATE TABLE money (n)")
        await conn.commit()
        cursor = await conn.cursor()
    async with pools.connection("p") as conn:
        await conn.execute("INSERT INTO money VALUES (-100)")
        with pytest.raises(LeaseReleasedError, match="pool 'p'"):
            await cursor.execute("COMMIT")
        await conn.rollback()
    async with pools.connection("p") as conn:
        assert await (await conn.execute("SELECT count(*) FROM money")).fetchone() == (0,)


async def test_sqlite(pools):
    await pools.create_pool("p", "sqlite", 1, 1, url="sqlite://")
    async with pools.connection("p") as conn:
        await conn.execute("CREATE TABLE t (n)")
        cursor = await conn.execute("SELECT 1 UNION SELECT 2")
        execute, commit, close, interrupt = conn.execute, conn.commit, conn.close, conn.interrupt
        unawaited = conn.execute("SELECT 1")
        dump = conn.iterdump()
        rows = aiter(cursor)
    async with pools.connection("p") as conn:
        for works in (
            lambda: execute("SELECT 1"), commit, close, interrupt, cursor.fetchall, cursor.close,
            lambda: cursor.execute("SELECT 1"), lambda: unawaited, lambda: dump, lambda: anext(rows),
        ):  # fmt: skip
            await refused(works)
        assert await (await conn.execute("SELECT 7")).fetchone() == (7,)


async def test_postgresql(pools, postgresql_url):
    await pools.create_pool("p", "postgresql", 1, 1, url=postgresql_url)
    async with pools.connection("p") as conn:
        assert isinstance(conn.raw_connection, asyncpg.Connection)
        fetchval, execute = conn.fetchval, conn.execute
        unawaited = conn.execute("SELECT 1")
        begun, unbegun = conn.transaction(), conn.transaction()
        await begun.start()
        statement = await conn.prepare("SELECT generate_series(1, 100)")
        cursor = conn.cursor("SELECT generate_series(1, 100)")
        opened = await conn.cursor("SELECT generate_series(1, 100)")
        number = await conn.fetchval("SELECT pg_backend_pid()")
    async with pools.connection("p") as conn:
        assert await conn.fetchval("SELECT pg_backend_pid()") == number
        for works in (
            lambda: fetchval("SELECT 1"), lambda: execute("SELECT 1"), lambda: unawaited, begun.commit,
            unbegun.start, statement.fetch, lambda: cursor, lambda: opened.fetch(1),
        ):  # fmt: skip
            await refused(works)
        async with conn.transaction():
            assert await conn.fetchval("SELECT 7") == 7


async def test_redis(pools, redis_url):
    await pools.create_pool("p", "redis", 1, 1, url=redis_url)
    async with pools.connection("p") as conn:
        await conn.set("guard", 1)
        get, unawaited = conn.get, conn.get("guard")
        pipeline = conn.pipeline()
        pipeline.get("guard")
        pubsub, lock, scan = conn.pubsub(), conn.lock("guard-lock"), conn.scan_iter("guard*")
        script = conn.register_script("return 1")
        conn.set_response_callback("GET", lambda answer: "mine")
    async with pools.connection("p") as conn:
        for works in (
            lambda: get("guard"), lambda: unawaited, pipeline.execute, lambda: pubsub.subscribe("guard"),
            lock.acquire, lambda: scan, script,
        ):  # fmt: skip
            await refused(works)
        assert await conn.get("guard") in (b"1", "1"), "with the callbacks of a new client"
        await conn.delete("guard")


async def test_redis_does_not_connect_again_for_a_pubsub_whose_lease_ended(pools, redis_url):
    await pools.create_pool("p", "redis", 1, 1, url=redis_url)
    async with pools.connection("p") as conn:
        pubsub = conn.pubsub()
        await pubsub.subscribe("guard")
    async with pools.connection("p") as conn:
        connections = len(await conn.client_list())
        with pytest.raises(Exception, match="ended"):
            await pubsub.subscribe("other")
        assert len(await conn.client_list()) == connections
    await pubsub.aclose()
    async with pools.connection("p") as conn:
        assert await conn.ping()


async def test_mysql(pools, mysql_url):
    from asyncmy.cursors import DictCursor

    await pools.create_pool("p", "mysql", 1, 1, url=mysql_url)
    async with pools.connection("p") as conn:
        cursor, rows = conn.cursor(), conn.cursor(DictCursor)
        await cursor.execute("SELECT 1 AS n UNION SELECT 2")
        await rows.execute("SELECT 1 AS n UNION SELECT 2")
        statement = await conn.prepare("SELECT 1")
        commit, query, unawaited = conn.commit, conn.query, cursor.execute("SELECT 1")
        fresh = conn.cursor()
    async with pools.connection("p") as conn:
        for works in (
            commit, lambda: query("SELECT 1"), lambda: unawaited, lambda: cursor.execute("SELECT 1"),
            lambda: rows.execute("SELECT 1"), lambda: fresh.execute("SELECT 1"), statement.execute,
            lambda: rows.nextset(),
        ):  # fmt: skip
            await refused(works)
        async with conn.cursor() as other:
            await other.execute("SELECT 7")
            assert (await other.fetchone())[0] == 7


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_mongodb(pools, mongodb_url, driver):
    await pools.create_pool("p", "mongodb", 1, 1, url=mongodb_url, driver=driver)
    async with pools.connection("p") as conn:
        await conn.insert_many([{"guard": n} for n in range(300)])
        find_one, users, database, client = conn.find_one, conn.users, conn.database, conn.client
        cursor, begun = conn.find({}), conn.find({}, batch_size=2)
        await anext(begun)
    async with pools.connection("p") as conn:
        for works in (
            lambda: find_one({}), lambda: users.insert_one({}), lambda: database.command("ping"),
            lambda: client.admin.command("ping"), lambda: cursor.to_list(1), lambda: database["x"].drop(),
        ):  # fmt: skip
            await refused(works)
        with pytest.raises(LeaseReleasedError):
            async for _ in begun:
                pass
        assert await conn.find_one({"guard": 3})
        await conn.drop()


async def test_also_when_the_lease_is_dropped_or_its_pool_closed(pools):
    await pools.create_pool("p", "sqlite", 1, 1, url="sqlite://")
    conn = await pools.acquire_connection("p")
    execute = conn.execute
    del conn
    await asyncio.sleep(0)
    async with pools.connection("p") as other:
        await refused(lambda: execute("SELECT 1"))
        kept = other.execute
        await pools.disable(drain_timeout=0.01)
        await refused(lambda: kept("SELECT 1"))


async def test_the_error_is_a_lease_error_that_names_pool_and_use(pools):
    await pools.create_pool("p", "sqlite", 1, 1, url="sqlite://")
    async with pools.connection("p") as conn:
        pass
    with pytest.raises(LeaseError, match="pool 'p': 'execute' used after the connection was released"):
        await conn.execute("SELECT 1")


async def test_a_redis_client_is_made_anew_only_for_those_that_something_was_taken_from(pools, redis_url):
    await pools.create_pool("p", "redis", 1, 1, url=redis_url)
    (slot,) = pools._pools["p"].pool.idle
    async with pools.connection("p") as conn:
        await conn.set("guard", 1)
        await conn.pipeline().get("guard").execute()
        first = slot.view
    del first
    async with pools.connection("p") as conn:
        await conn.get("guard")
        kept = slot.view
        number = id(kept)
        del kept
    assert id(slot.view) == number, "nothing was taken from it"
    for take in (
        lambda conn: conn.get, lambda conn: conn.pipeline(), lambda conn: conn.pubsub(),
        lambda conn: conn.lock("guard-lock"), lambda conn: conn.scan_iter("guard*"),
        lambda conn: conn.register_script("return 1"), lambda conn: conn.get("guard"),
        lambda conn: conn.connection_pool, lambda conn: conn.monitor(), lambda conn: conn.client(),
    ):  # fmt: skip
        async with pools.connection("p") as conn:
            await conn.get("guard")
            taken = take(conn)
        assert slot.view is None, "something may still be used"
        if asyncio.iscoroutine(taken):
            taken.close()
        del taken
    async with pools.connection("p") as conn:
        conn.greeting = "mine"
    async with pools.connection("p") as conn:
        assert not hasattr(conn, "greeting")
        await conn.delete("guard")


@pytest.mark.parametrize("attempt", [copy.copy, copy.deepcopy, pickle.dumps])
async def test_a_lease_cannot_be_copied(pools, attempt):
    await pools.create_pool("p", "sqlite", 1, 1, url="sqlite://")
    async with pools.connection("p") as conn:
        with pytest.raises(TypeError, match=r"p-1 .* cannot be copied or pickled"):
            attempt(conn)
        with pytest.raises(TypeError, match="not iterable"):
            iter(conn)


async def test_two_tasks_on_one_mysql_lease_are_told_so(pools, mysql_url):
    await pools.create_pool("p", "mysql", 1, 1, url=mysql_url)

    async def ask(conn, number):
        async with conn.cursor() as cursor:
            await cursor.execute(f"SELECT {number}, SLEEP(0.05)")
            return (await cursor.fetchone())[0]

    async with pools.connection("p") as conn:
        calls = [ask(conn, 1), ask(conn, 2), conn.commit(), conn.ping(reconnect=False)]
        first, *others = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
        assert first == 1
        for told in others:
            assert isinstance(told, LeaseError)
            assert "another call" in str(told)
        assert await ask(conn, 7) == 7
    async with pools.connection("p") as conn:
        assert await ask(conn, 8) == 8


async def test_a_postgresql_view_is_made_anew_only_for_those_that_something_was_taken_from(
    pools, postgresql_url
):
    await pools.create_pool("p", "postgresql", 1, 1, url=postgresql_url, reset="never")
    (slot,) = pools._pools["p"].pool.idle
    async with pools.connection("p") as conn:
        await conn.fetchval("SELECT 1")
        await conn.execute("BEGIN READ ONLY")
        await conn.execute("ROLLBACK")
        assert slot.raw.phase4_read_only
    assert slot.view is not None, "nothing was taken from it"
    assert not slot.raw.phase4_read_only
    for take in (
        lambda conn: conn.fetch,
        lambda conn: conn.execute("SELECT 1"),
        lambda conn: conn.transaction,
    ):
        async with pools.connection("p") as conn:
            await conn.fetchval("SELECT 1")
            taken = take(conn)
        assert slot.view is None, "it may still be used"
        if asyncio.iscoroutine(taken):
            taken.close()
        del taken
