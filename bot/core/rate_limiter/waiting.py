"""Waiting for tokens that are taken in advance; when a waiter gives up, later ones move up."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Hashable

from bot.core._shared.clock import Clock
from bot.core._shared.errors import invalid
from bot.core.rate_limiter.line import Line, Order, Waiter


class Lines:
    """Lines by limit and client. Each has one timer, for the waiter that is next."""

    __slots__ = ("_clock", "_lines")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lines: dict[Hashable, Line] = {}

    async def wait(
        self, key: Hashable, ready: float, cost: float, order: Order, give_back: Callable[[], bool]
    ) -> None:
        """Return when the tokens are there: at ``ready``, or earlier by what those ahead gave back.

        ``cost`` is what this wait's tokens are in seconds, and ``order`` its place. If it is cancelled,
        ``give_back`` is called, unless the client was forgiven since, and if it says so those behind
        move up.
        """
        loop = asyncio.get_running_loop()
        line = self._lines.get(key)
        if line is None or line.loop is not loop:
            # The queue of an event loop that ended must not delay callers here.
            line = self._lines[key] = Line(loop)
        waiter = Waiter(cost, order, loop.create_future())
        line.join(waiter, ready)
        if line.waiters[0] is waiter:
            self._set_timer(key, line)
        try:
            await waiter.future
        except BaseException:
            before = line.first_ready
            line.leave(waiter, not line.forgotten and give_back())
            if line.first_ready != before or not line.waiters:
                self._set_timer(key, line)
            self._drop_if_empty(key, line)
            raise

    def move_up(self, key: Hashable, order: Order, cost: float) -> None:
        """Another process gave back a place in the client's line."""
        line = self._lines.get(key)
        if line is not None:
            ready = line.first_ready
            line.move_up(order, cost)
            if line.first_ready != ready:
                self._set_timer(key, line)

    def forget(self, key: Hashable) -> None:
        """The client was reset: waiters keep their time, and new callers do not wait behind them."""
        line = self._lines.pop(key, None)
        if line is not None:
            line.forgotten = True

    def _set_timer(self, key: Hashable, line: Line) -> None:
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        if line.waiters:
            wait = max(0.0, line.first_ready - self._clock.monotonic())
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it all its waiters
                line.timer = self._clock.call_later(wait, lambda: self._serve(key, line), line.loop)

    def _serve(self, key: Hashable, line: Line) -> None:
        line.timer = None
        for waiter in line.due(self._clock.monotonic()):
            if not waiter.future.done():
                waiter.future.set_result(None)
        self._set_timer(key, line)
        self._drop_if_empty(key, line)

    def _drop_if_empty(self, key: Hashable, line: Line) -> None:
        if not line.waiters and self._lines.get(key) is line:
            del self._lines[key]

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree. For tests: O(n)."""
        for line in self._lines.values():
            line.check_invariants()


def longest_wait(timeout: float | None) -> float:
    """The seconds of a ``timeout`` argument: None waits for ever, and what is negative not at all."""
    if timeout is None:
        return math.inf
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout != timeout:
        raise invalid("timeout", timeout, "a number of seconds, or None")
    return max(0.0, timeout)
