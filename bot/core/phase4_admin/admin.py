"""What one mount consists of, whichever server it is served by."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from urllib.parse import quote

from aiohttp import web

from bot.core.phase4_admin.access import Access, Handler
from bot.core.phase4_admin.actions import Actions
from bot.core.phase4_admin.dead_letters_api import DeadLettersApi
from bot.core.phase4_admin.events import LOGGER, EventLog
from bot.core.phase4_admin.feed import Feed
from bot.core.phase4_admin.health_api import Check, Figures, HealthApi
from bot.core.phase4_admin.library import Library
from bot.core.phase4_admin.loop_lag import LoopLag
from bot.core.phase4_admin.metrics_api import MetricsApi
from bot.core.phase4_admin.pages import Dashboard
from bot.core.phase4_admin.routes import OPEN, Route


class Admin:
    """The parts. :meth:`start` and :meth:`stop` run on the event loop that serves; both may run again."""

    def __init__(
        self,
        library: Library,
        access: Access,
        base: str,
        name: str,
        check: Check | None,
        figures: Figures | None,
    ) -> None:
        """``base``: "" or "/phase4"; ``name``: the bot's."""
        self.access = access
        self.base = base
        self.lag = LoopLag()
        self._events = EventLog()
        self.feed = Feed(library, self._events, lambda: self.lag.last, name=name)
        self._dashboard = Dashboard(access, self.feed)
        self._health = HealthApi(library, access, check, figures)
        self._metrics = MetricsApi(library, self.lag)
        self.actions = Actions(library, access, base)
        self._dead_letters = DeadLettersApi(library)

    def routes(self, index: Handler | None = None) -> Sequence[Route]:
        """Everything that is served, below the base. ``index`` answers who asks ``/`` for JSON."""
        page = self._dashboard.page if index is None else _page_or(self._dashboard.page, index)
        return [
            *([Route("GET", "", self._to_the_page, OPEN)] if self.base else []),
            Route("GET", "/", page, OPEN),
            *self._dashboard.routes(),
            *self.actions.routes(),
            *self._dead_letters.routes(),
            Route("GET", "/health", self._health.get, OPEN),
            Route("GET", "/metrics", self._metrics.get),
        ]

    async def _to_the_page(self, _: web.Request) -> web.Response:
        # Relative, so that it also holds behind a proxy that serves this under another path.
        return web.Response(status=308, headers={"Location": quote(f"{self.base.rpartition('/')[2]}/")})

    async def start(self) -> None:
        """Take in events, and measure."""
        logging.getLogger(LOGGER).addHandler(self._events)
        self.feed.start()
        self.lag.start()

    async def stop(self) -> None:
        """End the streams, and give back every task."""
        self.feed.close()
        await self.actions.finish()
        await self.lag.stop()
        self.abandon()

    def abandon(self) -> None:
        """Let go of what is not the event loop's; for when that has ended."""
        logging.getLogger(LOGGER).removeHandler(self._events)


def _page_or(page: Handler, index: Handler) -> Handler:
    async def either(request: web.Request) -> web.StreamResponse:
        accepted = request.headers.get("Accept", "")
        wants_json = "application/json" in accepted and "text/html" not in accepted
        return await (index if wants_json else page)(request)

    return either
