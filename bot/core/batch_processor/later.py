"""Items that wait for a time, and those that take the place of others or are taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from bot.core._shared.clock import Clock
from bot.core.batch_processor.alarm import Alarm
from bot.core.batch_processor.backlog import Backlog
from bot.core.batch_processor.models import Batch, BatchItem, Plan
from bot.core.batch_processor.outcomes import Outcomes
from bot.core.batch_processor.periodic import Schedule
from bot.core.batch_processor.told_waits import MOST_WAITS, told_wait


class Later:
    """Moves items of the backlog when their time has come, and decides what a newer one of a key replaces.

    Nothing here awaits: each method leaves the backlog and the outcomes in agreement.
    """

    def __init__(
        self,
        clock: Clock,
        backlog: Backlog,
        outcomes: Outcomes,
        admit: Callable[[BatchItem], None],
        pump: Callable[[], None],
        on_withdrawn: Callable[[int], None],
        has_room: Callable[[], bool],
    ) -> None:
        """``admit(item)`` puts one into the queue, ``pump()`` starts what is due.

        ``on_withdrawn`` is told how many items were taken back; ``has_room()``: whether one may be taken in.
        """
        self._now = clock.monotonic
        self._backlog = backlog
        self._outcomes = outcomes
        self._admit = admit
        self._pump = pump
        self._on_withdrawn = on_withdrawn
        self._has_room = has_room
        self.schedule = Schedule()
        self._alarm = Alarm(clock, self._wake)
        self.size = 1
        """Items, at most, of a batch of those that are tried again."""
        self._loop: asyncio.AbstractEventLoop | None = None

    # The timer.

    def follow(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Wake under this event loop from now on; under none, if it is None."""
        self._loop = loop
        self._arm()

    def _arm(self) -> None:
        self._alarm.set(min(self._backlog.next_time(), self.schedule.next_due()), self._loop)

    def _wake(self) -> None:
        now = self._now()
        for item in self._backlog.take_delayed(now):
            item.submitted_at = now  # it takes its place in the queue as if it came now
            self._admit(item)
        self._backlog.take_waiting(now, self.size)
        for plan in self.schedule.take_due(now):
            self._submit(plan, now)
        self._arm()
        self._pump()

    # Periodic items.

    def put_plan(self, plan: Plan) -> float:
        """Add a plan, or replace that of its name; when it is due."""
        due = self.schedule.put(plan, self._now())
        self._arm()
        return due

    def remove_plan(self, name: str) -> bool:
        """Forget a plan; False if there is none. An item of it that is pending stays."""
        found = self.schedule.remove(name)
        self._arm()
        return found

    def forget_plans(self) -> None:
        """Forget all."""
        self.schedule.clear()
        self._arm()

    def _submit(self, plan: Plan, now: float) -> None:
        item_id = plan.item_id
        if item_id in self._outcomes.tracked or not self._has_room():
            self.schedule.skipped += 1
            return
        self._outcomes.results.drop(item_id)
        item = BatchItem(plan.data, None, now, item_id, plan.priority, tracked=True, lane=plan.lane)
        self._admit(item)

    # Delays.

    def take_in(self, item: BatchItem, due: float) -> None:
        """Take in an item for which there is room: into the queue, or kept until ``due``."""
        if due <= self._now():
            self._admit(item)
            return
        if item.tracked:
            self._outcomes.tracked[item.item_id] = item
        self._backlog.delay(item, due)
        future = item.future
        if future is not None:
            future.add_done_callback(lambda _: self._left(item))
        self._arm()

    def _left(self, item: BatchItem) -> None:
        """The submitter of a delayed item waits no more."""
        if item.future is not None and item.future.cancelled() and item in self._backlog.delayed:
            self._on_withdrawn(self._backlog.withdraw(item))
            self._arm()

    def keep_waiting(self, batch: Batch, values: Sequence[Any], most: float, jitter: float) -> list[Any]:
        """Take the items out of a batch whose error asks to wait; the values of the others."""
        kept: list[BatchItem] = []
        kept_values: list[Any] = []
        now = self._now()
        for item, value in zip(batch.items, values, strict=True):
            seconds = 0.0
            if isinstance(value, BaseException) and item.waits < MOST_WAITS and item not in batch.lost:
                seconds = told_wait(value, most)
            if seconds:
                item.waits += 1
                item.attempts += 1
                self._backlog.waiting.add(item, now + seconds + jitter)
                self._outcomes.counters.retries += 1
            else:
                kept.append(item)
                kept_values.append(value)
        batch.items = kept
        self._arm()
        return kept_values

    # Newer items of a key.

    def replace(self, held: BatchItem, newer: BatchItem, due: float) -> None:
        """Take in an item in the place of the pending one of its key."""
        counters = self._outcomes.counters
        if self._backlog.delayed.remove(held):
            self._backlog.in_flight -= 1
            counters.replaced += 1
            self.take_in(newer, due)
            self._arm()
        elif not self._backlog.put_newer(newer, due):
            counters.replaced += 1

    def pick_up(self, batch: Batch) -> None:
        """Before a batch runs: its items become the newer ones of their keys."""
        backlog = self._backlog
        now = self._now()
        for item in list(batch.items):
            if not item.tracked or item.item_id not in backlog.newer:
                continue
            newer, due = backlog.newer.pop(item.item_id)
            self._outcomes.counters.replaced += 1
            if due <= now:
                backlog.in_flight -= 1
                item.data = newer.data
                continue
            withdrawn = backlog.drop(batch, item)
            self._outcomes.tracked[newer.item_id] = newer
            backlog.delayed.add(newer, due)
            if withdrawn:
                self._on_withdrawn(withdrawn)
        self._arm()

    def supersede(self, batch: Batch) -> list[tuple[BatchItem, float]]:
        """At a batch's end: the newer items of its keys, whose outcomes count; each is to be taken in."""
        found: list[tuple[BatchItem, float]] = []
        for item in batch.items:
            newer = self._backlog.take_newer(item.item_id) if item.tracked else None
            if newer is not None:
                self._outcomes.superseded.add(item)
                found.append(newer)
        return found

    def cancel(self, item_id: str) -> bool:
        """Take back what is pending under an id; False if there is nothing, or a handler has it."""
        backlog, outcomes = self._backlog, self._outcomes
        count = 0
        found = backlog.take_newer(item_id) is not None
        if found:
            backlog.left += 1
            count = 1
        item = outcomes.tracked.get(item_id)
        if item is not None and not backlog.is_running(item):
            gone = backlog.withdraw(item)
            count += gone
            if not gone:
                # It is in the queue, which leaves out what its submitter has withdrawn.
                withdrawn: asyncio.Future[Any] = asyncio.Future(loop=self._loop)
                item.future = withdrawn
                withdrawn.cancel()
                count += backlog.end_in_place(item)
            outcomes.end_cancelled(item_id)
            found = True
        if count:
            self._on_withdrawn(count)
            self._arm()
        return found

    def take_all(self) -> list[BatchItem]:
        """Remove every item that waits for a time, or behind an older one of its key."""
        newer = [item for item, _ in self._backlog.newer.values()]
        self._backlog.newer.clear()
        held = [*self._backlog.delayed.clear(), *self._backlog.waiting.clear(), *newer]
        self._arm()
        return held

    # For the durable mode.

    def drop_replaced(self, batch: Batch, item: BatchItem) -> None:
        """End an item of a batch that is about to run, for a newer one of its key waits for its time."""
        self._backlog.drop(batch, item)
        self._outcomes.counters.replaced += 1

    def take_out(self, item: BatchItem) -> bool:
        """Let go of an item as if it had never come; False if a handler has it, or it is not here."""
        backlog = self._backlog
        if backlog.is_running(item):
            return False
        if backlog.discard({item.entry}):
            return True
        if not backlog.withdraw(item):
            return False
        backlog.left -= 1
        return True

    def count_never_held(self, count: int) -> None:
        """So many items were taken back in Redis that no instance had read."""
        if count:
            self._backlog.left += count
            self._on_withdrawn(count)

    def count_cancelled(self, item: BatchItem) -> None:
        """One of :meth:`take_out` was taken back."""
        self._backlog.left += 1
        self._outcomes.end_cancelled(item.item_id)
        self._on_withdrawn(1)
