"""What a url may say after its ``+`` and its ``?``."""

import asyncio
import contextlib
import re
import ssl

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.connection_pool_manager import ConnectionPoolManager, PoolConnectError
from bot.core.connection_pool_manager.drivers.base import check_scheme
from bot.core.connection_pool_manager.drivers.url_options import (
    mysql_options,
    postgresql_options,
    redis_url,
)
from bot.core.phase4_config.connection_pools import SCHEMES
from tests.support.servers import RedisServer


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    yield manager
    await manager.disable()


@pytest.mark.parametrize(
    "url",
    [
        "postgres://h", "postgresql+asyncpg://h", "postgres+asyncpg://h", "postgresql+psycopg://h",
        "PostgreSQL+psycopg2://h", "postgresql+pg8000://h", "mysql+aiomysql://h", "mysql+asyncmy://h",
        "mysql+pymysql://h", "mariadb+asyncmy://h", "sqlite+aiosqlite:///f.db", "sqlite+pysqlite://",
        "mongodb+srv://h", "rediss://h", "valkeys://h", "unix:///s",
    ],
)  # fmt: skip
def test_schemes_whose_meaning_is_clear(url):
    scheme = url.partition(":")[0].partition("+")[0].lower()
    backend = next(name for name, schemes in SCHEMES.items() if scheme in schemes)
    check_scheme(url, backend, SCHEMES[backend])


@pytest.mark.parametrize(
    ("backend", "url", "told"),
    [
        ("postgresql", "postgresql+asyncmy://u:hunter2@h/d", "with nothing or one of +asyncpg, "),
        ("postgresql", "postgresql+://h/d", "postgresql://"),
        ("postgresql", "jdbc:postgresql://h/d", "postgresql://"),
        ("postgresql", "cockroachdb://h/d", "postgresql://"),
        ("postgresql", "h/d", "postgresql://"),
        ("mysql", "mysql+asyncpg://h/d", "+asyncmy, +aiomysql"),
        ("mysql", "mysql+pyodbc://h/d", "+asyncmy, +aiomysql"),
        ("sqlite", "sqlite+pysqlcipher://:hunter2@/d", "+aiosqlite, +pysqlite"),
        ("mongodb", "mongodb+motor://h/d", "+srv"),
        ("redis", "redis+tls://h/0", "rediss://"),
    ],
)  # fmt: skip
async def test_others_are_refused_with_the_spelling_to_use(pools, backend, url, told):
    with pytest.raises(
        InvalidArgumentError, match=f"url = .*{re.escape(told)}.* for backend {backend!r}"
    ) as caught:
        await pools.create_pool("p", backend, url=url)
    assert "hunter2" not in str(caught.value)


def test_what_asyncpg_takes_as_an_option_leaves_the_url():
    url = (
        "postgresql+asyncpg://u:p%40%2F@h:1/d?ssl=verify-full&prepared_statement_cache_size=0&application_name=a%20b"
        "&connect_timeout=2.5&keepalives=1&channel_binding=prefer&options=-c%20search_path%3Dx"
    )
    assert postgresql_options(url) == (
        "postgresql://u:p%40%2F@h:1/d?sslmode=verify-full&application_name=a%20b&options=-c%20search_path%3Dx",
        {"statement_cache_size": 0, "timeout": 2.5},
    )
    assert postgresql_options("postgres://h/d") == ("postgres://h/d", {})
    assert postgresql_options("postgres://h/d?ssl=false") == ("postgres://h/d?sslmode=disable", {})


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("ssl=true", "ssl = disable, .*verify-full"),
        ("ssl=", "ssl = disable"),
        ("pgbouncer=true", "statement_cache_size=0"),
        ("channel_binding=require", "sslmode=verify-full"),
        ("statement_cache_size=few", "statement_cache_size = a whole number"),
        ("statement_cache_size=-1", "statement_cache_size = a whole number"),
        ("connect_timeout=0", "connect_timeout = a number of seconds above 0"),
        ("command_timeout=nan", "command_timeout = a number"),
    ],
)
async def test_options_of_postgresql_that_are_none(pools, query, word):
    with pytest.raises(InvalidArgumentError, match=rf"url = 'postgresql://\*\*\*@h/d.*{word}"):
        await pools.create_pool("p", "postgresql", url=f"postgresql://u:hunter2@h/d?{query}")


