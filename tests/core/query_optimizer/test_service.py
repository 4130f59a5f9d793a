"""The query optimizer over a database that counts its executions."""

import asyncio
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple
from uuid import UUID

import pytest
from asyncpg.pgproto.pgproto import UUID as AsyncpgUUID

from bot.core._shared.errors import InvalidArgumentError
from bot.core.query_optimizer import QueryOptimizer, QueryType
from tests.support.endless import ENDLESS

USERS = "SELECT * FROM users WHERE id = ?"


class Point(NamedTuple):
    x: int
    y: int


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


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
async def test_parameters_without_end_are_executed_and_never_cached(optimizer, db, make):
    for params in (make(), (1, make())):
        for _ in range(2):
            await optimizer.execute(USERS, params, db)
        assert not await optimizer.cache_query_result(USERS, [], params=params, fresh=True)
        assert await optimizer.get_cached_result(USERS, params) is None
    assert len(db.executed) == 4


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
async def test_a_scope_without_end_is_refused(optimizer, db, make):
    with pytest.raises(InvalidArgumentError, match="scope = "):
        await optimizer.execute(USERS, (1,), db, scope=(make(),))


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
async def test_of_a_document_without_end_nothing_is_suggested(optimizer, make):
    advice = await optimizer.analyze_query({"find": "users", "filter": {"a": make(), "b": 1}})
    assert (advice.index_suggestions, advice.columns) == ([], {})


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


async def test_parameters_of_the_standard_library_are_plain_data(optimizer, db):
    for params in ((Fraction(1, 3),), (Fraction(1, 4),), (UUID(int=1),), (Fraction(1, 3),)):
        await optimizer.execute(USERS, params, db)
    assert len(db.executed) == 3


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
