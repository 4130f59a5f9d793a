"""Outbound flood control: what a bot sends to Telegram, kept within Telegram's limits."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, TypeVar

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import invalid
from bot.core._shared.histogram import HistogramSnapshot
from bot.core._shared.redis_address import with_options
from bot.core._shared.tasks import run_on_loop, to_the_end
from bot.core._shared.validation import valid_seconds
from bot.core.outbound.attempts import Attempts
from bot.core.outbound.broadcast.broadcasts import Broadcasts
from bot.core.outbound.broadcast.models import BroadcastReport
from bot.core.outbound.broadcast.options import BroadcastOptions
from bot.core.outbound.broadcast.progress import OnProgress
from bot.core.outbound.broadcast.recipients import Recipients
from bot.core.outbound.broadcast.store import checked_address
from bot.core.outbound.context import covered, current
from bot.core.outbound.dispatcher import GRANTED, Dispatcher, State
from bot.core.outbound.edits import Edits
from bot.core.outbound.keys import Key, message_of, replaces
from bot.core.outbound.lanes import Entry
from bot.core.outbound.models import Kind, Limits, Priority, Request, is_delete, kind_of, plain_chat
from bot.core.outbound.reservations import tag_of
from bot.core.outbound.shown import Last, digest_of
from bot.core.outbound.stats import Counters, snapshot
from bot.core.phase4_config.outbound import OutboundSettings
from bot.core.phase4_service import Phase4Service
from bot.core.phase4_statistics.outbound import OutboundFigures, OutboundOff
from bot.core.phase4_statistics.states import WITHOUT_REDIS

logger = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULTS = OutboundSettings()
BROADCAST = BroadcastOptions()

UNNAMED = "default"
"""The bot whose budget it is while nobody has said which."""


class Outbound(Phase4Service):
    """Sends requests to Telegram within its limits, in order. While off, each is sent at once.

    :meth:`call` runs ``send`` in its caller's own task, after the necessary wait. A caller that is
    cancelled while it waits gives its place back, and its slot if it had just got one.
    """

    service_name: ClassVar[str] = "outbound"
    flag: ClassVar[str] = "ENABLE_OUTBOUND"
    while_off: ClassVar[str] = "requests are sent at once, without flood control"

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, random_source: random.Random | None = None) -> None:
        super().__init__()
        self._clock = clock
        self._now = clock.monotonic
        self._random = random_source or random.Random()
        self._limits = Limits()
        self._drain_timeout = DEFAULTS.drain_timeout
        self._settings: dict[str, Any] = {}
        """What enable was called with, but for the limits."""
        self._counters = Counters()
        self._dispatcher = Dispatcher(self._limits, clock, self._counters, abandoned=self._forget_edits)
        self._edits = Edits(self._dispatcher.scheduler, skip_equal=DEFAULTS.skip_equal_edits)
        self._attempts = Attempts(self._dispatcher, self._edits, self._counters, clock, self._random)
        self._broadcasts = Broadcasts(clock)

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
        redis_options: Mapping[str, Any] | None = None,
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
        ``redis_options``: added to every Redis URL here and in :meth:`broadcast`, such as ``key_prefix``.
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
        options = dict(redis_options or {})
        url = with_options(settings.redis_url, **options)
        if broadcast_store is not None:
            checked_address("broadcast_store", broadcast_store)
        async with self._transition:
            await self._share(url, bot_id)
            self._broadcasts.redis_options = options
            self._broadcasts.store = self._broadcasts.store if broadcast_store is None else broadcast_store
            if not self._enabled:
                self._edits.clear()  # edits passed unseen
            # Other instances may edit the same messages.
            self._edits.configure(skip_equal=settings.skip_equal_edits and not settings.redis_url)
            self._limits = limits or self._limits
            dispatcher = self._dispatcher
            dispatcher.scheduler.configure(
                self._limits,
                self._clock.monotonic(),
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
                "redis_url": url,
                "redis_options": options,
                "bot_id": bot_id,
            }
            dispatcher.state = State.ON
            self._switched_on()
            if dispatcher.owner.loop is asyncio.get_running_loop():
                dispatcher.poll()
        return True

    def sibling(self) -> Outbound:
        """Another ``Outbound``, off and unused, with the same clock: for a bot with its own budget."""
        return Outbound(clock=self._clock, random_source=self._random)

    async def enable_as(self, other: Outbound, *, bot_id: int | str | None = None) -> bool:
        """:meth:`enable` with the limits and settings of another; ``bot_id``: if it serves another bot."""
        settings = other._settings if bot_id is None else {**other._settings, "bot_id": bot_id}
        return await self.enable(other._limits, **settings)

    async def identify(self, bot_id: int | str) -> None:
        """Set the bot's id if ``enable`` did not get it; instances with the same id share a budget."""
        async with self._transition:
            if self._settings.get("bot_id") == UNNAMED:
                self._settings["bot_id"] = bot_id
                await self._share(self._settings["redis_url"], bot_id)

    @property
    def is_identified(self) -> bool:
        """Whether the bot's id is known."""
        return bool(self._settings.get("bot_id", UNNAMED) != UNNAMED)

    def may_serve(self, bot_id: int) -> bool:
        """False if this serves a bot with another id; a name that is not an id may be any bot's."""
        told = tag_of(self._settings.get("bot_id", UNNAMED))[5:-1]
        return not told.isdigit() or told == b"%d" % bot_id

    async def _share(self, redis_url: str, bot_id: int | str) -> None:
        """Share the budget of ``bot_id`` at ``redis_url``, or none."""
        dispatcher = self._dispatcher
        before, shared = dispatcher.shared, None
        if redis_url:
            from bot.core.outbound.shared import SharedBudget

            if before is not None and before.serves(redis_url, bot_id):
                return
            shared = SharedBudget(
                redis_url,
                bot_id,
                self._clock,
                answered=dispatcher.told,
                holds=lambda: dispatcher.scheduler.holds(self._now()),
                released=dispatcher.heard_of_release,
            )
        try:
            if before is not None:
                await to_the_end(before.stop())  # from now on it lets all leave unasked
        finally:
            # Also when cancelled: a budget that has ended would else be taken for the one that is wanted.
            dispatcher.shared = shared
            if shared is not None:
                shared.listen()
        if shared is not None:
            await shared.connect()

    def warnings(self) -> list[str]:
        """Problems of the Redis for the shared budget."""
        shared = self._dispatcher.shared
        return [] if shared is None else shared.warnings(WITHOUT_REDIS[self.service_name])

    async def disable(self) -> bool:
        """Switch off: waiting requests are sent within ``drain_timeout``, the rest raise
        OutboundClosedError.

        Meanwhile a call that would have to wait raises it, too. Windows and penalties are remembered.
        """
        async with self._transition:
            dispatcher, timeout = self._dispatcher, self._drain_timeout
            loop = dispatcher.owner.loop
            try:
                try:
                    await self._broadcasts.stop(timeout)
                except BaseException:
                    timeout = 0.0  # what waits is turned away all the same
                    raise
                finally:
                    if loop is not None:
                        await run_on_loop(loop, lambda: dispatcher.drain(timeout))
            finally:
                self._enabled = False
                dispatcher.stop()
                self._edits.clear()
                await self._share("", "")
                dispatcher.abandon_ended_loop()
        return True

    def _forget_edits(self) -> None:
        self._edits.clear()

    # Sending.

    @property
    def max_wait(self) -> float:
        """The longest flood wait to wait for, in seconds."""
        return self._dispatcher.scheduler.max_wait

    async def call(self, send: Callable[[], Awaitable[T]], request: Request) -> T:
        """Await ``send()`` when the limits allow it, again after a refusal by Telegram, and return its
        result.

        ``send`` must make one request, and it must be possible to call it again after a refusal. Raises the
        errors of ``send``, except refusals that are waited for. OutboundFullError, OutboundHeldError,
        OutboundDeadlineError, OutboundClosedError and MessageDeletedError mean that the request was not
        sent.
        """
        if not self._enabled:
            self._used_while_off()
            return await send()
        cover = covered.get()
        if cover is not None and cover.active and cover.owner is self:
            if request.message_id is not None:
                self._edits.forget(plain_chat(request.chat), request.message_id)
            return await send()
        kind = kind_of(request.method) if type(request.method) is str else Kind.OTHER
        chat = request.check()
        counters = self._counters
        counters.requests += 1
        if kind is Kind.UNQUEUED:
            counters.unqueued += 1
            return await send()
        dispatcher = self._dispatcher
        if asyncio.get_running_loop() is not dispatcher.owner.loop:
            dispatcher.move()
        now = self._now()
        if kind is Kind.OTHER and request.message_id is not None and is_delete(request.method):
            dispatcher.scheduler.drop_edits(chat, request.message_id, now)
            self._edits.forget(chat, request.message_id)
        priority, deadline = current.get()
        key = replaces(request.method, chat, request.message_id) if request.replaceable else None
        message = content = None
        if kind is Kind.EDIT and request.message_id is not None:
            message = message_of(chat, request.message_id)
            if request.content is not None and self._edits.skips_equal:
                content = digest_of(request.method, request.content)
                last = self._equal_before(message, key, content, now)
                if last is not None:
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
        claim, granted = dispatcher.submit(entry, deadline, now)
        if not granted:
            outcome = await dispatcher.wait(claim)
            if outcome is not GRANTED:
                return outcome.result()  # type: ignore[no-any-return]
        return await self._attempts.send(send, claim)

    def _equal_before(self, message: Key, key: Key | None, content: bytes, now: float) -> Last | None:
        """The edit before, if one of this content need not be sent; those that wait then end with it."""
        known = self._edits.last_equal(message, key, content)
        if known is None:
            return None
        last, needless = known
        self._counters.unchanged += 1
        if needless:
            self._attempts.leave_out(needless, last.result, now)
            self._dispatcher.poll()
        return last

    async def broadcast(
        self,
        name: str,
        recipients: Recipients,
        send: Callable[[Any], Awaitable[object]],
        *,
        paid: bool = BROADCAST.paid,
        on_progress: OnProgress | None = BROADCAST.on_progress,
        progress: bool = BROADCAST.progress,
        store: str | None = BROADCAST.store,
        restart: bool = BROADCAST.restart,
        cost: int = BROADCAST.cost,
        concurrency: int | None = BROADCAST.concurrency,
        total: int | None = BROADCAST.total,
        stop_after_failures: int | None = BROADCAST.stop_after_failures,
        lease: float = BROADCAST.lease,
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
        options = BroadcastOptions(
            paid=paid,
            on_progress=on_progress,
            progress=progress,
            store=store,
            restart=restart,
            cost=cost,
            concurrency=concurrency,
            total=total,
            stop_after_failures=stop_after_failures,
            lease=lease,
        )
        return await self._broadcasts.run(self, name, recipients, send, options)

    # Holds.

    def hold(self, chat: int | str | None, seconds: float) -> None:
        """Send nothing to ``chat`` (None: to any chat) for ``seconds``; never shortens a hold.

        For flood waits that your code learnt elsewhere. Raises ValueError for an invalid chat or time.
        """
        valid_seconds("seconds", seconds, zero=True)
        self._dispatcher.hold(plain_chat(chat), float(seconds))

    async def release(self, chat: int | str | None) -> bool:
        """End a hold of ``chat``, or the one of all chats if it is None; False if there was none.

        Holds of any cause are ended. If Telegram caused it and its flood wait is not over, Telegram refuses
        again. The lower rate of a chat that was refused stays. With ``redis_url`` it ends in every
        instance; if Redis is away, RedisUnavailableError is raised and the hold stays. Raises ValueError
        for what is no chat.
        """
        return await self._dispatcher.release(plain_chat(chat))

    # Figures.

    def snapshot(self) -> OutboundFigures | OutboundOff:
        """Figures since the start or the last reset; see docs/outbound.md."""
        if not self._enabled:
            return OutboundOff()
        dispatcher, counters = self._dispatcher, self._counters
        now, broadcasts = self._now(), self._broadcasts.figures()
        draining = dispatcher.state is State.DRAINING
        return snapshot(counters, dispatcher.scheduler, now, dispatcher.shared, broadcasts, draining=draining)

    async def reset_statistics(self) -> None:
        """Counters to zero; queues, windows and penalties stay."""
        self._counters.reset()
        self._broadcasts.reset()
        if self._dispatcher.shared is not None:
            self._dispatcher.shared.reset_statistics()

    def histograms(self) -> list[HistogramSnapshot]:
        """How long requests waited."""
        return [self._counters.waits_snapshot()]

    def check_invariants(self) -> None:
        """For tests."""
        self._dispatcher.check_invariants()
        self._edits.check_invariants()
