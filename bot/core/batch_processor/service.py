"""The batch processor: items in, batches to a handler, each item's own result out."""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections.abc import Iterable
from datetime import datetime, timedelta
from threading import get_ident
from typing import Any, ClassVar

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import invalid
from bot.core._shared.histogram import HistogramSnapshot
from bot.core._shared.loop_owner import still_runs
from bot.core._shared.masking import mask_secrets
from bot.core._shared.tasks import run_on_loop
from bot.core._shared.validation import YEAR, valid_seconds
from bot.core.batch_processor.checks import check_priority
from bot.core.batch_processor.dispatcher import Dispatcher
from bot.core.batch_processor.errors import ResultTimeoutError, presentable
from bot.core.batch_processor.figures import figures_of, histograms_of, status_of_batch
from bot.core.batch_processor.handler import valid_handler
from bot.core.batch_processor.lanes import valid_lane, valid_lanes
from bot.core.batch_processor.letter_calls import DeadLetterCalls
from bot.core.batch_processor.lifecycle import State
from bot.core.batch_processor.measuring import check_size_of, measure_by
from bot.core.batch_processor.memory_store import MemoryStore
from bot.core.batch_processor.models import (
    BatchItem,
    BatchStatus,
    Handler,
    ItemStatus,
    Lane,
    Submission,
)
from bot.core.batch_processor.sizes import SizeOf
from bot.core.batch_processor.store import Store
from bot.core.batch_processor.terms import keys_for, terms_of
from bot.core.batch_processor.timed_calls import TimedCalls
from bot.core.phase4_config.batch_processor import BatchProcessorSettings
from bot.core.phase4_statistics.batch_processor import BatchProcessorFigures

logger = logging.getLogger(__name__)


