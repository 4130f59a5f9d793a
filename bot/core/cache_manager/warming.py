"""Keys that are loaded at intervals, so that no user waits for them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from bot.core._shared.clock import Clock
from bot.core._shared.errors import shown
from bot.core._shared.isolation import freeze
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks
from bot.core.cache_manager.events import Hooks
from bot.core.cache_manager.loaded_values import ttl_of_loaded
from bot.core.cache_manager.models import FirstOfType, Loader
from bot.core.cache_manager.stats import Counters
from bot.core.cache_manager.tiers import Tiers
from bot.core.cache_manager.ttls import TtlOf

logger = logging.getLogger(__name__)

SPREAD = 0.1
"""Share of the interval by which a load comes early at random, so that instances do not load together."""

TIMEOUT = 60.0
"""Seconds that a load may take, if the caller does not say otherwise."""


class _Warmed(NamedTuple):
    load: Callable[[], Awaitable[bool]]
    interval: Callable[[], float]


class Warmer:
    """One task for each warmed key, except while paused."""

    def __init__(
        self,
        tiers: Tiers,
        counters: Counters,
        tasks: BackgroundTasks,
        clock: Clock,
        first_of_type: FirstOfType,
        hooks: Hooks,
    ) -> None:
        self._hooks = hooks
        self._first_of_type = first_of_type
        self._tiers = tiers
        self._counters = counters
        self._tasks = tasks
        self._clock = clock
        # Changed only by keep and forget.
        self._warmed: dict[tuple[str, str], _Warmed] = {}
        # Those of them that have a task. Changed only by _start and _stop.
        self._running: dict[tuple[str, str], asyncio.Task[Any]] = {}

    def __len__(self) -> int:
        return sum(not (task.done() or task.get_loop().is_closed()) for task in self._running.values())

    async def load(
        self, namespace: str, key: str, loader: Loader, ttl: float | TtlOf, timeout: float
    ) -> bool:
        """Load a key and cache it for ``ttl``; False if that failed, which is logged and counted."""
        tiers = self._tiers
        begun = tiers.local.changes.count
        limit = asyncio.timeout(timeout)
        try:
            start = self._clock.monotonic()
            async with limit:
                value = await loader()
            self._hooks.tell("load", namespace, key, seconds=self._clock.monotonic() - start)
            if not tiers.local.is_open or tiers.local.changes.since(begun, namespace, key, ()):
                return True
            frozen = freeze(value)
            seconds = ttl_of_loaded(ttl, value, self._first_of_type)
            if not seconds:
                return True
            if tiers.shared is None:
                tiers.local.store(namespace, key, frozen, seconds)
            else:
                await tiers.shared.store(namespace, key, value, frozen, seconds, loaded=True)
        except Exception as error:
            self._counters.load_failures += 1
            self._hooks.tell("error", namespace, key, error=error)
            if isinstance(error, TimeoutError) and limit.expired():
                logger.warning("Warming %s took longer than %g s", one_line(shown(key), 100), timeout)
            else:
                logger.warning("Warming %s failed: %s", one_line(shown(key), 100), one_line(error))
            return False
        return True

    def keep(
        self, namespace: str, key: str, load: Callable[[], Awaitable[bool]], interval: Callable[[], float]
    ) -> None:
        """Call ``load`` every ``interval()`` seconds, instead of what was called for the key before."""
        self.forget(namespace, key)
        self._warmed[(namespace, key)] = _Warmed(load, interval)
        self._start((namespace, key))

    def resume(self) -> None:
        """Start a task for every key on the running event loop, whichever loop it was warmed under before."""
        loop = asyncio.get_running_loop()
        for at in self._warmed:
            task = self._running.get(at)
            if task is None or task.done() or task.get_loop() is not loop:
                self._stop(at)
                self._start(at)

    def pause(self) -> None:
        """Load nothing until :meth:`resume`."""
        for at in self._warmed:
            self._stop(at)

    def forget(self, namespace: str, key: str) -> bool:
        """Stop one; False if there was none."""
        self._stop((namespace, key))
        return self._warmed.pop((namespace, key), None) is not None

    def forget_all(self) -> None:
        for namespace, key in list(self._warmed):
            self.forget(namespace, key)

    def _start(self, at: tuple[str, str]) -> None:
        warmed = self._warmed[at]

        async def turns() -> None:
            while True:
                await self._clock.sleep(warmed.interval() * (1 - random.random() * SPREAD))
                await warmed.load()

        self._running[at] = self._tasks.spawn(turns(), name="cache-warming")

    def _stop(self, at: tuple[str, str]) -> None:
        task = self._running.pop(at, None)
        if task is not None and not task.get_loop().is_closed():
            task.cancel()
