"""One run for any number of concurrent callers of the same key.

After golang.org/x/sync/singleflight, with one difference: the run belongs to no caller. It is a task
of its own, so a caller that is cancelled leaves alone, whether it came first or last, and only when
the last caller has left is the run itself cancelled.

A task and a turn of the event loop cost more than many a query. ``SingleFlight(led=True)`` runs the work
within the first caller, as if there were no single flight. If that caller is cancelled while others wait,
the work starts again, in a task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, Generic, TypeVar, cast

from msgspec import Struct, field

from bot.core._shared.circles import is_awaited_by
from bot.core._shared.deadlines import Deadlines
from bot.core._shared.errors import CircularLoadError

T = TypeVar("T")

_How = tuple[Callable[[], Coroutine[Any, Any, T]], Context]

MAX_NESTED = 10_000
"""Runs that wait for one another; each is a task, and an endless recursion would use up all memory."""

MAX_LED = 20
"""Runs within one another in one task; deeper ones are tasks, for Python's stack is bounded."""

RECHECK_FIRST, RECHECK_LONGEST = 0.01, 1.0
"""Seconds after which a caller that may be part of a circle looks whether it has become one."""


def _first_text(key: Hashable) -> str:
    while isinstance(key, tuple) and key:
        key = next((part for part in key if isinstance(part, str)), key[0])
    return repr(key)


class _Flight(Struct, Generic[T], eq=False):
    key: Hashable
    name: Callable[[Any], str]
    loop: asyncio.AbstractEventLoop
    expired: Callable[[], Exception]
    """Makes the error that it is given up with."""
    depth: int
    """Runs that it is within."""
    # Its own task, or that of the caller if it is led; requests for cancellation that this one had
    # before; whether the run is over, though the caller's task is not. Changed by _start and _lead.
    task: asyncio.Task[Any] = cast("asyncio.Task[Any]", None)
    cancelling: int = 0
    led: bool = False
    over: bool = False
    error: Exception | None = None
    """What it was given up with."""
    # In the order they came, and if it is led what each would run itself, where; a cancelled caller is
    # removed.
    waiters: dict[asyncio.Future[T], _How[T] | None] = field(default_factory=dict)
    # What it waits for itself, by way of which of its tasks. A key is a waiter, or a run that it leads.
    waits: dict[Any, tuple[asyncio.Task[Any] | None, _Flight[Any]]] = field(default_factory=dict)

    __repr__ = object.__repr__  # a task shows its callbacks, and a key may hold what no log should

    def takes_callers(self, loop: asyncio.AbstractEventLoop, *, within: bool) -> bool:
        """Whether callers on this loop may join it: not if it is of another loop, or is being cancelled,
        unless it will be run again for others that wait. A caller ``within`` a run may be in the way of that.
        """
        if self.loop is not loop or self.task.done():
            return False
        if self.task.cancelling() <= self.cancelling:
            return True
        return self.led and not within and not all(waiter.done() for waiter in self.waiters)

    def give(self, result: T) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(result)

    def fail(self, error: BaseException) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def cancel_waiters(self) -> None:
        for waiter in self.waiters:
            waiter.cancel()


# The run that the current code is part of, in tasks that it started too; of all SingleFlights.
_CURRENT: ContextVar[_Flight[Any] | None] = ContextVar("phase4_flight", default=None)


