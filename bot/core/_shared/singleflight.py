"""One run for any number of concurrent callers of the same key.

After golang.org/x/sync/singleflight, with one difference: the run belongs to nobody. It is a task
of its own, so a caller that is cancelled leaves alone, whether it came first or last, and only when
the last caller has left is the run itself cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Flight(Generic[T]):
    __slots__ = ("loop", "task", "waiters")

    def __init__(self, task: asyncio.Task[T], loop: asyncio.AbstractEventLoop) -> None:
        self.task = task
        self.loop = loop
        self.waiters = 0


class SingleFlight(Generic[T]):
    """Runs in progress, by key. A run's exception reaches every waiter; nothing is remembered after."""

    def __init__(self) -> None:
        # Changed only by run and _landed; an entry leaves when its task ends.
        self._flights: dict[Hashable, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    async def run(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what ``work()`` returns, joining the run of ``key`` that is under way if there is one."""
        loop = asyncio.get_running_loop()
        flight = self._flights.get(key)
        # A flight of another loop cannot be awaited here (that loop may even be closed): start anew.
        if flight is None or flight.loop is not loop or flight.task.done():
            task = loop.create_task(work(), name="single-flight")
            flight = self._flights[key] = _Flight(task, loop)
            task.add_done_callback(partial(self._landed, key, flight))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0 and not flight.task.done():
                # Nobody wants it any more. Later callers must not join a run that is being cancelled.
                self._landed(key, flight)
                flight.task.cancel()

    def _landed(self, key: Hashable, flight: _Flight[T], _task: object = None) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if flight.task.done() and not flight.task.cancelled():
            flight.task.exception()  # seen: every waiter may have been cancelled before it came
