"""A timer that can be set earlier or later while it runs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from bot.core._shared.clock import Clock, TimerHandle


class Alarm:
    """Calls back once at the time it was last set to.

    A plain timer, no task: there is nothing that somebody else could cancel.
    """

    def __init__(self, clock: Clock, on_time: Callable[[], None]) -> None:
        self._clock = clock
        self._on_time = on_time
        # Changed by set, _ring and stop. A timer whose event loop has ended never rings.
        self._handle: TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._at = math.inf

    def set(self, at: float, loop: asyncio.AbstractEventLoop | None) -> None:
        """Ring at this time, on this loop; at no time if it is infinity, or if there is no loop."""
        if at == self._at and loop is self._loop:
            return
        self.stop()
        if at == math.inf or loop is None or loop.is_closed():
            return
        self._at, self._loop = at, loop
        self._handle = self._clock.call_later(max(0.0, at - self._clock.monotonic()), self._ring, loop)

    def _ring(self) -> None:
        self._handle, self._loop, self._at = None, None, math.inf
        self._on_time()

    def stop(self) -> None:
        """Do not ring."""
        if self._handle is not None and (self._loop is None or not self._loop.is_closed()):
            self._handle.cancel()
        self._handle, self._loop, self._at = None, None, math.inf
