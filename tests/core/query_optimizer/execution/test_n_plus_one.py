"""The N+1 pattern: found where it is, silent where it is not."""

import asyncio
import gc
import linecache
import weakref

import pytest

from bot.core.query_optimizer import QueryOptimizer, optimize_query
from bot.core.query_optimizer.execution.batching import batched
from bot.core.query_optimizer.execution.n_plus_one import (
    MAX_PATTERNS,
    MAX_SAMPLES,
    MAX_SHAPES,
    MAX_VALUES,
    Detector,
)
from bot.core.query_optimizer.sql.fingerprint import shape

USER = "SELECT name FROM users WHERE id = ?"
QUERY = (USER, None)
REPEATED = (
    "executemany of the driver, in a transaction: the same statements in the same order; "
    "it returns no rows, and if one fails, all fail"
)
ROWS = "one INSERT of all rows, VALUES (...), (...), or executemany of the driver; if one fails, all fail"


async def fetch(query, params):
    return [{"name": "ann"}]


@pytest.fixture
async def optimizer(clock):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable()
    yield optimizer
    await optimizer.disable()


async def patterns(optimizer):
    return [(pattern.count, pattern.contexts) for pattern in await optimizer.get_n_plus_one_patterns()]


async def test_a_loop_is_found_with_where_it_is_and_what_to_do(optimizer, caplog):
    for user_id in range(12):
        await optimizer.execute(USER, (user_id,), fetch)  # the line that is named
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert (pattern.count, pattern.contexts) == (12, 1)
    assert pattern.query == "SELECT name FROM users WHERE id = ?"
    assert pattern.suggestion == "SELECT id, name FROM users WHERE id IN (?, ?, ...)"
    [site] = pattern.call_sites
    path, _, rest = site.partition(":")
    line, _, function = rest.partition(" in ")
    assert path == __file__
    assert "the line that is named" in linecache.getline(__file__, int(line))
    assert function == "test_a_loop_is_found_with_where_it_is_and_what_to_do"
    assert (await optimizer.get_statistics())["n_plus_one_patterns"] == 1
    found = await optimizer.analyze_query("SELECT name FROM users WHERE id = 5")
    assert found.n_plus_one_detected
    [finding] = [finding for finding in found.findings if finding.code == "Q900"]
    assert __file__ in finding.message
    assert "IN (?, ?, ...)" in finding.fix
    assert any(text.startswith("Q900 N+1") for text in found.recommendations)
    assert caplog.text.count("N+1") == 1


async def test_the_log_tells_of_a_pattern_once(optimizer, caplog):
    for _ in range(3):
        with optimizer.request():
            for user_id in range(20):
                await optimizer.execute(USER, (user_id,), fetch, ttl=0.001)
        optimizer._recorder._clock.jump(1)
    assert caplog.text.count("N+1") == 1
    assert await patterns(optimizer) == [(20, 3)]


async def test_literals_in_the_text_are_values_too(optimizer):
    for user_id in range(10):
        await optimizer.execute(f"SELECT * FROM users WHERE id = {user_id}", None, fetch)
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert pattern.suggestion == "SELECT * FROM users WHERE id IN (?, ?, ...)"


async def test_the_guides_own_flow_is_watched(optimizer):
    for user_id in range(10):
        query = f"SELECT * FROM users WHERE id = {user_id}"
        assert await optimizer.get_cached_result(query) is None
        await optimizer.cache_query_result(query, [user_id])
    assert await patterns(optimizer) == [(10, 1)]


async def test_executions_measured_elsewhere_are_watched(optimizer):
    for user_id in range(10):
        await optimizer.record_execution(f"SELECT * FROM users WHERE id = {user_id}", 1.0)
    assert await patterns(optimizer) == [(10, 1)]


