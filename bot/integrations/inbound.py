"""Decisions about incoming updates: is it over the limit, is the user told, is a request an answer to it.

The adapters pass ids in and act on the decision in the words of their framework. They share this module, so
that all of them decide alike.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from cachetools import LRUCache
from msgspec import Struct

from bot.core._shared.errors import invalid
from bot.integrations.services import running_limiter, running_optimizer

if TYPE_CHECKING:
    from bot.core.outbound import Priority
    from bot.core.rate_limiter import RateLimiter
    from bot.core.rate_limiter.models import LimitChoice

Update = TypeVar("Update")
Client = int | str

ANSWER = "Too many requests. Please try again in {seconds} s."
ANSWER_DEADLINE = 10.0
"""Seconds after which a notice to wait is too late to be sent."""

ANSWERS_FOR = 30.0
"""Seconds after the end of an update for which tasks that it started still answer its user."""

MAX_TOLD = 10_000
"""How many clients are remembered as told to wait."""

LIMITED = frozenset(
    """message edited_message business_message edited_business_message guest_message
    callback_query inline_query message_reaction""".split()
)
"""Kinds of update that one person sends and can send again. All others, payments and memberships above all,
are never dropped."""

NEVER_DROPPED = ("successful_payment", "refunded_payment", "migrate_to_chat_id", "migrate_from_chat_id")
"""Fields of a message that make it one that is never dropped."""


class Throttle(Struct, Generic[Update], frozen=True, kw_only=True):
    """How many updates a client may send.

    - ``limit``, ``tier``: the limit, or the name of the limiter's tier. Neither: the limiter's default limit.
    - ``per``: who is a client: "user", "chat", or a function that takes the update and returns an id, or None
      for no limit.
    - ``answer``: what a client is told, once per wait: a text with ``{seconds}``, or a coroutine function of
      the update and the seconds. None: nothing.
    - ``admins``: ids of users without a limit, besides the limiter's own exempt clients.
    - ``exempt``: a function, or coroutine function, that takes the update and returns True for no limit.

    :meth:`check` raises ValueError for an argument out of bounds.
    """

    limit: LimitChoice | None = None
    tier: str | None = None
    per: str | Callable[[Update], Client | None] = "user"
    answer: str | Callable[[Update, float], Awaitable[object]] | None = ANSWER
    admins: Collection[int] = ()
    exempt: Callable[[Update], bool | Awaitable[bool]] | None = None

    def check(self) -> None:
        """Raise ValueError naming the argument."""
        if not callable(self.per) and self.per not in ("user", "chat"):
            raise invalid("per", self.per, '"user", "chat", or a function of the update')
        if isinstance(self.answer, str):
            _check_text(self.answer)
        elif self.answer is not None and not callable(self.answer):
            raise invalid("answer", self.answer, "a text with {seconds} in it, a coroutine function, or None")
        if self.exempt is not None and not callable(self.exempt):
            raise invalid("exempt", self.exempt, "a function of the update, or None")
        if isinstance(self.admins, str | bytes) or not all(type(one) is int for one in self.admins):
            raise invalid("admins", self.admins, "ids of users (ints)")
        if self.tier is not None and not isinstance(self.tier, str):
            raise invalid("tier", self.tier, "the name of a tier, or None")
        if self.limit is not None:
            from bot.core.rate_limiter.texts import limits_of

            try:
                limits_of("limit", self.limit)
            except TypeError:
                raise invalid("limit", self.limit, "a limit, a text of limits, or None") from None
            if self.tier is not None:
                raise invalid("tier", self.tier, "None, as there is a limit")

    async def client_of(self, update: Update, user: int | None, chat: int | None) -> Client | None:
        """The client that is limited for an update of ``user`` in ``chat``; None: no limit."""
        if user is not None and user in self.admins:
            return None
        if self.exempt is not None:
            exempt = self.exempt(update)
            if await exempt if inspect.isawaitable(exempt) else exempt:
                return None
        if not isinstance(self.per, str):
            return self.per(update)
        first, second = (user, chat) if self.per == "user" else (chat, user)
        return first if first is not None else second


def _check_text(text: str) -> None:
    try:
        if text.format(seconds=1).strip():
            return
    except (ValueError, LookupError, AttributeError):
        pass
    raise invalid("answer", text, "a text with {seconds} in it, a coroutine function, or None")


class TooMany(NamedTuple):
    """An update that is not handled."""

    seconds: float
    """How long its client is to wait."""
    tell: bool
    """Whether the client is to be told: the first time in this wait."""

    def text(self, answer: str) -> str:
        """``answer`` with the seconds in it, whole and rounded up."""
        return answer.format(seconds=max(1, math.ceil(self.seconds)))


class Gate(Generic[Update]):
    """Lets updates in, or not. While the rate limiter is off it lets in all."""

    def __init__(self, throttle: Throttle[Update], limiter: RateLimiter | None = None) -> None:
        """``limiter``: None is the process's one. Raises ValueError as ``Throttle.check`` does."""
        throttle.check()
        self.throttle = throttle
        self._limiter = limiter
        # Until when each client was told to wait.
        self._told: LRUCache[Client, float] = LRUCache(maxsize=MAX_TOLD)

    def check_tier(self) -> None:
        """For the start: raise UnknownTierError for a tier that a limiter which is on does not have."""
        limiter = self._limiter or running_limiter()
        if limiter is not None and limiter.enabled and self.throttle.tier is not None:
            limiter.get_tier_limit(self.throttle.tier)

    async def refuses(self, update: Update, user: int | None, chat: int | None) -> TooMany | None:
        """None: handle it. ``user`` and ``chat`` are ids, None where the update has none.

        Raises UnknownTierError for a tier that the limiter does not have, and what ``exempt`` and ``per``
        raise.
        """
        limiter = self._limiter or running_limiter()
        if limiter is None or not limiter.enabled:
            return None
        if user is not None and limiter.is_exempt(user):
            return None
        throttle = self.throttle
        client = await throttle.client_of(update, user, chat)
        if client is None:
            return None
        # Not the bare id: what a handler takes from its user's tokens is not what lets updates in.
        allowed, status = await limiter.is_allowed(f"update:{client}", throttle.limit, tier=throttle.tier)
        if allowed:
            return None
        now = asyncio.get_running_loop().time()
        tell = throttle.answer is not None and now >= self._told.get(client, now)
        if tell:
            self._told[client] = now + status.retry_after
        return TooMany(status.retry_after, tell)


