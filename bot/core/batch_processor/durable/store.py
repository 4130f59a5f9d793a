"""Durable mode: items lie in a Redis stream until they have ended, and every instance takes its share.

An instance reads ahead what its handlers can take, holds each entry by a lease that it refreshes, and
ends entries only after the handler has. What an instance held that lives no more is claimed by
another one when the lease is over: at least once, therefore, and in the order of the stream only as
far as one instance reads. Source: the Redis documentation, "Streams", consumer groups.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from bot.core._shared.clock import Clock
from bot.core._shared.errors import BackendError, invalid
from bot.core._shared.loop_owner import LoopOwner, still_runs
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import to_the_end
from bot.core.batch_processor.checks import check_key, check_priority
from bot.core.batch_processor.dispatcher import Dispatcher, another_loop
from bot.core.batch_processor.durable.fence import Fence
from bot.core.batch_processor.durable.held import Held
from bot.core.batch_processor.durable.leases import SILENT_CONSUMERS, Leases
from bot.core.batch_processor.durable.letters import Letters
from bot.core.batch_processor.durable.limits import Limits
from bot.core.batch_processor.durable.loops import PAUSE_FIRST, Loops
from bot.core.batch_processor.durable.outbox import Outbox
from bot.core.batch_processor.durable.results import POLL_FIRST, Results
from bot.core.batch_processor.durable.settling import Settling
from bot.core.batch_processor.durable.streams import Added, Streams
from bot.core.batch_processor.durable.timed import Timed
from bot.core.batch_processor.durable.timed_outbox import TimedOutbox
from bot.core.batch_processor.errors import BatchClosedError, BatchQueueFullError
from bot.core.batch_processor.lifecycle import State
from bot.core.batch_processor.models import (
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
from bot.core.phase4_statistics.states import WITHOUT_REDIS
from bot.core.redis_link import RedisLink, RedisUnavailableError

AWAY = 1.0
"""Seconds for which Redis may be away, or refuse results, before a stop waits for it no longer."""

ROOM_POLL = 0.05
"""Seconds between tries of a submission that waits for room: Redis does not say when there is some."""


class RedisStore:
    """One instance's share of a queue in Redis: the :class:`Store` of durable mode.

    Calls may be cancelled at any time. What was under way then counts as not done: an item is
    perhaps added though its submitter was not told, an entry read stays leased until it is claimed.
    """

    def __init__(self, dispatcher: Dispatcher, clock: Clock, url: str, name: str) -> None:
        self._d = dispatcher
        self._clock = clock
        self._link = RedisLink.shared(url)
        self.limits = Limits()
        self.streams = Streams(self._link, name)
        self._letters = Letters(self.streams)
        self._owner = LoopOwner(self._forked)
        self._loops = Loops(self.streams, clock)
        self._held = Held(self._loops.wake_keeper)
        self.settling = Settling(dispatcher, self.streams, self._loops, self.limits, self._held, clock)
        fence = Fence(dispatcher, self._loops, self.limits, self._held, clock)
        self.leases = Leases(
            dispatcher, self.streams, self._loops, self.limits, self._held, self.settling, fence
        )
        self.settling.on_next = self.leases.take_waited
        self._timed = Timed(dispatcher, self.streams, self._loops, self._held, self.settling, clock)
        self.leases.move_due = self._timed.move_due
        self.leases.give_up = self._timed.give_up
        self._results = Results(dispatcher.outcomes.waiters, self.streams, self._loops, clock, self._has)
        self._outbox = Outbox(
            dispatcher, self.streams, self._loops, self.limits, self._results.poll_if_awaited
        )
        self._timed_outbox = TimedOutbox(dispatcher, self._outbox, self._timed.streams, self._loops, clock)

    def _has(self, item_id: str) -> bool:
        return self._outbox.is_sending(item_id) or self._held.holds(item_id)

    # Lifecycle.

    async def start(self) -> None:
        """Begin; without Redis too. Raises RedisUnavailableError if the client library is missing."""
        self._link.client()
        self._d.commit = self.settling.commit
        self._d.on_lost = lambda item: self._held.drop(item.entry)
        self._d.begin = self._timed.begin
        self.ensure_running()
        with contextlib.suppress(BackendError):  # the log has it; the reader tries again
            await self.streams.make_group()
            await self.streams.tidy(int(SILENT_CONSUMERS * 1000))

    def ensure_running(self) -> None:
        """Go on under the running event loop, if the one before runs no more.

        Raises MisuseError while that one runs, in another thread: its futures cannot be awaited here.
        """
        loop = asyncio.get_running_loop()
        before = self._loops.loop
        if before is loop:
            return
        if still_runs(before):
            raise another_loop()
        self._owner.claim()
        self._outbox.begin()
        self._results.begin()
        if before is not None:
            # Callers under that loop wait no more.
            self._d.outcomes.waiters.clear()
            if self._d.loop is not loop:
                self._d.adopt(loop)
        self._loops.begin(loop)
        self.leases.start()
        loop.call_soon(self._d.pump)

    def _forked(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a child: what is held, and on its way to Redis, is the parent's."""
        self.leases.forget()
        self._outbox.begin()
        self._results.begin()
        self._loops.forget()

    def wake(self) -> None:
        self._loops.wake_reader()

    async def drain(self, timeout: float) -> bool:
        """What no handler has begun is left to other instances at once."""
        try:
            await self._give_back_unstarted()
        except BaseException:
            await self._d.stop()  # or a batch would end here that Redis hears nothing of
            raise
        return await self._d.drain(timeout, self._only_redis_is_missing)

    async def _give_back_unstarted(self) -> None:
        """Read no more, and leave to others what is in no running batch."""
        self._loops.state = State.DRAINING
        self._loops.wake_reader()
        self._loops.wake_keeper()
        tasks = (self.leases.reading, self._outbox.sending)
        waiting = {task for task in tasks if task is not None and not task.done()}
        mine = {task for task in waiting if task.get_loop() is asyncio.get_running_loop()}
        if mine:
            # A read that is cut off leaves entries that others get only when the lease is over.
            await asyncio.wait(mine, timeout=self._link.timeout + 0.5)
        await self.leases.let_go(self._d.remaining(), begun=False)

    async def _only_redis_is_missing(self) -> None:
        """Wait until no handler works any more and Redis, which has to be told, cannot be for a moment.

        It cannot while it is away, in a cluster any node of it, and while it refuses to take results.
        """
        d, backlog = self._d, self._d.backlog
        since = None
        while since is None or self._clock.monotonic() - since < AWAY:
            running = len(backlog.running)
            idle = self.settling.committing >= running and (not backlog.ready or running >= d.max_concurrent)
            if not idle or (self._link.complete and not self._loops.refuses("settle")):
                since = None
            elif since is None:
                since = self._clock.monotonic()
            await self._clock.sleep(PAUSE_FIRST)

    async def close(self) -> None:
        """End every task and leave to others what is held; callers that wait here get BatchClosedError.

        Also if the caller is cancelled meanwhile. It is not used again.
        """
        await to_the_end(self._close())

    async def _close(self) -> None:
        try:
            await self._loops.stop()
        finally:
            self._results.close()
            self._outbox.close()
        try:
            await self.leases.let_go(self._d.remaining(), begun=True)
            with contextlib.suppress(BackendError):
                await self.streams.leave(self._d.ids.prefix)
        finally:
            await self._link.release()
        self._d.commit = self._d.on_lost = self._d.begin = None

    # Submitting.

    def submit(self, data: Any, priority: int, lane: Lane | None = None) -> asyncio.Future[Any]:
        d = self._d
        if d.state is not State.ON:
            raise BatchClosedError(OFF)
        if priority != 0:
            check_priority(priority)
        self.ensure_running()
        item_id = d.ids.new_item()
        added = self._outbox.encode(item_id, priority, data, lane)
        future = self._results.waiter_of_new(item_id)
        self._outbox.put(added, future)
        return future

    def may_wait_for_room(self) -> bool:
        if self._d.state is not State.ON:
            raise BatchClosedError(OFF)
        return True

    async def submit_when_room(self, data: Any, priority: int, lane: Lane | None = None) -> Any:
        while True:
            try:
                return await self.submit(data, priority, lane)
            except BatchQueueFullError:
                # Room is made by any instance.
                await self._clock.sleep(ROOM_POLL)

    def submit_item(
        self, data: Any, priority: int, key: str | None, lane: Lane | None = None
    ) -> Submission | asyncio.Future[Submission]:
        if self._d.state is not State.ON:
            return self._refused(priority, key)
        added = self._encoded(data, priority, key, lane)
        self.ensure_running()
        return self._outbox.offer(added)

    async def submit_many(
        self,
        wanted: Sequence[Any],
        priority: int,
        keys: Sequence[str | None],
        lanes: Sequence[Lane | None],
        all_or_none: bool,
    ) -> list[Submission]:
        if self._d.state is not State.ON:
            return [self._refused(priority, key) for key in keys]
        given = zip(wanted, keys, lanes, strict=True)
        all_added = [self._encoded(one, priority, key, lane) for one, key, lane in given]
        self.ensure_running()
        if all_or_none:
            return await self._outbox.offer_all(all_added)
        offers = [self._outbox.offer(added) for added in all_added]
        return [await offer for offer in offers]

    def _refused(self, priority: int, key: str | None) -> Submission:
        check_priority(priority)
        if key is not None:
            check_key(key)
        return Submission.refused(OFF, "off")

    def _encoded(
        self, data: Any, priority: int, key: str | None, lane: Lane | None, *, replaceable: bool = False
    ) -> Added:
        check_priority(priority)
        if key is not None:
            check_key(key)
            if not key.isascii() and key.encode("utf-8", "ignore").decode() != key:
                raise invalid(
                    "key", key, "text without lone surrogates in durable mode, which UTF-8 cannot hold"
                )
        item_id = self._d.ids.new_item() if key is None else key
        return self._outbox.encode(item_id, priority, data, lane, replaceable=replaceable)

    async def submit_timed(
        self,
        wanted: Sequence[Any],
        keys: Sequence[str | None],
        lanes: Sequence[Lane | None],
        terms: Terms,
        all_or_none: bool,
    ) -> list[Submission]:
        if self._d.state is not State.ON:
            return [self._refused(terms.priority, key) for key in keys]
        given = zip(wanted, keys, lanes, strict=True)
        all_added = [
            self._encoded(one, terms.priority, key, lane, replaceable=terms.replace)
            for one, key, lane in given
        ]
        self.ensure_running()
        return await self._timed_outbox.submit(all_added, terms, all_or_none)

    async def result_of_timed(self, data: Any, lane: Lane | None, terms: Terms) -> Any:
        if self._d.state is not State.ON:
            raise BatchClosedError(OFF)
        added = self._encoded(data, terms.priority, None, lane)
        self.ensure_running()
        await self._timed_outbox.submit_when_room(added, terms)
        return await self._results.wait_for(added.item_id)

    async def cancel(self, item_id: str) -> bool:
        self.ensure_running()
        return await self._timed.cancel(item_id)

    async def put_plan(self, plan: Plan) -> PeriodicItem:
        if self._d.state is not State.ON:
            raise BatchClosedError(OFF)
        added = self._encoded(plan.data, plan.priority, plan.item_id, plan.lane)
        self.ensure_running()
        return await self._timed.put_plan(plan, added.value)

    async def remove_plan(self, name: str) -> bool:
        return await self._timed.streams.remove_plan(name)

    async def list_plans(self) -> list[PeriodicItem]:
        return await self._timed.list_plans()

    # Results, flush.

    def known_outcome(self, item_id: str) -> Outcome | None:
        return None

    async def result(self, item_id: str) -> Any:
        self.ensure_running()
        return await self._results.wait_for(item_id)

    async def status(self, item_id: str) -> ItemStatus | None:
        return await self._results.status(item_id)

    async def flush(self) -> bool:
        """Wait until every item has ended that is in the stream now, whichever instance has it."""
        if self._d.handler.function is None:
            return False
        self.ensure_running()
        sending = self._outbox.sending
        if sending is not None and not sending.done():
            await asyncio.wait([sending])
        last: bytes | None = None
        newer = self._timed.looked.newer > 0
        failures = 0
        while True:
            try:
                if last is None:
                    last = await self.streams.last_entry()
                if last is None or not await self.streams.any_until(last):
                    if not newer:
                        return True
                    # Those that waited behind it are in the stream now, or on their way there.
                    newer = (await self._timed.streams.look()).newer > 0
                    last = None
                    self._loops.wake_keeper()
                failures = 0
                self._loops.succeeded("flush")
            except BackendError as error:
                failures += 1
                await self._loops.recover("flush", error, failures)
                continue
            self._d.due.make_due()
            await self._clock.sleep(POLL_FIRST)

    # Dead letters.

    async def count_letters(self) -> int:
        return await self._letters.count()

    def each_letter(self, offset: int, *, newest_first: bool) -> AsyncGenerator[DeadLetter, None]:
        return self._letters.each(offset, newest_first=newest_first)

    async def find_letter(self, item_id: str) -> DeadLetter | None:
        return await self._letters.find(item_id)

    async def replay(self, item_ids: Sequence[str] | None) -> ReplayReport:
        report = await self._letters.replay(item_ids, self._d.capacity.max_pending)
        self._d.outcomes.counters.replayed += report.replayed
        return report

    async def discard(self, item_ids: Sequence[str] | None) -> int:
        return await self._letters.discard(item_ids)

    # Figures.

    async def find_warnings(self) -> list[str]:
        refused = []
        try:
            await self.streams.make_group()
        except RedisUnavailableError:
            pass  # the link tells of it
        except BackendError as error:
            refused = [f"Redis refuses the queue: {one_line(error)}"]
        return [*self._link.warnings(WITHOUT_REDIS["batch_processor"]), *refused]

    def figures(self) -> dict[str, Any]:
        return {
            "durable": True,
            "degraded": self._loops.refused or not self._link.available,
            "duplicate_items": self._outbox.known,
            "dead_letters": self.streams.dead_length,
            "stream_length": self.streams.length,
            "enqueued_items": self._outbox.enqueued,
            "reclaimed_items": self.leases.reclaimed,
            "redelivered_items": self.leases.redelivered,
            "given_back_items": self.leases.given_back,
            "settled_elsewhere_items": self.settling.settled_elsewhere,
            "results_not_kept": self.settling.unkept,
            "delayed_items": self._timed.looked.delayed,
            "periodic_skipped": self._timed.left_out,
            "replacing_items": self._timed_outbox.replaced,
        }

    def reset_counters(self) -> None:
        self._outbox.reset_counters()
        self.leases.reset_counters()
        self.settling.reset_counters()
        self._timed.reset_counters()
        self._timed_outbox.reset_counters()
