"""One run for any number of concurrent callers of the same key.

After golang.org/x/sync/singleflight, with one difference: the run belongs to no caller. It is a task
of its own, so a caller that is cancelled leaves alone, whether it came first or last, and only when
the last caller has left is the run itself cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextvars import ContextVar
from functools import partial
from typing import Any, Generic, TypeVar

from bot.core._shared.circles import is_awaited_by
from bot.core._shared.errors import CircularLoadError

T = TypeVar("T")

MAX_NESTED = 10_000
"""Runs that wait for one another; each is a task, and an endless recursion would use up all memory."""

RECHECK_FIRST, RECHECK_LONGEST = 0.01, 1.0
"""Seconds after which a caller that may be part of a circle looks whether it has become one."""


def _first_text(key: Hashable) -> str:
    while isinstance(key, tuple) and key:
        key = next((part for part in key if isinstance(part, str)), key[0])
    return repr(key)


class _Flight(Generic[T]):
    __slots__ = ("depth", "key", "loop", "name", "task", "timer", "waiters", "waits")

    def __init__(self, key: Hashable, name: Callable[[Any], str], loop: asyncio.AbstractEventLoop) -> None:
        self.key = key
        self.name = name
        self.loop = loop
        self.task: asyncio.Task[None]
        self.timer: asyncio.TimerHandle | None = None
        # In the order they came; a cancelled caller is removed.
        self.waiters: dict[asyncio.Future[T], None] = {}
        # What it waits for itself, by way of which of its tasks.
        self.waits: dict[asyncio.Future[Any], tuple[asyncio.Task[Any] | None, _Flight[Any]]] = {}
        self.depth = 0


# The run that the current code is part of, in tasks that it started too; of all SingleFlights.
_CURRENT: ContextVar[_Flight[Any] | None] = ContextVar("phase4_flight", default=None)


def _path(begin: _Flight[Any], end: _Flight[Any], *, proven: bool) -> list[_Flight[Any]] | None:
    """Flights from one to another, each waiting for the next; ``proven``: for certain."""
    paths = [[begin]]
    seen = {begin}
    while paths:
        path = paths.pop()
        last = path[-1]
        if last is end:
            return path
        for task, flight in last.waits.values():
            if flight not in seen and (not proven or _is_part(task, last)):
                seen.add(flight)
                paths.append([*path, flight])
    return None


def _is_part(task: asyncio.Task[Any] | None, flight: _Flight[Any]) -> bool:
    """Whether the flight cannot end before the task has."""
    return task is flight.task or (task is not None and is_awaited_by(task, flight.task))


def _circle(task: asyncio.Task[Any] | None, current: _Flight[Any], flight: _Flight[Any]) -> bool:
    """Whether ``flight`` may come to wait for ``current``. Raises CircularLoadError if it surely does."""
    if _path(flight, current, proven=False) is None:
        return False
    path = _path(flight, current, proven=True) if _is_part(task, current) else None
    if path is not None:
        names = " -> ".join(f"{one.name(one.key):.100}" for one in (*path, flight))
        raise CircularLoadError(f"circular load, each one waits for the next: {names}")
    return True


class SingleFlight(Generic[T]):
    """Runs in progress, by key. A run's exception reaches every waiter; nothing is remembered after."""

    def __init__(self, name: Callable[[Any], str] = _first_text) -> None:
        """``name`` shows a key in errors."""
        self._name = name
        self.timeout: float | None = None
        """Seconds that a run may take which is given none of its own; set by the owner."""
        # Changed only by run and _fly; an entry leaves when its run ends.
        self._flights: dict[Hashable, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    async def run(
        self,
        key: Hashable,
        work: Callable[[], Coroutine[Any, Any, T]],
        *,
        timeout: float | None = None,
        expired: Callable[[], Exception] = TimeoutError,
    ) -> T:
        """Return what ``work()`` returns, joining the run of ``key`` that is under way if there is one.

        A run that takes longer than ``timeout`` seconds (None: :attr:`timeout`) is cancelled, and given up
        whether it takes notice of that or not: all waiters get the error of ``expired()``, and the
        next caller starts a new run.
        Raises CircularLoadError if that run waits for this call, through whatever other runs and tasks.
        """
        loop = asyncio.get_running_loop()
        if timeout is None:
            timeout = self.timeout
        flight = self._flights.get(key)
        current = _CURRENT.get()
        if current is not None and (current.loop is not loop or current.task.done()):
            current = None  # this is a task that outlived it
        # A flight of another loop cannot be awaited here (that loop may even be closed): start a new one.
        # So it is with one that is being cancelled.
        suspect = False
        if flight is None or flight.loop is not loop or flight.task.done() or flight.task.cancelling():
            flight = _Flight(key, self._name, loop)
            if current is not None:
                flight.depth = current.depth + 1
                if flight.depth > MAX_NESTED:
                    shown = f"{self._name(key):.100}"
                    raise RecursionError(f"{MAX_NESTED:,} loads wait for one another, the last is {shown}")
            self._flights[key] = flight
            flight.task = loop.create_task(self._fly(key, flight, work), name="single-flight")
            flight.task.add_done_callback(partial(self._landed, key, flight))
            if timeout is not None:
                flight.timer = loop.call_later(timeout, self._expire, key, flight, expired)
        elif current is not None:
            suspect = _circle(asyncio.current_task(), current, flight)
        waiter: asyncio.Future[T] = loop.create_future()
        flight.waiters[waiter] = None
        if current is not None:
            current.waits[waiter] = (asyncio.current_task(), flight)
        try:
            if suspect and current is not None:
                await self._suspect(waiter, current, flight)
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
        finally:
            if current is not None:
                current.waits.pop(waiter, None)

    async def _suspect(self, waiter: asyncio.Future[T], current: _Flight[Any], flight: _Flight[T]) -> None:
        """Wait as one whose run may yet wait for it: the task that this is need not be awaited there."""
        pause = RECHECK_FIRST
        while True:
            try:
                await asyncio.wait([waiter], timeout=pause)
            except asyncio.CancelledError:
                waiter.cancel()
                raise
            if waiter.done():
                return
            try:
                _circle(asyncio.current_task(), current, flight)
            except CircularLoadError:
                flight.waiters.pop(waiter, None)
                raise
            pause = min(2 * pause, RECHECK_LONGEST)

    async def _fly(
        self, key: Hashable, flight: _Flight[T], work: Callable[[], Coroutine[Any, Any, T]]
    ) -> None:
        # It tells the waiters itself: by callbacks of the task they would hear a turn of the loop later.
        _CURRENT.set(flight)
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

    def _expire(self, key: Hashable, flight: _Flight[T], expired: Callable[[], Exception]) -> None:
        if flight.task.done():
            return
        self._leave(key, flight)
        error = expired()
        for waiter in flight.waiters:
            if not waiter.done():
                waiter.set_exception(error)
        flight.task.cancel()

    def _landed(self, key: Hashable, flight: _Flight[T], task: asyncio.Task[None]) -> None:
        if flight.timer is not None:
            flight.timer.cancel()
        # Here and not in the run, which may have been cancelled before it began.
        if task.cancelled():
            self._leave(key, flight)
            for waiter in flight.waiters:
                waiter.cancel()

    def _leave(self, key: Hashable, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
