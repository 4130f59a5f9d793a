"""When pending items are due though they fill no batch: at an age, or at a flush."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable

from bot.core._shared.clock import Clock
from bot.core._shared.futures import give_result
from bot.core._shared.tasks import BackgroundTasks
from bot.core.batch_processor.backlog import Backlog
from bot.core.phase4_config.batch_processor import DEFAULTS


class DueTimes:
    """The age at which items are due, the task that wakes at it, and the flushes under way."""

    def __init__(
        self, clock: Clock, backlog: Backlog, tasks: BackgroundTasks, pump: Callable[[], None]
    ) -> None:
        """``pump()`` starts what is due."""
        self.batch_timeout = DEFAULTS.batch_timeout
        """Seconds after its submission at which an item is due."""
        self.watching = False
        """Whether a task waits until the oldest item of the queue is due."""
        self._clock = clock
        self._now = clock.monotonic
        self._backlog = backlog
        self._tasks = tasks
        self._pump = pump
        self._flushed_until = -math.inf
        # Each flush under way, in order: what was submitted until then has to end.
        self._flushes: OrderedDict[asyncio.Future[None], float] = OrderedDict()

    def until(self) -> float:
        """Items submitted at this time or before are due whatever their number."""
        return max(self._flushed_until, self._now() - self.batch_timeout)

    def watch(self, on_cancel: Callable[[], None]) -> None:
        """Pump when the oldest item is due; ``on_cancel()`` if somebody else cancels the task."""

        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled():
                self.watching = False
                on_cancel()

        self.watching = True
        # By a callback: a task that is cancelled before its first step runs nothing of its body.
        self._tasks.spawn(self._wait_until_due(), name="batch-age").add_done_callback(ended)

    async def _wait_until_due(self) -> None:
        queue = self._backlog.queue
        while (
            len(queue)
            and (left := queue.oldest() + self.batch_timeout - self._now()) > 0.0
            and queue.oldest() > self._flushed_until
        ):
            await self._clock.sleep(left)
        self.watching = False
        self._pump()

    # Flushes.

    def make_due(self) -> None:
        """Start what is pending without waiting for full batches."""
        self._flushed_until = self._now()
        self._pump()

    def flush(self) -> asyncio.Future[None]:
        """As :meth:`make_due`; the future is done when all of it has ended, retries included."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes[waiter] = self._now()
        waiter.add_done_callback(lambda given_up: self._flushes.pop(given_up, None))
        self.make_due()
        self.end_flushes()
        return waiter

    def end_flushes(self) -> None:
        """Some items have ended: a flush may be done."""
        if not self._flushes:
            return
        oldest = self._backlog.oldest()
        while self._flushes:
            waiter, at = next(iter(self._flushes.items()))
            if oldest <= at and not waiter.done():
                return
            del self._flushes[waiter]
            give_result(waiter, None)

    def forget_flushes(self) -> None:
        """The callers that wait did so under an event loop that runs no more."""
        self._flushes.clear()
