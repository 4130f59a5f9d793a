"""Slow queries: what counts as a query's time, and how often it is logged."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextvars import ContextVar
from types import TracebackType

from cachetools import LRUCache
from msgspec import Struct

LOG_INTERVAL = 60.0
"""Seconds between two lines of the log about one shape of query."""

MAX_LOGGED = 1_000
"""Shapes whose latest log line is remembered; a forgotten shape may be logged again sooner."""


class Stopwatch(Struct):
    """The time that one execution spent in :class:`database_time` blocks."""

    now: Callable[[], float]
    """Its clock."""
    seconds: float = 0.0
    used: bool = False
    # How many blocks are open, and since when: blocks of concurrent tasks count once. Changed by
    # database_time.
    running: int = 0
    started: float = 0.0


STOPWATCH: ContextVar[Stopwatch | None] = ContextVar("query_stopwatch", default=None)
"""The stopwatch of the execution in this context."""


class database_time:
    """``with database_time():`` around what an executor does on the database, once it has a connection.

    Then only the time in such blocks is the query's time, in the statistics and for the slow query log.
    Without it, the whole time of the executor counts, including its wait for a connection. Outside of an
    executor it does nothing. ::

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


def took_in_all(seconds: float) -> None:
    """Give the execution in this context the time that was measured elsewhere, in place of its own."""
    watch = STOPWATCH.get()
    if watch is not None:
        watch.seconds = seconds
        watch.used = True


class SlowQueryLog:
    """Which slow executions are logged: one each minute for each shape, with the number of those left out."""

    def __init__(self) -> None:
        # fingerprint -> [monotonic time of its last line, slow executions not named since]
        self._logged: LRUCache[Hashable, list[float]] = LRUCache(maxsize=MAX_LOGGED)

    def note(self, fingerprint: str, now: float) -> int | None:
        """Note a slow execution; returns how many of its shape were left out before it, None to leave it out,
        too.
        """
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
