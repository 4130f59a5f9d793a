"""LISTEN and NOTIFY of PostgreSQL by the name of a pool: ``listen``, ``notify``."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from bot.core._shared.errors import MisuseError, invalid
from bot.core._shared.tasks import run_on_loop
from bot.core._shared.validation import valid_count
from bot.core.connection_pool_manager.errors import LeaseError, LeaseReleasedError
from bot.core.connection_pool_manager.lease import PooledConnection
from bot.core.connection_pool_manager.listener import PoolListener
from bot.core.connection_pool_manager.notifications import (
    MOST_PENDING,
    Inbox,
    Notification,
    valid_channel,
    valid_payload,
)
from bot.core.connection_pool_manager.runner import PoolRunner

MAX_PENDING = 1000
"""Messages that wait for a listener that is busy, unless it says otherwise."""

_NO_LISTEN = "listen and notify are for pools of postgresql; pool {!r} is of {}"


class Listeners:
    """The connections on which pools listen, by the pool's name."""

    def __init__(self, runner_here: Callable[[str], Awaitable[PoolRunner]]) -> None:
        self._runner_here = runner_here
        # Changed by join, close, abandon and a listener's end.
        self._by_pool: dict[str, PoolListener] = {}

    async def join(self, name: str, inbox: Inbox) -> PoolListener:
        """Have the server listen on the inbox's channels."""
        runner = await self._runner_here(name)
        # No await from here to the listener's join: a pool that is closed meanwhile closes the listener.
        if runner.spec.backend != "postgresql":
            raise MisuseError(_NO_LISTEN.format(name, runner.spec.backend))
        self.abandon(name)
        listener = self._by_pool.get(name)
        if listener is None:
            listener = self._by_pool[name] = PoolListener(name, self._runner_here, self._ended)
        await listener.join(inbox)
        return listener

    def _ended(self, listener: PoolListener) -> None:
        if self._by_pool.get(listener.name) is listener:
            del self._by_pool[listener.name]

    def move(self, name: str) -> None:
        """The pool has another server from now on."""
        listener = self._by_pool.get(name)
        if listener is not None and not listener.is_orphan:
            listener.loop.call_soon_threadsafe(listener.move)

    def abandon(self, name: str) -> None:
        """Let go of a listener whose event loop has ended."""
        listener = self._by_pool.get(name)
        if listener is not None and listener.is_orphan:
            del self._by_pool[name]
            listener.abandon()

    async def close(self, name: str) -> None:
        """The pool is closed: its listeners get PoolClosedError."""
        self.abandon(name)
        listener = self._by_pool.pop(name, None)
        if listener is not None and not await run_on_loop(listener.loop, listener.stop):
            listener.abandon()


class ListenCalls(ABC):
    """LISTEN and NOTIFY on pools of PostgreSQL."""

    _listeners: Listeners

    @abstractmethod
    async def fetchval(
        self,
        target: str | PooledConnection,
        sql: str,
        *args: Any,
        timeout: float | None = None,
        read_only: bool = False,
    ) -> Any:
        """The first value of a statement's first row."""

    def listen(self, pool: str, *channels: str, max_pending: int = MAX_PENDING) -> Notifications:
        """``async with manager.listen(pool, "channel") as notifications``, then ``async for`` over these.

        At the begin of the block the server listens; at its end it does no longer. One connection serves all
        listeners of a pool, beside its ``max_size``. When that is lost it is opened again, and each listener
        gets a mark (``kind == "reconnected"``): messages may be missing, so load again what they tell of.
        Up to ``max_pending`` messages wait for a listener; then new ones are left out, with a mark of kind
        ``overflow`` in their place. The names of channels are taken as they are: capitals count.

        Raises InvalidArgumentError. Entering the block raises UnknownPoolError, MisuseError for another
        database, PoolConnectError, and ListenError if the server refuses.
        """
        if not channels:
            raise invalid("channels", channels, "at least one channel")
        names = frozenset(valid_channel(channel) for channel in channels)
        return Notifications(
            self._listeners, pool, names, valid_count("max_pending", max_pending, 1, MOST_PENDING)
        )

    async def notify(
        self, target: str | PooledConnection, channel: str, payload: str = "", *, timeout: float | None = None
    ) -> None:
        """Send ``payload`` to all that listen on ``channel``, in any process.

        ``target`` is the name of a pool, or a lease: in its transaction the message is sent at the commit.
        Raises InvalidArgumentError, MisuseError for another database, and the errors of ``execute``.
        """
        channel, payload = valid_channel(channel), valid_payload(payload)
        if (other := self._backend_of(target)) not in ("postgresql", None):
            raise MisuseError(_NO_LISTEN.format(target, other))
        await self.fetchval(target, "SELECT pg_catalog.pg_notify($1, $2)", channel, payload, timeout=timeout)

    @abstractmethod
    def _backend_of(self, target: object) -> str | None:
        """The database of a pool or a lease; None: there is no such pool."""


class Notifications:
    """What is sent to one listener, in order, without end: for ``async with`` and then ``async for``.

    For one reader at a time. One that is cancelled has taken nothing. When the pool is closed, reading raises
    PoolClosedError after what has come before.
    """

    def __init__(self, listeners: Listeners, pool: str, channels: frozenset[str], max_pending: int) -> None:
        self._listeners = listeners
        self._pool = pool
        self._channels = channels
        self._max_pending = max_pending
        # Changed by the begin and the end of the block.
        self._is_in_use = False
        self._inbox: Inbox | None = None
        self._listener: PoolListener | None = None
        self._reader: asyncio.Future[None] | None = None  # changed by __anext__ alone

    async def __aenter__(self) -> Self:
        if self._is_in_use:
            raise LeaseError("these notifications are in use already; call listen() for each block")
        self._is_in_use = True
        inbox = Inbox(self._channels, self._max_pending, self._wake)
        try:
            self._listener = await self._listeners.join(self._pool, inbox)
        except BaseException:
            self._is_in_use = False
            raise
        self._inbox = inbox
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        inbox, listener = self._inbox, self._listener
        self._inbox = self._listener = None
        self._is_in_use = False
        self._wake()
        if inbox is None or listener is None:
            return
        if listener.loop is asyncio.get_running_loop():
            listener.leave(inbox)
            await listener.left()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notification:
        """The next message, or mark. Raises PoolClosedError; LeaseReleasedError after the block."""
        while True:
            inbox, listener = self._inbox, self._listener
            if inbox is None or listener is None:
                raise LeaseReleasedError(f"notifications of pool {self._pool!r}: used outside of their block")
            if listener.loop is not asyncio.get_running_loop():
                raise MisuseError(f"notifications of pool {self._pool!r}: used under another event loop")
            if self._reader is not None:
                raise MisuseError(f"notifications of pool {self._pool!r}: another task reads them")
            if (found := inbox.take()) is not None:
                return found
            if inbox.closed is not None:
                raise inbox.closed
            self._reader = listener.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    @property
    def pending(self) -> int:
        """How many messages and marks wait to be read."""
        return 0 if self._inbox is None else len(self._inbox)

    def _wake(self) -> None:
        reader = self._reader
        if reader is not None and not reader.done() and not reader.get_loop().is_closed():
            reader.set_result(None)
