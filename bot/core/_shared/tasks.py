"""Owning asyncio tasks, and doing things on the event loop that owns them.

A bot may enable a service under one event loop and shut it down under another
(``asyncio.run(shutdown_phase4_services())`` at exit). What was made under a loop must be undone
there while that loop still runs; once it is closed its tasks are gone and only references remain.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from bot.core._shared.loop_owner import seen, still_runs
from bot.core._shared.masking import masked_traceback, one_line

logger = logging.getLogger(__name__)

T = TypeVar("T")


class BackgroundTasks:
    """The tasks that one service owns.

    Safe under cancellation: a ``stop`` that is itself cancelled has still asked every task to end.
    """

    def __init__(self) -> None:
        # Changed only by spawn, stop and the tasks' own done callback.
        self._tasks: dict[asyncio.Task[Any], asyncio.AbstractEventLoop] = {}

    def __len__(self) -> int:
        return sum(1 for task, loop in self._tasks.items() if not loop.is_closed() and not task.done())

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(list(self._tasks))

    def running(self) -> list[asyncio.Task[Any]]:
        """The tasks of the event loop that runs."""
        current = asyncio.get_running_loop()
        return [task for task, loop in self._tasks.items() if loop is current]

    def spawn(self, coro: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run ``coro`` until it ends or :meth:`stop` is called; an exception it raises is logged."""
        loop = asyncio.get_running_loop()
        seen(loop)
        task = loop.create_task(coro, name=name)
        self._tasks[task] = loop
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error(
                "Background task %s ended with an error\n%s",
                one_line(task.get_name()),
                masked_traceback(error),
            )

    async def stop(self) -> None:
        """Cancel every task and wait until each has ended, on whichever loop it lives."""
        current = asyncio.get_running_loop()
        mine: list[asyncio.Task[Any]] = []
        elsewhere: list[Awaitable[Any]] = []
        for task, loop in list(self._tasks.items()):
            if task is asyncio.current_task():
                continue
            if loop is current:
                task.cancel()
                mine.append(task)
            elif still_runs(loop):
                elsewhere.append(
                    asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_cancel_and_wait(task), loop))
                )
        self.abandon()
        if mine:
            await asyncio.wait(mine)
        for waiting in elsewhere:
            await waiting

    def abandon(self) -> None:
        """Let go of the tasks whose loop does not run: should it run again, they end then."""
        for task, loop in list(self._tasks.items()):
            if not still_runs(loop):
                if not loop.is_closed() and not loop.is_running():
                    task.cancel()
                self._tasks.pop(task, None)


async def _cancel_and_wait(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work`` to its end, also if the caller is cancelled meanwhile; the cancellation comes after it.

    For giving back what would otherwise stay for good. The work must end by itself.
    """
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            # The caller's own, also if it came in the turn in which the work ended.
            if not task.cancelled():
                cancelled = error
        except Exception:
            break  # the work's own: raised below
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen
        raise cancelled
    return task.result()


async def all_to_the_end(*steps: Callable[[], Awaitable[Any]]) -> None:
    """Take each of ``steps`` in turn, though one before it failed or the caller is cancelled meanwhile.

    For a stop of several parts. Raises the cancellation, or else the first error; later ones are logged. Each
    step must end by itself.
    """

    async def take() -> None:
        first: Exception | None = None
        for step in steps:
            try:
                await step()
            except Exception as error:
                if first is not None:
                    logger.error("A further step of a stop failed\n%s", masked_traceback(error))
                first = first or error
        if first is not None:
            raise first

    await to_the_end(take())


async def run_on_loop(
    loop: asyncio.AbstractEventLoop, action: Callable[[], Coroutine[Any, Any, Any]]
) -> bool:
    """Await ``action()`` on ``loop``; False, without running it, if that loop runs no more."""
    if loop is asyncio.get_running_loop():
        await action()
        return True
    if not still_runs(loop):
        return False
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(action(), loop))
    return True


class LoopLocalLock:
    """An ``asyncio.Lock`` for each event loop: one lock object serves any number of loops in turn.

    It orders the tasks of one loop. It does not order threads: a service is used by one at a time.
    """

    def __init__(self) -> None:
        self._locks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            weakref.WeakKeyDictionary()
        )

    def _lock(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        lock = self._locks.get(loop)
        if lock is None:
            lock = self._locks[loop] = asyncio.Lock()
        return lock

    async def __aenter__(self) -> None:
        await self._lock().acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock().release()
