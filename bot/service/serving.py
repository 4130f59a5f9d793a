"""The life of the process: listen, serve until told to stop, drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable

from aiohttp import web

from bot.core.enhanced_startup_phase4 import get_phase4_status
from bot.core.phase4_admin.access import Access
from bot.core.phase4_admin.connections import (
    BACKLOG,
    TAKEN_AT_ONCE,
    BriefHttpLog,
    Connection,
    allow_open_files,
    with_fit_expectations,
)
from bot.service.app_keys import ACCESS, CONNECTIONS, DRAIN, MOUNTED
from bot.service.loop_errors import LoopErrors
from bot.service.server import create_app
from bot.service.settings import PARENT_VARIABLE, CannotStartError, ServiceSettings

logger = logging.getLogger("bot.service")

PARENT_SECONDS = 1.0
"""How often it is looked whether the cluster's process is still there, where the kernel does not tell."""

DRAIN_SECONDS = 10.0
"""How long requests in progress may take once the service is told to stop."""


async def serve(settings: ServiceSettings, ready: Callable[[int], None] | None = None) -> int:
    """Serve until SIGINT or SIGTERM, then drain; returns the exit status.

    ``ready`` is called with the port once requests are accepted.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows has KeyboardInterrupt only
            loop.add_signal_handler(number, stop.set)
    loop.set_exception_handler(LoopErrors())
    allow_open_files(settings.files_each)
    try:
        app = _front(settings) if settings.balance else create_app(settings)
    except CannotStartError as error:
        print(f"Cannot start: {error}", file=sys.stderr)
        return 1
    # What is still there after the drain gets a second to notice that it is cut off.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, logger=_http_log())
    connections = app[CONNECTIONS]
    try:
        try:
            listener = _listen(settings)
        except OSError as error:
            print(_cannot_listen(settings, error), file=sys.stderr)
            return 1
        try:
            await runner.setup()
        except CannotStartError as error:
            listener.close()
            print(f"Cannot start: {error}", file=sys.stderr)
            return 1
        port = listener.getsockname()[1]
        assert runner.server is not None
        runner.server.request_factory = with_fit_expectations(runner.server.request_factory)
        # Not by web.SockSite, which takes every connection for as long as its client likes.
        server = await loop.create_server(
            lambda: Connection(_protocol(runner), connections), sock=listener, backlog=TAKEN_AT_ONCE
        )
        listener.listen(BACKLOG)  # asyncio has one number for both
        status = await get_phase4_status()
        print(
            f"Bot service on http://{_in_url(settings.host)}:{port}  (Ctrl-C stops it)\n"
            f"  Phase 4: {', '.join(status['services']) or 'off'}\n"
            f"{_dashboard_line(settings, port, app[ACCESS])}"
            f"  try: curl -i 'http://{_in_url(settings.host)}:{port}/api/data?user_id=1'",
            flush=True,
        )
        if ready is not None:
            ready(port)
        watching = asyncio.ensure_future(stop_with_parent(stop, os.environ.get(PARENT_VARIABLE, "")))
        await stop.wait()
        watching.cancel()
        logger.info("Stopping: requests in progress have %g s", DRAIN_SECONDS)
        server.close()
        app[MOUNTED].admin.feed.close()  # streams would never end by themselves
        if left := await app[DRAIN].wait_until_idle(DRAIN_SECONDS):
            logger.warning("Stopping: %d request(s) cut off after %g s", left, DRAIN_SECONDS)
    finally:
        connections.close()
        await runner.cleanup()
    print("Stopped.", flush=True)
    return 0


async def stop_with_parent(stop: asyncio.Event, parent: str) -> None:
    """Set ``stop`` when the process ``parent`` has ended; empty: there is none to look after."""
    if not parent.isdigit():
        return
    while os.getppid() == int(parent):  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(PARENT_SECONDS)
    logger.warning("Stopping: the cluster's process %d has ended", int(parent))
    stop.set()


def _front(settings: ServiceSettings) -> web.Application:
    from bot.service.front import create_front

    return create_front(settings)


def _protocol(runner: web.AppRunner) -> asyncio.Protocol:
    assert runner.server is not None
    return runner.server()


def _http_log() -> logging.Logger:
    """What the web server logs to: without a traceback for every malformed request."""
    log = logging.getLogger("bot.http")
    log.filters = [BriefHttpLog()]
    return log


def _dashboard_line(settings: ServiceSettings, port: int, access: Access) -> str:
    """Where the dashboard is. A token that was made here has to be told; a given one stays unsaid."""
    host = {"": "localhost", "0.0.0.0": "localhost", "::": "localhost"}.get(settings.host, settings.host)  # noqa: S104
    where = f"http://{_in_url(host)}:{port}/"
    if access.made:
        return (
            f"  dashboard: {where}#token={access.token}\n"
            f"  (a token for this run; set PHASE4_DASHBOARD_TOKEN to keep one. /metrics asks for it too)\n"
        )
    return f"  dashboard: {where}{' (asks for the token)' if access.needed else ''}\n"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listen(settings: ServiceSettings):  # type: ignore[no-untyped-def]
    import socket

    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    both = settings.host == "::" and socket.has_dualstack_ipv6()
    # Bound before anything else is started: a taken port must not cost a data set first.
    return socket.create_server(
        (settings.host, settings.port), family=family, backlog=BACKLOG, dualstack_ipv6=both
    )


def _cannot_listen(settings: ServiceSettings, error: OSError) -> str:
    where = f"{_in_url(settings.host)}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"Cannot start: {where} is already in use.\n"
            f"Choose another port with --port (make run PORT=8001) or the environment's PORT, "
            f"or stop what listens there."
        )
    return f"Cannot start: cannot listen on {where}: {error.strerror or error}"
