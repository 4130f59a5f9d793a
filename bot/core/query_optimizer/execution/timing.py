"""Slow queries: what counts as a query's time, and how often the log says so."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextvars import ContextVar
from types import TracebackType

from cachetools import LRUCache

LOG_INTERVAL = 60.0
"""Seconds between two lines of the log about one shape of query."""

MAX_LOGGED = 1_000
"""Shapes whose last line is remembered; one forgotten may be logged again sooner."""


class Stopwatch:
    """The time that one execution spent in :class:`database_time` blocks; ``now`` is its clock."""

    __slots__ = ("now", "running", "seconds", "started", "used")

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds = 0.0
        self.used = False
        # Blocks open, and since when any is: those of tasks side by side count once. By database_time.
        self.running = 0
        self.started = 0.0


STOPWATCH: ContextVar[Stopwatch | None] = ContextVar("query_stopwatch", default=None)
"""Of the execution that runs in this context."""


class database_time:
    """``with database_time():`` around what an executor does on the database, once it has a connection.

    Then the time in such blocks is the query's time, in the statistics and for the slow query log; without
    one it is all that the executor takes, its wait for a connection included. Outside of an executor it does
    nothing. ::

        async def run(query, params):
            async with pool_mgr.connection("postgresql") as connection:
                with database_time():
                    return await connection.fetch(query, *params)
    """

    __slots__ = ("_watch",)

    def __enter__(self) -> None:
        watch = self._watch = STOPWATCH.get()
        if watch is not None:
            if not watch.running:
                watch.started = watch.now()
            watch.running += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        watch = self._watch
        if watch is not None:
            watch.running -= 1
            if not watch.running:
                watch.seconds += watch.now() - watch.started
                watch.used = True


class SlowQueryLog:
    """Which slow executions the log names: of each shape one a minute, with how many it left out."""

    def __init__(self) -> None:
        # fingerprint -> [monotonic time of its last line, slow executions not named since]
        self._logged: LRUCache[Hashable, list[float]] = LRUCache(maxsize=MAX_LOGGED)

    def note(self, fingerprint: str, now: float) -> int | None:
        """A slow execution: how many of its shape went unnamed before it; None if it does too."""
        last = self._logged.get(fingerprint)
        if last is None:
            self._logged[fingerprint] = [now, 0]
            return 0
        if now - last[0] < LOG_INTERVAL:
            last[1] += 1
            return None
        unnamed = int(last[1])
        last[0], last[1] = now, 0
        return unnamed

    def clear(self) -> None:
        self._logged.clear()
