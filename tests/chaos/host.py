"""A bot as an instance of a chaos run: every service of the library behind a small HTTP interface.

``python -m tests.chaos.host`` with its settings as JSON in the environment's CHAOS_HOST.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncmy.errors
import asyncpg
import uvloop
from aiohttp import ClientError, ClientSession, ClientTimeout, web

from bot.core._shared.errors import BackendError, CapacityError, ClosedError
from bot.core._shared.masking import masked_traceback
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.enhanced_startup_phase4 import (
    initialize_phase4_services,
    mount_phase4,
    shutdown_phase4_services,
)
from bot.service.loop_errors import LoopErrors
from tests.chaos.host_data import DataApi
from tests.chaos.host_services import ServicesApi
from tests.chaos.ledger import Ledger
from tests.chaos.stalls import watch_stalls

logger = logging.getLogger("chaos.host")

CONTAINED = (CapacityError, BackendError, ClosedError)
"""What the documents say that the library raises when it cannot, or not now."""
OF_DATABASES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncmy.errors.MySQLError, OSError)
"""What drivers raise when a server refuses or goes away."""
OF_TELEGRAM = (ClientError,)

SERVICES: web.AppKey[ServicesApi] = web.AppKey("services", ServicesApi)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """An error that the documents tell of is a 503 with its name; any other one a 500 and in the log."""
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except CONTAINED + OF_DATABASES + OF_TELEGRAM as error:
        told = {"error": type(error).__name__, "message": str(error)[:300]}
        wait = getattr(error, "retry_after", None) or 1
        return web.json_response(told, status=503, headers={"Retry-After": str(math.ceil(wait))})
    except Exception as error:
        logger.error("%s failed\n%s", request.path, masked_traceback(error))
        return web.json_response(
            {"error": type(error).__name__, "message": str(error)[:300], "known": False}, status=500
        )


def make_app(given: dict[str, Any], ledger: Ledger) -> web.Application:
    """The application; its services start and stop with it."""
    app = web.Application(middlewares=[answer_errors])
    mount_phase4(app, prefix="/")
    data = DataApi(given, ledger)
    app.router.add_get("/api/query", data.query)
    app.router.add_get("/api/cached", data.cached)
    app.router.add_post("/api/query", data.write_query)
    app.router.add_post("/api/cached", data.write_cached)
    app.router.add_post("/api/transfer", data.transfer)

    async def life(app: web.Application):
        timeout = ClientTimeout(total=10)
        async with ClientSession(timeout=timeout) as session:
            services = ServicesApi(given, ledger, session)
            await services.start()
            report = await initialize_phase4_services(given["settings"])
            if report["errors"]:
                logger.warning("not started: %s", report["errors"])
            app[SERVICES] = services
            ledger.note("started", pid=os.getpid())
            yield
            clean = await shutdown_phase4_services()
            ledger.note("stopped", clean=clean)

    app.cleanup_ctx.append(life)
    for method, path, name in (
        ("GET", "limit", "limit"), ("POST", "slot", "slot"), ("POST", "batch", "batch"),
        ("GET", "result", "result"), ("POST", "results", "results"), ("POST", "send", "send"),
        ("POST", "replay", "replay"),
    ):  # fmt: skip
        app.router.add_route(method, f"/api/{path}", _of_services(name))
    return app


def _of_services(name: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await getattr(request.app[SERVICES], name)(request)

    return handle


async def serve(given: dict[str, Any]) -> None:
    """Until SIGTERM; what is left then is written down."""
    ledger = Ledger(Path(given["ledger"]))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.set_exception_handler(LoopErrors())
    runner = web.AppRunner(make_app(given, ledger), access_log=None, shutdown_timeout=5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", given["port"], reuse_address=True).start()
    watching = asyncio.create_task(
        watch_stalls(lambda begin, end: ledger.note("stall", begin=begin, end=end))
    )
    await stop.wait()
    watching.cancel()
    await runner.cleanup()
    for _ in range(10):
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if not left:
            break
        await asyncio.sleep(0.05)
    ledger.note("left", tasks=[repr(task)[:300] for task in left])
    ledger.note("pools", enabled=ConnectionPoolManager.get_instance().enabled)


def main() -> None:
    given = json.loads(os.environ["CHAOS_HOST"])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.captureWarnings(True)
    factory = uvloop.new_event_loop if given["uvloop"] else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(given))


if __name__ == "__main__":
    main()
