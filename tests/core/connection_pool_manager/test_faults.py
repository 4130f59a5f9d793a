"""Real servers that are killed, hang, or lose a connection in the middle of a query."""

import asyncio
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from bot.core.connection_pool_manager import ConnectionPoolManager, PoolConnectError, PoolTimeoutError
from tests.support.apart import execute_on_postgresql
from tests.support.proxy import Proxy
from tests.support.servers import MongoServer, running


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    yield manager
    for runner in manager._pools.values():
        runner.pool.check_invariants()
    await manager.disable()


async def eventually(pools, works, seconds=20.0):
    """The pool heals by itself: what ``works`` does with a lease succeeds before long."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                async with pools.connection("p", 1.0) as conn:
                    return await works(conn)
            except Exception:
                await asyncio.sleep(0.05)


async def users_of(pools, works, count, held, stop):
    """Tasks that lease and work until told to stop; ``held`` has every connection in use, once."""

    async def user():
        done = 0
        while not stop.is_set():
            try:
                async with pools.connection("p", 5.0) as conn:
                    assert conn.connection_id not in held, "issued twice"
                    held.add(conn.connection_id)
                    try:
                        await works(conn)
                        done += 1
                    finally:
                        held.discard(conn.connection_id)
            except AssertionError:
                raise
            except Exception:
                await asyncio.sleep(0.02)
        return done

    return [asyncio.create_task(user()) for _ in range(count)]


async def test_redis_is_killed_with_leases_out_and_comes_back(pools, redis_server, caplog):
    async def works(conn):
        return await conn.incr("n")

    await pools.create_pool("p", "redis", min_size=2, max_size=4, url=redis_server.url)
    stop, held = asyncio.Event(), set()
    users = await users_of(pools, works, 20, held, stop)
    await asyncio.sleep(0.2)
    await asyncio.to_thread(redis_server.kill)
    await asyncio.sleep(0.3)
    assert not (await pools.get_statistics())["p"]["healthy"]
    assert not (await pools.health_check_all())["p"]
    await asyncio.to_thread(redis_server.start)
    assert await eventually(pools, works) > 0
    before = await eventually(pools, works)
    await asyncio.sleep(0.2)
    stop.set()
    assert all(done > 0 for done in await asyncio.gather(*users))
    assert await eventually(pools, works) > before, "work went on after the server came back"
    assert (await pools.health_check_all())["p"]
    figures = (await pools.get_statistics())["p"]
    assert figures["active_connections"] == figures["waiting"] == 0
    assert sum("still trying" in line for line in caplog.messages) == 1, "one line for one outage"


async def test_redis_hangs_with_connections_idle_and_answers_again(pools, redis_server):
    await pools.create_pool(
        "p", "redis", min_size=3, max_size=3, url=redis_server.url, validate_after=0.05,
        validation_timeout=0.2, connect_timeout=0.3,
    )  # fmt: skip
    await asyncio.sleep(0.1)
    redis_server.freeze()
    try:
        with pytest.raises(PoolTimeoutError, match="Cannot acquire connection"):
            await pools.acquire_connection("p", timeout=1.5)
        assert not (await pools.health_check_all())["p"]
    finally:
        redis_server.thaw()
    assert await eventually(pools, lambda conn: conn.set("a", "b"))


@pytest.mark.server
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_mongodb_is_killed_with_leases_out_and_comes_back(pools, driver):
    with running(MongoServer()) as server:
        await pools.create_pool(
            "p", "mongodb", min_size=1, max_size=3, url=server.url, driver=driver, connect_timeout=1.0
        )

        async def works(conn):
            await conn.insert_one({"x": 1})
            return await conn.find_one({"x": 1}) is not None

        lease = await pools.acquire_connection("p")
        assert await works(lease)
        server.kill()
        with pytest.raises(Exception, match=r"127\.0\.0\.1"):
            await works(lease)
        await pools.release_connection("p", lease, is_healthy=False)
        server.start()
        assert await eventually(pools, works)


@pytest.mark.parametrize("scheme", ["redis", "postgresql", "mysql", "mongodb"])
async def test_a_server_that_accepts_and_hangs_is_an_error_in_time(pools, scheme):
    database = "0" if scheme == "redis" else "db"
    async with Proxy() as proxy:
        proxy.hangs = True
        async with asyncio.timeout(5):
            with pytest.raises(PoolConnectError, match=f"127.0.0.1:{proxy.port}"):
                await pools.create_pool(
                    "p",
                    scheme,
                    url=f"{scheme}://u:hunter2@127.0.0.1:{proxy.port}/{database}",
                    connect_timeout=0.5,
                )
    assert await pools.get_statistics() == {}


def through(proxy, url):
    parts = urlsplit(url)
    return f"postgresql://{parts.username or 'postgres'}@127.0.0.1:{proxy.port}{parts.path}"


def proxy_to(url):
    parts = urlsplit(url)
    if socket := parse_qs(parts.query).get("host"):
        return Proxy(path=f"{socket[0]}/.s.PGSQL.{parts.port or 5432}")
    return Proxy(parts.hostname, parts.port or 5432)


async def number(conn):
    return await conn.fetchval("SELECT 7")


async def test_a_connection_cut_in_the_middle_of_a_query_is_replaced(pools, postgresql_url):
    async with proxy_to(postgresql_url) as proxy:
        await pools.create_pool("p", "postgresql", min_size=1, max_size=2, url=through(proxy, postgresql_url))

        async def slow():
            async with pools.connection("p") as conn:
                await conn.fetchval("SELECT pg_sleep(30)")

        query = asyncio.create_task(slow())
        await asyncio.sleep(0.2)
        waiting = [asyncio.create_task(pools.acquire_connection("p", 10)) for _ in range(2)]
        await asyncio.sleep(0.1)
        proxy.cut()
        with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
            await query
        for lease in await asyncio.gather(*waiting):
            await pools.release_connection("p", lease)
        assert await eventually(pools, number) == 7
        figures = (await pools.get_statistics())["p"]
        assert figures["active_connections"] == figures["waiting"] == 0
        await pools.disable()


class NoHangUp(Proxy):
    """Passes a server's goodbye on, and not that it hangs up: what a client sees that is between the two."""

    async def _pass(self, reader, writer):
        while data := await reader.read(65_536):
            self.last = data
            writer.write(data)
        await asyncio.Event().wait()


