"""Checks of several limits at once, all or nothing; and of windows, which are asked in the same way."""

from __future__ import annotations

from collections.abc import Sequence

from bot.core._shared.clock import Clock
from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.models import EARLY, ClientId, RateLimitStatus
from bot.core.rate_limiter.parts import Meter, Part, tightest
from bot.core.rate_limiter.turns import Turns


class LocalJoint:
    """Checks of limits that this process has to itself. Parts are distinct, as ``summed`` makes them.

    A check awaits nothing. A caller that waits in ``acquire`` has taken nothing, so one that is cancelled has
    nothing to give back.
    """

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic
        self.turns = Turns(clock)
        """Callers that wait in acquire."""

    async def take(self, parts: Sequence[Part]) -> tuple[bool, RateLimitStatus]:
        """Take all or nothing: (allowed, status of the tightest part)."""
        return self.take_here(parts)

    def take_here(self, parts: Sequence[Part], *, alone: bool = False) -> tuple[bool, RateLimitStatus]:
        """:meth:`take`, which awaits nothing. ``alone``: the limits are shared, and Redis is away."""
        now = self._now()
        slacks = self.take_all(parts, now)
        refused = min(slacks) < 0.0
        statuses = [
            meter.status(client, slack, tokens, now, alone=alone)
            for (meter, client, tokens), slack in zip(parts, slacks, strict=True)
            if slack < 0.0 or not refused
        ]
        return not refused, tightest(statuses)

    def take_nowait(self, parts: Sequence[Part]) -> float:
        """Take all or nothing: 0.0, or the seconds to wait."""
        return self.take_here(parts)[1].retry_after

    async def refund(self, part: Part) -> bool:
        """Give back tokens of requests that did not happen; whether any was given back."""
        return part.meter.credit(part.client, self._now(), part.tokens)

    async def charge(self, part: Part) -> RateLimitStatus:
        """Take tokens that were used, whether they are there or not; what is left."""
        now = self._now()
        part.meter.charge(part.client, now, part.tokens)
        return part.meter.look(part.client, now, 1)

    def wake(self, client: ClientId, meters: Sequence[Meter] | None) -> None:
        """The client has more than it had under these limits (None: every one): who waits asks again."""
        for meter in self.turns.limits_of(client) if meters is None else meters:
            self.turns.wake(meter, client)

    def take_all(self, parts: Sequence[Part], now: float) -> list[float]:
        """The slack of each part; all are taken if none is negative. Only those that refuse count it."""
        behind = [self._behind(part, now) if self.turns else 0.0 for part in parts]
        slacks = [
            min(meter.judge(client, now, tokens), wait)
            for (meter, client, tokens), wait in zip(parts, behind, strict=True)
        ]
        if min(slacks) >= 0.0:
            return [meter.take(client, now, tokens) for meter, client, tokens in parts]
        for number, (meter, client, tokens) in enumerate(parts):
            if slacks[number] < 0.0:
                if meter.judge(client, now, tokens) < 0.0:
                    slacks[number] = min(slacks[number], meter.take(client, now, tokens))
                else:
                    meter.blocked += 1  # only those in line are before it
        return slacks

    def _behind(self, part: Part, now: float) -> float:
        """The slack behind those that wait in line: 0.0 if nobody does."""
        meter, client, tokens = part
        if isinstance(meter, Buckets):
            return 0.0
        ready = self.turns.ready(meter, client, tokens, now)
        return 0.0 if ready is None else min(-EARLY, now - EARLY - ready)

    async def acquire(self, parts: Sequence[Part], max_wait: float, label: str) -> RateLimitStatus:
        """Wait for all; raises RateLimitExceeded if that takes longer than ``max_wait`` seconds."""

        async def attempt() -> tuple[float, RateLimitStatus | None]:
            return self.attempt(parts)

        return await self.turns.acquire(parts, max_wait, label, attempt)

    def attempt(self, parts: Sequence[Part], *, alone: bool = False) -> tuple[float, RateLimitStatus | None]:
        """Take all, or tell the seconds to wait; a refusal is counted nowhere."""
        now = self._now()
        slack = min(meter.judge(client, now, tokens) for meter, client, tokens in parts)
        if slack < 0.0:
            return -slack, None
        for meter, client, tokens in parts:
            meter.take(client, now, tokens)
        return 0.0, tightest([meter.look(client, now, alone=alone) for meter, client, _ in parts])

    async def peek(self, parts: Sequence[Part]) -> RateLimitStatus:
        """What the clients have left: whether all of it could be taken, and nothing is."""
        now = self._now()
        return tightest([meter.look(client, now, tokens) for meter, client, tokens in parts])
