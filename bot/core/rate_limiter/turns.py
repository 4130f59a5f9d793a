"""Callers that wait where tokens cannot be taken in advance: the first of each line asks, the others wait."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Protocol, TypeVar

from bot.core._shared.clock import Clock
from bot.core.rate_limiter.errors import RateLimitExceeded
from bot.core.rate_limiter.models import EARLY, ClientId, RateLimitStatus


class Meter(Protocol):
    """What is known of all clients under one limit."""

    blocked: int

    def __hash__(self) -> int: ...

    def ready(self, client: ClientId, now: float, wanted: Iterable[int]) -> float:
        """When the last of ``wanted`` tokens could be taken, one after the other."""
        ...


M = TypeVar("M", bound=Meter)
Wanted = tuple[M, ClientId, int]
"""A limit, a client, and tokens."""


class _Turn:
    """One caller's place. ``woken`` is done when it is to ask."""

    __slots__ = ("key", "wanted", "woken")

    def __init__(self, key: Hashable, wanted: Sequence[Wanted[Meter]], woken: asyncio.Future[None]) -> None:
        self.key = key
        self.wanted = wanted
        self.woken = woken


class Turns:
    """Lines of callers for the same limits of the same clients: first come, first served.

    A caller that waits has taken nothing: one that is cancelled just leaves, and the next one asks.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Both changed by _join and _leave only. An empty line is dropped.
        self._lines: dict[Hashable, dict[_Turn, None]] = {}
        self._waiting: dict[tuple[Hashable, ClientId], dict[_Turn, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def ahead(self, limit: Hashable, client: ClientId) -> list[int]:
        """The tokens that those in line want under a limit, first come first."""
        return list(self._waiting.get((limit, client), {}).values())

    def waiting(self) -> list[tuple[Hashable, ClientId]]:
        """The limits and clients for whose tokens callers wait."""
        return list(self._waiting)

    def limits_of(self, client: ClientId) -> list[Hashable]:
        """The limits under which callers wait for a client's tokens."""
        return [limit for limit, waited_for in self._waiting if waited_for == client]

    async def acquire(
        self,
        wanted: Sequence[Wanted[M]],
        max_wait: float,
        label: str,
        attempt: Callable[[], Awaitable[tuple[float, RateLimitStatus | None]]],
    ) -> RateLimitStatus:
        """Wait for the caller's turn, then ``attempt`` until it gives a status.

        ``attempt`` takes what is wanted, or gives the seconds to wait. Raises RateLimitExceeded, and nothing
        is taken, at once if it is known that ``max_wait`` seconds are not enough, else after these.
        """
        now = self._clock.monotonic()
        deadline = now + max_wait
        loop = asyncio.get_running_loop()
        key = (loop, *[(limit, client) for limit, client, _ in wanted])
        if key in self._lines and (wait := self._expected(wanted, now)) > max_wait + EARLY:
            raise _refused(wanted, wait, label)
        turn = _Turn(key, wanted, loop.create_future())
        self._join(turn)
        try:
            if not turn.woken.done() and not await self._pause(turn, deadline):
                raise _refused(wanted, self._expected(wanted, self._clock.monotonic(), turn), label)
            while True:
                turn.woken = loop.create_future()
                wait, status = await attempt()
                if status is not None:
                    return status
                until = self._clock.monotonic() + wait
                if until > deadline + EARLY:
                    raise _refused(wanted, wait, label)
                await self._pause(turn, until)
        finally:
            self._leave(turn)

    def wake(self, limit: Hashable, client: ClientId) -> None:
        """The client has more than it had: those whose turn it is are to ask again."""
        for turn in self._waiting.get((limit, client), ()):
            if next(iter(self._lines[turn.key])) is turn:
                _wake(turn)

    def _expected(self, wanted: Sequence[Wanted[M]], now: float, turn: _Turn | None = None) -> float:
        """Seconds until all is there for a caller, at least; ``turn`` is its own, None: it would be last."""
        longest = 0.0
        for limit, client, tokens in wanted:
            waiting = self._waiting.get((limit, client), {})
            ahead = itertools.takewhile(lambda item: item[0] is not turn, waiting.items())
            ready = limit.ready(client, now, [*[their for _, their in ahead], tokens])
            longest = max(longest, ready - now)
        return longest

    async def _pause(self, turn: _Turn, until: float) -> bool:
        """Return at that time, or when the turn is woken; whether it was."""
        woken = turn.woken
        timer = None
        if until < math.inf:
            wait = until - self._clock.monotonic()
            if wait > 0.0:
                timer = self._clock.call_later(wait, lambda: _expire(woken), woken.get_loop())
            else:
                _expire(woken)
        try:
            await asyncio.wait([woken])
            return not woken.cancelled()
        finally:
            if timer is not None:
                timer.cancel()

    def _join(self, turn: _Turn) -> None:
        loop = turn.woken.get_loop()
        for key, line in list(self._lines.items()):
            # What waited on an event loop that has ended must not delay callers here.
            first = next(iter(line))
            if first.woken.get_loop() is not loop and first.woken.get_loop().is_closed():
                for gone in list(line):
                    self._remove(gone)
                self._lines.pop(key, None)
        line = self._lines.setdefault(turn.key, {})
        line[turn] = None
        for limit, client, tokens in turn.wanted:
            self._waiting.setdefault((limit, client), {})[turn] = tokens
        if len(line) == 1:
            turn.woken.set_result(None)

    def _leave(self, turn: _Turn) -> None:
        line = self._lines.get(turn.key, {})
        if turn in line:
            self._remove(turn)
            if line:
                _wake(next(iter(line)))
            else:
                del self._lines[turn.key]

    def _remove(self, turn: _Turn) -> None:
        del self._lines[turn.key][turn]
        for limit, client, _ in turn.wanted:
            waiting = self._waiting[limit, client]
            del waiting[turn]
            if not waiting:
                del self._waiting[limit, client]

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree. For tests: O(n)."""
        assert all(self._lines.values()), "an empty line is dropped"
        wanted = {
            (limit, client)
            for line in self._lines.values()
            for turn in line
            for limit, client, _ in turn.wanted
        }
        assert self._waiting.keys() == wanted


def _refused(wanted: Sequence[Wanted[Meter]], wait: float, label: str) -> RateLimitExceeded:
    for limit, _, _ in wanted:
        limit.blocked += 1
    return RateLimitExceeded(wait, limit=label)


def _wake(turn: _Turn) -> None:
    woken = turn.woken
    with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the caller
        woken.get_loop().call_soon_threadsafe(_settle, woken)


def _settle(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _expire(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.cancel()
