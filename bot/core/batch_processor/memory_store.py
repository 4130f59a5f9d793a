"""Items and their results in this process's memory."""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future, get_running_loop
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import islice
from typing import Any, NoReturn

from bot.core._shared.clock import Clock
from bot.core._shared.futures import retrieved
from bot.core._shared.loop_owner import still_runs
from bot.core.batch_processor.checks import check_key, check_priority
from bot.core.batch_processor.dispatcher import Dispatcher, another_loop
from bot.core.batch_processor.errors import (
    BatchClosedError,
    BatchQueueFullError,
    UnknownItemError,
)
from bot.core.batch_processor.lifecycle import State
from bot.core.batch_processor.models import (
    BatchItem,
    DeadLetter,
    ItemStatus,
    Lane,
    PeriodicItem,
    Plan,
    ReplayReport,
    Submission,
)
from bot.core.batch_processor.results import Outcome
from bot.core.batch_processor.store import OFF
from bot.core.batch_processor.terms import Terms

logger = logging.getLogger(__name__)

_ON = State.ON


class MemoryStore:
    """The :class:`Store` without Redis: items go straight to the dispatcher, which has all of their state."""

    def __init__(self, dispatcher: Dispatcher, clock: Clock, on_refused: Callable[[], None]) -> None:
        """``on_refused`` is called when an item is refused because the processor is off."""
        self._d = dispatcher
        self._clock = clock
        self._on_refused = on_refused
        self._outcomes = dispatcher.outcomes
        self._capacity = dispatcher.capacity
        self._duplicates = 0

    def _move_here(self) -> None:
        """Go on under this event loop if the one before has ended, as between two asyncio.run.

        Before it is asked whether there is room: what was under way there makes none until it is run.
        Raises MisuseError while that one runs, in another thread.
        """
        d = self._d
        loop = asyncio.get_running_loop()
        if d.loop is loop or d.state is not _ON:
            return
        if still_runs(d.loop):
            raise another_loop()
        d.adopt(loop)
        d.pump()

    # Submitting.

    def submit(self, data: Any, priority: int, lane: Lane | None = None) -> asyncio.Future[Any]:
        d = self._d
        self._move_here()
        if d.state is not _ON or self._capacity.lacks_room():
            self._refuse()
        if priority != 0:
            check_priority(priority)
        future: Future[Any] = Future(loop=d.loop)
        item = BatchItem(data, future, d.now(), "", priority)
        if lane is not None:
            item.lane = lane
        d.admit(item)
        return future

    def may_wait_for_room(self) -> bool:
        self._move_here()
        if self._d.state is not _ON:
            raise self._off()
        return self._capacity.lacks_room() or self._capacity.has_line

    async def submit_when_room(self, data: Any, priority: int, lane: Lane | None = None) -> Any:
        await self._capacity.wait()
        try:
            future = self.submit(data, priority, lane)
        except BaseException:
            self._capacity.offer_room()  # the place goes to the next
            raise
        return await future

    def submit_item(self, data: Any, priority: int, key: str | None, lane: Lane | None = None) -> Submission:
        d = self._d
        if priority != 0:
            check_priority(priority)
        if key is not None:
            check_key(key)
        self._move_here()
        if d.state is not _ON:
            self._on_refused()
            return Submission.refused(OFF, "off")
        if key is not None and self._outcomes.holds_key(key):
            self._duplicates += 1
            return Submission((True, key, ""))
        if self._capacity.lacks_room():
            return self._full(1)
        item_id = d.ids.new_item() if key is None else key
        batch_id = d.due_batch(priority, lane)
        d.admit(BatchItem(data, None, d.now(), item_id, priority, tracked=True, lane=lane))
        return Submission((True, item_id, batch_id))

    async def submit_many(
        self,
        wanted: Sequence[Any],
        priority: int,
        keys: Sequence[str | None],
        lanes: Sequence[Lane | None],
        all_or_none: bool,
    ) -> list[Submission]:
        self._move_here()
        if all_or_none and self._d.state is _ON and self._capacity.lacks_room(len(wanted)):
            refused = self._full(len(wanted))
            return [refused] * len(wanted)
        given = zip(wanted, keys, lanes, strict=True)
        return [self.submit_item(one, priority, key, lane) for one, key, lane in given]

    async def submit_timed(
        self,
        wanted: Sequence[Any],
        keys: Sequence[str | None],
        lanes: Sequence[Lane | None],
        terms: Terms,
        all_or_none: bool,
    ) -> list[Submission]:
        check_priority(terms.priority)
        for key in keys:
            if key is not None:
                check_key(key)
        self._move_here()
        if all_or_none and self._d.state is _ON and self._capacity.lacks_room(len(wanted)):
            refused = self._full(len(wanted))
            return [refused] * len(wanted)
        given = zip(wanted, keys, lanes, strict=True)
        return [self._submit_timed(one, key, lane, terms) for one, key, lane in given]

    def _submit_timed(self, data: Any, key: str | None, lane: Lane | None, terms: Terms) -> Submission:
        d = self._d
        if d.state is not _ON:
            self._on_refused()
            return Submission.refused(OFF, "off")
        due = terms.due(d.now(), self._clock.time())
        held = None
        if key is not None:
            held = self._outcomes.tracked.get(key)
            if not terms.replace and self._outcomes.holds_key(key):
                self._duplicates += 1
                return Submission((True, key, ""))
        if held is None and self._capacity.lacks_room():
            return self._full(1)
        item_id = d.ids.new_item() if key is None else key
        item = BatchItem(data, None, d.now(), item_id, terms.priority, tracked=True, lane=lane)
        if held is not None:
            d.later.replace(held, item, due)
        else:
            self._outcomes.results.drop(item_id)
            d.later.take_in(item, due)
        return Submission((True, item_id, ""))

    async def result_of_timed(self, data: Any, lane: Lane | None, terms: Terms) -> Any:
        check_priority(terms.priority)
        d = self._d
        self._move_here()
        if d.state is not _ON:
            raise self._off()
        due = terms.due(d.now(), self._clock.time())
        if self._capacity.lacks_room() or self._capacity.has_line:
            await self._capacity.wait()  # raises if it is switched off meanwhile
        future: Future[Any] = Future(loop=d.loop)
        item = BatchItem(data, future, d.now(), d.ids.new_item(), terms.priority, lane=lane)
        d.later.take_in(item, due)
        return await future

    async def cancel(self, item_id: str) -> bool:
        self._move_here()
        return self._d.later.cancel(item_id)

    async def put_plan(self, plan: Plan) -> PeriodicItem:
        self._move_here()
        if self._d.state is not _ON:
            raise self._off()
        return self._told(plan, self._d.later.put_plan(plan))

    async def remove_plan(self, name: str) -> bool:
        return self._d.later.remove_plan(name)

    async def list_plans(self) -> list[PeriodicItem]:
        return [self._told(plan, due) for plan, due in self._d.later.schedule]

    def _told(self, plan: Plan, due: float) -> PeriodicItem:
        return PeriodicItem(*plan, next_at=self._clock.time() + due - self._d.now())

    def _full(self, wanted: int) -> Submission:
        counters = self._outcomes.counters
        counters.refused += wanted
        # A batch's time is what it takes until there is room again.
        retry_after = counters.handling.mean() or self._d.due.batch_timeout
        return Submission.refused(
            f"the batch processor is full: {self._d.backlog.unfinished} items pending, "
            f"max_pending = {self._capacity.max_pending}",
            "full",
            retry_after,
        )

    def _off(self) -> BatchClosedError:
        self._on_refused()
        return BatchClosedError(OFF)

    def _refuse(self) -> NoReturn:
        if self._d.state is not _ON:
            raise self._off()
        raise BatchQueueFullError(self._full(1).reason)

    # Results.

    def known_outcome(self, item_id: str) -> Outcome | None:
        d = self._d
        if d.loop is not get_running_loop():
            self._move_here()
        outcomes = self._outcomes
        if item_id in outcomes.tracked:
            return None
        outcome = outcomes.results.get(item_id, d.now())
        if outcome is None:
            raise UnknownItemError(
                f"item_id = {item_id!r}: no such item is pending, and no result of it is kept"
            )
        return outcome

    async def result(self, item_id: str) -> Any:
        loop = asyncio.get_running_loop()
        waiters = self._outcomes.waiters
        waiter = waiters.get(item_id)
        if waiter is None or waiter.get_loop() is not loop:
            waiter = waiters[item_id] = loop.create_future()
            waiter.add_done_callback(retrieved)
        # Shielded: others may wait for it too, and the item is not withdrawn.
        return await asyncio.shield(waiter)

    async def status(self, item_id: str) -> ItemStatus | None:
        return self._outcomes.of_item(item_id)

    async def flush(self) -> bool:
        d = self._d
        if not d.backlog.unfinished:
            return True
        if d.handler.function is None or d.state not in (State.ON, State.DRAINING):
            return False
        self._move_here()
        await d.due.flush()
        return True

    # Dead letters.

    async def count_letters(self) -> int:
        return len(self._outcomes.dead_letters)

    async def each_letter(self, offset: int, *, newest_first: bool) -> AsyncGenerator[DeadLetter, None]:
        letters = self._outcomes.dead_letters.all()
        for letter in islice(reversed(letters) if newest_first else letters, offset, None):
            yield letter

    async def find_letter(self, item_id: str) -> DeadLetter | None:
        return self._outcomes.dead_letters.get(item_id)

    async def replay(self, item_ids: Sequence[str] | None) -> ReplayReport:
        self._move_here()
        letters, report = self._outcomes.take_letters(item_ids, max(0, self._capacity.free))
        for letter in letters:
            self._d.readmit(letter)
        return report

    async def discard(self, item_ids: Sequence[str] | None) -> int:
        return len(self._outcomes.dead_letters.take(item_ids))

    # Lifecycle, figures.

    def wake(self) -> None:
        """Nothing: the dispatcher has been told already."""

    async def drain(self, timeout: float) -> bool:
        return await self._d.drain(timeout)

    async def close(self) -> None:
        """What has not ended goes to the dead letters."""
        self._d.later.forget_plans()
        left = self._d.remaining()
        if left:
            logger.warning(
                "Batch processor: off with %d item(s) unhandled; dead_letters() has them", len(left)
            )
            self._d.bury(left, "the batch processor was switched off before the item was handled")

    async def find_warnings(self) -> list[str]:
        return []

    def figures(self) -> dict[str, Any]:
        return {
            "durable": False,
            "degraded": False,
            "duplicate_items": self._duplicates,
            "dead_letters": len(self._outcomes.dead_letters),
            "periodic_skipped": self._d.later.schedule.skipped,
            "delayed_items": len(self._d.backlog.delayed),
        }

    def reset_counters(self) -> None:
        self._duplicates = 0
