"""``@optimize_query`` on the functions that bots already have."""

import pytest

from bot.core.query_optimizer import QueryOptimizer, optimize_query


@pytest.fixture
async def optimizer():
    optimizer = QueryOptimizer.get_instance()
    await optimizer.enable()
    yield optimizer
    await optimizer.disable()


async def test_reads_are_cached_and_writes_drop_them(optimizer):
    executed = []

    @optimize_query
    async def run(sql, *params, limit=None):
        executed.append(sql)
        return [sql, *params, limit]

    read = "SELECT * FROM users WHERE id = ?"
    assert await run(read, 1) == await run(read, 1) == [read, 1, None]
    await run(read, 2)
    await run(read, 1, limit=5)
    assert len(executed) == 3
    await run("UPDATE users SET name = ?", "x")
    await run(read, 1)
    assert len(executed) == 5


async def test_arguments_by_position_and_by_name_are_one_call(optimizer):
    executed = []

    @optimize_query(ttl=60)
    async def run(query, user_id=1):
        executed.append(user_id)
        return user_id

    for call in (run("SELECT 1"), run("SELECT 1", 1), run("SELECT 1", user_id=1), run(query="SELECT 1")):
        await call
    assert executed == [1]


async def test_self_is_left_out(optimizer):
    executed = []

    class Repository:
        @optimize_query
        async def fetch(self, text):
            executed.append(text)
            return [text]

    await Repository().fetch("SELECT 1")
    await Repository().fetch("SELECT 1")
    assert executed == ["SELECT 1"]


async def test_two_functions_with_one_text_do_not_share(optimizer):
    @optimize_query
    async def main(query):
        return "main"

    @optimize_query
    async def archive(query):
        return "archive"

    assert (await main("SELECT 1"), await archive("SELECT 1")) == ("main", "archive")


async def test_a_call_without_a_query_or_with_a_connection_is_just_made(optimizer):
    executed = []

    @optimize_query
    async def run(connection, query):
        executed.append(query)

    connection = object()
    for _ in range(2):
        await run(connection, "SELECT 1")
        await run(connection, None)
    assert executed == ["SELECT 1", None] * 2


async def test_off_means_called(optimizer):
    executed = []

    @optimize_query
    async def run(query):
        executed.append(query)

    await optimizer.disable()
    await run("SELECT 1")
    await run("SELECT 1")
    assert len(executed) == 2


async def test_errors_and_faces_are_the_functions_own(optimizer):
    @optimize_query
    async def run(query):
        """About it."""
        raise KeyError(query)

    assert (run.__name__, run.__doc__) == ("run", "About it.")
    with pytest.raises(KeyError):
        await run("SELECT 1")
    with pytest.raises(TypeError, match="is not an async function"):
        optimize_query(lambda query: None)
