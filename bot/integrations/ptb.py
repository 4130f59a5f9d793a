"""python-telegram-bot: flood control for what is sent, throttling and order for what comes in.

    builder = Application.builder().token(TOKEN)
    application = ptb.setup(builder).build()

:func:`setup` is all that most bots need; :class:`Phase4RateLimiter` and :class:`ThrottledUpdates` can be
given to a builder by themselves. While a service is off, its part passes everything through.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from telegram import Update
from telegram.error import RetryAfter, TelegramError
from telegram.ext import (
    Application,
    ApplicationBuilder,
    BaseRateLimiter,
    BaseUpdateProcessor,
    ExtBot,
    SimpleUpdateProcessor,
)

from bot.core._shared.errors import MisuseError, Phase4Error, invalid
from bot.core._shared.masking import one_line
from bot.core._shared.validation import valid_seconds
from bot.core.phase4_service import Phase4Service
from bot.integrations.bot_api import ReadOnceError, inline_chat
from bot.integrations.inbound import (
    ANSWER,
    ANSWER_DEADLINE,
    LIMITED,
    NEVER_DROPPED,
    Gate,
    Throttle,
    TooMany,
    answer_priority,
    handling,
)
from bot.integrations.ptb_calls import Callback, as_refusal, bot_id_of, is_read_once, replaced
from bot.integrations.services import Budgets, ServiceUser, running_limiter, running_outbound

if TYPE_CHECKING:
    from bot.core.outbound import Outbound, Priority
    from bot.core.phase4_config import Phase4Config
    from bot.core.rate_limiter.models import LimitChoice

logger = logging.getLogger(__name__)

__all__ = ["Phase4RateLimiter", "RateLimitArgs", "Throttle", "ThrottledUpdates", "setup"]

DEFAULT_CONCURRENT_UPDATES = 256
"""What python-telegram-bot takes for ``concurrent_updates(True)``."""

_AnyApplication = Application[Any, Any, Any, Any, Any, Any]
_AnyBuilder = ApplicationBuilder[Any, Any, Any, Any, Any, Any]
_Target = TypeVar("_Target", _AnyApplication, _AnyBuilder)


# What is sent.


class RateLimitArgs:
    """``rate_limit_args`` of any method of the bot: ``rate_limit_args=RateLimitArgs(Priority.BROADCAST)``.

    ``priority``: a Priority; None: ANSWER to the chat and user whose update is handled, else what
    ``sending`` says, else NOTIFY. ``deadline``: seconds within which it must leave. ``replaceable``: whether
    an edit or a chat action that waits is superseded by a later one; False sends each. Raises ValueError for
    what is none of these. (A bare ``Priority.ANSWER`` is 0: python-telegram-bot takes that for no arguments.)
    """

    __slots__ = ("deadline", "priority", "replaceable")

    def __init__(
        self,
        priority: Priority | None = None,
        *,
        deadline: float | None = None,
        replaceable: bool = True,
    ) -> None:
        if priority is not None:
            from bot.core.outbound import Priority

            if not isinstance(priority, Priority):
                raise invalid("priority", priority, "a Priority or None")
        if deadline is not None:
            valid_seconds("deadline", deadline, zero=True)
        if not isinstance(replaceable, bool):
            raise invalid("replaceable", replaceable, "True or False")
        self.priority = priority
        self.deadline = deadline
        self.replaceable = replaceable

    def __repr__(self) -> str:
        return (
            f"RateLimitArgs({self.priority!r}, deadline={self.deadline!r}, replaceable={self.replaceable!r})"
        )


_NO_ARGS = RateLimitArgs()


class Phase4RateLimiter(BaseRateLimiter[RateLimitArgs]):
    """Sends a bot's requests through :class:`~bot.core.outbound.Outbound`, each in its turn.

    ``outbound``: None: the process's Outbound. It serves the first bot. Every other token has a sibling with
    the same settings, because Telegram limits each bot separately. Several bots may share one rate limiter.
    """

    def __init__(self, outbound: Outbound | None = None) -> None:
        if outbound is not None and not (
            isinstance(outbound, Phase4Service) and outbound.service_name == "outbound"
        ):
            raise invalid("outbound", outbound, "an Outbound or None")
        self._outbound = outbound
        # Set by setup: stopped with the bot.
        self._services: ServiceUser | None = None
        # Those of further bots that were sent through; shutdown switches them off.
        self._siblings: set[Outbound] = set()

    async def initialize(self) -> None:
        """Called by the bot before its first request; nothing to do."""

    async def shutdown(self) -> None:
        """Called by the bot while it can still send: what waits is sent first, for ``drain_timeout``."""
        while self._siblings:
            await self._siblings.pop().disable()
        if self._services is not None:
            await self._services.drain()

    async def process_request(
        self,
        callback: Callback,
        args: Any,
        kwargs: dict[str, Any],
        endpoint: str,
        data: dict[str, Any],
        rate_limit_args: RateLimitArgs | None,
    ) -> Any:
        """Called by the bot for each request.

        Raises what the request raises, what ``Outbound.call`` does (nothing was sent then), and ValueError
        for a ``rate_limit_args`` that is no :class:`RateLimitArgs`.
        """
        if rate_limit_args is not None and not isinstance(rate_limit_args, RateLimitArgs):
            raise invalid("rate_limit_args", rate_limit_args, "a RateLimitArgs of bot.integrations.ptb")
        outbound = await self._budget_of(callback)
        if outbound is None:
            return await callback(*args, **kwargs)
        from bot.core.outbound.models import Kind, kind_of, method_alone, plain_chat
        from bot.integrations.bot_api import request_of

        options = rate_limit_args or _NO_ARGS
        request = request_of(
            endpoint,
            data,
            priority=options.priority,
            deadline=options.deadline,
            replaceable=options.replaceable,
        )
        if request.priority is None:
            request = replaced(request, priority=answer_priority(plain_chat(request.chat)))
        if request.chat is None and kind_of(endpoint) is not Kind.UNQUEUED:
            # A wait for setMyName, which may be of a day, concerns that method alone.
            request = replaced(request, chat=method_alone(endpoint))

        async def send() -> Any:
            try:
                with as_refusal:
                    return await callback(*args, **kwargs)
            except RetryAfter as error:
                if is_read_once(data):
                    raise ReadOnceError(error) from error
                raise

        try:
            return await outbound.call(send, request)
        except ReadOnceError as error:
            raise error.refusal from None

    async def _budget_of(self, callback: Callback) -> Outbound | None:
        """The Outbound of the bot that calls; None while the service is off."""
        main = self._outbound or running_outbound()
        if main is None:
            return None
        outbound = await Budgets.of(bot_id_of(callback), main)
        if outbound is not None and outbound is not main:
            self._siblings.add(outbound)
        return outbound


# What comes in.


class ThrottledUpdates(BaseUpdateProcessor):
    """Updates of one chat one after the other, chats side by side, and what is too much dropped.

    ``max_concurrent_updates``: updates that are handled at once; one that waits for its chat's turn
    is none of them. ``in_order=False``: several of one chat at once, for handlers that wait for another
    update of their own chat. ``throttle``: how much may come in while the rate limiter is on. What one
    person sends too fast is dropped, and the person is told once per wait; payments, memberships and all
    updates but messages, reactions and queries never are.

    What is sent to an update's chat or user while it is handled leaves as an answer, and each update is
    one request for the optimizer's N+1 detection. Raises ValueError for an argument out of bounds.
    """

    def __init__(
        self,
        max_concurrent_updates: int = DEFAULT_CONCURRENT_UPDATES,
        throttle: Throttle[Update] | None = None,
        *,
        in_order: bool = True,
    ) -> None:
        most = max_concurrent_updates
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise invalid("max_concurrent_updates", most, "a whole number of 1 or more")
        if throttle is not None and not isinstance(throttle, Throttle):
            raise invalid("throttle", throttle, "a Throttle or None")
        if not isinstance(in_order, bool):
            raise invalid("in_order", in_order, "True or False")
        # The places of the base class are taken by updates that wait, too: an update that waits for its
        # chat must not keep those of other chats out. So it has places without end, and the slots are here.
        self._most: int | None = None
        super().__init__(sys.maxsize)
        self._most = most
        self._in_order = in_order
        self._gate: Gate[Update] = Gate(Throttle() if throttle is None else throttle)
        # Set by setup: started and stopped with the application.
        self._services: ServiceUser | None = None
        # Of one event loop; initialize makes new ones. _chats: the queue of each chat, first in, first out.
        self._slots = asyncio.Semaphore(most)
        self._chats: dict[int, dict[asyncio.Future[None], None]] = {}
        self._handled_now = 0

    @property
    def max_concurrent_updates(self) -> int:
        """Updates that are handled at once at most."""
        return super().max_concurrent_updates if self._most is None else self._most

    @property
    def current_concurrent_updates(self) -> int:
        """Updates that are handled now; not those that wait for their turn."""
        return self._handled_now

    async def initialize(self) -> None:
        """Called by the application. Raises UnknownTierError for a ``tier`` that a running limiter lacks."""
        if self._services is not None:
            await self._services.start()
        limiter, tier = running_limiter(), self._gate.throttle.tier
        if limiter is not None and tier is not None:
            limiter.get_tier_limit(tier)
        assert self._most is not None
        self._slots = asyncio.Semaphore(self._most)
        self._chats = {}
        self._handled_now = 0

    async def shutdown(self) -> None:
        """Called by the application once every update has been handled and the bot is shut down."""
        if self._services is not None:
            await self._services.stop()

    async def do_process_update(self, update: object, coroutine: Awaitable[Any]) -> None:
        """Called by the application for each update; ends when it has been handled or dropped."""
        try:
            if not isinstance(update, Update):
                await self._handle((), coroutine)
                return
            # It joins its chat's queue before anything is awaited, so that order holds whatever comes first.
            with self._queued(update) as turn:
                refused = None
                if _is_limited(update):
                    sender, chat = update.effective_sender, update.effective_chat
                    refused = await self._gate.refuses(
                        update, None if sender is None else sender.id, None if chat is None else chat.id
                    )
                if refused is None:
                    await turn
                    await self._handle(_who_waits(update), coroutine)
                    return
            if refused.tell:
                await self._tell(update, refused)
        finally:
            close = getattr(coroutine, "close", None)
            if close is not None:
                close()  # of one that was never awaited; of one that has ended it does nothing

    async def _handle(self, waiting: Iterable[int | str | None], coroutine: Awaitable[Any]) -> None:
        async with self._slots:
            self._handled_now += 1
            try:
                with handling(waiting):
                    await coroutine
            finally:
                self._handled_now -= 1

    @contextmanager
    def _queued(self, update: Update) -> Iterator[asyncio.Future[None]]:
        """A place in the queue of the update's chat; the future is done when its turn has come."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        source = update.effective_chat or update.effective_user
        if source is None or not self._in_order:
            turn.set_result(None)
            yield turn
            return
        queue = self._chats.setdefault(source.id, {})
        queue[turn] = None
        if len(queue) == 1:
            turn.set_result(None)
        try:
            yield turn
        finally:
            del queue[turn]
            following = next(iter(queue), None)
            if following is None:
                if self._chats.get(source.id) is queue:
                    del self._chats[source.id]
            elif not following.done():
                following.set_result(None)

    async def _tell(self, update: Update, refused: TooMany) -> None:
        answer = self._gate.throttle.answer
        try:
            if callable(answer):
                await answer(update, refused.seconds)
            elif answer is not None:
                with _answering():
                    await _answer(update, refused.text(answer))
        except (TelegramError, Phase4Error) as error:
            logger.debug("A client was not told to wait: %s", one_line(error))


