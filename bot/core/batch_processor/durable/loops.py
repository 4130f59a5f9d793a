"""The background loops of durable mode: they outlive failures of Redis and cancellations by others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from bot.core._shared.backoff import exponential
from bot.core._shared.clock import Clock
from bot.core._shared.errors import BackendError
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks
from bot.core.batch_processor.dispatcher import REVIVAL
from bot.core.batch_processor.durable.streams import Streams
from bot.core.batch_processor.lifecycle import State
from bot.core.redis_link import RedisRefusedError, RedisUnavailableError

logger = logging.getLogger(__name__)

PAUSE_FIRST, PAUSE_LONGEST = 0.05, 1.0
"""Seconds after a failed call."""


class Loops:
    """The tasks of one store, the event loop that they run under, and how far the store is with its end.

    ON: all run. DRAINING: nothing more is read or claimed, and what is held is refreshed. STOPPING: the
    tasks are being ended. OFF: there are none.
    """

    def __init__(self, streams: Streams, clock: Clock) -> None:
        self._streams = streams
        self._clock = clock
        # Changed by begin, forget, stop and the store.
        self.state = State.OFF
        self.loop: asyncio.AbstractEventLoop | None = None
        self._tasks = BackgroundTasks()
        self._refused: set[str] = set()
        """What Redis refuses now, by the word of the log."""
        self.reader_awake = asyncio.Event()
        """Set: there may be room, or a handler, that was not there before."""
        self.keeper_awake = asyncio.Event()
        """Set: there may be something to be claimed at once."""

    @property
    def refused(self) -> bool:
        """Whether Redis refuses something."""
        return bool(self._refused)

    def refuses(self, what: str) -> bool:
        """Whether Redis refuses this, named as in :meth:`recover`."""
        return what in self._refused

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run under this event loop, which runs now."""
        self.loop = loop
        self.state = State.ON
        self.reader_awake, self.keeper_awake = asyncio.Event(), asyncio.Event()

    def forget(self) -> None:
        """In a child after a fork: the tasks are the parent's."""
        self._tasks = BackgroundTasks()

    async def stop(self) -> None:
        """End every task; how it ends, the loop is no more this store's."""
        self.state = State.STOPPING
        try:
            await self._tasks.stop()
        finally:
            self.loop = None
            self.state = State.OFF

    def wake_reader(self) -> None:
        """Let the reader look for room."""
        _signal(self.reader_awake)

    def wake_keeper(self) -> None:
        """Let the keeper claim now."""
        _signal(self.keeper_awake)

    def spawn(
        self, work: Coroutine[Any, Any, None], name: str, again: Callable[[], None]
    ) -> asyncio.Task[None]:
        """Run ``work`` as a task; ``again()`` is called if somebody else cancels it, begun or not."""
        task: asyncio.Task[None] = self._tasks.spawn(work, name=name)
        loop = task.get_loop()

        def restart() -> None:
            if self.loop is loop:
                again()

        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled() and self.state in (State.ON, State.DRAINING) and not loop.is_closed():
                # Soon, not at once: this may be an event loop on its way out, that cancels all it has.
                loop.call_later(REVIVAL, restart)

        task.add_done_callback(ended)
        return task

    async def repeat(self, what: str, step: Callable[[], Coroutine[Any, Any, None]], *states: State) -> None:
        """``await step()`` again and again in these states; a failure of Redis makes a pause."""
        failures = 0
        while self.state in states:
            try:
                await step()
                failures = 0
            except BackendError as error:
                failures += 1
                await self.recover(what, error, failures)

    async def recover(self, what: str, error: BackendError, failures: int) -> None:
        """Pause after the last of ``failures`` in a row, or make the group that Redis has lost.

        ``what`` completes "Redis refuses to let durable batches ...".
        """
        if isinstance(error, RedisRefusedError) and _no_group(error):
            # Redis has lost the stream, or it is new: then nothing is wrong.
            with contextlib.suppress(BackendError):
                await self._streams.make_group()
                return
        elif not isinstance(error, RedisUnavailableError) and what not in self._refused:
            # That Redis is away is the link's to say.
            self._refused.add(what)
            logger.warning(
                "Redis does not permit durable batches to %s; trying again: %s", what, one_line(error)
            )
        await self._clock.sleep(exponential(failures, PAUSE_FIRST, PAUSE_LONGEST))

    def succeeded(self, what: str) -> None:
        """Redis has let it be done."""
        if what in self._refused:
            self._refused.discard(what)
            logger.warning("Redis permits durable batches to %s again", what)


def _no_group(error: RedisRefusedError) -> bool:
    return "NOGROUP" in str(error) or "no such key" in str(error)


def _signal(event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # its event loop is closed
        event.set()
