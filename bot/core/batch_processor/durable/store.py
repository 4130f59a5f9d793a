"""Durable mode: items lie in a Redis stream until they have ended, and every instance takes its share.

An instance reads ahead what its handlers can take, holds each entry by a lease that it refreshes, and
ends entries only after the handler has. What an instance held that lives no more is claimed by
another one when the lease is over: at least once, therefore, and in the order of the stream only as
far as one instance reads. Source: the Redis documentation, "Streams", consumer groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from bot.core._shared.backoff import exponential
from bot.core._shared.clock import Clock
from bot.core._shared.errors import BackendError, CorruptPayloadError, UnsupportedValueError, invalid
from bot.core._shared.loop_owner import LoopOwner, still_runs
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks
from bot.core.batch_processor.dispatcher import REVIVAL, Dispatcher, another_loop, describe
from bot.core.batch_processor.durable.streams import (
    ADDED,
    FULL,
    LOST,
    PENDING,
    Delivery,
    Settlement,
    Streams,
)
from bot.core.batch_processor.durable.values import (
    AT_ONCE,
    BYTES_AT_ONCE,
    OutcomeState,
    StoredOutcome,
    letter_value,
    outcome_of,
    outcome_value,
    value_of,
    wanted_of,
)
from bot.core.batch_processor.errors import (
    BatchClosedError,
    BatchQueueFullError,
    DeadLetteredError,
    ItemFailedError,
    LostItemError,
    ResultNotKeptError,
    UnknownItemError,
)
from bot.core.batch_processor.models import Batch, BatchItem, DeadLetter, ItemStatus, Submission
from bot.core.redis_link import RedisLink, RedisRefusedError, RedisUnavailableError

logger = logging.getLogger(__name__)

BLOCK = 200
"""Milliseconds that a read waits for entries; well within the link's timeout."""

POLL_FIRST, POLL_LONGEST = 0.02, 0.25
"""Seconds between looks for results that another instance may have written."""

PAUSE_FIRST, PAUSE_LONGEST = 0.05, 1.0
"""Seconds after a failed call."""

AWAY = 1.0
"""Seconds for which Redis may be away before a stop waits for it no longer."""

SILENT_CONSUMERS = 3_600.0
"""Seconds without a sign after which a consumer that holds nothing is forgotten."""


class _Offer:
    """An item on its way to Redis; ``future`` is of its result, or of the answer to its submission."""

    __slots__ = ("future", "item_id", "of_result", "value")

    def __init__(self, item_id: str, value: bytes, future: asyncio.Future[Any], of_result: bool) -> None:
        self.item_id = item_id
        self.value = value
        self.future = future
        self.of_result = of_result


class _Held(NamedTuple):
    """An item that this instance holds, and its entry's value, which no handler can change."""

    item: BatchItem
    value: bytes


