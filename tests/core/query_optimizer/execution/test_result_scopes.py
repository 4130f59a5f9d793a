"""Whose view of the data a result is: what scopes share, and what a write in one drops."""

import asyncio
import enum
import uuid

import pytest

from bot.core.query_optimizer import QueryOptimizer, Scope, optimize_query
from tests.core.query_optimizer.execution.test_lookups import write

READ = "SELECT v FROM t"


class Role(enum.Enum):
    ADMIN = 1
    GUEST = 2


A = Scope(database="a")
A_AS_GUEST = Scope(database="a", role="guest")
B = Scope(database="b")


@pytest.fixture
async def optimizer(clock):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable(dialect="postgres")
    yield optimizer
    optimizer._invalidation.cache.check_invariants()
    await optimizer.disable()


async def fill(optimizer, *scopes, query=READ):
    for scope in scopes:
        await optimizer.cache_query_result(query, f"of {scope!r}", scope=scope, fresh=True)


async def left(optimizer, *scopes, query=READ):
    """The scopes whose result is still there."""
    found = [scope for scope in scopes if await optimizer.get_cached_result(query, scope=scope) is not None]
    for scope in found:
        assert await optimizer.get_cached_result(query, scope=scope) == f"of {scope!r}", (
            "another one's result"
        )
    return found


ALL = (
    None, "a", "b", "1", 1, True, 1.0, b"1", Role.ADMIN, Role.GUEST, uuid.UUID(int=1), ("a", "b"),
    ("a", ("b",)),
    (None,), "", A, B, A_AS_GUEST, Scope(role="a"), Scope(tenant="a"), Scope(search_path="a"),
)  # fmt: skip


async def test_every_scope_has_results_of_its_own(optimizer):
    await fill(optimizer, *ALL)
    assert await left(optimizer, *ALL) == list(ALL)
    runs = []

    async def run(query, params):
        runs.append(query)

    for scope in ALL:
        assert await optimizer.execute(READ, None, run, scope=scope) == f"of {scope!r}"
        await optimizer.execute(READ, (1,), run, scope=scope)
        await optimizer.execute(READ, (1,), run, scope=scope)
    assert len(runs) == len(ALL)


async def test_callers_of_two_scopes_do_not_share_a_run(optimizer):
    async def run(query, params):
        await asyncio.sleep(0)
        runs.append(query)
        return len(runs)

    runs = []
    one, two = await asyncio.gather(
        optimizer.execute(READ, None, run, scope="one"), optimizer.execute(READ, None, run, scope="two")
    )
    assert one != two


PLAIN = (None, "a", "b", Scope(role="x"), Scope(tenant=2))
"""Scopes of which it is not known which database they are in."""


@pytest.mark.parametrize(
    ("written_by", "remain"),
    [
        (None, []),
        ("a", []),  # a role or a tenant: it shares the table with the others
        (Scope(role="x"), []),
        (A, [B]),
        (A_AS_GUEST, [B]),
        (B, [A, A_AS_GUEST]),
        (Scope(database="c"), [A, A_AS_GUEST, B]),
    ],
)
async def test_a_write_drops_what_may_share_the_table(optimizer, written_by, remain):
    scopes = (*PLAIN, A, A_AS_GUEST, B)
    await fill(optimizer, *scopes)
    await write(optimizer, "UPDATE t SET v = 2", scope=written_by)
    assert await left(optimizer, *scopes) == remain
    await fill(optimizer, *scopes)
    await optimizer.invalidate_tables("t", scope=written_by)
    assert await left(optimizer, *scopes) == remain
    await fill(optimizer, *scopes)
    async with optimizer.transaction():
        await write(optimizer, "UPDATE t SET v = 2", scope=written_by)
        begun = optimizer._invalidation.cache.begin()
    # What others kept before the commit is dropped by it.
    for scope in scopes:
        marks = optimizer._invalidation.marks_of(
            optimizer._analyses.analyse(READ), optimizer._invalidation.scope_of(scope)[1]
        )
        assert optimizer._invalidation.cache.written_since(begun, marks) is (scope not in remain)


async def test_a_transaction_over_two_databases_drops_in_both(optimizer):
    await write(optimizer, "BEGIN")
    await write(optimizer, "UPDATE t SET v = 2", scope=A)
    await write(optimizer, "UPDATE t SET v = 2", scope=B)
    begun = optimizer._invalidation.cache.begin()
    await write(optimizer, "COMMIT")
    for scope in (A, B):
        marks = optimizer._invalidation.marks_of(
            optimizer._analyses.analyse(READ), optimizer._invalidation.scope_of(scope)[1]
        )
        assert optimizer._invalidation.cache.written_since(begun, marks)