async def test_a_connection_that_the_server_said_goodbye_to_is_a_lost_connection(pools, postgresql_url):
    target = proxy_to(postgresql_url)._target
    async with NoHangUp(*target) as proxy:
        await pools.create_pool("p", "postgresql", min_size=1, max_size=1, url=through(proxy, postgresql_url))
        for use in (number, lambda conn: conn.execute("BEGIN"), lambda conn: conn.prepare("SELECT 1")):
            async with pools.connection("p") as conn:
                server = await conn.fetchval("SELECT pg_backend_pid()")
            execute_on_postgresql(postgresql_url, f"SELECT pg_terminate_backend({server})")
            async with asyncio.timeout(5):
                while b"57P01" not in proxy.last:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.01)
            async with pools.connection("p") as conn:  # too soon for a ping
                with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="the server has ended"):
                    await use(conn)
            assert await eventually(pools, number) == 7
        await pools.disable()


async def test_a_server_gone_with_leases_out_and_back_serves_everybody(pools, postgresql_url):
    async with proxy_to(postgresql_url) as proxy:
        await pools.create_pool(
            "p", "postgresql", min_size=2, max_size=5, url=through(proxy, postgresql_url), connect_timeout=2.0
        )
        stop, held = asyncio.Event(), set()
        users = await users_of(pools, number, 20, held, stop)
        await asyncio.sleep(0.2)
        await proxy.refuse()
        await asyncio.sleep(0.3)
        assert not (await pools.get_statistics())["p"]["healthy"]
        await proxy.listen()
        assert await eventually(pools, number) == 7
        await asyncio.sleep(0.2)
        stop.set()
        assert all(done > 0 for done in await asyncio.gather(*users))
        figures = (await pools.get_statistics())["p"]
        assert figures["total_connections"] <= 5
        assert figures["active_connections"] == 0
        await pools.disable()


async def test_a_postgresql_server_that_hangs_does_not_hold_its_callers(pools, postgresql_url):
    async with proxy_to(postgresql_url) as proxy:
        await pools.create_pool(
            "p", "postgresql", min_size=2, max_size=3, url=through(proxy, postgresql_url),
            validate_after=0.05, validation_timeout=0.2, connect_timeout=0.4,
        )  # fmt: skip
        await asyncio.sleep(0.1)
        proxy.hangs = True
        with pytest.raises(PoolTimeoutError):
            await pools.acquire_connection("p", timeout=1.5)
        proxy.hangs = False
        assert await eventually(pools, number) == 7
        await pools.disable()


async def test_a_lease_given_back_in_the_middle_of_its_query_is_not_the_next_ones(pools, postgresql_url):
    await pools.create_pool("p", "postgresql", min_size=1, max_size=1, url=postgresql_url)
    lease = await pools.acquire_connection("p")
    left = asyncio.create_task(lease.fetchval("SELECT pg_sleep(5)"))
    await asyncio.sleep(0.1)
    await pools.release_connection("p", lease)
    async with pools.connection("p") as conn:
        assert await number(conn) == 7
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
        await left


async def test_an_unfinished_transaction_object_does_not_reach_the_next_lease(pools, postgresql_url):
    await pools.create_pool("p", "postgresql", min_size=1, max_size=1, url=postgresql_url)
    async with pools.connection("p") as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("COMMIT")
        statement = await conn.prepare("SELECT 1")
    async with pools.connection("p") as conn:
        async with conn.transaction():
            assert await number(conn) == 7
        with pytest.raises(asyncpg.InterfaceError):
            await statement.fetch()


async def test_unreachable_servers_of_the_settings_cost_one_timeout_together():
    from bot.core.phase4_config import Phase4Config

    manager = ConnectionPoolManager()
    async with Proxy() as proxy:
        proxy.hangs = True
        config = Phase4Config.from_mapping(
            {
                "DATABASE_POOLS": {
                    f"p{number}": {"backend": "redis", "url": f"redis://127.0.0.1:{proxy.port}/{number}"}
                    for number in range(8)
                }
            }
        )
        async with asyncio.timeout(4):
            assert await manager.enable(pools=config.DATABASE_POOLS, connect_timeout=0.8)
        assert [f"'p{number}'" in said for number, said in enumerate(manager.warnings())] == [True] * 8
    await manager.disable()
