"""One timer for all callers that wait for a connection."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.tasks import BackgroundTasks


class Alarm:
    """Calls ``ring`` at the time that it was set to.

    One timer serves all waiters: one each would cost more than the rest of a wait, and nearly all waiters are
    served in time. ``ring`` sets it again for those that still wait.
    """

    def __init__(self, ring: Callable[[], None], tasks: BackgroundTasks, clock: Clock, *, name: str) -> None:
        self.at = math.inf
        """When it rings; infinity: never. Changed only by set and cancel, and when it rings."""
        self._ring = ring
        self._tasks = tasks
        self._clock = clock
        self._name = name
        self._cancel_timer: Callable[[], Any] | None = None

    def set(self, at: float) -> None:
        """Ring at ``at``, by the clock's monotonic time, and at no other time."""
        self.cancel()
        self.at = at
        seconds = max(0.0, at - self._clock.monotonic())
        if self._clock is SYSTEM_CLOCK:
            self._cancel_timer = asyncio.get_running_loop().call_later(seconds, self._rings).cancel
        else:
            self._cancel_timer = self._tasks.spawn(self._rings_after(seconds), name=self._name).cancel

    def cancel(self) -> None:
        """Do not ring."""
        cancel, self._cancel_timer, self.at = self._cancel_timer, None, math.inf
        if cancel is not None:
            cancel()

    async def _rings_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._rings()

    def _rings(self) -> None:
        self._cancel_timer, self.at = None, math.inf
        self._ring()
