"""A clock that moves only when the test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable


class Timer:
    """A call that is to come."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class VirtualClock:
    """Time under the test's control; sleepers wake in order as it advances."""

    def __init__(self, start: float = 1_000.0, epoch: float = 1_700_000_000.0) -> None:
        self._now = start
        self._offset = epoch - start
        self._sleepers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return self._now + self._offset

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        self.call_later(seconds, lambda: woken.done() or woken.set_result(None), loop)
        await woken

    def call_later(
        self, seconds: float, callback: Callable[[], object], loop: asyncio.AbstractEventLoop
    ) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), timer))
        return timer

    def jump(self, seconds: float) -> None:
        """Move time without waking anybody: for code that only reads the clock."""
        self._now += seconds

    def shift_wall(self, seconds: float) -> None:
        """Set the wall clock, as an administrator or NTP does; ``monotonic`` goes on as it did."""
        self._offset += seconds

    async def advance(self, seconds: float) -> None:
        """Move time, waking each sleeper at its moment and letting it run until it waits again."""
        end = self._now + seconds
        await until_idle()
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, timer = heapq.heappop(self._sleepers)
            self._now = max(self._now, at)
            if not timer.cancelled:
                timer.callback()
            await until_idle()
        self._now = end
        await until_idle()


async def until_idle(rounds: int = 20) -> None:
    """Let every ready task run; ``rounds`` turns of the loop reach a fixed point in practice."""
    for _ in range(rounds):
        await asyncio.sleep(0)
