"""What became of items and batches: told to waiting callers, counted, and kept for those that ask later."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from asyncio import Future
from collections import deque
from collections.abc import Sequence
from typing import Any

from bot.core._shared.clock import Clock
from bot.core._shared.futures import give_error, give_result
from bot.core.batch_processor.dead_letters import DeadLetters
from bot.core.batch_processor.errors import (
    DeadLetteredError,
    ItemCancelledError,
    cancelled,
    describe,
    presentable,
)
from bot.core.batch_processor.models import (
    Batch,
    BatchItem,
    BatchStatus,
    DeadLetter,
    ItemStatus,
    ReplayReport,
)
from bot.core.batch_processor.results import Kept, Outcome
from bot.core.batch_processor.stats import Counters
from bot.core.phase4_config.batch_processor import DEFAULTS, BatchProcessorSettings

logger = logging.getLogger(__name__)

FINISHED_BATCHES = 1_000
"""Batches whose status is kept after their end."""


class Outcomes:
    """Ends each item once, in exactly one way: done, failed, or among the dead letters.

    An item has a future of its submitter's, or is tracked by its id, or neither. What was read from Redis
    has neither: its outcome and its dead letter lie there.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._now = clock.monotonic
        self.counters = Counters(self._now())
        self.tracked: dict[str, BatchItem] = {}
        """Items pending whose results are to be kept, by id."""
        self.results: Kept[Outcome] = Kept(DEFAULTS.max_results, DEFAULTS.result_ttl)
        self.dead_letters = DeadLetters(DEFAULTS.max_dead_letters)
        self.superseded: set[BatchItem] = set()
        """Items whose outcome here nobody is told: that of a newer one, or of another instance, counts."""
        self.waiters: dict[str, asyncio.Future[Any]] = {}
        """Of callers that wait for the result of an item, by its id."""
        self._finished: Kept[BatchStatus] = Kept(FINISHED_BATCHES, math.inf)

    def configure(self, settings: BatchProcessorSettings) -> None:
        """How much is kept from now on, and for how long."""
        self.results.limit, self.results.ttl = settings.max_results, settings.result_ttl
        self.dead_letters.limit = settings.max_dead_letters

    def reset_counters(self) -> None:
        """Count from now on."""
        self.counters = Counters(self._now())

    # The end of items.

    def settle(self, batch: Batch, batch_id: str, values: Sequence[Any], *, dead: bool = False) -> None:
        """End a batch: a value for each item, or an exception; ``dead``: it was given up."""
        items = batch.items
        futures: list[Any] = [item.future for item in items]
        if None in futures or any(issubclass(kind, BaseException) for kind in set(map(type, values))):
            failed = self._settle_each(items, values, dead)
        else:
            failed = 0
            # The loop over the futures is map's own, which goes on with the next one after an error.
            results = map(Future.set_result, futures, values)
            while True:
                try:
                    deque(results, 0)
                    break
                except (asyncio.InvalidStateError, RuntimeError):
                    pass  # cancelled meanwhile; or its event loop is closed, and nobody waits there any more
        now = self._now()
        count = len(items)
        counters = self.counters
        counters.done += count - failed
        counters.batches += 1
        counters.batched_items += count
        if dead:
            counters.dead += failed
            counters.failed_batches += 1
        else:
            counters.failed += failed
            counters.throughput.add(count - failed, now)
        batch.state = "failed" if dead else "completed"
        status = BatchStatus(
            batch_id, batch.state, count, count - failed, failed, batch.attempts, batch.error
        )
        self._finished.put(batch_id, status, now)

    def _settle_each(self, items: list[BatchItem], values: Sequence[Any], dead: bool) -> int:
        """Where not every item has a future, or some failed; how many did."""
        failed = 0
        for item, value in zip(items, values, strict=True):
            if isinstance(value, BaseException):
                failed += 1
                self._fail(item, value, dead)
            elif item.future is None:
                self._keep(item, Outcome(value, None))
            else:
                with contextlib.suppress(asyncio.InvalidStateError, RuntimeError):  # as in settle
                    item.future.set_result(value)
        return failed

    def bury(self, items: Sequence[BatchItem], errors: Sequence[BaseException]) -> None:
        """End items as dead letters without a handler; an error for each, which waiting callers get."""
        for item, error in zip(items, errors, strict=True):
            self._fail(item, error, dead=True)
        self.counters.dead += len(items)

    def count_withdrawn(self, count: int) -> None:
        """So many items ended because their submitters had withdrawn them."""
        self.counters.failed += count
        self.counters.cancelled += count

    def _fail(self, item: BatchItem, error: BaseException, dead: bool) -> None:
        if dead and not item.entry:  # one that was read from Redis has its dead letter there
            self._add_dead_letter(item, error)
        if item.future is None:
            self._keep(item, Outcome(None, error, dead))
        else:
            give_error(item.future, presentable(error))

    def _add_dead_letter(self, item: BatchItem, error: BaseException) -> None:
        reason = error.reason if isinstance(error, DeadLetteredError) else describe(error)
        letter = DeadLetter(
            item.item_id, item.data, item.priority, item.attempts, reason, self._clock.time(), lane=item.lane
        )
        if self.dead_letters.add(letter) is not None and self.dead_letters.dropped == 1:
            logger.error("More than %d dead letters: the oldest are dropped", self.dead_letters.limit)

    def end_cancelled(self, item_id: str) -> None:
        """Tell that an item was taken back; it is counted apart."""
        self._keep(BatchItem(None, item_id=item_id), Outcome(None, cancelled(item_id)))

    def _keep(self, item: BatchItem, outcome: Outcome) -> None:
        if self.superseded and item in self.superseded:
            self.superseded.discard(item)
            return
        item_id = item.item_id
        if self.tracked.pop(item_id, None) is not None:
            self.results.put(item_id, outcome, self._now())
        waiter = self.waiters.pop(item_id, None)
        if waiter is not None:
            if outcome.error is None:
                give_result(waiter, outcome.result)
            else:
                give_error(waiter, presentable(outcome.error))

    # Dead letters.

    def take_letters(
        self, item_ids: Sequence[str] | None, limit: int
    ) -> tuple[list[DeadLetter], ReplayReport]:
        """Remove dead letters to be tried again, all or those of ``item_ids``, the oldest first.

        At most ``limit``; one stays whose id another item has that is pending.
        """
        wanted = None if item_ids is None else set(item_ids)
        letters = self.dead_letters.all()
        there = [letter.item_id for letter in letters if wanted is None or letter.item_id in wanted]
        free = [item_id for item_id in there if item_id not in self.tracked]
        taken = self.dead_letters.take(free, limit)
        report = ReplayReport(
            replayed=len(taken),
            missing=0 if wanted is None else len(wanted) - len(there),
            pending=len(there) - len(free),
            no_room=len(free) - len(taken),
        )
        return taken, report

    def revive(self, letter: DeadLetter) -> tuple[BatchItem, bool]:
        """The item of a dead letter, to be taken in again, and whether it was still counted as dead."""
        self.results.drop(letter.item_id)
        self.counters.replayed += 1
        counted = self.counters.dead > 0  # otherwise it died before the last reset
        if counted:
            self.counters.dead -= 1
        item = BatchItem(
            letter.data, None, self._now(), letter.item_id, letter.priority, tracked=True, lane=letter.lane
        )
        return item, counted

    def forget_pending(self) -> None:
        """Nobody waits here for what is pending, and its results are not kept."""
        self.waiters.clear()
        self.tracked.clear()

    # What can be asked.

    def of_batch(self, batch_id: str) -> BatchStatus | None:
        """How a batch ended; None if it did not, or is kept no more."""
        return self._finished.get(batch_id, self._now())

    def of_item(self, item_id: str) -> ItemStatus | None:
        """How far a tracked item is; None if it is not known (any more)."""
        if item_id in self.tracked:
            return ItemStatus(item_id, "pending")
        outcome = self.results.get(item_id, self._now())
        if outcome is not None:
            if outcome.error is None:
                return ItemStatus(item_id, "done", outcome.result)
            if isinstance(outcome.error, ItemCancelledError):
                return ItemStatus(item_id, "cancelled", error=describe(outcome.error))
            return ItemStatus(
                item_id, "dead_lettered" if outcome.dead else "failed", error=describe(outcome.error)
            )
        letter = self.dead_letters.get(item_id)
        return None if letter is None else ItemStatus(item_id, "dead_lettered", error=letter.error)

    def holds_key(self, key: str) -> bool:
        """Whether an item of this key is pending, or its result is kept; one that was taken back is not."""
        if key in self.tracked:
            return True
        outcome = self.results.get(key, self._now())
        return outcome is not None and not isinstance(outcome.error, ItemCancelledError)

    def check_invariants(self, unfinished: int) -> None:
        """Raise AssertionError if more is tracked than has not ended. For tests."""
        assert len(self.tracked) <= unfinished

    @property
    def ended(self) -> int:
        """Items that ended since the start or the last reset."""
        counters = self.counters
        return counters.done + counters.failed + counters.dead + counters.replaced
