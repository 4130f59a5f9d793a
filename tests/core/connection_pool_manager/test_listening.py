"""LISTEN over a real PostgreSQL: every loss is told, and nothing that is sent later is missed."""

import asyncio
import contextlib

import asyncpg
import pytest
from msgspec.structs import replace

from bot.core._shared.errors import InvalidArgumentError, MisuseError
from bot.core.connection_pool_manager import (
    ConnectionPoolManager,
    LeaseError,
    LeaseReleasedError,
    ListenError,
    PoolClosedError,
    PoolConnectError,
    UnknownPoolError,
)
from tests.core.connection_pool_manager.test_demotion import target_of
from tests.support.apart import execute_on_postgresql
from tests.support.proxy import Proxy
from tests.support.waiting import until

LISTENERS = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"


@pytest.fixture
async def pools(postgresql_url):
    manager = ConnectionPoolManager()
    await manager.create_pool("db", "postgresql", 1, 2, url=postgresql_url)
    yield manager
    await manager.disable()
    assert not manager._listeners._by_pool


class Reader:
    """A task that reads, and what it got."""

    def __init__(self, notifications):
        self.got = []
        self._task = asyncio.create_task(self._read(notifications))

    async def _read(self, notifications):
        async for each in notifications:
            self.got.append(each)

    def payloads(self):
        return [each.payload for each in self.got if each.kind == "message"]

    def marks(self):
        return [each.kind for each in self.got if each.kind != "message"]

    async def has(self, messages, marks=0):
        async def there():
            return len(self.payloads()) >= messages and len(self.marks()) >= marks

        await until(there, timeout=20)

    async def end(self):
        self._task.cancel()
        await asyncio.wait([self._task])


async def kill(pools):
    """End the server's process that listens, once it is there."""

    async def killed():
        return await pools.fetchval("db", f"SELECT pg_terminate_backend(pid) {LISTENERS}")

    await until(killed)


async def nobody_listens(pools):
    async def none():
        return await pools.fetchval("db", f"SELECT count(*) {LISTENERS}") == 0

    await until(none)


NAME = 'Ünï "q" ch'


async def test_messages_of_channels(pools):
    async with pools.listen("db", "news", NAME, "news") as notifications, pools.listen("db", "news") as other:
        await pools.notify("db", NAME, "ä'\"%s$1")
        async with pools.transaction("db") as conn:
            await pools.notify(conn, "news", "one")
            await pools.notify(conn, "NEWS", "to nobody")
            sender = await pools.fetchval(conn, "SELECT pg_backend_pid()")
        first, second = await anext(notifications), await anext(notifications)
        assert (first.channel, first.payload, first.kind) == (NAME, "ä'\"%s$1", "message")
        assert (second.channel, second.payload, second.sender) == ("news", "one", sender)
        assert (await anext(other)).payload == "one"
        assert notifications.pending == other.pending == 0
        assert await pools.fetchval("db", f"SELECT count(*) {LISTENERS}") == 1, "one connection for all"
        figures = (await pools.get_statistics())["db"]
        assert figures["notifications"] == 3
        assert figures["total_connections"] == 1, "it is not one of the pool's"
    await nobody_listens(pools)


async def test_the_pools_connections_are_all_free_while_it_listens(pools):
    async with pools.listen("db", "a"), pools.connection("db", 1.0), pools.connection("db", 1.0) as conn:
        assert await conn.fetchval("SELECT 1") == 1


async def test_killed_twenty_times(pools):
    async with pools.listen("db", "news") as notifications:
        reader = Reader(notifications)
        for number in range(20):
            await kill(pools)
            await reader.has(number, marks=number + 1)
            await pools.notify("db", "news", str(number))
            await reader.has(number + 1)
        assert reader.payloads() == [str(number) for number in range(20)]
        assert reader.marks() == ["reconnected"] * 20
        assert (await pools.get_statistics())["db"]["listen_losses"] == 20
        await reader.end()
    await nobody_listens(pools)


async def test_each_listener_is_told_of_what_it_missed_and_no_more(pools, caplog):
    async with pools.listen("db", "a") as before:
        await kill(pools)
        assert (await anext(before)).kind == "reconnected"
        async with pools.listen("db", "b") as after:
            await pools.notify("db", "b", "x")
            assert (await anext(after)).payload == "x", "no mark: it was not there"
            assert before.pending == 0
    assert caplog.text.count("the connection for LISTEN was lost") == 1


async def test_a_slow_reader_is_told_that_messages_are_missing(pools):
    async with pools.listen("db", "a", max_pending=2) as slow, pools.listen("db", "a") as quick:
        for number in range(5):
            await pools.notify("db", "a", str(number))
        assert [(await anext(quick)).payload for _ in range(5)] == list("01234")
        first, second, mark = [await anext(slow) for _ in range(3)]
        assert (first.payload, second.payload) == ("0", "1")
        assert (mark.kind, mark.dropped, mark.channel, mark.payload) == ("overflow", 3, "", "")
        assert (await pools.get_statistics())["db"]["notifications_dropped"] == 3


async def test_a_server_that_falls_silent_is_found_out(postgresql_url):
    pools = ConnectionPoolManager()
    async with Proxy(**target_of(postgresql_url)) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
        options = {"keepalive_interval": 0.1, "validation_timeout": 0.5, "connect_timeout": 0.5}
        await pools.create_pool("db", "postgresql", 1, 2, url=url, **options)
        async with pools.listen("db", "a") as notifications:
            proxy.hangs = True

            async def lost():
                return pools._pools["db"].pool.counters.listen_losses == 1

            await until(lost)
            with pytest.raises(PoolConnectError, match="no answer"):
                async with pools.listen("db", "b"):
                    pass
            proxy.hangs = False
            async with asyncio.timeout(10):
                assert (await anext(notifications)).kind == "reconnected"
            await pools.notify("db", "a", "x")
            assert (await anext(notifications)).payload == "x"
        await pools.disable()