async def test_what_is_no_pattern(optimizer):
    for user_id in range(9):
        await optimizer.execute(USER, (user_id,), fetch)
    for _ in range(50):
        await optimizer.execute("SELECT random()", None, fetch)  # again and again, with nothing to batch
        await optimizer.execute(USER, (1,), fetch)  # from the cache
    for table in range(50):
        await optimizer.execute(f"SELECT * FROM t{table} WHERE id = 1", None, fetch)
    assert await patterns(optimizer) == []


async def test_the_window_is_exact(optimizer, clock):
    for user_id in range(100):
        await optimizer.execute(USER, (user_id,), fetch)
        clock.jump(0.223)  # nine fit into two seconds, and never ten
    assert await patterns(optimizer) == []
    for user_id in range(100, 111):
        await optimizer.execute(USER, (user_id,), fetch)
        clock.jump(0.15)
    assert len(await patterns(optimizer)) == 1


async def test_children_of_gather_count_with_the_handler_that_made_them(optimizer):
    async def one(user_id):
        await asyncio.sleep(0)
        return await optimizer.execute(USER, (user_id,), fetch)

    await optimizer.execute("SELECT id FROM users LIMIT 10", None, fetch)  # the 1 of N+1
    await asyncio.gather(*[one(user_id) for user_id in range(10)])
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert "one" in pattern.call_sites[0]


async def test_children_count_in_a_request_whatever_came_before(optimizer):
    async def one(user_id):
        return await optimizer.execute(USER, (user_id,), fetch)

    with optimizer.request():
        await asyncio.gather(*[one(user_id) for user_id in range(10)])
    assert len(await patterns(optimizer)) == 1


async def test_where_no_line_of_the_bot_runs_its_executor_is_named(optimizer):
    with optimizer.request():
        await asyncio.gather(*[optimizer.execute(USER, (user_id,), fetch) for user_id in range(10)])
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert pattern.call_sites[0].endswith("in fetch")


async def test_handlers_of_many_users_are_many_requests(optimizer, clock):
    async def handler(user_id):
        await optimizer.execute(USER, (user_id,), fetch)

    await optimizer.execute("SELECT * FROM settings", None, fetch)  # at start-up, by the main task
    clock.jump(3)
    for user_id in range(30):
        await asyncio.create_task(handler(user_id))
    await asyncio.gather(*[handler(user_id) for user_id in range(30, 60)])
    assert await patterns(optimizer) == []


async def test_a_worker_that_handles_many_requests_says_where_one_begins(optimizer):
    for user_id in range(30):
        with optimizer.request():
            await optimizer.execute(USER, (user_id,), fetch)
    assert await patterns(optimizer) == []


async def test_two_optimizers_do_not_count_for_each_other(optimizer, clock):
    other = QueryOptimizer(clock=clock)
    await other.enable()
    for user_id in range(9):
        await optimizer.execute(USER, (user_id,), fetch)
        await other.execute(USER, (user_id + 100,), fetch)
    assert await patterns(optimizer) == await patterns(other) == []
    await other.disable()


async def test_the_decorators_caller_is_named():
    optimizer = QueryOptimizer.get_instance()
    await optimizer.enable()

    @optimize_query
    async def get_user(sql, user_id):
        return await fetch(sql, user_id)

    for user_id in range(10):
        await get_user(USER, user_id)
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert pattern.call_sites[0].endswith("in test_the_decorators_caller_is_named")
    await optimizer.disable()


async def test_thresholds_and_the_switch(optimizer):
    await optimizer.enable(n_plus_one_threshold=3)
    for user_id in range(3):
        await optimizer.execute(USER, (user_id,), fetch)
    assert len(await patterns(optimizer)) == 1
    await optimizer.reset()
    assert await patterns(optimizer) == []
    assert (await optimizer.get_statistics())["n_plus_one_patterns"] == 0
    for user_id in range(3):
        await optimizer.execute(USER, (user_id,), fetch)
    assert len(await patterns(optimizer)) == 1, "counted anew after a reset"
    await optimizer.reset()
    await optimizer.enable(detect_n_plus_one=False)
    for user_id in range(30):
        await optimizer.execute(USER, (user_id,), fetch)
    assert await patterns(optimizer) == []
    for bad in (1, 0, 2.5, True, 10_001):
        with pytest.raises(ValueError, match="n_plus_one_threshold = "):
            await optimizer.enable(n_plus_one_threshold=bad)
    with pytest.raises(ValueError, match="n_plus_one_window = "):
        await optimizer.enable(n_plus_one_window=0)


