"""Where a primary is: its sentinels are asked anew for every connection.

Source: the Redis documentation, "Guidelines for Redis clients with support for Redis Sentinel".
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from bot.core._shared.masking import one_line
from bot.core._shared.redis_address import Sentinels

logger = logging.getLogger("bot.core.redis_link")

Address = tuple[str, int]
Ask = Callable[[Address], Awaitable[Any]]
"""Asks one sentinel for the address of the primary; raises what goes wrong."""

LIMIT = 0.6
"""Of the time for a call, what the sentinels may take of it; the rest is for the primary."""

HEAD_START = 0.1
"""Of the time for a call, what a sentinel may take before the next one is asked as well."""


class NoPrimary(ConnectionError):
    """No sentinel says where the primary is."""


class Primary:
    """The way to the primary of one service.

    Holds no connection: a sentinel is asked when a connection to the primary is made, and which one answered
    last is remembered. Many tasks may ask at once, and each may be cancelled.
    """

    def __init__(self, sentinels: Sentinels, timeout: float, name: str, ask: Ask) -> None:
        self._service = sentinels.service
        self._timeout = timeout
        self._name = name
        self._ask = ask
        # The one that answered last is asked first. Changed only by _prefer and distrust.
        self._order = list(sentinels.addresses)
        # The primary of the newest connection, and the one that all were moved to last.
        self._known: Address | None = None
        self._followed: Address | None = None

    async def find(self) -> Address:
        """Host and port of the primary. Raises NoPrimary."""
        problems: list[str] = []
        try:
            async with asyncio.timeout(self._timeout * LIMIT):
                return await self._first_answer(problems)
        except TimeoutError:
            problems.append(f"no answer of the others within {self._timeout * LIMIT:g} s")
        raise NoPrimary(f"no sentinel knows the primary {self._service}: {'; '.join(problems)}"[:300])

    async def _first_answer(self, problems: list[str]) -> Address:
        left = deque(self._order)
        asked: dict[asyncio.Future[Any], Address] = {}
        try:
            while left or asked:
                if left:
                    at = left.popleft()
                    asked[asyncio.ensure_future(self._ask(at))] = at
                head_start = self._timeout * HEAD_START if left else None
                done, _ = await asyncio.wait(asked, timeout=head_start, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    at = asked.pop(one)
                    try:
                        found = _address(one.result())
                    except Exception as error:
                        # Whatever it was, this one does not tell.
                        problems.append(f"{told(at)}: {one_line(error, 100)}")
                        continue
                    if found is not None:
                        self._prefer(at)
                        self._say(found)
                        if found != self._followed:
                            self._followed = None  # not all connections lead there
                        return found
                    problems.append(f"{told(at)} does not know it")
        finally:
            for one in asked:
                one.cancel()
            if asked:
                await asyncio.wait(asked)
        raise NoPrimary(f"no sentinel knows the primary {self._service}: {'; '.join(problems)}"[:300])

    async def changed(self, at: Address) -> bool:
        """Whether a sentinel names another primary than before; it is asked first from now on."""
        found = _address(await self._ask(at))
        if found is None or found == self._followed:
            return False
        self._followed = found
        self._prefer(at)
        self._say(found)
        return True

    def distrust(self) -> None:
        """What the one that answered last named is no primary: ask another first."""
        self._order.append(self._order.pop(0))

    def _prefer(self, at: Address) -> None:
        if self._order[0] != at:
            self._order.remove(at)
            self._order.insert(0, at)

    def _say(self, found: Address) -> None:
        before, self._known = self._known, found
        if before is not None and before != found:
            logger.warning("Redis at %s: the primary is %s now", one_line(self._name), one_line(told(found)))


def told(at: Address) -> str:
    """An address as texts have it."""
    return f"{at[0]}:{at[1]}"


def _address(answer: Any) -> Address | None:
    """What a sentinel answered; None if it does not know. Raises ValueError for what is no address."""
    if answer is None:
        return None
    if not isinstance(answer, list) or len(answer) != 2:
        raise ValueError("unexpected answer of a sentinel")
    host, port = (part.decode("ascii") if isinstance(part, bytes) else str(part) for part in answer)
    if not 0 < len(host) < 256 or not host.isprintable() or any(char in host for char in " /@,"):
        raise ValueError("unexpected answer of a sentinel")
    number = int(port) if port.isdigit() and len(port) < 6 else 0
    if not 0 < number < 65_536:
        raise ValueError("unexpected answer of a sentinel")
    return host, number
