"""Messages that other services send through the cache to other instances."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bot.core._shared.tasks import BackgroundTasks
from bot.core.cache_manager.tiers import Tiers
from bot.core.phase4_service import Phase4Service


class Messages(Phase4Service):
    """For other services, which the start-up connects to this one."""

    _tiers: Tiers
    _tasks: BackgroundTasks

    def listen(self, topic: str, listener: Callable[[list[str] | None], None] | None) -> None:
        """Receive what other instances :meth:`tell` about ``topic``; None stops it.

        ``listener`` gets the items, or None when messages may have been missed.
        """
        if listener is None:
            self._tiers.listeners.pop(topic, None)
        else:
            self._tiers.listeners[topic] = listener

    def tell(self, topic: str, items: list[str]) -> asyncio.Task[Any] | None:
        """Send a message to the other instances, in a separate task; None if there are none.

        If it may not have arrived, their listeners are told so (None) as soon as Redis accepts that.
        """
        shared = self._tiers.shared
        if shared is None or not self._enabled:
            return None
        return self._tasks.spawn(shared.tell(topic, items), name="cache-tell")
