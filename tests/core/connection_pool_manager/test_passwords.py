"""Passwords that change: each new connection asks for the one that holds now, and old connections live on."""

import asyncio
import contextlib
import re
from pathlib import Path

import asyncpg
import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.connection_pool_manager import ConnectionPoolManager, PoolConnectError
from tests.support.apart import execute_on_postgresql
from tests.support.servers import RedisServer

USER = "phase4_rotating"


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    yield manager
    await manager.disable()


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "secret"
    file.write_text("first-hunter2\n")
    return file


@pytest.fixture
async def redis():
    server = RedisServer(extra=("--requirepass", "first-hunter2"))
    await asyncio.to_thread(server.start)
    admin = ConnectionPoolManager()
    await admin.create_pool("admin", "redis", 1, 1, url=f"redis://:first-hunter2@127.0.0.1:{server.port}")
    async with admin.connection("admin") as conn:

        async def change(password):
            await conn.config_set("requirepass", password)

        yield "redis", f"redis://127.0.0.1:{server.port}", change, lambda conn: conn.ping()
    await admin.disable()
    server.close()


@pytest.fixture
async def postgresql(postgresql_url):
    def run(*statements):
        return asyncio.to_thread(execute_on_postgresql, postgresql_url, *statements)

    connection = await asyncpg.connect(postgresql_url)
    rules = Path(await connection.fetchval("SHOW hba_file"))
    await connection.close()
    try:
        before = rules.read_bytes()
        rules.write_bytes(
            f"local all {USER} scram-sha-256\nhost all {USER} all scram-sha-256\n".encode() + before
        )
    except OSError:
        pytest.skip(f"cannot write {rules}")
    try:
        await run(f"DROP ROLE IF EXISTS {USER}", f"CREATE ROLE {USER} LOGIN PASSWORD 'first-hunter2'")
        await run("SELECT pg_reload_conf()")
        url = re.sub(r"//[^@/]*@?", f"//{USER}@", postgresql_url, count=1)
        async with asyncio.timeout(20):
            with contextlib.suppress(asyncpg.InvalidPasswordError):
                while True:  # until the rules hold
                    await (await asyncpg.connect(url, password="wrong")).close()
        yield (
            "postgresql", url, lambda word: run(f"ALTER ROLE {USER} PASSWORD '{word}'"),
            lambda conn: conn.fetchval("SELECT true"),
        )  # fmt: skip
    finally:
        rules.write_bytes(before)
        await run("SELECT pg_reload_conf()", f"DROP ROLE IF EXISTS {USER}")


@pytest.fixture
async def mysql(mysql_url):
    admin = ConnectionPoolManager()
    await admin.create_pool("admin", "mysql", 1, 1, url=mysql_url)

    async def run(statement):
        async with admin.connection("admin") as conn, conn.cursor() as cursor:
            await cursor.execute(statement)
            return True

    async def ping(conn):
        await conn.ping(reconnect=False)
        return True

    await run(f"DROP USER IF EXISTS {USER}@'%'")
    await run(f"CREATE USER {USER}@'%' IDENTIFIED BY 'first-hunter2'")
    url = re.sub(r"//[^@/]*@?([^/]*)/.*", rf"//{USER}@\1/", mysql_url, count=1)
    yield "mysql", url, lambda word: run(f"ALTER USER {USER}@'%' IDENTIFIED BY '{word}'"), ping
    await run(f"DROP USER {USER}@'%'")
    await admin.disable()


@pytest.fixture(params=["redis", "postgresql", "mysql"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.mark.server
@pytest.mark.parametrize("kind", ["function", "coroutine", "file"])
async def test_each_new_connection_asks_for_the_password(pools, server, secret, kind):
    name, url, change, works = server

    async def asked():
        return secret.read_text().strip()

    source = {
        "function": {"password": lambda: secret.read_text().strip()},
        "coroutine": {"password": asked},
        "file": {"password_file": str(secret)},
    }[kind]
    assert await pools.create_pool("p", name, 1, 2, url=url, **source)
    async with pools.connection("p") as old:
        assert await works(old)
        await change("second-hunter2")
        secret.write_text("second-hunter2\r\n")
        async with pools.connection("p", timeout=20) as new:
            assert await works(new)
            assert await works(old), "it lives on"
    secret.write_text("third-hunter2")
    await pools.close_pool("p")
    with pytest.raises(PoolConnectError) as caught:
        await pools.create_pool("p", name, 1, 2, url=url, **source)
    assert caught.value.login_refused
    assert "hunter2" not in str(caught.value)


@pytest.mark.server
async def test_a_reset_that_reconnects_asks_too(pools, redis, secret):
    name, url, change, _ = redis
    await pools.create_pool("p", name, 1, 1, url=url, password_file=secret)
    async with pools.connection("p") as conn:
        await conn.client_setname("x")  # redis is reset by a new connection
        await change("second-hunter2")
        secret.write_text("second-hunter2")
    async with pools.connection("p") as conn:
        assert await conn.ping()
    assert (await pools.get_statistics())["p"]["connections_opened"] == 1


@pytest.mark.parametrize(
    ("password", "word"),
    [
        (lambda: 5, "gave a int: expected a password"),
        (lambda: "", "gave an empty text"),
        (lambda: None, "gave a NoneType"),
        (lambda: 1 / 0, "failed: ZeroDivisionError"),
        (lambda: asyncio.Event().wait(), r"did not end within connect_timeout = 0.2 s"),
    ],
)
async def test_what_gives_none_is_named(pools, password, word):
    with pytest.raises(PoolConnectError, match=rf"pool 'p': password = .*<lambda> {word}"):
        await pools.create_pool(
            "p", "mysql", url="mysql://127.0.0.1:1/", password=password, connect_timeout=0.2
        )


async def test_a_file_that_holds_none_is_named(pools, tmp_path):
    large, binary = tmp_path / "large", tmp_path / "binary"
    large.write_bytes(b"x" * 100_000)
    binary.write_bytes(b"\xff\xfe")
    for file, word in (
        (tmp_path / "none", "No such file"), (tmp_path, "Is a directory"), (large, "more than 65,536 bytes"),
        (binary, "UnicodeDecodeError"),
    ):  # fmt: skip
        with pytest.raises(PoolConnectError, match=rf"password_file = '{file}' failed: .*{word}"):
            await pools.create_pool("p", "mysql", url="mysql://127.0.0.1:1/", password_file=file)


@pytest.mark.parametrize(
    ("backend", "options", "word"),
    [
        ("redis", {"password_file": 5}, "password_file = 5: expected the path"),
        ("redis", {"password_file": "f", "password": "x"}, "either password or password_file"),
        ("redis", {"password_file": "f", "password": str}, "either password or password_file"),
        ("sqlite", {"password_file": "f"}, "SQLite has none"),
        ("mongodb", {"password": str}, "in the url"),
    ],
)
async def test_what_cannot_be_is_named_at_once(pools, backend, options, word):
    with pytest.raises(InvalidArgumentError, match=word):
        await pools.create_pool("p", backend, url=f"{backend}://", **options)