async def test_a_write_since_the_look_up_counts_in_the_same_database_only(optimizer):
    for scope in (A, B):
        assert await optimizer.get_cached_result(READ, scope=scope) is None
    await write(optimizer, "UPDATE t SET v = 2", scope=A)
    assert await optimizer.cache_query_result(READ, "old", scope=A) is False
    assert await optimizer.cache_query_result(READ, "right", scope=B) is True
    assert await optimizer.cache_query_result(READ, "no look-up here", scope="c") is False


async def test_a_text_that_nobody_understands_drops_everything_everywhere(optimizer):
    await fill(optimizer, A, B)
    await write(optimizer, "CALL refresh()", scope=A)
    assert await left(optimizer, A, B) == []


@pytest.mark.parametrize(("dialect", "remain"), [("postgres", [B]), ("mysql", []), ("sqlite", []), ("", [])])
async def test_a_qualified_name_leads_out_of_a_database_but_not_in_postgresql(optimizer, dialect, remain):
    await optimizer.enable(dialect=dialect)
    await fill(optimizer, A, B)
    await write(optimizer, "UPDATE b.t SET v = 2", scope=A)
    assert await left(optimizer, A, B) == remain
    query = "SELECT v FROM b.t"
    await fill(optimizer, A, query=query)
    await write(optimizer, "UPDATE t SET v = 2", scope=B)
    assert bool(await left(optimizer, A, query=query)) is bool(remain)


async def test_other_instances_are_told_the_database(optimizer):
    other = QueryOptimizer()
    await other.enable(dialect="postgres")
    messages = []

    async def nothing():
        pass

    def hook(tables):
        messages.append(tables)
        other.written_elsewhere(tables)
        return nothing()

    optimizer.after_write(hook)
    await fill(other, None, A, B)
    await write(optimizer, "UPDATE t SET v = 2", scope=A)
    assert await left(other, None, A, B) == [B]
    assert "t" in messages[0], "an instance of an earlier version drops the table everywhere"
    await write(optimizer, "UPDATE t SET v = 2", scope="some role")
    assert messages[1] == ["t"]
    assert await left(other, B) == []
    await other.disable()


@pytest.mark.parametrize("message", ["t", [1], ["t", None], {"t": 1}, 5])
async def test_a_message_that_is_none_drops_everything(optimizer, message):
    await fill(optimizer, None, B)
    optimizer.written_elsewhere(message)
    assert await left(optimizer, None, B) == []


BAD = (["a"], {"a": 1}, {1}, object(), "x" * 1001, ("x" * 500, "y" * 501), 1 << 100_000, Scope(role=[]))


@pytest.mark.parametrize("scope", BAD, ids=lambda scope: type(scope).__name__)
async def test_what_is_no_scope_is_named_where_it_enters(optimizer, scope):
    async def run(query, params):
        raise AssertionError("not run")

    with pytest.raises(ValueError, match="scope = "):
        await optimizer.execute(READ, None, run, scope=scope)
    with pytest.raises(ValueError, match="scope = "):
        await optimizer.get_cached_result(READ, scope=scope)
    with pytest.raises(ValueError, match="scope = "):
        await optimizer.cache_query_result(READ, [], scope=scope)
    with pytest.raises(ValueError, match="scope = "):
        await optimizer.invalidate_tables("t", scope=scope)
    with pytest.raises(ValueError, match="scope = "):
        await optimizer.record_execution(READ, 1.0, scope=scope)
    with pytest.raises(ValueError, match="scope = "):
        await optimizer.analyze_query(READ, scope=scope)
    with pytest.raises(ValueError, match="scope = "):
        optimize_query(scope=scope)(run)


async def test_while_off_a_scope_is_no_matter():
    optimizer = QueryOptimizer()

    async def run(query, params):
        return "run"

    assert await optimizer.execute(READ, None, run, scope=[]) == "run"
    assert await optimizer.get_cached_result(READ, scope="a") is None


async def test_the_decorator_takes_a_scope_or_a_function_that_tells_it():
    optimizer = QueryOptimizer.get_instance()
    await optimizer.enable()
    runs = []

    class Tenant:
        def __init__(self, name):
            self.name = name

        @optimize_query(scope=lambda self, query, **_: self.name)
        async def fetch(self, query, limit=1):
            runs.append(self.name)
            return self.name

        @optimize_query(scope="all")
        async def shared(self, query):
            runs.append("shared")
            return "shared"

    one, two = Tenant("one"), Tenant("two")
    for tenant in (one, two, one, two):
        assert await tenant.fetch(READ, limit=2) == tenant.name
        assert await tenant.shared(READ) == "shared"
    assert runs == ["one", "shared", "two"]

    @optimize_query(scope=lambda query: [query])
    async def wrong(query):
        raise AssertionError("not run")

    with pytest.raises(ValueError, match="scope = "):
        await wrong(READ)
