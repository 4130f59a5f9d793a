"""Reads on replicas, writes on the primary, through a real failover of PostgreSQL under load."""

import asyncio
from itertools import count

import asyncpg
import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.connection_pool_manager import ConnectionPoolManager, PoolTimeoutError
from bot.core.connection_pool_manager.drivers.places import host_of, places_of
from bot.core.connection_pool_manager.models import PoolOptions, PoolSpec
from bot.core.connection_pool_manager.replicas import replica_specs
from tests.core.connection_pool_manager.test_demotion import two_mariadbs  # noqa: F401  # a fixture
from tests.support.replication import PostgresqlGroup
from tests.support.waiting import until

IS_REPLICA = "SELECT pg_is_in_recovery()"
USERS = 6


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p%40@a:1,b,[::1]:5/db?x=1,2", ["a:1", "b", "[::1]:5"]),
        ("postgresql://a,b,a/db", ["a", "b"]),
        ("postgresql://a/db?options=b,c", ["a"]),
        ("postgresql://u:p,q@a/db", ["a"]),
        ("postgresql://a,b/db?target_session_attrs=any", ["a,b"]),
        ("mysql://a:1,b:2/db", ["a:1", "b:2"]),
        ("postgresql:///db?host=/tmp,/run", ["localhost"]),
    ],
)
def test_the_hosts_of_a_url(url, hosts):
    places = places_of(url, {})
    assert [host_of(place) for place in places] == hosts
    assert places_of(url, {"target_session_attrs": "standby"}) == [url], "the driver chooses"


def test_the_rest_of_the_url_is_each_hosts():
    assert places_of("postgresql://u:p@a:1,b/db?x=1,2#f", {}) == [
        "postgresql://u:p@a:1/db?x=1,2#f", "postgresql://u:p@b/db?x=1,2#f",
    ]  # fmt: skip


def test_each_replica_is_a_pool_once():
    spec = PoolSpec(
        "p", "postgresql", "postgresql://a,b/db", PoolOptions(min_size=5), {},
        replicas=("postgresql://b/db", "postgresql://c,d/db"),
    )  # fmt: skip
    found = replica_specs(spec)
    assert [(host_of(each.url), each.is_host) for each in found] == [
        ("a", True), ("b", True), ("c", False), ("d", False),
    ]  # fmt: skip
    assert all(each.is_replica and each.options.min_size == 1 for each in found)
    assert not any(replica_specs(each) for each in found)


@pytest.mark.parametrize(
    ("backend", "url", "replicas", "said"),
    [
        ("redis", "redis://h", ["redis://:secret@h"], "second pool"),
        ("mongodb", "mongodb://h", ["mongodb://u:secret@h"], "readPreference"),
        ("sqlite", "sqlite://", [], "no replicas"),
        ("postgresql", "postgresql://h", "postgresql://u:secret@h", "a list of urls"),
        ("postgresql", "postgresql://h", [5], "a list of urls"),
        ("postgresql", "postgresql://h", ["mysql://u:secret@h"], "postgresql://"),
        ("postgresql", "postgresql://h", ["postgresql://u:secret@h:99999"], "a port up to 65535"),
    ],
)
async def test_wrong_replicas(backend, url, replicas, said):
    with pytest.raises(InvalidArgumentError, match=said) as caught:
        await ConnectionPoolManager().create_pool("p", backend, url=url, replicas=replicas)
    assert "secret" not in str(caught.value)


async def test_a_pool_without_replicas_reads_from_its_server(tmp_path):
    pools = ConnectionPoolManager()
    await pools.create_pool("p", "sqlite", 1, 1, url=f"sqlite:///{tmp_path}/p.db")
    assert await pools.fetchval("p", "SELECT 1", read_only=True) == 1
    with pytest.raises(InvalidArgumentError, match="read_only"):
        await pools.acquire_connection("p", read_only="yes")
    await pools.disable()


@pytest.fixture
def group():
    made = PostgresqlGroup()
    yield made
    made.close()


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    yield manager
    for runner in manager._pools.values():
        for each in (runner, *runner.replicas.members):
            each.pool.check_invariants()
    await manager.disable()


async def reads_on_replica(pools):
    return await pools.fetchval("p", IS_REPLICA, read_only=True)


