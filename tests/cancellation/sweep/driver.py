"""Cancelling a call at any of its suspensions, in each way in which that happens to a bot's handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

TURNS = (1, 2, 3, 5, 8, 13, 21)
"""How many turns of the loop LATER and AGAIN let pass."""

CLEAN_UPS = 4
"""How often TWICE cancels what cleans up."""


class How(StrEnum):
    """When a call that waits is cancelled."""

    SOON = "soon"
    """In the turn of the loop in which it began to wait."""
    GRANTED = "granted"
    """In the turn in which it gets what it waited for, before it has run."""
    LATER = "later"
    """Some turns after it began to wait."""
    TWICE = "twice"
    """As SOON, and again at each wait of its clean-up."""
    AGAIN = "again"
    """As SOON, and once more some turns later, whatever it waits for then."""
    TIMEOUT = "timeout"
    """As SOON, by ``asyncio.timeout``."""


@dataclass(frozen=True)
class Point:
    """One cancellation: at the ``at``-th suspension, the first being 1."""

    how: How
    at: int
    turns: int = 1

    def __str__(self) -> str:
        waits = self.how in (How.LATER, How.AGAIN)
        return f"{self.how} at {self.at}" + (f" + {self.turns} turns" if waits else "")


@dataclass
class Ending:
    """How a call ended that was to be cancelled."""

    suspensions: int
    reached: bool
    """Whether it came to the suspension at which it was to be cancelled."""
    delivered: bool
    """Whether the cancellation reached it; it may have ended before."""
    error: BaseException | None

    def fault(self) -> str | None:
        """What is wrong with it, or None."""
        if self.error is None:
            return "the cancellation was swallowed: the call returned" if self.delivered else None
        if self.delivered and isinstance(self.error, asyncio.CancelledError):
            return None
        return f"the call raised {type(self.error).__name__}: {self.error}"


class _Stepped:
    """Awaits ``work`` and sees each of its suspensions."""

    def __init__(self, work: Coroutine[Any, Any, Any], point: Point | None) -> None:
        self._work = work
        self._point = point
        self.deadline: asyncio.Timeout | None = None
        self.suspensions = 0
        self.reached = self.delivered = False

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        error: BaseException | None = None
        while True:
            try:
                awaited = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as end:
                return end.value
            error = None
            self.suspensions += 1
            self._suspended(task, awaited)
            try:
                yield awaited
            except GeneratorExit:
                self._work.close()
                raise
            except BaseException as thrown:
                error = thrown
                self.delivered |= isinstance(thrown, asyncio.CancelledError)

    def _suspended(self, task: asyncio.Task[Any], awaited: Any) -> None:
        point = self._point
        if point is None or self.suspensions < point.at:
            return
        if self.suspensions > point.at:
            if point.how is How.TWICE and self.delivered and self.suspensions <= point.at + CLEAN_UPS:
                task.get_loop().call_soon(task.cancel)
            return
        self.reached = True
        loop = task.get_loop()
        match point.how:
            case How.SOON | How.TWICE:
                loop.call_soon(task.cancel)
            case How.AGAIN:
                loop.call_soon(task.cancel)
                after(loop, point.turns, task.cancel)
            case How.GRANTED if awaited is None:  # asyncio.sleep(0): nothing is granted, so at once
                task.cancel()
            case How.GRANTED:
                # Before the task's own callback: between the result and its next step.
                awaited.add_done_callback(lambda _: task.cancel())
            case How.LATER:
                after(loop, point.turns, task.cancel)
            case How.TIMEOUT:
                assert self.deadline is not None
                self.deadline.reschedule(0.0)


def after(loop: asyncio.AbstractEventLoop, turns: int, action: Any) -> None:
    """Call ``action`` after so many turns of the loop."""
    loop.call_soon(action if turns <= 0 else lambda: after(loop, turns - 1, action))


async def cancelled_at(work: Coroutine[Any, Any, Any], point: Point | None, limit: float = 20.0) -> Ending:
    """Run ``work`` in a task that is cancelled at ``point``; None: not at all.

    Raises TimeoutError, and cancels it, if it has not ended after ``limit`` seconds.
    """
    stepped = _Stepped(work, point)

    async def run() -> Any:
        if point is None or point.how is not How.TIMEOUT:
            return await stepped
        try:
            async with asyncio.timeout(None) as stepped.deadline:
                return await stepped
        except TimeoutError as error:
            if stepped.deadline.expired():
                raise asyncio.CancelledError from error  # as it should be; told apart from others
            raise

    task = asyncio.get_running_loop().create_task(run(), name="swept")
    _, pending = await asyncio.wait([task], timeout=limit)
    if pending:
        where = task.get_stack()[-1:] and str(task)
        task.cancel()
        await asyncio.wait([task], timeout=5.0)
        raise TimeoutError(f"not ended after {limit:g} s: {where}")
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    return Ending(stepped.suspensions, stepped.reached, stepped.delivered, error)
