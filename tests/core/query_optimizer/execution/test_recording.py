"""What is counted of executions, and which of them the log tells of."""

import pytest

from bot.core.query_optimizer.mongodb.shapes import analysis_of


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


async def test_cache_hits_recorded_elsewhere_are_neither_executions_nor_repetitions(optimizer):
    for user_id in range(20):
        await optimizer.record_execution(f"SELECT * FROM users WHERE id = {user_id}", 5, cache_hit=True)
    figures = await optimizer.get_statistics()
    assert (figures["cache_hits"], figures["total_executions"]) == (20, 0)
    assert await optimizer.get_n_plus_one_patterns() == []


async def test_executions_recorded_one_by_one_are_an_n_plus_one_pattern(optimizer, caplog):
    for user_id in range(20):
        await optimizer.record_execution(f"SELECT * FROM users WHERE id = {user_id}", 5)
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert pattern.query == "SELECT * FROM users WHERE id = ?"
    assert caplog.text.count("N+1") == 1
    pattern.call_sites.clear()
    [again] = await optimizer.get_n_plus_one_patterns()
    assert len(again.call_sites) == 1, "a caller gets a copy"


async def test_nothing_is_looked_for_where_the_detection_is_off(optimizer):
    await optimizer.enable(detect_n_plus_one=False)
    for user_id in range(20):
        await optimizer.record_execution(f"SELECT * FROM users WHERE id = {user_id}", 5)
    assert await optimizer.get_n_plus_one_patterns() == []


async def test_the_same_query_in_other_scopes_is_no_repetition(optimizer):
    for tenant in range(3):
        await optimizer.record_execution("SELECT count(*) FROM users", 100, scope=f"tenant-{tenant}")
    found = await optimizer.analyze_query("SELECT count(*) FROM users")
    assert found.estimated_improvement == 0.0
    for _ in range(3):
        await optimizer.record_execution("SELECT count(*) FROM users", 100, scope="tenant-0")
    found = await optimizer.analyze_query("SELECT count(*) FROM users")
    assert found.estimated_improvement == pytest.approx(50.0), "3 of 6 executions, of equal length"


async def test_a_write_between_makes_a_repetition_a_new_read(optimizer):
    for _ in range(3):
        await optimizer.record_execution("SELECT count(*) FROM users", 100)
        await optimizer.invalidate_tables("users")
    found = await optimizer.analyze_query("SELECT count(*) FROM users")
    assert found.estimated_improvement == 0.0


async def test_a_reset_forgets_all_that_was_counted(optimizer):
    for user_id in range(20):
        await optimizer.record_execution(f"SELECT * FROM users WHERE id = {user_id}", 2_000)
    await optimizer.reset_statistics()
    figures = await optimizer.get_statistics()
    assert {figures[key] for key in ("total_executions", "slow_queries", "n_plus_one_patterns")} == {0}
    assert await optimizer.get_slow_queries() == []
    assert await optimizer.get_n_plus_one_patterns() == []


async def test_a_write_that_an_instrument_sees_again_repeats_nothing(optimizer):
    """MongoDB's writes have no reason not to be cached: nobody would."""
    users, recorder = frozenset(("юзеры",)), optimizer._recorder
    read = analysis_of("find_one", "db", "юзеры", {"filter": {"_id": 1}}, reads=users)
    write = analysis_of("update_one", "db", "юзеры", {"filter": {"_id": 1}}, writes=users)
    for analysis, repeats in ((read, 2), (write, 0)):
        for _ in range(3):
            recorder.ran(analysis, analysis.normal_form, None, 1, 5.0, 1, 0.0)
        assert recorder.statistics.shape(analysis.fingerprint).repeats == repeats
