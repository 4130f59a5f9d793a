"""Shared limits among faults: no window lets more through than it may.

What the documentation promises, and what is checked here:

- While nothing is wrong, a window holds over all instances together, and nobody is refused for whom there was
  room.
- While Redis is away, each instance limits alone, so N processes let through up to N times as much, and what
  they let through is not counted in Redis afterwards.
- While a fault goes on that does not end, each instance keeps every limit by itself, ``ALONE`` seconds after
  its beginning.
- ``RECOVERED`` seconds after a fault all is as before.
- No call raises an error for Redis's sake.

Not covered: tiers, penalties for early retries, ``acquire`` and its lines, ``check``, several limits at once,
bytes per second, resets, a Redis whose clock is set, or that evicts all the time.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from bot.core.rate_limiter import RateLimitConfig, RateLimiter, WindowLimit
from tests.simulation.faults import KINDS
from tests.simulation.world import Call, Instance, Scenario, Violation

WINDOW = WindowLimit(4, 3.0, "window", backoff=None)
BUCKET = RateLimitConfig(1.0, 3, "bucket", backoff=None)
RECOVERED = 8.0
"""A probe of the breaker (5 s at most), and the window itself."""
ALONE = 2.0
"""A call without an answer, after which Redis is away."""
CLIENTS = 2
EARLY = 0.002
"""A token may be had 1.5 ms before it is there, since event loops wake tasks early."""


class LimiterWorld(Scenario):
    """Limiters that share a window and a bucket for each of a few clients."""

    name: ClassVar[str] = "limiter"
    share: ClassVar[float] = 0.6
    kinds: ClassVar[tuple[str, ...]] = tuple(
        kind for kind in KINDS if kind not in ("clock step of redis", "evicting")
    )
    length: ClassVar[float] = 15.0
    pause: ClassVar[float] = 0.7

    async def start(self, instance: Instance) -> None:
        limiter = instance.it = RateLimiter(clock=instance.clock)
        await limiter.enable(redis_url=instance.url)

    async def stop(self, instance: Instance) -> None:
        await instance.it.disable()

    async def turn(self, instance: Instance, user: int) -> None:
        limiter: RateLimiter = instance.it
        client = self.chance.randrange(CLIENTS)
        limit: Any = WINDOW if self.chance.random() < 0.6 else BUCKET

        async def ask() -> bool:
            return (await limiter.is_allowed(client, limit))[0]

        await self.world.call(instance, "ask", ask, client=client, limit=limit.name)

    async def healed(self, instance: Instance) -> bool:
        limiter: RateLimiter = instance.it
        allowed, status = await limiter.is_allowed(f"probe {self.world.now}", BUCKET)
        return allowed and not status.degraded

    def check(self) -> None:
        for client in range(CLIENTS):
            asked = [call for call in self.world.calls if call.labels["client"] == client]
            self._check_window([call for call in asked if call.labels["limit"] == "window"])
            self._check_bucket([call for call in asked if call.labels["limit"] == "bucket"])
            for instance in self.world.instances + self.world.dead:
                mine = [call for call in asked if call.instance is instance]
                self._check_window([call for call in mine if call.labels["limit"] == "window"], alone=True)
                self._check_bucket([call for call in mine if call.labels["limit"] == "bucket"], alone=True)

    def _lasts(self, begun: float, ended: float) -> bool:
        """Whether one fault that does not end goes on between the two, and the effects of others are over."""
        others = [trouble for trouble in self.world.troubled if trouble[1] < math.inf]
        lasting = [trouble[0] for trouble in self.world.troubled if trouble[1] == math.inf]
        return bool(lasting) and min(lasting) + ALONE <= begun and not any(
            start <= ended and end + RECOVERED >= begun for start, end in others
        )  # fmt: skip

    def _most(self, limit: float, begun: float, ended: float, *, alone: bool) -> float:
        """How many may get through between two moments, if a limit lets ``limit`` through."""
        if self.world.calm(begun, ended, after=RECOVERED) or (alone and self._lasts(begun, ended)):
            return limit
        # Each process by itself, Redis before and after what it lost.
        faults = sum(start <= ended and end + RECOVERED >= begun for start, end in self.world.troubled)
        return limit * (len(self.world.instances) + len(self.world.dead) + 1 + faults)

    def _check_window(self, asked: list[Call], *, alone: bool = False) -> None:
        passed = [call for call in asked if call.result is True]
        for first, call in enumerate(passed):
            # Each was let through at some moment between its beginning and its end.
            within = [
                other for other in passed[first:] if other.ended is not None
                and other.ended < call.begun + WINDOW.window and other.begun >= call.begun
            ]  # fmt: skip
            most = self._most(WINDOW.max_requests, call.begun, call.begun + WINDOW.window, alone=alone)
            if len(within) > most:
                of = " of one instance" if alone else ""
                raise Violation(f"{len(within)}{of} within {WINDOW.window} s: {'; '.join(map(str, within))}")
        for call in () if alone else asked:  # alone, others may have taken the room
            if call.result is False and call.ended is not None:
                before = [
                    other for other in asked
                    if other is not call and other.result is not False and other.begun <= call.ended
                    and (other.ended is None or other.ended > call.begun - WINDOW.window - 0.01)
                ]  # fmt: skip
                if len(before) < WINDOW.max_requests and self.world.calm(
                    call.begun - WINDOW.window, call.ended, after=RECOVERED
                ):
                    raise Violation(f"refused after {len(before)}: {call}")

    def _check_bucket(self, asked: list[Call], *, alone: bool = False) -> None:
        passed = [call for call in asked if call.result is True and call.ended is not None]
        for first, call in enumerate(passed):
            for last in range(first, len(passed)):
                ended = max(other.ended or 0.0 for other in passed[first : last + 1])
                most = BUCKET.burst_size + (ended - call.begun) * BUCKET.requests_per_second
                of = " of one instance" if alone else ""
                if last - first + 1 > self._most(most, call.begun, ended, alone=alone) + EARLY:
                    raise Violation(
                        f"{last - first + 1}{of} of {most:.3f} in {ended - call.begun:.3f} s from {call}"
                    )
