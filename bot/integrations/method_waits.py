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
from bot.core.outbound.refusals import refusal_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

MOST_REFUSALS = 100
"""Refusals in a row of one request after which its caller gets the error. Uploads are refused often."""


class _Hold:
    """A method that was refused. Whoever has the lock tries it when the wait is over; the others wait."""

    __slots__ = ("lock", "loop", "until")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.until = 0.0
        self.loop = loop
        self.lock = asyncio.Lock()


class MethodWaits:
    """Sends what was refused again after its wait: one request first, the others once it was done.

    For one event loop at a time; a hold of a loop that ended keeps its time, not its waiters.
    """

    def __init__(self, random_source: random.Random | None = None) -> None:
        self._random = random_source or random.Random()
        # Changed by call and its helpers only. As many as Telegram has methods, at most.
        self._holds: dict[str, _Hold] = {}
        self.refusals = 0

    async def call(self, send: Callable[[], Awaitable[T]], key: str, max_wait: float) -> T:
        """Await ``send()``, again after each refusal: its result.

        Raises what ``send`` raises but for refusals; the refusal if its wait is longer than ``max_wait``
        seconds or after MOST_REFUSALS; OutboundHeldError for what was not sent, as such a wait is running.
        """
        cause: Exception | None = None
        refused = 0
        while True:
            hold = self._holds.get(key)
            if hold is None:
                try:
                    return await send()
                except Exception as error:
                    hold = self._refused(key, error)
                    cause, refused = error, refused + 1
            hold = self._of_this_loop(key, hold)
            async with hold.lock:
                while self._holds.get(key) is hold:
                    rest = hold.until - _now()
                    if rest > max_wait or refused >= MOST_REFUSALS:
                        raise cause or OutboundHeldError(key, rest, max_wait)
                    if rest > 0.0:
                        await asyncio.sleep(rest)
                        continue
                    try:
                        result = await send()
                    except Exception as error:
                        self._refused(key, error)
                        cause, refused = error, refused + 1
                    else:
                        self._over(key, hold)
                        return result

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

    def _refused(self, key: str, error: Exception) -> _Hold:
        """Hold the method for as long as the error says; raise any other error."""
        refusal = refusal_of(error)
        hold = self._holds.get(key)
        if refusal is None:
            if hold is not None and hold.until <= _now():
                self._over(key, hold)  # it was let through
            raise error
        self.refusals += 1
        if hold is None:
            hold = self._holds[key] = _Hold(asyncio.get_running_loop())
        longest = max(JITTER_LEAST, min(JITTER_MOST, JITTER_SHARE * refusal.seconds))
        jitter = self._random.uniform(JITTER_LEAST, longest)
        hold.until = max(hold.until, _now() + refusal.seconds + jitter)
        level = logging.WARNING if refusal.seconds >= 60 else logging.INFO
        logger.log(
            level, "Telegram refused %s for %.1f s (%s)", one_line(key), refusal.seconds, one_line(error)
        )
        return hold


def _now() -> float:
    return asyncio.get_running_loop().time()
