"""Whether the database answers, for ``/health``: in bounded time, and with one query for all callers."""

from __future__ import annotations

import asyncio
import contextlib

from bot.core._shared.masking import one_line
from bot.service.database import Database

TRY_SECONDS = (1.0, 1.0, 1.0, 1.0, 2.0)
"""In which each try has to be answered.

A connection that fell silent is not the database: the pool drops it, and the next try has another one.
"""


class DatabaseProbe:
    """Asks ``SELECT 1``. Callers that come meanwhile share the answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Changed by failure and close.
        self._asking: asyncio.Task[str] | None = None

    async def failure(self) -> str:
        """Why the database cannot be used, masked; empty: it can."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="database probe")
        # A cancelled caller does not cancel the query of the others.
        return await asyncio.shield(self._asking)

    async def close(self) -> None:
        """End a probe in progress."""
        if self._asking is not None:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._asking

    async def _ask(self) -> str:
        said = ""
        for seconds in TRY_SECONDS:
            try:
                async with asyncio.timeout(seconds):
                    await self._database.fetch("SELECT 1 AS one")
            except TimeoutError:
                said = f"no answer within {seconds:g} s"
            except Exception as error:
                said = one_line(error)
            else:
                return ""
        return said
