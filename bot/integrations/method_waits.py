"""Waits that Telegram gives to one method, or to file parts, and that concern no chat.

A FLOOD_WAIT of ``contacts.ResolveUsername`` is often hours long and does not concern messages. So it holds
that method alone, and a refused file part holds file parts alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bot.core._shared.masking import one_line
from bot.core.outbound.attempts import JITTER_LEAST, JITTER_MOST, JITTER_SHARE
from bot.core.outbound.errors import OutboundHeldError
from bot.core.outbound.models import Request
from bot.core.outbound.refusals import refusal_of
from bot.core.outbound.service import Outbound

logger = logging.getLogger(__name__)

T = TypeVar("T")

MOST_REFUSALS = 100
"""Refusals in a row of one request after which its caller gets the error. Uploads are refused often."""


class _Refused:
    """A refusal on its way past Outbound, which would hold all chats for it."""

    __slots__ = ("error", "seconds")

    def __init__(self, error: Exception, seconds: float) -> None:
        self.error = error
        self.seconds = seconds


class _Hold:
    """A method that was refused. The caller that has the lock tries it when the wait is over; others wait."""

    __slots__ = ("lock", "loop", "until")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.until = 0.0
        self.loop = loop
        self.lock = asyncio.Lock()


class MethodWaits:
    """Sends what was refused again after its wait: one request first, the others once it was done.

    A hold of all chats concerns these methods as well, but not the parts of files.
    For one event loop at a time; a hold of a loop that ended keeps its time, not its waiters.
    """

    def __init__(self, random_source: random.Random | None = None) -> None:
        self._random = random_source or random.Random()
        # Changed by call and its helpers only. As many as Telegram has methods, at most.
        self._holds: dict[str, _Hold] = {}
        self.refusals = 0

    async def call(self, outbound: Outbound, send: Callable[[], Awaitable[T]], method: str, key: str) -> T:
        """Await ``send()``, a request of ``method``, again after each refusal: its result.

        ``key`` is what a refusal holds. Raises what ``send`` raises but for refusals; the refusal if its wait
        is longer than Outbound's ``max_wait`` or after MOST_REFUSALS; OutboundHeldError for what was not
        sent, as such a wait is running; and what ``Outbound.call`` raises of what was not sent.
        """
        max_wait = outbound.max_wait
        cause: Exception | None = None
        refused = 0
        while True:
            hold = self._holds.get(key)
            if hold is None:
                result = await self._try(outbound, send, method, key)
                if not isinstance(result, _Refused):
                    return result
                hold = self._refused(key, result)
                cause, refused = result.error, refused + 1
            hold = self._of_this_loop(key, hold)
            async with hold.lock:
                while self._holds.get(key) is hold:
                    rest = hold.until - _now()
                    if rest > max_wait or refused >= MOST_REFUSALS:
                        raise cause or OutboundHeldError(key, rest, max_wait)
                    if rest > 0.0:
                        await asyncio.sleep(rest)
                        continue
                    result = await self._try(outbound, send, method, key)
                    if not isinstance(result, _Refused):
                        self._over(key, hold)
                        return result
                    self._refused(key, result)
                    cause, refused = result.error, refused + 1

    async def _try(
        self, outbound: Outbound, send: Callable[[], Awaitable[T]], method: str, key: str
    ) -> T | _Refused:
        """Send once; any error but a refusal is raised."""

        async def attempt() -> T | _Refused:
            try:
                return await send()
            except Exception as error:
                refusal = refusal_of(error)
                if refusal is not None:
                    return _Refused(error, refusal.seconds)
                hold = self._holds.get(key)
                if hold is not None and hold.until <= _now():
                    self._over(key, hold)  # it was let through
                raise

        return await outbound.call(attempt, Request(method))

    def _of_this_loop(self, key: str, hold: _Hold) -> _Hold:
        loop = asyncio.get_running_loop()
        if hold.loop is not loop:
            until = hold.until
            hold = self._holds[key] = _Hold(loop)
            hold.until = until
        return hold

    def _over(self, key: str, hold: _Hold) -> None:
        if self._holds.get(key) is hold:
            del self._holds[key]

    def _refused(self, key: str, refused: _Refused) -> _Hold:
        """Hold the method for as long as Telegram said."""
        self.refusals += 1
        hold = self._holds.get(key)
        if hold is None:
            hold = self._holds[key] = _Hold(asyncio.get_running_loop())
        seconds = refused.seconds
        longest = max(JITTER_LEAST, min(JITTER_MOST, JITTER_SHARE * seconds))
        hold.until = max(hold.until, _now() + seconds + self._random.uniform(JITTER_LEAST, longest))
        level = logging.WARNING if seconds >= 60 else logging.INFO
        logger.log(
            level, "Telegram refused %s for %.1f s (%s)", one_line(key), seconds, one_line(refused.error)
        )
        return hold


def _now() -> float:
    return asyncio.get_running_loop().time()