@pytest.mark.server
async def test_reads_go_to_a_replica_and_to_the_primary_when_none_works(pools, group):
    primary, replica = group.servers
    await pools.create_pool(
        "p", "postgresql", 1, 2, url=primary.url, replicas=[replica.url], connect_timeout=2
    )
    runner = pools._pools["p"]
    assert not await pools.fetchval("p", IS_REPLICA)
    assert await reads_on_replica(pools)
    async with pools.transaction("p", read_only=True) as conn:
        assert await pools.fetchval(conn, IS_REPLICA)
    async with pools.transaction("p", read_only=True, isolation="serializable") as conn:
        assert not await pools.fetchval(conn, IS_REPLICA), "replicas do not allow it"

    async with pools.connection("p", read_only=True) as conn:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await conn.execute("CREATE TABLE nothing (n int)")
        await conn.execute("SET statement_timeout = 12345")
    figures = runner.figures()
    assert not figures.demoted
    assert (figures.replicas, figures.replicas_working) == (1, 1)
    async with pools.connection("p", read_only=True) as conn:
        assert await conn.fetchval("SHOW statement_timeout") == "0"
        async with pools.connection("p", read_only=True):
            with pytest.raises(PoolTimeoutError, match="active 2"):
                await pools.acquire_connection("p", 0.05, read_only=True)
            with pytest.raises(PoolTimeoutError, match="active 2"):
                await pools.acquire_connection("p", 0.05, read_only=True)
    await pools.resize_pool("p", max_size=3)
    assert runner.replicas.members[0].pool.options.max_size == 3

    replica.freeze()
    for slot in runner.replicas.members[0].pool.idle:
        slot.proved_at = -1.0  # as if it had not been used for long
    async with asyncio.timeout(5):
        assert not await reads_on_replica(pools), "a replica that does not answer is not waited for"
    replica.thaw()
    await until(lambda: reads_on_replica(pools))

    await asyncio.to_thread(replica.kill)
    await until(lambda: asyncio.sleep(0, runner.figures().replicas_working == 0))
    before = runner.figures().reads_by_primary
    assert not await reads_on_replica(pools)
    assert runner.figures().reads_by_primary == before + 1
    assert runner.figures().healthy
    await asyncio.to_thread(replica.start)
    await until(lambda: reads_on_replica(pools))


async def test_a_replica_that_is_away_at_the_start_is_told_of(pools, postgresql_url, caplog):
    away = "postgresql://bot:secret@127.0.0.1:1/db"
    await pools.create_pool("p", "postgresql", 1, 2, url=postgresql_url, replicas=[away])
    assert "a replica does not work yet: cannot connect to postgresql://***@127.0.0.1:1/db" in caplog.text
    assert "secret" not in caplog.text
    assert await pools.fetchval("p", "SELECT 1", read_only=True) == 1
    assert pools._pools["p"].figures().reads_by_primary == 1
    assert not pools.warnings()


async def test_reads_on_replicas_are_watched_too(pools, postgresql_url):
    seen = []
    await pools.create_pool("p", "postgresql", 1, 2, url=postgresql_url, replicas=[postgresql_url])
    member = pools._pools["p"].replicas.members[0]
    pools.observe(lambda *pool: seen.append(pool) or (lambda raw: None))
    assert seen == [("p", "postgresql", False), ("p", "postgresql", True)]
    assert member.driver.observer is not None
    pools.observe(None)
    assert member.driver.observer is None


class Load:
    """Writers, each of whose transactions adds 1 and -1, and readers, who must see a sum of 0."""

    def __init__(self, pools):
        self.pools = pools
        self.numbers = count()
        self.tried, self.acknowledged = set(), set()
        self.errors, self.reads, self.wrong, self.stopped = [], 0, 0, False

    async def write(self):
        while not self.stopped:
            self.tried.add(number := next(self.numbers))
            try:
                async with self.pools.transaction("p") as conn:
                    await conn.execute("INSERT INTO pairs VALUES ($1, 1), ($1, -1)", number)
                self.acknowledged.add(number)
            except Exception as error:
                self.errors.append(error)
            await asyncio.sleep(0.005)

    async def read(self):
        while not self.stopped:
            try:
                sql = "SELECT sum(n), max(id) FROM pairs"
                total, last = await self.pools.fetchrow("p", sql, read_only=True)
                self.reads += 1
                self.wrong += total != 0 or last not in self.tried
            except Exception as error:
                self.errors.append(error)
            await asyncio.sleep(0.005)

    async def progress(self, more=100):
        goal = len(self.acknowledged) + more
        await until(lambda: asyncio.sleep(0, len(self.acknowledged) >= goal), timeout=30)


