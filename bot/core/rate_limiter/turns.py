"""Callers that wait where tokens cannot be taken in advance: the first of each line asks, the others wait."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from typing import Protocol, TypeVar

from bot.core._shared.clock import Clock
from bot.core.rate_limiter.errors import RateLimitExceeded
from bot.core.rate_limiter.models import EARLY, ClientId, RateLimitStatus

LOOKED_AT = 128
"""Callers of a line whose tokens are looked at one by one, to tell how long a line is that takes several."""


class Meter(Protocol):
    """What is known of all clients under one limit."""

    blocked: int

    def __hash__(self) -> int: ...

    def ready(
        self, client: ClientId, now: float, tokens: int, ahead: Sequence[int] = (), more: int = 0
    ) -> float:
        """When ``tokens`` could be taken, at least, after those ``ahead`` and ``more`` one by one."""
        ...


M = TypeVar("M", bound=Meter)
Wanted = tuple[M, ClientId, int]
"""A limit, a client, and tokens."""


class _Place:
    """The callers that wait for one client's tokens under one limit."""

    __slots__ = ("lines", "tokens", "turns")

    def __init__(self) -> None:
        # Changed by Turns only.
        self.turns: OrderedDict[_Turn, int] = OrderedDict()
        """What each wants, first come first."""
        self.tokens = 0
        """What all of them want."""
        self.lines: dict[_Line, None] = {}
        """The lines that they stand in: one for each choice of limits and each event loop."""


class _Line:
    """Callers of one event loop that want tokens of the same clients under the same limits."""

    __slots__ = ("key", "loop", "turns")

    def __init__(self, loop: asyncio.AbstractEventLoop, key: Hashable) -> None:
        self.loop = loop
        self.key = key
        # In order of arrival; changed by Turns only. Not a dict: to find its first entry takes the longer
        # the more entries before it have gone.
        self.turns: OrderedDict[_Turn, None] = OrderedDict()

    def wake_first(self) -> None:
        _wake(next(iter(self.turns)))


class _Turn:
    """One caller's place. ``woken`` is done when it is to ask."""

    __slots__ = ("line", "wanted", "woken")

    def __init__(self, line: _Line, wanted: Sequence[Wanted[Meter]], woken: asyncio.Future[None]) -> None:
        self.line = line
        self.wanted = wanted
        self.woken = woken


