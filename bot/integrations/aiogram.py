"""aiogram 3: flood control for what is sent, throttling for what comes in, start and stop of the services.

    dispatcher = Dispatcher()
    aiogram.setup(dispatcher, bot)

While a service is off, its part passes everything through.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from aiogram import Bot, Dispatcher
from aiogram.client.default import Default
from aiogram.client.session.base import BaseSession
from aiogram.dispatcher.event.handler import HandlerObject
from aiogram.dispatcher.middlewares.user_context import EventContext, UserContextMiddleware
from aiogram.exceptions import TelegramAPIError, TelegramRetryAfter
from aiogram.methods import TelegramMethod
from aiogram.types import (
    BufferedInputFile,
    FSInputFile,
    InputFile,
    Message,
    TelegramObject,
    Update,
    URLInputFile,
)
from aiogram.types.update import UpdateTypeLookupError

from bot.core._shared.errors import MisuseError, Phase4Error, invalid
from bot.core._shared.masking import one_line
from bot.core.phase4_service import Phase4Service
from bot.integrations.bot_api import ReadOnceError
from bot.integrations.inbound import (
    ANSWER,
    ANSWER_DEADLINE,
    LIMITED,
    NEVER_DROPPED,
    Client,
    Gate,
    Throttle,
    TooMany,
    answer_priority,
    handling,
)
from bot.integrations.services import Budgets, ServiceUser, running_outbound

if TYPE_CHECKING:
    from bot.core.outbound import Outbound, Request
    from bot.core.phase4_config import Phase4Config
    from bot.core.rate_limiter import RateLimiter
    from bot.core.rate_limiter.models import LimitChoice

logger = logging.getLogger(__name__)

__all__ = ["Phase4", "setup"]

MAX_TELLING = 100
"""Clients that are being told to wait at the same time; more are dropped without a word."""

Answer = str | Callable[[Update, float], Awaitable[object]] | None


def setup(
    dispatcher: Dispatcher | None,
    *bots: Bot,
    config: Mapping[str, Any] | Phase4Config | None = None,
    services: bool = True,
    outbound: Outbound | None = None,
    limiter: RateLimiter | None = None,
    limit: LimitChoice | None = None,
    tier: str | None = None,
    per: str | Callable[[Update], Client | None] = "user",
    answer: Answer = ANSWER,
    admins: Collection[int] = (),
    exempt: Callable[[Update], bool | Awaitable[bool]] | None = None,
) -> Phase4:
    """Connect a dispatcher and its bots with Phase 4. A second call replaces the arguments of the first.

    - ``dispatcher``: None if the bots only send. The caller then starts and stops the services.
    - ``bots``: bots that the dispatcher gets at its start, or with an update, need not be given.
    - ``config``: settings for ``initialize_phase4_services``. None: the bot's own config module and the
      environment.
    - ``services``: whether the services start and stop with the dispatcher.
    - ``outbound``: what the first bot sends through. None: the process's Outbound. Every other bot gets an
      Outbound of its own with the same settings, because Telegram limits each token separately.
    - ``limiter``: None: the process's rate limiter.
    - ``limit``, ``tier``: how many updates a client may send. Neither: the limiter's default limit.
    - ``per``: who is a client: "user", "chat", or a function that takes the update and returns an id, or None
      for no limit. Give "chat" a limit with ``backoff=None``: most members of a chat have seen no notice
      when they write again.
    - ``answer``: what a client is told, once per wait: a text with ``{seconds}``, or a coroutine function of
      the update and the seconds. None: nothing.
    - ``admins``: ids of users without a limit.
    - ``exempt``: a function, or coroutine function, that takes the update and returns True for no limit.

    Payments, changes of membership and channel posts are never limited.

    Raises TypeError for an object that is not a Dispatcher or Bot, ValueError for an argument out of bounds,
    and MisuseError for a dispatcher that already runs.
    """
    _check(dispatcher, bots, services, outbound, limiter)
    throttle: Throttle[Update] = Throttle(
        limit=limit, tier=tier, per=per, answer=answer, admins=admins, exempt=exempt
    )
    gate = Gate(throttle, limiter)
    for previous in [] if dispatcher is None else _connected_with(dispatcher):
        if previous._user is not None:
            raise MisuseError("the dispatcher already runs: call setup() before its start")
        previous.remove()
    connected = Phase4(dispatcher, gate, outbound, ServiceUser(config) if services else None)
    for bot in bots:
        connected.attach(bot)
    if dispatcher is not None:
        connected._connect(dispatcher)
    return connected


def _check(
    dispatcher: object, bots: tuple[object, ...], services: object, outbound: object, limiter: object
) -> None:
    if dispatcher is not None and not isinstance(dispatcher, Dispatcher):
        raise TypeError(f"dispatcher must be an aiogram Dispatcher or None, not {type(dispatcher).__name__}")
    for bot in bots:
        if not isinstance(bot, Bot):
            raise TypeError(f"bots must be aiogram Bots, not {type(bot).__name__}")
    if outbound is not None and not _is_service(outbound, "outbound"):
        raise invalid("outbound", outbound, "an Outbound or None")
    if limiter is not None and not _is_service(limiter, "rate_limiter"):
        raise invalid("limiter", limiter, "a RateLimiter or None")
    if not isinstance(services, bool):
        raise invalid("services", services, "True or False")


def _is_service(given: object, name: str) -> bool:
    return isinstance(given, Phase4Service) and given.service_name == name


def _connected_with(dispatcher: Dispatcher) -> list[Phase4]:
    owners = [getattr(one.callback, "__self__", None) for one in dispatcher.startup.handlers]
    return [owner for owner in owners if isinstance(owner, Phase4)]


class Phase4:
    """A dispatcher's and its bots' connection with Phase 4, made by :func:`setup`."""

    def __init__(
        self,
        dispatcher: Dispatcher | None,
        gate: Gate[Update],
        outbound: Outbound | None,
        services: ServiceUser | None,
    ) -> None:
        self._dispatcher = dispatcher
        self._gate = gate
        self._outbound = outbound
        self._services = services
        # Those that the dispatcher's start has started; None before it and after its stop.
        self._user: ServiceUser | None = None
        self._sessions: weakref.WeakSet[BaseSession] = weakref.WeakSet()
        self._telling: set[asyncio.Task[None]] = set()

    # Connecting.

    def attach(self, bot: Bot) -> None:
        """Send a bot's requests through outbound. Once is enough; bots may share a session."""
        session = bot.session
        if session in self._sessions:
            return
        self._sessions.add(session)
        for found in session.middleware:
            if isinstance(found, _Sending):
                found.phase4 = self  # the last setup counts
                return
        session.middleware.register(_Sending(self))

    def remove(self) -> None:
        """Undo :func:`setup`. Services that the dispatcher has started stop with it as before."""
        for session in list(self._sessions):
            for found in list(session.middleware):
                if isinstance(found, _Sending) and found.phase4 is self:
                    session.middleware.unregister(found)
        self._sessions.clear()
        if self._dispatcher is None:
            return
        outer = self._dispatcher.update.outer_middleware
        if self._receive in list(outer):
            outer.unregister(self._receive)
        startup = self._dispatcher.startup
        startup.handlers[:] = [one for one in startup.handlers if one.callback != self._start]
        if self._user is None:
            shutdown = self._dispatcher.shutdown
            shutdown.handlers[:] = [one for one in shutdown.handlers if one.callback != self._stop]

    def _connect(self, dispatcher: Dispatcher) -> None:
        # Before the state of the conversation is read, which a dropped update must not cost.
        outer = dispatcher.update.outer_middleware
        following: list[Any] = []
        while len(outer) and not isinstance(outer[-1], UserContextMiddleware):
            following.append(outer[-1])
            outer.unregister(outer[-1])
        if not len(outer):
            following.reverse()
            following.append(self._receive)
        else:
            outer.register(self._receive)
            following.reverse()
        for middleware in following:
            outer.register(middleware)
        # Before the bot's own start, which may use the services.
        dispatcher.startup.handlers.insert(0, HandlerObject(callback=self._start))
        dispatcher.shutdown.register(self._stop)

    # Start and stop.

    async def _start(self, **data: Any) -> None:
        for bot in (*data.get("bots", ()), data.get("bot")):
            if isinstance(bot, Bot):
                self.attach(bot)
        if self._dispatcher is not None:
            # After the bot's own stop, which may use the services.
            handlers = self._dispatcher.shutdown.handlers
            handlers.sort(key=lambda one: one.callback == self._stop)
        if self._services is not None:
            await self._services.start()
            self._user = self._services
        try:
            self._gate.check_tier()
        except BaseException:
            # A dispatcher that fails to start emits no stop.
            await self._stop()
            raise

    def _outbound_runs(self) -> bool:
        outbound = self._outbound or running_outbound()
        return outbound is not None and outbound.enabled

    async def _stop(self, **data: Any) -> None:
        telling = list(self._telling)
        for task in telling:
            task.cancel()
        await asyncio.gather(*telling, return_exceptions=True)
        if self._outbound is not None:
            await Budgets.disable(self._outbound)
        if self._user is not None:
            # Kept until they are stopped: the next stop finishes one that is cancelled here.
            await self._user.drain()
            await self._user.stop()
            self._user = None
        if "app" in data:
            # Its webhook handler may have closed the sessions before, and what waited has opened them again.
            for session in list(self._sessions):
                await session.close()

    # What is sent.

    async def _send(
        self, make_request: Callable[..., Awaitable[Any]], bot: Bot, method: TelegramMethod[Any]
    ) -> Any:
        outbound = await Budgets.of(bot.id, self._outbound)
        if outbound is None:
            return await make_request(bot, method)
        request = _request_of(bot, method)

        async def send() -> Any:
            try:
                return await make_request(bot, method)
            except TelegramAPIError as error:
                refused = _as_refusal(error)
                if refused is None:
                    raise
                if not all(_is_repeatable(file) for file in _files_of(method)):
                    raise ReadOnceError(refused) from error
                if refused is error:
                    raise
                raise refused from error

        try:
            return await outbound.call(send, request)
        except ReadOnceError as error:
            raise error.refusal from None

    # What comes in.

    async def _receive(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        update: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        """The outer middleware of updates."""
        assert isinstance(update, Update)
        bot: Bot = data["bot"]
        self.attach(bot)
        context: EventContext = data.get("event_context") or UserContextMiddleware.resolve_event_context(
            update
        )
        sender, chat = _sender_of(update, context), context.chat_id
        if _is_limited(update):
            refused = await self._gate.refuses(update, sender, chat)
            if refused is not None:
                self._tell_soon(bot, update, refused)
                return None
        with handling((chat, context.user_id, sender, _inline_chat_of(update))):
            result = await handler(update, data)
            if isinstance(result, TelegramMethod) and self._outbound_runs():
                # As an answer to a webhook's request it would pass flood control unseen.
                await data["dispatcher"].silent_call_request(bot=bot, result=result)
                return None
            return result

    def _tell_soon(self, bot: Bot, update: Update, refused: TooMany) -> None:
        # Not here: the dispatcher may handle one update at a time.
        if refused.tell and len(self._telling) < MAX_TELLING:
            task = asyncio.get_running_loop().create_task(self._tell(bot, update, refused))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, bot: Bot, update: Update, refused: TooMany) -> None:
        answer = self._gate.throttle.answer
        try:
            if callable(answer):
                await answer(update, refused.seconds)
            elif answer is not None and not self._outbound_runs():
                await _answer(bot, update, refused.text(answer))
            elif answer is not None:
                from bot.core.outbound import Priority, sending

                with sending(Priority.ANSWER, ANSWER_DEADLINE):
                    await _answer(bot, update, refused.text(answer))
        except (TelegramAPIError, Phase4Error) as error:
            logger.debug("A client was not told to wait: %s", one_line(error))
        except Exception as error:
            logger.warning("A client was not told to wait: %s", one_line(error))