class Durable:
    """One instance's share of a queue in Redis, between its dispatcher and the stream.

    Calls may be cancelled at any time. What was under way then counts as not done: an item is
    perhaps added though its submitter was not told, an entry read stays leased until it is claimed.
    """

    def __init__(self, dispatcher: Dispatcher, clock: Clock, url: str, name: str) -> None:
        self._d = dispatcher
        self._clock = clock
        self.url = url
        self.name = name
        self._link = RedisLink.shared(url)
        self.streams = Streams(self._link, name)
        self._consumer = dispatcher.prefix
        # Settings; the service sets them.
        self.lease = 30.0
        self.max_deliveries = 5
        self.max_item_bytes = 1_048_576
        # Entries that this instance holds, each in the dispatcher. Changed by _take, commit and the
        # methods that let go.
        self._held: dict[bytes, _Held] = {}
        self._held_ids: set[str] = set()
        self._alone: bytes | None = None
        """The entry that is handled alone now, because its instances died too often."""
        self._outbox: deque[_Offer] = deque()
        self._unconfirmed: set[str] = set()
        self._tasks = BackgroundTasks()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner = LoopOwner(self._forked)
        self._sending: asyncio.Task[None] | None = None
        self._polling: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._draining = False
        """Nothing more is read or claimed; what is held is refreshed until :meth:`close`."""
        self._stopping = False
        self._refused: set[str] = set()
        """What Redis refuses now, of reading, keeping and settling."""
        self._poll_delay = POLL_FIRST
        self._wake_reader = asyncio.Event()
        self._wake_keeper = asyncio.Event()
        self._read_count = AT_ONCE
        self._committing = 0
        """Batches that the handler is done with and Redis not yet. Changed by commit."""
        # Figures.
        self.length = 0
        self.letters = 0
        self.reset_counters()

    def reset_counters(self) -> None:
        self.enqueued = self.known = self.reclaimed = self.redelivered = 0
        self.given_back = self.settled_elsewhere = self.unkept = 0

    @property
    def degraded(self) -> bool:
        """Whether Redis is away, or refuses."""
        return bool(self._refused) or not self._link.available

    # Lifecycle.

    async def start(self) -> None:
        """Begin; without Redis too. Raises RedisUnavailableError if the client library is missing."""
        self._link.client()
        self.ensure_running()
        with contextlib.suppress(BackendError):  # the log has it; the reader tries again
            await self.streams.make_group()
            self.length, self.letters = await self.streams.tidy(int(SILENT_CONSUMERS * 1000))

    def ensure_running(self) -> None:
        """Go on under the running event loop, if the one before runs no more.

        Raises MisuseError while that one runs, in another thread: its futures cannot be awaited here.
        """
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if still_runs(self._loop):
            raise another_loop()
        self._owner.claim()
        self._consumer = self._d.prefix  # another one in a child after a fork
        if self._loop is not None:
            # Who waited under that loop waits no more.
            self._outbox.clear()
            self._unconfirmed.clear()
            self._d.waiters.clear()
            if self._d.loop is not loop:
                self._d.adopt(loop)
        self._loop = loop
        self._draining = self._stopping = False
        self._wake_reader, self._wake_keeper = asyncio.Event(), asyncio.Event()
        self._sending = self._polling = None
        self._start_reader()
        self._start_keeper()
        loop.call_soon(self._d.pump)

    def _forked(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a child: what is held, and on its way to Redis, is the parent's."""
        self._held.clear()
        self._held_ids.clear()
        self._alone = None
        self._outbox.clear()
        self._unconfirmed.clear()
        self._tasks = BackgroundTasks()
        self._sending = self._polling = self._reading = None

    def _start_reader(self) -> None:
        if not self._draining:
            self._reading = self._tasks.spawn(
                self._forever("read", self._read_some, lambda: self._draining), name="batch-reader"
            )
            self._restart_if_cancelled(self._reading, self._start_reader)

    def _start_keeper(self) -> None:
        if not self._stopping:
            keeping = self._tasks.spawn(
                self._forever("keep", self._keep, lambda: self._stopping), name="batch-keeper"
            )
            self._restart_if_cancelled(keeping, self._start_keeper)

    def _restart_if_cancelled(self, task: asyncio.Task[None], start: Callable[[], None]) -> None:
        """See to it that what somebody else cancels goes on, begun or not."""
        loop = task.get_loop()

        def restart() -> None:
            if self._loop is loop:
                start()

        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled() and not self._stopping and not loop.is_closed():
                # Soon, not at once: this may be an event loop on its way out, that cancels all it has.
                loop.call_later(REVIVAL, restart)

        task.add_done_callback(ended)

    def wake(self) -> None:
        """There may be room, or a handler, that was not there before."""
        _signal(self._wake_reader)

    async def give_back_unstarted(self) -> None:
        """Read no more, and leave to others what is in no running batch."""
        self._draining = True
        _signal(self._wake_reader)
        _signal(self._wake_keeper)
        sending = self._sending
        waiting = {task for task in (self._reading, sending) if task is not None and not task.done()}
        mine = {task for task in waiting if task.get_loop() is asyncio.get_running_loop()}
        if mine:
            # A read that is cut off leaves entries that others get only when the lease is over.
            await asyncio.wait(mine, timeout=self._link.timeout + 0.5)
        await self._let_go(self._d.remaining(), begun=False)

    async def only_redis_is_missing(self) -> None:
        """Wait until every batch is handled but Redis, which has to be told, stays away for a moment."""
        since = None
        while since is None or self._clock.monotonic() - since < AWAY:
            waits_for_redis = self._committing >= len(self._d.running) and not self._d.ready
            if not waits_for_redis or self._link.available:
                since = None
            elif since is None:
                since = self._clock.monotonic()
            await self._clock.sleep(PAUSE_FIRST)

    async def close(self) -> None:
        """End every task and leave to others what is held; who waits here gets BatchClosedError."""
        self._draining = self._stopping = True
        try:
            await self._tasks.stop()
        finally:
            self._loop = None
            for waiter in list(self._d.waiters.values()):
                _fail(
                    waiter, BatchClosedError("the batch processor was switched off; its items are in Redis")
                )
            self._d.waiters.clear()
            for offer in self._outbox:
                _fail(offer.future, BatchClosedError("the batch processor was switched off"))
            self._outbox.clear()
            self._unconfirmed.clear()
        try:
            await self._let_go(self._d.remaining(), begun=True)
            with contextlib.suppress(BackendError):
                await self.streams.leave(self._consumer)
        finally:
            await self._link.release()

    async def _let_go(self, items: Sequence[BatchItem], *, begun: bool) -> None:
        """``begun``: the handler may have been given them. An orderly stop counts as no delivery."""
        self._d.forget(items)
        for item in items:
            self._drop(item.entry)
        self.given_back += len(items)
        try:
            for was_begun in (False, True):
                # What was begun before is for the next handler to know, however often it is handed on.
                pairs = [
                    (item.entry, item.counted - 1)
                    for item in items
                    if (begun or item.attempts > 0 or item.deliveries > item.counted) is was_begun
                ]
                for start in range(0, len(pairs), AT_ONCE):
                    part = pairs[start : start + AT_ONCE]
                    await self.streams.give_back(self._consumer, part, begun=was_begun)
        except BackendError as error:
            logger.warning(
                "%d item(s) could not be given back, and are taken over in %g s: %s",
                len(items), self.lease, one_line(error),
            )  # fmt: skip

    def _drop(self, entry: bytes) -> None:
        held = self._held.pop(entry, None)
        if held is not None:
            self._held_ids.discard(held.item.item_id)
        if self._alone == entry:
            self._alone = None
            _signal(self._wake_keeper)

    async def _forever(
        self, what: str, step: Callable[[], Coroutine[Any, Any, None]], ended: Callable[[], bool]
    ) -> None:
        """``await step()`` again and again until ``ended()``; a failure of Redis makes a pause."""
        failures = 0
        while not ended():
            try:
                await step()
                failures = 0
            except BackendError as error:
                failures += 1
                await self._recover(what, error, failures)

    async def _recover(self, what: str, error: BackendError, failures: int) -> None:
        if isinstance(error, RedisRefusedError) and _no_group(error):
            # Redis has lost the stream, or it is new: then nothing is wrong.
            with contextlib.suppress(BackendError):
                await self.streams.make_group()
                return
        elif not isinstance(error, RedisUnavailableError) and what not in self._refused:
            # That Redis is away is the link's to say.
            self._refused.add(what)
            logger.warning(
                "Redis refuses to let durable batches %s, and is asked again: %s", what, one_line(error)
            )
        await self._clock.sleep(exponential(failures, PAUSE_FIRST, PAUSE_LONGEST))

    def _fine(self, what: str) -> None:
        if what in self._refused:
            self._refused.discard(what)
            logger.warning("Redis lets durable batches %s again", what)

    # Submitting.

    def encode(self, item_id: str, priority: int, data: Any) -> bytes:
        """An entry's value. Raises InvalidArgumentError for what cannot travel."""
        try:
            value = value_of(item_id, priority, data)
        except UnsupportedValueError as error:
            raise invalid(
                "data",
                type(data).__qualname__,
                "plain data in durable mode (str, bytes, numbers, None, lists, dicts, tuples, sets, dates, "
                f"Decimal, UUID); this cannot travel to Redis: {error}",
            ) from error
        if len(value) > self.max_item_bytes:
            raise invalid(
                "data",
                f"{len(value):,} bytes as MessagePack",
                f"at most max_item_bytes = {self.max_item_bytes:,}",
            )
        return value

    def submit(self, data: Any, priority: int) -> asyncio.Future[Any]:
        """A future of the item's result, whichever instance handles it."""
        self.ensure_running()
        item_id = self._d.new_id()
        value = self.encode(item_id, priority, data)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._d.waiters[item_id] = future
        future.add_done_callback(lambda done: self._forget_waiter(item_id, done))
        self._offer(_Offer(item_id, value, future, True))
        return future

    def offer(self, item_id: str, value: bytes) -> asyncio.Future[Submission]:
        """A future of the answer to a submission."""
        self.ensure_running()
        future: asyncio.Future[Submission] = asyncio.get_running_loop().create_future()
        self._offer(_Offer(item_id, value, future, False))
        return future

    async def offer_all(self, pairs: Sequence[tuple[str, bytes]]) -> list[Submission]:
        """All of them, or none if not all have room."""
        self.ensure_running()
        try:
            codes, length = await self.streams.add(pairs, self._d.max_pending, all_or_none=True)
        except BackendError as error:
            return [self._unavailable(error)] * len(pairs)
        self.length = length
        return [self._answer(item_id, code) for (item_id, _), code in zip(pairs, codes, strict=True)]

    def _forget_waiter(self, item_id: str, future: asyncio.Future[Any]) -> None:
        if self._d.waiters.get(item_id) is future:
            del self._d.waiters[item_id]

    def _offer(self, offer: _Offer) -> None:
        self._outbox.append(offer)
        self._unconfirmed.add(offer.item_id)
        self._start_sender()

    def _start_sender(self) -> None:
        if self._outbox and not self._stopping and (self._sending is None or self._sending.done()):
            # It begins on the next turn of the loop: what is submitted in this one travels with it.
            self._sending = self._tasks.spawn(self._send(), name="batch-sender")
            self._restart_if_cancelled(self._sending, self._start_sender)

    async def _send(self) -> None:
        while self._outbox:
            offers: list[_Offer] = []
            size = 0
            while self._outbox and len(offers) < AT_ONCE and size < BYTES_AT_ONCE:
                offers.append(self._outbox.popleft())
                size += len(offers[-1].value)
            try:
                codes, self.length = await self.streams.add(
                    [(offer.item_id, offer.value) for offer in offers], self._d.max_pending
                )
            except BackendError as error:
                for offer in offers:
                    self._unconfirmed.discard(offer.item_id)
                    if offer.of_result:
                        _fail(offer.future, type(error)(self._unavailable(error).reason))
                    else:
                        _give(offer.future, self._unavailable(error))
            except asyncio.CancelledError:
                for offer in offers:
                    self._unconfirmed.discard(offer.item_id)
                    _fail(offer.future, BatchClosedError("the batch processor was switched off meanwhile"))
                raise
            else:
                for offer, code in zip(offers, codes, strict=True):
                    self._unconfirmed.discard(offer.item_id)
                    answer = self._answer(offer.item_id, code)
                    if not offer.of_result:
                        _give(offer.future, answer)
                    elif not answer.success:
                        _fail(offer.future, BatchQueueFullError(answer.reason))
                if self._d.waiters:
                    self._poll_soon()

    def _answer(self, item_id: str, code: int) -> Submission:
        if code == FULL:
            self._d.counters.refused += 1
            return Submission.refused(
                f"the batch processor is full: {self.length} items pending in Redis, "
                f"max_pending = {self._d.max_pending}",
                "full",
                self._d.counters.handling.mean() or self._d.batch_timeout,
            )
        if code == ADDED:
            self.enqueued += 1
        else:
            self.known += 1
        return Submission((True, item_id, ""))

    def _unavailable(self, error: BackendError) -> Submission:
        self._d.counters.refused += 1
        doubt = "; whether the item was added is not known" if _may_have_arrived(error) else ""
        return Submission.refused(f"{error}{doubt}", "unknown" if doubt else "unavailable", PAUSE_LONGEST)

    # Reading.

    def _room(self) -> int:
        d = self._d
        if d.handler is None or self._draining or d.stopped:
            return 0
        return min(self._read_count, d.size * (d.max_concurrent + 1) - d.unfinished)

    async def _read_some(self) -> None:
        room = self._room()
        if room <= 0:
            self._wake_reader.clear()
            await self._wake_reader.wait()
            return
        try:
            deliveries = await self.streams.read(self._consumer, room, BLOCK)
        except RedisUnavailableError:
            # If it was too much to come within the timeout, less will.
            self._read_count = max(1, self._read_count // 2)
            raise
        self._read_count = min(AT_ONCE, self._read_count * 2)
        self._fine("read")
        condemned = self._take(deliveries)
        if condemned:
            await self._condemn(condemned)

    def _take(self, deliveries: Sequence[Delivery]) -> list[tuple[BatchItem, str]]:
        """Hand entries to the dispatcher; returns those that must not be handled, and why."""
        condemned: list[tuple[BatchItem, str]] = []
        now = self._d.now()
        for entry, count, value, stopped in deliveries:
            if entry in self._held:
                continue  # its lease was over, and now it is this instance's again
            try:
                item_id, priority, data = wanted_of(value)
            except CorruptPayloadError as error:
                unreadable = BatchItem(value, None, now, f"?{entry.decode()}", 0, 0, count, entry=entry)
                condemned.append((unreadable, f"the entry cannot be read: {error}"))
                continue
            seen = count + stopped
            item = BatchItem(data, None, now, item_id, priority, 0, seen, entry=entry, counted=count)
            if count > self.max_deliveries:
                reason = f"given to {count - 1} instances, each of which ended before it was handled"
                condemned.append((item, reason))
                continue
            self._held[entry] = _Held(item, value)
            self._held_ids.add(item_id)
            self.redelivered += item.deliveries > 1
            if count > self._alone_from:
                self._alone = entry
                self._d.admit_alone(item)
            else:
                self._d.admit(item)
        return condemned

    @property
    def _alone_from(self) -> int:
        """Deliveries from which an item is claimed one at a time, and handled alone.

        What an item that ends its process held beside it would otherwise be given up with it.
        """
        return max(1, self.max_deliveries - 2)

    async def _condemn(self, condemned: Sequence[tuple[BatchItem, str]]) -> None:
        settlements = []
        errors = [DeadLetteredError(item.item_id, item.counted - 1, why) for item, why in condemned]
        for (item, why), error in zip(condemned, errors, strict=True):
            logger.error("Item %s given up: %s", one_line(item.item_id), one_line(why))
            settlements.append(self._settlement(item, error, dead=True))
        flags = await self._settle(settlements)
        self._d.bury_unhandled([item for item, _ in condemned], errors)
        self.settled_elsewhere += flags.count(False)

    # Leases.

    async def _keep(self) -> None:
        """Once: refresh what is held, take over what nobody refreshes, look at the stream."""
        await self.refresh()
        room = self._room()
        if room > 0:
            claimed = await self.streams.claim(
                self._consumer,
                int(self.lease * 1000),
                room,
                self._alone_from,
                self.max_deliveries,
                alone=self._alone is None,
            )
            self.reclaimed += sum(one.entry not in self._held for one in claimed)
            condemned = self._take(claimed)
            if condemned:
                await self._condemn(condemned)
            if len(claimed) >= room:
                _signal(self._wake_keeper)
        self.length, self.letters = await self.streams.tidy(
            int(max(SILENT_CONSUMERS, self.lease * 10) * 1000)
        )
        self._fine("keep")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(1.0, self.lease / 4)):
                await self._wake_keeper.wait()
        self._wake_keeper.clear()

    async def refresh(self) -> None:
        """Begin the leases anew of what is held, and let go of what another instance has taken over."""
        entries = list(self._held)
        for start in range(0, len(entries), AT_ONCE):
            lost = set(await self.streams.refresh(self._consumer, entries[start : start + AT_ONCE]))
            lost &= self._held.keys()  # others have ended here meanwhile
            if lost:
                for item in self._d.queue.discard(lost):
                    self._drop(item.entry)

    # The end of items.

    def _settlement(self, item: BatchItem, value: Any, *, dead: bool) -> Settlement:
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
            held = self._held.get(item.entry)
            data = item.data if held is None else wanted_of(held.value).data
            letter = letter_value(
                DeadLetter(item.item_id, data, item.priority, attempts, error, self._clock.time())
            )
        by = self._consumer
        outcome, problem = outcome_value(state, result, error, attempts, by, self.max_item_bytes)
        if problem:
            if not self.unkept:
                logger.warning(
                    "A result is not kept, and get_result elsewhere will say so: %s", one_line(problem)
                )
            self.unkept += 1
        return Settlement(item.entry, item.item_id, outcome, letter)

    async def _settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Until Redis has it, however long that takes."""
        flags: list[bool] = []
        failures = 0
        while len(flags) < len(settlements):
            part: list[Settlement] = []
            size = 0
            for one in settlements[len(flags) : len(flags) + AT_ONCE]:
                if part and size + len(one.outcome) + len(one.letter) > BYTES_AT_ONCE:
                    break
                part.append(one)
                size += len(one.outcome) + len(one.letter)
            try:
                flags += await self.streams.settle(
                    part, int(self._d.results.ttl * 1000), self._d.dead_letters.limit
                )
                failures = 0
                self._fine("settle")
            except BackendError as error:
                failures += 1
                await self._recover("settle", error, failures)
        return flags

    async def commit(self, batch: Batch, values: Sequence[Any], dead: bool) -> None:
        """The dispatcher's: what became of a batch is in Redis when this returns."""
        settlements = [
            self._settlement(item, value, dead=dead) for item, value in zip(batch.items, values, strict=True)
        ]
        self._committing += 1
        try:
            flags = await self._settle(settlements)
        finally:
            self._committing -= 1
        for item, flag in zip(batch.items, flags, strict=True):
            self.settled_elsewhere += not flag
            self._drop(item.entry)
        # The reader looks when the dispatcher has counted them off.
        asyncio.get_running_loop().call_soon(self.wake)

    # Results.

    async def result(self, item_id: str) -> Any:
        """Wait for an item's end; its result, or raises its error or UnknownItemError."""
        self.ensure_running()
        loop = asyncio.get_running_loop()
        waiter = self._d.waiters.get(item_id)
        if waiter is None:
            try:
                value: bytes | None = (await self.streams.outcomes([item_id]))[0]
            except RedisUnavailableError:
                value = PENDING  # it is asked again
            if value != PENDING:
                return unwrap(item_id, _stored(value, item_id))
            waiter = self._d.waiters.get(item_id)
        if waiter is None:
            waiter = self._d.waiters[item_id] = loop.create_future()
            waiter.add_done_callback(_seen)
        self._poll_soon()
        # Shielded: others may wait for it too.
        return await asyncio.shield(waiter)

    async def status(self, item_id: str) -> ItemStatus | None:
        value = (await self.streams.outcomes([item_id]))[0]
        if value is None or value == LOST:
            return None
        if value == PENDING:
            return ItemStatus(item_id, "pending")
        state, result, error, _ = _stored(value, item_id)
        if state == "dead":
            return ItemStatus(item_id, "dead_lettered", error=error)
        return ItemStatus(item_id, "failed" if state == "failed" else "done", result, error)

    def _poll_soon(self) -> None:
        self._poll_delay = POLL_FIRST
        if not self._stopping and (self._polling is None or self._polling.done()):
            self._polling = self._tasks.spawn(self._poll(), name="batch-results")
            self._restart_if_cancelled(self._polling, self._poll_soon)

    async def _poll(self) -> None:
        """Look for the results of items that other instances have, while anybody waits for one."""
        waiters = self._d.waiters
        while waiters:
            await self._clock.sleep(self._poll_delay)
            self._poll_delay = min(POLL_LONGEST, self._poll_delay * 2)
            asked = [
                item_id
                for item_id in waiters
                if item_id not in self._unconfirmed and item_id not in self._held_ids
            ]
            if not asked:
                continue
            asked = asked[:AT_ONCE]
            try:
                values = await self.streams.outcomes(asked)
            except BackendError:
                continue
            for item_id, value in zip(asked, values, strict=True):
                waiter = waiters.pop(item_id, None)
                if waiter is None:
                    continue
                if value == PENDING:
                    waiters[item_id] = waiter  # behind those that were not asked about
                    continue
                self._poll_delay = POLL_FIRST
                try:
                    _give(waiter, unwrap(item_id, _stored(value, item_id)))
                except Exception as error:  # whatever it is, it is for who waits
                    _fail(waiter, error)

    # Dead letters, flush.

    async def replay(self, item_ids: Sequence[str] | None) -> int:
        count = 0
        for letter in self._chosen(await self.streams.letters(), item_ids):
            answer = await self.streams.replay(letter, self._d.max_pending)
            if answer < 0:
                break
            count += answer
        self._d.counters.replayed += count
        return count

    async def discard(self, item_ids: Sequence[str] | None) -> int:
        letters = self._chosen(await self.streams.letters(), item_ids)
        count = 0
        for start in range(0, len(letters), AT_ONCE):
            count += await self.streams.discard(letters[start : start + AT_ONCE])
        return count

    @staticmethod
    def _chosen(letters: list[DeadLetter], item_ids: Sequence[str] | None) -> list[DeadLetter]:
        if item_ids is None:
            return letters
        wanted = set(item_ids)
        return [letter for letter in letters if letter.item_id in wanted]

    async def flush(self) -> None:
        """Wait until every item has ended that is in the stream now, whichever instance has it."""
        self.ensure_running()
        sending = self._sending
        if sending is not None and not sending.done():
            await asyncio.wait([sending])
        last: bytes | None = None
        failures = 0
        while True:
            try:
                if last is None:
                    last = await self.streams.last_entry()
                if last is None or not await self.streams.any_until(last):
                    return
                failures = 0
                self._fine("flush")
            except BackendError as error:
                failures += 1
                await self._recover("flush", error, failures)
                continue
            self._d.make_due()
            await self._clock.sleep(POLL_FIRST)


def _may_have_arrived(error: BackendError) -> bool:
    """Whether a script whose call failed so may have run all the same."""
    # A refused script has done nothing; and without a cause no call was made, for the breaker knew better.
    if isinstance(error, RedisRefusedError) or error.__cause__ is None:
        return False
    cause: BaseException | None = error.__cause__
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError | socket.gaierror) or "connecting to" in str(cause):
            return False  # there was no connection to send it over
        cause = cause.__cause__ or cause.__context__
    return True


def _no_group(error: RedisRefusedError) -> bool:
    return "NOGROUP" in str(error) or "no such key" in str(error)


def unwrap(item_id: str, outcome: StoredOutcome) -> Any:
    """The result, or raises what the outcome tells of."""
    if outcome.state == "done":
        return outcome.result
    if outcome.state == "unkept":
        raise ResultNotKeptError(f"item {item_id} is done, but {outcome.error}")
    if outcome.state == "failed":
        raise ItemFailedError(outcome.error)
    raise DeadLetteredError(item_id, outcome.attempts, outcome.error)


def _stored(value: bytes | None, item_id: str) -> StoredOutcome:
    if value is None:
        raise UnknownItemError(f"item_id = {item_id!r}: no such item is pending, and no result of it is kept")
    if value == LOST:
        raise LostItemError(f"item {item_id} was taken, but its entry is gone from Redis: it was not handled")
    return outcome_of(value)


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _give(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        with contextlib.suppress(RuntimeError):  # its event loop is closed
            future.set_result(value)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        with contextlib.suppress(RuntimeError):  # as above
            future.set_exception(error)


def _signal(event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # as above
        event.set()
