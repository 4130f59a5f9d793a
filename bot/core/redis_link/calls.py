"""One call to Redis: within a time limit and the breaker, and tried again where that can help."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bot.core._shared.errors import BackendError, Phase4Error
from bot.core.redis_link import driver
from bot.core.redis_link.connections import Connections
from bot.core.redis_link.errors import RedisCrowdedError, RedisRefusedError, RedisUnavailableError
from bot.core.redis_link.failures import Failure, is_redis_error, judge, text_of, told
from bot.core.redis_link.health import Health
from bot.core.redis_link.primary import PrimarySearch

logger = logging.getLogger("bot.core.redis_link")

T = TypeVar("T")

AT_ONCE = 8
"""Operations at once that have a connection each; others wait for their turn."""

LONGEST_WAIT = 10
"""Timeouts that a call may wait for its turn, before there are too many for this server."""

LATE = 0.25
"""Seconds by which a time limit is noticed late when this event loop, and not the server, was held up."""

CROWDED_CALM = 60.0
"""Seconds between two lines of log that the server takes no more connections."""


class Calls:
    """Runs operations on the link's client; what a failure says of the server, the breaker hears."""

    def __init__(
        self, connections: Connections, health: Health, primary: PrimarySearch, now: Callable[[], float]
    ) -> None:
        self._connections = connections
        self._health = health
        self._primary = primary
        self._now = now
        self._timeout = connections.timeout
        self._cluster = connections.cluster
        self.another_stands: Callable[[], bool] = lambda: False
        """Whether a connection stands besides the client's. Set when the link is made."""
        # Of the event loop that the link lives on. Changed only by _take_place.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._places = asyncio.Semaphore(AT_ONCE)
        # Whether the server takes no more connections, so that those that stand are worth keeping.
        self._crowded = False
        self._crowded_said_at = -CROWDED_CALM

    async def run(
        self,
        operation: Callable[[Any], Awaitable[T]],
        *,
        repeatable: bool = False,
        writes: bool = False,
        waits: bool = False,
    ) -> T:
        """See :meth:`RedisLink.run`. ``waits``: the server may keep its answer back; it takes no place."""
        connections = self._connections
        if connections.owner.loop is not asyncio.get_running_loop() and connections.owner.elsewhere:
            return await connections.hand_over(
                lambda: self.run(operation, repeatable=repeatable, writes=writes, waits=waits)
            )
        task = asyncio.current_task()
        asked_to_end = task.cancelling() if task is not None else 0
        try:
            if waits:
                return await self._admitted(operation, repeatable, writes)
            await self._take_place()
            try:
                return await self._admitted(operation, repeatable, writes)
            finally:
                self._places.release()
        finally:
            # redis-py sends by asyncio.wait_for, which before Python 3.12 lets a cancellation get lost.
            if task is not None and task.cancelling() > asked_to_end:
                raise asyncio.CancelledError

    async def _take_place(self) -> None:
        """Wait until fewer than ``AT_ONCE`` operations are under way on this event loop."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._places = loop, asyncio.Semaphore(AT_ONCE)
        places = self._places
        if places.locked():
            breaker = self._health.breaker
            if not breaker.available and not breaker.probe_due:
                breaker.admit()  # it says so at once
            try:
                async with asyncio.timeout(LONGEST_WAIT * self._timeout):
                    await places.acquire()
            except TimeoutError:
                raise RedisUnavailableError(f"too many calls wait for Redis at {self._health.name}") from None
        else:
            await places.acquire()

    async def _admitted(self, operation: Callable[[Any], Awaitable[T]], repeatable: bool, writes: bool) -> T:
        breaker = self._health.breaker
        probe = breaker.admit()
        try:
            if probe and not self._cluster and not self._crowded:
                # Idle connections from before the failure are dead, and would fail call after call.
                await driver.close_idle(self._connections.client())
            result = await self._try(operation, repeatable)
        finally:
            if probe:
                breaker.probe_ended()
        self._health.succeeded(breaker)
        if writes and self._primary.read_only:
            self._primary.found_writable()
        return result

    async def _try(self, operation: Callable[[Any], Awaitable[T]], repeatable: bool) -> T:
        """The operation, and again for each reason that another try can help with; each reason once."""
        loop = asyncio.get_running_loop()
        until = loop.time() + 2 * self._timeout
        met: list[Failure] = []
        held_up = False
        client: Any = None
        while True:
            used, client = client, self._connections.client()
            begun = loop.time()
            try:
                async with asyncio.timeout_at(min(until, begun + self._timeout)):
                    if met and met[-1] is Failure.READ_ONLY:
                        return await self._primary.on_another_server(operation, used)
                    if self._cluster:
                        await driver.find_nodes(client)
                    return await operation(client)
            except Phase4Error:
                raise
            except Exception as error:
                failure = judge(error)
                if failure is Failure.AWAY and loop.time() - begun > self._timeout + LATE:
                    # This event loop did not run meanwhile: the answer may have lain there all along.
                    if repeatable and not held_up:
                        held_up, until = True, loop.time() + self._timeout
                        continue
                    raise RedisUnavailableError(
                        f"no answer of Redis at {self._health.name}: this event loop was blocked for "
                        f"{loop.time() - begun:.1f} s"
                    ) from error
                if failure not in met:
                    met.append(failure)
                    if await self._may_help(failure, error, client, repeatable):
                        continue
                    if failure is Failure.LOST and await self._is_there(client, error):
                        raise RedisUnavailableError(
                            f"the connection to Redis at {self._health.name} was lost: {told(text_of(error))}"
                        ) from error
                raise self._error(failure, error, client) from error

    async def _may_help(self, failure: Failure, error: Exception, client: Any, repeatable: bool) -> bool:
        """Do what another try needs; False if there is nothing to be done."""
        if failure is Failure.OLD_PROTOCOL:
            return self._connections.speaks_older(error)
        if failure is Failure.READ_ONLY:
            self._primary.found_read_only(text_of(error))
            return self._primary.may_look or not self._connections.is_current(client)
        if failure is Failure.LOGIN and self._connections.speaks_older(error):
            return True
        if failure is Failure.CROWDED:
            return not self._cluster and driver.prefer_open(client)
        if failure not in (Failure.LOST, Failure.LOGIN) or self._cluster:
            return False
        if not self._health.breaker.available:
            return False  # one that is known to be away is asked once
        await driver.close_idle(client)
        return repeatable or failure is Failure.LOGIN

    async def _is_there(self, client: Any, error: Exception) -> bool:
        """Whether a new connection, in a cluster to the node that the error is of, gets an answer."""
        if not self._health.breaker_of(error).available:
            return False
        node = getattr(error, "connection", None)
        if self._cluster and not isinstance(getattr(node, "name", None), str):
            return False
        try:
            async with asyncio.timeout(self._timeout):
                await (driver.ask(node, "PING") if self._cluster else client.execute_command("PING"))
        except Exception as error:
            return judge(error) in (Failure.REFUSED, Failure.READ_ONLY)
        return True

    def _one_stands(self, client: Any) -> bool:
        return self.another_stands() or (client is not None and driver.has_open(client))

    def _error(self, failure: Failure, error: Exception, client: Any) -> BackendError:
        """What to raise for a failure; the breaker hears of it."""
        health = self._health
        if failure in (Failure.REFUSED, Failure.READ_ONLY):
            health.succeeded(health.breaker)  # it is there; it only does not want to
            if is_redis_error(error):
                return RedisRefusedError(told(text_of(error)))
            return RedisRefusedError(
                f"unexpected answer of Redis: {told(f'{type(error).__name__}: {error}')}"
            )
        self._crowded = failure is Failure.CROWDED
        if self._crowded and not self._cluster and self._one_stands(client):
            now = self._now()
            if now - self._crowded_said_at >= CROWDED_CALM:
                self._crowded_said_at = now
                logger.warning(
                    "Redis at %s takes no more connections (%s); going on with the open ones",
                    health.name, told(text_of(error)),
                )  # fmt: skip
            return RedisCrowdedError(f"Redis at {health.name}: {told(text_of(error))}")
        breaker = health.breaker_of(error)
        breaker.failed(error)
        return RedisUnavailableError(breaker.reason(error))
