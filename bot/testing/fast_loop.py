"""An event loop whose time jumps ahead when nothing is left to do, so that minutes pass in seconds.

For tests in which both ends of every connection live in this loop: a bot and a
:class:`~bot.testing.telegram.TelegramServer`. Timers fire in their order, and no faster than the I/O
that is under way: time stands still while code runs, while a socket has data, and while a thread of an
executor works.

It cannot be built on uvloop, which takes its time from libuv. What waits for another process (Redis, a real
server) sees time jump while it waits; give such a test a ``grace`` longer than those answers take.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from bot.core._shared.clock import LoopTimers

T = TypeVar("T")

GRACE = 0.002
"""Seconds of real time in which a socket must have had nothing before time jumps. A loop without sockets, in
a process without further threads, jumps at once: nothing can happen there while it waits."""

LONG_JUMP, LONG_GRACE = 1.0, 0.02
"""A jump of more seconds than the first waits the second: such timers are mostly time limits of requests."""


class LoopClock(LoopTimers):
    """The time of an event loop, for services under test: ``Outbound(clock=loop.clock)``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.monotonic = loop.time
        self._epoch = time.time() - loop.time()

    def time(self) -> float:
        return self._epoch + self.monotonic()


class RunningLoopClock(LoopTimers):
    """The time of whatever event loop runs, the machine's where none does."""

    def __init__(self) -> None:
        self._epoch = time.time() - time.monotonic()

    def monotonic(self) -> float:
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return time.monotonic()

    def time(self) -> float:
        return self._epoch + self.monotonic()


class _JumpingSelector(selectors.BaseSelector):
    """Asks a real selector, and instead of waiting for a timer lets the loop's time jump to it."""

    def __init__(self, grace: float) -> None:
        self._real = selectors.DefaultSelector()
        self._grace = grace
        self.offset = 0.0
        self.threads = 0
        self.jumps = 0
        self._other_threads = threading.active_count()

    def _is_alone(self) -> bool:
        """Whether only a timer can wake the loop: it listens to its own pipe alone, and no thread started."""
        return len(self._real.get_map()) <= 1 and threading.active_count() <= self._other_threads

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or self.threads:
            return self._real.select(None)
        if not self._is_alone():
            ready = self._real.select(max(self._grace, LONG_GRACE) if timeout > LONG_JUMP else self._grace)
        if not ready:
            self.offset += timeout
            self.jumps += 1
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.get_key(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class FastLoop(asyncio.SelectorEventLoop):
    """See the module. ``clock`` is its time for services; ``jumps`` counts how often it jumped."""

    def __init__(self, grace: float = GRACE) -> None:
        """``grace``: seconds of real time without any I/O before a jump."""
        self._jumping = _JumpingSelector(grace)
        self._began = time.monotonic()
        super().__init__(self._jumping)
        self.clock = LoopClock(self)

    @property
    def jumps(self) -> int:
        """How often time has jumped."""
        return self._jumping.jumps

    def time(self) -> float:
        """Seconds; stands still while something runs."""
        return self._began + self._jumping.offset

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """As every loop's; time stands still until the thread is done."""
        future = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, future: asyncio.Future[Any]) -> None:
        self._jumping.threads -= 1


def run(main: Coroutine[Any, Any, T], *, grace: float = GRACE) -> T:
    """Run ``main`` as ``asyncio.run`` does, on a :class:`FastLoop`: its result."""
    with asyncio.Runner(loop_factory=lambda: FastLoop(grace)) as runner:
        return runner.run(main)
