"""Outbound flood control: what a bot sends to Telegram, kept within Telegram's limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from bot.core._shared.clock import SYSTEM_CLOCK, Clock, TimerHandle
from bot.core._shared.errors import MisuseError, invalid
from bot.core._shared.histogram import HistogramSnapshot
from bot.core._shared.loop_owner import LoopOwner, still_runs
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import run_on_loop, to_the_end
from bot.core._shared.validation import valid_seconds
from bot.core.outbound.backlog import Reason
from bot.core.outbound.broadcast.broadcasts import Broadcasts
from bot.core.outbound.broadcast.models import BroadcastReport
from bot.core.outbound.broadcast.progress import OnProgress
from bot.core.outbound.broadcast.recipients import Recipients
from bot.core.outbound.broadcast.store import checked_address
from bot.core.outbound.context import covered, current
from bot.core.outbound.errors import (
    MessageDeletedError,
    OutboundClosedError,
    OutboundDeadlineError,
    OutboundFullError,
    OutboundHeldError,
)
from bot.core.outbound.keys import Key, message_of, messages_of, replaces
from bot.core.outbound.lanes import Claim, Entry
from bot.core.outbound.models import (
    Chat,
    Kind,
    Limits,
    Priority,
    Request,
    is_delete,
    kind_of,
    plain_chat,
)
from bot.core.outbound.refusals import refusal_of
from bot.core.outbound.reservations import Scope, Verdict, tag_of
from bot.core.outbound.scheduler import Scheduler
from bot.core.outbound.shown import Message, Shown, digest_of
from bot.core.outbound.stats import Counters, snapshot
from bot.core.phase4_config.outbound import OutboundSettings
from bot.core.phase4_service import Phase4Service
from bot.core.phase4_statistics.outbound import OutboundFigures, OutboundOff
from bot.core.phase4_statistics.states import WITHOUT_REDIS

if TYPE_CHECKING:
    from bot.core.outbound.shared import SharedBudget

logger = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULTS = OutboundSettings()

JITTER_LEAST, JITTER_SHARE, JITTER_MOST = 0.1, 0.05, 2.0
"""A refused chat is held for the whole wait and at least 0.1 s more, at random up to a twentieth of it."""

SHORTEST_TIMER = 0.0005
SHORTEST_DEFERRAL = 0.02
"""Seconds after which Redis is asked again at the earliest for what it had no room for."""
LOGGED_EACH = 60.0
"""Seconds in which at most one refusal is logged as a warning; the others as debug."""

UNNAMED = "default"
"""The bot whose budget it is while nobody has said which."""

_GRANTED = object()


class Outbound(Phase4Service):
    """Sends requests to Telegram in their turn. While off, each is sent at once.

    :meth:`call` runs ``send`` in its caller's own task, after waiting as long as it must. A caller that is
    cancelled while it waits gives its place back, and its slot if it had just got one.
    """

    service_name: ClassVar[str] = "outbound"

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, random_source: random.Random | None = None) -> None:
        super().__init__()
        self._clock = clock
        self._now = clock.monotonic
        self._random = random_source or random.Random()
        self._limits = Limits()
        self._drain_timeout = DEFAULTS.drain_timeout
        self._settings: dict[str, Any] = {}
        """What enable was called with, but for the limits."""
        self._scheduler = Scheduler(self._limits)
        self._shown = Shown()
        self._shared: SharedBudget | None = None
        """The budget that all instances of the bot share, if so."""
        self._skip_equal_edits = DEFAULTS.skip_equal_edits
        self._counters = Counters()
        self._broadcasts = Broadcasts(clock)
        # Waiting callers, the timer and what is in flight belong to one event loop; _generation grows
        # when they are dropped with it, so that what ends later is not counted twice.
        self._owner = LoopOwner(self._forked)
        self._generation = 0
        self._timer: TimerHandle | None = None
        self._timer_at = float("inf")
        self._draining = False
        self._idle: asyncio.Event | None = None
        self._warned_at = float("-inf")

    # Lifecycle.

    async def enable(
        self,
        limits: Limits | None = None,
        *,
        max_pending: int = DEFAULTS.max_pending,
        max_in_flight: int = DEFAULTS.max_in_flight,
        max_wait: float = DEFAULTS.max_wait,
        drain_timeout: float = DEFAULTS.drain_timeout,
        skip_equal_edits: bool = DEFAULTS.skip_equal_edits,
        broadcast_store: str | None = None,
        redis_url: str = DEFAULTS.redis_url,
        bot_id: int | str = UNNAMED,
    ) -> bool:
        """Switch on, or reconfigure: what waits and what counts in the windows stays.

        ``limits``: None keeps those set before, at first Telegram's. ``max_pending``: requests that may wait;
        beyond, a call raises OutboundFullError (a tenth more may, for answers). ``max_in_flight``: requests
        sent at the same time, a tenth of them kept for answers. ``max_wait``: seconds of a penalty that are
        waited for; a longer one raises at once. ``drain_timeout``: seconds for which ``disable`` waits
        for what is queued. ``skip_equal_edits``: whether an edit is left out whose ``Request.content`` is
        what this process's last edit of the message had; False where others edit the same messages, and
        without effect with ``redis_url``. ``redis_url``: instances with the same Redis and ``bot_id``
        keep the limits together; empty: each its own. ``bot_id``: the bot's id, or its token, of which only
        the id in front is used; instances with the default share one budget whatever their bots.
        ``broadcast_store``: where the progress of broadcasts is kept, see :meth:`broadcast`; None keeps it.
        Raises ValueError for what is out of bounds.
        """
        if limits is not None and not isinstance(limits, Limits):
            raise invalid("limits", limits, "Limits or None")
        settings = DEFAULTS.changed(
            max_pending=max_pending,
            max_in_flight=max_in_flight,
            max_wait=max_wait,
            drain_timeout=drain_timeout,
            skip_equal_edits=skip_equal_edits,
            redis_url=redis_url,
        )
        if broadcast_store is not None:
            checked_address("broadcast_store", broadcast_store)
        async with self._transition:
            await self._share(settings.redis_url, bot_id)
            self._broadcasts.store = self._broadcasts.store if broadcast_store is None else broadcast_store
            # Other instances may edit the same messages.
            self._skip_equal_edits = settings.skip_equal_edits and not settings.redis_url
            if not self._enabled or not self._skip_equal_edits:
                self._shown.clear()  # edits passed unseen
            self._limits = limits or self._limits
            self._scheduler.configure(
                self._limits,
                max_pending=settings.max_pending,
                max_in_flight=settings.max_in_flight,
                max_wait=settings.max_wait,
            )
            self._drain_timeout = settings.drain_timeout
            self._settings = {
                "max_pending": settings.max_pending,
                "max_in_flight": settings.max_in_flight,
                "max_wait": settings.max_wait,
                "drain_timeout": settings.drain_timeout,
                "skip_equal_edits": settings.skip_equal_edits,
                "redis_url": settings.redis_url,
                "bot_id": bot_id,
            }
            self._draining = False
            self._enabled = True
            if self._owner.loop is not None and self._owner.loop is asyncio.get_running_loop():
                self._poll()
        return True

    def sibling(self) -> Outbound:
        """Another one, off and unused, with the same clock: for a bot with a budget of its own."""
        return Outbound(clock=self._clock, random_source=self._random)

    async def enable_as(self, other: Outbound, *, bot_id: int | str | None = None) -> bool:
        """:meth:`enable` with the limits and settings of another; ``bot_id``: if it serves another bot."""
        settings = other._settings if bot_id is None else {**other._settings, "bot_id": bot_id}
        return await self.enable(other._limits, **settings)

    async def identify(self, bot_id: int | str) -> None:
        """Say which bot is served, where ``enable`` was not told: whose budget it is that instances share."""
        async with self._transition:
            if self._settings.get("bot_id") == UNNAMED:
                self._settings["bot_id"] = bot_id
                await self._share(self._settings["redis_url"], bot_id)

    @property
    def is_identified(self) -> bool:
        """Whether it was said which bot is served."""
        return bool(self._settings.get("bot_id", UNNAMED) != UNNAMED)

    def may_serve(self, bot_id: int) -> bool:
        """False if another bot's id was said to be served; a name that is no id may be any bot's."""
        told = tag_of(self._settings.get("bot_id", UNNAMED))[5:-1]
        return not told.isdigit() or told == b"%d" % bot_id

    async def _share(self, redis_url: str, bot_id: int | str) -> None:
        """Share the budget of ``bot_id`` at ``redis_url``, or none."""
        before, shared = self._shared, None
        if redis_url:
            from bot.core.outbound.shared import SharedBudget

            if before is not None and (before.url, before.tag) == (redis_url, tag_of(bot_id)):
                return
            shared = SharedBudget(
                redis_url,
                bot_id,
                self._clock,
                answered=self._told,
                holds=lambda: self._scheduler.holds(self._now()),
                released=self._heard_of_release,
            )
        if before is not None:
            await to_the_end(before.stop())  # from now on it lets all leave unasked
        self._shared = shared
        if shared is not None:
            await shared.connect()

    def warnings(self) -> list[str]:
        """What is amiss with the Redis that shares the budget."""
        return [] if self._shared is None else self._shared.warnings(WITHOUT_REDIS[self.service_name])

    async def disable(self) -> bool:
        """Switch off: what waits is sent within ``drain_timeout``, the rest raises OutboundClosedError.

        Meanwhile a call that would have to wait raises it, too. Windows and penalties are remembered.
        """
        async with self._transition:
            loop = self._owner.loop
            try:
                await self._broadcasts.stop(self._drain_timeout)
                if loop is not None:
                    await run_on_loop(loop, self._drain)
            finally:
                self._enabled = False
                self._draining = False
                self._shown.clear()
                self._cancel_timer()
                await self._share("", "")
                if self._owner.loop is not None and not still_runs(self._owner.loop):
                    self._abandon()
        return True

    async def _drain(self) -> None:
        self._draining = True
        scheduler = self._scheduler
        try:
            if scheduler.pending or scheduler.slots.taken:
                self._idle = asyncio.Event()
                deadline = asyncio.ensure_future(self._clock.sleep(self._drain_timeout))
                idle = asyncio.ensure_future(self._idle.wait())
                try:
                    await asyncio.wait((deadline, idle), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self._idle = None
                    deadline.cancel()
                    idle.cancel()
        finally:
            waiting = scheduler.waiting()
            if self._shared is not None:
                waiting += [claim for entry in self._shared.asked() for claim in entry.claims]
            for claim in waiting:
                scheduler.withdraw(claim, self._now())
                _raise(claim, OutboundClosedError("outbound was switched off: not sent"))
            if waiting:
                logger.warning("Outbound: %d requests were not sent before the stop", len(waiting))

    # Sending.

    @property
    def max_wait(self) -> float:
        """Seconds of a penalty that are waited for."""
        return self._scheduler.max_wait

    async def call(self, send: Callable[[], Awaitable[T]], request: Request) -> T:
        """Await ``send()`` when it may leave, and again after Telegram refused it: its result.

        ``send`` must make one request; it is called again after a refusal, so it must be able to. Raises
        what ``send`` raises, but for refusals that are waited for; OutboundFullError, OutboundHeldError,
        OutboundDeadlineError, OutboundClosedError and MessageDeletedError of what was not sent.
        """
        if not self._enabled:
            return await send()
        cover = covered.get()
        if cover is not None and cover.active and cover.owner is self:
            if request.message_id is not None:
                for changed in messages_of(plain_chat(request.chat), request.message_id):
                    self._shown.forget(changed)
            return await send()
        kind = kind_of(request.method) if type(request.method) is str else Kind.OTHER
        chat = request.check()
        counters = self._counters
        counters.requests += 1
        if kind is Kind.UNQUEUED:
            counters.unqueued += 1
            return await send()
        if asyncio.get_running_loop() is not self._owner.loop:
            self._move()
        now = self._now()
        if kind is Kind.OTHER and request.message_id is not None and is_delete(request.method):
            self._scheduler.drop_edits(chat, request.message_id, now)
            for deleted in messages_of(chat, request.message_id):
                self._shown.forget(deleted)
        priority, deadline = current.get()
        key = replaces(request.method, chat, request.message_id) if request.replaceable else None
        message = content = None
        if kind is Kind.EDIT and request.message_id is not None:
            message = message_of(chat, request.message_id)
            if request.content is not None and self._skip_equal_edits:
                content = digest_of(request.method, request.content)
                last = self._shown.equal(message, content)
                if last is not None and self._skip(message, key, last.result, now):
                    counters.unchanged += 1
                    return last.result  # type: ignore[no-any-return]
        entry = Entry(
            kind,
            chat,
            cost=request.cost,
            priority=priority if request.priority is None else Priority(request.priority),
            key=key,
            message=message,
            content=content,
            paid=request.paid,
        )
        if request.deadline is not None:
            deadline = request.deadline
        claim, granted = self._scheduler.submit(entry, now, deadline)
        if granted and self._shared is not None:
            granted = self._may_leave(entry, now)
        if not granted:
            if self._draining and claim.entry is not None and entry.reservation is None:
                self._scheduler.withdraw(claim, now)
                raise OutboundClosedError("outbound is being switched off: not sent")
            outcome = await self._wait(claim, chat)
            if outcome is not _GRANTED:
                return outcome.result()  # type: ignore[no-any-return]
        return await self._send(send, claim, chat)

    async def broadcast(
        self,
        name: str,
        recipients: Recipients,
        send: Callable[[Any], Awaitable[object]],
        *,
        paid: bool = False,
        on_progress: OnProgress | None = None,
        progress: bool = False,
        store: str | None = None,
        restart: bool = False,
        cost: int = 1,
        concurrency: int | None = None,
        total: int | None = None,
        stop_after_failures: int | None = 50,
        lease: float = 10.0,
    ) -> BroadcastReport:
        """Send to each recipient once, as priority BROADCAST; the same ``name`` goes on where it stopped.

        ``recipients``: chats (ids or @names), as an iterable or async iterable, read as they are needed, or
        a function that gives one. ``send(chat)`` makes the request, and is called again after an error that
        may pass. ``paid``: under the ``paid`` limit. ``on_progress`` gets a BroadcastProgress a few times a
        second; ``progress``: a bar on standard error instead. ``store``: a path, a URL of Redis or "" for
        memory; None: that of ``enable``. ``restart``: begin anew. ``cost``: messages that each send makes.
        ``concurrency``: recipients in work at a time; None: 50, of paid ones 500. ``total``: how many there
        are. ``stop_after_failures`` in a row it stops; None: never. ``lease``: seconds without a sign of life
        after which another process may go on with it.

        A finished name answers with its report and writes to nobody. Raises BroadcastRunningError,
        BroadcastStoppedError, BroadcastLostError, BroadcastStoreError, OutboundClosedError and ValueError.
        """
        return await self._broadcasts.run(
            self, name, recipients, send, paid=paid, on_progress=on_progress, progress=progress, store=store,
            restart=restart, cost=cost, concurrency=concurrency, total=total,
            stop_after_failures=stop_after_failures, lease=lease,
        )  # fmt: skip

    async def _send(self, send: Callable[[], Awaitable[T]], claim: Claim, chat: Chat) -> T:
        """Send for all who share the claim's entry, until it is done."""
        scheduler, counters = self._scheduler, self._counters
        while True:
            entry = claim.entry
            assert entry is not None
            generation = self._generation
            if self._shared is not None:
                self._shared.left(entry)
            edited = None if entry.message is None else self._shown.left(entry.message)
            error: Exception
            try:
                result = await send()
            except Exception as raised:
                error = raised
            except BaseException:
                # Cancelled: nobody knows whether it was sent. Callers that share it send for themselves.
                if edited is not None:
                    self._shown.failed(edited, self._now())
                if generation == self._generation:
                    counters.cancelled += 1
                    scheduler.withdraw(claim, self._now())
                    if self._shared is not None:
                        self._shared.ended(entry)
                    scheduler.finished(entry, self._now(), again=True)
                    self._poll()
                raise
            else:
                if generation == self._generation:
                    counters.sent_by[entry.priority] += 1
                    if self._shared is not None:
                        self._shared.ended(entry)
                    content = claim.content
                    over = scheduler.finished(entry, self._now())
                    if len(over) > 1:
                        counters.superseded += len(over) - 1
                        _give(over, claim, _Outcome(result, None))
                    if edited is not None and entry.message is not None:
                        self._edited(entry.message, edited, content, result)
                    self._poll()
                return result
            refusal = refusal_of(error, entry.cost)
            now = self._now()
            if edited is not None:
                if refusal is not None and refusal.repeatable:
                    self._shown.refused(edited)
                else:
                    self._shown.failed(edited, now)
            if generation != self._generation:
                raise error
            if refusal is None:
                counters.failed += 1
                if self._shared is not None:
                    self._shared.ended(entry)
                _give(scheduler.finished(entry, now), claim, _Outcome(None, error))
                self._poll()
                raise error
            jitter = self._random.uniform(
                JITTER_LEAST, max(JITTER_LEAST, min(JITTER_MOST, JITTER_SHARE * refusal.seconds))
            )
            if self._shared is not None:
                self._shared.refused(entry, refusal.seconds + jitter)
            for_all, again, over = scheduler.refused(
                entry, refusal.seconds, jitter, now, repeat=refusal.repeatable and self._enabled
            )
            counters.refused_by[entry.priority] += 1
            if for_all:
                counters.refusals_global += 1
            else:
                counters.refusals_chat += 1
            self._tell(chat, refusal.seconds, for_all, error, now)
            if not again:
                counters.failed += 1
                _give(over, claim, _Outcome(None, error))
                self._poll()
                raise error
            counters.retries += 1
            outcome = await self._wait(claim, chat, error)
            if outcome is not _GRANTED:
                return outcome.result()  # type: ignore[no-any-return]

    async def _wait(self, claim: Claim, chat: Chat, cause: Exception | None = None) -> Any:
        """Wait until the claim is granted (_GRANTED), or another of its entry was sent (its _Outcome)."""
        future = claim.future = asyncio.get_running_loop().create_future()
        began = self._now()
        generation = self._generation
        self._poll()
        try:
            outcome = await future
        except asyncio.CancelledError:
            if generation == self._generation:
                self._counters.cancelled += 1
                if future.done() and not future.cancelled() and future.exception() is None:
                    if future.result() is _GRANTED and claim.entry is not None:
                        self._pass_on(claim.entry, claim)
                else:
                    self._scheduler.withdraw(claim, self._now())
                self._poll()
            raise
        except Exception as error:
            if cause is not None:
                raise error from cause
            raise
        finally:
            claim.future = None
            waited = self._now() - began
            if waited > 0.0:
                self._counters.waited += 1
                self._counters.waits.record(waited)
        return outcome

    def _pass_on(self, entry: Entry, claim: Claim) -> None:
        """A claim that was granted does not want it any more."""
        if self._shared is not None:
            self._shared.given_back(entry)
        self._scheduler.withdraw(claim, self._now())
        self._scheduler.given_back(entry, self._now())

    # Edits that would change nothing.

    def _skip(self, message: Key, key: Key | None, result: Any, now: float) -> bool:
        """Whether an edit of ``key`` to what the message shows need not wait for those that wait.

        Those that it would supersede are over with it, with the same result.
        """
        waiting = self._scheduler.edits_waiting(message)
        if any(key is None or entry.key != key for entry in waiting):
            return False  # they leave first, and change the message
        if waiting:
            self._end_unchanged(waiting, result, now)
            self._poll()
        return True

    def _edited(self, message: Key, edited: Message, content: bytes | None, result: Any) -> None:
        """An edit took effect; those that wait to make the same of the message are over."""
        now = self._now()
        self._shown.succeeded(edited, content, result, now)
        waiting = self._scheduler.edits_waiting(message)
        contents = {entry.claims[-1].content for entry in waiting}
        if contents == {content} and content is not None and self._shown.equal(message, content):
            self._end_unchanged(waiting, result, now)

    def _end_unchanged(self, waiting: list[Entry], result: Any, now: float) -> None:
        for entry in waiting:
            over = self._scheduler.end_waiting(entry, now)
            self._counters.unchanged += len(over)
            for claim in over:
                if claim.future is not None and not claim.future.done():
                    claim.future.set_result(_Outcome(result, None))

    # What the scheduler decides.

    def _poll(self) -> None:
        """Let leave what may, and see to it that the next is not late."""
        scheduler = self._scheduler
        if scheduler.is_quiet:
            if self._idle is not None and not scheduler.slots.taken:
                self._idle.set()
            if self._timer is None and scheduler.chats:
                self._arm()
            return
        while True:
            now = self._now()
            granted, failed = scheduler.poll(now)
            lost = False
            for entry in granted:
                if self._shared is None or self._may_leave(entry, now):
                    lost = not self._grant(entry) or lost
            for claim, reason in failed:
                self._counters.ended(reason)
                _raise(claim, self._error_of(claim, reason, now))
            if not lost:
                break
        if self._idle is not None and not scheduler.pending and not scheduler.slots.taken:
            self._idle.set()
        self._arm()

    def _grant(self, entry: Entry) -> bool:
        """Wake the last of those who share it; False if that one is cancelled, and not yet told."""
        claim = entry.claims[-1]
        if claim.future is None or claim.future.done():
            self._pass_on(entry, claim)
            return False
        claim.future.set_result(_GRANTED)
        return True

    # The budget that instances share.

    def _may_leave(self, entry: Entry, now: float) -> bool:
        """Whether it may leave without asking; else ``_told`` will hear whether it may."""
        shared, scheduler = self._shared, self._scheduler
        return shared is None or shared.ask(entry, scheduler.rates, scheduler.debt_before(entry, now))

    def _told(self, entry: Entry, verdict: Verdict) -> None:
        """All instances together have room for what the scheduler let go, or not."""
        scheduler, now = self._scheduler, self._now()
        scope, wait = verdict
        if scope is Scope.CLEAR:
            if entry.claims:
                self._grant(entry)
            else:  # all of its callers gave up meanwhile
                if self._shared is not None:
                    self._shared.given_back(entry)
                scheduler.given_back(entry, now)
        elif scope is Scope.CHAT_FULL:
            scheduler.deferred(entry, now, chat=max(wait, SHORTEST_DEFERRAL))
        elif scope is Scope.GATE_FULL:
            scheduler.deferred(entry, now, gate=max(wait, SHORTEST_DEFERRAL))
        else:
            scheduler.deferred(entry, now)
            if scope is not Scope.FORGOTTEN:
                # After it waits again, so that it fails if that is longer than anybody waits.
                scheduler.hold(None if scope is Scope.ALL_HELD else entry.chat, wait, now)
        self._poll()

    def _error_of(self, claim: Claim, reason: Reason, now: float) -> Exception:
        scheduler = self._scheduler
        chat = claim.chat
        if reason is Reason.DEADLINE:
            return OutboundDeadlineError(claim.deadline or 0.0)
        if reason is Reason.FULL:
            return OutboundFullError(scheduler.backlog.most)
        if reason is Reason.DELETED:
            return MessageDeletedError(chat, claim.message[1] if claim.message else None)
        state = scheduler.chats.get(chat)
        until = scheduler.penalty.until
        if state is not None and state.held_until > until:
            return OutboundHeldError(chat, state.held_until - now, scheduler.max_wait)
        return OutboundHeldError(None, until - now, scheduler.max_wait)

    def _arm(self) -> None:
        if not self._enabled:
            return
        now = self._now()
        at = self._scheduler.wake_at(now)
        if self._timer is not None:
            if self._timer_at <= at:
                return  # it wakes in time, and looks again then
            self._cancel_timer()
        loop = self._owner.loop
        if at == float("inf") or loop is None or loop.is_closed():
            return
        self._timer_at = at
        self._timer = self._clock.call_later(max(SHORTEST_TIMER, at - now), self._wake, loop)

    def _wake(self) -> None:
        self._timer = None
        if not self._scheduler.pending:
            self._scheduler.chats.forget_idle(self._scheduler.rates, self._now())
        self._poll()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                timer.cancel()

    def hold(self, chat: int | str | None, seconds: float) -> None:
        """Send nothing to ``chat``, or to anybody if it is None, for ``seconds``; never shortens a hold.

        For waits that were learnt of elsewhere. Raises ValueError for what is no chat or no time.
        """
        valid_seconds("seconds", seconds, zero=True)
        self._scheduler.hold(plain_chat(chat), float(seconds), self._now())
        if self._shared is not None:
            self._shared.hold(plain_chat(chat), float(seconds))
        if self._owner.loop is not None and not self._owner.elsewhere:
            self._poll()

    async def release(self, chat: int | str | None) -> bool:
        """End a hold of ``chat``, or the one of all chats if it is None; False if there was none.

        Whoever it came from: if it was Telegram, which still means it, it refuses again. The lower rate of a
        chat that was refused stays. With ``redis_url`` it ends in every instance; if Redis is away,
        RedisUnavailableError is raised and the hold stays. Raises ValueError for what is no chat.
        """
        released = plain_chat(chat)
        known = self._shared is not None and await self._shared.release(released)
        found = False

        async def end() -> None:
            nonlocal found
            found = self._end_hold(released)

        loop = self._owner.loop
        if loop is None or not await run_on_loop(loop, end):
            await end()
        return found or known

    def _heard_of_release(self, chat: Chat) -> None:
        """Another instance has ended a hold."""
        if self._owner.elsewhere and self._owner.loop is not None:
            with contextlib.suppress(RuntimeError):  # closed this moment
                self._owner.loop.call_soon_threadsafe(self._end_hold, chat)
        else:
            self._end_hold(chat)

    def _end_hold(self, chat: Chat) -> bool:
        found = self._scheduler.release(chat, self._now())
        if self._owner.loop is not None:
            self._poll()
        return found

    def _tell(self, chat: Chat, seconds: float, for_all: bool, error: Exception, now: float) -> None:
        level = logging.DEBUG
        if now - self._warned_at >= LOGGED_EACH:
            self._warned_at = now
            level = logging.WARNING
        whom = "all chats are" if for_all else f"chat {chat} is"
        logger.log(
            level,
            "Telegram refused a request for %.1f s: %s held (%s)",
            seconds,
            one_line(whom),
            one_line(error),
        )

    # Event loops.

    def _move(self) -> None:
        """Another event loop than before sends from now on."""
        if self._owner.elsewhere:
            raise MisuseError(
                "outbound serves an event loop that runs in another thread; use one Outbound for each"
            )
        if self._owner.loop is not None:
            self._abandon()
        self._owner.claim()

    def _forked(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._abandon()

    def _abandon(self) -> None:
        """Forget callers of an event loop that runs no more."""
        self._generation += 1
        self._cancel_timer()
        self._scheduler.abandon()
        if self._shared is not None:
            self._shared.abandon()
        self._shown.clear()
        self._owner.release()

    # Figures.

    def snapshot(self) -> OutboundFigures | OutboundOff:
        """Figures of design 5.7; see docs/outbound.md."""
        if not self._enabled:
            return OutboundOff()
        now, broadcasts = self._now(), self._broadcasts.figures()
        shared, draining = self._shared, self._draining
        return snapshot(self._counters, self._scheduler, now, shared, broadcasts, draining=draining)

    async def reset_statistics(self) -> None:
        """Counters to zero; queues, windows and penalties stay."""
        self._counters = Counters()
        self._broadcasts.reset()
        if self._shared is not None:
            self._shared.reset_statistics()

    def histograms(self) -> list[HistogramSnapshot]:
        """How long requests waited."""
        return [self._counters.waits_snapshot()]

    def check_invariants(self) -> None:
        """For tests."""
        self._scheduler.check_invariants()
        self._shown.check_invariants()
        if self._shared is not None:
            self._shared.check_invariants()


class _Outcome:
    """How a request ended that several callers shared."""

    __slots__ = ("_error", "_result")

    def __init__(self, result: Any, error: Exception | None) -> None:
        self._result = result
        self._error = error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


def _give(claims: list[Claim], sender: Claim, outcome: _Outcome) -> None:
    """Give the callers whose claims the sender superseded how it ended."""
    for claim in claims:
        if claim is not sender and claim.future is not None and not claim.future.done():
            claim.future.set_result(outcome)


def _raise(claim: Claim, error: Exception) -> None:
    if claim.future is not None and not claim.future.done():
        claim.future.set_exception(error)