def test_mysql_has_plain_options_and_tls():
    found = mysql_options("mysql://h", "charset=utf8mb4&autocommit=true&connect_timeout=3&sql_mode=ANSI")
    assert found == {"charset": "utf8mb4", "autocommit": True, "connect_timeout": 3.0, "sql_mode": "ANSI"}
    for query, checks in [
        ("ssl=true", (True, ssl.CERT_REQUIRED)),
        ("ssl-mode=VERIFY_IDENTITY", (True, ssl.CERT_REQUIRED)),
        ("ssl-mode=VERIFY_CA", (False, ssl.CERT_REQUIRED)),
        ("ssl=true&ssl_check_hostname=false", (False, ssl.CERT_REQUIRED)),
        ("ssl_mode=required", (False, ssl.CERT_NONE)),
    ]:
        context = mysql_options("mysql://h", query)["ssl"]
        assert (context.check_hostname, context.verify_mode) == checks
    for query in ("", "ssl=false", "ssl-mode=DISABLED"):
        assert mysql_options("mysql://h", query) == {}


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("ssl=maybe", "ssl = true or false"),
        ("ssl-mode=PREFERRED", "ssl_mode = DISABLED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY"),
        ("ssl_ca=/no/such.pem", "FileNotFoundError"),
        ("ssl=false&ssl_ca=x", "no other ssl_ option"),
        ("pool_size=5", "only charset, unix_socket"),
        ("autocommit=perhaps", "autocommit = true or false"),
    ],
)
async def test_options_of_mysql_that_are_none(pools, query, word):
    with pytest.raises(InvalidArgumentError, match=rf"url = 'mysql://\*\*\*@h/d.*{word}"):
        await pools.create_pool("p", "mysql", url=f"mysql://u:hunter2@h/d?{query}")


def test_redis_has_one_spelling():
    assert redis_url("REDIS://u:p%3F@h:1/2?ssl=true&db=3") == "rediss://u:p%3F@h:1/2?db=3"
    assert redis_url("valkeys://h") == "rediss://h"
    assert redis_url("redis://h?ssl=false") == "redis://h"
    assert redis_url("unix:///s?db=1") == "unix:///s?db=1"
    for url, word in (("rediss://h?ssl=0", "redis://... for"), ("redis://h?ssl=x", "true or false")):
        with pytest.raises(InvalidArgumentError, match=word):
            redis_url(url)


async def test_options_of_redis_that_are_none_are_named(pools):
    with pytest.raises(Exception, match=r"refuses its options.*mood") as caught:
        await pools.create_pool("p", "redis", url="redis://u:hunter2@127.0.0.1:1/0?mood=good")
    assert "hunter2" not in str(caught.value)


async def test_sqlalchemys_url_for_sqlite_works(pools, tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path}/p.db?check_same_thread=false&timeout=3"
    await pools.create_pool("p", "sqlite", 1, 1, url=url)
    assert await pools.fetchval("p", "SELECT 7") == 7


async def test_sqlalchemys_url_for_postgresql_works(pools, postgresql_url):
    url = postgresql_url.replace("postgresql://", "POSTGRESQL+psycopg://")
    url += ("&" if "?" in url else "?") + "ssl=prefer&prepared_statement_cache_size=0&application_name=a%20b"
    await pools.create_pool("p", "postgresql", 1, 1, url=url)
    assert await pools.fetchval("p", "SHOW application_name") == "a b"


@pytest.mark.parametrize("dialect", ["mysql+aiomysql", "mariadb+pymysql", "MYSQL"])
async def test_sqlalchemys_url_for_mysql_works(pools, mysql_url, dialect):
    url = mysql_url.replace("mysql://", f"{dialect}://") + "?charset=utf8mb4&autocommit=true&sql_mode=ANSI"
    await pools.create_pool("p", "mysql", 1, 1, url=url)
    assert await pools.fetchval("p", "SELECT @@autocommit") == 1
    assert "ANSI" in await pools.fetchval("p", "SELECT @@sql_mode")


async def test_a_mysql_server_without_tls_is_told(pools, mysql_url):
    async def has_tls():
        await pools.create_pool("plain", "mysql", 1, 1, url=mysql_url)
        return (await pools.fetchval("plain", "SELECT @@have_ssl")) == "YES"

    if await has_tls():
        pytest.skip("the server has TLS")
    with pytest.raises(PoolConnectError, match=r"(?i)ssl"):
        await pools.create_pool("p", "mysql", 1, 1, url=mysql_url + "?ssl-mode=REQUIRED")


@pytest.mark.server
async def test_an_address_of_ipv6_and_a_password_of_any_characters_work_with_redis(pools):
    password = "p@ss/w:rd#%?[ä]"
    server = RedisServer(extra=("--requirepass", password, "--bind", "127.0.0.1", "::1"))
    await asyncio.to_thread(server.start)
    try:
        quoted = "p%40ss%2Fw%3Ard%23%25%3F%5B%C3%A4%5D"
        await pools.create_pool("p", "redis", 1, 1, url=f"redis://:{quoted}@[::1]:{server.port}/2")
        async with pools.connection("p") as conn:
            assert (await conn.client_info())["db"] == 2
    finally:
        await pools.disable()
        server.close()


@pytest.mark.parametrize("backend", ["postgresql", "mysql", "mongodb"])
async def test_an_address_of_ipv6_is_called(pools, backend):
    called = asyncio.Event()

    async def answer(reader, writer):
        called.set()
        writer.close()

    try:
        server = await asyncio.start_server(answer, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 here")
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(PoolConnectError, match=re.escape(f"[::1]:{port}")):
            await pools.create_pool("p", backend, 1, 1, url=f"{backend}://[::1]:{port}/d", connect_timeout=1)
    assert called.is_set()
    with contextlib.suppress(RuntimeError):
        await server.wait_closed()
