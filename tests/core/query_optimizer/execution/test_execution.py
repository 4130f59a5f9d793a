"""One run for many callers, and what a run leaves in the cache."""

import asyncio
from contextvars import ContextVar

import pytest

from bot.core.query_optimizer import QueryTimeoutError
from bot.core.query_optimizer.execution.execution import MAX_TOLD
from tests.support.clock import until_idle
from tests.support.counting_database import in_fresh_context

USERS = "SELECT * FROM users WHERE id = ?"


async def test_a_write_that_fails_may_have_written(optimizer, db):
    await optimizer.execute(USERS, (1,), db)
    db.error = RuntimeError("connection lost")
    with pytest.raises(RuntimeError, match="connection lost"):
        await optimizer.execute("DELETE FROM users", None, db)
    assert await optimizer.get_cached_result(USERS, (1,)) is None


async def test_a_write_that_is_cancelled_may_have_written(optimizer, db):
    await optimizer.execute(USERS, (1,), db)
    db.gate.clear()
    task = asyncio.ensure_future(optimizer.execute("DELETE FROM users", None, db))
    await until_idle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await optimizer.get_cached_result(USERS, (1,)) is None


async def test_a_read_that_began_before_a_time_off_is_not_joined_after_it(optimizer, db):
    db.gate.clear()
    before = asyncio.ensure_future(optimizer.execute(USERS, (1,), db))
    await until_idle()
    await optimizer.disable()
    db.rows = [{"id": 1, "name": "new"}]  # written while nobody watched
    await optimizer.enable()
    after = asyncio.ensure_future(optimizer.execute(USERS, (1,), db))
    await until_idle()
    db.gate.set()
    assert await before == [{"id": 1, "name": "ann"}]
    assert await after == [{"id": 1, "name": "new"}]
    assert await optimizer.get_cached_result(USERS, (1,)) == [{"id": 1, "name": "new"}]


@pytest.mark.parametrize("ends", ["UPDATE users SET name = 'new'", "COMMIT"])
async def test_a_write_that_began_while_it_was_off_drops_what_was_cached_since(optimizer, db, ends):
    await optimizer.disable()
    db.gate.clear()
    writing = asyncio.ensure_future(optimizer.execute(ends, None, db))
    await until_idle()
    await optimizer.enable()
    await optimizer.cache_query_result(USERS, [{"id": 1, "name": "ann"}], params=(1,), fresh=True)
    db.gate.set()
    await writing
    assert await optimizer.get_cached_result(USERS, (1,)) is None


async def test_a_write_that_began_while_it_was_off_and_fails_may_have_written(optimizer, db):
    await optimizer.disable()
    db.gate.clear()
    db.error = RuntimeError("connection lost")
    writing = asyncio.ensure_future(optimizer.execute("DELETE FROM users", None, db))
    await until_idle()
    await optimizer.enable()
    await optimizer.cache_query_result(USERS, [{"id": 1, "name": "ann"}], params=(1,), fresh=True)
    db.gate.set()
    with pytest.raises(RuntimeError, match="connection lost"):
        await writing
    assert await optimizer.get_cached_result(USERS, (1,)) is None


@pytest.mark.parametrize("cancel", [False, True])
async def test_nothing_is_answered_or_offered_from_before_a_stop_that_waits(
    optimizer, db, monkeypatch, cancel
):
    await optimizer.execute(USERS, (1,), db)
    assert await optimizer.get_cached_result(USERS, (2,)) is None  # a look-up, to be offered later
    release = asyncio.Event()
    monkeypatch.setattr(optimizer._preload, "ended", release.wait)  # as while it loads the parser
    stopping = asyncio.ensure_future(optimizer.disable())
    await until_idle()
    assert await optimizer.get_cached_result(USERS, (1,)) is None
    if cancel:
        stopping.cancel()
        await asyncio.wait([stopping])
    release.set()
    await asyncio.wait([stopping])
    await optimizer.enable()
    assert not await optimizer.cache_query_result(USERS, [], params=(2,))


async def test_a_read_under_way_while_a_write_happens_is_not_cached(optimizer, db):
    db.gate.clear()
    reading = asyncio.ensure_future(optimizer.execute(USERS, (1,), db))
    await until_idle()
    db.rows = [{"id": 1, "name": "new"}]
    writing = asyncio.ensure_future(optimizer.execute("UPDATE users SET name = 'new'", None, db))
    await until_idle()
    db.gate.set()
    assert (await reading)[0]["name"] == "ann"
    await writing
    assert (await optimizer.execute(USERS, (1,), db))[0]["name"] == "new"


