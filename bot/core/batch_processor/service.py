"""The batch processor: items in, batches to a handler, each item's own result out."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from asyncio import Future
from collections.abc import Iterable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import invalid
from bot.core._shared.histogram import HistogramSnapshot
from bot.core._shared.loop_owner import still_runs
from bot.core._shared.masking import mask_secrets
from bot.core._shared.tasks import run_on_loop
from bot.core._shared.validation import YEAR, valid_count, valid_plain_name, valid_seconds
from bot.core.batch_processor.dispatcher import Dispatcher, another_loop, presentable
from bot.core.batch_processor.errors import (
    BatchClosedError,
    BatchQueueFullError,
    ResultTimeoutError,
    UnknownItemError,
)
from bot.core.batch_processor.models import (
    MAX_KEY_LENGTH,
    MAX_PRIORITY,
    BatchItem,
    BatchStatus,
    DeadLetter,
    Handler,
    ItemStatus,
    Submission,
)
from bot.core.batch_processor.retry import BatchSizer, RetryPolicy
from bot.core.phase4_service import Phase4Service

if TYPE_CHECKING:
    from bot.core.batch_processor.durable.store import Durable

logger = logging.getLogger(__name__)

_OFF = "the batch processor is off"
_ROOM_POLL = 0.05


class BatchProcessor(Phase4Service):
    """Gathers items into batches for one handler, and gives each item its own result.

    ================= ================================ =========================================
    method            when there is no room            use it
    ================= ================================ =========================================
    submit            raises BatchQueueFullError       where each result is awaited, many at once
    submit_and_wait   waits for room                   where the caller needs the result
    submit_item       (False, "", ""), with a reason   where the result is asked for later, or never
    submit_many       the same, for each item          many of those
    ================= ================================ =========================================

    An item that was taken ends in exactly one way: done, failed, or among the dead letters. What a
    submitter cancels before its batch was formed is not handled, and counts as failed.
    """

    service_name: ClassVar[str] = "batch_processor"

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._clock = clock
        self._dispatcher = Dispatcher(clock)
        self._now = clock.monotonic
        self._waiting = self._dispatcher.queue.normal
        self._drain_timeout = 10.0
        self._ending = False
        """Whether a disable has begun to end things and was not let finish."""
        self._duplicates = 0
        self._durable: Durable | None = None
        """In durable mode: this instance's share of the queue in Redis."""
        self._redis_url = ""
        self._queue_name = "default"
        self._lease = 30.0
        self._max_deliveries = 5
        self._max_item_bytes = 1_048_576

    # Lifecycle.

    @property
    def process_handler(self) -> Handler | None:
        """What handles batches: ``async (items) -> {item_id: result}``, or a list in the same order.

        An exception as a value fails that item alone, and so does leaving it out of the dict. A
        handler that raises fails the batch, which is tried again, then given up.
        """
        return self._dispatcher.handler

    @process_handler.setter
    def process_handler(self, handler: Handler) -> None:
        self._dispatcher.handler = _valid_handler(handler)
        if self._enabled and still_runs(self._dispatcher.loop):
            self._dispatcher.pump()
            if self._durable is not None:
                self._durable.wake()

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
    ) -> bool:
        """Switch on, or reconfigure; None leaves what was set before. Times are seconds.

        At first: batches of ``max_batch_size`` 100 items, started when full or ``batch_timeout`` 5
        after their first item; ``max_concurrent`` 10 handlers at once; ``max_pending`` 10,000 items
        that have not ended. ``handler_timeout`` 21,600 (six hours; 0: none). A failed batch is tried again
        ``max_retries`` 3 times, after a random delay of at most ``retry_base`` 0.5, doubled for each
        try, at most ``retry_max`` 30. With ``isolate`` a batch out of tries is halved again and
        again, each half tried once, so that only the items that make the handler fail are given up.
        ``adaptive`` searches for the batch size at which an item takes the handler the least time.
        ``drain_timeout`` 10: how long ``disable`` waits. Results are kept for ``result_ttl`` 300 and
        ``max_results`` 10,000, dead letters up to ``max_dead_letters`` 10,000.

        ``redis_url`` (at first empty: memory) is durable mode: items lie in Redis, in the queue
        ``queue_name`` "default", and every instance with that queue takes its share. What an instance
        held that is silent for ``lease`` 30 seconds goes to another one; an item that was given to
        ``max_deliveries`` 5 that ended before it was handled is given up. An item or a result may take
        ``max_item_bytes`` 1 MiB; ``max_pending`` then counts the items of all instances. While Redis is
        away the processor is on, degraded, and refuses. Neither can be changed while it is on.

        Without a handler items wait until there is one. Raises ValueError for values out of bounds.
        """
        d = self._dispatcher
        handler = d.handler if process_handler is None else _valid_handler(process_handler)
        size = valid_count("max_batch_size", max_batch_size, 1, 1_000_000, default=d.max_batch_size)
        timeout = valid_seconds("batch_timeout", batch_timeout, most=YEAR, default=d.batch_timeout)
        concurrent = valid_count("max_concurrent", max_concurrent, 1, 10_000, default=d.max_concurrent)
        pending = valid_count("max_pending", max_pending, 1, 100_000_000, default=d.max_pending)
        limit = valid_seconds(
            "handler_timeout", handler_timeout, zero=True, most=YEAR, default=d.handler_timeout
        )
        policy = RetryPolicy(
            valid_count("max_retries", max_retries, 0, 1_000, default=d.retry.max_retries),
            valid_seconds("retry_base", retry_base, most=YEAR, default=d.retry.base),
            valid_seconds("retry_max", retry_max, most=YEAR, default=d.retry.cap),
        )
        drain = valid_seconds(
            "drain_timeout", drain_timeout, zero=True, most=YEAR, default=self._drain_timeout
        )
        ttl = valid_seconds("result_ttl", result_ttl, most=YEAR, default=d.results.ttl)
        results = valid_count("max_results", max_results, 1, 100_000_000, default=d.results.limit)
        letters = valid_count(
            "max_dead_letters", max_dead_letters, 1, 100_000_000, default=d.dead_letters.limit
        )
        url = self._redis_url if redis_url is None else redis_url
        name = self._queue_name if queue_name is None else valid_plain_name("queue_name", queue_name)
        lease = valid_seconds("lease", lease, most=YEAR, default=self._lease)
        deliveries = valid_count("max_deliveries", max_deliveries, 1, 1_000_000, default=self._max_deliveries)
        item_bytes = valid_count(
            "max_item_bytes", max_item_bytes, 100, 67_108_864, default=self._max_item_bytes
        )
        async with self._transition:
            if self._ending:
                await self._end()
            if self._enabled and (url, name) != (self._redis_url, self._queue_name):
                raise invalid(
                    "redis_url, queue_name",
                    (mask_secrets(url), name),
                    "what they were: disable the batch processor first",
                )
            d.handler = handler
            d.batch_timeout, d.handler_timeout = timeout, limit
            d.max_concurrent, d.max_pending = concurrent, pending
            d.retry = policy
            d.isolate = d.isolate if isolate is None else isolate
            d.results.limit, d.results.ttl = results, ttl
            d.dead_letters.limit = letters
            wanted = d.sizer is not None if adaptive is None else adaptive
            if not wanted:
                d.sizer = None
            elif d.sizer is None or d.max_batch_size != size:
                d.sizer = BatchSizer(size)
            d.max_batch_size = size
            d.size = size if d.sizer is None else min(d.sizer.size, size)
            self._drain_timeout = drain
            loop = asyncio.get_running_loop()
            if not still_runs(d.loop):
                d.adopt(loop)
            self._redis_url, self._queue_name = url, name
            self._lease, self._max_deliveries, self._max_item_bytes = lease, deliveries, item_bytes
            if url:
                await self._begin_durable()
            d.accepting = True
            d.stopped = False
            self._enabled = True
            d.reconfigured()
            d.refresh()
            if self._durable is not None:
                self._durable.wake()
        return True

    async def _begin_durable(self) -> None:
        from bot.core.batch_processor.durable.store import Durable

        d = self._dispatcher
        durable = self._durable
        if durable is None:
            durable = Durable(d, self._clock, self._redis_url, self._queue_name)
        durable.lease, durable.max_deliveries = self._lease, self._max_deliveries
        durable.max_item_bytes = self._max_item_bytes
        if self._durable is None:
            try:
                await durable.start()
            except BaseException:
                await durable.close()
                raise
            self._durable = durable
            d.commit = durable.commit
        else:
            durable.ensure_running()

    async def disable(self) -> bool:
        """Take in nothing more, handle what is pending within the drain time, then switch off.

        What has not ended by then goes to the dead letters, and who waits for it gets
        BatchClosedError. In durable mode what no handler has begun is left in Redis at once, and what
        has not ended by then too. False if a handler went on after it was cancelled.

        Cancelled, it waits no longer for what is pending, and the processor is off all the same.
        """
        async with self._transition:
            if not self._enabled and not self._ending:
                return True
            return await self._end()

    async def _end(self) -> bool:
        d = self._dispatcher
        d.accepting = False
        d.refresh()
        clean = True

        async def end() -> None:
            nonlocal clean
            clean = await self._drain_and_stop()

        loop = d.loop
        self._ending = True
        try:
            if loop is None or not await run_on_loop(loop, end):
                d.adopt(asyncio.get_running_loop())
                await end()
        finally:
            self._enabled = False
        self._ending = False
        return clean

    async def _drain_and_stop(self) -> bool:
        d, durable = self._dispatcher, self._durable
        if durable is not None:
            try:
                try:
                    await durable.give_back_unstarted()
                except BaseException:
                    await d.stop()  # or a batch would end here that Redis hears nothing of
                    raise
                return await self._drain()
            finally:
                await durable.close()
                self._durable = d.commit = None
        try:
            clean = await self._drain()
        finally:
            left = d.remaining()
            if left:
                logger.warning(
                    "Batch processor: off with %d item(s) unhandled; dead_letters() has them",
                    len(left),
                )
                d.bury_all(left, "the batch processor was switched off before the item was handled")
        return clean

    async def _drain(self) -> bool:
        d = self._dispatcher
        try:
            if d.unfinished and d.handler is not None:
                flushed = d.flush()
                # The time of the test's clock, if it is one: a drain waits as everything here does.
                ends: list[asyncio.Future[None]] = [
                    flushed,
                    asyncio.ensure_future(self._clock.sleep(self._drain_timeout)),
                ]
                if self._durable is not None:
                    ends.append(asyncio.ensure_future(self._durable.only_redis_is_missing()))
                try:
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for end in ends:
                        end.cancel()
        finally:
            clean = await d.stop()
        return clean

    def _move_here(self) -> None:
        """Go on under this event loop if the one before has ended, as between two asyncio.run.

        Before it is asked whether there is room: what was under way there makes none until it is run.
        Raises MisuseError while that one runs, in another thread.
        """
        d = self._dispatcher
        loop = asyncio.get_running_loop()
        if d.loop is loop or not d.accepting or self._durable is not None:  # which sees to itself
            return
        if still_runs(d.loop):
            raise another_loop()
        d.adopt(loop)
        d.pump()

    # Submitting.

    def submit(self, data: Any, priority: int = 0) -> asyncio.Future[Any]:
        """Add an item and return the future of its result: the cheapest form, and not a coroutine.

        The future raises what made the item fail, or DeadLetteredError if its batch was given up.
        Cancelling it withdraws an item that is in no batch yet. Its result is kept by the future
        alone; to ask by id, or not at all, use :meth:`submit_item`. Higher priorities go first.

        In durable mode the future raises BatchQueueFullError, or RedisUnavailableError while Redis is
        away, and cancelling it withdraws nothing. What cannot travel raises InvalidArgumentError here.

        Raises BatchQueueFullError or, while the processor is off, BatchClosedError.
        """
        d = self._dispatcher
        if 0 < len(self._waiting) < d.open and priority == 0 and d.thread == get_ident() and d.runs():
            # Others wait already, and with this one the batch is not full: nothing else is to be done.
            # A thread runs one loop at a time, and asking for that one is a system call.
            future: asyncio.Future[Any] = Future(loop=d.loop)
            self._waiting.append(BatchItem(data, future, self._now()))
            return future
        self._move_here()
        if not d.accepting or (self._durable is None and d.lacks_room()):
            self._refuse()
        if priority != 0:
            _valid_priority(priority)
        if self._durable is not None:
            return self._durable.submit(data, priority)
        return d.submit(data, priority)

    async def submit_and_wait(self, data: Any, priority: int = 0, timeout: float | None = None) -> Any:
        """Add an item, waiting for room if there is none, and return its result or raise its error.

        After ``timeout`` seconds in all: ResultTimeoutError; an item in no batch yet is withdrawn then,
        as it is when the caller is cancelled. While the processor is off: BatchClosedError.
        """
        if timeout is not None:
            timeout = valid_seconds("timeout", timeout, zero=True, most=YEAR)
            try:
                async with asyncio.timeout(timeout) as deadline:
                    return await self.submit_and_wait(data, priority)
            except TimeoutError as error:
                if not deadline.expired():
                    raise
                raise ResultTimeoutError(f"no result within {timeout:g} s") from error
        if priority != 0:
            _valid_priority(priority)
        self._move_here()
        d = self._dispatcher
        if not d.accepting:
            raise BatchClosedError(_OFF)
        if self._durable is not None:
            return await self._wait_durably(data, priority)
        if not (d.lacks_room() or d.waited_for):
            return await self.submit(data, priority)
        await d.room()
        try:
            future = self.submit(data, priority)
        except BaseException:
            d.make_room()  # the place goes to the next
            raise
        return await future

    async def _wait_durably(self, data: Any, priority: int) -> Any:
        while True:
            try:
                return await self.submit(data, priority)
            except BatchQueueFullError:
                # Room is made by any instance, and Redis does not say when.
                await self._clock.sleep(_ROOM_POLL)

    async def submit_item(self, data: Any, priority: int = 0, key: str | None = None) -> Submission:
        """Add an item: ``(success, item_id, batch_id)``; at once, whether there is room or not.

        Its result is kept for :meth:`get_result`. ``key`` is an idempotency key (1 to 200
        characters), and becomes the item's id: while an item of that key is pending, or its result is
        kept, another one adds nothing, and is answered as the first was. ``success`` is False, with a
        ``reason``, when as many items are pending as are allowed and while the processor is off.
        """
        if self._durable is not None and self._dispatcher.accepting:
            item_id, value = self._for_redis(data, priority, key)
            return await self._durable.offer(item_id, value)
        return self._submit_item(data, priority, key)

    def _for_redis(self, data: Any, priority: int, key: str | None) -> tuple[str, bytes]:
        assert self._durable is not None
        _valid_priority(priority)
        if key is not None:
            _valid_key(key)
            if not key.isascii() and key.encode("utf-8", "ignore").decode() != key:
                raise invalid(
                    "key", key, "text without lone surrogates in durable mode, which UTF-8 cannot hold"
                )
        item_id = self._dispatcher.new_id() if key is None else key
        return item_id, self._durable.encode(item_id, priority, data)

    async def submit_many(
        self,
        data: Iterable[Any],
        priority: int = 0,
        *,
        keys: Iterable[str] | None = None,
        all_or_none: bool = False,
    ) -> list[Submission]:
        """:meth:`submit_item` for each, in order, with a key for each if there are ``keys``.

        ``all_or_none``: take none if not all have room.
        """
        wanted = list(data)
        ids: list[str | None] = [None] * len(wanted) if keys is None else list(keys)
        if len(ids) != len(wanted):
            raise invalid("keys", f"{len(ids)} keys", f"one for each of the {len(wanted)} items")
        _valid_priority(priority)
        d = self._dispatcher
        if self._durable is not None and d.accepting:
            pairs = [self._for_redis(one, priority, key) for one, key in zip(wanted, ids, strict=True)]
            if all_or_none:
                return await self._durable.offer_all(pairs)
            offers = [self._durable.offer(*pair) for pair in pairs]
            return [await offer for offer in offers]
        self._move_here()
        if all_or_none and d.accepting and d.lacks_room(len(wanted)):
            refused = self._full(len(wanted))
            return [refused] * len(wanted)
        return [self._submit_item(one, priority, key) for one, key in zip(wanted, ids, strict=True)]

    def _submit_item(self, data: Any, priority: int, key: str | None) -> Submission:
        d = self._dispatcher
        if priority != 0:
            _valid_priority(priority)
        if key is not None:
            _valid_key(key)
        self._move_here()
        if not d.accepting:
            return Submission.refused(_OFF, "off")
        if key is not None and d.holds_key(key):
            self._duplicates += 1
            return Submission((True, key, ""))
        if d.lacks_room():
            return self._full(1)
        item_id = d.new_id() if key is None else key
        batch_id = d.due_batch(priority)
        d.admit(BatchItem(data, None, d.now(), item_id, priority, tracked=True))
        return Submission((True, item_id, batch_id))

    def _full(self, wanted: int) -> Submission:
        d = self._dispatcher
        d.counters.refused += wanted
        # A batch's time is what it takes until there is room again.
        retry_after = d.counters.handling.mean() or d.batch_timeout
        return Submission.refused(
            f"the batch processor is full: {d.unfinished} items pending, max_pending = {d.max_pending}",
            "full",
            retry_after,
        )

    def _refuse(self) -> None:
        if not self._dispatcher.accepting:
            raise BatchClosedError(_OFF)
        raise BatchQueueFullError(self._full(1).reason)

    # Results.

    async def get_result(self, item_id: str, timeout: float | None = None) -> Any:
        """The result of an item of :meth:`submit_item`, waiting for it if need be; raises its error.

        Results are kept for a bounded time and in bounded number (``result_ttl``, ``max_results``); of
        an id that is not known (any more), UnknownItemError. After ``timeout`` seconds:
        ResultTimeoutError, and the item goes on.
        """
        if timeout is not None:
            timeout = valid_seconds("timeout", timeout, zero=True, most=YEAR)
        d = self._dispatcher
        if self._durable is not None:
            try:
                async with asyncio.timeout(timeout) as deadline:
                    return await self._durable.result(item_id)
            except TimeoutError as error:
                if not deadline.expired():
                    raise
                raise ResultTimeoutError(f"item {item_id} has no result within {timeout:g} s") from error
        self._move_here()
        if item_id not in d.tracked:
            outcome = d.results.get(item_id, d.now())
            if outcome is None:
                raise UnknownItemError(
                    f"item_id = {item_id!r}: no such item is pending, and no result of it is kept"
                )
            if outcome.error is not None:
                raise presentable(outcome.error)
            return outcome.result
        loop = asyncio.get_running_loop()
        waiter = d.waiters.get(item_id)
        if waiter is None or waiter.get_loop() is not loop:
            waiter = d.waiters[item_id] = loop.create_future()
            waiter.add_done_callback(_seen)
        try:
            async with asyncio.timeout(timeout) as deadline:
                # Shielded: others may wait for it too, and the item is not withdrawn.
                return await asyncio.shield(waiter)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise ResultTimeoutError(f"item {item_id} has no result within {timeout:g} s") from error

    async def get_item_status(self, item_id: str) -> ItemStatus | None:
        """How far an item of :meth:`submit_item` is, without waiting; None if it is not known (any more).

        In durable mode Redis is asked; RedisUnavailableError while it is away.
        """
        if self._durable is not None:
            return await self._durable.status(item_id)
        return self._dispatcher.status_of_item(item_id)

    async def get_batch_status(self, batch_id: str) -> BatchStatus | None:
        """How far a batch is; None if it is not known. The last 1,000 that ended are."""
        return self._dispatcher.status_of_batch(batch_id)

    async def flush(self, timeout: float | None = None) -> bool:
        """Start what is pending without waiting for full batches, and wait until it has ended.

        In durable mode that is all that lies in Redis, whichever instance handles it.
        False if that took longer than ``timeout`` seconds (it goes on), or if there is no handler.
        """
        if timeout is not None:
            timeout = valid_seconds("timeout", timeout, zero=True, most=YEAR)
        d = self._dispatcher
        if self._durable is not None and d.handler is not None:
            try:
                async with asyncio.timeout(timeout) as deadline:
                    await self._durable.flush()
            except TimeoutError:
                if not deadline.expired():
                    raise
                return False
            return True
        if not d.unfinished and self._durable is None:
            return True
        if d.handler is None or not self._enabled:
            return False
        self._move_here()
        flushed = d.flush()
        try:
            async with asyncio.timeout(timeout) as deadline:
                await flushed
        except TimeoutError:
            if not deadline.expired():
                raise
            return False
        return True

    # Dead letters.

    async def dead_letters(self, limit: int | None = None) -> list[DeadLetter]:
        """The items that were given up, the oldest first, at most ``limit``.

        In durable mode those of every instance, as Redis has them; RedisUnavailableError while it is away.
        """
        if self._durable is not None:
            return await self._durable.streams.letters(limit)
        return self._dispatcher.dead_letters.all()[:limit]

    async def replay(self, item_ids: Sequence[str] | None = None) -> int:
        """Submit dead letters again, all or those of ``item_ids``, under their ids; how many were.

        Those for which there is no room stay where they are, and so does one whose key another item
        has that is pending.
        """
        d = self._dispatcher
        if not d.accepting:
            return 0
        if self._durable is not None:
            return await self._durable.replay(item_ids)
        self._move_here()
        wanted = [letter.item_id for letter in d.dead_letters.all()] if item_ids is None else item_ids
        free = [item_id for item_id in wanted if item_id not in d.tracked]
        letters = d.dead_letters.take(free, max(0, d.max_pending - d.unfinished))
        for letter in letters:
            d.readmit(letter)
        return len(letters)

    async def discard_dead_letters(self, item_ids: Sequence[str] | None = None) -> int:
        """Forget dead letters, all or those of ``item_ids``; how many there were. They stay counted."""
        if self._durable is not None:
            return await self._durable.discard(item_ids)
        return len(self._dispatcher.dead_letters.take(item_ids))

    # Figures.

    async def get_statistics(self) -> dict[str, Any]:
        """Counts since the start or the last reset.

        ``submitted_items`` is always ``total_items_processed`` (done) + ``failed_items`` (those cancelled
        among them) + ``dead_lettered_items`` + ``pending_items``. In durable mode all of these are of
        the items that this instance took from Redis; see docs/batch_processor.md for the others.
        """
        d = self._dispatcher
        counters = d.counters
        now = d.now()
        waits, handling = counters.waits, counters.handling
        oldest = d.oldest_unfinished()
        durable = self._durable
        figures = {
            "enabled": self._enabled,
            "durable": durable is not None,
            "degraded": durable is not None and durable.degraded,
            "handler": d.handler is not None,
            "submitted_items": d.submitted,
            "pending_items": d.unfinished,
            "max_pending": d.max_pending,
            "total_items_processed": counters.done,
            "failed_items": counters.failed,
            "cancelled_items": counters.cancelled,
            "dead_lettered_items": counters.dead,
            "replayed_items": counters.replayed,
            "refused_items": counters.refused,
            "duplicate_items": self._duplicates,
            "pending_batches": d.pending_batches,
            "running_batches": len(d.running),
            "retrying_batches": len(d.resting),
            "completed_batches": counters.batches - counters.failed_batches,
            "failed_batches": counters.failed_batches,
            "retries": counters.retries,
            "avg_batch_size": round(counters.batched_items / counters.batches, 2)
            if counters.batches
            else 0.0,
            "batch_size": d.size,
            "throughput_items_per_sec": round(counters.throughput.rate(now), 1),
            "oldest_pending_seconds": 0.0 if oldest == math.inf else round(max(0.0, now - oldest), 3),
            "wait_ms_p50": round(waits.quantile(0.5) * 1000, 3),
            "wait_ms_p99": round(waits.quantile(0.99) * 1000, 3),
            "handler_ms_p50": round(handling.quantile(0.5) * 1000, 3),
            "handler_ms_p99": round(handling.quantile(0.99) * 1000, 3),
            "dead_letters": len(d.dead_letters),
            "results_kept": len(d.results),
        }
        if durable is not None:
            figures |= {
                "duplicate_items": durable.known,
                "dead_letters": durable.letters,
                "stream_length": durable.length,
                "enqueued_items": durable.enqueued,
                "reclaimed_items": durable.reclaimed,
                "redelivered_items": durable.redelivered,
                "given_back_items": durable.given_back,
                "settled_elsewhere_items": durable.settled_elsewhere,
                "results_not_kept": durable.unkept,
            }
        return figures

    async def reset_statistics(self) -> None:
        """Counters to zero; items that are pending count as submitted now."""
        self._dispatcher.reset_counters()
        self._duplicates = 0
        if self._durable is not None:
            self._durable.reset_counters()

    def histograms(self) -> list[HistogramSnapshot]:
        """How long items waited for their batch, and how long the handler took."""
        counters = self._dispatcher.counters
        return [
            counters.waits.snapshot(
                "batch_wait_seconds", "Seconds from an item's submission to its batch being formed"
            ),
            counters.handling.snapshot("batch_handler_seconds", "Seconds that one run of the handler took"),
        ]

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree. For tests."""
        self._dispatcher.check_invariants()


def _seen(future: asyncio.Future[Any]) -> None:
    """Its error is kept for who asks again; nobody need have waited."""
    if not future.cancelled():
        future.exception()


def _valid_handler(handler: object) -> Handler:
    if not callable(handler):
        raise invalid("process_handler", handler, "an async function of a list of items")
    try:
        inspect.signature(handler).bind([])
    except ValueError:
        pass  # a callable without a signature to be read
    except TypeError as error:
        raise invalid("process_handler", handler, f"a function of one list of items ({error})") from None
    return handler


def _valid_priority(priority: object) -> None:
    if priority.__class__ is not int or not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise invalid("priority", priority, f"a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}")


def _valid_key(key: object) -> None:
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise invalid("key", key, f"a string of 1 to {MAX_KEY_LENGTH} characters")
