"""What becomes of a batch that the handler failed with: tried again, halved, or to be given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from bot.core._shared.clock import Clock
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks
from bot.core.batch_processor.backlog import Backlog
from bot.core.batch_processor.errors import HandlerAnswerError
from bot.core.batch_processor.models import Batch
from bot.core.batch_processor.retry import RetryPolicy
from bot.core.batch_processor.told_waits import MOST_WAITS, told_wait
from bot.core.phase4_config.batch_processor import DEFAULTS

logger = logging.getLogger(__name__)


class Retries:
    """The policy, and the tasks that wait until a batch is to be tried again.

    A wait that somebody else cancels is over: the batch is ready at once.
    """

    def __init__(
        self,
        clock: Clock,
        backlog: Backlog,
        tasks: BackgroundTasks,
        pump: Callable[[], None],
        pump_soon: Callable[[], None],
    ) -> None:
        """``pump()`` starts what is ready, ``pump_soon()`` does so under an event loop that goes on."""
        self.policy = RetryPolicy()
        self.longest_wait = DEFAULTS.retry_after_max
        """Seconds; an error that asks for more gets this."""
        self.isolate = DEFAULTS.isolate
        """Whether a batch out of tries is halved."""
        self._clock = clock
        self._backlog = backlog
        self._tasks = tasks
        self._pump = pump
        self._pump_soon = pump_soon

    def try_again(self, batch: Batch, error: BaseException) -> bool:
        """Let a batch, whose attempt is counted, wait for its next try; False: it is to be given up."""
        if isinstance(error, HandlerAnswerError):
            return False  # it would answer so again
        told = told_wait(error, self.longest_wait)
        if told and batch.waits < MOST_WAITS:
            batch.waits += 1
            delay = told + self.policy.jitter()
            logger.warning(
                "Batch of %d item(s) is tried again in %.2f s, as its error asks: %s",
                len(batch.items), delay, one_line(batch.error),
            )  # fmt: skip
            self._wait(batch, delay)
            return True
        next_try = self.policy.delay(batch.tries)
        if next_try is not None:
            delay = max(told, next_try)
            logger.warning(
                "Batch of %d item(s) failed, try %d of %d in %.2f s: %s",
                len(batch.items), batch.tries + 1, self.policy.max_retries + 1, delay,
                one_line(batch.error),
            )  # fmt: skip
            self._wait(batch, delay)
            return True
        if not self.isolate or len(batch.items) == 1:
            return False
        # Each half is tried once, so that one item does not take the others with it.
        for part in (batch, self._backlog.split(batch)):
            part.attempts = self.policy.max_retries + part.waits
            part.error = batch.error
            self._wait(part, 0.0)
        return True

    def _wait(self, batch: Batch, delay: float) -> None:
        batch.state = "retrying"
        task = self._tasks.spawn(self._wait_and_wake(batch, delay), name="batch-retry")
        self._backlog.retrying[batch] = task

        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled() and self._backlog.retrying.get(batch) is task:
                self._backlog.wake(batch)
                self._pump_soon()

        # By a callback: a task that is cancelled before its first step runs nothing of its body.
        task.add_done_callback(ended)

    async def _wait_and_wake(self, batch: Batch, delay: float) -> None:
        await self._clock.sleep(delay)
        self._backlog.wake(batch)
        self._pump()
