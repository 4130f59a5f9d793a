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

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.task: asyncio.Task[None]
        # In the order they came; who is cancelled leaves it.
        self.waiters: dict[asyncio.Future[T], None] = {}


class SingleFlight(Generic[T]):
    """Runs in progress, by key. A run's exception reaches every waiter; nothing is remembered after."""

    def __init__(self) -> None:
        # Changed only by run and _fly; an entry leaves when its run ends.
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
        # So it is with one that is being cancelled.
        if flight is None or flight.loop is not loop or flight.task.done() or flight.task.cancelling():
            flight = self._flights[key] = _Flight(loop)
            flight.task = loop.create_task(self._fly(key, flight, work), name="single-flight")
            flight.task.add_done_callback(partial(self._landed, key, flight))
        waiter: asyncio.Future[T] = loop.create_future()
        flight.waiters[waiter] = None
        try:
            return await waiter
        except asyncio.CancelledError:
            flight.waiters.pop(waiter, None)
            if not waiter.cancelled():
                waiter.exception()  # seen: it came in the moment that this caller was cancelled
            elif not flight.waiters and not flight.task.done():
                # Nobody wants it any more. Later callers must not join a run that is being cancelled.
                self._leave(key, flight)
                flight.task.cancel()
            raise

    async def _fly(
        self, key: Hashable, flight: _Flight[T], work: Callable[[], Coroutine[Any, Any, T]]
    ) -> None:
        # It tells the waiters itself: by callbacks of the task they would hear a turn of the loop later.
        try:
            result = await work()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._leave(key, flight)
            for waiter in flight.waiters:
                if not waiter.done():
                    waiter.set_exception(error)
            if not isinstance(error, Exception):
                raise  # KeyboardInterrupt, SystemExit: for the loop too
        else:
            self._leave(key, flight)
            for waiter in flight.waiters:
                if not waiter.done():
                    waiter.set_result(result)

    def _landed(self, key: Hashable, flight: _Flight[T], task: asyncio.Task[None]) -> None:
        # Here and not in the run, which somebody may have cancelled before it ever began.
        if task.cancelled():
            self._leave(key, flight)
            for waiter in flight.waiters:
                waiter.cancel()

    def _leave(self, key: Hashable, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
