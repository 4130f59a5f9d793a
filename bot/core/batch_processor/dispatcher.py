"""Forms batches of pending items, and runs the handler over them until each has ended."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from asyncio import Future
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from bot.core._shared.clock import Clock
from bot.core._shared.errors import MisuseError
from bot.core._shared.loop_owner import LoopOwner, still_runs
from bot.core._shared.masking import masked_traceback, one_line
from bot.core._shared.tasks import BackgroundTasks
from bot.core.batch_processor.backlog import Backlog
from bot.core.batch_processor.capacity import Capacity
from bot.core.batch_processor.due import DueTimes
from bot.core.batch_processor.errors import (
    BatchClosedError,
    DeadLetteredError,
    HandlerCancelledError,
    describe,
)
from bot.core.batch_processor.handler import HandlerCaller
from bot.core.batch_processor.ids import Ids
from bot.core.batch_processor.later import Later
from bot.core.batch_processor.lifecycle import State
from bot.core.batch_processor.models import Batch, BatchItem, Begin, Commit, DeadLetter, Lane
from bot.core.batch_processor.outcomes import Outcomes
from bot.core.batch_processor.retries import Retries
from bot.core.batch_processor.retry import BatchSizer, RetryPolicy
from bot.core.phase4_config.batch_processor import DEFAULTS, BatchProcessorSettings

logger = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds that a cancelled handler has to end."""

REVIVAL = 0.05
"""Seconds after which work goes on whose task was cancelled by somebody else."""

_ON, _DRAINING = State.ON, State.DRAINING


