"""``python -m bot --balance``: other instances behind one address, through the load balancer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

import bot
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import all_to_the_end
from bot.core.enhanced_startup_phase4 import (
    get_phase4_status,
    initialize_phase4_services,
    mount_phase4,
    shutdown_phase4_services,
)
from bot.core.load_balancer import Instance, InstanceFailure, LoadBalancer, NoInstanceError
from bot.core.phase4_admin.api_errors import ApiError
from bot.core.phase4_admin.client_address import client_address, client_of
from bot.core.phase4_config import SETTING_NAMES, ConfigError, Phase4Config
from bot.service import forwarded_headers
from bot.service.app_keys import ACCESS, MOUNTED
from bot.service.bodies import Bodies, Body
from bot.service.middleware import REQUEST_ID
from bot.service.server import make_application
from bot.service.settings import MAX_UPLOAD_BYTES, CannotStartError, ServiceSettings
from bot.service.side_by_side import SideBySide

logger = logging.getLogger("bot.front")

MAX_BODIES_IN_FLIGHT = 256 * 1024 * 1024
"""Bytes of request bodies that a front holds at a time, 64 KiB of each in memory and the rest on disk."""

HELD_ANSWER = 64 * 1024
"""Bytes of an answer that are read before it is passed back; the rest is passed on as it comes."""

STALL_SECONDS = 60.0
"""For which an instance may send nothing of an answer, or a client take in nothing."""

_READS = ("GET", "HEAD")
_REPEATABLE_POSTS = ("/api/execute",)
_OWN_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""What an HTTP client would add by itself: the instance gets what the caller said, or nothing."""


class Answer(NamedTuple):
    status: int
    headers: CIMultiDict[str]
    body: bytes
    """All of it, or its beginning."""
    rest: aiohttp.ClientResponse | None
    """Where the rest comes from; None: there is none."""

    @property
    def deliberate(self) -> bool:
        """Whether it is the instance's "not now, but then", as of a full queue, rather than a failure."""
        return self.status == 503 and "Retry-After" in self.headers


class Forward(NamedTuple):
    """A request as an instance gets it."""

    method: str
    path: str
    headers: CIMultiDict[str]
    body: Body
    repeatable: bool
    failures: list[tuple[str, Answer]]
    """The 5xx answers so far, and their instances; without a better answer one of them is passed back."""
    opened: list[aiohttp.ClientResponse]
    """Every answer that came, to be closed when the request ends."""


