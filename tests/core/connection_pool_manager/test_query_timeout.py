"""A call on a connection that fell silent ends in bounded time, and one that takes long by right does not."""

import asyncio
import socket
import sqlite3
from urllib.parse import urlsplit

import asyncpg
import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager, QueryTimeoutError
from tests.core.connection_pool_manager.test_faults import proxy_to, through
from tests.support.proxy import Proxy

LIMIT = 0.4


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    yield manager
    for runner in manager._pools.values():
        runner.pool.check_invariants()
    await manager.disable()


async def ask(conn, backend):
    if backend == "postgresql":
        return await conn.fetchval("SELECT 7")
    if backend == "redis":
        return await conn.echo("7")
    if backend == "mongodb":
        return await conn.command("ping")
    async with conn.cursor() as cursor:
        await cursor.execute("SELECT 7")
        return await cursor.fetchone()


def proxy_of(backend, url):
    return proxy_to(url) if backend == "postgresql" else Proxy(urlsplit(url).hostname, urlsplit(url).port)


@pytest.mark.server
@pytest.mark.parametrize("backend", ["postgresql", "redis", "mysql", "mongodb"])
async def test_a_call_on_a_silent_connection_ends_and_the_next_is_served(pools, request, backend):
    url = request.getfixturevalue(f"{backend}_url")
    async with proxy_of(backend, url) as silent, proxy_of(backend, url) as front:
        parts = urlsplit(url)
        front.lead_to(port=silent.port)
        to = through(front, url) if backend == "postgresql" else url.replace(
            f"{parts.hostname}:{parts.port}", f"127.0.0.1:{front.port}"
        )  # fmt: skip
        await pools.create_pool(
            "p", backend, 1, 1, url=to, query_timeout=LIMIT, validation_timeout=0.3, connect_timeout=5
        )
        async with pools.connection("p") as conn:
            assert await ask(conn, backend)
            silent.hangs = True  # whatever is connected is silent from here on; what connects anew is not
            front.lead_to(**dict(zip(("host", "port", "path"), proxy_of(backend, url)._target, strict=True)))
            expected = Exception if backend == "mongodb" else QueryTimeoutError
            with pytest.raises(expected) as caught:
                await asyncio.wait_for(ask(conn, backend), 30)
            assert backend == "mongodb" or "query_timeout = 0.4 s" in str(caught.value)
        async with asyncio.timeout(30):
            async with pools.connection("p", 20) as conn:
                assert await ask(conn, backend)
        figures = (await pools.get_statistics())["p"]
        assert figures["active_connections"] == 0
        assert backend == "mongodb" or figures["query_timeouts"] == 1
        await pools.disable()
        silent.hangs = False


async def test_postgresql_is_told_to_cancel_and_the_connection_is_kept(pools, postgresql_url):
    await pools.create_pool("p", "postgresql", 1, 1, url=postgresql_url, query_timeout=LIMIT)
    async with pools.connection("p") as conn:
        number = await conn.fetchval("SELECT pg_backend_pid()")
        with pytest.raises(QueryTimeoutError, match="raise POOL_QUERY_TIMEOUT"):
            await conn.execute("SELECT pg_sleep(60)")
        with pytest.raises(asyncpg.UndefinedTableError):
            await conn.execute("SELECT * FROM no_such_table_at_all")
        await conn.execute("SELECT pg_sleep(0.6)", timeout=20)
    async with pools.connection("p") as conn:
        assert await conn.fetchval("SELECT pg_backend_pid()") == number


async def test_sqlite_is_interrupted_and_the_connection_is_kept(pools):
    await pools.create_pool("p", "sqlite", 1, 1, url="sqlite://", query_timeout=LIMIT)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    async with pools.connection("p") as conn:
        first = conn.connection_id
        with pytest.raises(QueryTimeoutError):
            await conn.execute_fetchall(endless)
        assert await (await conn.execute("SELECT 7")).fetchone() == (7,)
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await conn.execute("SELECT * FROM no_such_table")
    async with pools.connection("p") as conn:
        assert conn.connection_id == first


async def test_redis_commands_that_block_wait_as_long_as_they_say(pools, redis_url):
    await pools.create_pool("p", "redis", 1, 2, url=redis_url, query_timeout=LIMIT)
    async with pools.connection("p") as conn, pools.connection("p") as other:
        assert await conn.blpop("phase4-nothing", timeout=2) is None
        pubsub = conn.pubsub()
        await pubsub.subscribe("phase4-silence")
        assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
        listening = asyncio.create_task(pubsub.get_message(timeout=None))
        await asyncio.sleep(LIMIT * 4)
        assert not listening.done()
        await other.publish("phase4-silence", "end")
        assert (await listening)["data"] in (b"end", "end")
        await pubsub.aclose()
    assert (await pools.get_statistics())["p"]["query_timeouts"] == 0


