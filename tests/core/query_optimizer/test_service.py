"""The query optimizer over a database that counts its executions."""

import asyncio
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import pytest
from asyncpg.pgproto.pgproto import UUID as AsyncpgUUID

from bot.core.query_optimizer import QueryOptimizer, QueryTimeoutError, QueryType, database_time
from bot.core.query_optimizer.execution.timing import MAX_LOGGED
from tests.support.clock import until_idle

USERS = "SELECT * FROM users WHERE id = ?"


class Point(NamedTuple):
    x: int
    y: int


class FakeRows:
    """Rows that come when the test lets them, so that races can be staged."""

    def __init__(self):
        self.executed = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.rows = [{"id": 1, "name": "ann"}]
        self.error = None

    async def __call__(self, query, params):
        self.executed.append((query, params))
        answer = [dict(row) for row in self.rows]  # what the database held when it was asked
        await self.gate.wait()
        if self.error:
            raise self.error
        return answer


@pytest.fixture
def db():
    return FakeRows()


@pytest.fixture
async def optimizer(clock):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable()
    yield optimizer
    optimizer._invalidation.cache.check_invariants()
    await optimizer.disable()


async def test_a_read_is_executed_once_and_then_cached(optimizer, db):
    assert await optimizer.execute(USERS, (1,), db) == [{"id": 1, "name": "ann"}]
    assert await optimizer.execute(USERS, (1,), db) == [{"id": 1, "name": "ann"}]
    assert len(db.executed) == 1
    assert await optimizer.get_cached_result(USERS, (1,)) == [{"id": 1, "name": "ann"}]
    figures = await optimizer.get_statistics()
    assert (figures["cache_hits"], figures["cache_misses"], figures["hit_rate"]) == (2, 1, 66.67)
    assert figures["cached_results_count"] == 1


@pytest.mark.parametrize("empty", [[], None, 0, "", {}])
async def test_an_empty_result_is_a_result(optimizer, empty):
    runs = []

    async def run(query, params):
        runs.append(query)
        return empty

    for _ in range(3):
        assert await optimizer.execute(USERS, (1,), run) == empty
    assert len(runs) == 1


async def test_parameters_that_are_equal_in_python_only_are_not_one(optimizer, db):
    for params in ((1,), (True,), (1.0,), ("1",), (b"1",), None, {"id": 1}, (1, None)):
        await optimizer.execute(USERS, params, db)
    assert len(db.executed) == 8


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.0, -0.0),
        (Decimal("1.0"), Decimal("1.00")),
        (time(12, tzinfo=UTC), time(13, tzinfo=timezone(timedelta(hours=1)))),
        (datetime(2024, 5, 1, 12, tzinfo=UTC), datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2)))),
        (datetime(2024, 10, 27, 2), datetime(2024, 10, 27, 2, fold=1)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),  # as JSON they are two texts
        ({1}, frozenset({1})),
        (Point(1, 2), (1, 2)),
        (UUID(int=1), AsyncpgUUID(str(UUID(int=1)))),
    ],
)
async def test_parameters_that_are_equal_and_written_apart_are_two(optimizer, db, one, other):
    assert one == other
    for params in ((one,), (other,), (one,), {"when": one}, {"when": other}):
        await optimizer.execute(USERS, params, db)
    assert len(db.executed) == 4


async def test_lists_and_tuples_are_two_to_a_driver(optimizer, db):
    for params in ([1, 2], (1, 2), ([1, 2],), ((1, 2),), ({"a": [1]},), ({"a": (1,)},)):
        await optimizer.execute(USERS, params, db)
    assert len(db.executed) == 6


async def test_names_of_parameters_have_no_order(optimizer, db):
    await optimizer.execute(USERS, {"a": 1, "b": 2}, db)
    await optimizer.execute(USERS, {"b": 2, "a": 1}, db)
    assert len(db.executed) == 1


async def test_parameters_in_lists_and_dicts_are_compared_by_value(optimizer, db):
    for _ in range(2):
        await optimizer.execute(USERS, [[1, 2], {"a": {3}}], db)
        await optimizer.execute(USERS, {"b": 1, "a": [2]}, db)
    assert len(db.executed) == 2