class BatchProcessor(DeadLetterCalls, TimedCalls):
    """Collects items into batches for one handler, and gives each item its own result.

    ================= ================================ =========================================
    method            when there is no room            use it
    ================= ================================ =========================================
    submit            raises BatchQueueFullError       where each result is awaited, many at once
    submit_and_wait   waits for room                   where the caller needs the result
    submit_item       (False, "", ""), with a reason   where the result is asked for later, or never
    submit_many       the same, for each item          many of those
    ================= ================================ =========================================

    An accepted item ends in exactly one state: done, failed, or dead-lettered. An item that is cancelled
    before its batch was formed is not handled, and counts as failed.
    """

    service_name: ClassVar[str] = "batch_processor"
    flag: ClassVar[str] = "ENABLE_BATCH_PROCESSOR"
    while_off: ClassVar[str] = "items are refused"

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._clock = clock
        self._dispatcher = Dispatcher(clock)
        self._now = clock.monotonic
        self._waiting = self._dispatcher.backlog.queue.normal
        self._settings = BatchProcessorSettings()
        self._memory = MemoryStore(self._dispatcher, clock, self._used_while_off)
        self._store: Store = self._memory
        """Where items are: in durable mode, while it is on, Redis."""

    # Lifecycle.

    @property
    def enabled(self) -> bool:
        """Whether it handles items; True while it is being switched off and handles pending items."""
        return self._dispatcher.state in (State.ON, State.DRAINING)

    @property
    def process_handler(self) -> Handler | None:
        """The handler of batches: ``async (items) -> {item_id: result}``, or a list in the same order.

        An exception as a value fails that item alone, and so does leaving it out of the dict. A
        handler that raises fails the batch, which is tried again, then given up.
        """
        return self._dispatcher.handler.function

    @process_handler.setter
    def process_handler(self, handler: Handler) -> None:
        self._dispatcher.handler.function = valid_handler(handler)
        loop = self._dispatcher.loop
        if not self.enabled or loop is None or not still_runs(loop):
            return
        if loop is asyncio._get_running_loop():
            self._go_on()
        else:
            loop.call_soon_threadsafe(self._go_on)

    def _go_on(self) -> None:
        """Handle what waited for a handler."""
        self._dispatcher.pump()
        self._store.wake()

    async def enable(
        self,
        process_handler: Handler | None = None,
        max_batch_size: int | None = None,
        batch_timeout: float | None = None,
        max_concurrent: int | None = None,
        max_pending: int | None = None,
        *,
        handler_timeout: float | None = None,
        max_retries: int | None = None,
        retry_base: float | None = None,
        retry_max: float | None = None,
        retry_after_max: float | None = None,
        isolate: bool | None = None,
        adaptive: bool | None = None,
        drain_timeout: float | None = None,
        result_ttl: float | None = None,
        max_results: int | None = None,
        max_dead_letters: int | None = None,
        redis_url: str | None = None,
        queue_name: str | None = None,
        lease: float | None = None,
        max_deliveries: int | None = None,
        max_item_bytes: int | None = None,
        max_batch_bytes: int | None = None,
        size_of: SizeOf | None = None,
    ) -> bool:
        """Switch on, or reconfigure; None leaves what was set before. Times are seconds.

        At first: batches of ``max_batch_size`` 100 items, started when full or ``batch_timeout`` 5 after
        their first item; ``max_concurrent`` 10 handlers at once; ``max_pending`` 10,000 items that have not
        ended. ``handler_timeout`` 21,600 (six hours; 0: none). A failed batch is tried again
        ``max_retries`` 3 times, after a random delay of at most ``retry_base`` 0.5, doubled for each try,
        at most ``retry_max`` 30. An error with ``retry_after`` waits at least so long, ``retry_after_max``
        3,600 at most, and uses up no retry. With ``isolate``, a batch without retries left is halved again
        and again and each half is tried once, so that only the failing items are given up. ``adaptive``
        searches for
        the batch size with the shortest handler time per item. ``drain_timeout`` 10: how long ``disable``
        waits. Results are kept for ``result_ttl`` 300 and ``max_results`` 10,000, dead letters up to
        ``max_dead_letters`` 10,000.

        With ``max_batch_bytes`` (at first 0: any number) a batch has at most so many bytes of data, or one
        larger item. ``size_of(data)`` tells them; without it they count as bytes, UTF-8 or MessagePack.

        ``redis_url`` (at first empty: memory) switches durable mode on: items are in Redis, in the queue
        ``queue_name`` "default", and all instances with that queue share the work. If an instance does not
        renew its leases for ``lease`` 30 seconds, another one takes over its items. An item is given up
        after ``max_deliveries`` 5 deliveries to instances that ended before it was handled. An item or a
        result may have ``max_item_bytes`` 1 MiB; ``max_pending`` then counts the items of all instances.
        While Redis is unreachable, the processor is on, degraded, and refuses items. Neither ``redis_url``
        nor ``queue_name`` can be changed while it is on.

        Without a handler items wait until there is one. Raises ValueError for values out of bounds.
        """
        d = self._dispatcher
        handler = d.handler.function if process_handler is None else valid_handler(process_handler)
        check_size_of(size_of)
        async with self._transition:
            if d.state not in (State.OFF, State.ON):
                await self._end()
            before = self._settings
            settings = before.changed(
                max_batch_size=max_batch_size,
                batch_timeout=batch_timeout,
                max_concurrent=max_concurrent,
                max_pending=max_pending,
                handler_timeout=handler_timeout,
                max_retries=max_retries,
                retry_base=retry_base,
                retry_max=retry_max,
                retry_after_max=retry_after_max,
                isolate=isolate,
                adaptive=adaptive,
                drain_timeout=drain_timeout,
                result_ttl=result_ttl,
                max_results=max_results,
                max_dead_letters=max_dead_letters,
                redis_url=redis_url,
                queue_name=queue_name,
                lease=lease,
                max_deliveries=max_deliveries,
                max_item_bytes=max_item_bytes,
                max_batch_bytes=max_batch_bytes,
            )
            queue = settings.redis_url, settings.queue_name
            if d.state is State.ON and queue != (before.redis_url, before.queue_name):
                raise invalid(
                    "redis_url, queue_name",
                    (mask_secrets(settings.redis_url), settings.queue_name),
                    "what they were: disable the batch processor first",
                )
            d.handler.function = handler
            measure_by(d.backlog.queue.sizes, size_of)
            d.configure(settings)
            loop = asyncio.get_running_loop()
            if not still_runs(d.loop):
                d.adopt(loop)
            self._settings = settings
            if settings.redis_url:
                await self._begin_durable()
            d.state = State.ON
            self._off_is_known = True
            d.reconfigured()
            d.refresh()
            self._store.wake()
        return True

    async def _begin_durable(self) -> None:
        from bot.core.batch_processor.durable.store import RedisStore

        store = self._store
        running = isinstance(store, RedisStore)
        if not isinstance(store, RedisStore):
            store = RedisStore(
                self._dispatcher, self._clock, self._settings.redis_url, self._settings.queue_name
            )
        store.limits.configure(self._settings)
        if running:
            store.ensure_running()
            return
        try:
            await store.start()
        except BaseException:
            await store.close()
            raise
        self._store = store

    async def disable(self) -> bool:
        """Accept no more items, handle the pending ones within the drain time, then switch off.

        Items that are unfinished by then go to the dead letters, and their submitters get BatchClosedError.
        In durable mode they stay in Redis; items that no handler has begun are left to other instances at
        once. False if a handler continued after it was cancelled.

        If it is cancelled, it stops waiting for pending items, and the processor is still switched off.
        """
        async with self._transition:
            if self._dispatcher.state is State.OFF:
                return True
            return await self._end()

    async def _end(self) -> bool:
        d = self._dispatcher
        d.state = State.DRAINING
        d.refresh()
        clean = True

        async def end() -> None:
            nonlocal clean
            store = self._store
            try:
                clean = await store.drain(self._settings.drain_timeout)
            finally:
                try:
                    await store.close()
                finally:
                    # Closed even if that was cancelled: closed again, it would give back another's link.
                    self._store = self._memory

        loop = d.loop
        try:
            if loop is None or not await run_on_loop(loop, end):
                d.adopt(asyncio.get_running_loop())
                await end()
        except BaseException:
            d.state = State.STOPPING  # and the next one finishes it
            raise
        d.state = State.OFF
        return clean

    async def find_warnings(self) -> list[str]:
        """Problems of the Redis of durable mode."""
        return await self._store.find_warnings()

    # Submitting.

    def submit(self, data: Any, priority: int = 0, *, lane: Lane | None = None) -> asyncio.Future[Any]:
        """Add an item and return the future of its result: the cheapest form, and not a coroutine.

        The future raises the item's error, or DeadLetteredError if its batch was given up. Cancelling it
        withdraws an item that is in no batch yet. Only the future keeps the result; if you need the result
        by id, or not at all, use :meth:`submit_item`. Higher priorities go first. ``lane`` names a user or a
        chat whose items are handled one at a time, in the order of their submission.

        In durable mode the future raises BatchQueueFullError, or RedisUnavailableError while Redis is away,
        and cancelling it withdraws nothing. Data that cannot be stored in Redis raises InvalidArgumentError
        here.

        Raises BatchQueueFullError or, while the processor is off, BatchClosedError.
        """
        d = self._dispatcher
        if (
            0 < len(self._waiting) < d.open
            and priority == 0
            and lane is None
            and d.thread == get_ident()
            and d.runs()
        ):
            # Others wait already, and with this one the batch is not full: nothing else is to be done.
            # A thread runs one loop at a time, and asking for that one is a system call.
            future: asyncio.Future[Any] = Future(loop=d.loop)
            self._waiting.append(BatchItem(data, future, self._now()))
            return future
        return self._store.submit(data, priority, None if lane is None else valid_lane(lane))

    async def submit_and_wait(
        self,
        data: Any,
        priority: int = 0,
        timeout: float | None = None,
        *,
        lane: Lane | None = None,
        delay: float | timedelta | None = None,
        not_before: float | datetime | None = None,
    ) -> Any:
        """Add an item, waiting for room if there is none, and return its result or raise its error.

        After ``timeout`` seconds in all: ResultTimeoutError; an item in no batch yet is withdrawn then,
        as it is when the caller is cancelled. While the processor is off: BatchClosedError. ``delay`` and
        ``not_before`` are as in :meth:`submit_item`.
        """
        if timeout is not None:
            timeout = valid_seconds("timeout", timeout, zero=True, most=YEAR)
            try:
                async with asyncio.timeout(timeout) as deadline:
                    return await self.submit_and_wait(
                        data, priority, lane=lane, delay=delay, not_before=not_before
                    )
            except TimeoutError as error:
                if not deadline.expired():
                    raise
                raise ResultTimeoutError(f"no result within {timeout:g} s") from error
        if priority != 0:
            check_priority(priority)
        if lane is not None:
            lane = valid_lane(lane)
        if delay is not None or not_before is not None:
            terms = terms_of(priority, delay, not_before, False, self._clock.time())
            return await self._store.result_of_timed(data, lane, terms)
        if self._store.may_wait_for_room():
            return await self._store.submit_when_room(data, priority, lane)
        return await (
            self.submit(data, priority) if lane is None else self._store.submit(data, priority, lane)
        )

    async def submit_item(
        self,
        data: Any,
        priority: int = 0,
        key: str | None = None,
        *,
        lane: Lane | None = None,
        delay: float | timedelta | None = None,
        not_before: float | datetime | None = None,
        replace: bool = False,
    ) -> Submission:
        """Add an item: ``(success, item_id, batch_id)``; at once, whether there is room or not.

        Its result is kept for :meth:`get_result`. ``key`` is an idempotency key (1 to 200 characters), and
        becomes the item's id: while an item of that key is pending, or its result is kept, another
        submission adds nothing and gets the same answer. ``success`` is False, with a ``reason``, if the
        queue is full or the processor is off.

        ``lane`` is a user or a chat, a whole number or a string. Of the items of one lane, one at a time is
        handled, in the order of their submission; a batch holds at most one of them. One whose batch is to
        be tried again keeps its lane waiting. Lanes take turns. A priority has no meaning inside a lane.
        ``batch_id`` is empty for an item that waits for others of its lane.

        ``delay`` (seconds, or a timedelta) or ``not_before`` (Unix time, or a datetime with a time zone), a
        year ahead at most: it is not handled before. It counts as pending meanwhile; :meth:`flush` does not
        wait for it. ``replace``: the last submission of ``key`` wins. The data of a pending item are
        replaced, and it keeps its place, its priority and its lane; with ``delay`` or ``not_before`` it
        waits anew. If a handler has it, the new one comes after it. ``get_result`` gives the result of the
        newest. ``batch_id`` is then empty.
        """
        if replace is not False or delay is not None or not_before is not None:
            terms = terms_of(priority, delay, not_before, replace, self._clock.time())
            return (
                await self._store.submit_timed(
                    [data], keys_for(replace, [key]), valid_lanes(lane, None, 1), terms, False
                )
            )[0]
        answer = self._store.submit_item(data, priority, key, None if lane is None else valid_lane(lane))
        return answer if isinstance(answer, Submission) else await answer

    async def submit_many(
        self,
        data: Iterable[Any],
        priority: int = 0,
        *,
        keys: Iterable[str] | None = None,
        all_or_none: bool = False,
        lane: Lane | None = None,
        lanes: Iterable[Lane | None] | None = None,
        delay: float | timedelta | None = None,
        not_before: float | datetime | None = None,
        replace: bool = False,
    ) -> list[Submission]:
        """:meth:`submit_item` for each, in order, with a key for each if there are ``keys``.

        ``all_or_none``: accept no item if there is no room for all of them. ``lane`` is the lane of all of
        them; ``lanes`` has one for each, or None for none. ``delay``, ``not_before`` and ``replace`` hold for
        all of them.
        """
        wanted = list(data)
        ids: list[str | None] = [None] * len(wanted) if keys is None else list(keys)
        if len(ids) != len(wanted):
            raise invalid("keys", f"{len(ids)} keys", f"one for each of the {len(wanted)} items")
        check_priority(priority)
        in_lanes = valid_lanes(lane, lanes, len(wanted))
        if replace is not False or delay is not None or not_before is not None:
            terms = terms_of(priority, delay, not_before, replace, self._clock.time())
            return await self._store.submit_timed(
                wanted, keys_for(replace, ids), in_lanes, terms, all_or_none
            )
        return await self._store.submit_many(wanted, priority, ids, in_lanes, all_or_none)

    # Results.

    async def get_result(self, item_id: str, timeout: float | None = None) -> Any:
        """Wait for the result of an item of :meth:`submit_item` and return it, or raise the item's error.

        Results are kept for a bounded time and in bounded number (``result_ttl``, ``max_results``); an id
        that is not known (any more) raises UnknownItemError. After ``timeout`` seconds ResultTimeoutError
        is raised, and the item stays pending.
        """
        if timeout is not None:
            timeout = valid_seconds("timeout", timeout, zero=True, most=YEAR)
        outcome = self._store.known_outcome(item_id)
        if outcome is not None:
            if outcome.error is not None:
                raise presentable(outcome.error)
            return outcome.result
        try:
            async with asyncio.timeout(timeout) as deadline:
                return await self._store.result(item_id)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise ResultTimeoutError(f"item {item_id} has no result within {timeout:g} s") from error

    async def get_item_status(self, item_id: str) -> ItemStatus | None:
        """The state of an item of :meth:`submit_item`, without waiting; None if it is not known (any more).

        In durable mode Redis is asked; RedisUnavailableError while it is away.
        """
        return await self._store.status(item_id)

    async def get_batch_status(self, batch_id: str) -> BatchStatus | None:
        """The state of a batch; None if it is not known. The last 1,000 finished batches are known."""
        return status_of_batch(self._dispatcher, batch_id)

    async def flush(self, timeout: float | None = None) -> bool:
        """Start all pending items without waiting for full batches, and wait until they have ended.

        In durable mode these are all items in Redis, whichever instance handles them. False if this took
        longer than ``timeout`` seconds (the items are still handled), or if there is no handler.
        """
        if timeout is not None:
            timeout = valid_seconds("timeout", timeout, zero=True, most=YEAR)
        try:
            async with asyncio.timeout(timeout) as deadline:
                return await self._store.flush()
        except TimeoutError:
            if not deadline.expired():
                raise
            return False

    # Figures.

    def snapshot(self) -> BatchProcessorFigures:
        """Counts since the start or the last reset.

        ``submitted_items`` is always ``total_items_processed`` (done) + ``failed_items`` (those cancelled
        among them) + ``dead_lettered_items`` + ``replaced_items`` + ``pending_items``. In durable mode all of
        these are of the items that this instance took from Redis; see docs/batch_processor.md for the others.
        """
        return figures_of(self._dispatcher, self._store, enabled=self.enabled)

    async def reset_statistics(self) -> None:
        """Counters to zero; items that are pending count as submitted now."""
        self._dispatcher.reset_counters()
        self._memory.reset_counters()
        self._store.reset_counters()

    def histograms(self) -> list[HistogramSnapshot]:
        """How long items waited for their batch, and how long the handler took."""
        return histograms_of(self._dispatcher.outcomes.counters)

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree. For tests."""
        self._dispatcher.check_invariants()
