"""No result is served after a write to what it read, whatever way the write takes."""

import pytest

from bot.core.query_optimizer import QueryOptimizer, Scope
from tests.support.counting_database import CountingDatabase, kept


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


@pytest.mark.parametrize("message", [None, "users", [5], ["*"], ["users", "*"]])
async def test_what_was_missed_or_cannot_be_read_drops_everything(optimizer, db, message):
    queries = ["SELECT * FROM users", "SELECT * FROM files"]
    for query in queries:
        await optimizer.execute(query, None, db)
    optimizer.written_elsewhere(message)
    assert await kept(optimizer, *queries) == [False, False]


async def test_a_star_is_any_table(optimizer, db):
    queries = ["SELECT * FROM v", "SELECT * FROM w", "SELECT * FROM files"]
    await optimizer.declare_view("v", "*")
    await optimizer.enable(views={"w": ["*"]})
    for query in queries:
        await optimizer.execute(query, None, db)
    await optimizer.execute("DELETE FROM users", None, db)
    assert await kept(optimizer, *queries) == [False, False, True]
    assert await optimizer.invalidate_tables("*") == 1
    await optimizer.declare_cascade("users", "*")
    await optimizer.execute(queries[2], None, db)
    await optimizer.execute("DELETE FROM users", None, db)
    assert await kept(optimizer, queries[2]) == [False]
    for declare in (optimizer.declare_view, optimizer.declare_cascade):
        with pytest.raises(ValueError, match=r"'\*': expected names of tables"):
            await declare("*", "users")


async def test_other_instances_hear_of_each_write(optimizer, db):
    heard = []
    shop, crm = Scope(database="shop"), Scope(database="crm")
    optimizer.after_write(heard.append)
    await optimizer.execute("DELETE FROM users", None, db)
    await optimizer.execute("DELETE FROM t", None, db, scope=crm)
    for scope in (shop, crm):
        await optimizer.execute("SELECT * FROM t", None, db, scope=scope)
    optimizer.written_elsewhere(heard[1])
    assert await optimizer.get_cached_result("SELECT * FROM t", scope=shop) is not None
    assert await optimizer.get_cached_result("SELECT * FROM t", scope=crm) is None
    await optimizer.execute("garbage", None, db)
    assert [tables[0] for tables in heard] == ["users", "t", "*"]
    optimizer.after_write(None)
    await optimizer.execute("DELETE FROM users", None, db)
    assert len(heard) == 3


async def test_fewer_entries_take_effect_at_once(optimizer, db):
    queries = [f"SELECT * FROM t WHERE id = {n}" for n in range(20)]
    for query in queries:
        await optimizer.execute(query, None, db)
    await optimizer.enable(cache_max_entries=5)
    assert sum(await kept(optimizer, *queries)) <= 5


async def test_a_function_that_the_database_defines_is_not_the_built_in(optimizer, db):
    query = "SELECT upper(name) FROM users"
    await optimizer.execute(query, None, db)
    assert await kept(optimizer, query) == [True]
    await optimizer.execute("CREATE FUNCTION upper(text) RETURNS text AS 'x' LANGUAGE c", None, db)
    await optimizer.execute(query, None, db)
    assert await kept(optimizer, query) == [False], "it may be another, which is not known"