def test_memory_is_bounded():
    detector = Detector()
    for n in range(MAX_SHAPES * 3):
        for value in range(9):
            assert detector.note(f"shape {n}", value, QUERY, 0.0) is None
    with detector.request():
        for n in range(MAX_SHAPES * 3):
            detector.note(f"shape {n}", 1, QUERY, 0.0)
        scope = detector._scope.get()
        assert len(scope.tallies) == MAX_SHAPES
        for n in range(MAX_PATTERNS + 50):
            for value in range(10):
                tally = detector.note(f"shape {n}", value, QUERY, 0.0)
            detector.found(tally, f"shape {n}", "text", "", 0.0)
        for value in range(100_000):
            detector.note("one shape", value, QUERY, value * 1.0)
        tally = scope.tallies["one shape"]
        assert len(tally.times) <= 10
        assert len(tally.values) == MAX_VALUES
        assert len(tally.samples) == MAX_SAMPLES
    assert len(detector.patterns) == MAX_PATTERNS
    assert detector.total == MAX_PATTERNS + 50


async def test_no_frame_and_no_task_is_kept(optimizer):
    class Heavy:
        pass

    async def handler():
        heavy = Heavy()
        for user_id in range(15):
            await optimizer.execute(USER, (user_id,), fetch)
        return weakref.ref(heavy)

    kept = await asyncio.create_task(handler())
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize(
    ("query", "params", "suggestion"),
    [
        ("SELECT * FROM a WHERE id = %s", [(1,), (2,)], "SELECT * FROM a WHERE id IN (%s, %s, ...)"),
        ("SELECT * FROM a WHERE id = $1", [(1,), (2,)], "SELECT * FROM a WHERE id = ANY($1)"),
        ("SELECT * FROM a WHERE id IN ($1)", [(1,), (2,)], "SELECT * FROM a WHERE id = ANY($1)"),
        (
            "SELECT x FROM a WHERE kind = $2 AND owner = $1 AND n > 3",
            [(1, "x"), (2, "x")],
            "SELECT owner, x FROM a WHERE kind = $1 AND owner = ANY($2) AND n > $3",
        ),
        (
            "SELECT x FROM a WHERE chat_id = $1 AND user_id = $2",
            [(1, 2), (3, 4)],
            "SELECT chat_id, user_id, x FROM a WHERE (chat_id, user_id) IN (($1, $2), ...)",
        ),
        ("SELECT x FROM a WHERE ? = id", [(1,), (2,)], "SELECT id, x FROM a WHERE id IN (?, ?, ...)"),
        (
            "SELECT x FROM a WHERE kind = ? AND owner = ?",
            [(1, "x"), (1, "y")],
            "SELECT owner, x FROM a WHERE kind = ? AND owner IN (?, ?, ...)",
        ),
        (
            "SELECT x FROM a WHERE kind = :kind AND owner = :owner",
            [{"kind": 1, "owner": 1}, {"kind": 2, "owner": 1}],
            "SELECT kind, x FROM a WHERE kind IN (?, ?, ...) AND owner = :owner",
        ),
        (
            "SELECT x FROM a WHERE chat_id = ? AND user_id = ?",
            [(1, 2), (3, 4)],
            "SELECT chat_id, user_id, x FROM a WHERE (chat_id, user_id) IN ((?, ?), ...)",
        ),
        (
            "SELECT COUNT(*) FROM a WHERE user_id = ?",
            [(1,), (2,)],
            "SELECT user_id, COUNT(*) FROM a WHERE user_id IN (?, ?, ...) GROUP BY user_id "
            "-- a value without rows is not in the result",
        ),
        (
            "SELECT x FROM a WHERE id = ? ORDER BY t DESC LIMIT 1",
            [(1,), (2,)],
            "SELECT id, x FROM a WHERE id IN (?, ?, ...) ORDER BY t DESC -- LIMIT was per value: "
            "number the rows with ROW_NUMBER() OVER (PARTITION BY id ...)",
        ),
        (
            "SELECT u.x FROM u JOIN f ON f.u = u.id WHERE u.id = ?",
            [(1,), (2,)],
            "SELECT u.id, u.x FROM u JOIN f ON f.u = u.id WHERE u.id IN (?, ?, ...)",
        ),
        ("DELETE FROM a WHERE id = ?", [(1,), (2,)], "DELETE FROM a WHERE id IN (?, ?, ...)"),
        # Of a write, every value is a key or the statement is repeated: the x of another query may differ.
        (
            "DELETE FROM a WHERE x = $1 AND y = $2 AND z IS NULL",
            [(1, 1), (1, 2)],
            "DELETE FROM a WHERE (x, y) IN (($1, $2), ...) AND z IS NULL",
        ),
        ("UPDATE a SET x = ? WHERE id = ?", [(1, 1), (1, 2)], REPEATED),
        ("UPDATE a SET x = $1 WHERE id = $2", [(1, 1), (2, 2)], REPEATED),
        ("UPDATE a SET x = $1 WHERE x = $1", [(1,), (2,)], REPEATED),
        ("UPDATE a SET x = x + 1 WHERE id = %s", [(1,), (2,)], REPEATED),
        ("DELETE FROM a WHERE id = ? AND t < ?", [(1, 1), (2, 1)], REPEATED),
        ("DELETE FROM a WHERE id = ? AND t < (SELECT MAX(t) FROM a)", [(1,), (2,)], REPEATED),
        ("DELETE FROM a WHERE name = ?", [("0",), (0,)], REPEATED),
        ("DELETE FROM a WHERE id = ? LIMIT 1", [(1,), (2,)], REPEATED),
        ("INSERT INTO a (x) VALUES (?)", [(1,), (2,)], ROWS),
        ("INSERT INTO a (x, y) VALUES ($1, $2)", [(1, 2), (2, 2)], ROWS),
        ("INSERT INTO a (x, y) VALUES (%s, (SELECT MAX(y) FROM a))", [(1,), (2,)], REPEATED),
        ("INSERT INTO a (x) VALUES (?) ON CONFLICT (x) DO UPDATE SET n = n + 1", [(1,), (2,)], REPEATED),
        ("INSERT INTO a (x) SELECT x FROM b WHERE id = ?", [(1,), (2,)], REPEATED),
        # The caller reads what comes back.
        ("INSERT INTO a (x) VALUES (?) RETURNING id", [(1,), (2,)], ""),
        ("DELETE FROM a WHERE id = ? RETURNING x", [(1,), (2,)], ""),
        ("UPDATE a SET x = ? WHERE id = ? RETURNING x", [(1, 1), (1, 2)], ""),
        ("SELECT x FROM a WHERE id = ? FOR UPDATE", [(1,), (2,)], ""),
        # No query is known to give the same.
        ("SELECT * FROM a WHERE t > ?", [(1,), (2,)], ""),
        ("SELECT x FROM a WHERE id = ? OR owner = ?", [(1, 1), (2, 2)], ""),
        ("SELECT x FROM a WHERE id = ? AND t > ?", [(1, 1), (2, 2)], ""),
        ("SELECT x AS id FROM a WHERE id = ?", [(1,), (2,)], ""),
        ("SELECT rank() OVER (ORDER BY x) FROM a WHERE id = ?", [(1,), (2,)], ""),
        ("SELECT x FROM a WHERE y IN (SELECT y FROM b WHERE id = ?)", [(1,), (2,)], ""),
        ("SELECT x FROM a WHERE id = ?", [(1,), ("1",)], ""),
        # Pages and lists: whoever walks in them has batched already.
        ("SELECT x FROM a WHERE id > ? ORDER BY id LIMIT 100", [(1,), (2,)], None),
        ("SELECT x FROM a WHERE (t, id) < (?, ?) ORDER BY t DESC, id DESC LIMIT 9", [(1, 2), (1, 1)], None),
        ("SELECT x FROM a ORDER BY id LIMIT 100 OFFSET ?", [(1,), (2,)], None),
        ("SELECT x FROM a WHERE id IN (?, ?)", [(1, 2), (3, 4)], None),
        ("SELECT x FROM a WHERE id = ANY($1)", [([1, 2],), ([3, 4],)], None),
        ("SELECT x FROM a WHERE id = ANY($1)", [([1],), ([3],)], None),
        ("SELECT x FROM a WHERE id = ANY($1::int[])", [("{1}",), ("{3}",)], None),
        ("SELECT x FROM a WHERE id IN (SELECT value FROM json_each(?))", [("[1]",), ("[2]",)], None),
        ("SELECT * FROM (SELECT x FROM a WHERE x > %s ORDER BY x LIMIT 9) AS p", [(1,), (2,)], None),
        ("INSERT INTO a (x) VALUES (?), (?)", [(1, 2), (3, 4)], None),
    ],
)
@pytest.mark.parametrize("dialect", ["", "postgres", "mysql", "sqlite"])
def test_the_single_query(query, params, suggestion, dialect):
    if suggestion and dialect not in ("", "postgres"):
        suggestion = suggestion.replace("= ANY($1)", "IN ($1, ...)").replace("= ANY($2)", "IN ($2, ...)")
    if suggestion and dialect == "postgres":
        suggestion = suggestion.replace("IN (%s, %s, ...)", "= ANY(%s)")
    samples = [(query, each) for each in params]
    assert batched(shape(query, dialect)[1], samples, dialect) == suggestion


