"""Redis's time, by which all instances tell how old a value is."""

from __future__ import annotations

from bot.core._shared.clock import Clock
from bot.core._shared.tasks import BackgroundTasks
from bot.core.cache_manager.failures import Failures
from bot.core.redis_link import RedisLink

INTERVAL = 60.0
"""Seconds between two reads of Redis's clock."""


class RedisTime:
    """How far Redis's clock is from this machine's; read again from time to time, by a task in ``tasks``."""

    def __init__(self, link: RedisLink, clock: Clock, tasks: BackgroundTasks, failures: Failures) -> None:
        self._link = link
        self._clock = clock
        self._tasks = tasks
        self._failures = failures
        self.offset: float | None = None
        """Seconds to add to the monotonic clock for Redis's time; None: not known. Changed only by read."""
        self.read_at = 0.0
        """When, by the monotonic clock, it is read next. Changed only by now and doubt."""

    def now(self) -> float:
        """Redis's time in seconds; this machine's while it is unknown."""
        now = self._clock.monotonic()
        if now >= self.read_at:
            self.read_at = now + INTERVAL
            if self._link.available:
                self._tasks.spawn(self.read(), name="cache-clock")
        offset = self.offset
        return self._clock.time() if offset is None else now + offset

    def doubt(self) -> None:
        """Read it again at the next use: another server, with another clock, may answer now."""
        self.read_at = 0.0

    async def read(self) -> None:
        """Ask Redis; if it does not answer, the earlier result stays."""
        before = self._clock.monotonic()
        try:
            seconds, microseconds = await self._link.execute("TIME")
            told = int(seconds) + int(microseconds) / 1e6
        except Exception as error:
            self._failures.failed(error)
            return
        self.offset = told - (before + self._clock.monotonic()) / 2
