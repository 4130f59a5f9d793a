"""Results of items that any instance may have handled, as Redis has them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bot.core._shared.clock import Clock
from bot.core._shared.errors import BackendError
from bot.core._shared.futures import give_error, give_result, retrieved
from bot.core.batch_processor.durable.loops import Loops
from bot.core.batch_processor.durable.streams import CANCELLED, LOST, PENDING, Streams
from bot.core.batch_processor.durable.values import AT_ONCE, StoredOutcome, outcome_of
from bot.core.batch_processor.errors import (
    BatchClosedError,
    DeadLetteredError,
    ItemFailedError,
    LostItemError,
    ResultNotKeptError,
    UnknownItemError,
    cancelled,
    describe,
)
from bot.core.batch_processor.lifecycle import State
from bot.core.batch_processor.models import ItemStatus
from bot.core.redis_link import RedisUnavailableError

POLL_FIRST, POLL_LONGEST = 0.02, 0.25
"""Seconds between looks for results that another instance may have written."""


class Results:
    """Asks Redis for results while anybody here waits for one.

    The waiters are those of the dispatcher's outcomes, which answers those whose items it handles.
    """

    def __init__(
        self,
        waiters: dict[str, asyncio.Future[Any]],
        streams: Streams,
        loops: Loops,
        clock: Clock,
        is_here: Callable[[str], bool],
    ) -> None:
        """``is_here(item_id)``: whether Redis need not be asked, because this instance has the item."""
        self._waiters = waiters
        self._streams = streams
        self._loops = loops
        self._clock = clock
        self._is_here = is_here
        self._polling: asyncio.Task[None] | None = None
        self._poll_delay = POLL_FIRST

    def begin(self) -> None:
        """The event loop is another one, or this is a child after a fork: no task looks for results."""
        self._polling = None

    def close(self) -> None:
        """All callers that wait get BatchClosedError."""
        for waiter in list(self._waiters.values()):
            give_error(
                waiter, BatchClosedError("the batch processor was switched off; its items are in Redis")
            )
        self._waiters.clear()

    def waiter_of_new(self, item_id: str) -> asyncio.Future[Any]:
        """A future of the result of an item that is being submitted."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiters[item_id] = future

        def forget(done: asyncio.Future[Any]) -> None:
            if self._waiters.get(item_id) is done:
                del self._waiters[item_id]

        future.add_done_callback(forget)
        return future

    async def wait_for(self, item_id: str) -> Any:
        """Wait for an item's end; its result, or raises its error or UnknownItemError."""
        loop = asyncio.get_running_loop()
        waiter = self._waiters.get(item_id)
        if waiter is None:
            try:
                value: bytes | None = (await self._streams.outcomes([item_id]))[0]
            except RedisUnavailableError:
                value = PENDING  # it is asked again
            if value != PENDING:
                return unwrap(item_id, _stored(value, item_id))
            waiter = self._waiters.get(item_id)
        if waiter is None:
            waiter = self._waiters[item_id] = loop.create_future()
            waiter.add_done_callback(retrieved)
        self.poll_soon()
        # Shielded: others may wait for it too.
        return await asyncio.shield(waiter)

    async def status(self, item_id: str) -> ItemStatus | None:
        """How far an item is; None if it is not known (any more)."""
        value = (await self._streams.outcomes([item_id]))[0]
        if value is None or value == LOST:
            return None
        if value == PENDING:
            return ItemStatus(item_id, "pending")
        if value == CANCELLED:
            return ItemStatus(item_id, "cancelled", error=describe(cancelled(item_id)))
        state, result, error, _ = _stored(value, item_id)
        if state == "dead":
            return ItemStatus(item_id, "dead_lettered", error=error)
        return ItemStatus(item_id, "failed" if state == "failed" else "done", result, error)

    def poll_if_awaited(self) -> None:
        """Items were added: look for their results, if anybody waits for one."""
        if self._waiters:
            self.poll_soon()

    def poll_soon(self) -> None:
        """Look for results soon, and again and again while anybody waits for one."""
        self._poll_delay = POLL_FIRST
        if self._loops.state in (State.ON, State.DRAINING) and (
            self._polling is None or self._polling.done()
        ):
            self._polling = self._loops.spawn(self._poll(), "batch-results", self.poll_soon)

    async def _poll(self) -> None:
        waiters = self._waiters
        while waiters:
            await self._clock.sleep(self._poll_delay)
            self._poll_delay = min(POLL_LONGEST, self._poll_delay * 2)
            asked = [item_id for item_id in waiters if not self._is_here(item_id)]
            if not asked:
                continue
            asked = asked[:AT_ONCE]
            try:
                values = await self._streams.outcomes(asked)
            except BackendError:
                continue
            for item_id, value in zip(asked, values, strict=True):
                waiter = waiters.pop(item_id, None)
                if waiter is None:
                    continue
                if value == PENDING:
                    waiters[item_id] = waiter  # behind those that were not asked about
                    continue
                self._poll_delay = POLL_FIRST
                try:
                    give_result(waiter, unwrap(item_id, _stored(value, item_id)))
                except Exception as error:  # whatever it is, the waiting callers get it
                    give_error(waiter, error)


def unwrap(item_id: str, outcome: StoredOutcome) -> Any:
    """The result, or raises what the outcome tells of."""
    if outcome.state == "done":
        return outcome.result
    if outcome.state == "unkept":
        raise ResultNotKeptError(f"item {item_id} is done, but {outcome.error}")
    if outcome.state == "failed":
        raise ItemFailedError(outcome.error)
    raise DeadLetteredError(item_id, outcome.attempts, outcome.error)


def _stored(value: bytes | None, item_id: str) -> StoredOutcome:
    if value is None:
        raise UnknownItemError(f"item_id = {item_id!r}: no such item is pending, and no result of it is kept")
    if value == CANCELLED:
        raise cancelled(item_id)
    if value == LOST:
        raise LostItemError(
            f"item {item_id} was accepted, but its entry is gone from Redis: it was not handled"
        )
    return outcome_of(value)
