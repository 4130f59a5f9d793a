"""A port of its own: the server for bots that have no web application."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket

from aiohttp import web

from bot.core._shared.tasks import run_on_loop, to_the_end
from bot.core.phase4_admin.connections import TAKEN_AT_ONCE, BriefHttpLog, Connection, Connections

BACKLOG = 64


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound. Raises OSError, which says where and why in words."""
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=BACKLOG,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, f"{where} is already in use") from None
        said = (error.strerror or str(error)).partition(" (while")[0]
        raise OSError(error.errno, f"cannot listen on {where}: {said}") from None


class PortServer:
    """Serves one application on one socket, until :meth:`close`, on whichever event loop that is called."""

    def __init__(self, app: web.Application, listener: socket.socket, connections: Connections) -> None:
        """``connections``: they whose middleware the application has."""
        self._app = app
        self._listener = listener
        self._connections = connections
        # Changed by start and close.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Where it serves; None before the start and after the end."""
        return self._loop

    async def start(self) -> None:
        """Serve from now on, on the running event loop."""
        self._loop = loop = asyncio.get_running_loop()
        log = logging.getLogger("bot.core.phase4_admin.http")
        log.filters = [BriefHttpLog()]
        runner = self._runner = web.AppRunner(
            self._app, access_log=None, handle_signals=False, shutdown_timeout=1.0, logger=log
        )
        try:
            await runner.setup()
            serve = runner.server
            assert serve is not None
            self._server = await loop.create_server(
                lambda: Connection(serve(), self._connections), sock=self._listener, backlog=TAKEN_AT_ONCE
            )
            self._listener.listen(BACKLOG)
        except BaseException:
            await to_the_end(self._close_here())
            raise

    async def close(self) -> None:
        """End every connection and free the port, also if the caller is cancelled meanwhile.

        Once is enough; again does nothing.
        """
        await to_the_end(self._close())

    async def _close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and not await run_on_loop(loop, self._close_here):
            # The event loop has ended, and its tasks with it: what is left are sockets.
            self._connections.close()
            self._server = self._runner = None
        self._listener.close()

    async def _close_here(self) -> None:
        self._connections.close()
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._listener.close()
