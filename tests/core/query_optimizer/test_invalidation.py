"""No result is served after a write to what it read, whatever way the write takes."""

import asyncio
import contextlib
import contextvars

import pytest

from bot.core.query_optimizer import QueryOptimizer


class Counter:
    """A database that counts how often it is asked, and answers with that count."""

    def __init__(self):
        self.asked = 0

    async def __call__(self, query, params):
        self.asked += 1
        return self.asked


@pytest.fixture
def db():
    return Counter()


@pytest.fixture
async def optimizer(clock):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable(dialect="postgres")
    yield optimizer
    optimizer._invalidation.cache.check_invariants()
    await optimizer.disable()


async def kept(optimizer, *queries):
    return [await optimizer.get_cached_result(query) is not None for query in queries]


async def test_schemas_are_told_apart(optimizer, db):
    queries = ["SELECT * FROM shop.users", "SELECT * FROM crm.users", "SELECT * FROM users"]
    for query in queries:
        await optimizer.execute(query, None, db)
    await optimizer.execute("DELETE FROM shop.users", None, db)
    assert await kept(optimizer, *queries) == [False, True, False], "users may be shop's"
    await optimizer.execute(queries[0], None, db)
    await optimizer.invalidate_tables("users")
    assert await kept(optimizer, *queries) == [False, False, False]


async def test_quoted_names_are_others(optimizer, db):
    queries = ["SELECT * FROM users", 'SELECT * FROM "Users"']
    for query in queries:
        await optimizer.execute(query, None, db)
    await optimizer.execute('DELETE FROM "Users"', None, db)
    assert await kept(optimizer, *queries) == [True, False]
    await optimizer.execute(queries[1], None, db)
    assert await optimizer.invalidate_tables("Users") == 2, "meant either way"


async def test_a_view_that_is_declared_follows_its_tables(optimizer, db):
    view = "SELECT * FROM active"
    await optimizer.execute(view, None, db)
    await optimizer.declare_view("active", "users", "shop.orders")
    assert await kept(optimizer, view) == [False], "filed before it was known"
    for write in ("DELETE FROM users", "DELETE FROM shop.orders", "UPDATE active SET x = 1"):
        await optimizer.execute(view, None, db)
        await optimizer.execute(write, None, db)
        assert await kept(optimizer, view) == [False]
    await optimizer.execute(view, None, db)
    await optimizer.execute("DELETE FROM crm.orders", None, db)
    assert await kept(optimizer, view) == [True]
    with pytest.raises(ValueError, match="tables = ''"):
        await optimizer.declare_view("active", "")


async def test_a_view_whose_definition_passes_through_is_known(optimizer, db):
    await optimizer.execute("CREATE VIEW v AS SELECT * FROM users JOIN files USING (id)", None, db)
    await optimizer.execute("SELECT * FROM v", None, db)
    await optimizer.execute("INSERT INTO files VALUES (1)", None, db)
    assert await kept(optimizer, "SELECT * FROM v") == [False]


async def test_a_write_through_a_view_reaches_its_tables(optimizer, db):
    await optimizer.declare_view("v", "users")
    await optimizer.execute("SELECT * FROM users", None, db)
    await optimizer.execute("UPDATE v SET x = 1", None, db)
    assert await kept(optimizer, "SELECT * FROM users") == [False]


async def test_cascades(optimizer, db):
    await optimizer.declare_cascade("users", "files")
    await optimizer.execute("SELECT * FROM files", None, db)
    await optimizer.execute("DELETE FROM users WHERE id = 1", None, db)
    assert await kept(optimizer, "SELECT * FROM files") == [False]