def _is_limited(update: Update) -> bool:
    """Whether it is what one person sends, and can send again."""
    if not any(getattr(update, kind, None) is not None for kind in LIMITED):
        return False
    if update.callback_query is not None:
        return True
    message = update.effective_message
    return message is None or all(getattr(message, field, None) is None for field in NEVER_DROPPED)


def _who_waits(update: Update) -> tuple[int | str | None, ...]:
    """The chats and users that its answer may go to."""
    known = (update.effective_chat, update.effective_sender, update.effective_user)
    query = update.callback_query
    inline = (
        None if query is None or query.inline_message_id is None else inline_chat(query.inline_message_id)
    )
    return (*(one.id for one in known if one is not None), inline)


def _answering() -> AbstractContextManager[None]:
    if running_outbound() is None:
        return nullcontext()
    from bot.core.outbound import Priority, sending

    return sending(Priority.ANSWER, ANSWER_DEADLINE)


async def _answer(update: Update, text: str) -> None:
    """Answer the sender of the update, in its chat."""
    if update.callback_query is not None:
        await update.callback_query.answer(text)
    elif update.message is not None:
        await update.message.reply_text(text, do_quote=update.message.chat.type != "private")


# Start and stop.


def setup(
    target: _Target,
    *,
    config: Mapping[str, Any] | Phase4Config | None = None,
    concurrent_updates: bool | int | None = None,
    in_order: bool = True,
    limit: LimitChoice | None = None,
    tier: str | None = None,
    per: str | Callable[[Update], int | str | None] = "user",
    answer: str | Callable[[Update, float], Awaitable[object]] | None = ANSWER,
    admins: Collection[int] = (),
    exempt: Callable[[Update], bool | Awaitable[bool]] | None = None,
    outbound: Outbound | None = None,
    services: bool = True,
) -> _Target:
    """Connect a builder, or an application that does not run yet, with Phase 4; returns it.

    - ``config``: settings for ``initialize_phase4_services``; they also change services that run already.
      None: the bot's own config module and the environment.
    - ``concurrent_updates``: as the builder's. None: the application's number if it is above 1, else 256.
    - ``in_order``: see :class:`ThrottledUpdates`.
    - ``limit``, ``tier``, ``per``, ``answer``, ``admins``, ``exempt``: see :class:`Throttle`.
    - ``outbound``: see :class:`Phase4RateLimiter`.
    - ``services``: whether the services start when the application is initialized, and stop at the end of its
      ``shutdown()``. Services that run already are left to the code that started them. ``post_init``,
      ``post_stop`` and ``post_shutdown`` are not used.

    Raises MisuseError for an application that already runs, or that has a rate limiter or an update processor
    of its own, and ValueError for an argument out of bounds.
    """
    application = target if isinstance(target, Application) else None
    if application is None and not isinstance(target, ApplicationBuilder):
        raise invalid("target", target, "an ApplicationBuilder or an Application")
    if concurrent_updates is None:
        known = 1 if application is None else application.concurrent_updates
        concurrent_updates = known if known > 1 else True
    if isinstance(concurrent_updates, bool):
        concurrent_updates = DEFAULT_CONCURRENT_UPDATES if concurrent_updates else 1
    limiter = Phase4RateLimiter(outbound)
    throttle: Throttle[Update] = Throttle(
        limit=limit, tier=tier, per=per, answer=answer, admins=admins, exempt=exempt
    )
    processor = ThrottledUpdates(concurrent_updates, throttle, in_order=in_order)
    if services:
        limiter._services = processor._services = ServiceUser(config)
    if isinstance(target, ApplicationBuilder):
        target.rate_limiter(limiter).concurrent_updates(processor)
        return target
    _put(target, limiter, processor)
    return target


def _put(application: _AnyApplication, limiter: Phase4RateLimiter, processor: ThrottledUpdates) -> None:
    bot = application.bot
    if application.running:
        raise MisuseError("the application already runs: call setup() before initialize()")
    if not isinstance(bot, ExtBot):
        raise MisuseError(
            f"the application's bot is a {type(bot).__name__}; only an ExtBot has a rate limiter"
        )
    if bot.rate_limiter is not None:
        raise MisuseError(f"the bot has a {type(bot.rate_limiter).__name__} already; build it without")
    if type(application.update_processor) is not SimpleUpdateProcessor:
        kind = type(application.update_processor).__name__
        raise MisuseError(f"the application has a {kind} already; build it without")
    # Read-only in public, because neither may change while they are used.
    with bot._unfrozen():
        bot._rate_limiter = limiter
    application._update_processor = processor
