"""``execute``, ``fetch``, ``fetchrow``, ``fetchval``, ``transaction``: the same on each database with SQL."""
# ruff: noqa: PT012  # what is raised goes through the end of a block

import asyncio
import re
import sqlite3

import pytest

from bot.core._shared.errors import InvalidArgumentError, MisuseError
from bot.core.connection_pool_manager import (
    ConnectionPoolManager,
    LeaseError,
    PoolTimeoutError,
    TransactionAbortedError,
    UnknownPoolError,
)
from tests.support.clock import until_idle


class Database:
    """A table ``calls`` (n, word) in a pool of two connections, and the database's own notation."""

    def __init__(self, pools, backend):
        self.pools = pools
        self.backend = backend

    def sql(self, text):
        """``text``, in which ? stands for parameters."""
        if self.backend == "postgresql":
            numbers = iter(range(1, 100))
            return re.sub(r"\?", lambda _: f"${next(numbers)}", text)
        return text.replace("?", "%s") if self.backend == "mysql" else text

    def add(self, target, n, word="x"):
        return self.pools.execute(target, self.sql("INSERT INTO calls VALUES (?, ?)"), n, word)

    async def numbers(self, target="p"):
        rows = await self.pools.fetch(target, "SELECT n FROM calls ORDER BY n")
        return [row[0] for row in rows]

    async def is_at_rest(self):
        """No lease is out, none is being reset for long, and the pool's connections work."""
        runner = self.pools._pools["p"]
        async with asyncio.timeout(20):
            while runner.pool.proving or runner.pool.closing:
                await asyncio.sleep(0.005)
        runner.pool.check_invariants()
        return not runner.pool.leased and await self.pools.fetchval("p", "SELECT 7") == 7


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
async def db(request, database_url):
    pools = ConnectionPoolManager()
    await pools.create_pool("p", request.param, 1, 2, url=database_url)
    await pools.execute("p", "DROP TABLE IF EXISTS calls")
    await pools.execute("p", "CREATE TABLE calls (n int PRIMARY KEY, word varchar(20))")
    yield Database(pools, request.param)
    await pools.execute("p", "DROP TABLE calls")
    await pools.disable()


@pytest.fixture
def database_url(request, tmp_path):
    backend = request.getfixturevalue("request").node.callspec.params["db"]
    return f"sqlite:///{tmp_path}/p.db" if backend == "sqlite" else request.getfixturevalue(f"{backend}_url")


pytestmark = pytest.mark.server


async def test_one_call_each(db):
    pools = db.pools
    assert [await db.add("p", n, "ä'%s") for n in (1, 2, 3)] == [1, 1, 1]
    assert await pools.execute("p", db.sql("UPDATE calls SET word = ? WHERE n > ?"), "y", 1) == 2
    assert await pools.execute("p", "DELETE FROM calls WHERE n = 3") == 1
    assert await pools.execute("p", "SELECT 1") == 0
    assert [tuple(row) for row in await pools.fetch("p", "SELECT n, word FROM calls ORDER BY n")] == [
        (1, "ä'%s"), (2, "y"),
    ]  # fmt: skip
    find = db.sql("SELECT word, n FROM calls WHERE n = ?")
    assert tuple(await pools.fetchrow("p", find, 2)) == ("y", 2)
    assert await pools.fetchval("p", find, 2) == "y"
    assert await pools.fetchrow("p", find, 9) is None
    assert await pools.fetchval("p", find, 9) is None
    assert await pools.fetch("p", find, 9) == []
    assert await pools.fetchval("p", "SELECT word LIKE '%y' FROM calls WHERE n = 2"), (
        "no parameter: % is itself"
    )
    assert await db.is_at_rest()
    assert (await pools.get_statistics())["p"]["resets"] <= 1, "of creating the table"


async def test_a_statement_that_fails_leaves_nothing(db):
    await db.add("p", 1)
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        await db.pools.execute("p", "INSERT INTO calls VALUES (2, 'x'), (1, 'x')")
    assert await db.numbers() == [1]
    async with db.pools.connection("p") as conn:
        with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
            await db.add(conn, 1)
        await db.add(conn, 3)
        assert await db.numbers() == [1, 3], "others see it"
    assert await db.is_at_rest()


