"""Starting, reporting and stopping the services together."""

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bot.core import enhanced_startup_phase4 as startup
from bot.core.enhanced_startup_phase4 import (
    get_phase4_status,
    initialize_phase4_services,
    reset_phase4_services,
    shutdown_phase4_services,
)
from bot.core.phase4_service import Phase4Service
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimiter

ROOT = Path(__file__).resolve().parents[2]
OFF = dict.fromkeys(("ENABLE_QUERY_OPTIMIZER", "ENABLE_RATE_LIMITER"), False)
MINIMAL = {"ENABLE_QUERY_OPTIMIZER": True, "ENABLE_RATE_LIMITER": True}
DRIVERS = ("redis", "motor", "pymongo", "asyncpg", "asyncmy", "aiosqlite", "sqlglot", "graphql", "aiohttp")


@pytest.fixture(autouse=True)
async def stopped():
    yield
    await shutdown_phase4_services()


async def test_the_minimal_profile_starts():
    report = await initialize_phase4_services(MINIMAL)
    assert report == {
        "success": True,
        "errors": [],
        "warnings": [],
        "services_initialized": ["QueryOptimizer", "RateLimiter"],
        "summary": "Phase 4: 2 service(s) running: QueryOptimizer, RateLimiter",
    }
    assert RateLimiter.get_instance().enabled
    assert QueryOptimizer.get_instance().enabled


async def test_with_all_flags_off_nothing_runs_and_nothing_fails():
    report = await initialize_phase4_services(OFF)
    assert report["success"]
    assert report["services_initialized"] == []
    assert report["summary"] == "Phase 4 is off: no ENABLE_* flag is set"
    assert (await get_phase4_status())["services"] == {}


async def test_a_bad_setting_is_an_error_and_changes_nothing():
    await initialize_phase4_services(MINIMAL)
    report = await initialize_phase4_services({**OFF, "RATE_LIMIT_DEFAULT_RPS": -1})
    assert not report["success"]
    assert "RATE_LIMIT_DEFAULT_RPS = -1" in report["errors"][0]
    assert RateLimiter.get_instance().enabled, "what ran before runs on"
    assert report["services_initialized"] == ["QueryOptimizer", "RateLimiter"]
    assert report["summary"] == "Phase 4: 2 service(s) running: QueryOptimizer, RateLimiter; 1 error(s)"


async def test_a_service_that_cannot_start_does_not_stop_the_others(monkeypatch, caplog):
    async def refuse(self, **_):
        raise ConnectionError("no route to redis://user:hunter2@host/0")

    monkeypatch.setattr(QueryOptimizer, "enable", refuse)
    report = await initialize_phase4_services(MINIMAL)
    assert report["success"] is False
    assert report["errors"] == ["QueryOptimizer: no route to redis://***@host/0"]
    assert report["services_initialized"] == ["RateLimiter"]
    assert "hunter2" not in caplog.text


async def test_a_flag_without_its_service_says_so(monkeypatch):
    import bot.core.rate_limiter as package

    monkeypatch.delattr(package, "RateLimiter")
    report = await initialize_phase4_services(MINIMAL)
    assert report["errors"] == ["RateLimiter: not part of this version; unset ENABLE_RATE_LIMITER"]
    assert report["services_initialized"] == ["QueryOptimizer"]


async def test_starting_twice_reconfigures():
    await initialize_phase4_services(MINIMAL)
    limiter = RateLimiter.get_instance()
    await initialize_phase4_services({**OFF, "ENABLE_RATE_LIMITER": True, "RATE_LIMIT_BURST_SIZE": 7})
    assert RateLimiter.get_instance() is limiter
    assert (await limiter.is_allowed("u"))[1].limit == 7
    assert not QueryOptimizer.get_instance().enabled, "its flag is no longer set"


async def test_tiers_of_the_configuration_are_defined():
    await initialize_phase4_services(
        {**MINIMAL, "RATE_LIMITS": {"gold": {"requests_per_second": 3, "burst_size": 4}}}
    )
    _, status = await RateLimiter.get_instance().is_allowed("u", tier="gold")
    assert status.limit == 4


async def test_a_start_that_is_cancelled_leaves_nothing_running(monkeypatch):
    reached = asyncio.Event()

    async def hang(self, **_):
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(RateLimiter, "enable", hang)
    task = asyncio.ensure_future(initialize_phase4_services(MINIMAL))
    await reached.wait()
    assert QueryOptimizer.get_instance().enabled
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not QueryOptimizer.get_instance().enabled
    monkeypatch.undo()
    assert (await initialize_phase4_services(MINIMAL))["success"], "the start-up is not stuck"


async def test_the_status_has_what_operators_read():
    await initialize_phase4_services(MINIMAL)
    await RateLimiter.get_instance().is_allowed("u")
    status = await get_phase4_status()
    assert datetime.fromisoformat(status["timestamp"]).utcoffset() == datetime.now(UTC).utcoffset()
    assert status["uptime_seconds"] >= 0
    assert status["process"]["rss_mb"] > 1
    assert {"cpu_percent", "open_fds", "threads"} <= status["process"].keys()
    assert status["rate_limiter"] is status["services"]["rate_limiter"]
    assert status["rate_limiter"]["total_allowed"] == 1
    assert {
        "enabled", "total_unique_queries", "total_executions", "cache_hits", "cache_misses", "hit_rate",
        "cache_hit_rate_percent", "avg_execution_time_ms", "cached_results_count", "slow_queries",
        "n_plus_one_patterns",
    } <= status["query_optimizer"].keys()  # fmt: skip
    assert {
        "enabled", "active_clients", "total_allowed", "total_blocked", "total_requests", "block_rate",
        "block_rate_percent", "tiers_configured",
    } <= status["rate_limiter"].keys()  # fmt: skip


