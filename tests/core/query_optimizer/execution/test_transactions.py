"""What a transaction writes shows to others when it ends, and to nobody before."""

import asyncio
import contextlib
import contextvars

import pytest

from bot.core.query_optimizer import QueryOptimizer
from tests.support.counting_database import CountingDatabase, in_fresh_context, kept

READ = "SELECT * FROM users"
WRITE = "UPDATE users SET x = 1"


@pytest.fixture
def db():
    return CountingDatabase()


@pytest.fixture
async def optimizer(clock):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable(dialect="postgres")
    yield optimizer
    optimizer._invalidation.cache.check_invariants()
    await optimizer.disable()


async def test_what_a_transaction_wrote_is_dropped_again_when_it_ends(optimizer, db):
    await optimizer.execute("BEGIN", None, db)
    await optimizer.execute(WRITE, None, db)
    # Somebody else reads what is committed, which is the old state, and that is cached.
    await asyncio.create_task(in_fresh_context(optimizer.execute(READ, None, db)))
    await optimizer.execute("SELECT * FROM files", None, db)
    await optimizer.execute("COMMIT", None, db)
    assert await kept(optimizer, READ) == [False]


async def test_a_transaction_sees_its_own_writes_and_shows_them_to_nobody(optimizer, db):
    old = await optimizer.execute(READ, None, db)
    await optimizer.execute("BEGIN", None, db)
    assert await optimizer.execute(READ, None, db) == old, "not written yet"
    await optimizer.execute(WRITE, None, db)
    committed = await in_fresh_context(optimizer.execute(READ, None, db))
    own = await optimizer.execute(READ, None, db)
    assert own != committed
    assert await optimizer.get_cached_result(READ) is None
    assert await optimizer.cache_query_result(READ, "uncommitted") is False
    assert await in_fresh_context(optimizer.execute(READ, None, db)) == committed, "cached, and nobody's else"
    await optimizer.execute("ROLLBACK", None, db)
    await optimizer.execute(READ, None, db)
    assert await kept(optimizer, READ) == [True], "after its end results are kept again"


async def test_a_transaction_of_the_driver(optimizer, db):
    told = []
    optimizer.after_write(lambda tables: told.append(tables))
    async with optimizer.transaction():
        async with optimizer.transaction():  # inner ones are part of the outer
            await optimizer.execute(WRITE, None, db)
        await in_fresh_context(optimizer.execute(READ, None, db))
    assert await kept(optimizer, READ) == [False]
    assert told == [["users"], ["users"]]
    with contextlib.suppress(KeyError):
        async with optimizer.transaction():
            await optimizer.execute(WRITE, None, db)
            await in_fresh_context(optimizer.execute(READ, None, db))
            raise KeyError
    assert await kept(optimizer, READ) == [False]


async def test_a_transaction_whose_task_ended_without_an_end_is_forgotten(optimizer, db):
    async def forgetful():
        await optimizer.execute("BEGIN", None, db)
        await optimizer.execute(WRITE, None, db)

    await asyncio.create_task(forgetful())
    await asyncio.sleep(0)
    assert optimizer._in_transaction[0] == 0
    await optimizer.execute(READ, None, db)
    assert await kept(optimizer, READ) == [True]


async def test_a_script_with_its_own_transaction_leaves_none_open(optimizer, db):
    await optimizer.execute(f"BEGIN; {WRITE}; COMMIT", None, db)
    assert optimizer._in_transaction[0] == 0
    await optimizer.execute(f"BEGIN; {WRITE}", None, db)
    assert optimizer._in_transaction[0] == 1
    await in_fresh_context(optimizer.execute(READ, None, db))
    await optimizer.execute("COMMIT", None, db)
    assert await kept(optimizer, READ) == [False]


async def read_by_another(optimizer, db):
    """Somebody else reads what is committed, and that is cached."""
    await in_fresh_context(optimizer.execute(READ, None, db))
    assert await in_fresh_context(optimizer.get_cached_result(READ)) is not None


async def is_kept(optimizer):
    return (await in_fresh_context(kept(optimizer, READ)))[0]


@pytest.mark.parametrize(
    ("dialect", "begin", "end"),
    [
        ("sqlite", "BEGIN", "END"), ("sqlite", "SAVEPOINT s", "RELEASE s"),
        ("sqlite", "SAVEPOINT s", "COMMIT"), ("mysql", "SET autocommit = 0", "COMMIT"),
        ("mysql", "SET autocommit = 0", "SET autocommit = 1"), ("mysql", "BEGIN", "COMMIT RELEASE"),
        ("mysql", "BEGIN", "BEGIN"), ("mysql", "BEGIN", "TRUNCATE other"),
        ("", "BEGIN", "BEGIN"), ("", "BEGIN", "CREATE TABLE other (x INT)"),
        ("postgres", "BEGIN", "COMMIT AND CHAIN"), ("postgres", "BEGIN", "COMMIT; BEGIN"),
        ("postgres", "BEGIN", "BEGIN; DELETE FROM other; COMMIT"),
        ("postgres", "BEGIN", "ROLLBACK AND CHAIN"),
    ],
)  # fmt: skip
async def test_every_way_to_commit_drops_what_was_written(optimizer, db, dialect, begin, end):
    await optimizer.enable(dialect=dialect)
    await optimizer.execute(begin, None, db)
    await optimizer.execute(WRITE, None, db)
    await read_by_another(optimizer, db)
    await optimizer.execute(end, None, db)
    assert not await is_kept(optimizer)


