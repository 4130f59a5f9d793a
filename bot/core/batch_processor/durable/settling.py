"""Ends entries in Redis: their outcomes, and their dead letters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bot.core._shared.clock import Clock
from bot.core._shared.errors import BackendError
from bot.core._shared.masking import one_line
from bot.core.batch_processor.dispatcher import Dispatcher
from bot.core.batch_processor.durable.held import Held
from bot.core.batch_processor.durable.limits import Limits
from bot.core.batch_processor.durable.loops import Loops
from bot.core.batch_processor.durable.streams import (
    ELSEWHERE,
    LOST,
    PENDING,
    SUPERSEDED,
    Delivery,
    Settlement,
    Streams,
)
from bot.core.batch_processor.durable.values import (
    AT_ONCE,
    BYTES_AT_ONCE,
    OutcomeState,
    lane_name,
    letter_value,
    outcome_value,
    wanted_of,
)
from bot.core.batch_processor.errors import DeadLetteredError, describe
from bot.core.batch_processor.lifecycle import State
from bot.core.batch_processor.models import Batch, BatchItem, DeadLetter

logger = logging.getLogger(__name__)


class Settling:
    """Tells Redis how items ended, before anybody here is told; again and again while it is away."""

    def __init__(
        self, dispatcher: Dispatcher, streams: Streams, loops: Loops, limits: Limits, held: Held, clock: Clock
    ) -> None:
        self._d = dispatcher
        self._streams = streams
        self._loops = loops
        self._limits = limits
        self._held = held
        self._clock = clock
        self.committing = 0
        """Batches that the handler is done with and Redis not yet."""
        self.on_next: Callable[[Sequence[Delivery], float], Awaitable[None]]
        """Given what comes next in lanes, which is this instance's since that time or later."""
        self.reset_counters()

    def reset_counters(self) -> None:
        """Count from now on."""
        self.settled_elsewhere = self.unkept = 0

    async def commit(self, batch: Batch, values: Sequence[Any], dead: bool) -> None:
        """The dispatcher's: what became of a batch is in Redis when this returns."""
        settlements = [
            self.settlement(item, value, dead=dead) for item, value in zip(batch.items, values, strict=True)
        ]
        self.committing += 1
        try:
            flags = await self._settle(settlements)
        finally:
            self.committing -= 1
        for item, flag in zip(batch.items, flags, strict=True):
            self._held.drop(item.entry)
            if flag == SUPERSEDED:
                self._d.outcomes.superseded.add(item)
        if ELSEWHERE in flags:
            await self._yield_to_others(
                [item for item, flag in zip(batch.items, flags, strict=True) if flag == ELSEWHERE]
            )
        if SUPERSEDED in flags:
            self._loops.wake_keeper()  # which lets the newer ones follow
        # The reader looks when the dispatcher has counted them off.
        asyncio.get_running_loop().call_soon(self._loops.wake_reader)

    async def _yield_to_others(self, items: Sequence[BatchItem]) -> None:
        """Another instance ends these: who waits here is told what is in Redis, as everybody is."""
        self.settled_elsewhere += len(items)
        awaited = [item for item in items if item.item_id in self._d.outcomes.waiters]
        if not awaited:
            return
        try:
            found = await self._streams.outcomes([item.item_id for item in awaited])
        except BackendError:
            found = [PENDING] * len(awaited)
        for item, value in zip(awaited, found, strict=True):
            # Redis has lost an item that it does not know: what came of it here is all that there is.
            if value is not None and value != LOST:
                self._d.outcomes.superseded.add(item)

    async def condemn(self, condemned: Sequence[tuple[BatchItem, str]]) -> None:
        """Items that must not be handled, each with the reason, go to the dead letters."""
        settlements = []
        errors = [DeadLetteredError(item.item_id, item.counted - 1, why) for item, why in condemned]
        for (item, why), error in zip(condemned, errors, strict=True):
            logger.error("Item %s given up: %s", one_line(item.item_id), one_line(why))
            settlements.append(self.settlement(item, error, dead=True))
        flags = await self._settle(settlements)
        self._d.outcomes.superseded.update(
            item for (item, _), flag in zip(condemned, flags, strict=True) if flag == SUPERSEDED
        )
        self._d.bury_unhandled([item for item, _ in condemned], errors)
        self.settled_elsewhere += flags.count(ELSEWHERE)

    def settlement(self, item: BatchItem, value: Any, *, dead: bool) -> Settlement:
        """What Redis is told of an item with this result or exception; ``dead``: it was given up."""
        state: OutcomeState = "done"
        error, result, letter = "", value, b""
        if isinstance(value, BaseException):
            state, result = ("dead" if dead else "failed"), None
            reason = value.reason if isinstance(value, DeadLetteredError) else describe(value)
            error = reason.encode("utf-8", "replace").decode()
        attempts = item.attempts if dead else item.attempts + 1
        if dead:
            attempts = value.attempts if isinstance(value, DeadLetteredError) else attempts
            # As it was submitted: what the handler has made of it may not travel.
            submitted = self._held.value_of(item.entry)
            data = item.data if submitted is None else wanted_of(submitted).data
            letter = letter_value(
                DeadLetter(
                    item.item_id, data, item.priority, attempts, error, self._clock.time(), lane=item.lane
                )
            )
        by = self._d.ids.prefix
        outcome, problem = outcome_value(state, result, error, attempts, by, self._limits.max_item_bytes)
        if problem:
            if not self.unkept:
                logger.warning(
                    "A result cannot be kept in Redis, so get_result in other processes raises an error: %s",
                    one_line(problem),
                )
            self.unkept += 1
        return Settlement(item.entry, item.item_id, outcome, letter, lane_name(item.lane))

    async def _settle(self, settlements: Sequence[Settlement]) -> list[int]:
        """Until Redis has it, however long that takes."""
        flags: list[int] = []
        failures = 0
        while len(flags) < len(settlements):
            part: list[Settlement] = []
            size = 0
            for one in settlements[len(flags) : len(flags) + AT_ONCE]:
                if part and size + len(one.outcome) + len(one.letter) > BYTES_AT_ONCE:
                    break
                part.append(one)
                size += len(one.outcome) + len(one.letter)
            outcomes = self._d.outcomes
            since = self._clock.monotonic()
            try:
                ended, next_in_lanes = await self._streams.settle(
                    self._d.ids.prefix,
                    part,
                    int(outcomes.results.ttl * 1000),
                    outcomes.dead_letters.limit,
                    take_next=self._loops.state is State.ON and self._d.handler.function is not None,
                )
                flags += ended
                if next_in_lanes:
                    await self.on_next(next_in_lanes, since)
                failures = 0
                self._loops.succeeded("settle")
            except BackendError as error:
                failures += 1
                await self._loops.recover("settle", error, failures)
        return flags
