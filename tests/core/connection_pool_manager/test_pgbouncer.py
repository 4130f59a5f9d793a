"""Behind PgBouncer, statements of one session run on several: none may be prepared by a name."""

import asyncio
from urllib.parse import parse_qs, urlsplit

import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager
from tests.support.proxy import Proxy

NAMED = b"__asyncpg_stmt_"


class Listener(Proxy):
    """Keeps what clients say and servers answer."""

    heard = b""

    async def _pass(self, reader, writer):
        listened = asyncio.StreamReader()

        async def listen():
            while data := await reader.read(65_536):
                self.heard += data
                listened.feed_data(data)
            listened.feed_eof()

        await asyncio.gather(listen(), super()._pass(listened, writer))


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    yield manager
    await manager.disable()


def listener_before(url):
    parts = urlsplit(url)
    if socket := parse_qs(parts.query).get("host"):
        return Listener(path=f"{socket[0]}/.s.PGSQL.{parts.port or 5432}")
    return Listener(parts.hostname, parts.port or 5432)


@pytest.mark.parametrize(
    ("where", "is_named"),
    [("", True), ("?statement_cache_size=0", False), ("?prepared_statement_cache_size=0", False)],
)
async def test_with_a_statement_cache_of_0_no_statement_has_a_name(pools, postgresql_url, where, is_named):
    parts = urlsplit(postgresql_url)
    async with listener_before(postgresql_url) as proxy:
        url = f"postgresql://{parts.username or 'postgres'}@127.0.0.1:{proxy.port}{parts.path}{where}"
        await pools.create_pool("p", "postgresql", 1, 2, url=url, reset="always")
        for n in range(3):
            assert await pools.fetchval("p", "SELECT $1::int + 1", n) == n + 1
            async with pools.transaction("p") as conn:
                assert await pools.fetch(conn, "SELECT $1::int[]", [n]) == [([n],)]
                async with pools.transaction(conn):
                    assert await pools.execute(conn, "SELECT 1") == 0
        await pools.disable()
        assert b"SELECT $1::int[]" in proxy.heard
        assert (NAMED in proxy.heard) is is_named