class Dispatcher:
    """Starts batches when they are due, tries failed ones again, and follows the event loop.

    Nothing here awaits between reading state and writing it, but for the handler and, in durable
    mode, the commit. A batch whose task is cancelled from outside, at any point, is run again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.now = clock.monotonic
        self._owner = LoopOwner(self._forked)
        self.ids = Ids(secrets.token_hex(4))
        self.state = State.OFF
        # Settings. Changed only by configure.
        self.max_batch_size = DEFAULTS.max_batch_size
        self.max_concurrent = DEFAULTS.max_concurrent
        self.sizer: BatchSizer | None = None
        self.commit: Commit | None = None
        """In durable mode: what a batch must pass before its items end here."""
        self.on_lost: Callable[[BatchItem], None] | None = None
        """In durable mode: told of each item of ``Batch.lost`` when no handler has it any more."""
        self.begin: Begin | None = None
        """In durable mode: what a batch must pass before the handler gets it."""
        # The parts, each the owner of its own state.
        self.handler = HandlerCaller()
        self.backlog = Backlog(Future.done)
        self.outcomes = Outcomes(clock)
        self.capacity = Capacity(self.backlog, self._count_withdrawn)
        # State.
        self.loop: asyncio.AbstractEventLoop | None = None
        self.runs: Callable[[], bool] = bool
        """Whether that event loop runs; bound here for the sake of ``submit``."""
        self.thread = 0  # which the loop was adopted in
        self.size = self.max_batch_size
        """Items that make a batch full now."""
        self.open = 0
        """How long the queue's normal part may be for ``submit`` to add to it and do nothing else."""
        self._tasks = BackgroundTasks()
        self.due = DueTimes(clock, self.backlog, self._tasks, self.pump)
        self.retries = Retries(clock, self.backlog, self._tasks, self.pump, self._pump_soon)
        self.later = Later(
            clock, self.backlog, self.outcomes, self.admit, self.pump, self._count_withdrawn, self._has_room
        )

    def configure(self, settings: BatchProcessorSettings) -> None:
        """Take over the settings, for items that are pending too; :meth:`reconfigured` acts on them."""
        self.retries.longest_wait = settings.retry_after_max
        self.due.batch_timeout, self.handler.timeout = settings.batch_timeout, settings.handler_timeout
        self.max_concurrent, self.capacity.max_pending = settings.max_concurrent, settings.max_pending
        self.retries.policy = RetryPolicy(settings.max_retries, settings.retry_base, settings.retry_max)
        self.retries.isolate = settings.isolate
        self.outcomes.configure(settings)
        if not settings.adaptive:
            self.sizer = None
        elif self.sizer is None or self.max_batch_size != settings.max_batch_size:
            self.sizer = BatchSizer(settings.max_batch_size)
        self.max_batch_size = size = settings.max_batch_size
        self.size = size if self.sizer is None else min(self.sizer.size, size)
        self.later.size = size
        self.backlog.queue.limit_bytes(settings.max_batch_bytes)
        self.open = 0  # until the next refresh

    # Taking items in.

    def admit(self, item: BatchItem) -> None:
        """Take in an item; the caller has checked that there is room and that it is wanted."""
        if not self.runs():
            self.adopt(asyncio.get_running_loop())
        if item.tracked:
            self.outcomes.tracked[item.item_id] = item
        queue = self.backlog.queue
        if item.lane is None:
            queue.push(item)
        elif not self.backlog.push(item):
            self.open -= 1  # it takes a place, and nothing else changes
            return
        if item.priority:
            self.refresh()
        if len(queue) >= self.size or queue.bytes >= queue.full_at:
            if len(self.backlog.running) < self.max_concurrent:
                self.pump()
        elif not self.due.watching:
            self._watch()

    def admit_next(self, items: Sequence[BatchItem]) -> None:
        """Take in items that waited in Redis for others of their lanes; they are due now."""
        for item in items:
            self.backlog.push_next(item)
        self.pump()

    def admit_alone(self, item: BatchItem) -> None:
        """Take in an item that shares no batch with another."""
        self.backlog.put_alone(item, self.now())
        self.pump()

    def readmit(self, letter: DeadLetter) -> None:
        """Take in a dead letter again, under its id; its result is kept."""
        item, counted = self.outcomes.revive(letter)
        if counted:
            self.backlog.left -= 1  # it is back
        self.admit(item)

    def refresh(self) -> None:
        """Work out anew how far items can be added without a look at anything else."""
        if self.state is not _ON or self.commit is not None or self.backlog.queue.sizes.most:
            self.open = 0
            return
        backlog = self.backlog
        others = backlog.queue.others
        self.open = self.capacity.max_pending - backlog.in_flight - others - backlog.lanes.waiting
        if self.handler.function is not None and len(backlog.running) < self.max_concurrent:
            self.open = min(self.open, self.size - 1 - others)

    def due_batch(self, priority: int, lane: Lane | None = None) -> str:
        """The id of the batch that an item would be in if it came now; empty if that is not known."""
        backlog = self.backlog
        if backlog.queue.sizes.most or (lane is not None and backlog.lanes.is_busy(lane)):
            return ""
        return self.ids.of_batch(backlog.formed + backlog.queue.ahead(priority) // self.size + 1)

    # When batches start.

    def pump(self) -> None:
        """Start every batch that is due while handlers may run."""
        state = self.state
        if self.handler.function is None or not (state is _ON or state is _DRAINING):
            return
        backlog = self.backlog
        queue, lanes = backlog.queue, backlog.lanes
        while len(backlog.running) < self.max_concurrent:
            if backlog.ready:
                self._start(backlog.ready.popleft())
            elif len(queue) and (
                len(queue) >= self.size
                or lanes.released
                or queue.bytes >= queue.full_at
                or queue.oldest() <= self.due.until()
            ):
                self._form()
            else:
                break
        if len(queue) and not self.due.watching and len(backlog.running) < self.max_concurrent:
            self._watch()
        self.refresh()

    def reconfigured(self) -> None:
        """Settings have changed: what is due now may be something else."""
        self.pump()
        if len(self.backlog.queue):
            self._watch()  # the one that watches already may sleep too long
        self.capacity.offer_room()

    def _watch(self) -> None:
        """See to it that the items pending now start in time."""
        if self.handler.function is None:
            self.handler.warn_missing()
        elif self.loop is not None and (self.state is _ON or self.state is _DRAINING):
            self.due.watch(self._pump_soon)

    def _pump_soon(self) -> None:
        """Go on soon. Not at once: this may be an event loop on its way out, that cancels all it has."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_later(REVIVAL, self.pump)

    def _form(self) -> None:
        """Make a batch of the next items, unless all of them were withdrawn; it is ready."""
        now = self.now()
        items, withdrawn = self.backlog.take(self.size)
        if items:
            starts = [item.submitted_at for item in items]
            if items[0].priority != items[-1].priority or self.backlog.lanes:
                starts.sort()
            self.outcomes.counters.waits.record_since(starts, now)
            self.backlog.ready.append(self.backlog.batch_of(items, now, self.ids))
        if withdrawn:
            self._count_withdrawn(withdrawn)  # last: a flush ends when nothing is pending any more

    def _has_room(self) -> bool:
        return self.state is _ON and not self.capacity.lacks_room()

    def _count_withdrawn(self, count: int) -> None:
        self.outcomes.count_withdrawn(count)
        self._some_ended()
        self.refresh()

    def _start(self, batch: Batch) -> None:
        assert self.loop is not None
        if self.backlog.newer:
            self.later.pick_up(batch)
            self._some_ended()
            if not batch.items:
                return
        batch.state = "running"
        batch.handled = False
        self.backlog.running.add(batch)
        before = batch.attempts
        task = batch.task = self.loop.create_task(self._run(batch), name="batch")
        task.add_done_callback(lambda task: self._run_ended(batch, task, before))

    def _run_ended(self, batch: Batch, task: asyncio.Task[None], before: int) -> None:
        """The task of a batch that had ``before`` attempts has ended, whether it ever began or not."""
        if batch.task is not task:
            return  # it was taken from this task
        self.backlog.running.discard(batch)
        if batch.state != "running":
            self.pump()
            return
        if batch.lost and not self._without_lost(batch):
            self.pump()
            return
        # Cancelled by somebody else: what it did is not known, and it is done again.
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error(
                "A batch ended with an error; it is retried or given up\n%s", masked_traceback(error)
            )
            if batch.hopeless is None:
                batch.error = describe(error)
                if batch.attempts == before:
                    batch.count_attempt()
                if batch.tries > self.retries.policy.max_retries:
                    batch.hopeless = error
        batch.state = "pending"
        self.backlog.ready.appendleft(batch)
        self._pump_soon()

    # One batch.

    async def _run(self, batch: Batch) -> None:
        if batch.hopeless is not None:
            await self._give_up(batch, batch.hopeless)
            return
        if self.begin is not None and (passing := self.begin(batch)) is not None:
            await passing
            if batch.task is not asyncio.current_task():
                return
            if not batch.items:
                await self._end(batch, ())
                return
        begun = self.now()
        error: BaseException | None = None
        values: Sequence[Any] = ()
        try:
            values = await self.handler.values_for(batch.items)
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error = HandlerCancelledError("the handler was cancelled")
            error.__cause__ = cancelled
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise  # they end more than this batch
        except BaseException as failure:  # whatever else it is, it is the handler's
            error = failure
        if batch.task is not asyncio.current_task():
            return  # it would not end when told to, and the batch was taken from it
        seconds = self.now() - begun
        self.outcomes.counters.handling.record(seconds)
        if error is not None:
            if not batch.lost or self._without_lost(batch):
                await self._failed(batch, error)
            return
        batch.attempts += 1
        if self.sizer is not None:
            self.sizer.observe(len(batch.items), seconds)
            self.size = min(self.sizer.size, self.max_batch_size)
        if any(issubclass(kind, BaseException) for kind in set(map(type, values))):
            values = self.later.keep_waiting(
                batch, values, self.retries.longest_wait, self.retries.policy.jitter()
            )
        await self._end(batch, values)

    async def _failed(self, batch: Batch, error: BaseException) -> None:
        batch.error = describe(error)
        batch.count_attempt()
        attempts = batch.tries
        if not self.retries.try_again(batch, error):
            await self._give_up(batch, error)
        elif attempts <= self.retries.policy.max_retries:
            self.outcomes.counters.retries += 1  # halves are out of retries, and count as none

    async def _give_up(self, batch: Batch, error: BaseException) -> None:
        logger.error(
            "Batch of %d item(s) given up: %s\n%s",
            len(batch.items),
            one_line(batch.error),
            masked_traceback(error),
        )
        values = [DeadLetteredError(item.item_id, item.attempts, batch.error) for item in batch.items]
        for value in values:
            value.__cause__ = error
        await self._end(batch, values, dead=True)

    def _without_lost(self, batch: Batch) -> bool:
        """Let go of the items that are another instance's; False if the batch has no others."""
        for item in self.backlog.drop_lost(batch):
            if self.on_lost is not None:
                self.on_lost(item)
        self._some_ended()
        return bool(batch.items)

    async def _end(self, batch: Batch, values: Sequence[Any], *, dead: bool = False) -> None:
        batch.handled = True
        if self.commit is not None:
            await self.commit(batch, values, dead)
        newer = self.later.supersede(batch) if self.backlog.newer else ()
        self.outcomes.settle(batch, self.ids.of_batch(batch.number), values, dead=dead)
        withdrawn = self.backlog.ended(batch.items)
        if withdrawn:
            self.outcomes.count_withdrawn(withdrawn)
        for item, due in newer:
            self.later.take_in(item, due)
        self._some_ended()

    # Drain, stop.

    def _some_ended(self) -> None:
        self.capacity.offer_room()
        self.due.end_flushes()

    async def drain(
        self, timeout: float, give_up: Callable[[], Coroutine[Any, Any, None]] | None = None
    ) -> bool:
        """Handle what is pending, for ``timeout`` seconds at most or until ``give_up()`` returns; then stop.

        False if a handler went on after it was cancelled.
        """
        try:
            if self.backlog.unfinished and self.handler.function is not None:
                # The time of the test's clock, if it is one: a drain waits as everything here does.
                ends = [self.due.flush(), asyncio.ensure_future(self._clock.sleep(timeout))]
                if give_up is not None:
                    ends.append(asyncio.ensure_future(give_up()))
                try:
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for end in ends:
                        end.cancel()
        finally:
            clean = await self.stop()
        return clean

    async def stop(self) -> bool:
        """End every task; what has not ended by then is ready to be run again. False if one would not."""
        self.state = State.STOPPING
        self.capacity.close()
        mine = [
            batch.task
            for batch in self.backlog.running
            if batch.task is not None
            and batch.task is not asyncio.current_task()
            and batch.task.get_loop() is asyncio.get_running_loop()
        ]
        stuck: set[asyncio.Task[None]] = set()
        try:
            for task in mine:
                task.cancel()
            if mine:
                _, stuck = await asyncio.wait(mine, timeout=GRACE)
            await self._tasks.stop()
        finally:
            self._take_from_tasks()
        if stuck:
            logger.error("%d batch handler(s) still run %g s after they were cancelled", len(stuck), GRACE)
        return not stuck

    def remaining(self) -> list[BatchItem]:
        """Take out every item that has not ended, without ending it. After :meth:`stop`."""
        found = [item for batch in self.backlog.ready for item in batch.items]
        self.backlog.ready.clear()
        queued, withdrawn = self.backlog.take_all()
        if withdrawn:
            self._count_withdrawn(withdrawn)
        found += queued
        newer = self.backlog.newer
        if newer:
            replaced = [item for item in found if item.tracked and item.item_id in newer]
            self.outcomes.counters.replaced += len(replaced)
            self.backlog.ended(replaced)
            found = [item for item in found if not (item.tracked and item.item_id in newer)]
        found += self.later.take_all()
        for item in found:
            item.item_id = item.item_id or self.ids.new_item()
        return found

    def forget(self, items: Sequence[BatchItem]) -> None:
        """Let go of items of :meth:`remaining` that another instance will see to: they never came."""
        self.backlog.forget(len(items))
        self._some_ended()

    def bury(self, items: list[BatchItem], reason: str) -> None:
        """End items of :meth:`remaining` as dead letters; callers that wait for one get BatchClosedError."""
        self.outcomes.bury(items, [BatchClosedError(reason) for _ in items])
        self.backlog.ended(items)
        self._some_ended()

    def bury_unhandled(self, items: Sequence[BatchItem], errors: Sequence[BaseException]) -> None:
        """Count items as dead letters that lie in Redis as such, and were never taken in."""
        self.outcomes.bury(items, errors)
        self.backlog.left += len(items)

    # Change of event loop.

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work under this event loop from now on; what was under way on a closed one is to be done again."""
        previous = self.loop
        self.loop = loop
        self.runs = loop.is_running
        self.thread = threading.get_ident()
        self._owner.claim()
        self.later.follow(loop)
        if previous is not None and not still_runs(previous):
            # What waited there for room or for a flush waits no more.
            self.capacity.forget_line()
            self.due.forget_flushes()
            self._take_from_tasks()

    def _forked(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a child: what was taken in is the parent's to do, and its ids begin otherwise."""
        self.ids.prefix = secrets.token_hex(4)
        self.loop, self.runs, self.thread = None, bool, 0  # as at the beginning
        self.later.follow(None)
        self.capacity.forget_line()
        self.due.forget_flushes()
        self.outcomes.forget_pending()
        self._take_from_tasks()
        self.forget(self.remaining())
        self.refresh()

    def _take_from_tasks(self) -> None:
        self.due.watching = False
        self.backlog.take_from_tasks()

    # What can be asked.

    def reset_counters(self) -> None:
        """Count from now on; what is pending counts as submitted now."""
        self.backlog.reset()
        self.outcomes.reset_counters()

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree. For tests: O(n)."""
        self.backlog.check_invariants(self.outcomes.ended)
        self.outcomes.check_invariants(self.backlog.unfinished)


def another_loop() -> MisuseError:
    """The error for a call under an event loop beside the one that the processor works under."""
    return MisuseError(
        "the batch processor works under another event loop, which is running: await it there "
        "(asyncio.run_coroutine_threadsafe), or use a processor of this loop's own"
    )