async def test_a_reader_after_a_write_does_not_join_a_run_from_before_it(optimizer, db):
    db.gate.clear()
    before = asyncio.ensure_future(optimizer.execute(USERS, (1,), db))
    await until_idle()
    db.rows = [{"id": 1, "name": "new"}]
    await optimizer.invalidate_tables("users")
    after = asyncio.ensure_future(optimizer.execute(USERS, (1,), db))
    await until_idle()
    db.gate.set()
    assert (await before)[0]["name"] == "ann"
    assert (await after)[0]["name"] == "new"
    assert (await optimizer.get_cached_result(USERS, (1,)))[0]["name"] == "new"


async def test_concurrent_callers_share_one_execution_and_get_a_copy_each(optimizer, db):
    db.gate.clear()
    tasks = [asyncio.ensure_future(optimizer.execute(USERS, (1,), db)) for _ in range(1000)]
    await until_idle()
    for task in tasks[1:200]:
        task.cancel()
    await until_idle()
    db.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert len(db.executed) == 1
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 199
    answered = [results[0], *results[200:]]
    assert all(result == [{"id": 1, "name": "ann"}] for result in answered)
    assert len({id(result) for result in answered}) == 801


async def test_when_the_first_caller_is_cancelled_the_others_share_one_more_execution(optimizer, db):
    db.gate.clear()
    tasks = [asyncio.ensure_future(optimizer.execute(USERS, (1,), db)) for _ in range(100)]
    await until_idle()
    tasks[0].cancel()
    await until_idle()
    tasks[1].cancel()  # whose execution it is now
    await until_idle()
    db.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results[:2]] == [asyncio.CancelledError] * 2
    assert results[2:] == [[{"id": 1, "name": "ann"}]] * 98
    assert len(db.executed) == 2
    assert len({id(result) for result in results[2:]}) == 98


async def test_an_executor_runs_in_the_context_of_the_caller_that_brought_it(optimizer):
    """What it keeps there, such as a database session, is neither that of another caller nor lost."""
    session = ContextVar("session")
    opened = []

    async def run(query, params):
        opened.append(session.get())
        await asyncio.sleep(0 if len(opened) > 1 else 3600)
        return [session.get()]

    async def handler(name):
        session.set(name)
        return await optimizer.execute(USERS, (1,), run)

    first, second = [asyncio.ensure_future(handler(name)) for name in ("first", "second")]
    await until_idle()
    first.cancel()
    assert await second == ["second"]
    assert opened == ["first", "second"]


async def test_an_error_reaches_every_caller_and_is_not_cached(optimizer, db):
    db.error = ValueError("no such column")
    outcomes = await asyncio.gather(
        *[optimizer.execute(USERS, (1,), db) for _ in range(3)], return_exceptions=True
    )
    assert [str(error) for error in outcomes] == ["no such column"] * 3
    db.error = None
    assert await optimizer.execute(USERS, (1,), db)


@pytest.mark.parametrize("takes_notice", [True, False])
async def test_a_read_that_gets_no_answer_holds_nobody_but_who_runs_it(optimizer, takes_notice, caplog):
    await optimizer.enable(query_timeout=0.05)
    silent, cancelled = asyncio.Event(), asyncio.Event()

    async def hangs(query, params):
        while not silent.is_set():
            try:
                await silent.wait()
            except asyncio.CancelledError:
                cancelled.set()
                if takes_notice:
                    raise
        return ["late"]

    tasks = [asyncio.ensure_future(optimizer.execute(USERS, (1,), hangs)) for _ in range(5)]
    joined = await asyncio.gather(*tasks[1:], return_exceptions=True)
    assert [type(error) for error in joined] == [QueryTimeoutError] * 4
    assert "QUERY_OPTIMIZER_QUERY_TIMEOUT" in str(joined[0])
    assert isinstance(joined[0], TimeoutError)
    assert caplog.text.count("Query given up after 0.05 s: SELECT * FROM users WHERE id = ?") == 1

    async def answers(query, params):
        return ["row"]

    assert await optimizer.execute(USERS, (1,), answers) == ["row"], "the next caller starts anew"
    await cancelled.wait()
    assert tasks[0].done() is takes_notice
    silent.set()
    with pytest.raises(QueryTimeoutError):
        await tasks[0]
    assert await optimizer.get_cached_result(USERS, (1,)) == ["row"]
    assert tasks[0].cancelling() == 0


async def test_without_a_timeout_a_read_may_take_any_time(optimizer, db):
    await optimizer.enable(query_timeout=0)
    assert await optimizer.execute(USERS, (1,), db) == [{"id": 1, "name": "ann"}]
    assert optimizer._execution.timeout is None


