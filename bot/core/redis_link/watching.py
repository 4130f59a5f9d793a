"""Hearing of a failover from the sentinels, before the old primary knows of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any

from bot.core._shared.backoff import exponential
from bot.core._shared.masking import one_line
from bot.core._shared.redis_address import Sentinels
from bot.core.redis_link import driver
from bot.core.redis_link.connections import Connections
from bot.core.redis_link.listening import end_if_cancelled, listen
from bot.core.redis_link.sentinels import Address, Primary, told

logger = logging.getLogger("bot.core.redis_link")

EVENTS = ("+failover-state-reconf-slaves", "+switch-master")
"""A replica was promoted; the sentinels name another primary. One that is replaced in good order takes writes
for up to ten seconds more, and all of them are lost."""

LONGEST_PAUSE = 10.0
"""Seconds between two tries to reach a sentinel that is away, at most."""


class Watch:
    """Listens to every sentinel of a link; ``on_switch`` is called when the primary is another.

    Its tasks are the link's: they end with it, and :meth:`start` begins them under another event loop.
    """

    def __init__(
        self,
        connections: Connections,
        primary: Primary,
        sentinels: Sentinels,
        url: str,
        on_switch: Callable[[], None],
    ) -> None:
        self._connections = connections
        self._primary = primary
        self._sentinels = sentinels
        self._url = url
        self._on_switch = on_switch

    def start(self) -> None:
        """Listen, on the running event loop."""
        for at in self._sentinels.addresses:
            self._connections.spawn(self._watch(at), name=f"redis-sentinel {told(at)}")

    async def _watch(self, at: Address) -> None:
        failures = 0
        while True:
            connection: Any = None
            try:
                async with asyncio.timeout(self._connections.timeout):
                    connection = await driver.open_sentinel(
                        at, self._sentinels, self._url, self._connections.timeout
                    )
                    await connection.send_command("SUBSCRIBE", *EVENTS)
                    for _ in EVENTS:
                        await connection.read_response(push_request=True)
                failures = 0
                await listen(connection, self._connections.timeout, lambda message: self._hear(at, message))
            except Exception as error:
                # Whatever it was: the others are listened to, and this one is tried again.
                logger.debug("sentinel %s is not heard: %s", one_line(told(at)), one_line(error))
            finally:
                if connection is not None:
                    await connection.disconnect(nowait=True)
            end_if_cancelled()
            failures += 1
            await asyncio.sleep(exponential(failures, 0.1, LONGEST_PAUSE) * random.uniform(0.5, 1.0))

    def _hear(self, at: Address, message: bytes) -> None:
        if self._sentinels.service.encode() in message.split(b" ")[:2]:
            self._connections.spawn(self._ask(at), name="redis-sentinel-news")

    async def _ask(self, at: Address) -> None:
        """Ask the sentinel that told of a change: the others may not have heard of it."""
        with contextlib.suppress(Exception):  # then the next connection asks them all
            async with asyncio.timeout(self._connections.timeout):
                if await self._primary.changed(at):
                    self._on_switch()