async def test_parameters_that_are_no_data_are_executed_each_time(optimizer, db):
    for _ in range(2):
        await optimizer.execute(USERS, (object(),), db)
    assert len(db.executed) == 2
    assert await optimizer.get_cached_result(USERS, (object(),)) is None
    assert await optimizer.cache_query_result(USERS, [], params=(object(),)) is False


async def test_a_caller_who_changes_a_result_changes_nobody_elses(optimizer, db):
    for result in [await optimizer.execute(USERS, (1,), db) for _ in range(3)]:
        assert result == [{"id": 1, "name": "ann"}]
        result[0]["name"] = "changed"
        result.append("more")
    assert await optimizer.get_cached_result(USERS, (1,)) == [{"id": 1, "name": "ann"}]


async def test_a_write_drops_exactly_what_read_its_table(optimizer, db):
    files = "SELECT * FROM files"
    both = "SELECT * FROM files f JOIN public.users u ON u.id = f.user_id"
    for query in (USERS, files, both):
        await optimizer.execute(query, None, db)
    await optimizer.execute("UPDATE users SET name = ? WHERE id = ?", ("bea", 1), db)
    assert await optimizer.get_cached_result(files) is not None
    assert await optimizer.get_cached_result(USERS) is None
    assert await optimizer.get_cached_result(both) is None


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


async def test_the_manual_flow_is_as_safe_around_a_write(optimizer):
    assert await optimizer.get_cached_result(USERS) is None
    stale = ["read before the write"]
    await optimizer.invalidate_tables("public.Users")
    assert await optimizer.cache_query_result(USERS, stale) is False
    assert await optimizer.get_cached_result(USERS) is None
    assert await optimizer.cache_query_result(USERS, ["fresh"]) is True
    assert await optimizer.get_cached_result(USERS) == ["fresh"]


async def test_a_miss_never_answered_does_not_keep_a_query_out_of_the_cache(optimizer):
    await optimizer.get_cached_result(USERS)  # and the query failed
    await optimizer.invalidate_tables("users")
    await optimizer.get_cached_result(USERS)
    await optimizer.cache_query_result(USERS, ["maybe old"])
    await optimizer.get_cached_result(USERS)
    assert await optimizer.cache_query_result(USERS, ["fresh"]) is True


async def test_concurrent_callers_share_one_execution_and_get_a_copy_each(optimizer, db):
    db.gate.clear()
    tasks = [asyncio.ensure_future(optimizer.execute(USERS, (1,), db)) for _ in range(1000)]
    await until_idle()
    for task in tasks[:200]:
        task.cancel()
    await until_idle()
    db.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert len(db.executed) == 1
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 200
    assert all(result == [{"id": 1, "name": "ann"}] for result in results[200:])
    assert len({id(result) for result in results[200:]}) == 800


async def test_an_error_reaches_every_caller_and_is_not_cached(optimizer, db):
    db.error = ValueError("no such column")
    outcomes = await asyncio.gather(
        *[optimizer.execute(USERS, (1,), db) for _ in range(3)], return_exceptions=True
    )
    assert [str(error) for error in outcomes] == ["no such column"] * 3
    db.error = None
    assert await optimizer.execute(USERS, (1,), db)


@pytest.mark.parametrize("takes_notice", [True, False])
async def test_a_read_that_gets_no_answer_holds_nobody(optimizer, takes_notice, caplog):
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

    outcomes = await asyncio.gather(
        *[optimizer.execute(USERS, (1,), hangs) for _ in range(5)], return_exceptions=True
    )
    assert [type(error) for error in outcomes] == [QueryTimeoutError] * 5
    assert "QUERY_OPTIMIZER_QUERY_TIMEOUT" in str(outcomes[0])
    assert caplog.text.count("Query given up after 0.05 s: SELECT * FROM users WHERE id = ?") == 1

    async def answers(query, params):
        return ["row"]

    assert await optimizer.execute(USERS, (1,), answers) == ["row"], "the next caller starts anew"
    await cancelled.wait()
    silent.set()
    await until_idle()
    assert isinstance(outcomes[0], TimeoutError)


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


async def test_a_result_expires(optimizer, db, clock):
    await optimizer.execute(USERS, (1,), db, ttl=10)
    clock.jump(9.99)
    await optimizer.execute(USERS, (1,), db)
    assert len(db.executed) == 1
    clock.jump(0.01)
    await optimizer.execute(USERS, (1,), db)
    assert len(db.executed) == 2


