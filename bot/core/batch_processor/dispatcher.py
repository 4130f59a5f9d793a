"""Forms batches of pending items, runs the handler over them, and settles each item once."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import secrets
import threading
from asyncio import Future
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from bot.core._shared.clock import Clock
from bot.core._shared.errors import MisuseError, message_of
from bot.core._shared.loop_owner import LoopOwner, still_runs
from bot.core._shared.masking import masked_traceback, one_line
from bot.core._shared.tasks import BackgroundTasks
from bot.core.batch_processor.dead_letters import DeadLetters
from bot.core.batch_processor.errors import (
    BatchClosedError,
    DeadLetteredError,
    HandlerAnswerError,
    HandlerCancelledError,
    HandlerTimeoutError,
    ItemFailedError,
    MissingResultError,
)
from bot.core.batch_processor.models import (
    Batch,
    BatchItem,
    BatchStatus,
    Commit,
    DeadLetter,
    Handler,
    ItemStatus,
)
from bot.core.batch_processor.queue import PendingQueue
from bot.core.batch_processor.results import Kept, Outcome
from bot.core.batch_processor.retry import BatchSizer, RetryPolicy
from bot.core.batch_processor.stats import Counters

logger = logging.getLogger(__name__)

FINISHED_BATCHES = 1_000
"""Batches whose status is kept after their end."""

GRACE = 5.0
"""Seconds that a cancelled handler has to end."""

REVIVAL = 0.05
"""Seconds after which work goes on whose task was cancelled by somebody else."""


SWITCHED_OFF = "the batch processor was switched off"

SWEEP_SHARE = 64
"""Items of the queue that each refusal pays for to be looked through for withdrawn ones."""


class Dispatcher:
    """The queue, the batches and the handler of one processor.

    Nothing here awaits between reading state and writing it, but for the handler and, in durable
    mode, the commit. A batch whose task is cancelled from outside, at any point, is run again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.now = clock.monotonic
        self._owner = LoopOwner(self._forked)
        self.prefix = secrets.token_hex(4)
        """Begins every id, so that ids of two instances are never the same."""
        # Settings; the service sets them.
        self.handler: Handler | None = None
        self._told_no_handler = False
        self.max_batch_size = 100
        self.batch_timeout = 5.0
        self.max_concurrent = 10
        self.max_pending = 10_000
        self.handler_timeout = 21_600.0
        self.retry = RetryPolicy()
        self.isolate = False
        self.sizer: BatchSizer | None = None
        self.commit: Commit | None = None
        self.accepting = False
        self.stopped = False
        # State. An item is in the queue, or in one batch; a batch is running, ready or resting.
        self.loop: asyncio.AbstractEventLoop | None = None
        self.runs: Callable[[], bool] = bool
        self.thread = 0  # which the loop was adopted in
        """Whether that event loop runs; bound here for the sake of ``submit``."""
        self.queue = PendingQueue(Future.done)
        self.running: set[Batch] = set()
        self.ready: deque[Batch] = deque()
        self.resting: dict[Batch, asyncio.Task[None]] = {}
        self.size = self.max_batch_size
        """Items that make a batch full now."""
        self.open = 0
        """How long the queue's normal part may be for ``submit`` to add to it and do nothing else."""
        self.sequence = 0
        """The number of the last item that was given an id."""
        self.left = 0
        """Items that have left the queue since the start or the last reset."""
        self.in_flight = 0
        """Items in batches that have not ended."""
        self.formed = 0
        self.tracked: dict[str, BatchItem] = {}
        self.results: Kept[Outcome] = Kept(10_000, 300.0)
        self.finished: Kept[BatchStatus] = Kept(FINISHED_BATCHES, math.inf)
        self.dead_letters = DeadLetters(10_000)
        self.counters = Counters(self.now())
        self._tasks = BackgroundTasks()
        self._watching = False
        self._flushed_until = -math.inf
        self._flushes: list[tuple[float, asyncio.Future[None]]] = []
        # Those who wait for room, in their order, until they have it and not only are told.
        self._room: OrderedDict[object, asyncio.Future[None]] = OrderedDict()
        self._warned_unknown = False
        self._sweep_credit = 0
        self._suffixes = [""]
        self.waiters: dict[str, asyncio.Future[Any]] = {}
        """Of those who wait in get_result, by item id."""

    # Taking items in.

    def submit(self, data: Any, priority: int = 0) -> asyncio.Future[Any]:
        """Take an item in; the caller has checked that there is room and that it is wanted."""
        future: Future[Any] = Future(loop=asyncio.get_running_loop())
        self.admit(BatchItem(data, future, self.now(), "", priority))
        return future

    def admit(self, item: BatchItem) -> None:
        """Take in an item that is made already."""
        if not self.runs():
            self.adopt(asyncio.get_running_loop())
        if item.tracked:
            self.tracked[item.item_id] = item
        self.queue.push(item)
        if item.priority:
            self.refresh()
        if len(self.queue) >= self.size:
            if len(self.running) < self.max_concurrent:
                self.pump()
        elif not self._watching:
            self._watch()

    def admit_alone(self, item: BatchItem) -> None:
        """Take in an item that shares no batch with another."""
        self.left += 1
        self.in_flight += 1
        self.formed += 1
        self.ready.append(Batch(self.formed, [item], self.now()))
        self.pump()

    def refresh(self) -> None:
        """Work out anew how far items can be added without a look at anything else."""
        others = self.queue.others
        if not self.accepting or self.commit is not None:
            self.open = 0
            return
        self.open = self.max_pending - self.in_flight - others
        if self.handler is not None and len(self.running) < self.max_concurrent:
            self.open = min(self.open, self.size - 1 - others)

    def new_id(self) -> str:
        """An id that no other item has."""
        self.sequence += 1
        return f"{self.prefix}-{self.sequence}"

    def due_batch(self, priority: int) -> str:
        """The id of the batch that an item of this priority would be in if it came now."""
        return self.batch_id(self.formed + self.queue.ahead(priority) // self.size + 1)

    def batch_id(self, number: int) -> str:
        return f"{self.prefix}-b{number}"

    @property
    def unfinished(self) -> int:
        """Items taken in that have not ended."""
        return len(self.queue) + self.in_flight

    @property
    def full(self) -> bool:
        """Whether no item may be taken in now."""
        return self.unfinished >= self.max_pending

    def lacks_room(self, wanted: int = 1) -> bool:
        """Whether so many may not be taken in now, though those that were withdrawn make room.

        To look for these is O(n). A long queue is therefore not looked through at each refusal, but
        as often as makes a refusal O(1) on average.
        """
        if self.unfinished + wanted <= self.max_pending:
            return False
        self._sweep_credit += SWEEP_SHARE
        if self._sweep_credit >= len(self.queue):
            self._sweep_credit = 0
            withdrawn = self.queue.sweep()
            if withdrawn:
                self._count_withdrawn(withdrawn)
                self.refresh()
        return self.unfinished + wanted > self.max_pending

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits for room, whom nobody may overtake."""
        return bool(self._room)

    async def room(self) -> None:
        """Wait until an item may be taken in; first come, first served.

        Who returns from it submits at once, or calls :meth:`make_room`.
        """
        if not self.full and not self._room:
            return
        ticket = object()
        self._room[ticket] = waiter = asyncio.get_running_loop().create_future()
        try:
            self.make_room()  # those before may be on their way in, with room left behind them
            if waiter.done():
                await asyncio.sleep(0)  # so that they are in first
            while True:
                await waiter
                if ticket not in self._room:
                    raise BatchClosedError(SWITCHED_OFF)
                if ticket in islice(self._room, max(0, self.max_pending - self.unfinished)):
                    break
                # Somebody was quicker; it keeps its turn.
                self._room[ticket] = waiter = asyncio.get_running_loop().create_future()
        except BaseException:
            if self._room.pop(ticket, None) is not None:
                self.make_room()  # it may have been given a place, which it does not take
            raise
        del self._room[ticket]

    def make_room(self) -> None:
        """Tell as many of those who wait as there are places."""
        for waiter in islice(self._room.values(), max(0, self.max_pending - self.unfinished)):
            if not waiter.done():
                _set_result(waiter, None)

    def readmit(self, letter: DeadLetter) -> None:
        """Take in a dead letter again, under its id; its result is kept."""
        item = BatchItem(letter.data, None, self.now(), letter.item_id, letter.priority, tracked=True)
        self.results.drop(item.item_id)
        self.counters.replayed += 1
        if self.counters.dead:
            self.counters.dead -= 1
        else:
            self.left += 1  # it died before the last reset
        self.left -= 1  # it is back
        self.admit(item)

    @property
    def submitted(self) -> int:
        """Items taken in since the start or the last reset, those pending at the reset among them."""
        return self.left + len(self.queue)

    def reset_counters(self) -> None:
        self.left = self.in_flight
        self.counters = Counters(self.now())

    # When batches start.

    def pump(self) -> None:
        """Start every batch that is due while handlers may run."""
        if self.handler is None or self.stopped:
            return
        while len(self.running) < self.max_concurrent:
            if self.ready:
                self._start(self.ready.popleft())
            elif len(self.queue) and (len(self.queue) >= self.size or self.queue.oldest() <= self._due()):
                batch = self._form()
                if batch is not None:
                    self._start(batch)
            else:
                break
        if len(self.queue) and not self._watching and len(self.running) < self.max_concurrent:
            self._watch()
        self.refresh()

    def _due(self) -> float:
        """Items submitted at this time or before are due whatever their number."""
        return max(self._flushed_until, self.now() - self.batch_timeout)

    def reconfigured(self) -> None:
        """Settings have changed: what is due now may be something else."""
        self.pump()
        if len(self.queue):
            self._watch()  # the one that watches already may sleep too long
        self.make_room()

    def _watch(self) -> None:
        """See to it that the items pending now start in time."""
        if self.handler is None and not self._told_no_handler and self.commit is None:
            self._told_no_handler = True
            logger.warning("Batch processor: items wait, and there is no handler: set process_handler")
        if self.handler is None or self.loop is None or self.stopped:
            return
        self._watching = True
        # By a callback: a task that is cancelled before its first step runs nothing of its body.
        self._tasks.spawn(self._wait_until_due(), name="batch-age").add_done_callback(self._watched)

    async def _wait_until_due(self) -> None:
        while (
            len(self.queue)
            and (left := self.queue.oldest() + self.batch_timeout - self.now()) > 0.0
            and self.queue.oldest() > self._flushed_until
        ):
            await self._clock.sleep(left)
        self._watching = False
        self.pump()

    def _watched(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._watching = False
            self._revive()

    def _revive(self) -> None:
        """Go on soon. Not at once: this may be an event loop on its way out, that cancels all it has."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_later(REVIVAL, self.pump)

    def _form(self) -> Batch | None:
        now = self.now()
        items = self._take(self.size)
        if not items:
            return None
        self.in_flight += len(items)
        starts = [item.submitted_at for item in items]
        if items[0].priority != items[-1].priority:
            starts.sort()
        self.counters.waits.record_since(starts, now)
        self.formed += 1
        batch = Batch(self.formed, items, now)
        suffixes = self._suffixes
        while len(suffixes) <= len(items):
            suffixes.append(f"-{len(suffixes)} ")
        # Made all together, because formatting a number for each would be a tenth of it all.
        ids = self.batch_id(batch.number).join(suffixes[: len(items) + 1]).split(" ")
        for item, item_id in zip(items, ids, strict=False):
            if not item.item_id:
                item.item_id = item_id
        return batch

    def _take(self, limit: int) -> list[BatchItem]:
        """The next items of the queue; those that were cancelled end here."""
        withdrawn = self.queue.withdrawn
        items = self.queue.take(limit)
        withdrawn = self.queue.withdrawn - withdrawn
        self.left += len(items)
        if withdrawn:
            self._count_withdrawn(withdrawn)
        return items

    def _count_withdrawn(self, count: int) -> None:
        self.left += count
        self.counters.failed += count
        self.counters.cancelled += count
        self._ended(0)

    def _start(self, batch: Batch) -> None:
        assert self.loop is not None
        batch.state = "running"
        self.running.add(batch)
        before = batch.attempts
        task = batch.task = self.loop.create_task(self._run(batch), name="batch")
        task.add_done_callback(lambda task: self._left(batch, task, before))

    def _left(self, batch: Batch, task: asyncio.Task[None], before: int) -> None:
        """The task of a batch that had ``before`` attempts has ended, whether it ever began or not."""
        if batch.task is not task:
            return  # it was taken from this task
        self.running.discard(batch)
        if batch.state == "running":
            # Cancelled by somebody else: what it did is not known, and it is done again.
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.error(
                    "A batch ended with an error, and is run again or given up\n%s", masked_traceback(error)
                )
                if batch.hopeless is None:
                    batch.error = describe(error)
                    if batch.attempts == before:
                        self._count_attempt(batch)
                    if batch.attempts > self.retry.max_retries:
                        batch.hopeless = error
            batch.state = "pending"
            self.ready.appendleft(batch)
            self._revive()
            return
        self.pump()

    # One batch.

    def _count_attempt(self, batch: Batch) -> None:
        batch.attempts += 1
        for item in batch.items:
            item.attempts += 1

    async def _run(self, batch: Batch) -> None:
        if batch.hopeless is not None:
            await self._give_up(batch, batch.hopeless)
            return
        begun = self.now()
        error: BaseException | None = None
        values: Sequence[Any] = ()
        try:
            answer = await self._handle(batch)
            values = self._judge(batch.items, answer)
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
        self.counters.handling.record(seconds)
        if error is None:
            batch.attempts += 1
            if self.sizer is not None:
                self.sizer.observe(len(batch.items), seconds)
                self.size = min(self.sizer.size, self.max_batch_size)
            if self.commit is not None:
                await self.commit(batch, values, False)
            self._settle(batch, values)
            return
        batch.error = describe(error)
        self._count_attempt(batch)
        retryable = not isinstance(error, HandlerAnswerError)
        delay = self.retry.delay(batch.attempts) if retryable else None
        if delay is not None:
            self.counters.retries += 1
            logger.warning(
                "Batch of %d item(s) failed, try %d of %d in %.2f s: %s",
                len(batch.items), batch.attempts + 1, self.retry.max_retries + 1, delay,
                one_line(batch.error),
            )  # fmt: skip
            self._rest(batch, delay)
        elif self.isolate and retryable and len(batch.items) > 1:
            self._split(batch)
        else:
            await self._give_up(batch, error)

    async def _handle(self, batch: Batch) -> Any:
        handler = self.handler
        assert handler is not None
        # A list of its own: what the handler does to it must not change who gets which result.
        if not self.handler_timeout:
            answer: Any = handler(list(batch.items))
            return await answer if inspect.isawaitable(answer) else answer
        try:
            async with asyncio.timeout(self.handler_timeout) as deadline:
                answer = handler(list(batch.items))
                return await answer if inspect.isawaitable(answer) else answer
        except TimeoutError as error:
            if not deadline.expired():
                raise  # its own
            raise HandlerTimeoutError(f"the handler took longer than {self.handler_timeout:g} s") from error

    def _judge(self, items: list[BatchItem], answer: Any) -> Sequence[Any]:
        """A value for each item; an exception where the item failed. Raises HandlerAnswerError."""
        values = self._values(items, answer)
        if any(hasattr(kind, "__await__") for kind in set(map(type, values))):
            at = next(n for n, value in enumerate(values) if hasattr(type(value), "__await__"))
            what = type(values[at]).__name__
            for value in values:
                if inspect.iscoroutine(value):
                    value.close()  # it would only be complained of
            raise HandlerAnswerError(
                f"the handler answered a {what} for item {items[at].item_id}: an await is missing"
            )
        return values

    def _values(self, items: list[BatchItem], answer: Any) -> Sequence[Any]:
        if isinstance(answer, Mapping):
            ids = [item.item_id for item in items]
            if list(answer) == ids and len(in_order := list(answer.values())) == len(ids):
                return in_order  # as handlers mostly answer
            if type(answer) is dict and len(answer) == len(ids):
                with contextlib.suppress(KeyError):
                    return list(map(answer.__getitem__, ids))
            values = [
                answer[item.item_id]
                if item.item_id in answer
                else MissingResultError(f"the handler's answer holds nothing for item {item.item_id}")
                for item in items
            ]
            if not self._warned_unknown and not set(ids).issuperset(answer):
                self._warned_unknown = True
                logger.warning("The batch handler answers for ids that are not those of its items")
            return values
        if isinstance(answer, Sequence) and not isinstance(answer, str | bytes | bytearray):
            # Copied here, where an answer that is computed as it is read may fail as the handler may.
            if len(answer) == len(items) and len(values := list(islice(answer, len(items) + 1))) == len(
                items
            ):
                return values
            raise HandlerAnswerError(
                f"the handler answered {len(answer)} result(s) for {len(items)} item(s): a list must hold "
                "one for each, in order"
            )
        if inspect.iscoroutine(answer):
            answer.close()
        missing = ", and an await is missing" if hasattr(type(answer), "__await__") else ""
        raise HandlerAnswerError(
            f"the handler answered {type(answer).__name__}: expected a dict by item_id, or a list in order"
            f"{missing}"
        )

    def _rest(self, batch: Batch, delay: float) -> None:
        batch.state = "retrying"
        task = self._tasks.spawn(self._wake_after(batch, delay), name="batch-retry")
        self.resting[batch] = task
        task.add_done_callback(lambda task: self._rested(batch, task))

    async def _wake_after(self, batch: Batch, delay: float) -> None:
        await self._clock.sleep(delay)
        self._wake(batch)
        self.pump()

    def _rested(self, batch: Batch, task: asyncio.Task[None]) -> None:
        """As in :meth:`_watched`."""
        if task.cancelled() and self.resting.get(batch) is task:
            self._wake(batch)
            self._revive()

    def _wake(self, batch: Batch) -> None:
        if self.resting.pop(batch, None) is not None:
            batch.state = "pending"
            self.ready.append(batch)

    def _split(self, batch: Batch) -> None:
        """Try its halves once each, so that one item does not take the others with it."""
        half = len(batch.items) // 2
        rest = Batch(self.formed + 1, batch.items[half:], batch.formed_at)
        self.formed += 1
        batch.items = batch.items[:half]
        for part in (batch, rest):
            part.attempts = self.retry.max_retries
            part.error = batch.error
            self._rest(part, 0.0)

    async def _give_up(self, batch: Batch, error: BaseException) -> None:
        logger.error(
            "Batch of %d item(s) given up: %s\n%s",
            len(batch.items),
            one_line(batch.error),
            masked_traceback(error),
        )
        values = [self._verdict(item, batch.error, error) for item in batch.items]
        if self.commit is not None:
            await self.commit(batch, values, True)
        self._settle(batch, values, dead=True)

    def _verdict(self, item: BatchItem, reason: str, cause: BaseException | None) -> DeadLetteredError:
        verdict = DeadLetteredError(item.item_id, item.attempts, reason)
        verdict.__cause__ = cause
        return verdict

    # The end of items.

    def _settle(self, batch: Batch, values: Sequence[Any], *, dead: bool = False) -> None:
        """Each item ends here, or in _form when its submitter has cancelled it."""
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
        now = self.now()
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
            self.batch_id(batch.number),
            batch.state,
            count,
            count - failed,
            failed,
            batch.attempts,
            batch.error,
        )
        self.finished.put(status.batch_id, status, now)
        self._ended(count)

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
                with contextlib.suppress(asyncio.InvalidStateError, RuntimeError):  # as in _settle
                    item.future.set_result(value)
        return failed

    def _fail(self, item: BatchItem, error: BaseException, dead: bool) -> None:
        if dead:
            self._bury(item, error)
        if item.future is None:
            self._keep(item, Outcome(None, error, dead))
        elif not item.future.done():
            _set_exception(item.future, presentable(error))

    def _bury(self, item: BatchItem, error: BaseException) -> None:
        if self.commit is not None:
            return  # it lies in Redis
        reason = error.reason if isinstance(error, DeadLetteredError) else describe(error)
        letter = DeadLetter(item.item_id, item.data, item.priority, item.attempts, reason, self._clock.time())
        if self.dead_letters.add(letter) is not None and self.dead_letters.dropped == 1:
            logger.error("More than %d dead letters: the oldest are dropped", self.dead_letters.limit)

    def _keep(self, item: BatchItem, outcome: Outcome) -> None:
        if self.tracked.pop(item.item_id, None) is not None:
            self.results.put(item.item_id, outcome, self.now())
        waiter = self.waiters.pop(item.item_id, None)
        if waiter is not None and not waiter.done():
            if outcome.error is None:
                _set_result(waiter, outcome.result)
            else:
                _set_exception(waiter, presentable(outcome.error))

    def _ended(self, count: int) -> None:
        self.in_flight -= count
        if self._room:
            self.make_room()
        if self._flushes:
            self._end_flushes()

    # Flush, drain, change of event loop.

    def flush(self) -> asyncio.Future[None]:
        """Make all that is pending due; the future is done when it has ended, retries included."""
        self._flushed_until = now = self.now()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes.append((now, waiter))
        self.pump()
        self._end_flushes()
        return waiter

    def _end_flushes(self) -> None:
        oldest = self.oldest_unfinished()
        for entry in list(self._flushes):
            at, waiter = entry
            if oldest > at or waiter.done():
                self._flushes.remove(entry)
                if not waiter.done():
                    _set_result(waiter, None)

    def oldest_unfinished(self) -> float:
        """When the oldest item that has not ended was submitted; infinity if all have."""
        if not self.unfinished:
            return math.inf
        batches = (*self.running, *self.ready, *self.resting)
        live = (batch.oldest for batch in batches if batch.state in ("pending", "running", "retrying"))
        return min(min(live, default=math.inf), self.queue.oldest())

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work under this event loop from now on; what was under way on a closed one is to be done again."""
        previous = self.loop
        self.loop = loop
        self.runs = loop.is_running
        self.thread = threading.get_ident()
        self._owner.claim()
        if previous is not None and not still_runs(previous):
            # Who waited there for room or for a flush waits no more.
            self._room.clear()
            self._flushes.clear()
            self._take_over()

    def _forked(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a child: what was taken in is the parent's to do, and its ids begin otherwise."""
        self.prefix = secrets.token_hex(4)
        self.loop, self.runs, self.thread = None, bool, 0  # as at the beginning
        self._room.clear()
        self._flushes.clear()
        self.waiters.clear()
        self.tracked.clear()
        self._take_over()
        self.forget(self.remaining())
        self.refresh()

    def _take_over(self) -> None:
        self._watching = False
        for batch in list(self.resting):
            self._wake(batch)
        for batch in list(self.running):
            self.running.discard(batch)
            batch.task = None
            if batch.state == "running":
                batch.state = "pending"
                self.ready.append(batch)

    async def stop(self) -> bool:
        """End every task; what has not ended by then is ready to be run again. False if one would not."""
        self.accepting = False
        self.stopped = True
        while self._room:
            _, waiter = self._room.popitem(last=False)
            if not waiter.done():
                _set_exception(waiter, BatchClosedError(SWITCHED_OFF))
        mine = [
            batch.task
            for batch in self.running
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
            self._take_over()
        if stuck:
            logger.error("%d batch handler(s) go on %g s after they were cancelled", len(stuck), GRACE)
        return not stuck

    def remaining(self) -> list[BatchItem]:
        """Take out every item that has not ended, without ending it. After :meth:`stop`."""
        found = [item for batch in self.ready for item in batch.items]
        self.ready.clear()
        queued = self._take(len(self.queue))
        for item in queued:
            item.item_id = item.item_id or self.new_id()
        self.in_flight += len(queued)
        return found + queued

    def make_due(self) -> None:
        """Start what is pending without waiting for full batches."""
        self._flushed_until = self.now()
        self.pump()

    def forget(self, items: Sequence[BatchItem]) -> None:
        """Let go of items of :meth:`remaining` that another instance will see to: they never came."""
        self.left -= len(items)
        self._ended(len(items))

    def bury_unhandled(self, items: Sequence[BatchItem], errors: Sequence[BaseException]) -> None:
        """Count items as dead letters that lie in Redis as such, and were never taken in."""
        for item, error in zip(items, errors, strict=True):
            self._fail(item, error, dead=True)
        self.left += len(items)
        self.counters.dead += len(items)

    def bury_all(self, items: Sequence[BatchItem], reason: str) -> None:
        """End items as dead letters without a handler; who waits for one gets BatchClosedError."""
        for item in items:
            self._fail(item, BatchClosedError(reason), dead=True)
        self.counters.dead += len(items)
        self._ended(len(items))

    # What can be asked.

    def status_of_batch(self, batch_id: str) -> BatchStatus | None:
        kept = self.finished.get(batch_id, self.now())
        if kept is not None:
            return kept
        prefix, _, digits = batch_id.rpartition("-b")
        if prefix != self.prefix or not (digits.isascii() and digits.isdigit()):
            return None
        number = int(digits[:20])
        for batch in (*self.running, *self.ready, *self.resting):
            if batch.number == number:
                return BatchStatus(
                    batch_id, batch.state, len(batch.items), attempts=batch.attempts, error=batch.error
                )
        left = len(self.queue) - (number - self.formed - 1) * self.size
        if number <= self.formed or left <= 0:
            return None
        return BatchStatus(batch_id, "pending", min(left, self.size))

    def status_of_item(self, item_id: str) -> ItemStatus | None:
        if item_id in self.tracked:
            return ItemStatus(item_id, "pending")
        outcome = self.results.get(item_id, self.now())
        if outcome is not None:
            if outcome.error is None:
                return ItemStatus(item_id, "done", outcome.result)
            return ItemStatus(
                item_id, "dead_lettered" if outcome.dead else "failed", error=describe(outcome.error)
            )
        letter = self.dead_letters.get(item_id)
        return None if letter is None else ItemStatus(item_id, "dead_lettered", error=letter.error)

    def holds_key(self, key: str) -> bool:
        """Whether an item of this key is pending, or its result is kept."""
        return key in self.tracked or self.results.get(key, self.now()) is not None

    @property
    def pending_batches(self) -> int:
        """Batches formed and not ended, and those that the queue would make."""
        live = sum(batch.state in ("pending", "running", "retrying") for batch in self.running)
        return live + len(self.ready) + len(self.resting) + -(-len(self.queue) // self.size)

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree. For tests: O(n)."""
        self.queue.check_invariants()
        live = [batch for batch in self.running if batch.state == "running"]
        batches = [*live, *self.ready, *self.resting]
        assert len(batches) == len(set(batches)), "a batch is in one place"
        held = [item for batch in batches for item in batch.items]
        assert len(held) == len(set(map(id, held))), "an item is in one batch"
        assert self.in_flight == len(held), "what is in no batch is in the queue, or has ended"
        counters = self.counters
        ended = counters.done + counters.failed + counters.dead
        assert self.left == ended + self.in_flight, "the ledger balances"
        assert len(self.tracked) <= self.unfinished


def another_loop() -> MisuseError:
    """The error for a call under an event loop beside the one that the processor works under."""
    return MisuseError(
        "the batch processor works under another event loop, which is running: await it there "
        "(asyncio.run_coroutine_threadsafe), or use a processor of this loop's own"
    )


def presentable(error: BaseException) -> Exception:
    """The error, or what stands for one that a future cannot hold or that would end who awaits it."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = ItemFailedError(describe(error))
    wrapped.__cause__ = error
    return wrapped


def describe(error: BaseException) -> str:
    """Type and message of an error on one line, masked and bounded; of one that cannot tell it, its repr."""
    return one_line(f"{type(error).__name__}: {message_of(error, object.__repr__(error))}", 1000)


def _set_result(future: asyncio.Future[Any], value: Any) -> None:
    with contextlib.suppress(RuntimeError):  # its event loop is closed, and nobody waits there any more
        future.set_result(value)


def _set_exception(future: asyncio.Future[Any], error: BaseException) -> None:
    with contextlib.suppress(RuntimeError):  # as above
        future.set_exception(error)