class _Sending:
    """The request middleware of a session."""

    def __init__(self, phase4: Phase4) -> None:
        self.phase4 = phase4

    async def __call__(
        self, make_request: Callable[..., Awaitable[Any]], bot: Bot, method: TelegramMethod[Any]
    ) -> Any:
        return await self.phase4._send(make_request, bot, method)


def _request_of(bot: Bot, method: TelegramMethod[Any]) -> Request:
    from bot.core.outbound.models import Kind, kind_of, method_alone
    from bot.integrations.bot_api import request_of

    name = method.__api_method__
    given = {
        key: bot.default[value.name] if isinstance(value, Default) else value
        for key, value in method.__dict__.items()
        if value is not None
    }
    request = request_of(name, given)
    if request.chat is None:
        if kind_of(name) is Kind.UNQUEUED:
            return request
        # A wait for setMyName, which may be of a day, concerns that method alone.
        return msgspec.structs.replace(request, chat=method_alone(name))
    chat = request.chat
    if isinstance(chat, str) and chat.removeprefix("-").isdecimal():
        chat = int(chat)
    priority = answer_priority(chat)
    return request if priority is None else msgspec.structs.replace(request, priority=priority)


def _as_refusal(error: TelegramAPIError) -> TelegramRetryAfter | None:
    """The refusal that an error is; a 429 without a wait, as of a proxy, has no class of its own."""
    if isinstance(error, TelegramRetryAfter):
        return error
    if type(error) is TelegramAPIError and error.message.lower().startswith("too many requests"):
        return TelegramRetryAfter(method=error.method, message=error.message, retry_after=1)
    return None


