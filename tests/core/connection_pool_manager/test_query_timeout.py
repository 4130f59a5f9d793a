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
        assert conn.raw_connection._config.command_timeout is None


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