class _Handled:
    """The update that is being handled, and where its answer goes."""

    __slots__ = ("chats", "loop", "until")

    def __init__(self, chats: frozenset[Client]) -> None:
        self.chats = chats
        self.loop = asyncio.get_running_loop()
        self.until = math.inf


_handled: ContextVar[_Handled | None] = ContextVar("phase4_handled", default=None)


class handling:
    """Around the handling of an update: what is sent to these chats and users meanwhile is an answer.

    So is what tasks that it starts send to them, for ``ANSWERS_FOR`` s after its end. It is one request for
    the optimizer's N+1 detection. ``at_most``: seconds after which nothing is an answer any more, where
    handlers go on for hours.
    """

    # Not a generator: a framework's worker that ends half-way leaves it open, which must do no harm.

    def __init__(self, chats: Iterable[Client | None], at_most: float = math.inf) -> None:
        self._handled = _Handled(frozenset(chat for chat in chats if chat is not None))
        self._handled.until = self._handled.loop.time() + at_most
        self._request: AbstractContextManager[Any] = nullcontext()
        self._token: Token[_Handled | None] | None = None

    def __enter__(self) -> None:
        optimizer = running_optimizer()
        if optimizer is not None:
            self._request = optimizer.request()
        self._request.__enter__()
        self._token = _handled.set(self._handled)

    def __exit__(self, *raised: Any) -> None:
        handled = self._handled
        handled.until = min(handled.until, handled.loop.time() + ANSWERS_FOR)
        if self._token is not None:
            _handled.reset(self._token)
        self._request.__exit__(*raised)


def answer_priority(chat: Any) -> Priority | None:
    """ANSWER if ``chat`` waits for the update that is handled here; None: as ``sending`` says, else NOTIFY.

    To others than the update's own chat and user nothing is an answer: a broadcast that a
    handler sends must not go ahead of everybody's answers.
    """
    handled = _handled.get()
    if handled is None or chat is None or chat not in handled.chats:
        return None
    if handled.until != math.inf and handled.loop.time() >= handled.until:
        return None
    from bot.core.outbound import Priority
    from bot.core.outbound.context import current

    # Without its default: whether ``sending`` was said at all.
    return Priority.ANSWER if current.get(None) is None else None
