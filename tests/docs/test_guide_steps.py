"""The guide's Quick Start and its steps 3, 4 and 10, run as written."""

import asyncio
import logging
import sqlite3
import subprocess
import sys
import types

import pytest

from bot.core.cache_manager import CacheManager
from bot.core.enhanced_startup_phase4 import (
    get_phase4_status,
    initialize_phase4_services,
    shutdown_phase4_services,
)
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimiter
from tests.docs.guide import blocks, run

MINIMAL = {"ENABLE_QUERY_OPTIMIZER": True, "ENABLE_RATE_LIMITER": True}


@pytest.fixture(autouse=True)
async def stopped():
    yield
    await shutdown_phase4_services()


@pytest.mark.server
def test_step_1_verification_line():
    [block] = blocks("Step 1:", "bash")
    [line] = [line for line in block.splitlines() if line.startswith("python -c")]
    code = line.removeprefix('python -c "').removesuffix('"')
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "Phase 4 dependencies OK\n"


async def test_quick_start(capsys):
    guide = await run(blocks("2. Enable Minimal Setup")[0], {})
    assert guide["status"]["success"]
    assert set(guide["status"]["services_initialized"]) == {"QueryOptimizer", "RateLimiter"}
    optimizer = QueryOptimizer.get_instance()
    await optimizer.cache_query_result("SELECT 1", [1], fresh=True)
    await optimizer.get_cached_result("SELECT 1")
    await run(blocks("3. Monitor Performance")[0], {})
    assert capsys.readouterr().out == "Query cache hits: 1\n"


def test_step_3_option_a_is_started_under_one_loop_and_stopped_under_another(caplog, monkeypatch):
    settings = types.ModuleType("config_enhancements_phase4")
    vars(settings).update(MINIMAL)
    monkeypatch.setitem(sys.modules, "config_enhancements_phase4", settings)
    # The handler is the function's last line; it is handed out so that the exit can be played.
    block = blocks("Option A")[0] + "    return on_exit_handler\n"
    namespace = {"asyncio": asyncio, "logger": logging.getLogger("guide")}
    with caplog.at_level(logging.INFO):
        asyncio.run(run(block, namespace))
        on_exit_handler = asyncio.run(namespace["main"]())
        assert RateLimiter.get_instance().enabled
        assert on_exit_handler() is True
    assert "Phase 4 initialized: Phase 4: 2 service(s) running" in caplog.text
    assert not RateLimiter.get_instance().enabled
    assert not QueryOptimizer.get_instance().enabled


@pytest.mark.parametrize("wanted", [True, False])
async def test_step_3_option_b_enables_what_its_flags_say(wanted):
    flags = dict.fromkeys(["ENABLE_QUERY_OPTIMIZER", "ENABLE_CACHE_MANAGER", "ENABLE_RATE_LIMITER"], wanted)
    guide = await run(blocks("Option B")[0], dict(flags))
    await guide["setup_phase4"]()
    for service in (QueryOptimizer, CacheManager, RateLimiter):
        assert service.get_instance().enabled is wanted
    assert set((await get_phase4_status())["services"]) == (
        {"query_optimizer", "cache_manager", "rate_limiter"} if wanted else set()
    )


async def test_step_3_option_b_runs_with_the_settings_file_as_it_is_shipped():
    guide = await run("from config_enhancements_phase4 import *\n" + blocks("Option B")[0], {})
    await guide["setup_phase4"]()
    assert set((await get_phase4_status())["services"]) == {"query_optimizer", "rate_limiter"}
    others = ("ENABLE_CONNECTION_POOLING", "ENABLE_BATCH_PROCESSOR", "ENABLE_LOAD_BALANCER")
    assert [guide[flag] for flag in others] == [False] * 3


async def test_step_4_sql(caplog):
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        "CREATE TABLE users (id INTEGER, name TEXT); INSERT INTO users VALUES (1, 'ann');"
    )
    executed = []

    class Database:
        async def execute(self, query):
            executed.append(query)
            return connection.execute(query).fetchall()

    await QueryOptimizer.get_instance().enable()
    guide = await run(blocks("For SQL Queries")[0], {"db": Database(), "logger": logging.getLogger()})
    query = "SELECT id, name FROM users WHERE id = 1"
    assert [await guide["execute_query"](query) for _ in range(3)] == [[(1, "ann")]] * 3
    assert executed == [query], "the second and third came from the cache"
    await guide["execute_query"]("SELECT random()")
    await guide["execute_query"]("SELECT random()")
    assert executed.count("SELECT random()") == 2
    figures = await QueryOptimizer.get_instance().get_statistics()
    assert figures["cache_hits"] == 2
    assert figures["total_executions"] == 3
    connection.close()


async def test_step_10(caplog):
    await initialize_phase4_services(MINIMAL)
    optimizer = QueryOptimizer.get_instance()
    await optimizer.get_cached_result("SELECT 1")
    for _ in range(60):
        RateLimiter.get_instance().check("abuser")
    turns = []

    async def sleep(seconds):
        turns.append(seconds)
        if len(turns) == 2:
            raise asyncio.CancelledError

    loop_only = types.SimpleNamespace(sleep=sleep)
    namespace = {"asyncio": loop_only, "logger": logging.getLogger("guide")}
    guide = await run(blocks("Step 10")[0], namespace)
    with caplog.at_level(logging.INFO), pytest.raises(asyncio.CancelledError):
        await guide["monitor_phase4"]()
    assert turns == [60, 60]
    assert "Phase 4 Status: {'timestamp'" in caplog.text
    assert "Low cache hit rate in Query Optimizer" in caplog.text
    assert "High rate limit blocking rate" in caplog.text