async def test_views_and_functions_from_the_settings(optimizer, db):
    await optimizer.enable(views={"v": ["users"]}, cascades={"users": ["log"]}, pure_functions=["tax"])
    queries = ["SELECT * FROM v", "SELECT * FROM log", "SELECT tax(x) FROM files"]
    for query in queries:
        await optimizer.execute(query, None, db)
    await optimizer.execute("DELETE FROM users", None, db)
    assert await kept(optimizer, *queries) == [False, False, True]
    for bad in ({"v": "users"}, {"v": [""]}, {"": ["users"]}):
        with pytest.raises(ValueError, match="views"):
            await optimizer.enable(views=bad)
    with pytest.raises(ValueError, match="pure_functions"):
        await optimizer.enable(pure_functions="tax")


@pytest.mark.parametrize(
    "write",
    ["SELECT add_user('x')", "DO $$ BEGIN DELETE FROM users; END $$", "TRUNCATE users CASCADE", "CALL p()",
     "SET search_path = other", "COMMIT", "ROLLBACK", "ROLLBACK TO s", "END", "COMMIT AND CHAIN",
     "garbage", "EXPLAIN ANALYZE DELETE FROM users"],
)  # fmt: skip
async def test_what_cannot_be_understood_drops_everything(optimizer, db, write):
    await optimizer.execute("SELECT * FROM users", None, db)
    await optimizer.execute(write, None, db)
    assert await kept(optimizer, "SELECT * FROM users") == [False]


async def test_what_another_instance_wrote_is_read_by_the_same_rules(optimizer, db):
    queries = ["SELECT * FROM shop.users", "SELECT * FROM crm.users", "SELECT * FROM v"]
    await optimizer.declare_view("v", "shop.users")
    for query in queries:
        await optimizer.execute(query, None, db)
    optimizer.written_elsewhere(["shop.users"])
    assert await kept(optimizer, *queries) == [False, True, False]


READ = "SELECT * FROM users"
WRITE = "UPDATE users SET x = 1"


async def test_what_a_transaction_wrote_is_dropped_again_when_it_ends(optimizer, db):
    await optimizer.execute("BEGIN", None, db)
    await optimizer.execute(WRITE, None, db)
    # Somebody else reads what is committed, which is the old state, and that is cached.
    await asyncio.create_task(in_fresh_context(optimizer.execute(READ, None, db)))
    await optimizer.execute("SELECT * FROM files", None, db)
    await optimizer.execute("COMMIT", None, db)
    assert await kept(optimizer, READ) == [False]


async def in_fresh_context(work):
    return await asyncio.get_running_loop().create_task(work, context=contextvars.Context())


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


@pytest.mark.parametrize(
    ("dialect", "query", "params", "cached"),
    [
        ("postgres", "SELECT * FROM a WHERE t < $1", ("now",), False),
        ("postgres", "SELECT * FROM a WHERE t < $1", (" Today 12:00 ",), False),
        ("postgres", "SELECT * FROM a WHERE t = ANY($1)", (["2024-01-01", "tomorrow"],), False),
        ("postgres", "SELECT * FROM a WHERE t < %(t)s", {"t": b"yesterday"}, False),
        ("postgres", "SELECT * FROM a WHERE t < $1", ("2024-01-01",), True),
        ("postgres", "SELECT * FROM a WHERE s = $1", ("knows",), True),
        ("", "SELECT * FROM a WHERE t < ?", ("now",), False),
        ("sqlite", "SELECT strftime('%Y', ?)", ("NOW",), False),
        ("sqlite", "SELECT julianday(?)", ("now",), False),
        ("sqlite", "SELECT date(?)", ("2024-01-01",), True),
        ("sqlite", "SELECT * FROM a WHERE s = ?", ("now",), True),
        ("mysql", "SELECT * FROM a WHERE s = %s", ("now",), True),
    ],
)  # fmt: skip
async def test_a_parameter_that_may_be_the_current_time(optimizer, db, dialect, query, params, cached):
    await optimizer.enable(dialect=dialect)
    await optimizer.execute(query, params, db)
    assert (await optimizer.get_cached_result(query, params) is not None) is cached
    assert await optimizer.cache_query_result(query, [1], params=params, fresh=True) is cached
