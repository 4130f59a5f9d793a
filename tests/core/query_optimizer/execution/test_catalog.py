"""When the catalog is asked, how often, and what an answer that fails costs."""

import asyncio
import logging
import math

import pytest

from bot.core.query_optimizer.execution.catalog import APART, RETRY_FIRST, SOON, CatalogReader
from bot.core.query_optimizer.service import QueryOptimizer
from bot.core.query_optimizer.sql.catalog_queries import MAX_DEFINITIONS


async def test_a_database_that_is_away_costs_a_line_in_the_log(clock, caplog):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable(dialect="postgres")
    asked = []

    async def ask(statements):
        asked.append(statements)
        raise ConnectionError("no route")

    async def run(query, params):
        return [(1,)]

    optimizer.explain_with(ask, "postgres")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await optimizer.execute("SELECT * FROM t", None, run) == [(1,)]
        assert len(asked) == 1
        await clock.advance(RETRY_FIRST)
        await optimizer.execute("SELECT * FROM u", None, run)
    assert len(asked) == 2
    assert caplog.text.count("catalog was not read") == 1
    assert await optimizer.get_cached_result("SELECT * FROM t") is None, "it may be a view of anything"
    await optimizer.execute("CREATE TABLE seen (v int)", None, run)
    await optimizer.execute("SELECT * FROM seen", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM seen") == [(1,)]
    await optimizer.execute("DELETE FROM other", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM seen") is None, "a trigger may have changed it"


async def test_many_callers_ask_once_and_one_that_is_cancelled_leaves_alone():
    optimizer = QueryOptimizer()
    await optimizer.enable(dialect="postgres")
    asked, gate = [], asyncio.Event()

    async def ask(statements):
        asked.append(statements)
        await gate.wait()
        return [[VIEW, TABLE]]

    async def run(query, params):
        return [(1,)]

    optimizer.explain_with(ask, "postgres", timeout=60)
    callers = [asyncio.ensure_future(optimizer.execute("SELECT * FROM v", None, run)) for _ in range(5)]
    while not asked:
        await asyncio.sleep(0)
    callers[0].cancel()
    gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [[(1,)]] * 4
    assert len(asked) == 1
    assert await optimizer.get_cached_result("SELECT * FROM v") is not None
    await optimizer.execute("DELETE FROM t", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM v") is None


TABLE = ("table", "t", "")
VIEW = ("view", "public.v", "CREATE VIEW public.v AS SELECT * FROM t")


class Database:
    """What an explainer asks: it answers with ``rows``, or raises ``error``."""

    def __init__(self):
        self.asked = 0
        self.rows = [VIEW]
        self.error = None

    async def __call__(self, statements):
        self.asked += 1
        if self.error is not None:
            raise self.error
        return [self.rows]


@pytest.fixture
def database():
    return Database()


@pytest.fixture
def reader(clock):
    return CatalogReader(clock.monotonic)


async def test_without_an_explainer_there_is_nothing_to_read(reader, database):
    reader.doubt()
    assert (reader.has_source, reader.due) == (False, math.inf)
    assert await reader.read() is None
    reader.read_from(database, "postgres", 1.0)
    reader.read_from(None, "", 1.0)
    assert (reader.has_source, reader.due) == (False, math.inf)
    assert database.asked == 0


async def test_it_is_read_once_and_again_after_a_doubt(reader, database, clock):
    reader.read_from(database, "postgres", 1.0)
    assert reader.due == 0, "at once"
    [declaration], asked = await reader.read()
    assert (declaration.kind, declaration.name, asked) == ("view", "public.v", set())
    assert reader.due == clock.monotonic() + reader.max_age / 2
    reader.soon()
    assert reader.due == clock.monotonic() + SOON
    reader.doubt()
    assert reader.due == 0


async def test_a_doubt_that_arises_while_it_is_read_has_it_read_again(reader):
    async def ask(statements):
        reader.doubt()
        return [[VIEW]]

    reader.read_from(ask, "postgres", 1.0)
    assert await reader.read() is not None
    assert reader.due == 0


async def test_failures_are_tried_again_after_seconds_to_minutes(reader, database, clock):
    reader.read_from(database, "postgres", 1.0)
    database.error = ConnectionError("no route")
    delays = []
    for _ in range(8):
        assert await reader.read() is None
        delays.append(reader.due - clock.monotonic())
    assert delays == [5, 10, 20, 40, 80, 160, 300, 300]
    database.error = None
    assert await reader.read() is not None
    database.error = ConnectionError("no route")
    await reader.read()
    assert reader.due - clock.monotonic() == 5, "after a success the intervals begin anew"


async def test_a_database_that_does_not_answer_is_given_up(reader, caplog):
    async def hangs(statements):
        await asyncio.Event().wait()

    reader.read_from(hangs, "postgres", 0.01)
    assert await reader.read() is None
    assert "TimeoutError" in caplog.text


async def test_a_catalog_without_end_is_not_taken_in(reader, database, caplog):
    database.rows = [VIEW] * (MAX_DEFINITIONS + 1)
    reader.read_from(database, "postgres", 5.0)
    assert await reader.read() is None
    assert f"more than {MAX_DEFINITIONS:,} definitions" in caplog.text


async def test_an_explainer_that_was_taken_away_meanwhile_is_not_asked_again(reader):
    async def fails_late(statements):
        reader.read_from(None, "", 1.0)
        raise ConnectionError("closed")

    reader.read_from(fails_late, "postgres", 1.0)
    assert await reader.read() is None
    assert reader.due == math.inf


async def test_it_is_read_for_a_name_that_it_did_not_have(clock, database):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable(dialect="postgres")
    database.rows = [TABLE]
    optimizer.explain_with(database, "postgres")

    async def run(query, params):
        return [(1,)]

    await optimizer.execute("SELECT * FROM t", None, run)
    assert database.asked == 1
    database.rows = [TABLE, VIEW]
    await optimizer.execute("SELECT * FROM v", None, run)
    assert database.asked == 1, "not more often than once a second"
    assert await optimizer.get_cached_result("SELECT * FROM v") is None, "and until then it is not kept"
    await clock.advance(APART)
    await optimizer.execute("SELECT * FROM v", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM v") is not None
    await optimizer.execute("UPDATE t SET v = 1", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM v") is None
    assert database.asked == 2


async def test_a_name_that_it_still_does_not_have_is_not_asked_for_again(clock, database):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable(dialect="postgres")
    database.rows = [TABLE]
    optimizer.explain_with(database, "postgres")

    async def run(query, params):
        return [(1,)]

    for _ in range(4):
        await optimizer.execute("SELECT * FROM elsewhere", None, run)
        await clock.advance(APART)
    assert database.asked == 2, "at first, and for this name"
    assert await optimizer.get_cached_result("SELECT * FROM elsewhere") is not None
    await optimizer.execute("DELETE FROM t", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM elsewhere") is None, "any write drops it"


async def test_what_was_defined_elsewhere_counts_from_half_the_greatest_age_on(clock, database):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable(dialect="postgres", catalog_max_age=100, cache_ttl=1_000)
    child = ("table", "child", "")
    database.rows = [TABLE, child]
    optimizer.explain_with(database, "postgres")

    async def run(query, params):
        return [(1,)]

    await optimizer.execute("SELECT * FROM child", None, run)
    await clock.advance(49)
    await optimizer.execute("DELETE FROM t", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM child") is not None
    database.rows = [TABLE, child, ("key delete", "child", "t")]
    await clock.advance(1)
    await optimizer.execute("UPDATE t SET v = 1", None, run)
    await optimizer.execute("SELECT * FROM child", None, run)
    await optimizer.execute("UPDATE t SET v = 1", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM child") is not None, "the key passes on deletes"
    await optimizer.execute("DELETE FROM t", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM child") is None


async def test_a_catalog_that_is_too_old_and_cannot_be_read_no_longer_counts(clock, database):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable(dialect="postgres", catalog_max_age=100, cache_ttl=1_000)
    database.rows = [TABLE]
    optimizer.explain_with(database, "postgres")

    async def run(query, params):
        return [(1,)]

    await optimizer.execute("SELECT * FROM t", None, run)
    database.error = ConnectionError("no route")
    await clock.advance(60)
    await optimizer.execute("DELETE FROM u", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM t") is None, "u is not in the catalog"
    await optimizer.execute("SELECT * FROM t", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM t") is not None, "it is not too old yet"
    await clock.advance(100)
    await optimizer.execute("SELECT * FROM t WHERE v = 1", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM t WHERE v = 1") is None
    database.error = None
    await clock.advance(300)
    await optimizer.execute("SELECT * FROM t WHERE v = 1", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM t WHERE v = 1") is not None


async def test_what_a_transaction_defined_is_read_after_its_end(clock, database):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable(dialect="postgres")
    database.rows = [TABLE]
    optimizer.explain_with(database, "postgres")

    async def run(query, params):
        return [(1,)]

    await optimizer.execute("SELECT * FROM t", None, run)
    await optimizer.execute("BEGIN", None, run)
    await optimizer.execute("DO $$ BEGIN EXECUTE 'create view v as select * from t'; END $$", None, run)
    await optimizer.execute("SELECT * FROM t WHERE v = 2", None, run)  # read while it is not visible yet
    database.rows = [TABLE, VIEW]
    await optimizer.execute("COMMIT", None, run)
    await optimizer.execute("SELECT * FROM v", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM v") is not None
    await optimizer.execute("DELETE FROM t", None, run)
    assert await optimizer.get_cached_result("SELECT * FROM v") is None


async def test_a_trigger_that_may_write_anything_is_told_once_and_why(reader, database, caplog):
    database.rows = [("trigger update", "t", "plpgsql\nBEGIN EXECUTE x; END"), TABLE]
    reader.read_from(database, "postgres", 1.0)
    with caplog.at_level(logging.INFO):
        await reader.read()
        await reader.read()
    assert caplog.text.count("drops every cached result: t: it has EXECUTE") == 1


async def test_a_write_that_fails_while_the_catalog_is_overdue_drops_everything(clock, database):
    optimizer = QueryOptimizer(clock=clock)
    await optimizer.enable(dialect="postgres", cache_ttl=10_000)
    database.rows = [TABLE, ("table", "u", "")]
    optimizer.explain_with(database, "postgres")

    async def run(query, params):
        return [(1,)]

    async def slow(query, params):
        await clock.advance(200)
        raise TimeoutError("it may have written")

    await optimizer.execute("SELECT * FROM u", None, run)
    with pytest.raises(TimeoutError):
        await optimizer.execute("DELETE FROM t", None, slow)
    assert await optimizer.get_cached_result("SELECT * FROM u") is None
