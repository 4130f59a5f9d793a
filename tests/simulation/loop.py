"""An event loop whose time is virtual: it jumps to the next timer as soon as nothing is ready.

Everything that asyncio times (``sleep``, ``timeout``, ``call_later``) goes by it. What asyncio does not
promise is left to chance; what it promises holds:

- **Order of callbacks.** ``call_soon`` is first in, first out, which asyncio's documentation promises, so
  plain callbacks keep their order. Steps of *tasks* that are ready in the same turn may change places
  (``shuffles``): no code may know after how many turns another task goes on.
- **Timers** that are due at one moment come in any order.
- **Time between two turns** passes, a little: no code may be so fast that no time has passed.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any

PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
"""The simulated process that a callback belongs to; callbacks and tasks inherit it from who made them."""

MOST_STEPS = 400_000
"""Callbacks of one run: with more it goes round in a circle."""


class Livelock(AssertionError):
    """The run goes round in a circle."""


class Standstill(AssertionError):
    """Nobody will ever do anything again, and the run has not ended."""


class Process:
    """A simulated process: it runs, is stopped for a while (SIGSTOP), or is dead (SIGKILL).

    What a stopped one had to do waits; what a dead one had to do is never done.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopped = self.dead = False
        self.clock: Any = None
        """That of the machine it runs on, if it has one of its own."""
        self.held: list[Callback] = []
        # What the dead had to do: kept, since collecting it would run its ``finally`` blocks.
        self.buried: list[Any] = []
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)


class NumberedFuture(asyncio.Future):
    """A future whose place in a set does not depend on its address."""

    numbers = 0
    _number = 0

    def __hash__(self) -> int:
        if not self._number:  # most are in no set
            NumberedFuture.numbers += 1
            self._number = NumberedFuture.numbers
        return self._number

    __eq__ = object.__eq__


class NumberedTask(asyncio.Task):
    """A task whose place in a set does not depend on its address."""

    numbers = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        NumberedTask.numbers += 1
        self._number = NumberedTask.numbers
        context = kwargs.get("context")
        self.process: Process | None = PROCESS.get() if context is None else context.get(PROCESS)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number

    __eq__ = object.__eq__


class Callback:
    """As ``asyncio.Handle``, in a third of its time: nothing is kept for debugging."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "_loop", "_when")

    def __init__(
        self, when: float, callback: Any, args: tuple[Any, ...], loop: VirtualLoop, context: Any
    ) -> None:
        self._when, self._callback, self._args, self._loop = when, callback, args, loop
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = False

    def __repr__(self) -> str:
        return f"<{self._callback} at {self._when:.6f}>"

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = self._args = None

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self._when

    def failed(self, error: BaseException) -> None:
        """Tell of an error that the callback has raised."""
        message = f"Exception in callback {self._callback}"
        self._loop.call_exception_handler({"message": message, "exception": error, "handle": self})


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time, without files, sockets, signals and threads.

    ``network`` makes its connections. What is handed to a thread is run inline, a while later.
    """

    def __init__(self, chance: random.Random, *, shuffles: bool = False) -> None:
        super().__init__()
        NumberedTask.numbers = NumberedFuture.numbers = 0
        self._chance = chance
        self._shuffles = shuffles
        self._now = 1_000.0
        self.steps = 0
        self.network: Any = None
        # Called in the turn in which so many steps have been taken, by number of steps.
        self._at_step: list[tuple[int, int, Callable[[], object]]] = []
        self._order = 0
        self._timers: list[tuple[float, float, int, Callback]] = []
        self._ready: deque[Callback] = deque()
        self.set_task_factory(lambda loop, coro, **kwargs: NumberedTask(coro, loop=loop, **kwargs))

    # Time.

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        if self._closed:
            self._check_closed()
        handle = Callback(self._now, callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        if self._closed:
            self._check_closed()
        timer = Callback(when, callback, args, self, context)
        self._order += 1
        heapq.heappush(self._timers, (when, self._chance.random(), self._order, timer))
        return timer

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def after_steps(self, steps: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` between two steps, when ``steps`` more have been taken."""
        self._order += 1
        heapq.heappush(self._at_step, (self.steps + steps, self._order, callback))

    # Turns.

    def _run_once(self) -> None:
        """One turn after the other until the loop is to stop, which asyncio asks after each."""
        timers, ready, step = self._timers, self._ready, self._step
        while True:
            while timers and timers[0][3]._cancelled:
                heapq.heappop(timers)
            now = self._now
            if not ready and not self._stopping:
                if not timers:
                    raise Standstill("nothing is ready and no timer is set")
                if timers[0][0] > now:
                    now = self._now = timers[0][0]
            while timers and timers[0][0] <= now:
                timer = heapq.heappop(timers)[3]
                if not timer._cancelled:
                    ready.append(timer)
            if len(ready) == 1:  # most turns
                handle = ready.popleft()
                if not handle._cancelled:
                    step(handle)
            else:
                if self._shuffles:
                    self._mix(ready)
                for _ in range(len(ready)):
                    handle = ready.popleft()
                    if not handle._cancelled:
                        step(handle)
            self._now += 1e-6
            if self._stopping:
                return

    def _mix(self, turn: deque[Callback]) -> None:
        """Let the tasks among the callbacks change places with one another."""
        places = [
            place for place, handle in enumerate(turn)
            if isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)
        ]  # fmt: skip
        mixed = places.copy()
        self._chance.shuffle(mixed)
        moved = [turn[place] for place in mixed]
        for place, handle in zip(places, moved, strict=True):
            turn[place] = handle

    def _step(self, handle: Callback) -> None:
        context = handle._context
        process: Process | None = context.get(PROCESS)
        if process is not None and (process.dead or process.stopped):
            (process.buried if process.dead else process.held).append(handle)
            return
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Livelock(f"{self.steps} steps, and the time is {self._now:.3f}")
        while self._at_step and self._at_step[0][0] <= self.steps:
            heapq.heappop(self._at_step)[2]()
        try:
            context.run(handle._callback, *handle._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            handle.failed(error)

    def resume(self, process: Process) -> None:
        """Let a stopped process go on with what waited for it."""
        process.stopped = False
        held, process.held = process.held, []
        self._ready.extend(held)

    def timers_of(self, process: Process) -> list[Callback]:
        """What a process still means to do later; what its operating system does is not its own."""
        return [
            timer for *_, timer in sorted(self._timers, key=lambda entry: entry[:3])
            if not timer.cancelled() and timer._context.get(PROCESS) is process
            and not isinstance(getattr(timer._callback, "__self__", None), asyncio.Transport)
        ]  # fmt: skip

    def create_future(self) -> NumberedFuture:
        return NumberedFuture(loop=self)

    # What a loop with a selector does.

    def _process_events(self, event_list: Any) -> None:
        """None come."""

    def _write_to_self(self) -> None:
        """There is nobody in another thread."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        """Run it inline, a while later: threads have no place in a run that is decided by a seed."""
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_later(self._chance.uniform(0.0, 0.005), run)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        return await self.network.connect(protocol_factory, host, port)

    def close(self) -> None:
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        self._timers.clear()
        self._ready = deque()
        self._closed = True