async def test_results_are_bounded_in_entries_and_bytes(optimizer):
    await optimizer.enable(cache_max_entries=100)
    for n in range(500):
        await optimizer.cache_query_result(USERS, ["row"], params=(n,), fresh=True)
    assert (await optimizer.get_statistics())["cached_results_count"] == 100
    await optimizer.enable(cache_max_size_mb=0.1, cache_max_entries=10_000)
    for n in range(500):
        await optimizer.cache_query_result(USERS, ["x" * 1000], params=(n,), fresh=True)
    figures = await optimizer.get_statistics()
    assert figures["cached_results_mb"] <= 0.1
    assert figures["cached_results_count"] < 100
    assert await optimizer.cache_query_result(USERS, ["x" * 200_000], fresh=True) is False


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


async def test_slow_queries_are_known_by_shape_without_users_data(optimizer, clock, caplog):
    async def slow(query, params):
        clock.jump(1.5)
        return []

    for token in ("hunter2", "swordfish"):
        await optimizer.execute(f"SELECT * FROM users WHERE token = '{token}'", None, slow)
    [found] = await optimizer.get_slow_queries()
    assert found.query == "SELECT * FROM users WHERE token = ?"
    assert (found.executions, found.slow_executions) == (2, 2)
    assert found.avg_time_ms == found.max_time_ms == pytest.approx(1500)
    assert await optimizer.get_slow_queries(threshold=2) == []
    assert (await optimizer.get_statistics())["slow_queries"] == 2
    assert "Slow query, 1500 ms" in caplog.text
    assert "hunter2" not in caplog.text


def slow_lines(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("Slow query")]


async def test_the_log_names_a_slow_query_once_a_minute_and_tells_how_many_it_left_out(
    optimizer, clock, caplog
):
    for _ in range(41):
        await optimizer.record_execution("SELECT * FROM a WHERE x = 1", 2000)
        await optimizer.record_execution("SELECT * FROM b WHERE x = 1", 1000)
        clock.jump(1.0)
    assert len(slow_lines(caplog)) == 2, "one line for each shape"
    clock.jump(20.0)
    await optimizer.record_execution("SELECT * FROM a WHERE x = 2", 3000)
    [line] = slow_lines(caplog)[2:]
    assert line == "Slow query, 3000 ms (40 more of it since the last line): SELECT * FROM a WHERE x = ?"
    assert (await optimizer.get_statistics())["slow_queries"] == 83, "each is counted"


async def test_the_wait_for_a_connection_is_not_the_querys_time(optimizer, clock, caplog):
    async def waits_then_runs(query, params):
        clock.jump(5.0)  # in the pool's queue
        with database_time():
            clock.jump(0.25)
        clock.jump(5.0)
        with database_time():
            clock.jump(0.5)
        return []

    await optimizer.execute("SELECT * FROM users", None, waits_then_runs)
    await optimizer.execute("UPDATE users SET a = 1", None, waits_then_runs)
    assert (await optimizer.get_statistics())["avg_execution_time_ms"] == pytest.approx(750)
    assert slow_lines(caplog) == []


async def test_database_time_of_tasks_side_by_side_counts_once(optimizer, clock):
    async def one():
        with database_time():
            await asyncio.sleep(0)
            clock.jump(0.1)
            await asyncio.sleep(0)

    async def both(query, params):
        await asyncio.gather(one(), one())
        return []

    await optimizer.execute("SELECT 1", None, both)
    assert (await optimizer.get_statistics())["avg_execution_time_ms"] == pytest.approx(200)
    with database_time():  # nothing is being executed
        clock.jump(9.0)
    assert (await optimizer.get_statistics())["avg_execution_time_ms"] == pytest.approx(200)


async def test_shapes_whose_slow_line_is_remembered_are_bounded(optimizer, caplog):
    for n in range(MAX_LOGGED + 1):
        await optimizer.record_execution(f"SELECT a{n} FROM t", 2000)
    assert len(optimizer._recorder._slow_log._logged) == MAX_LOGGED


async def test_executions_measured_elsewhere_are_counted(optimizer):
    await optimizer.record_execution("SELECT 1", 20, result_count=1)
    await optimizer.record_execution("SELECT 2", 40.0)
    await optimizer.record_execution("SELECT 3", 0, cache_hit=True)
    figures = await optimizer.get_statistics()
    assert (figures["total_executions"], figures["total_unique_queries"]) == (2, 1)
    assert figures["avg_execution_time_ms"] == 30.0
    assert figures["cache_hits"] == 1
    for bad in (-1, float("nan"), "1", None, True):
        with pytest.raises(ValueError, match="execution_time_ms = "):
            await optimizer.record_execution("SELECT 1", bad)