class Turns:
    """Lines of callers for the same limits of the same clients: first come, first served.

    A caller that waits has taken nothing: one that is cancelled just leaves, and the next one asks. What a
    caller costs does not depend on how many others wait.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Both changed by _join and _remove only. What is empty is dropped.
        self._lines: dict[asyncio.AbstractEventLoop, dict[Hashable, _Line]] = {}
        self._places: dict[Hashable, dict[ClientId, _Place]] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    def ready(self, limit: Meter, client: ClientId, tokens: int, now: float) -> float | None:
        """When tokens could be taken behind those in line, at least; None if nobody is."""
        self._drop_ended()
        if client not in self._places.get(limit, ()):
            return None
        return self._ready(limit, client, tokens, now)

    def clients_of(self, limit: Hashable) -> Collection[ClientId]:
        """The clients for whose tokens under a limit callers wait."""
        return self._places.get(limit, {}).keys()

    def limits_of(self, client: ClientId) -> list[Hashable]:
        """The limits under which callers wait for a client's tokens."""
        return [limit for limit, clients in self._places.items() if client in clients]

    async def acquire(
        self,
        wanted: Sequence[Wanted[M]],
        max_wait: float,
        label: str,
        attempt: Callable[[], Awaitable[tuple[float, RateLimitStatus | None]]],
    ) -> RateLimitStatus:
        """Wait for the caller's turn, then ``attempt`` until it gives a status.

        ``attempt`` takes what is wanted, or gives the seconds to wait. Raises RateLimitExceeded, and nothing
        is taken, at once if it is known that ``max_wait`` seconds are not enough, else after these. Who is
        refused is told when it could have all, behind those that wait then.
        """
        now = self._clock.monotonic()
        deadline = now + max_wait
        loop = asyncio.get_running_loop()
        key = tuple([(limit, client) for limit, client, _ in wanted])
        self._drop_ended()
        line = self._lines.get(loop, {}).get(key)
        if line is None:
            line = _Line(loop, key)
        elif (wait := self._expected(wanted, now)) > max_wait + EARLY:
            raise _refused(wanted, wait, label)
        turn = _Turn(line, wanted, loop.create_future())
        self._join(turn)
        try:
            if not turn.woken.done() and not await self._pause(turn, deadline):
                self._leave(turn)
                raise _refused(wanted, self._expected(wanted, self._clock.monotonic()), label)
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
        place = self._places.get(limit, {}).get(client)
        if place is not None:
            for line in place.lines:
                line.wake_first()

    def _expected(self, wanted: Sequence[Wanted[Meter]], now: float) -> float:
        """Seconds until all is there for a caller that would be last, at least."""
        ready = [self._ready(limit, client, tokens, now) for limit, client, tokens in wanted]
        return max(0.0, max(ready) - now)

    def _ready(self, limit: Meter, client: ClientId, tokens: int, now: float) -> float:
        place = self._places.get(limit, {}).get(client)
        if place is None:
            return limit.ready(client, now, tokens)
        if place.tokens == len(place.turns):
            return limit.ready(client, now, tokens, (), place.tokens)
        first = list(itertools.islice(place.turns.values(), LOOKED_AT))
        return limit.ready(client, now, tokens, first, place.tokens - sum(first))

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
        line = turn.line
        self._lines.setdefault(line.loop, {})[line.key] = line
        line.turns[turn] = None
        for limit, client, tokens in turn.wanted:
            clients = self._places.setdefault(limit, {})
            place = clients.get(client)
            if place is None:
                place = clients[client] = _Place()
            place.turns[turn] = tokens
            place.tokens += tokens
            place.lines[line] = None
        if len(line.turns) == 1:
            turn.woken.set_result(None)

    def _leave(self, turn: _Turn) -> None:
        if turn in turn.line.turns:
            self._remove(turn)
            if turn.line.turns:
                turn.line.wake_first()

    def _drop_ended(self) -> None:
        """What waited on an event loop that has ended must not delay callers here."""
        if any(loop.is_closed() for loop in self._lines):
            for loop in [loop for loop in self._lines if loop.is_closed()]:
                for line in list(self._lines[loop].values()):
                    for gone in list(line.turns):
                        self._remove(gone)

    def _remove(self, turn: _Turn) -> None:
        line = turn.line
        del line.turns[turn]
        for limit, client, tokens in turn.wanted:
            clients = self._places[limit]
            place = clients[client]
            del place.turns[turn]
            place.tokens -= tokens
            if line.turns:
                continue
            del place.lines[line]
            if not place.lines:
                del clients[client]
                if not clients:
                    del self._places[limit]
        if not line.turns:
            lines = self._lines[line.loop]
            del lines[line.key]
            if not lines:
                del self._lines[line.loop]

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree. For tests: O(n)."""
        assert all(self._lines.values()), "an event loop without a line is dropped"
        assert all(self._places.values()), "a limit without a client is dropped"
        lines = [line for of_loop in self._lines.values() for line in of_loop.values()]
        assert all(line.turns for line in lines), "an empty line is dropped"
        assert all(self._lines[line.loop][line.key] is line for line in lines)
        turns = [turn for line in lines for turn in line.turns]
        assert all(turn.line is line for line in lines for turn in line.turns)
        wanted = {(limit, client, turn): tokens for turn in turns for limit, client, tokens in turn.wanted}
        places = [
            (limit, client, place) for limit, clients in self._places.items()
            for client, place in clients.items()
        ]  # fmt: skip
        held = {(*of, turn): tokens for *of, place in places for turn, tokens in place.turns.items()}
        assert held == wanted
        for _, _, place in places:
            assert place.tokens == sum(place.turns.values())
            assert place.lines.keys() == {turn.line for turn in place.turns}


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