async def test_a_reader_who_is_cancelled_takes_nothing(pools):
    async with pools.listen("db", "a") as notifications:
        for _ in range(3):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    await anext(notifications)
        await pools.notify("db", "a", "x")
        assert (await anext(notifications)).payload == "x"
        reader = Reader(notifications)
        await asyncio.sleep(0)
        with pytest.raises(MisuseError, match="another task reads"):
            await anext(notifications)
        await reader.end()


@pytest.mark.parametrize("how", ["close_pool", "disable"])
async def test_a_closed_pool_ends_its_listeners(pools, how):
    async with pools.listen("db", "a") as notifications:
        await pools.notify("db", "a", "x")
        await until(lambda: asyncio.sleep(0, notifications.pending == 1))
        assert await (pools.close_pool("db") if how == "close_pool" else pools.disable())
        assert (await anext(notifications)).payload == "x"
        with pytest.raises(PoolClosedError):
            await anext(notifications)
    with pytest.raises(LeaseReleasedError):
        await anext(notifications)


async def test_another_url_moves_the_listeners(pools, postgresql_url):
    async with pools.listen("db", "a") as notifications:
        pid = await pools.fetchval("db", f"SELECT pid {LISTENERS}")
        spec = pools._pools["db"].spec
        await pools._change(replace(spec, driver_options={"server_settings": {"application_name": "new"}}))
        assert (await anext(notifications)).kind == "reconnected"
        query = f"SELECT count(*) {LISTENERS} AND application_name = 'new' AND pid <> $1"
        assert await pools.fetchval("db", query, pid) == 1


async def test_what_is_refused(pools, tmp_path):
    with pytest.raises(InvalidArgumentError, match="at least one channel"):
        pools.listen("db")
    for wrong in (0, -1, True, 1.5, 10**9, "5"):
        with pytest.raises(InvalidArgumentError, match="max_pending"):
            pools.listen("db", "a", max_pending=wrong)
    with pytest.raises(UnknownPoolError, match="nowhere"):
        async with pools.listen("nowhere", "a"):
            pass
    await pools.create_pool("lite", "sqlite", 0, 1, url=f"sqlite:///{tmp_path}/p.db")
    for call in (pools.listen("lite", "a").__aenter__(), pools.notify("lite", "a")):
        with pytest.raises(MisuseError, match="for pools of postgresql; pool 'lite' is of sqlite"):
            await call
    async with pools.listen("db", "a") as notifications:
        with pytest.raises(LeaseError, match="in use already"):
            await notifications.__aenter__()


async def test_a_server_that_refuses_says_why(pools, monkeypatch):
    async def standby(self, channel, callback):
        if channel == "bad":
            raise asyncpg.ReadOnlySQLTransactionError("cannot execute LISTEN during recovery")
        await original(self, channel, callback)

    original = asyncpg.Connection.add_listener
    async with pools.listen("db", "good") as notifications:
        monkeypatch.setattr(type(pools._listeners._by_pool["db"]._raw), "add_listener", standby)
        with pytest.raises(ListenError, match=r"channel 'bad' failed: .*during recovery"):
            async with pools.listen("db", "good", "bad"):
                pass
        await pools.notify("db", "good", "x")
        assert (await anext(notifications)).payload == "x", "the others do not notice"


async def test_a_wrong_password_is_told_at_once(pools, postgresql_url):
    await pools.execute("db", "DROP ROLE IF EXISTS nobody_here")
    spec = pools._pools["db"].spec
    await pools._change(replace(spec, driver_options={"user": "nobody_here"}))
    with pytest.raises(PoolConnectError, match="nobody_here"):
        async with pools.listen("db", "a"):
            pass
    assert not pools._listeners._by_pool


@pytest.mark.server
def test_the_next_event_loop_listens_again(postgresql_url):
    pools = ConnectionPoolManager()

    async def first():
        await pools.create_pool("db", "postgresql", 1, 2, url=postgresql_url)
        kept = pools.listen("db", "a")
        await kept.__aenter__()
        return kept

    async def second(kept):
        with pytest.raises(MisuseError, match="another event loop"):
            await anext(kept)
        async with pools.listen("db", "a") as notifications:
            await pools.notify("db", "a", "x")
            assert (await anext(notifications)).payload == "x"
            assert await pools.fetchval("db", f"SELECT count(*) {LISTENERS}") == 1, "the first is closed"
        await kept.__aexit__(None, None, None)
        await pools.disable()

    loop = asyncio.new_event_loop()
    kept = loop.run_until_complete(first())
    loop.close()  # without a word to its tasks
    asyncio.run(second(kept))


async def test_a_reader_outlives_no_listener(pools):
    async with pools.listen("db", "a") as notifications:
        pools._listeners._by_pool["db"]._task.cancel()  # as at the end of asyncio.run
        with pytest.raises(PoolClosedError, match="was ended"):
            await anext(notifications)


async def test_a_crowd_comes_and_goes(pools, postgresql_url):
    async def one(number):
        async with pools.listen("db", f"c{number % 3}") as notifications:
            await asyncio.to_thread(
                execute_on_postgresql, postgresql_url, f"NOTIFY c{number % 3}, '{number}'"
            )
            async with asyncio.timeout(10):
                while (await anext(notifications)).payload != str(number):
                    pass

    await asyncio.gather(*map(one, range(9)))
    await nobody_listens(pools)
