"""kurigram and the forks that are imported as ``pyrogram``: flood control, throttling, start and stop.

    app = Client("bot", ...)
    install(app)

What the client sends goes through :class:`~bot.core.outbound.Outbound`, file parts and reads past it. What it
gets is throttled by the rate limiter. While a service is off, its part passes everything through.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pyrogram
from msgspec.structs import replace
from pyrogram.errors import FloodWait
from pyrogram.session import Session

from bot.core._shared.errors import invalid
from bot.core._shared.tasks import all_to_the_end
from bot.core.phase4_service import Phase4Service
from bot.integrations.inbound import ANSWER, Gate, Throttle, answer_priority
from bot.integrations.pyrogram_updates import Updates
from bot.integrations.services import Budgets, ServiceUser, running_outbound

if TYPE_CHECKING:
    from bot.core.outbound import Outbound
    from bot.core.phase4_config import Phase4Config
    from bot.core.rate_limiter import RateLimiter
    from bot.core.rate_limiter.models import LimitChoice
    from bot.integrations.method_waits import MethodWaits

__all__ = ["Installed", "install", "uninstall"]

# FloodPremiumWait is younger than some forks.
_FLOODS: tuple[type[Exception], ...] = tuple(
    {FloodWait, getattr(pyrogram.errors, "FloodPremiumWait", FloodWait)}
)
WORKERS = 256
"""Handlers that run at once, unless the client was given another number than pyrogram's few: those that wait
for a held group must not keep all others from running."""

_ATTRIBUTE = "_phase4_installed"
_LEAST = ("initialize", "terminate", "dispatcher", "is_connected")

# The raw function that this task is sending: some forks try again by calling Session.invoke themselves.
_sending: ContextVar[object] = ContextVar("phase4_pyrogram_sending", default=None)

_loaded: ModuleType | None = None


def install(
    client: pyrogram.Client,
    *,
    config: Mapping[str, Any] | Phase4Config | None = None,
    services: bool = True,
    outbound: Outbound | None = None,
    limiter: RateLimiter | None = None,
    limit: LimitChoice | None = None,
    tier: str | None = None,
    per: str | Callable[[Any], int | str | None] = "user",
    answer: str | Callable[[Any, float], Awaitable[object]] | None = ANSWER,
    admins: Collection[int] = (),
    exempt: Callable[[Any], bool | Awaitable[bool]] | None = None,
) -> Installed:
    """Connect a client with Phase 4, before or after its start. A second call replaces the arguments.

    - ``config``: settings for ``initialize_phase4_services``. None: the bot's own config module and the
      environment.
    - ``services``: whether the services start with the client and stop with the last client. Services that
      run already when the client starts are left running.
    - ``outbound``: what the client sends through. None: the process's Outbound for the first account that
      sends, and one of its own with the same settings for every other account, because Telegram limits each
      account separately.
    - ``limiter``: None: the process's rate limiter.
    - ``limit``, ``tier``, ``per``, ``answer``, ``admins``, ``exempt``: how many updates a client may send;
      see :class:`~bot.integrations.inbound.Throttle`. Functions get the raw update. Only messages and
      queries of persons are limited.

    Raises TypeError for an object that is not a pyrogram client, and ValueError for an argument out of
    bounds.
    """
    if not isinstance(client, pyrogram.Client) or not all(hasattr(client, name) for name in _LEAST):
        raise TypeError(f"client must be a pyrogram.Client, not {type(client).__name__}")
    if outbound is not None and not (
        isinstance(outbound, Phase4Service) and outbound.service_name == "outbound"
    ):
        raise invalid("outbound", outbound, "an Outbound or None")
    if limiter is not None and not (
        isinstance(limiter, Phase4Service) and limiter.service_name == "rate_limiter"
    ):
        raise invalid("limiter", limiter, "a RateLimiter or None")
    if not isinstance(services, bool):
        raise invalid("services", services, "True or False")
    gate: Gate[Any] = Gate(
        Throttle(limit=limit, tier=tier, per=per, answer=answer, admins=admins, exempt=exempt), limiter
    )
    installed: Installed | None = client.__dict__.get(_ATTRIBUTE)
    if installed is None or not installed._attached:  # or is being uninstalled
        installed = Installed(client)
        setattr(client, _ATTRIBUTE, installed)
        installed._attach()
    installed._set(config, services, outbound, gate)
    return installed


async def uninstall(client: pyrogram.Client) -> bool:
    """Undo :func:`install`: the client is as it was. Requests under way end as they began.

    False if it was not installed. Services that this client started, and no other client uses, are stopped.
    """
    installed: Installed | None = client.__dict__.get(_ATTRIBUTE)
    if installed is None:
        return False
    installed._detach()
    await installed._drain()
    await installed._services.stop()
    # Not before: the next call finishes one that is cancelled above.
    if client.__dict__.get(_ATTRIBUTE) is installed:
        del client.__dict__[_ATTRIBUTE]
    return True


class _RefusedError(Exception):
    """A FloodWait on its way out of ``Session.invoke``, which would sleep and send again unseen."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Edits:
    """Chats of edits that wait or are being sent, by message: a delete names none outside of channels."""

    def __init__(self) -> None:
        # Changed by of() only. Users and basic groups share the account's numbers.
        self.chats: dict[int, int | str] = {}
        self._counts: dict[int, int] = {}

    @contextmanager
    def of(self, message: int, chat: int | str) -> Iterator[None]:
        """Around an edit."""
        self.chats[message] = chat
        self._counts[message] = self._counts.get(message, 0) + 1
        try:
            yield
        finally:
            self._counts[message] -= 1
            if not self._counts[message]:
                del self._counts[message], self.chats[message]


