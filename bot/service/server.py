"""The application: what it answers, and what starts and stops with it."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

import bot
from bot.core._shared.masking import one_line
from bot.core.enhanced_startup_phase4 import (
    get_phase4_status,
    initialize_phase4_services,
    phase4_library,
    shutdown_phase4_services,
)
from bot.core.phase4_admin.access import Access
from bot.core.phase4_admin.client_address import TRUSTED_PROXIES
from bot.core.phase4_admin.events import LOGGER, EventLog
from bot.core.phase4_admin.feed import Feed
from bot.core.phase4_admin.loop_lag import LoopLag
from bot.core.phase4_admin.metrics_api import MetricsApi
from bot.core.phase4_admin.pages import Dashboard, page
from bot.core.phase4_admin.request_guard import AllowedHosts, guard
from bot.service.activity_api import ActivityApi
from bot.service.app_keys import ACCESS, CONNECTIONS, DRAIN, FEED
from bot.service.batch_api import BatchApi
from bot.service.connections import Connections, most_connections
from bot.service.data_api import DataApi
from bot.service.database import ServiceDatabase
from bot.service.database_probe import DatabaseProbe
from bot.service.databases import open_database
from bot.service.drain import Drain
from bot.service.execute_api import ExecuteApi
from bot.service.journal import Journal
from bot.service.middleware import around_request
from bot.service.settings import MAX_JSON_BYTES, ServiceSettings, Urls
from bot.service.upload_api import UploadApi

logger = logging.getLogger("bot.service")


def create_app(settings: ServiceSettings, phase4: Mapping[str, Any] | None = None) -> web.Application:
    """The service as an aiohttp application; ``phase4`` overrides settings as in initialize.

    Raises CannotStartError, here or when it starts.
    """
    app = make_application(settings, client_max_size=MAX_JSON_BYTES)
    access = app[ACCESS]
    urls = Urls.load(phase4)
    database = open_database(urls.database, settings.database_path)
    journal = Journal(urls.mongodb) if urls.mongodb else None
    data = DataApi(database)
    uploads = UploadApi(database, settings.upload_dir, access, journal)
    batches = BatchApi(database)
    library = phase4_library()
    lag = LoopLag()
    probe = DatabaseProbe(database)
    events = EventLog()
    feed = app[FEED] = Feed(library, events, lambda: lag.last)
    shown = page()

    async def root(request: web.Request) -> web.Response:
        """The dashboard; for a request that accepts JSON and not HTML, the index."""
        accepted = request.headers.get("Accept", "")
        if "application/json" in accepted and "text/html" not in accepted:
            return await _index(request)
        return await shown.get(request)

    async def health(request: web.Request) -> web.Response:
        return await _health(database, probe, journal, access.may_look(request))

    app.router.add_get("/", root)
    app.router.add_get("/api", _index)
    Dashboard(access, feed).add_routes(app)
    app.router.add_get("/health", health)
    app.router.add_get("/metrics", access.guard(MetricsApi(library, lag).get))
    app.router.add_get("/api/data", data.get)
    app.router.add_post("/api/execute", ExecuteApi(data).post)
    app.router.add_post("/api/batch", batches.post)
    app.router.add_get("/api/batch/{batch_id}", batches.get)
    app.router.add_get("/api/activity", ActivityApi(journal).get)
    app.router.add_get("/api/upload", uploads.get, allow_head=False)
    app.router.add_post("/api/upload", uploads.post)

    async def life(_: web.Application) -> AsyncIterator[None]:
        logging.getLogger(LOGGER).addHandler(events)
        await uploads.remove_leftovers()
        await database.prepare(_progress)
        report = await initialize_phase4_services(phase4)
        for error in report["errors"]:
            logger.error("%s", one_line(error, 1000))
        pooled = "ConnectionPoolManager" in report["services_initialized"]
        lag.start()
        feed.start()
        try:
            await _connect(database, journal, pooled)
            if "BatchProcessor" in report["services_initialized"]:
                batches.start()
            yield
        finally:
            feed.close()
            await probe.close()
            await lag.stop()
            if journal is not None:
                await journal.stop()
            await shutdown_phase4_services()
            logging.getLogger(LOGGER).removeHandler(events)

    app.cleanup_ctx.append(life)
    return app


def make_application(settings: ServiceSettings, *, client_max_size: int) -> web.Application:
    """An application with what stands before every handler: limits, drain, errors as JSON, the guard."""
    drain = Drain()
    connections = Connections(most_connections(settings.files_each), settings.trusted_proxies)
    access = Access(settings.host, settings.dashboard_token)
    app = web.Application(
        middlewares=[
            connections.middleware(),
            drain.middleware(),
            around_request,
            guard(access, AllowedHosts(settings.allowed_hosts)),
        ],
        client_max_size=client_max_size,
        # The service decodes bodies itself, within bounds (see ``bodies``); a front passes them on as is.
        handler_args={"auto_decompress": False},
    )
    app[CONNECTIONS] = connections
    app[DRAIN] = drain
    app[ACCESS] = access
    app[TRUSTED_PROXIES] = settings.trusted_proxies
    return app


async def _connect(database: ServiceDatabase, journal: Journal | None, pooled: bool) -> None:
    """Have the database and the journal take their connections from pools, if there are pools."""
    pools = None
    if pooled:
        from bot.core.connection_pool_manager import ConnectionPoolManager

        pools = ConnectionPoolManager.get_instance()
        try:
            await database.use_pool(pools)
        except Exception as error:
            logger.error("No pool, a connection for each request: %s", one_line(error))
    if journal is not None:
        await journal.start(pools)


async def _index(request: web.Request) -> web.Response:
    paths = sorted({r.canonical for r in request.app.router.resources()} - {"/"})
    return web.json_response({"service": "bot-phase4", "version": bot.__version__, "paths": paths})


async def _health(
    database: ServiceDatabase, probe: DatabaseProbe, journal: Journal | None, in_full: bool
) -> web.Response:
    """200 while requests can be answered; 503 when the database cannot be reached.

    ``in_full``, with every figure: they name addresses and files, which is not for everybody.
    """
    kept = {} if journal is None else {"journal": journal.figures()}
    said = await probe.failure()
    healthy = not said
    failure = {"error": said} if said else {}
    status = "ok" if healthy else "down"
    if not in_full:
        return web.json_response({"status": status}, status=200 if healthy else 503)
    body = {
        "status": status,
        "version": bot.__version__,
        "database": {**await database.figures(), **failure},
        **kept,
        "phase4": await get_phase4_status(),
    }
    return web.json_response(body, status=200 if healthy else 503)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