async def test_a_result_that_cannot_be_copied_is_shared_by_nobody(optimizer, caplog):
    async def run(query, params):
        await asyncio.sleep(0)
        return (n for n in range(3))

    results = await asyncio.gather(*[optimizer.execute(USERS, (1,), run) for _ in range(3)])
    assert [list(result) for result in results] == [[0, 1, 2]] * 3
    assert caplog.text.count("not cached") == 1


async def test_what_must_not_be_cached_is_executed_each_time(optimizer, db):
    for query in (
        "SELECT random()",
        "SELECT * FROM a FOR UPDATE",
        "SELECT now()",
        "INSERT INTO a VALUES (1)",
    ):
        db.executed.clear()
        for _ in range(2):
            await optimizer.execute(query, None, db)
        assert len(db.executed) == 2, query
        assert await optimizer.cache_query_result(query, ["kept?"], fresh=True) is False


async def test_text_nobody_understands_drops_everything(optimizer, db):
    await optimizer.execute(USERS, (1,), db)
    await optimizer.execute("FROBNICATE ALL", None, db)
    assert (await optimizer.get_statistics())["cached_results_count"] == 0


async def test_a_run_that_ends_after_the_optimizer_was_switched_off_caches_nothing(optimizer, db):
    db.gate.clear()
    task = asyncio.ensure_future(optimizer.execute(USERS, (1,), db))
    await until_idle()
    await optimizer.disable()
    await optimizer.enable()
    db.gate.set()
    await task
    assert await optimizer.get_cached_result(USERS, (1,)) is None


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


async def test_a_writer_goes_on_when_the_other_instances_know(optimizer, db):
    heard, known = [], asyncio.Event()

    async def tell(tables):
        heard.append(tables)
        await known.wait()
        heard.append("told")

    optimizer.after_write(tell)
    writer = asyncio.ensure_future(optimizer.execute("UPDATE users SET name = 'x'", None, db))
    await until_idle()
    assert (heard, writer.done()) == ([["users"]], False)
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    known.set()
    await until_idle()
    assert heard == [["users"], "told"], "a writer that is cancelled leaves nobody untold"


@pytest.mark.parametrize("end", ["COMMIT", "COMMIT AND CHAIN", "COMMIT; BEGIN"])
async def test_a_commit_that_fails_may_have_committed(optimizer, db, end):
    query = "SELECT * FROM users"
    await optimizer.enable(dialect="postgres")
    await optimizer.execute("BEGIN", None, db)
    await optimizer.execute("UPDATE users SET name = 'x'", None, db)
    await in_fresh_context(optimizer.execute(query, None, db))  # what was before, cached
    db.error = ConnectionError("lost while it committed")
    with pytest.raises(ConnectionError):
        await optimizer.execute(end, None, db)
    db.error = None
    assert await in_fresh_context(optimizer.get_cached_result(query)) is None


async def test_a_rollback_to_a_savepoint_that_fails_leaves_the_transaction_open(optimizer, db):
    await optimizer.enable(dialect="postgres")
    for statement in ("BEGIN", "SAVEPOINT s", "UPDATE users SET name = 'x'"):
        await optimizer.execute(statement, None, db)
    db.error = ValueError("no such savepoint")
    with pytest.raises(ValueError, match="no such savepoint"):
        await optimizer.execute("ROLLBACK TO t", None, db)
    db.error = None
    await optimizer.execute("SELECT * FROM users", None, db)
    assert await in_fresh_context(optimizer.get_cached_result("SELECT * FROM users")) is None
    await optimizer.execute("ROLLBACK", None, db)


async def test_a_script_that_begins_and_fails_may_have_written(optimizer, db):
    query = "SELECT * FROM users"
    await optimizer.execute(query, None, db)
    db.error = ValueError("a syntax error at its end")
    with pytest.raises(ValueError, match="syntax"):
        await optimizer.execute("BEGIN; UPDATE users SET name = 'x'", None, db)
    db.error = None
    assert await in_fresh_context(optimizer.get_cached_result(query)) is None
    await in_fresh_context(optimizer.execute(query, None, db))  # it may be open still, so this is old
    await optimizer.execute("COMMIT", None, db)
    assert await in_fresh_context(optimizer.get_cached_result(query)) is None


async def test_results_that_cannot_be_copied_are_logged_for_so_many_shapes(optimizer, caplog):
    optimizer._execution._told = {str(n) for n in range(MAX_TOLD)}

    async def run(query, params):
        return (n for n in range(3))

    assert list(await optimizer.execute(USERS, (1,), run)) == [0, 1, 2]
    assert "not cached" not in caplog.text