class Front:
    """Passes ``/api/*`` on to an instance and its answer back; ``X-Instance`` names the instance.

    A body is taken in whole before it is sent, so that another instance can be tried (see ``Bodies`` for
    the bounds); an answer is passed on as it comes.
    """

    def __init__(self, balancer: LoadBalancer) -> None:
        self.balancer = balancer
        self._session: aiohttp.ClientSession | None = None
        self._bodies = Bodies(MAX_UPLOAD_BYTES, MAX_BODIES_IN_FLIGHT)

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_OWN_HEADERS,
        )
        self.balancer.request_handler = self._send

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _send(self, instance: Instance, request: Forward) -> Answer:
        assert self._session is not None
        url = URL(instance.get_url() + request.path, encoded=True)
        headers = request.headers
        data: bytes | AsyncIterator[bytes] | None = request.body.data or None
        if request.body.data is None:
            headers = headers.copy()
            headers["Content-Length"] = str(request.body.size)
            data = request.body.chunks()
        response = await self._session.request(
            request.method, url, headers=headers, data=data, allow_redirects=False
        )
        request.opened.append(response)
        head = bytearray()
        while len(head) <= HELD_ANSWER and (chunk := await response.content.readany()):
            head += chunk
        rest = None if response.content.at_eof() else response
        answer = Answer(response.status, forwarded_headers.of_answer(response.headers), bytes(head), rest)
        # What another instance might do better is a failure here, also if it is deliberate.
        if answer.status >= 500 and (request.repeatable or not answer.deliberate):
            request.failures.append((instance.id, answer))
            raise InstanceFailure(f"HTTP {answer.status}", status=answer.status)
        return answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request below ``/api/``. 502 when no instance answered it, 503 when there was none to ask.

        An answer of 5xx is passed back if it is a 503 with Retry-After that no other instance bettered, or
        if the request may not be repeated, whose caller wants to know what became of it.
        """
        client = client_address(request)
        headers = forwarded_headers.of_request(request.headers, client, request.scheme, request[REQUEST_ID])
        repeatable = request.method in _READS or request.path in _REPEATABLE_POSTS
        # Without the host that a client may have named before it, as to a proxy; escapes stay as they came.
        path = request.rel_url.raw_path_qs
        # Limits are counted by each instance, and what became of a batch is known to the one that took it, so
        # such requests of a client must meet one and the same.
        sticky = request.path == "/api/upload" or request.path.startswith("/api/batch")
        async with self._bodies.received(request) as body:
            forward = Forward(request.method, path, headers, body, repeatable, failures=[], opened=[])
            try:
                # A sticky one goes elsewhere only if its instance fails: another would count it anew.
                success, result, instance_id = await self.balancer.route_request(
                    forward,
                    client_of(client) if sticky else None,
                    idempotent=None if sticky and repeatable else repeatable,
                )
                if success:
                    return await _pass_back(request, result, instance_id or "")
                logger.warning("[%s] %s", request[REQUEST_ID], one_line(result))
                for instance_id, failure in forward.failures:
                    if failure.deliberate or not repeatable:
                        return await _pass_back(request, failure, instance_id)
            finally:
                for response in forward.opened:
                    response.close()  # if it was read to its end, its connection has long been given back
        if isinstance(result, NoInstanceError):
            raise ApiError(
                503,
                "no_instance",
                "No instance is available for the request now.",
                headers={"Retry-After": "1"},
            )
        raise ApiError(502, "no_answer", "No instance answered the request; see the log.")


async def _pass_back(request: web.Request, answer: Answer, instance_id: str) -> web.StreamResponse:
    headers = answer.headers.copy()
    headers["X-Instance"] = instance_id
    if answer.rest is None and request.method != "HEAD":
        headers.popall("Content-Length", None)
        return web.Response(status=answer.status, body=answer.body, headers=headers)
    response = web.StreamResponse(status=answer.status, headers=headers)
    # The middleware adds to the headers of an answer; of this one they are sent before it can.
    response.headers["X-Request-Id"] = request[REQUEST_ID]
    await response.prepare(request)
    try:
        async with asyncio.timeout(None) as stalled:
            chunk = answer.body if request.method != "HEAD" else b""
            while chunk:
                stalled.reschedule(asyncio.get_running_loop().time() + STALL_SECONDS)
                await response.write(chunk)
                chunk = await answer.rest.content.readany() if answer.rest is not None else b""
        await response.write_eof()
    except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
        # The status is sent: only a connection that breaks can tell the client that there is no more.
        logger.warning(
            "[%s] the answer of %s was cut off: %s",
            request[REQUEST_ID],
            one_line(instance_id),
            type(error).__name__,
        )
        if request.transport is not None:
            request.transport.abort()
    return response


def create_front(settings: ServiceSettings) -> web.Application:
    """The front as an aiohttp application. Only the load balancer runs in it; raises CannotStartError."""
    try:
        config = Phase4Config.load()
    except ConfigError as error:
        raise CannotStartError(str(error)) from error
    phase4 = {name: False for name in SETTING_NAMES if name.startswith("ENABLE_")}
    overrides = {
        **phase4,
        "ENABLE_LOAD_BALANCER": True,
        # A read that an instance keeps silent about is asked of another one before the checks notice.
        "LOAD_BALANCER_HEDGING": True,
        "LOAD_BALANCER_CHECK_PATH": config.LOAD_BALANCER_CHECK_PATH or "/health",
        "LOAD_BALANCER_INSTANCES": [
            {"id": f"[{host}]:{port}" if ":" in host else f"{host}:{port}", "address": host, "port": port}
            for host, port in settings.balance
        ],
    }
    app = make_application(settings, client_max_size=MAX_UPLOAD_BYTES + 1)
    front = Front(LoadBalancer.get_instance())
    app[MOUNTED] = mount_phase4(
        app, prefix="/", access=app[ACCESS], health=_trouble, figures=_instances, index=_index
    )
    app[MOUNTED].admin.feed.about.update(api=True, front=True)
    side_by_side = SideBySide(front.balancer, settings.dashboard_token)
    app.router.add_get("/dashboard/instances", app[ACCESS].guard(side_by_side.get))
    app.router.add_get("/api", _index)
    app.router.add_route("*", "/api/{path:.+}", front.handle)

    async def life(_: web.Application) -> AsyncIterator[None]:
        report = await initialize_phase4_services(overrides)
        if report["errors"]:
            raise CannotStartError("; ".join(report["errors"]))
        try:
            await front.start()
            await side_by_side.start()
            yield
        finally:
            await all_to_the_end(shutdown_phase4_services, side_by_side.stop, front.stop)

    app.cleanup_ctx.append(life)
    return app


async def _index(_: web.Request) -> web.Response:
    body = {
        "service": "bot-phase4 front",
        "version": bot.__version__,
        "paths": ["/api/*", "/health", "/metrics"],
    }
    return web.json_response(body)


async def _trouble() -> str:
    """Why no request can be answered; empty: an instance is healthy."""
    figures = (await get_phase4_status()).get("load_balancer", {})
    return "" if figures.get("healthy_instances") else "no instance is healthy"


async def _instances() -> dict[str, Any]:
    """The state of each, for those who may look."""
    figures = (await get_phase4_status()).get("load_balancer", {})
    return {"instances": {name: entry["state"] for name, entry in figures.get("instances", {}).items()}}