def test_a_suggestion_holds_nobodys_data():
    first, second = (f"SELECT x FROM a WHERE owner = {n} AND token = 'secret' AND n > 12345" for n in (1, 2))
    found = batched(shape(first, "")[1], [(first, None), (second, None)], "")
    assert found == "SELECT owner, x FROM a WHERE owner IN (?, ?, ...) AND token = ? AND n > ?"


def test_lists_that_vary_in_length_are_known_by_any_of_the_samples():
    query = "SELECT x FROM a WHERE id IN (?)"
    longer = query.replace("?", "?, ?, ?")
    samples = [(query, (1,)), (longer, (1, 2, 3)), (query, (4,))]
    assert batched(shape(query, "")[1], samples, "") is None


def test_a_select_that_may_write_stays_as_it_is():
    query = "SELECT award(id) FROM users WHERE id = ?"
    assert batched(shape(query, "")[1], [(query, (1,)), (query, (2,))], "", writes=True) == ""


async def test_pages_and_lists_are_no_pattern(optimizer, caplog):
    for page in range(40):
        await optimizer.execute("SELECT id FROM a WHERE id > ? ORDER BY id LIMIT 100", (page,), fetch)
        await optimizer.execute("SELECT x FROM a WHERE id IN (?, ?)", (page, page + 1), fetch)
    assert await patterns(optimizer) == []
    assert "N+1" not in caplog.text


