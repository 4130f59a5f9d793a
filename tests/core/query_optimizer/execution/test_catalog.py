"""When the catalog is asked, how often, and what an answer that fails costs."""

import asyncio
import logging

from bot.core.query_optimizer.execution.catalog import RETRY_FIRST
from bot.core.query_optimizer.service import QueryOptimizer


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