async def test_a_transaction_commits_or_rolls_back(db):
    pools = db.pools
    async with pools.transaction("p") as conn:
        await db.add(conn, 1)
        assert await db.numbers() == []
    assert await db.numbers() == [1]
    with pytest.raises(KeyError):
        async with pools.transaction("p") as conn:
            await db.add(conn, 2)
            raise KeyError
    assert await db.numbers() == [1]
    assert await db.is_at_rest()
    assert (await pools.get_statistics())["p"]["resets"] <= 1, "it was rolled back before it was released"


async def test_a_transaction_within_is_a_savepoint(db):
    pools = db.pools
    async with pools.transaction("p") as conn:
        await db.add(conn, 1)
        async with pools.transaction(conn) as same:
            assert same is conn
            await db.add(conn, 2)
        with pytest.raises(KeyError):
            async with pools.transaction(conn):
                await db.add(conn, 3)
                async with pools.transaction(conn):
                    await db.add(conn, 4)
                raise KeyError
        with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
            async with pools.transaction(conn):
                await db.add(conn, 1)
        await db.add(conn, 5)
    assert await db.numbers() == [1, 2, 5]
    async with pools.connection("p") as conn:
        async with pools.transaction(conn):
            await db.add(conn, 6)
        with pytest.raises(KeyError):
            async with pools.transaction(conn):
                await db.add(conn, 7)
                raise KeyError
        assert await db.numbers(conn) == [1, 2, 5, 6]
    assert await db.is_at_rest()


