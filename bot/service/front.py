"""``python -m bot --balance``: other instances behind one address, through the load balancer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import NamedTuple

import aiohttp
from aiohttp import web
from yarl import URL

import bot
from bot.core.enhanced_startup_phase4 import (
    get_phase4_status,
    initialize_phase4_services,
    shutdown_phase4_services,
)
from bot.core.load_balancer import Instance, InstanceFailure, LoadBalancer, NoInstanceError
from bot.core.phase4_config import ConfigError, Phase4Config
from bot.service.api_errors import ApiError
from bot.service.client_address import TRUSTED_PROXIES, client_address
from bot.service.dashboard.access import Access
from bot.service.dashboard.events import LOGGER, EventLog
from bot.service.dashboard.feed import Feed
from bot.service.dashboard.pages import Dashboard, page
from bot.service.drain import Drain
from bot.service.loop_lag import LoopLag
from bot.service.metrics_api import MetricsApi
from bot.service.middleware import REQUEST_ID, around_request
from bot.service.server import ACCESS, DRAIN, FEED
from bot.service.settings import MAX_UPLOAD_BYTES, CannotStartError, ServiceSettings

logger = logging.getLogger("bot.front")

_PASSED_ON = ("Content-Type", "Accept")
_PASSED_BACK = (
    "Content-Type", "X-Cache", "Server-Timing", "Retry-After", "Allow", "Location",
    "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset",
)  # fmt: skip
_READS = ("GET", "HEAD")
_REPEATABLE_POSTS = ("/api/execute",)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def deliberate(self) -> bool:
        """Whether it is the instance's "not now, but then", as of a full queue, rather than a failure."""
        return self.status == 503 and "Retry-After" in self.headers


class Forward(NamedTuple):
    """A request as an instance gets it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    repeatable: bool
    failures: list[tuple[str, Answer]]
    """The answers of 5xx that it got, and from whom; for want of a better one they are passed back."""


class Front:
    """Passes ``/api/*`` on to an instance and its answer back; ``X-Instance`` names who answered.

    A body is held in memory until it is answered, so that another instance can be tried: 16 MiB at most.
    """

    def __init__(self, balancer: LoadBalancer) -> None:
        self._balancer = balancer
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        self._balancer.request_handler = self._send

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _send(self, instance: Instance, request: Forward) -> Answer:
        assert self._session is not None
        url = URL(instance.get_url() + request.path, encoded=True)
        async with self._session.request(
            request.method, url, headers=request.headers, data=request.body or None, allow_redirects=False
        ) as response:
            body = await response.read()
            headers = {name: response.headers[name] for name in _PASSED_BACK if name in response.headers}
            answer = Answer(response.status, headers, body)
            # What another instance might do better is a failure here, also if it is deliberate.
            if answer.status >= 500 and (request.repeatable or not answer.deliberate):
                request.failures.append((instance.id, answer))
                raise InstanceFailure(f"HTTP {answer.status}", status=answer.status)
            return answer

    async def handle(self, request: web.Request) -> web.Response:
        """Any request below ``/api/``. 502 when no instance answered it, 503 when there was none to ask.

        An answer of 5xx is passed back if it is a 503 with Retry-After that no other instance bettered, or
        if the request may not be repeated, whose caller wants to know what became of it.
        """
        client = client_address(request)
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        headers["X-Request-Id"] = request[REQUEST_ID]
        headers["X-Forwarded-For"] = client
        repeatable = request.method in _READS or request.path in _REPEATABLE_POSTS
        # Without the host that a client may have named before it, as to a proxy; escapes stay as they came.
        path = request.rel_url.raw_path_qs
        forward = Forward(request.method, path, headers, await request.read(), repeatable, failures=[])
        # Limits are counted by each instance, so a client's limited requests must meet one and the same.
        session = request.query.get("user_id", client) if request.path == "/api/upload" else None
        if request.path.startswith("/api/batch"):
            session = client  # what became of a batch is known to the instance that took it
        success, result, instance_id = await self._balancer.route_request(
            forward, session, idempotent=repeatable
        )
        if not success:
            logger.warning("[%s] %s", request[REQUEST_ID], result)
            for instance_id, failure in forward.failures:
                if failure.deliberate or not repeatable:
                    return _passed_back(failure, instance_id)
            if isinstance(result, NoInstanceError):
                raise ApiError(
                    503, "no_instance", "No instance can take the request now.", headers={"Retry-After": "1"}
                )
            raise ApiError(502, "no_answer", "No instance answered the request; see the log.")
        return _passed_back(result, instance_id or "")


def _passed_back(answer: Answer, instance_id: str) -> web.Response:
    return web.Response(
        status=answer.status, body=answer.body, headers={**answer.headers, "X-Instance": instance_id}
    )


def create_front(settings: ServiceSettings) -> web.Application:
    """The front as an aiohttp application. Only the load balancer runs in it; raises CannotStartError."""
    try:
        config = Phase4Config.load()
    except ConfigError as error:
        raise CannotStartError(str(error)) from error
    phase4 = {name: False for name in Phase4Config.__struct_fields__ if name.startswith("ENABLE_")}
    overrides = {
        **phase4,
        "ENABLE_LOAD_BALANCER": True,
        "LOAD_BALANCER_CHECK_PATH": config.LOAD_BALANCER_CHECK_PATH or "/health",
        "LOAD_BALANCER_INSTANCES": [
            {"id": f"{host}:{port}", "address": host, "port": port} for host, port in settings.balance
        ],
    }
    drain = Drain()
    app = web.Application(
        middlewares=[drain.middleware(), around_request], client_max_size=MAX_UPLOAD_BYTES + 1
    )
    app[DRAIN] = drain
    app[TRUSTED_PROXIES] = settings.trusted_proxies
    front = Front(LoadBalancer.get_instance())
    lag = LoopLag()
    access = app[ACCESS] = Access(settings.host, settings.dashboard_token)
    events = EventLog()
    feed = app[FEED] = Feed(events, lambda: lag.last)
    app.router.add_get("/", page().get)
    app.router.add_get("/api", _index)
    Dashboard(access, feed).add_routes(app)
    app.router.add_get("/health", _health)
    app.router.add_get("/metrics", access.guard(MetricsApi(lag).get))
    app.router.add_route("*", "/api/{path:.+}", front.handle)

    async def life(_: web.Application) -> AsyncIterator[None]:
        logging.getLogger(LOGGER).addHandler(events)
        report = await initialize_phase4_services(overrides)
        if report["errors"]:
            raise CannotStartError("; ".join(report["errors"]))
        await front.start()
        lag.start()
        try:
            yield
        finally:
            feed.close()
            await lag.stop()
            await shutdown_phase4_services()
            await front.stop()
            logging.getLogger(LOGGER).removeHandler(events)

    app.cleanup_ctx.append(life)
    return app


async def _index(_: web.Request) -> web.Response:
    body = {
        "service": "bot-phase4 front",
        "version": bot.__version__,
        "paths": ["/api/*", "/health", "/metrics"],
    }
    return web.json_response(body)


async def _health(_: web.Request) -> web.Response:
    """200 while an instance is healthy, with each one's state and figures; 503 otherwise."""
    status = await get_phase4_status()
    figures = status.get("load_balancer", {})
    healthy = bool(figures.get("healthy_instances"))
    well = "degraded" if figures.get("degraded") else "ok"
    body = {
        "status": well if healthy else "down",
        "version": bot.__version__,
        "instances": {name: entry["state"] for name, entry in figures.get("instances", {}).items()},
        "phase4": status,
    }
    return web.json_response(body, status=200 if healthy else 503)
