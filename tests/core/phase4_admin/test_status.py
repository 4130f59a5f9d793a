"""``python -m bot status``: what an operator reads at night."""

import argparse
import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web

from bot.core.enhanced_startup_phase4 import mount_phase4
from bot.core.phase4_admin import status
from bot.core.phase4_admin.status import _health_url, as_table
from tests.service.conftest import Service
from tests.support.servers import free_port

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bot", "status", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, env={**os.environ, **(environ or {})},
    )  # fmt: skip


def test_a_running_service_as_a_table(service):
    service.call("/api/data?user_id=3")
    service.call("/api/data?user_id=3")
    shown = run(f"http://127.0.0.1:{service.port}")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("ok, version ")
    for word in ("query optimizer", "cache hit rate", "rate limiter", "blocked", "target > 70 %"):
        assert word in shown.stdout


def test_json_is_what_health_says(service):
    shown = json.loads(run(f"127.0.0.1:{service.port}/health", "--format", "json").stdout)
    assert shown["status"] == "ok"
    assert "query_optimizer" in shown["phase4"]


def test_a_service_that_has_a_token_tells_its_figures_to_who_has_it(data_dir):
    token = "a-token-of-sixteen-letters"
    guarded = Service(data_dir, PHASE4_DASHBOARD_TOKEN=token)
    guarded.start()
    try:
        url = f"http://127.0.0.1:{guarded.port}"
        refused = run(url)
        assert refused.returncode == 1
        assert "its figures only with its token: set PHASE4_DASHBOARD_TOKEN" in refused.stdout
        assert run(url, "--token", token).stdout.startswith("ok")
        assert run(url, environ={"PHASE4_DASHBOARD_TOKEN": token}).stdout.startswith("ok")
        assert run(url, "--token", "wr\u00f6ng").returncode == 2
        assert guarded.call("/health").body == {"status": "ok"}
        assert guarded.call("/health", Authorization=f"Bearer {token}").body["database"]
    finally:
        guarded.close()


def test_watch_looks_again_until_it_is_told_to_stop(service):
    url = f"http://127.0.0.1:{service.port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "bot", "status", url, "--watch", "--interval", "0.1"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # As in a terminal, also where the tests run in the background, which ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    seen = 0
    assert process.stdout is not None
    deadline = time.monotonic() + 30
    while seen < 3 and time.monotonic() < deadline:
        seen += process.stdout.readline().startswith("ok")
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert seen == 3
    assert process.returncode == 0
    assert "\x1b" not in rest, "no escape codes where there is no terminal"


@pytest.mark.server
def test_a_service_that_is_away_is_a_sentence_and_a_failure():
    port = free_port()
    shown = run(f"http://127.0.0.1:{port}")
    assert shown.returncode == 1
    assert shown.stdout == f"http://127.0.0.1:{port}/health cannot be reached: Connection refused\n"


@pytest.mark.server
def test_a_command_that_there_is_not_is_named():
    shown = subprocess.run(
        [sys.executable, "-m", "bot", "chekc"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert shown.returncode == 2
    assert "argument COMMAND: invalid choice: 'chekc'" in shown.stderr


@pytest.mark.server
@pytest.mark.parametrize("url", ["ftp://h", "http://", "file:///etc/passwd", "http://127.0.0.1:abc"])
def test_a_url_that_is_none_is_refused(url):
    shown = run(url)
    assert shown.returncode == 2
    assert "expected http://host:port" in shown.stderr


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("localhost:8000", "http://localhost:8000/health"),
        ("https://bot.example/phase4/", "https://bot.example/phase4/health"),
        ("http://h/health", "http://h/health"),
    ],
)
def test_where_health_is(given, url):
    assert _health_url(given) == url


def health(**services):
    return {
        "status": "ok",
        "version": "1",
        "database": {"backend": "sqlite"},
        "phase4": {"timestamp": "2026-02-01T10:00:00+00:00", "uptime_seconds": 3700, "services": services},
    }


def line(table: str, name: str) -> str:
    [found] = [line for line in table.splitlines() if line.strip().startswith(name)]
    return " ".join(found.split())


