"""When the catalog is asked, how often, and what an answer that fails costs."""

import asyncio
import logging
import math

import pytest

from bot.core.query_optimizer.execution.catalog import RETRY_FIRST, CatalogReader
from bot.core.query_optimizer.service import QueryOptimizer
from bot.core.query_optimizer.sql.catalog import MAX_DEFINITIONS


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
    assert await optimizer.get_cached_result("SELECT * FROM t") == [(1,)]


async def test_many_callers_ask_once_and_one_that_is_cancelled_leaves_alone():
    optimizer = QueryOptimizer()
    await optimizer.enable(dialect="postgres")
    asked, gate = [], asyncio.Event()

    async def ask(statements):
        asked.append(statements)
        await gate.wait()
        return [[("view", "public.v", "CREATE VIEW public.v AS SELECT * FROM public.t")]]

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


VIEW = ("view", "public.v", "CREATE VIEW public.v AS SELECT * FROM public.t")


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


async def test_it_is_read_once_and_again_after_a_doubt(reader, database):
    reader.read_from(database, "postgres", 1.0)
    assert reader.due == 0, "at once"
    [declaration] = await reader.read()
    assert (declaration.kind, declaration.name) == ("view", "public.v")
    assert reader.due == math.inf
    reader.doubt()
    assert reader.due == 0


async def test_a_doubt_that_arises_while_it_is_read_has_it_read_again(reader):
    async def ask(statements):
        reader.doubt()
        return [[VIEW]]

    reader.read_from(ask, "postgres", 1.0)
    assert await reader.read() is not None
    assert reader.due == 0


async def test_failures_are_tried_again_after_a_minute_to_an_hour(reader, database, clock):
    reader.read_from(database, "postgres", 1.0)
    database.error = ConnectionError("no route")
    delays = []
    for _ in range(8):
        assert await reader.read() is None
        delays.append(reader.due - clock.monotonic())
    assert delays == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    database.error = None
    assert await reader.read() is not None
    database.error = ConnectionError("no route")
    await reader.read()
    assert reader.due - clock.monotonic() == 60, "after a success the intervals begin anew"


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
