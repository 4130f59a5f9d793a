"""The connections of one link: the event loop they live on, their protocol, and leaving them behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from bot.core._shared.errors import BackendError, MisuseError
from bot.core._shared.loop_owner import LoopOwner
from bot.core._shared.redis_address import Kind, RedisAddress
from bot.core._shared.tasks import BackgroundTasks
from bot.core.redis_link import driver
from bot.core.redis_link.errors import RedisUnavailableError
from bot.core.redis_link.failures import Failure, judge

logger = logging.getLogger("bot.core.redis_link")

T = TypeVar("T")


class Connections:
    """redis-py's client of one URL, and the connections and tasks beside it.

    All of them live on one event loop. When it has ended, or the process was forked, ``on_left`` is
    called to forget what waited there, a new client is made under the running loop, and ``on_moved``
    is called.
    """

    def __init__(
        self,
        address: RedisAddress,
        timeout: float,
        *,
        on_left: Callable[[], None],
        on_moved: Callable[[], None],
    ) -> None:
        self._address = address
        self.timeout = timeout
        self.name = address.shown
        self.cluster = address.kind is Kind.CLUSTER
        self.primary = None if address.sentinels is None else driver.primary_of(address, timeout)
        self._on_left = on_left
        self._on_moved = on_moved
        self.owner = LoopOwner(self._forked)
        """The event loop that every connection of the link lives on."""
        self.tasks = BackgroundTasks()
        self.generation = 0
        """How often every connection was given up for another server."""
        self._protocol = address.protocol
        # Changed only by client, take_client, _replace and _forked.
        self._client: Any = None
        # Connections of callers' own. Changed only by open_connection, close_connection and abandon.
        self._opened: set[Any] = set()

    # The event loop.

    def here(self) -> None:
        """Live on the running event loop, unless the one before still runs.

        Raises RuntimeError without a running loop.
        """
        if asyncio.get_running_loop() is not self.owner.loop and not self.owner.elsewhere:
            with contextlib.suppress(BackendError):  # the first call meets it again, and says it
                self.client()

    def client(self) -> Any:
        """The redis-py client of the running loop: bytes in and out, no retries of its own.

        Raises MisuseError while the link lives on a loop that runs in another thread.
        """
        owner = self.owner
        if self._client is None or owner.loop is not asyncio.get_running_loop():
            if owner.elsewhere:
                raise MisuseError(
                    f"the link to Redis at {self.name} belongs to an event loop that still runs in another "
                    "thread; use it there"
                )
            before = owner.loop
            moved = owner.claim()
            if before is not None and moved:
                self.tasks = BackgroundTasks()
                client, self._client = self._client, None
                self.abandon(before, client)
            if self._client is None:
                self._client = self.connect()
            if moved:
                self._on_moved()
        return self._client

    def is_current(self, client: Any) -> bool:
        """Whether ``client`` is the one that calls use now."""
        return client is self._client

    def abandon(self, loop: asyncio.AbstractEventLoop, client: Any) -> None:
        """Close the sockets of a loop that runs no more, and forget what waited there."""
        self._on_left()
        opened, self._opened = self._opened, set()
        for connection in opened:
            driver.abandon_connection(connection, loop)
        if client is not None:
            driver.abandon_client(client, loop)

    def _forked(self, loop: asyncio.AbstractEventLoop) -> None:
        # The connections are the parent's: what the child wrote or read there would be lost to it.
        client, self._client = self._client, None
        self.tasks = BackgroundTasks()
        self.abandon(loop, client)

    def take_client(self) -> tuple[Any, BackgroundTasks]:
        """The client and the tasks, to be closed by the caller; the next call makes new ones."""
        client, self._client = self._client, None
        tasks, self.tasks = self.tasks, BackgroundTasks()
        return client, tasks

    def release(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Belong to no loop, unless another has become the owner, or made a client, meanwhile."""
        if self.owner.loop is loop and self._client is None:
            self.owner.release()

    async def hand_over(self, action: Callable[[], Awaitable[T]]) -> T:
        """Await ``action()`` on the loop that owns the link, which runs in another thread."""
        loop = self.owner.loop
        failure = RedisUnavailableError(
            "the event loop that owns the connections to Redis, in another thread, is blocked or has ended"
        )

        async def there() -> T:
            return await action()

        if loop is None:
            raise failure
        begun = there()
        try:
            waiting = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(begun, loop))
        except RuntimeError:  # closed this moment
            begun.close()
            raise failure from None
        task = asyncio.current_task()
        asked_to_end = task.cancelling() if task is not None else 0
        try:
            async with asyncio.timeout(2 * self.timeout):
                return await waiting
        except TimeoutError:
            raise failure from None
        except asyncio.CancelledError:
            if task is not None and task.cancelling() > asked_to_end:
                raise
            raise failure from None  # the other loop is ending, and has cancelled all it had

    def spawn(self, coro: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run ``coro`` as a task of the link, which ends when the link is closed."""
        self.tasks.spawn(coro, name=name)

    # Clients and single connections.

    def connect(self) -> Any:
        """A new client, not yet that of the link."""
        if self.primary is not None:
            return driver.connect_by_sentinels(self._address, self.timeout, self._protocol, self.primary)
        connect = driver.connect_cluster if self.cluster else driver.connect
        return connect(self._address.url, self.timeout, self._protocol)

    def new_connection(self) -> Any:
        """A connection for this caller alone, to any node, not yet open."""
        return driver.new_connection(self.client(), cluster=self.cluster)

    async def open_connection(self) -> Any:
        """A connection of the caller's own, to any node; raises redis-py's errors."""
        while True:
            connection: Any = None
            try:
                if self.cluster:
                    await self.client().initialize()
                connection = self.new_connection()
                await connection.connect()
            except Exception as error:
                if connection is not None:
                    await connection.disconnect(nowait=True)
                if not self.speaks_older(error, connection):
                    raise
            except BaseException:
                if connection is not None:
                    await connection.disconnect(nowait=True)
                raise
            else:
                self._opened.add(connection)
                return connection

    async def close_connection(self, connection: Any) -> None:
        """Close one of :meth:`open_connection`."""
        self._opened.discard(connection)
        await connection.disconnect(nowait=True)

    def speaks_older(self, error: BaseException, connection: Any = None) -> bool:
        """Whether connecting failed for want of HELLO, and is worth another try: in RESP2 from now on."""
        failure = judge(error)
        # A client that has not logged in yet may not be told that HELLO, its login, is unknown.
        unheard = failure is Failure.LOGIN and self._address.has_password
        if failure is not Failure.OLD_PROTOCOL and not unheard:
            return False
        if self._protocol == 2:
            # Made before that was known?
            return connection is None or str(getattr(connection, "protocol", 2)) == "3"
        self._protocol = 2
        logger.info("Redis at %s knows no HELLO; speaking RESP2", self.name)
        self._replace(self.connect())
        return True

    def switch_to(self, client: Any) -> None:
        """Have every call use ``client``, which leads to another server."""
        self.generation += 1
        self._replace(client)

    def _replace(self, client: Any) -> None:
        old, self._client = self._client, client
        if old is not None:
            self.tasks.spawn(driver.retire(old, self.timeout), name="redis-old-connections")

    # A cluster's map of the slots.

    def node_names(self) -> set[str]:
        """The nodes that the map names now; nothing before the first contact."""
        return set() if self._client is None else driver.node_names(self._client)

    def node_of(self, key: bytes) -> Any:
        """The node that has a key; None before the first contact, and after the map was dropped."""
        return driver.node_of(self.client(), key)
