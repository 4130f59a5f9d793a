"""What the start-up module hands to an operator's view of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from bot.core._shared.histogram import HistogramSnapshot
from bot.core._shared.loop_owner import still_runs
from bot.core.phase4_admin.api_errors import ApiError
from bot.core.phase4_admin.audit import Audit

T = TypeVar("T")

ANSWER_SECONDS = 5.0
"""In which another thread's event loop has to answer."""


class Library(NamedTuple):
    """The running services, as functions: what is mounted looks up nothing by itself."""

    status: Callable[[], Coroutine[Any, Any, dict[str, Any]]]
    """``get_phase4_status``."""
    running: Callable[[str], Any]
    """The service of a key of the status (``"cache_manager"``) if it is on, else None; imports none."""
    collector: Callable[[Callable[[], list[HistogramSnapshot]]], Any]
    """A Prometheus collector of the services and of further histograms.

    Raises ImportError without prometheus-client.
    """
    loop: Callable[[], asyncio.AbstractEventLoop | None]
    """The event loop that the services live on; None before they were started."""
    audit: Audit
    """One for all places where the services are operated."""

    async def there(self, action: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await ``action()`` where the services live: a host may serve from another thread than its bot's.

        Raises ApiError 503 if that event loop does not answer in time.
        """
        loop = self.loop()
        if loop is None or loop is asyncio.get_running_loop() or not still_runs(loop):
            return await action()
        there = asyncio.run_coroutine_threadsafe(action(), loop)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.wrap_future(there)
        except TimeoutError:
            raise ApiError(
                503, "bot_busy", f"The bot's event loop has not answered for {ANSWER_SECONDS:g} s."
            ) from None