async def test_zero_is_never(pools, postgresql_url):
    await pools.create_pool("p", "postgresql", 1, 1, url=postgresql_url, query_timeout=0)
    async with pools.connection("p") as conn:
        await conn.execute("SELECT pg_sleep(0.5)")
        figures = (await pools.get_statistics())["p"]
        assert figures["query_timeouts"] == 0


@pytest.mark.server
@pytest.mark.parametrize("backend", ["postgresql", "redis", "mysql"])
async def test_the_kernel_is_asked_to_find_out_that_the_other_host_is_gone(pools, request, backend):
    url = request.getfixturevalue(f"{backend}_url")
    async with proxy_of(backend, url) as proxy:
        parts = urlsplit(url)
        to = through(proxy, url) if backend == "postgresql" else url.replace(
            f"{parts.hostname}:{parts.port}", f"127.0.0.1:{proxy.port}"
        )  # fmt: skip
        await pools.create_pool("p", backend, 1, 1, url=to)
        async with pools.connection("p") as conn:
            raw = conn.raw_connection
            if backend == "redis":
                transport = raw.connection_pool.phase4_connection._writer.transport
            else:
                transport = raw._transport
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        await pools.disable()


def pg_prepared(conn):
    async def call():
        await (await conn.prepare("SELECT pg_sleep(60)")).fetch()

    return call()


def pg_cursor(conn):
    async def call():
        async with conn.transaction():
            async for _ in conn.cursor("SELECT pg_sleep(60)"):
                pass

    return call()


def pg_opened_cursor(conn):
    async def call():
        async with conn.transaction():
            cursor = await conn.cursor("SELECT pg_sleep(20 * i) FROM generate_series(0, 9) i")
            await cursor.fetch(5)

    return call()


def pg_copy(conn):
    async def take(data):
        pass

    return conn.copy_from_query("SELECT pg_sleep(60)", output=take)


def pg_transaction(conn):
    async def call():
        async with conn.transaction():
            await conn.execute("SELECT pg_sleep(60)")

    return call()


@pytest.mark.parametrize("call", [pg_prepared, pg_cursor, pg_opened_cursor, pg_copy, pg_transaction])
async def test_every_kind_of_postgresql_call_is_limited_and_counted(pools, postgresql_url, call):
    await pools.create_pool("p", "postgresql", 1, 1, url=postgresql_url, query_timeout=LIMIT)
    async with pools.connection("p") as conn:
        with pytest.raises(QueryTimeoutError, match="give the call timeout=seconds"):
            await asyncio.wait_for(call(conn), 30)
    assert (await pools.get_statistics())["p"]["query_timeouts"] == 1
    async with pools.connection("p", 20) as conn:
        assert await conn.fetchval("SELECT 7") == 7


async def test_many_short_calls_are_no_long_one(pools, postgresql_url):
    await pools.create_pool("p", "postgresql", 1, 1, url=postgresql_url, query_timeout=LIMIT)
    async with pools.connection("p") as conn, conn.transaction():
        until = asyncio.get_running_loop().time() + 3 * LIMIT
        statement = await conn.prepare("SELECT pg_sleep(0.01)")
        while asyncio.get_running_loop().time() < until:
            await statement.fetch()
            await conn.execute("SELECT 1")
    assert (await pools.get_statistics())["p"]["query_timeouts"] == 0


async def test_the_drivers_own_limit_is_named_by_its_name(pools, postgresql_url):
    await pools.create_pool(
        "p", "postgresql", 1, 1, url=postgresql_url, query_timeout=50, command_timeout=0.3
    )
    async with pools.connection("p") as conn:
        with pytest.raises(QueryTimeoutError, match=r"command_timeout = 0\.3 s.*raise the pool's command"):
            await conn.execute("SELECT pg_sleep(60)")
        with pytest.raises(QueryTimeoutError, match="command_timeout"):
            await (await conn.prepare("SELECT pg_sleep(60)")).fetchval()
        with pytest.raises(TimeoutError) as caught:
            await conn.execute("SELECT pg_sleep(60)", timeout=0.2)
        assert not isinstance(caught.value, QueryTimeoutError), "its own limit is the caller's business"
    assert (await pools.get_statistics())["p"]["query_timeouts"] == 2