async def test_lists_of_one_between_longer_ones_are_no_pattern(optimizer):
    for chat in range(40):
        ids = tuple(range(chat, chat + (8 if chat == 5 else 1)))
        query = f"SELECT x FROM a WHERE id IN ({', '.join('?' * len(ids))})"
        await optimizer.execute(query, ids, fetch)
    assert await patterns(optimizer) == []


async def test_no_suggestion_loses_an_update(optimizer):
    """What nine of ten updates have in common, the tenth may not."""
    for user_id in range(10):
        await optimizer.execute("UPDATE users SET banned = ? WHERE id = ?", (user_id == 4, user_id), fetch)
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert pattern.suggestion == REPEATED
    assert pattern.fix().startswith("Use executemany of the driver")


async def test_a_few_slow_ones_are_found_by_their_time(optimizer, clock, caplog):
    async def slowly(query, params):
        clock.jump(8 / 30)  # the window never holds ten of them
        return []

    with optimizer.request():
        for user_id in range(30):
            await optimizer.execute(USER, (user_id,), slowly)
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert (pattern.count, pattern.contexts) == (30, 1)
    assert pattern.seconds == pytest.approx(8)
    assert "with 30 different values in one request" in pattern.sentence()
    assert pattern.sentence().endswith(", which took 8.0 s.")
    assert caplog.text.count("N+1") == 1


