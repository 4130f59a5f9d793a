"""``init``: what it sets on a new connection is there in each lease, whatever the lease before did."""

import asyncio
import json
import sqlite3

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.connection_pool_manager import ConnectionPoolManager, PoolConnectError
from bot.core.enhanced_startup_phase4 import get_phase4_status, initialize_phase4_services
from bot.core.phase4_config import Phase4Config


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    yield manager
    for runner in manager._pools.values():
        runner.pool.check_invariants()
    await manager.disable()


# For each backend: what init does, whether a lease finds it, what a lease may do that makes a reset
# necessary, and whether the reset costs a new connection.


async def redis_init(client):
    await client.client_setname("prepared")
    client.set_response_callback("GET", lambda answer: json.loads(answer))


async def redis_finds(conn):
    await conn.set("init-test", '{"a": 1}')
    return await conn.client_getname() in ("prepared", b"prepared") and await conn.get("init-test") == {
        "a": 1
    }


async def redis_dirties(conn):
    await conn.client_setname("other")


async def postgresql_init(connection):
    await connection.set_type_codec("json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    await connection.execute("SET statement_timeout = 12345; SET ROLE pg_monitor; LISTEN prepared")
    await connection.execute("CREATE TEMP TABLE prepared (n int)")


async def postgresql_finds(conn):
    assert await conn.fetchval("""SELECT '{"a": 1}'::json""") == {"a": 1}
    assert await conn.fetchval("SELECT count(*) FROM prepared") == 0
    assert await conn.fetchval("SELECT pg_listening_channels()") == "prepared"
    return await conn.fetchval("SHOW statement_timeout") == "12345ms" and (
        await conn.fetchval("SELECT current_user") == "pg_monitor"
    )


async def postgresql_dirties(conn):
    await conn.execute("SET statement_timeout = 0; UNLISTEN *; DISCARD TEMP; RESET ROLE")


async def mysql_init(connection):
    async with connection.cursor() as cursor:
        await cursor.execute("SET SESSION max_statement_time = 12.5, @tenant = 'ä'")
    await connection.autocommit(True)


async def mysql_finds(conn):
    async with conn.cursor() as cursor:
        await cursor.execute("SELECT @@max_statement_time, @tenant, @@autocommit")
        return await cursor.fetchall() == ((12.5, "ä", 1),)


async def mysql_dirties(conn):
    async with conn.cursor() as cursor:
        await cursor.execute("SET SESSION max_statement_time = 0, @tenant = 'other'")


async def sqlite_init(connection):
    connection.row_factory = sqlite3.Row
    await connection.create_function("twice", 1, lambda n: n * 2)
    await connection.execute("PRAGMA cache_size = -1234")


async def sqlite_finds(conn):
    row = await (await conn.execute("SELECT twice(21) AS n")).fetchone()
    size = await (await conn.execute("SELECT * FROM pragma_cache_size")).fetchone()
    return row["n"] == 42 and size[0] == -1234


async def sqlite_dirties(conn):
    conn.row_factory = None


def mongodb_init(handle):
    from bson.codec_options import CodecOptions
    from bson.son import SON

    handle.database = handle.database.with_options(codec_options=CodecOptions(document_class=SON))
    handle.collection = handle.database[handle.collection.name]


async def mongodb_finds(conn):
    from bson.son import SON

    await conn.replace_one({"_id": 1}, {"_id": 1}, upsert=True)
    return type(await conn.find_one({})) is SON and type(await conn.p.find_one({})) is SON


async def mongodb_dirties(conn):
    conn.raw_connection  # noqa: B018  # allows anything


BACKENDS = {
    "redis": (redis_init, redis_finds, redis_dirties, {}, False),
    "postgresql": (postgresql_init, postgresql_finds, postgresql_dirties, {}, False),
    "mysql": (mysql_init, mysql_finds, mysql_dirties, {}, False),
    "sqlite": (sqlite_init, sqlite_finds, sqlite_dirties, {}, True),
    "mongodb": (mongodb_init, mongodb_finds, mongodb_dirties, {}, False),
    "mongodb-pymongo": (mongodb_init, mongodb_finds, mongodb_dirties, {"driver": "pymongo"}, False),
}


@pytest.fixture(params=BACKENDS)
def backend(request, tmp_path):
    name = request.param.partition("-")[0]
    url = f"sqlite:///{tmp_path}/pool.db" if name == "sqlite" else request.getfixturevalue(f"{name}_url")
    return name, url, *BACKENDS[request.param]


@pytest.mark.server
async def test_what_it_sets_is_there_in_each_lease_and_costs_a_clean_one_nothing(pools, backend):
    name, url, init, finds, dirties, options, is_replaced = backend
    await pools.create_pool("p", name, 1, 1, url=url, init=init, **options)
    for _ in range(3):
        async with pools.connection("p") as conn:
            assert await finds(conn)
    figures = (await pools.get_statistics())["p"]
    assert figures["connections_opened"] == 1
    if name not in ("redis", "mysql"):  # there, what finds it may change the session, too
        assert figures["resets"] == 0
    for _ in range(2):
        async with pools.connection("p") as conn:
            await dirties(conn)
        async with pools.connection("p") as conn:
            assert await finds(conn), "as init has it, not as the lease before"
    opened = (await pools.get_statistics())["p"]["connections_opened"]
    assert opened == (3 if is_replaced else 1)


@pytest.mark.server
async def test_one_that_fails_or_hangs_is_named_and_leaves_no_connection(pools, backend):
    name, url, _, _, _, options, _ = backend
    given = []

    def fails(connection):
        given.append(connection)
        raise LookupError("no codec for hunter2")

    async def hangs(connection):
        given.append(connection)
        await asyncio.Event().wait()

    with pytest.raises(PoolConnectError, match=r"pool 'p': init = .*fails failed: LookupError: no codec"):
        await pools.create_pool("p", name, 1, 1, url=url, init=fails, **options)
    said = r"pool 'p': init = .*hangs did not end within connect_timeout = 1 s"
    with pytest.raises(PoolConnectError, match=said):
        await pools.create_pool("p", name, 1, 1, url=url, init=hangs, connect_timeout=1, **options)
    creating = asyncio.create_task(pools.create_pool("p", name, 1, 1, url=url, init=hangs, **options))
    async with asyncio.timeout(20):
        while len(given) < 3:
            await asyncio.sleep(0.005)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert not pools.enabled
    for connection in given:
        assert not is_open(name, connection)


def is_open(backend, connection):
    if backend == "redis":
        return connection.connection_pool.phase4_connection.is_connected
    if backend == "postgresql":
        return not connection.is_closed()
    if backend == "mysql":
        return connection.connected
    return connection._running if backend == "sqlite" else connection.is_usable


async def test_a_redis_connection_that_is_lost_within_a_lease_is_prepared_again(pools, redis_server):
    await pools.create_pool("p", "redis", 1, 1, url=redis_server.url, init=redis_init)
    async with pools.connection("p") as conn:
        assert await redis_finds(conn)
        await asyncio.to_thread(redis_server.execute, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises(Exception, match=r"[Cc]onnection"):
            await conn.ping()
        redis_server.freeze()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await conn.ping()  # connects, and is cancelled before it is prepared
        redis_server.thaw()
        assert await redis_finds(conn)


async def test_a_transaction_that_it_leaves_open_is_rolled_back(pools, postgresql_url, tmp_path):
    def begin(connection):
        return connection.execute("BEGIN")

    await pools.create_pool("pg", "postgresql", 1, 1, url=postgresql_url, init=begin)
    async with pools.connection("pg") as conn:
        assert not conn.is_in_transaction()
    await pools.create_pool("lite", "sqlite", 1, 1, url=f"sqlite:///{tmp_path}/l.db", init=begin)
    async with pools.connection("lite") as conn:
        assert not conn.in_transaction


async def test_one_that_cannot_run_twice_costs_a_connection_and_is_told(pools, postgresql_url, caplog):
    async def init(connection):
        await connection.execute("PREPARE once AS SELECT 7")

    await pools.create_pool("p", "postgresql", 1, 1, url=postgresql_url, init=init)
    for _ in range(2):
        async with pools.connection("p") as conn:
            assert await conn.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE from_sql") == 1
            await conn.execute("SET statement_timeout = 1000")
    async with pools.connection("p") as conn:
        assert await conn.fetchval("SHOW statement_timeout") == "0"
    assert (
        "could not be prepared again, so it is replaced: PoolConnectError: pool 'p': init = " in caplog.text
    )


@pytest.mark.parametrize("close", ["close", "terminate"])
async def test_one_that_closes_its_connection_is_named(pools, postgresql_url, close):
    async def init(connection):
        if (closing := getattr(connection, close)()) is not None:
            await closing

    with pytest.raises(PoolConnectError, match=r"pool 'p': init = .*init closed its connection"):
        await pools.create_pool("p", "postgresql", url=postgresql_url, init=init)


async def test_one_that_closes_its_connection_to_sqlite_is_named(pools):
    with pytest.raises(PoolConnectError, match=r"pool 'p': init = .* closed its connection"):
        await pools.create_pool("p", "sqlite", url="sqlite://", init=lambda connection: connection.close())


async def test_one_that_fails_at_first_is_tried_again(pools, tmp_path):
    calls = 0

    def init(connection):
        nonlocal calls
        calls += 1
        if calls == 1:
            raise LookupError("not yet")

    entry = {"backend": "sqlite", "url": f"sqlite:///{tmp_path}/l.db", "options": {"init": init}}
    await pools.enable(pools=Phase4Config.from_mapping({"DATABASE_POOLS": {"p": entry}}).DATABASE_POOLS)
    assert "not yet" in pools.warnings()[0]
    async with pools.connection("p", timeout=20) as conn:
        assert await (await conn.execute("SELECT 7")).fetchone() == (7,)
    assert pools.warnings() == []


async def test_the_settings_name_it_as_module_and_function(tmp_path):
    name = f"{__name__}:sqlite_init"
    entry = {"backend": "sqlite", "url": f"sqlite:///{tmp_path}/l.db", "options": {"init": name}}
    report = await initialize_phase4_services(
        {"ENABLE_CONNECTION_POOLING": True, "DATABASE_POOLS": {"p": entry}}
    )
    assert (report["errors"], report["warnings"]) == ([], [])
    pools = ConnectionPoolManager.get_instance()
    async with pools.connection("p") as conn:
        assert await sqlite_finds(conn)
    json.dumps(await get_phase4_status())
    await pools.disable()


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (5, "'module:function'"),
        ("json", "'module:function'"),
        ("no.such.module:f", "No module named 'no'"),
        ("json:no_such", "no attribute 'no_such'"),
        ("json:__name__", "not a str"),
    ],
)
async def test_what_is_no_function_is_named_at_once(pools, given, word):
    with pytest.raises(InvalidArgumentError, match=rf"init = .*{word}"):
        await pools.create_pool("p", "sqlite", url="sqlite://", init=given)
