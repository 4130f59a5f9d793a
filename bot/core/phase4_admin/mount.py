"""``mount_phase4``: dashboard, ``/health``, ``/metrics`` in a bot's own process, by one call."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Collection, Generator
from pathlib import Path
from typing import Any

from aiohttp import web

from bot.core._shared.errors import InvalidArgumentError, invalid
from bot.core._shared.loop_owner import still_runs
from bot.core._shared.masking import one_line
from bot.core.phase4_admin import NAME_VARIABLE, TOKEN_VARIABLE
from bot.core.phase4_admin.access import Access, Handler, is_loopback, valid_token
from bot.core.phase4_admin.admin import Admin
from bot.core.phase4_admin.client_address import TRUSTED_PROXIES
from bot.core.phase4_admin.connections import Connections
from bot.core.phase4_admin.health_api import Check, Figures
from bot.core.phase4_admin.library import Library
from bot.core.phase4_admin.port import PortServer, listen
from bot.core.phase4_admin.routes import add_routes
from bot.core.phase4_config import Phase4Config

PREFIX = "/phase4"
"""Where a host's application has it, unless the call says otherwise."""

MAX_CONNECTIONS = 256
"""Of a port of its own; half of them for one client."""

MAX_NAME = 80
"""Characters of the bot's name."""

_PREFIX = re.compile(r"(?:/[^/\s{}?#%\\\x00-\x1f\x7f]+)*")


class Mounted:
    """What was mounted. It can be awaited, too: it is there already."""

    def __init__(self, admin: Admin, url: str, server: PortServer | None = None, port: int = 0) -> None:
        self.admin = admin
        self.url = url
        """Where the page is: with host and port, or the path in the host's application."""
        self.port = port
        """The port of its own; 0: it has none."""
        self._server = server

    def __await__(self) -> Generator[Any, None, Mounted]:
        yield from ()
        return self

    @property
    def stranded(self) -> bool:
        """Whether it had a port of its own on an event loop that has ended."""
        loop = self._server.loop if self._server is not None else None
        return loop is not None and not still_runs(loop)

    async def close(self) -> None:
        """Free its port and end what it runs. In a host's application it ends with that."""
        if self._server is not None:
            try:
                await self._server.close()
            finally:
                self.admin.abandon()


def mount_on(
    app: web.Application,
    library: Library,
    *,
    prefix: str | None = None,
    token: str | None = None,
    trusted_proxies: Collection[str] = (),
    name: str = "",
    health: Check | None = None,
    figures: Figures | None = None,
    access: Access | None = None,
    index: Handler | None = None,
) -> Mounted:
    """Serve below ``prefix`` of a host's application; the rest is told at ``mount_phase4``.

    ``access``: the host's own, which its other handlers ask too; ``index``: answers who asks for the page
    as JSON.
    """
    if not isinstance(app, web.Application):
        raise invalid("target", app, "an aiohttp application, or a port from 1 to 65535 (0: a free one)")
    if app.frozen:
        raise InvalidArgumentError(
            "target: this application has started; mount before its start, or on a port"
        )
    base = checked_prefix(PREFIX if prefix is None else prefix)
    trusted = checked_proxies(trusted_proxies)
    if not isinstance(name, str):
        raise invalid("name", name, "a string: what the page calls the bot")
    known = access or Access("127.0.0.1", given_token(token))
    admin = Admin(library, known, base, bot_name(name), health, figures)
    try:
        add_routes(app, base, admin.routes(index), admin.access)
    except ValueError as error:
        raise InvalidArgumentError(f"prefix = {base or '/'!r}: {error}") from None
    if trusted:
        app[TRUSTED_PROXIES] = app.get(TRUSTED_PROXIES, frozenset()) | trusted

    async def life(_: web.Application) -> AsyncIterator[None]:
        await admin.start()
        try:
            yield
        finally:
            await admin.stop()

    async def end_streams(_: web.Application) -> None:
        admin.feed.close()  # they would not end by themselves, and the server waits for them

    app.cleanup_ctx.append(life)
    app.on_shutdown.append(end_streams)
    app.on_response_prepare.append(admin.actions.refused_elsewhere)
    return Mounted(admin, f"{base}/")


async def mount_at(
    port: int,
    library: Library,
    *,
    host: str = "127.0.0.1",
    prefix: str | None = None,
    token: str | None = None,
    trusted_proxies: Collection[str] = (),
    name: str = "",
    health: Check | None = None,
    figures: Figures | None = None,
) -> Mounted:
    """Serve on a port of its own; the rest is told at ``mount_phase4``."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
        raise invalid("target", port, "an aiohttp application, or a port from 1 to 65535 (0: a free one)")
    if not isinstance(host, str) or not host or not host.isprintable():
        raise invalid("host", host, "an address to listen on, such as 127.0.0.1, 0.0.0.0 or ::")
    host = host.strip("[]")
    known = given_token(token)
    if not known and not is_loopback(host):
        raise InvalidArgumentError(
            f"host = {host!r}: other machines can reach it, so it needs a token, "
            f"as an argument or as {TOKEN_VARIABLE}"
        )
    base = checked_prefix("" if prefix is None else prefix)
    trusted = checked_proxies(trusted_proxies)
    connections = Connections(MAX_CONNECTIONS, trusted)
    app = web.Application(middlewares=[connections.middleware()])
    mounted = mount_on(
        app,
        library,
        prefix=base,
        token=known,
        trusted_proxies=trusted,
        name=name,
        health=health,
        figures=figures,
    )
    listener = listen(host, port)
    server = PortServer(app, listener, connections)
    bound = listener.getsockname()[1]
    try:
        await server.start()
    except BaseException:
        await server.close()
        raise
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)  # noqa: S104
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{bound}{mounted.url}"
    return Mounted(mounted.admin, url, server, bound)


def given_token(token: str | None) -> str:
    """The token of the call, else of the settings. Raises InvalidArgumentError without quoting it."""
    if token is not None and not isinstance(token, str):
        raise InvalidArgumentError(f"token: a {type(token).__name__}; expected a string")
    found = Phase4Config.load(only=(TOKEN_VARIABLE,)).dashboard.token if token is None else token
    if not found:
        return ""
    try:
        return valid_token(found)
    except ValueError as error:
        raise InvalidArgumentError(f"{TOKEN_VARIABLE if token is None else 'token'}: {error}") from None


def bot_name(name: str) -> str:
    """What the page calls the bot: the name of the call, else of the settings, else the folder it runs in."""
    found = name.strip() or Phase4Config.load(only=(NAME_VARIABLE,)).dashboard.name.strip()
    if not found:
        # In a container the folder may be the root.
        found = Path.cwd().name or Path(sys.argv[0]).stem or "bot"
    return one_line(found, MAX_NAME)


def checked_prefix(prefix: str) -> str:
    """A path without the slash at its end. Raises InvalidArgumentError."""
    base = prefix.rstrip("/") if isinstance(prefix, str) else None
    if base is None or not _PREFIX.fullmatch(base):
        raise invalid("prefix", prefix, 'a path such as "/phase4", without spaces and any of {}?#%')
    return base


def checked_proxies(addresses: Collection[str]) -> frozenset[str]:
    """Addresses of proxies. Raises InvalidArgumentError."""
    if isinstance(addresses, str) or not all(isinstance(address, str) for address in addresses):
        raise invalid("trusted_proxies", addresses, 'addresses, such as ["127.0.0.1"]')
    return frozenset(addresses)
