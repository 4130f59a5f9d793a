"""Where a primary is: its sentinels are asked anew for every connection.

Source: the Redis documentation, "Guidelines for Redis clients with support for Redis Sentinel".
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from bot.core._shared.masking import one_line
from bot.core._shared.redis_address import Sentinels

logger = logging.getLogger("bot.core.redis_link")

Address = tuple[str, int]
Ask = Callable[[Address], Awaitable[tuple[Any, Any]]]
"""Asks one sentinel for (the address of the primary, what else it knows of it); raises what goes wrong."""

LIMIT = 0.6
"""Of the time for a call, what the sentinels may take of it; the rest is for the primary."""

HEAD_START = 0.1
"""Of the time for a call, what a sentinel may take before the next one is asked as well."""


class NoPrimary(ConnectionError):
    """No sentinel says where the primary is."""


class _Answer(NamedTuple):
    """What a sentinel said."""

    epoch: int
    """The number of the failover that made it the primary, which all sentinels learn; -1: it was not told."""
    primary: Address
    at: Address
    """The sentinel."""


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
        # Of the answer that was believed last.
        self._epoch = -1

    async def find(self) -> Address:
        """Host and port of the primary. Raises NoPrimary.

        A sentinel that has not heard of the failover that others told of is believed only if no other one
        answers that has: they may all have been set up anew.
        """
        problems: list[str] = []
        old: list[_Answer] = []
        try:
            async with asyncio.timeout(self._timeout * LIMIT):
                found = await self._first_answer(problems, old)
        except TimeoutError:
            found = None
            problems.append(f"no answer of the others within {self._timeout * LIMIT:g} s")
        if found is None:
            if not old:
                why = "; ".join(problems)
                raise NoPrimary(f"no sentinel knows the primary {self._service}: {why}"[:300])
            found = max(old)
        self._believe(found)
        if found.primary != self._followed:
            self._followed = None  # not all connections lead there
        return found.primary

    async def _first_answer(self, problems: list[str], old: list[_Answer]) -> _Answer | None:
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
                        found = _answer(at, *one.result())
                    except Exception as error:
                        # Whatever it was, this one does not tell.
                        problems.append(f"{told(at)}: {one_line(error, 100)}")
                        continue
                    if found is None:
                        problems.append(f"{told(at)} does not know it")
                    elif self._is_old(found):
                        old.append(found)
                    else:
                        return found
        finally:
            for one in asked:
                one.cancel()
            if asked:
                await asyncio.wait(asked)
        return None

    async def changed(self, at: Address) -> bool:
        """Whether a sentinel names another primary than before; it is asked first from now on. One that has
        not heard of the last failover may tell that the old primary is back.
        """
        found = _answer(at, *await self._ask(at))
        if found is None or found.primary == self._followed or self._is_old(found):
            return False
        self._followed = found.primary
        self._believe(found)
        return True

    def _is_old(self, answer: _Answer) -> bool:
        return 0 <= answer.epoch < self._epoch

    def _believe(self, answer: _Answer) -> None:
        self._prefer(answer.at)
        self._say(answer.primary)
        if answer.epoch >= 0:
            self._epoch = answer.epoch

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


def _answer(at: Address, address: Any, facts: Any) -> _Answer | None:
    """What a sentinel answered; None if it does not know the primary. Raises ValueError as ``_address``."""
    primary = _address(address)
    if primary is None:
        return None
    epoch = -1
    if isinstance(facts, list) and b"config-epoch" in facts[:-1:2]:
        value = facts[2 * facts[:-1:2].index(b"config-epoch") + 1]
        if isinstance(value, bytes) and value.isdigit() and len(value) < 20:
            epoch = int(value)
    return _Answer(epoch, primary, at)


def _address(answer: Any) -> Address | None:
    """The address in an answer; None if it does not know. Raises ValueError for what is no address."""
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
