"""A real Prometheus scrapes the running service: alerts fire and resolve, every panel has an answer.

The rules are the shipped ones with shorter ``for``; minutes become a second.
"""

import asyncio
import contextlib
import json
import re
import subprocess

import aiohttp
import pytest
from aiohttp import web

from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.load_balancer import LoadBalancer
from bot.service.server import create_app
from bot.service.settings import ServiceSettings
from tests.deploy.conftest import DEPLOY
from tests.support.servers import free_port

CONFIG = """
global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: bot
    static_configs: [{targets: ['127.0.0.1:%d']}]
"""


class Prometheus:
    """A server of the test's own, with the rules in a hurry."""

    def __init__(self, binary, directory, session):
        self._binary = binary
        self._directory = directory
        self._session = session
        self._port = free_port()
        self._process = None

    def start(self, scraped_port):
        rules = re.sub(r"\bfor: \w+", "for: 1s", (DEPLOY / "alerts.yml").read_text())
        (self._directory / "alerts.yml").write_text(rules)
        (self._directory / "prometheus.yml").write_text(CONFIG % scraped_port)
        self._process = subprocess.Popen(
            [
                self._binary, f"--config.file={self._directory}/prometheus.yml",
                f"--storage.tsdb.path={self._directory}/data", "--log.level=warn",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=(self._directory / "log").open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip

    def stop(self):
        self._process.terminate()
        self._process.wait(timeout=20)

    async def get(self, path, **params):
        async with self._session.get(f"http://127.0.0.1:{self._port}{path}", params=params) as answer:
            body = await answer.json(content_type=None)
        assert body["status"] == "success", (params, body)
        return body["data"]

    async def query(self, expression):
        return (await self.get("/api/v1/query", query=expression))["result"]

    async def firing(self):
        alerts = (await self.get("/api/v1/alerts"))["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    async def until(self, condition, what, seconds=30):
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            with contextlib.suppress(aiohttp.ClientError, json.JSONDecodeError, AssertionError):
                if await condition():
                    return
            log = (self._directory / "log").read_text()[-2000:]
            assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s: {what}\n{log}"
            await asyncio.sleep(0.1)


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def bot(data_dir):
    """The service in this process, so that the test can hold its connections."""
    app = create_app(
        ServiceSettings(data_dir=data_dir),
        {"ENABLE_QUERY_OPTIMIZER": True, "ENABLE_RATE_LIMITER": True, "ENABLE_CONNECTION_POOLING": True},
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", free_port())
        await site.start()
        yield site
    finally:
        await runner.cleanup()


@pytest.fixture
async def server(prometheus, tmp_path, session, bot):
    made = Prometheus(prometheus, tmp_path, session)
    made.start(bot._port)
    try:
        yield made
    finally:
        await asyncio.to_thread(made.stop)


async def test_alerts_fire_and_resolve_and_every_panel_has_an_answer(server, session, bot, tmp_path):
    async def ask(user):
        async with session.get(f"{bot.name}/api/data", params={"user_id": user}) as answer:
            assert answer.status == 200

    pools = ConnectionPoolManager.get_instance()
    await pools.create_pool(
        "rehearsal", "sqlite", min_size=1, max_size=4, url=f"sqlite:///{tmp_path}/rehearsal.db"
    )

    async def is_up():
        return [sample["value"][1] for sample in await server.query('up{job="bot"}')] == ["1"]

    await server.until(is_up, "the service is scraped")

    async def idle_service_is_quiet():
        rates = [sample["value"][1] for sample in await server.query("cache_hit_rate")]
        return rates == ["NaN"]

    await server.until(idle_service_is_quiet, "no look-up yet, so no rate")
    assert not await server.firing() & {"LowCacheHitRate", "HighQueryLatency", "HighRateLimitBlocking"}

    for user in range(1, 31):  # each for the first time: nothing comes from the cache
        await ask(user)
    leases = [await pools.acquire_connection("rehearsal") for _ in range(3)]
    both = {"LowCacheHitRate", "ConnectionPoolExhaustion"}

    async def both_fire():
        return both <= await server.firing()

    await server.until(both_fire, "both alerts fire")

    for lease in leases:
        await pools.release_connection("rehearsal", lease)
    for _ in range(60):
        await ask(1)

    async def both_resolved():
        return not both & await server.firing()

    await server.until(both_resolved, "both alerts resolve")
    assert not await server.firing() & {"BotDown", "DatabaseUnreachable"}

    async with session.get(f"{bot.name}/api/upload") as answer:
        assert answer.status == 200
    cache = CacheManager.get_instance()
    await cache.enable()
    await cache.set("key", "value")
    assert await cache.get("key") == "value"

    processor, balancer = BatchProcessor.get_instance(), LoadBalancer.get_instance()

    async def handle(items):
        return [item.data for item in items]

    async def answer(instance, request):
        return request

    await processor.enable(handle, batch_timeout=0.05)
    assert await processor.submit_and_wait("item") == "item"
    balancer.request_handler = answer
    await balancer.enable()
    await balancer.add_instance("bot-1", "127.0.0.1", bot._port)
    assert (await balancer.route_request("request"))[:2] == (True, "request")

    async def has_rates():
        last = ("phase4_cache_hits_total", "phase4_load_balancer_instance_requests_total")
        return all([await server.query(f"rate({name}[10s])") for name in last])

    await server.until(has_rates, "two scrapes with all services on")
    unanswered = []
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = (
                target["expr"]
                .replace("$__rate_interval", "10s")
                .replace("$job", ".*")
                .replace("$instance", ".*")
            )
            if not await server.query(expression):
                unanswered.append(target["expr"])
    assert unanswered == []