class Installed:
    """A client's connection with Phase 4, as :func:`install` returns it.

    Every request of the client, and of its media sessions, passes ``Session.invoke``: that is where it waits.
    The raw function that is sent again after a refusal is the same object, with its random_id, so Telegram
    sends nothing twice; and no upload is part of it.
    """

    def __init__(self, client: pyrogram.Client) -> None:
        self.client = client
        self._services = ServiceUser()
        self._starts_services = True
        self._given: Outbound | None = None
        self._waits: MethodWaits | None = None
        self._edits = _Edits()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._updates = Updates(client)
        self._attached = False
        # From the stop until the next start of a client with an Outbound of its own: nothing waits any more.
        self._stopped = False

    def _set(
        self,
        config: Mapping[str, Any] | Phase4Config | None,
        services: bool,
        outbound: Outbound | None,
        gate: Gate[Any],
    ) -> None:
        self._services.config = config
        self._starts_services, self._given = services, outbound
        self._updates.gate = gate

    async def outbound(self) -> Outbound | None:
        """What this client's requests go through, for its figures; None while the service is off."""
        if self._given is not None:
            return self._given if self._given.enabled else None
        account = self._account
        if self._stopped or account is None or running_outbound() is None:
            return None
        return await Budgets.of(account)

    # Attaching.

    def _attach(self) -> None:
        _add(self)
        self._attached = True
        self._original_initialize = self.client.initialize
        self._original_terminate = self.client.terminate
        self.client.initialize = self._initialize  # type: ignore[method-assign]
        self.client.terminate = self._terminate  # type: ignore[method-assign]
        self._updates.attach()

    def _detach(self) -> None:
        self._attached = False
        for name, ours in (("initialize", self._initialize), ("terminate", self._terminate)):
            if self.client.__dict__.get(name) == ours:
                del self.client.__dict__[name]
        self._updates.detach()
        for session in self._sessions:
            send = session.__dict__.get("send")
            if getattr(send, "phase4", None) is self:
                del session.__dict__["send"]
        self._sessions.clear()
        _remove(self)

    # Start and stop.

    async def _initialize(self, *args: Any, **kwargs: Any) -> Any:
        """Client.initialize: after signing in, before the first update.

        Raises UnknownTierError for a ``tier`` that the limiter does not have.
        """
        if not self._attached:
            return await self._original_initialize(*args, **kwargs)
        self._stopped = False
        if self._starts_services:
            await self._services.start()
        try:
            self._updates.gate.check_tier()
            self._updates.attach()
            if self.client.workers == getattr(pyrogram.Client, "WORKERS", None):
                # Not after the start: the dispatcher stops as many as it started.
                self.client.workers = WORKERS
            return await self._original_initialize(*args, **kwargs)
        except BaseException:
            await self._services.stop()
            raise

    async def _terminate(self, *args: Any, **kwargs: Any) -> Any:
        """Client.terminate, while the client can still send: first what waits, for ``drain_timeout``."""
        if not self._attached:
            return await self._original_terminate(*args, **kwargs)
        await self._drain()
        try:
            return await self._original_terminate(*args, **kwargs)
        finally:
            await all_to_the_end(self._updates.stop, self._services.stop)

    async def _drain(self) -> None:
        """Send what waits, and let nothing wait any more, unless others send through the same."""
        own = None if self._given is not None else await self.outbound()
        if own is not None and own is not running_outbound():
            self._stopped = True  # what handlers still send must not switch it on again
            await own.disable()
        await self._services.drain()

    # Sending.

    @property
    def _account(self) -> int | None:
        """The account's id; None until a user has signed in."""
        me = getattr(getattr(self.client, "me", None), "id", None)
        if isinstance(me, int):
            return me
        number = str(getattr(self.client, "bot_token", None) or "").partition(":")[0]
        return int(number) if number.isascii() and number.isdecimal() else None

    async def _invoke(
        self, invoke: Callable[..., Awaitable[Any]], session: Session, query: Any, args: Any, kwargs: Any
    ) -> Any:
        """Session.invoke of this client: in its turn."""
        outbound = await self.outbound() if _sending.get() is not query else None
        if outbound is None:
            return await invoke(session, query, *args, **kwargs)
        requests = _requests()
        plan = requests.plan_of(requests.unwrapped(query), self._account, self._edits.chats)
        if plan.way is requests.Way.UNTOUCHED:
            return await invoke(session, query, *args, **kwargs)
        client = self.client
        is_main = session is client.session

        async def send() -> Any:
            now = client.session if is_main else session
            if now is None or not client.is_connected:
                raise ConnectionError("The client was stopped while the request waited; it was not sent")
            if now not in self._sessions:
                self._watch(now)
            token = _sending.set(query)
            try:
                return await invoke(now, query, *args, **kwargs)
            except _RefusedError as refused:
                raise refused.error from None
            finally:
                _sending.reset(token)

        request = plan.request
        if request is None:
            return await self._method_waits().call(outbound, send, plan.method, plan.key)
        priority = answer_priority(request.chat)
        if priority is not None:
            request = replace(request, priority=priority)
        if type(request.message_id) is not int or not requests.is_numbered(request.chat):
            return await outbound.call(send, request)
        with self._edits.of(request.message_id, request.chat):
            return await outbound.call(send, request)

    def _method_waits(self) -> MethodWaits:
        if self._waits is None:
            from bot.integrations.method_waits import MethodWaits

            self._waits = MethodWaits()
        return self._waits

    def _watch(self, session: Session) -> None:
        """Tell the FloodWaits of what we send as refusals, which the session does not sleep through."""
        original = session.send

        @functools.wraps(original)
        async def send(data: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return await original(data, *args, **kwargs)
            except _FLOODS as error:
                unwrapped = _requests().unwrapped
                ours = _sending.get()
                # Not other requests in this context, such as those of a session that starts again.
                if ours is not None and unwrapped(data) is unwrapped(ours):
                    raise _RefusedError(error) from error
                raise

        send.phase4 = self  # type: ignore[attr-defined]
        session.send = send  # type: ignore[method-assign]
        self._sessions.add(session)


# What all clients of the process share.

_installed: weakref.WeakSet[Installed] = weakref.WeakSet()
_original_invoke: Callable[..., Awaitable[Any]] | None = None


def _requests() -> Any:
    """The module, imported with the first request that outbound is on for."""
    global _loaded
    if _loaded is None:
        from bot.integrations import mtproto_requests

        _loaded = mtproto_requests
    return _loaded


def _add(installed: Installed) -> None:
    global _original_invoke
    _installed.add(installed)
    if _original_invoke is not None:
        return
    original = _original_invoke = Session.invoke

    @functools.wraps(original)
    async def invoke(self: Session, query: Any, *args: Any, **kwargs: Any) -> Any:
        found: Installed | None = getattr(self.client, "__dict__", {}).get(_ATTRIBUTE)
        if found is None or not found._attached:
            return await original(self, query, *args, **kwargs)
        return await found._invoke(original, self, query, args, kwargs)

    invoke.phase4 = True  # type: ignore[attr-defined]
    Session.invoke = invoke  # type: ignore[method-assign]


def _remove(installed: Installed) -> None:
    global _original_invoke
    _installed.discard(installed)
    if _installed or _original_invoke is None:
        return
    if getattr(Session.__dict__.get("invoke"), "phase4", False):
        Session.invoke = _original_invoke  # type: ignore[method-assign,assignment]
        _original_invoke = None
    # Else other code wrapped ours: it stays, and passes everything through.