async def test_a_cancellation_at_any_await_rolls_back_and_leaks_nothing(db):
    """Cancelled after 0, 1, 2, ... turns of the event loop, until it is not cancelled any more."""

    async def work():
        async with db.pools.transaction("p", timeout=20) as conn:
            await db.add(conn, 1)
            async with db.pools.transaction(conn):
                await db.add(conn, 2)

    for turns in range(2000):
        task = asyncio.create_task(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            break
        seen = await db.numbers()
        assert seen in ([], [1, 2]), "all of it or nothing"
        if seen:  # cancelled in its commit
            await db.pools.execute("p", "DELETE FROM calls")
        assert await db.is_at_rest()
        if turns > 60:
            await asyncio.sleep(0)
    await task
    assert await db.numbers() == [1, 2]


async def test_a_timeout_within_a_transaction_undoes_only_its_savepoint_or_all(db):
    slow = {
        "sqlite": "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) "
        "SELECT count(*) FROM n",
        "postgresql": "SELECT pg_sleep(1)",
        "mysql": "SELECT sleep(1)",
    }[db.backend]
    outcome = None
    try:
        async with db.pools.transaction("p") as conn:
            await db.add(conn, 1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02), db.pools.transaction(conn):
                    await db.add(conn, 2)
                    await db.pools.fetch(conn, slow)
            await db.add(conn, 3)
    except Exception as error:
        outcome = error
    if db.backend == "mysql":  # its driver closes a connection whose call is cancelled
        assert outcome is not None
        assert await db.numbers() == []
    else:
        assert outcome is None
        assert await db.numbers() == [1, 3]
    assert await db.is_at_rest()


async def test_what_is_lost_is_told(db):
    if db.backend == "mysql":
        pytest.skip("statements that define commit at once there")
    with pytest.raises(TransactionAbortedError, match="ended within its block"):
        async with db.pools.transaction("p") as conn:
            await db.add(conn, 1)
            await db.pools.execute(conn, "ROLLBACK")
    if db.backend == "postgresql":
        with pytest.raises(TransactionAbortedError, match="a statement of the transaction had failed"):
            async with db.pools.transaction("p") as conn:
                await db.add(conn, 1)
                with pytest.raises(Exception, match="division by zero"):
                    await db.pools.fetchval(conn, "SELECT 1/0")
    with pytest.raises(
        TransactionAbortedError, match="a savepoint of the transaction could not be rolled back"
    ):
        async with db.pools.transaction("p") as conn:
            await db.add(conn, 1)
            with pytest.raises(KeyError):
                async with db.pools.transaction(conn):
                    await db.pools.execute(conn, "ROLLBACK")
                    raise KeyError
    assert await db.numbers() == []
    assert await db.is_at_rest()


async def test_a_lease_released_within_its_block_is_an_error_and_takes_nothing_from_the_next(db):
    with pytest.raises(LeaseError, match="released"):
        async with db.pools.transaction("p") as conn:
            await db.add(conn, 1)
            await db.pools.release_connection("p", conn)
    assert await db.is_at_rest()
    with pytest.raises(KeyError):
        async with db.pools.transaction("p") as conn:
            await db.pools.release_connection("p", conn)
            raise KeyError
    assert await db.numbers() == []
    assert await db.is_at_rest()


async def test_how_it_begins(db):
    pools = db.pools
    level = {"sqlite": "SERIALIZABLE", "postgresql": "repeatable read", "mysql": "Repeatable-Read"}[
        db.backend
    ]
    async with pools.transaction("p", isolation=level) as conn:
        if db.backend == "postgresql":
            assert await pools.fetchval(conn, "SHOW transaction_isolation") == "repeatable read"
        with pytest.raises(MisuseError, match="in a transaction already"):
            async with pools.transaction(conn, isolation=level):
                pass
    if db.backend == "sqlite":
        for mode in ("deferred", "IMMEDIATE", "exclusive"):
            async with pools.transaction("p", mode=mode):
                pass
        wrong = {"isolation": "read_committed"}, {"read_only": True}
    else:
        with pytest.raises(Exception, match=r"(?i)read.only"):
            async with pools.transaction("p", read_only=True) as conn:
                await db.add(conn, 1)
        wrong = ({"mode": "immediate"},)
    for options in (*wrong, {"isolation": "chaos"}, {"mode": "later"}, {"read_only": 1}, {"isolation": 5}):
        with pytest.raises(InvalidArgumentError, match=f"^{next(iter(options))} = "):
            async with pools.transaction("p", **options):
                pass
    assert await db.is_at_rest()
    assert not (await pools.get_statistics())["p"]["demoted"]


async def test_a_context_serves_one_block_at_a_time_and_then_another(db):
    context = db.pools.transaction("p")
    for n in (1, 2):
        async with context as conn:
            with pytest.raises(LeaseError, match="in use already"):
                await context.__aenter__()
            await db.add(conn, n)
    assert await db.numbers() == [1, 2]


async def test_nobody_waits_with_a_timeout_of_zero(db):
    async with db.pools.connection("p"), db.pools.connection("p"):
        for call in (
            db.pools.fetch("p", "SELECT 1", timeout=0),
            db.pools.transaction("p", timeout=0).__aenter__(),
        ):
            with pytest.raises(TimeoutError, match="no connection is idle"):
                await call


async def test_misuse_is_named(db):
    pools = db.pools
    with pytest.raises(InvalidArgumentError, match=r"sql = 5: expected a statement"):
        await pools.fetch("p", 5)
    with pytest.raises(InvalidArgumentError, match="target = None: expected the name of a pool, or a lease"):
        await pools.fetch(None, "SELECT 1")
    with pytest.raises(UnknownPoolError):
        await pools.fetch("q", "SELECT 1")
    async with pools.connection("p") as conn:
        pass
    with pytest.raises(LeaseError, match="released"):
        await pools.fetch(conn, "SELECT 1")
    with pytest.raises(LeaseError, match="released"):
        async with pools.transaction(conn):
            pass
    assert await db.is_at_rest()


async def test_redis_is_sent_elsewhere(redis_url):
    pools = ConnectionPoolManager()
    await pools.create_pool("r", "redis", 1, 1, url=redis_url)
    try:
        with pytest.raises(MisuseError, match=r"sqlite; on Redis use connection\(\), and conn.pipeline"):
            await pools.fetch("r", "SELECT 1")
        with pytest.raises(MisuseError, match="pipeline"):
            async with pools.transaction("r"):
                pass
        assert (await pools.get_statistics())["r"]["active_connections"] == 0
    finally:
        await pools.disable()


@pytest.fixture
async def lite(tmp_path):
    pools = ConnectionPoolManager()
    await pools.create_pool("p", "sqlite", 2, 2, url=f"sqlite:///{tmp_path}/p.db?timeout=10")
    await pools.execute("p", "CREATE TABLE t (n)")
    await pools.execute("p", "INSERT INTO t VALUES (0)")
    yield pools
    await pools.disable()


async def test_sqlite_counts_rows_of_returning_and_of_with(lite):
    assert await lite.execute("p", "INSERT INTO t VALUES (1), (2) RETURNING n") == 2
    assert await lite.execute("p", "WITH x AS (SELECT 3 AS n) INSERT INTO t SELECT n FROM x") == 1
    assert await lite.execute("p", "WITH x AS (SELECT 3 AS n) SELECT n FROM x") == 0
    assert await lite.fetchval("p", "INSERT INTO t VALUES (:a), (:a) RETURNING n", {"a": 4}) == 4
    assert await lite.fetchval("p", "SELECT count(*) FROM t") == 6


@pytest.mark.parametrize("kind", [dict, sqlite3.Row])
async def test_rows_of_another_kind_are_the_users(lite, kind):
    def init(connection):
        connection.row_factory = kind if kind is sqlite3.Row else as_dict

    def as_dict(cursor, row):
        return dict(zip([column[0] for column in cursor.description], row, strict=True))

    await lite.create_pool("own", "sqlite", 1, 1, url=lite._pools["p"].spec.url, init=init)
    assert await lite.execute("own", "WITH x AS (SELECT 3 AS n) INSERT INTO t SELECT n FROM x") == 1
    assert await lite.fetchval("own", "SELECT max(n) AS most FROM t") == 3
    assert (await lite.fetchrow("own", "SELECT max(n) AS most FROM t"))["most"] == 3


async def test_two_deferred_transactions_that_read_and_then_write_deadlock_and_immediate_ones_do_not(lite):
    both_have_read = asyncio.Barrier(2)

    async def count_up(mode):
        async with lite.transaction("p", mode=mode) as conn:
            n = await lite.fetchval(conn, "SELECT n FROM t")
            if mode == "deferred":
                await both_have_read.wait()
            await lite.execute(conn, "UPDATE t SET n = ?", n + 1)

    outcomes = await asyncio.gather(count_up("deferred"), count_up("deferred"), return_exceptions=True)
    [failure] = [outcome for outcome in outcomes if outcome is not None]
    assert isinstance(failure, sqlite3.OperationalError)
    assert "locked" in str(failure), "at once, whatever the timeout"
    await asyncio.gather(*[count_up("immediate") for _ in range(10)])
    assert await lite.fetchval("p", "SELECT n FROM t") == 11


async def test_a_call_that_waits_for_a_lock_of_sqlite_can_be_cancelled(lite):
    async with lite.transaction("p"):
        waiting = asyncio.create_task(lite.execute("p", "UPDATE t SET n = 9"))
        await until_idle()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting  # at once, although its thread still waits
    async with asyncio.timeout(20):
        while lite._pools["p"].pool.proving:
            await asyncio.sleep(0.005)
    assert await lite.fetchval("p", "SELECT n FROM t") == 0


ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.mark.parametrize("call", ["fetchval", "fetch", "execute"])
async def test_who_holds_a_connection_by_a_call_is_told(tmp_path, call):
    pools = ConnectionPoolManager()
    await pools.create_pool("p", "sqlite", min_size=1, max_size=1, url=f"sqlite:///{tmp_path}/p.db")

    async def count_for_ever():
        await getattr(pools, call)("p", ENDLESS)

    counting = asyncio.create_task(count_for_ever())
    await until_idle()
    try:
        with pytest.raises(PoolTimeoutError, match=r"at .*test_sql_calls\.py:\d+ in count_for_ever\)"):
            await pools.acquire_connection("p", timeout=0.01)
    finally:
        counting.cancel()
        await asyncio.wait([counting])
        await pools.disable()