async def test_shapes_are_bounded(optimizer):
    for n in range(10_500):
        await optimizer.record_execution(f"SELECT a{n} FROM t", 1)
    figures = await optimizer.get_statistics()
    assert figures["total_unique_queries"] == 10_000
    assert figures["total_executions"] == 10_500


async def test_analysis(optimizer):
    found = await optimizer.analyze_query("SELECT * FROM Users u JOIN files f ON f.owner = u.id")
    assert found.query_type is QueryType.SELECT
    assert found.tables == ["files", "users"]
    assert found.optimized_query == found.query
    assert found.estimated_improvement == found.estimated_improvement_percent == 0.0, "no evidence"
    assert found.cache_suggestion == "cacheable for 300 s, until a write to files, users"
    volatile = await optimizer.analyze_query("SELECT now()")
    assert volatile.cache_suggestion.startswith("not cacheable: ")
    with pytest.raises(TypeError, match="query = 5: expected a string"):
        await optimizer.analyze_query(5)


async def test_off_means_executed_and_nothing_else(optimizer, db):
    await optimizer.execute(USERS, (1,), db)
    await optimizer.disable()
    for _ in range(2):
        await optimizer.execute(USERS, (1,), db)
    assert len(db.executed) == 3
    assert await optimizer.get_cached_result(USERS, (1,)) is None
    assert await optimizer.cache_query_result(USERS, []) is False
    await optimizer.record_execution(USERS, 5)
    found = await optimizer.analyze_query(USERS)
    assert (found.query_type, found.optimized_query) == (QueryType.UNKNOWN, USERS)
    assert (await optimizer.get_statistics())["enabled"] is False
    await optimizer.enable()
    await optimizer.execute(USERS, (1,), db)
    assert len(db.executed) == 4, "what was cached before is gone"


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
    ("argument", "value"),
    [
        ("cache_ttl", 0), ("cache_ttl", float("nan")), ("cache_ttl", "300"), ("cache_max_size_mb", -1),
        ("cache_max_entries", 0), ("cache_max_entries", 1.5), ("slow_query_threshold", float("inf")),
        ("dialect", "oracle"), ("query_timeout", -1), ("query_timeout", "1"), ("query_timeout", float("inf")),
    ],
)  # fmt: skip
async def test_a_bad_argument_is_named(clock, argument, value):
    optimizer = QueryOptimizer(clock=clock)
    with pytest.raises(ValueError, match=f"{argument} = "):
        await optimizer.enable(**{argument: value})
    assert not optimizer.enabled


async def test_reset_and_clear(optimizer, db):
    await optimizer.execute(USERS, (1,), db)
    await optimizer.clear_statistics()
    figures = await optimizer.get_statistics()
    assert (figures["total_executions"], figures["cache_misses"], figures["cached_results_count"]) == (
        0,
        0,
        1,
    )
    assert await optimizer.clear_cache() == 1
    await optimizer.execute(USERS, (1,), db)
    await optimizer.reset()
    figures = await optimizer.get_statistics()
    assert (figures["total_executions"], figures["cached_results_count"]) == (0, 0)


def test_on_under_one_loop_and_off_under_another(db):
    optimizer = QueryOptimizer()

    async def use():
        await optimizer.enable()
        return await optimizer.execute(USERS, (1,), db)

    assert asyncio.run(use())
    assert asyncio.run(use()), "the cached result serves the next loop"
    assert len(db.executed) == 1
    assert asyncio.run(optimizer.disable())


async def test_it_tells_the_dialect_that_it_reads_in():
    optimizer = QueryOptimizer()
    assert optimizer.dialect == ""
    await optimizer.enable(dialect="sqlite")
    assert optimizer.dialect == "sqlite"
    await optimizer.disable()


def test_what_scripts_import_is_where_they_import_it_from():
    from bot.core.query_optimizer.advice import advise
    from bot.core.query_optimizer.analyzer import read

    assert advise(read("SELECT a FROM t WHERE a = 1 OR a = 2", "sqlite")).optimized_query
