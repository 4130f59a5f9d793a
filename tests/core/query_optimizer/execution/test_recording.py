"""What is counted of executions, and which of them the log tells of."""

import pytest


def slow_lines(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("Slow query")]


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
