"""Every item that was taken in and has not ended: where it is, and the ledger of them (pure)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from bot.core.batch_processor.delayed import Delayed
from bot.core.batch_processor.ids import Ids
from bot.core.batch_processor.lanes import Lanes
from bot.core.batch_processor.models import Batch, BatchItem
from bot.core.batch_processor.queue import PendingQueue

SWEEP_SHARE = 64
"""Items that each call of :meth:`Backlog.sweep_at_times` pays for to be looked at."""


class Backlog:
    """An item waits in its lane, or is in the queue, in one batch, or apart.

    A batch is running, ready, or waits for its next try. Apart are the items that wait for a time, and the
    newer ones of a key that wait for the older's end.

    Changed by its own methods, and by the dispatcher, which moves batches from one place to another.
    """

    def __init__(self, done: Callable[[Any], bool]) -> None:
        """``done`` tells whether an item's future is."""
        self._gone: set[BatchItem] = set()
        """Items that have ended and been counted, and lie in the queue or a lane until they are met there.
        Changed by end_in_place, and by these two.
        """
        self.queue = PendingQueue(done, self._gone)
        self.lanes = Lanes(self._gone)
        """What waits there has not been in the queue. Items from Redis are in none: it keeps their lanes."""
        self.running: set[Batch] = set()
        """Those with a task; the handler may be done with some, that wait to be taken from their task."""
        self.ready: deque[Batch] = deque()
        self.retrying: dict[Batch, Any] = {}
        """Those that wait for their next try, each with the task that waits."""
        self.delayed = Delayed()
        """Items that go to the queue at their time."""
        self.waiting = Delayed()
        """Items that were handled, and whose error asked to wait before the next try."""
        self.newer: dict[str, tuple[BatchItem, float]] = {}
        """By key: the item that takes the place of one in the queue or in a batch, and when it is due."""
        self.in_flight = 0
        """Items in batches that have not ended, and those apart."""
        self.left = 0
        """Items that have left the queue since the start or the last reset."""
        self.formed = 0
        """Batches formed; the number of the last one."""
        self._sweep_credit = 0

    @property
    def queued(self) -> int:
        """Items in the queue and in lanes that have not ended."""
        return len(self.queue) + self.lanes.waiting - len(self._gone)

    @property
    def unfinished(self) -> int:
        """Items taken in that have not ended."""
        return self.in_flight + self.queued

    @property
    def pressing(self) -> int:
        """The same without those that wait for the time that their error asked for."""
        return self.unfinished - len(self.waiting)

    @property
    def submitted(self) -> int:
        """Items taken in since the start or the last reset, those pending at the reset among them."""
        return self.left + self.queued

    def push(self, item: BatchItem) -> bool:
        """Take in an item; False: it waits for one before it in its lane."""
        if item.lane is not None and not item.entry and not self.lanes.enter(item):
            return False
        self.queue.push(item)
        return True

    def take(self, limit: int) -> tuple[list[BatchItem], int]:
        """The next items of the queue, and how many were met whose submitter has withdrawn them.

        The latter end here.
        """
        queue = self.queue
        before = queue.withdrawn
        items = queue.take_batch(limit) if queue.sizes.most else queue.take(limit)
        return self._took(items, queue.withdrawn - before)

    def _took(self, items: list[BatchItem], withdrawn: int) -> tuple[list[BatchItem], int]:
        self.left += len(items) + withdrawn
        self.in_flight += len(items)
        if self.lanes.released:
            self.lanes.taken(items)
        if self.queue.left_out:
            withdrawn += self._release_left_out()
        return items, withdrawn

    def push_next(self, item: BatchItem) -> None:
        """Take in an item from Redis that waited there for one before it in its lane: it is due now."""
        self.queue.push(item)
        self.lanes.add_released(item)

    def discard(self, entries: set[bytes]) -> list[BatchItem]:
        """Remove the items that were read from these entries of a stream, and return them.

        From the queue, and of those that wait for a retry alone.
        """
        gone = self.queue.discard(entries)
        self.lanes.taken(gone)
        for item in [item for item in self.waiting if item.entry in entries]:
            self.waiting.remove(item)
            self.forget(1)
            gone.append(item)
        return gone

    def take_all(self) -> tuple[list[BatchItem], int]:
        """As :meth:`take`, all of them, then those that wait in lanes, in order; the lanes are forgotten."""
        # Not by way of the queue, where a priority would move one before others of its lane.
        waiting = [item for item in self.lanes.clear() if item not in self._gone]
        before = self.queue.withdrawn
        items = self.queue.take_everything()
        items, withdrawn = self._took(items, self.queue.withdrawn - before)
        self.queue.left_out.clear()
        self._gone.clear()
        wanted = [item for item in waiting if item.future is None or not item.future.done()]
        self.left += len(waiting)
        self.in_flight += len(wanted)
        return items + wanted, withdrawn + len(waiting) - len(wanted)

    def sweep(self) -> int:
        """End the withdrawn items of the queue and the lanes; how many there were: O(n)."""
        withdrawn = self.queue.sweep()
        self.left += withdrawn
        if self.lanes:
            gone = self.lanes.sweep()
            self.left += gone
            withdrawn += gone + self._release_left_out()
        return withdrawn

    def end_in_place(self, item: BatchItem) -> int:
        """End a cancelled item in the queue or a lane, where it lies until it is met.

        How many end: it, and others if :meth:`sweep_at_times` finds them.
        """
        self._gone.add(item)
        self.left += 1
        return 1 + self.sweep_at_times()

    def sweep_at_times(self) -> int:
        """:meth:`sweep` if there are few items, else as often as makes a call O(1) on average."""
        self._sweep_credit += SWEEP_SHARE
        if self._sweep_credit < len(self.queue) + self.lanes.waiting:
            return 0
        self._sweep_credit = 0
        return self.sweep()

    def _release_left_out(self) -> int:
        """Let the next items of lanes out whose items in the queue were withdrawn."""
        left_out = self.queue.left_out
        self.lanes.taken(left_out)
        withdrawn = self._release(left_out)
        left_out.clear()
        return withdrawn

    def _release(self, ended: list[BatchItem]) -> int:
        """Let the next items of their lanes out; how many were met that their submitters had withdrawn."""
        lanes = self.lanes
        before = lanes.withdrawn
        self.queue.extend(lanes.next_after(ended))
        withdrawn = lanes.withdrawn - before
        self.left += withdrawn
        return withdrawn

    def batch_of(self, items: list[BatchItem], now: float, ids: Ids) -> Batch:
        """A batch of items from :meth:`take`, in no place yet; those without an id are given one."""
        self.formed += 1
        batch = Batch(self.formed, items, now)
        if self.lanes:
            batch.oldest = min([item.submitted_at for item in items])
        for item, item_id in zip(items, ids.of_items_in(batch.number, len(items)), strict=False):
            if not item.item_id:
                item.item_id = item_id
        return batch

    def put_alone(self, item: BatchItem, now: float) -> None:
        """Take in an item that shares no batch with another: a batch of its own, which is ready."""
        self.left += 1
        self.in_flight += 1
        self.formed += 1
        self.ready.append(Batch(self.formed, [item], now))

    # Items apart.

    def delay(self, item: BatchItem, due: float) -> None:
        """Take in an item that goes to the queue at ``due``."""
        self.left += 1
        self.in_flight += 1
        self.delayed.add(item, due)

    def take_delayed(self, now: float) -> list[BatchItem]:
        """Remove the items whose time has come; each is to be put into the queue."""
        items = self.delayed.take_due(now)
        self.left -= len(items)
        self.in_flight -= len(items)
        return items

    def take_waiting(self, now: float, size: int) -> None:
        """Make batches, which are ready, of the items that are to be tried again."""
        for some in self.queue.sizes.portions(self.waiting.take_due(now), size):
            self.formed += 1
            batch = Batch(self.formed, some, now)
            batch.oldest = min(item.submitted_at for item in some)
            self.ready.append(batch)

    def put_newer(self, item: BatchItem, due: float) -> bool:
        """Keep an item until the pending one of its key has ended; False: it took another's place."""
        fresh = item.item_id not in self.newer
        self.newer[item.item_id] = item, due
        self.left += 1
        self.in_flight += fresh
        return fresh

    def take_newer(self, item_id: str) -> tuple[BatchItem, float] | None:
        """Remove the newer item of a key; it is no longer counted as taken in."""
        found = self.newer.pop(item_id, None)
        if found is not None:
            self.left -= 1
            self.in_flight -= 1
        return found

    def next_time(self) -> float:
        """When an item that waits for its time is due; infinity if there is none."""
        return min(self.delayed.next_due(), self.waiting.next_due())

    def withdraw(self, item: BatchItem) -> int:
        """Take out an item that is apart, or in a batch that does not run; it ends here.

        How many end: it, and those met in its lane that were withdrawn. 0 if a handler has it, or if it is in
        the queue or waits in its lane.
        """
        if self.delayed.remove(item):
            self.in_flight -= 1
            return 1
        if self.waiting.remove(item):
            return 1 + self.ended([item])
        for batch in (*self.ready, *self.retrying):
            if item in batch.items:
                return 1 + self.drop(batch, item)
        return 0

    def drop(self, batch: Batch, item: BatchItem) -> int:
        """Take an item, which ends here, out of a batch that does not run; an empty one is forgotten.

        How many were met in its lane that were withdrawn; they end here.
        """
        batch.items = [other for other in batch.items if other is not item]
        if not batch.items:
            if batch in self.ready:
                self.ready.remove(batch)
            waiting = self.retrying.pop(batch, None)
            if waiting is not None:
                waiting.cancel()
        return self.ended([item])

    def drop_lost(self, batch: Batch) -> set[BatchItem]:
        """Forget the lost items of a batch whose handler has ended, and return them."""
        lost = batch.lost
        batch.lost = set()
        batch.items = [item for item in batch.items if item not in lost]
        if not batch.items:
            batch.state = "failed"
        self.forget(len(lost))
        return lost

    def is_running(self, item: BatchItem) -> bool:
        """Whether the handler has it."""
        return any(item in batch.items for batch in self.running if batch.state == "running")

    def split(self, batch: Batch) -> Batch:
        """Leave the first half of its items to a batch; returns a new one of the others, in no place yet."""
        half = len(batch.items) // 2
        self.formed += 1
        rest = Batch(self.formed, batch.items[half:], batch.formed_at)
        rest.oldest = batch.oldest
        batch.items = batch.items[:half]
        return rest

    def wake(self, batch: Batch) -> None:
        """Its next try may begin."""
        if self.retrying.pop(batch, None) is not None:
            batch.state = "pending"
            self.ready.append(batch)

    def take_from_tasks(self) -> None:
        """Every batch that has not ended is ready to be run again: the tasks of all of them have gone."""
        for batch in list(self.retrying):
            self.wake(batch)
        for batch in list(self.running):
            self.running.discard(batch)
            batch.task = None
            if batch.state == "running":
                batch.state = "pending"
                self.ready.append(batch)

    def ended(self, items: list[BatchItem]) -> int:
        """These items of batches have ended: the next ones of their lanes are let out.

        How many were met whose submitter has withdrawn them; they end here.
        """
        self.in_flight -= len(items)
        return self._release(items) if self.lanes else 0

    def forget(self, count: int) -> None:
        """So many items of batches that were taken out will be handled elsewhere: they never came."""
        self.left -= count
        self.in_flight -= count

    def reset(self) -> None:
        """Count from now on; what is pending counts as taken in now."""
        self.left = self.in_flight

    # What can be asked.

    def unended(self) -> list[Batch]:
        """The batches that have not ended."""
        batches = (*self.running, *self.ready, *self.retrying)
        return [batch for batch in batches if batch.state in ("pending", "running", "retrying")]

    def find(self, number: int) -> Batch | None:
        """The batch of this number that is in one of the places."""
        for batch in (*self.running, *self.ready, *self.retrying):
            if batch.number == number:
                return batch
        return None

    def oldest(self) -> float:
        """When the oldest item that has not ended was submitted; infinity if all have.

        Those that wait for their time, and were not handled before, do not count.
        """
        if not self.unfinished:
            return math.inf
        first = min((batch.oldest for batch in self.unended()), default=math.inf)
        first = min(first, self.queue.oldest(), self.lanes.oldest())
        for item in self.waiting:
            first = min(first, item.submitted_at)
        for item, _ in self.newer.values():
            first = min(first, item.submitted_at)
        return first

    def pending_batches(self, size: int) -> int:
        """Batches formed and not ended, and those of ``size`` items that the queue would make."""
        return len(self.unended()) - (-min(len(self.queue), self.queued) // size)

    def check_invariants(self, ended: int) -> None:
        """Raise AssertionError if the parts disagree; ``ended``: items that ended, as others count them.

        For tests: O(n).
        """
        self.queue.check_invariants()
        live = [batch for batch in self.running if batch.state == "running"]
        batches = [*live, *self.ready, *self.retrying]
        assert len(batches) == len(set(batches)), "a batch is in one place"
        held = [item for batch in batches for item in batch.items]
        queued = self.queue.items()
        self.lanes.check_invariants([*held, *queued, *self.waiting], queued)
        assert not self.queue.left_out, "the lanes were told of all that left"
        lying = len(self.queue) + self.lanes.waiting
        assert len(self._gone) <= lying, "what has left is forgotten"
        assert all(item.future is not None and item.future.cancelled() for item in self._gone)
        assert len(held) == len(set(map(id, held))), "an item is in one batch"
        self.delayed.check_invariants()
        self.waiting.check_invariants()
        apart = [*self.delayed, *self.waiting, *(item for item, _ in self.newer.values())]
        assert len({*map(id, held), *map(id, apart)}) == len(held) + len(apart), "and in no other place"
        assert self.in_flight == len(held) + len(apart), "what is in no place has ended"
        assert all(key == item.item_id for key, (item, _) in self.newer.items())
        assert self.left == ended + self.in_flight, "the ledger balances"