async def test_by_time_in_a_request_whatever_happens_between(optimizer, clock):
    async def slowly(query, params):
        clock.jump(0.25)
        return []

    async def handler(first):
        for user_id in range(first, first + 12):
            await optimizer.execute(USER, (user_id,), slowly)
            clock.jump(5)  # it waits for Telegram

    await handler(0)
    assert await patterns(optimizer) == [], (
        "a worker that handles one request after the other looks like this"
    )
    with optimizer.request():
        await handler(100)
    assert await patterns(optimizer) == [(12, 1)]


async def test_by_time_in_a_task_without_a_pause(optimizer, clock):
    async def handler(first, pause):
        async def slowly(query, params):
            clock.jump(0.25)
            return []

        for user_id in range(first, first + 12):
            await optimizer.execute(USER, (user_id,), slowly)
            clock.jump(pause)

    clock.jump(10)
    await asyncio.create_task(handler(0, 0.5))  # a third of its time
    assert await patterns(optimizer) == []
    clock.jump(10)
    await asyncio.create_task(handler(100, 0.1))
    assert len(await patterns(optimizer)) == 1


async def test_one_slow_query_again_and_again_is_no_pattern(optimizer, clock):
    async def slowly(query, params):
        clock.jump(1)
        return []

    with optimizer.request():
        for n in range(30):
            await optimizer.execute(USER, (n % 9,), slowly, ttl=0.5)
    assert await patterns(optimizer) == []


async def test_times_measured_elsewhere_count(optimizer, clock):
    with optimizer.request():
        for user_id in range(30):
            clock.jump(0.3)
            await optimizer.record_execution(f"SELECT * FROM users WHERE id = {user_id}", 300.0)
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert pattern.seconds == pytest.approx(9)


async def test_the_total_is_a_setting(optimizer, clock):
    async def slowly(query, params):
        clock.jump(0.25)
        return []

    await optimizer.enable(n_plus_one_total=100)
    with optimizer.request():
        for user_id in range(30):
            await optimizer.execute(USER, (user_id,), slowly)
    assert await patterns(optimizer) == []
    for bad in (0, -1, float("nan"), float("inf"), True, "2"):
        with pytest.raises(ValueError, match="n_plus_one_total = "):
            await optimizer.enable(n_plus_one_total=bad)


async def test_where_no_single_query_is_known_none_is_told(optimizer, caplog):
    query = "SELECT x FROM a WHERE t > ?"
    for at in range(12):
        await optimizer.execute(query, (at,), fetch)
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert (pattern.count, pattern.suggestion) == (12, "")
    [finding] = [f for f in (await optimizer.analyze_query(query)).findings if f.code == "Q900"]
    assert finding.fix == "Fetch what belongs together at once."
    assert "Use one query" not in caplog.text


@pytest.mark.parametrize("text", ["", "'", "((((", "SELECT", "\x00", "WHERE id = ?", "SELECT * FROM a WHERE"])
def test_any_text_gets_an_answer(text):
    assert batched(shape(text, "")[1], [(text, None), (text, None)], "") == ""