def is_given_up() -> bool:
    """Whether the time of the run that the current code is part of is up, though it went on."""
    flight = _CURRENT.get()
    return flight is not None and flight.error is not None


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

    def __init__(self, name: Callable[[Any], str] = _first_text, *, led: bool = False) -> None:
        """``name`` shows a key in errors; ``led``: the first caller runs the work itself."""
        self._name = name
        self._led = led
        self.timeout: float | None = None
        """Seconds that a run may take which is given none of its own; set by the owner."""
        # Changed only by run, _lead and _fly; an entry leaves when its run ends.
        self._flights: dict[Hashable, _Flight[T]] = {}
        self._deadlines: Deadlines[_Flight[T]] = Deadlines(self._expire)

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    def forget(self, key: Hashable) -> None:
        """Let later callers start a new run. Those who wait already get the result of the former one."""
        self._flights.pop(key, None)

    def rest(self) -> None:
        """Hold no timer while there is no run: for the owner that is switched off."""
        self._deadlines.rest()

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
        next caller starts a new run. Only a caller that leads it itself waits until it has taken notice.
        Raises CircularLoadError if that run waits for this call, through whatever other runs and tasks.
        """
        loop = asyncio.get_running_loop()
        if timeout is None:
            timeout = self.timeout
        flight = self._flights.get(key)
        current = _CURRENT.get()
        if current is not None and (current.loop is not loop or current.over or current.task.done()):
            current = None  # this is a task that outlived it
        # A flight of another loop cannot be awaited here (that loop may even be closed): start a new one.
        # So it is with one that is being cancelled.
        suspect = False
        if flight is None or not flight.takes_callers(loop, within=current is not None):
            flight = _Flight(key, self._name, loop, expired, 0 if current is None else current.depth + 1)
            if flight.depth >= MAX_NESTED:
                shown = f"{self._name(key):.100}"
                raise RecursionError(f"{MAX_NESTED:,} loads wait for one another, the last is {shown}")
            if self._led and flight.depth < MAX_LED:
                task = asyncio.current_task(loop)
                if task is not None:
                    flight.task = task
                    return await self._lead(flight, work, timeout, current)
            self._start(flight, work, timeout)
        elif current is not None:
            suspect = _circle(asyncio.current_task(), current, flight)
        waiter: asyncio.Future[T] = loop.create_future()
        flight.waiters[waiter] = (work, copy_context()) if flight.led else None
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
            elif not flight.waiters and not flight.led:
                # Nobody wants it any more. Later callers must not join a run that is being cancelled.
                self._leave(flight)
                flight.task.cancel()
            raise
        finally:
            if current is not None:
                current.waits.pop(waiter, None)

    def _start(
        self,
        flight: _Flight[T],
        work: Callable[[], Coroutine[Any, Any, T]],
        timeout: float | None,
        context: Context | None = None,
    ) -> None:
        """Run the work in a task of its own."""
        loop = flight.loop
        self._flights[flight.key] = flight
        flight.cancelling = 0
        flight.led = False
        # Not by the loop's factory: work that an eager one runs at once may end before anybody waits for it.
        flight.task = asyncio.Task(self._fly(flight, work), loop=loop, name="single-flight", context=context)
        flight.task.add_done_callback(partial(self._landed, flight))
        if timeout is not None:
            self._deadlines.add(flight, loop, timeout)

    async def _lead(
        self,
        flight: _Flight[T],
        work: Callable[[], Coroutine[Any, Any, T]],
        timeout: float | None,
        current: _Flight[Any] | None,
    ) -> T:
        """Run the work here, in the first caller, and tell those that joined it."""
        task = flight.task
        flight.led = True
        flight.cancelling = task.cancelling()
        self._flights[flight.key] = flight
        if current is not None:
            current.waits[flight] = (task, flight)
        if timeout is not None:
            self._deadlines.add(flight, flight.loop, timeout)
        _CURRENT.set(flight)
        try:
            result = await work()
        except (asyncio.CancelledError, GeneratorExit) as error:
            if flight.error is None:
                self._deserted(flight, timeout)
                raise
            if task.uncancel() > flight.cancelling or isinstance(error, GeneratorExit):
                raise  # the caller was cancelled, too
            raise flight.error from error
        except BaseException as error:
            self._leave(flight)
            if flight.error is not None:
                task.uncancel()
                raise flight.error from error
            flight.fail(error)
            raise
        else:
            self._leave(flight)
            if flight.error is not None:
                task.uncancel()
                raise flight.error
            if flight.waiters:
                flight.give(result)
            return result
        finally:
            # Not by a token: a coroutine that is closed may be so in another context.
            _CURRENT.set(current)
            if flight.led:  # else it goes on, for others
                flight.over = True
                self._deadlines.discard(flight)
            if current is not None:
                current.waits.pop(flight, None)

    def _deserted(self, flight: _Flight[T], timeout: float | None) -> None:
        """The work was cancelled: with its leader, so that others go on, or by itself, as they then are."""
        if flight.loop.is_closed():
            self._leave(flight)  # nobody can be told there
            return
        own = flight.task.cancelling() <= flight.cancelling
        waiting = {waiter: how for waiter, how in flight.waiters.items() if not waiter.done()}
        if own or not waiting:
            self._leave(flight)
            flight.cancel_waiters()
            return
        # In a task, so that it is done once again and not for each of them whose patience is short.
        how = next(iter(waiting.values()))
        assert how is not None  # they joined a run that was led
        work, context = how
        self._start(flight, work, timeout, context)

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

    async def _fly(self, flight: _Flight[T], work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        # It tells the waiters itself: by callbacks of the task they would hear a turn of the loop later.
        _CURRENT.set(flight)
        try:
            result = await work()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._leave(flight)
            flight.fail(error)
            if not isinstance(error, Exception):
                raise  # KeyboardInterrupt, SystemExit: for the loop too
        else:
            self._leave(flight)
            flight.give(result)

    def _expire(self, flight: _Flight[T]) -> None:
        if flight.task.done():
            return
        self._leave(flight)
        flight.error = flight.expired()
        flight.fail(flight.error)
        flight.task.cancel()

    def _landed(self, flight: _Flight[T], task: asyncio.Task[None]) -> None:
        self._deadlines.discard(flight)
        # Here and not in the run, which may have been cancelled before it began.
        if task.cancelled():
            self._leave(flight)
            flight.cancel_waiters()

    def _leave(self, flight: _Flight[T]) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