@pytest.mark.parametrize(
    ("dialect", "begin", "end"),
    [
        ("postgres", "BEGIN", "COMMIT AND CHAIN"), ("postgres", "BEGIN", "COMMIT; BEGIN"),
        ("mysql", "SET autocommit = 0", "COMMIT"), ("mysql", "SET autocommit = 0", "ROLLBACK"),
        ("mysql", "BEGIN", "BEGIN"), ("sqlite", "SAVEPOINT s", "ROLLBACK TO s"),
        ("postgres", "SELECT 1", "COMMIT; BEGIN"), ("", "SELECT 1", "COMMIT AND CHAIN"),
    ],
)  # fmt: skip
async def test_the_transaction_that_follows_shows_its_writes_to_nobody(optimizer, db, dialect, begin, end):
    await optimizer.enable(dialect=dialect)
    await optimizer.execute(begin, None, db)
    await optimizer.execute(end, None, db)
    await optimizer.execute(WRITE, None, db)
    await optimizer.execute(READ, None, db)
    assert not await is_kept(optimizer), "it is not committed"
    await read_by_another(optimizer, db)
    await optimizer.execute("COMMIT", None, db)
    assert not await is_kept(optimizer)


@pytest.mark.parametrize("end", ["ROLLBACK", "ROLLBACK TO s"])
async def test_what_is_undone_without_a_beginning_that_was_seen_is_kept_nowhere(optimizer, db, end):
    """The driver began it, or another task: what was read inside is cached as if it were committed."""
    await optimizer.execute(WRITE, None, db)
    await optimizer.execute(READ, None, db)
    await optimizer.execute(end, None, db)
    assert not await is_kept(optimizer)


async def test_an_inner_savepoint_that_is_released_commits_nothing(optimizer, db):
    await optimizer.enable(dialect="sqlite")
    for step in ("SAVEPOINT a", "SAVEPOINT a", WRITE, "RELEASE a", READ):
        await optimizer.execute(step, None, db)
    assert not await is_kept(optimizer), "it is not committed"
    await read_by_another(optimizer, db)
    await optimizer.execute("RELEASE a", None, db)
    assert not await is_kept(optimizer)
    assert optimizer._in_transaction[0] == 0


async def test_savepoints_within_a_transaction_change_nothing(optimizer, db):
    for step in ("BEGIN", "SAVEPOINT a", WRITE, "ROLLBACK TO a", "RELEASE a"):
        await optimizer.execute(step, None, db)
    await read_by_another(optimizer, db)
    assert optimizer._in_transaction[0] == 1
    await optimizer.execute("ROLLBACK", None, db)
    assert (optimizer._in_transaction[0], await is_kept(optimizer)) == (0, False)


async def test_a_definition_that_fails_has_committed_in_mysql(optimizer, db):
    async def fails(query, params):
        raise OSError

    await optimizer.enable(dialect="mysql")
    await optimizer.execute("BEGIN", None, db)
    await optimizer.execute(WRITE, None, db)
    await read_by_another(optimizer, db)
    with pytest.raises(OSError):
        await optimizer.execute("CREATE TABLE other (x INT)", None, fails)
    assert not await is_kept(optimizer)


@pytest.mark.parametrize(
    "commit", ["GRANT SELECT ON a TO b", "LOCK TABLES a READ", "ANALYZE TABLE a", "START TRANSACTION"]
)
async def test_what_commits_by_the_way_in_mysql_shows_what_was_written(optimizer, db, commit):
    await optimizer.enable(dialect="mysql")
    for statement in ("BEGIN", "UPDATE a SET x = 1"):
        await optimizer.execute(statement, None, db)
    # Another context reads, and caches, what was before the commit.
    other = contextvars.Context()
    await asyncio.create_task(optimizer.execute("SELECT * FROM a", None, db), context=other)
    assert "SELECT * FROM a" in optimizer._invalidation.cache.live
    await optimizer.execute(commit, None, db)
    assert "SELECT * FROM a" not in optimizer._invalidation.cache.live


async def test_a_prepared_transaction_shows_when_it_is_committed_by_whomever(optimizer, db):
    for statement in ("BEGIN", "UPDATE a SET x = 1", "PREPARE TRANSACTION 'one'", "SELECT * FROM a"):
        await optimizer.execute(statement, None, db)
    assert await kept(optimizer, "SELECT * FROM a") == [True]
    commit = optimizer.execute("COMMIT PREPARED 'one'", None, db)
    await asyncio.create_task(commit, context=contextvars.Context())
    assert await kept(optimizer, "SELECT * FROM a") == [False]


async def test_what_is_read_within_an_xa_transaction_is_not_cached(optimizer, db):
    await optimizer.enable(dialect="mysql")
    for statement in ("XA START 'one'", "UPDATE a SET x = 1", "SELECT * FROM a"):
        await optimizer.execute(statement, None, db)
    assert await kept(optimizer, "SELECT * FROM a") == [False]
