"""Keys that are loaded again and again, so that no user waits for them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from bot.core._shared.clock import Clock
from bot.core._shared.tasks import BackgroundTasks

SPREAD = 0.1
"""Share of the interval by which turns come early at random: instances do not load together."""


class Warmer:
    """One task for each warmed key."""

    def __init__(self, tasks: BackgroundTasks, clock: Clock) -> None:
        self._tasks = tasks
        self._clock = clock
        # Changed only by keep and forget.
        self._warmed: dict[tuple[str, str], asyncio.Task[Any]] = {}

    def __len__(self) -> int:
        return len(self._warmed)

    def keep(self, namespace: str, key: str, load: Callable[[], Awaitable[bool]], interval: float) -> None:
        """Call ``load`` every ``interval`` seconds, instead of what was called for the key before."""
        self.forget(namespace, key)

        async def turns() -> None:
            while True:
                await self._clock.sleep(interval * (1 - random.random() * SPREAD))
                await load()

        self._warmed[(namespace, key)] = self._tasks.spawn(turns(), name="cache-warming")

    def forget(self, namespace: str, key: str) -> bool:
        """Stop one; False if there was none."""
        task = self._warmed.pop((namespace, key), None)
        if task is None:
            return False
        loop = task.get_loop()
        if not loop.is_closed():
            task.cancel()
        return True

    def forget_all(self) -> None:
        for namespace, key in list(self._warmed):
            self.forget(namespace, key)