@pytest.mark.server
@pytest.mark.parametrize("how", ["crash", "switchover"])
async def test_a_failover_under_load(pools, group, how):
    old, new = group.servers
    await pools.create_pool("p", "postgresql", 2, 2 * USERS, url=group.url)
    await pools.execute("p", "CREATE TABLE pairs (id int, n int)")
    await pools.execute("p", "INSERT INTO pairs VALUES (-1, 1), (-1, -1)")
    exists = "SELECT count(*) = 2 FROM pairs"

    async def is_there():
        try:
            return await pools.fetchval("p", exists, read_only=True)
        except asyncpg.UndefinedTableError:
            return False

    await until(is_there)
    load = Load(pools)
    load.tried.add(-1)
    users = [asyncio.create_task(work()) for work in (load.write, load.read) for _ in range(USERS)]
    await load.progress()
    assert not load.errors
    if how == "crash":
        await asyncio.to_thread(old.kill)
    else:  # it answers on, and refuses writes
        await asyncio.to_thread(old.execute, "ALTER SYSTEM SET default_transaction_read_only = on")
        await asyncio.to_thread(old.execute, "SELECT pg_reload_conf()")
        await until(lambda: asyncio.sleep(0, len(load.errors) > 0))
    reads = load.reads
    await until(lambda: asyncio.sleep(0, load.reads > reads + 50))  # while there is no primary
    await asyncio.to_thread(new.promote)
    await load.progress()
    load.stopped = True
    await asyncio.gather(*users)
    assert load.wrong == 0
    assert len(load.errors) <= 2 * USERS, load.errors  # those in flight
    found = {row[0] for row in await pools.fetch("p", "SELECT id FROM pairs")}
    assert found <= load.tried
    if how == "switchover":
        assert load.acknowledged <= found
    assert not await pools.fetchval("p", IS_REPLICA)
    figures = pools._pools["p"].figures()
    assert figures.healthy
    assert not figures.demoted
    assert figures.reads_by_replicas > 50
    print(f"{how}: {len(load.acknowledged)} writes, {load.reads} reads, {len(load.errors)} errors")


@pytest.mark.server
async def test_hosts_that_are_all_away_or_replicas_are_named(pools, group):
    primary, replica = group.servers
    await asyncio.to_thread(primary.kill)
    with pytest.raises(Exception, match="no host is a primary") as caught:
        await pools.create_pool("p", "postgresql", 1, 2, url=group.url)
    assert f"{replica.place}: it does not accept writes" in str(caught.value)
    assert primary.place in str(caught.value)
    assert not pools._pools


async def test_a_switchover_of_mysql(pools, two_mariadbs):  # noqa: F811
    """Neither server ends a connection: the old primary answers on, and refuses writes."""
    old, new = two_mariadbs
    await asyncio.to_thread(new.execute, "SET GLOBAL read_only = 1")
    url = f"mysql://bot@127.0.0.1:{old.port},127.0.0.1:{new.port}/app"
    await pools.create_pool("p", "mysql", 2, 2 * USERS, url=url)
    assert await pools.fetchval("p", "SELECT @@port") == old.port
    assert await pools.fetchval("p", "SELECT @@port", read_only=True) == new.port
    done, errors, stopped = [], [], asyncio.Event()

    async def write():
        while not stopped.is_set():
            try:
                done.append(await pools.execute("p", "INSERT INTO money VALUES (1)"))
            except Exception as error:
                errors.append(error)
            await asyncio.sleep(0.005)

    async def more():
        goal = len(done) + 50
        await until(lambda: asyncio.sleep(0, len(done) >= goal), timeout=20)

    users = [asyncio.create_task(write()) for _ in range(USERS)]
    await more()
    await asyncio.to_thread(old.execute, "SET GLOBAL read_only = 1")
    await until(lambda: asyncio.sleep(0, len(errors) > 0))
    await asyncio.to_thread(new.execute, "SET GLOBAL read_only = 0")
    await more()
    stopped.set()
    await asyncio.gather(*users)
    assert len(errors) <= USERS, errors  # those in flight
    assert await pools.fetchval("p", "SELECT @@port") == new.port
    assert pools._pools["p"].figures().healthy