async def test_a_service_switched_on_by_hand_is_in_the_status_too():
    await RateLimiter.get_instance().enable()
    assert (await get_phase4_status())["rate_limiter"]["enabled"]


async def test_figures_that_fail_do_not_fail_the_status(monkeypatch):
    def fail(self):
        raise RuntimeError("broken counters")

    await initialize_phase4_services(MINIMAL)
    monkeypatch.setattr(RateLimiter, "snapshot", fail)
    status = await get_phase4_status()
    assert status["rate_limiter"] == {"enabled": True, "error": "RuntimeError: broken counters"}
    assert status["query_optimizer"]["enabled"]


async def test_reset_clears_figures_and_leaves_services_on():
    await initialize_phase4_services(MINIMAL)
    await RateLimiter.get_instance().is_allowed("u")
    assert await reset_phase4_services()
    status = await get_phase4_status()
    assert status["rate_limiter"]["total_requests"] == 0


async def test_shutdown_is_idempotent_and_leaves_no_task():
    await initialize_phase4_services(MINIMAL)
    assert await shutdown_phase4_services()
    assert await shutdown_phase4_services()
    status = await get_phase4_status()
    assert status["services"] == {}
    assert status["uptime_seconds"] == 0.0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_service_that_does_not_stop_cleanly_does_not_keep_the_others_running(monkeypatch):
    await initialize_phase4_services(MINIMAL)

    async def fail(self):
        raise RuntimeError("stuck")

    with monkeypatch.context() as patched:
        patched.setattr(RateLimiter, "disable", fail)
        assert await shutdown_phase4_services() is False
    assert not QueryOptimizer.get_instance().enabled


async def test_one_that_does_not_stop_cleanly_when_its_flag_goes_is_told_and_stops_no_other(monkeypatch):
    await initialize_phase4_services(MINIMAL)

    async def fail(self):
        raise OSError("stuck")

    with monkeypatch.context() as patched:
        patched.setattr(RateLimiter, "disable", fail)
        report = await initialize_phase4_services({**MINIMAL, "ENABLE_RATE_LIMITER": False})
    assert report["errors"] == ["RateLimiter: stuck"]
    assert QueryOptimizer.get_instance().enabled


def test_started_under_one_loop_and_stopped_under_another():
    assert asyncio.run(initialize_phase4_services(MINIMAL))["success"]
    assert asyncio.run(shutdown_phase4_services())
    assert not RateLimiter.get_instance().enabled
    assert asyncio.run(initialize_phase4_services(MINIMAL))["success"]
    assert asyncio.run(shutdown_phase4_services())


def test_the_decorators_can_be_had_from_here():
    from bot.core.rate_limiter import rate_limited

    assert startup.rate_limited is rate_limited
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        startup.nothing  # noqa: B018


def test_every_service_is_a_phase4_service():
    for wiring in startup.SERVICES:
        found = wiring.service_class()
        if found is not None:
            assert issubclass(found, Phase4Service)
            assert found.service_name == wiring.package


def modules_after(code):
    # A name like PHASE4_TEST_LOOP is no setting, and is compared with all that are.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PHASE4_")}
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    return {name.split(".")[0] for name in shown.stdout.split()}


@pytest.mark.server
def test_importing_the_startup_imports_no_driver():
    loaded = modules_after("import bot.core.enhanced_startup_phase4")
    assert not loaded & set(DRIVERS)
    assert "psutil" not in loaded


@pytest.mark.server
def test_a_start_with_everything_off_imports_no_service():
    loaded = modules_after(
        "import asyncio, sys\n"
        "from bot.core.enhanced_startup_phase4 import initialize_phase4_services as start\n"
        f"asyncio.run(start({OFF!r}))\n"
        "shared = ('bot.core._shared.', 'bot.core.phase4_config.')\n"
        "assert not [n for n in sys.modules if n.startswith('bot.core.') and n.count('.') > 2"
        " and not n.startswith(shared)]"
    )
    assert not loaded & {*DRIVERS, "msgspec", "difflib", "urllib", "ipaddress", "datetime"}


@pytest.mark.server
def test_a_start_imports_the_settings_that_are_set_or_used_alone():
    modules_after(
        "import asyncio, sys\n"
        "from bot.core.enhanced_startup_phase4 import initialize_phase4_services as start\n"
        f"report = asyncio.run(start({{**{OFF!r}, 'LOAD_BALANCER_STRATEGY': 'random'}}))\n"
        "assert report['success'] and not report['services_initialized'], report\n"
        "names = {n.rpartition('.')[2] for n in sys.modules if n.startswith('bot.core.phase4_config.')}\n"
        "assert 'load_balancer' in names\n"
        "assert not names & {'cache_manager', 'connection_pools', 'outbound', 'rate_limiter', 'redis'}, names"
    )


@pytest.mark.server
def test_the_minimal_profile_imports_no_driver_and_its_parser_beside_the_start():
    loaded = modules_after(
        "import asyncio\n"
        "from bot.core.enhanced_startup_phase4 import initialize_phase4_services as start\n"
        f"assert asyncio.run(start({MINIMAL!r}))['success']"
    )
    assert loaded & set(DRIVERS) <= {"sqlglot"}  # by a thread, which may be at any point


async def test_durable_batches_start_without_redis_and_say_so():
    report = await initialize_phase4_services(
        {"ENABLE_BATCH_PROCESSOR": True, "BATCH_REDIS_URL": "redis://127.0.0.1:1/0"}
    )
    assert report["success"]
    status = (await get_phase4_status())["batch_processor"]
    assert status["durable"]
    assert status["degraded"]
    assert await shutdown_phase4_services()