def _files_of(value: object) -> Iterator[InputFile]:
    """The uploads in a method, wherever they are in it."""
    if isinstance(value, InputFile):
        yield value
    elif isinstance(value, TelegramMethod | TelegramObject):
        for held in value.__dict__.values():
            if isinstance(held, InputFile | TelegramObject | list):
                yield from _files_of(held)
    elif isinstance(value, list):
        for held in value:
            if isinstance(held, InputFile | TelegramObject | list):
                yield from _files_of(held)


def _is_repeatable(file: InputFile) -> bool:
    """Whether an upload can be read again: aiogram's own can; others if they say ``repeatable = True``."""
    repeatable = getattr(file, "repeatable", None)
    if isinstance(repeatable, bool):
        return repeatable
    return type(file).read in (BufferedInputFile.read, FSInputFile.read, URLInputFile.read)


def _is_limited(update: Update) -> bool:
    try:
        kind, event = update.event_type, update.event
    except UpdateTypeLookupError:
        return False  # younger than this aiogram
    if kind not in LIMITED:
        return False
    return not any(getattr(event, name, None) is not None for name in NEVER_DROPPED)


def _sender_of(update: Update, context: EventContext) -> int | None:
    """The sender; of anonymous administrators and of channels, which are all one user, their chat."""
    message = update.message or update.edited_message or update.business_message
    if isinstance(message, Message) and message.sender_chat is not None:
        return message.sender_chat.id
    return context.user_id


def _inline_chat_of(update: Update) -> str | None:
    from bot.integrations.bot_api import inline_chat

    query = update.callback_query
    if query is None or query.inline_message_id is None:
        return None
    return inline_chat(query.inline_message_id)


async def _answer(bot: Bot, update: Update, text: str) -> None:
    """Answer the sender of the update, in its chat."""
    if update.callback_query is not None:
        await bot.answer_callback_query(update.callback_query.id, text)
        return
    message = update.message or update.business_message
    if message is None:
        return
    if message.chat.type == "private":
        await message.answer(text)
    else:
        await message.reply(text)
