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
        self.held: list[asyncio.Handle] = []
        # What the dead had to do: kept, since collecting it would run its ``finally`` blocks.
        self.buried: list[Any] = []
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)


class NumberedFuture(asyncio.Future):
    """A future whose place in a set does not depend on its address."""

    numbers = 0

    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        NumberedFuture.numbers += 1
        self._number = NumberedFuture.numbers

    def __hash__(self) -> int:
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
        self._timers: list[tuple[float, float, int, asyncio.TimerHandle]] = []
        self.set_task_factory(lambda loop, coro, **kwargs: NumberedTask(coro, loop=loop, **kwargs))

    # Time.

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        self._check_closed()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._order += 1
        heapq.heappush(self._timers, (when, self._chance.random(), self._order, timer))
        return timer

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing: a cancelled timer is dropped when its time comes."""

    def after_steps(self, steps: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` between two steps, when ``steps`` more have been taken."""
        self._order += 1
        heapq.heappush(self._at_step, (self.steps + steps, self._order, callback))

    # Turns.

    def _run_once(self) -> None:
        timers, ready = self._timers, self._ready
        while timers and timers[0][3].cancelled():
            heapq.heappop(timers)
        if not ready and not self._stopping:
            if not timers:
                raise Standstill("nothing is ready and no timer is set")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[3]
            if not timer.cancelled():
                ready.append(timer)
        turn = list(ready)
        ready.clear()
        if self._shuffles and len(turn) > 1:
            self._mix(turn)
        for handle in turn:
            self._step(handle)
        self._now += 1e-6

    def _mix(self, turn: list[asyncio.Handle]) -> None:
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

    def _step(self, handle: asyncio.Handle) -> None:
        if handle._cancelled:
            return
        process: Process | None = handle._context.get(PROCESS)
        if process is not None and (process.dead or process.stopped):
            (process.buried if process.dead else process.held).append(handle)
            return
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Livelock(f"{self.steps} steps, and the time is {self._now:.3f}")
        while self._at_step and self._at_step[0][0] <= self.steps:
            heapq.heappop(self._at_step)[2]()
        handle._run()

    def resume(self, process: Process) -> None:
        """Let a stopped process go on with what waited for it."""
        process.stopped = False
        held, process.held = process.held, []
        self._ready.extend(held)

    def timers_of(self, process: Process) -> list[asyncio.TimerHandle]:
        """What a process still means to do later."""
        return [
            timer for *_, timer in sorted(self._timers, key=lambda entry: entry[:3])
            if not timer.cancelled() and timer._context.get(PROCESS) is process
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
