"""The application: what it answers, and what starts and stops with it."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

import bot
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import all_to_the_end
from bot.core.enhanced_startup_phase4 import (
    initialize_phase4_services,
    mount_phase4,
    shutdown_phase4_services,
)
from bot.core.phase4_admin.access import Access
from bot.core.phase4_admin.client_address import TRUSTED_PROXIES
from bot.core.phase4_admin.connections import Connections, most_connections
from bot.core.phase4_admin.request_guard import AllowedHosts, guard
from bot.service.activity_api import ActivityApi
from bot.service.app_keys import ACCESS, CONNECTIONS, DRAIN, MOUNTED
from bot.service.batch_api import BatchApi
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
    probe = DatabaseProbe(database)

    async def figures() -> dict[str, Any]:
        said = await probe.failure()
        kept = {} if journal is None else {"journal": journal.figures()}
        return {"database": {**await database.figures(), **({"error": said} if said else {})}, **kept}

    app[MOUNTED] = mount_phase4(
        app, prefix="/", access=access, health=probe.failure, figures=figures, index=_index
    )
    app[MOUNTED].admin.feed.about["api"] = True
    app.router.add_get("/api", _index)
    app.router.add_get("/api/data", data.get)
    app.router.add_post("/api/execute", ExecuteApi(data).post)
    app.router.add_post("/api/batch", batches.post)
    app.router.add_get("/api/batch/{batch_id}", batches.get)
    app.router.add_get("/api/activity", ActivityApi(journal).get)
    app.router.add_get("/api/upload", uploads.get, allow_head=False)
    app.router.add_post("/api/upload", uploads.post)

    async def life(_: web.Application) -> AsyncIterator[None]:
        await uploads.remove_leftovers()
        await database.prepare(_progress)
        report = await initialize_phase4_services(phase4)
        for error in report["errors"]:
            logger.error("%s", one_line(error, 1000))
        pooled = "ConnectionPoolManager" in report["services_initialized"]
        try:
            await _connect(database, journal, pooled)
            if "BatchProcessor" in report["services_initialized"]:
                batches.start()
            yield
        finally:
            journals = () if journal is None else (journal.stop,)
            await all_to_the_end(probe.close, *journals, shutdown_phase4_services)

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
            logger.error("No pool, so each request opens a connection: %s", one_line(error))
    if journal is not None:
        await journal.start(pools)


async def _index(request: web.Request) -> web.Response:
    paths = sorted({r.canonical for r in request.app.router.resources()} - {"/"})
    return web.json_response({"service": "bot-phase4", "version": bot.__version__, "paths": paths})


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
