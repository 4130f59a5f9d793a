"""Where time comes from. Services read a clock; pure structures are told the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class TimerHandle(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """It is not to come."""
        ...


class Clock(Protocol):
    """A source of time, replaced in tests by a virtual one."""

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        ...

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` of this clock's time."""
        ...

    def call_later(
        self, seconds: float, callback: Callable[[], object], loop: asyncio.AbstractEventLoop
    ) -> TimerHandle:
        """Call ``callback`` on ``loop`` after ``seconds`` of this clock's time."""
        ...


class LoopTimers:
    """Waiting by the event loop's own timers: the half of a clock that all but virtual ones share."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(
        self, seconds: float, callback: Callable[[], object], loop: asyncio.AbstractEventLoop
    ) -> TimerHandle:
        return loop.call_later(seconds, callback)


class SystemClock(LoopTimers):
    """The machine's own clock."""

    # Bound as attributes, not wrapped: a wrapper would double the price of a read on the hot paths.
    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)


SYSTEM_CLOCK = SystemClock()
