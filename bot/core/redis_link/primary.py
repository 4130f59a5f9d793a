"""A server that is no primary (any more), and the search for the one that is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bot.core._shared.backoff import exponential
from bot.core.redis_link import driver
from bot.core.redis_link.breaker import CALM
from bot.core.redis_link.connections import Connections
from bot.core.redis_link.failures import Failure, judge, told

logger = logging.getLogger("bot.core.redis_link")

T = TypeVar("T")

LOOK_FIRST, LOOK_LONGEST = 0.1, 1.0
"""Seconds between two looks at where the name leads while the server is read-only."""


class PrimarySearch:
    """Whether the last write was refused because the server is no primary, and what is done about it.

    ``on_found(client)`` is called when a write was taken where the name leads now.
    """

    def __init__(
        self, connections: Connections, now: Callable[[], float], on_found: Callable[[Any], None]
    ) -> None:
        self._connections = connections
        self._now = now
        self._on_found = on_found
        # Changed only by found_read_only, found_writable, on_another_server and abandon.
        self.read_only = False
        self.looking: asyncio.Future[None] | None = None
        self.look_at = 0.0
        """When the next look may be, in seconds of the clock."""
        self._looks = 0
        self._said = False
        self._said_at = -CALM

    @property
    def may_look(self) -> bool:
        """Whether it is time to look where the name leads now, or a look is under way."""
        return self._connections.cluster or self.looking is not None or self._now() >= self.look_at

    def found_read_only(self, text: str) -> None:
        """The server refused a write because it is no primary."""
        if self.read_only:
            return
        self.read_only = True
        now = self._now()
        if now - self._said_at >= CALM:
            self._said, self._said_at = True, now
            logger.warning(
                "Redis at %s takes no writes (%s); looking where its name leads now",
                self._connections.name, told(text),
            )  # fmt: skip

    def found_writable(self) -> None:
        """A write was taken."""
        self.read_only = False
        self._looks = 0
        self.look_at = 0.0  # there is a primary: whoever is refused elsewhere finds it at once
        if self._said:
            self._said = False
            logger.warning("Redis at %s takes writes again", self._connections.name)

    def abandon(self) -> None:
        """Forget the check of an event loop that has ended."""
        self.looking = None

    async def on_another_server(
        self, operation: Callable[[Any], Awaitable[T]], used: Any = None, *, was_left: bool = False
    ) -> T:
        """Run what was refused by a server that is no primary where the name leads now.

        ``used`` is the client that was refused; ``was_left``: all calls go elsewhere since it was sent.
        Raises redis-py's errors.
        """
        connections = self._connections
        if connections.cluster:
            await driver.read_slots(connections.client())
            return await operation(connections.client())
        if self.looking is not None:
            await asyncio.shield(self.looking)
            return await operation(connections.client())
        if was_left or (used is not None and not connections.is_current(used)):
            return await operation(connections.client())  # it was found meanwhile
        self._looks += 1
        self.look_at = self._now() + exponential(self._looks, LOOK_FIRST, LOOK_LONGEST)
        looking = self.looking = asyncio.get_running_loop().create_future()
        # One connection first, and not all of them: it may be the same server still.
        fresh = connections.connect()
        found = False
        try:
            result = await operation(fresh)
            found = True
            return result
        except Exception as error:
            found = judge(error) is Failure.REFUSED
            raise
        finally:
            if self.looking is looking:
                self.looking = None
            if found:
                self._on_found(fresh)
            else:
                driver.abort_client(fresh)
            if not looking.done():
                looking.set_result(None)
