"""Requests in progress, counted, so that a stop can wait for them.

aiohttp's own shutdown stops reading from its connections first, and an upload in progress would
then never end: this wait comes before it.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.typedefs import Middleware

from bot.core.phase4_admin.access import Handler


class Drain:
    """How many requests are in progress; once stopping, answers ask their clients to disconnect."""

    def __init__(self) -> None:
        # Changed only by count and wait_until_idle.
        self._in_progress = 0
        self._idle: asyncio.Event | None = None

    def middleware(self) -> Middleware:
        """The aiohttp middleware that counts."""

        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._in_progress += 1
            try:
                response = await handler(request)
                if self._idle is not None:
                    response.force_close()
                return response
            finally:
                self._in_progress -= 1
                if self._idle is not None and self._in_progress == 0:
                    self._idle.set()

        return count

    async def wait_until_idle(self, seconds: float) -> int:
        """Wait until no request is in progress, ``seconds`` at most; how many still are."""
        self._idle = asyncio.Event()
        if self._in_progress:
            try:
                async with asyncio.timeout(seconds):
                    await self._idle.wait()
            except TimeoutError:
                pass
        return self._in_progress