def test_every_target_of_the_guides_dashboard_is_in_or_out():
    good = as_table(
        health(
            query_optimizer={
                "cache_hits": 80,
                "cache_misses": 20,
                "cache_hit_rate_percent": 80.0,
                "slow_queries": [1, 2],
            },
            cache_manager={
                "total_hits": 8,
                "total_misses": 2,
                "overall_hit_rate_percent": 80.0,
                "eviction_rate": 3.0,
            },
            connection_pool_manager={
                "db": {"active_connections": 6, "max_size": 10, "utilization_percent": 60.0}
            },
            rate_limiter={"total_requests": 100, "block_rate_percent": 1.0},
            load_balancer={
                "healthy_instances": 2,
                "total_instances": 2,
                "total_requests": 9,
                "distribution_variance": 1.0,
                "success_rate_percent": 100.0,
                "instances": {"a": {"state": "healthy"}},
            },
        )
    )
    assert "OUT" not in good
    assert line(good, "up") == "up 1 h 1 min"
    assert line(good, "slow queries") == "slow queries 2"
    bad = as_table(
        health(
            query_optimizer={"cache_hits": 2, "cache_misses": 8, "cache_hit_rate_percent": 20.0},
            cache_manager={
                "total_hits": 8,
                "total_misses": 2,
                "overall_hit_rate_percent": 10.0,
                "eviction_rate": 30.0,
            },
            connection_pool_manager={
                "db": {"active_connections": 10, "max_size": 10, "utilization_percent": 100.0, "leaked": 1}
            },
            rate_limiter={"total_requests": 100, "block_rate_percent": 50.0},
            load_balancer={
                "healthy_instances": 1,
                "total_instances": 2,
                "total_requests": 9,
                "distribution_variance": 55.0,
                "success_rate_percent": 50.0,
            },
        )
    )
    for name in (
        "look-ups answered", "eviction rate", "db: in use", "db: failed", "blocked",
        "instances healthy", "distribution variance", "success",
    ):  # fmt: skip
        assert line(bad, name).endswith("OUT"), name


def test_a_redis_behind_the_cache_is_shown_also_while_it_is_away():
    assert "L2" not in as_table(health(cache_manager={"l2_enabled": False, "l2_connected": False}))
    away = as_table(health(cache_manager={"l2_enabled": True, "l2_connected": False}))
    assert line(away, "L2  ") == "L2 AWAY"


def test_of_nothing_there_is_no_verdict():
    table = as_table(
        health(query_optimizer={"cache_hits": 0, "cache_misses": 0, "cache_hit_rate_percent": 0.0})
    )
    assert line(table, "cache hit rate") == "cache hit rate - target > 70 %"


def test_off_and_broken_and_unknown_services_are_shown():
    assert "Phase 4 is off" in as_table(health())
    table = as_table(health(rate_limiter={"enabled": True, "error": "ValueError: x"}, another={"size": 3}))
    assert "ValueError: x" in table
    assert line(table, "size") == "size 3"


@pytest.mark.parametrize(
    ("services", "row"),
    [
        (
            {"query_optimizer": {"cache_hits": 2, "cache_misses": 8, "cache_hit_rate_percent": 20.0}},
            "cache hit rate",
        ),
        (
            {"cache_manager": {"total_hits": 2, "total_misses": 8, "overall_hit_rate_percent": 20.0}},
            "hit rate",
        ),
    ],
)
def test_a_cache_alone_is_judged_by_its_own_rate(services, row):
    assert line(as_table(health(**services)), row) == f"{row} 20.0 % target > 70 % OUT"


def test_an_optimizer_behind_a_cache_that_answers_is_not_out_of_its_target():
    table = as_table(
        health(
            cache_manager={"total_hits": 95, "total_misses": 5, "overall_hit_rate_percent": 95.0},
            query_optimizer={"cache_hits": 0, "cache_misses": 5, "cache_hit_rate_percent": 0.0},
        )
    )
    assert line(table, "look-ups answered") == "look-ups answered 90.5 % target > 70 % ok"
    assert line(table, "cache hit rate") == "cache hit rate 0.0 %"
    assert "OUT" not in table


def test_what_is_degraded_is_told_with_its_reason_and_since_when():
    shown = health(cache_manager={})
    shown["status"] = "degraded"
    since = "2026-02-01T09:58:07.123456+00:00"
    shown["phase4"]["states"] = {
        "cache_manager": {"state": "degraded", "reason": "Redis does not answer", "since": since},
        "batch_processor": {"state": "failed", "reason": "BATCH_REDIS_URL: no driver", "since": since},
        "outbound": {"state": "off", "reason": "", "since": since},
    }
    table = as_table(shown)
    assert table.startswith("DEGRADED, version 1, 2026-02-01 10:00:00Z")
    assert "cache manager: DEGRADED since 2026-02-01 09:58:07Z: Redis does not answer" in table
    assert "batch processor: FAILED since 2026-02-01 09:58:07Z: BATCH_REDIS_URL: no driver" in table
    assert "outbound" not in table


async def test_a_bot_that_has_it_mounted_in_its_own_application():
    """Whose own /health answers as many do."""

    async def own(_):
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.router.add_get("/health", own)
    mount_phase4(app)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        for url in (address, f"{address}/phase4", f"{address}/phase4/health"):
            out = io.StringIO()
            arguments = argparse.Namespace(url=url, status_token=None, watch=False, format="table")
            with contextlib.redirect_stdout(out):
                assert await asyncio.to_thread(status.run, arguments) == 0
            assert out.getvalue().startswith("ok, version")
    finally:
        await runner.cleanup()