async def test_who_is_cancelled_while_the_pool_ends_the_call_stays_cancelled(pools, postgresql_url):
    await pools.create_pool("p", "postgresql", 1, 1, url=postgresql_url, query_timeout=30)
    runner = pools._pools["p"]

    async def use():
        async with pools.connection("p") as conn:
            await conn.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(use())
    while not any(slot.guard and slot.raw.phase4_task for slot in runner.pool.leased):
        await asyncio.sleep(0.01)
    (slot,) = runner.pool.leased
    runner.driver.report_timeout(slot.guard)
    task.cancel()
    runner.driver.interrupt(slot.raw)
    with pytest.raises(asyncio.CancelledError):
        await task
    async with pools.connection("p", 20) as conn:
        assert await conn.fetchval("SELECT 7") == 7


async def test_rows_of_an_unbuffered_cursor_are_limited(pools, mysql_url):
    from asyncmy.cursors import SSCursor

    await pools.create_pool("p", "mysql", 1, 1, url=mysql_url, query_timeout=LIMIT)
    async with pools.connection("p") as conn:
        cursor = conn.cursor(SSCursor)

        async def read():
            await cursor.execute("SELECT 1 UNION ALL SELECT SLEEP(60)")
            while await cursor.fetchone():
                pass

        with pytest.raises(Exception, match=r"query_timeout|Lost|closed|2013"):
            await asyncio.wait_for(read(), 30)
    assert (await pools.get_statistics())["p"]["query_timeouts"] == 1
    async with pools.connection("p", 20) as conn, conn.cursor() as cursor:
        await cursor.execute("SELECT 7")
        assert (await cursor.fetchone())[0] == 7


async def test_a_watch_held_while_its_holder_thinks_is_no_call(pools, redis_url):
    await pools.create_pool("p", "redis", 1, 1, url=redis_url, query_timeout=LIMIT)
    async with pools.connection("p") as conn:
        async with conn.pipeline() as pipe:
            await pipe.watch("phase4-watched")
            await asyncio.sleep(LIMIT * 3)
            pipe.multi()
            pipe.set("phase4-watched", 1)
            assert await pipe.execute() == [True]
        await conn.delete("phase4-watched")
    assert (await pools.get_statistics())["p"]["query_timeouts"] == 0


async def test_a_pubsub_that_pings_waits_as_long_as_it_likes(pools, redis_url):
    await pools.create_pool("p", "redis", 1, 1, url=redis_url, query_timeout=LIMIT)
    async with pools.connection("p") as conn:
        pubsub = conn.pubsub()
        await pubsub.subscribe("phase4-silence")
        await pubsub.ping()
        await pubsub.get_message(timeout=5)
        assert await pubsub.get_message(timeout=5)
        listening = asyncio.create_task(pubsub.get_message(timeout=None))
        await asyncio.sleep(LIMIT * 3)
        assert not listening.done()
        listening.cancel()
        await asyncio.wait([listening])
        await pubsub.aclose()
    assert (await pools.get_statistics())["p"]["query_timeouts"] == 0


async def test_a_pool_tells_of_calls_without_an_answer(pools, postgresql_url, caplog):
    await pools.create_pool("p", "postgresql", 1, 2, url=postgresql_url, query_timeout=1.2)
    async with pools.connection("p") as conn:
        call = asyncio.create_task(conn.execute("SELECT pg_sleep(60)"))
        async with asyncio.timeout(20):
            while not (figures := (await pools.get_statistics())["p"])["overdue_calls"]:
                await asyncio.sleep(0.02)
        assert figures["degraded"]
        assert figures["healthy"], "another connection can be had"
        assert "1 calls have had no answer for" in figures["last_error"]
        with pytest.raises(QueryTimeoutError):
            await call
    told = [record.getMessage() for record in caplog.records if "no answer for" in record.getMessage()]
    assert len(told) == 1
    assert "test_query_timeout.py" in told[0]
    figures = (await pools.get_statistics())["p"]
    assert not figures["degraded"]
    assert figures["overdue_calls"] == 0


async def test_a_pool_whose_every_connection_waits_is_not_healthy(pools, postgresql_url):
    await pools.create_pool("p", "postgresql", 1, 1, url=postgresql_url, query_timeout=1.2)
    async with pools.connection("p") as conn:
        call = asyncio.create_task(conn.execute("SELECT pg_sleep(60)"))
        async with asyncio.timeout(20):
            while (await pools.get_statistics())["p"]["healthy"]:
                await asyncio.sleep(0.02)
        with pytest.raises(QueryTimeoutError):
            await call
    assert (await pools.get_statistics())["p"]["healthy"]
