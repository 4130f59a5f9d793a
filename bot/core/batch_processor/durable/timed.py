"""Items that wait for a time, newer ones of a key, and plans, as durable mode has them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Sequence
from typing import Any

from bot.core._shared.clock import Clock
from bot.core._shared.errors import BackendError, CorruptPayloadError
from bot.core.batch_processor.dispatcher import Dispatcher
from bot.core.batch_processor.durable.held import Held
from bot.core.batch_processor.durable.loops import Loops
from bot.core.batch_processor.durable.settling import Settling
from bot.core.batch_processor.durable.streams import Streams
from bot.core.batch_processor.durable.timed_streams import (
    HELD,
    HELD_BUT_NEWER_TAKEN_BACK,
    Looked,
    TimedStreams,
)
from bot.core.batch_processor.durable.values import lane_name, lane_of, wanted_of
from bot.core.batch_processor.models import PERIODIC_PREFIX, Batch, BatchItem, PeriodicItem, Plan
from bot.core.batch_processor.periodic import MOST_PERIODIC, too_many

LONGEST_ANSWER, POLL = 3.0, 0.05
"""Seconds to wait for another instance's answer, and between looks for it."""


class Timed:
    """Moves what is due into the stream, whichever instance submitted it, and takes items back."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        streams: Streams,
        loops: Loops,
        held: Held,
        settling: Settling,
        clock: Clock,
    ) -> None:
        self._d = dispatcher
        self._loops = loops
        self._held = held
        self._lengths = streams
        self._settling = settling
        self._clock = clock
        self.streams = TimedStreams(streams)
        self.looked = Looked([], [], -1, 0, 0)
        """What the last look has found."""
        self.reset_counters()

    def reset_counters(self) -> None:
        """Count from now on."""
        self.left_out = 0

    async def move_due(self) -> float:
        """Move what is due; the seconds until more is, infinity if nothing waits."""
        while True:
            self.looked = looked = await self.streams.look()
            if looked.items:
                await self.streams.move(looked.items)
            if looked.plans:
                await self._tick(looked)
            if not looked.items and not looked.plans:
                self._lengths.length += looked.delayed  # the keeper has just told what is in the stream
                return looked.left_ms / 1000 if looked.left_ms >= 0 else math.inf

    async def _tick(self, looked: Looked) -> None:
        plans = [(PERIODIC_PREFIX + plan.name.decode("utf-8", "replace"), plan) for plan in looked.plans]
        _, left_out = await self.streams.tick(plans, self._d.capacity.max_pending)
        self.left_out += left_out

    # Newer items of a key.

    def begin(self, batch: Batch) -> Awaitable[None] | None:
        """The dispatcher's, before a batch runs: what is to be awaited, if anything in it can be replaced."""
        if not self._held.replaceable:
            return None
        items = [item for item in batch.items if item.entry in self._held.replaceable]
        return self._pick_up(batch, items) if items else None

    async def _pick_up(self, batch: Batch, items: Sequence[BatchItem]) -> None:
        wanted = [(item.item_id, item.entry, lane_name(item.lane)) for item in items]
        failures = 0
        self._settling.committing += 1  # nothing but Redis is missing
        try:
            while True:
                try:
                    answers = await self.streams.pick_up(wanted)
                    self._loops.succeeded("replace items")
                    break
                except BackendError as error:
                    failures += 1
                    await self._loops.recover("replace items", error, failures)
        finally:
            self._settling.committing -= 1
        if batch.task is not asyncio.current_task():
            return
        for item, (code, value) in zip(items, answers, strict=True):
            if code == b"V":
                try:
                    item.data = wanted_of(value).data
                except CorruptPayloadError:
                    continue  # not this version's: what was submitted first is handled
                self._held.set_value(item.entry, value)
            elif code == b"R":
                self._held.drop(item.entry)
                self._d.later.drop_replaced(batch, item)
                self._loops.wake_keeper()

    # Taking back.

    async def cancel(self, item_id: str) -> bool:
        """As ``BatchProcessor.cancel_item``."""
        ttl = int(self._d.outcomes.results.ttl * 1000)
        me = self._d.ids.prefix
        code, entry, owner = await self.streams.cancel(item_id, ttl, me)
        newer_taken_back = code == HELD_BUT_NEWER_TAKEN_BACK
        if code != HELD:
            self._d.later.count_never_held(1 if newer_taken_back else code)
        if code not in (HELD, HELD_BUT_NEWER_TAKEN_BACK):
            return code > 0
        if owner.decode("utf-8", "replace") == me:
            return await self._take_back_here(entry) or newer_taken_back
        return await self._ask_for(item_id, entry) or newer_taken_back

    async def _take_back_here(self, entry: bytes, asked: bytes = b"") -> bool:
        """Take back an item that this instance holds; False if a handler has it, or it is not asked for."""
        item = self._held.item_of(entry)
        if item is None or not self._d.later.take_out(item):
            return False
        # No handler has it, and none will be given it while Redis is asked.
        ttl = int(self._d.outcomes.results.ttl * 1000)
        try:
            code, _, _ = await self.streams.cancel(
                item.item_id, ttl, self._d.ids.prefix, mine=True, asked=asked
            )
        except BaseException:
            self._put_back(item)  # perhaps it was taken back: then its end is not told again
            raise
        if code == 0:
            self._put_back(item)
            return False
        self._held.drop(entry)
        self._d.later.count_cancelled(item)
        return True

    def _put_back(self, item: BatchItem) -> None:
        item.submitted_at = self._d.now()  # it comes behind those that came meanwhile
        self._d.admit(item)

    async def give_up(self, entry: bytes) -> None:
        """Take back an item that this instance holds, for another one that asks, unless a handler has it."""
        if not await self._take_back_here(entry, asked=entry):
            await self.streams.ask_no_more(entry)

    async def _ask_for(self, item_id: str, entry: bytes) -> bool:
        """Ask the instance that holds an item to take it back; False if a handler has it, or none answers."""
        await self.streams.ask(entry)
        ends = self._clock.monotonic() + LONGEST_ANSWER
        try:
            while await self.streams.is_asked(entry) and self._clock.monotonic() < ends:
                await self._clock.sleep(POLL)
        finally:
            await self.streams.ask_no_more(entry)
        return await self.streams.was_taken_back(item_id)

    # Plans.

    async def put_plan(self, plan: Plan, value: bytes) -> PeriodicItem:
        """Add or change a plan; ``value`` is that of its items' entries."""
        every_ms, jitter_ms = math.ceil(plan.every * 1000), int(plan.jitter * 1000)
        lane = lane_name(plan.lane)
        due = await self.streams.put_plan(plan.name, every_ms, jitter_ms, value, lane, MOST_PERIODIC)
        if due < 0:
            raise too_many(plan.name)
        self._loops.wake_keeper()
        return PeriodicItem(*plan, next_at=due / 1000)

    async def list_plans(self) -> list[PeriodicItem]:
        """All of them, by name; what cannot be read is left out."""
        found: list[PeriodicItem] = []
        for plan in await self.streams.list_plans():
            try:
                wanted: Any = wanted_of(plan.value)
                lane = lane_of(plan.lane)
            except CorruptPayloadError:
                continue
            found.append(
                PeriodicItem(
                    plan.name, wanted.data, plan.every_ms / 1000, wanted.priority, lane,
                    plan.jitter_ms / 1000, plan.due_ms / 1000,
                )
            )  # fmt: skip
        return found
