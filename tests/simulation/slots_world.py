"""Slots that instances share, and locks, among faults: no two have what is one's.

What the documentation promises, and what is checked here:

- While nothing is wrong, no more than ``SLOTS`` slots of a client are held in all instances, and one lock.
- The slots of a process that was killed are free after the lease, and whoever waits gets one soon after.
- Everybody who waits gets a slot in the end; ``disable`` leaves nothing.

While Redis is away, or has lost what it held, each instance limits alone, and nothing is checked until
``SETTLED`` seconds after it.

Not covered: the order in which callers get their slots, slots that are lost and taken back.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from bot.core._shared.errors import CapacityError
from bot.core.cache_manager import CacheManager, LockTimeoutError
from bot.core.rate_limiter import ConcurrencyLimit, RateLimiter
from tests.simulation.world import Instance, Scenario, Violation

SLOTS = 2
LIMIT = ConcurrencyLimit(SLOTS, "downloads")
LEASE = 5.0
SETTLED = LEASE + LEASE / 3 + 6.0
"""A lease that ends, a renewal that finds out, and a probe of the breaker."""


@dataclass
class Held:
    """Something that an instance had for a time."""

    instance: Instance
    what: str
    begun: float
    ended: float | None = None


class SlotsWorld(Scenario):
    """Users who download something, two at a time, or write a report, one at a time."""

    name: ClassVar[str] = "slots"
    share: ClassVar[float] = 0.6
    length: ClassVar[float] = 20.0
    pause: ClassVar[float] = 2.0

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.held: list[Held] = []

    async def start(self, instance: Instance) -> None:
        limiter, cache = instance.it = RateLimiter(clock=instance.clock), CacheManager(clock=instance.clock)
        await limiter.enable(redis_url=instance.url, slot_lease=LEASE)
        await cache.enable(redis_url=instance.url)

    async def stop(self, instance: Instance) -> None:
        for service in instance.it:
            await service.disable()

    async def turn(self, instance: Instance, user: int) -> None:
        seconds = self.chance.uniform(0.0, 3.0)
        if self.chance.random() < 0.6:
            await self.world.call(instance, "slot", lambda: self._download(instance, seconds))
        else:
            await self.world.call(instance, "lock", lambda: self._report(instance, seconds))

    async def _download(self, instance: Instance, seconds: float) -> str:
        limiter: RateLimiter = instance.it[0]
        async with limiter.slot(1, LIMIT, timeout=None):
            await self._have(instance, "slot", seconds)
        return "had it"

    async def _report(self, instance: Instance, seconds: float) -> str:
        cache: CacheManager = instance.it[1]
        try:
            async with cache.lock("report", ttl=LEASE, wait=30):
                await self._have(instance, "lock", seconds)
        except LockTimeoutError:
            return "others had it"
        return "had it"

    async def _have(self, instance: Instance, what: str, seconds: float) -> None:
        held = Held(instance, what, self.world.now)
        self.held.append(held)
        try:
            await asyncio.sleep(seconds)
        finally:
            held.ended = self.world.now

    async def healed(self, instance: Instance) -> bool:
        limiter, cache = instance.it
        try:
            async with limiter.slot("probe", LIMIT, timeout=0):
                pass
        except CapacityError:
            return False
        status = await limiter.slot_status("probe", LIMIT)
        await cache.set("probe", 1)
        return not status.degraded and not cache.snapshot().degraded

    def check(self) -> None:
        for what, most in (("slot", SLOTS), ("lock", 1)):
            held = [one for one in self.held if one.what == what]
            for one in held:
                with_it = [
                    other for other in held
                    if other.begun <= one.begun and not other.instance.killed
                    and (other.ended is None or other.ended > one.begun)
                ]  # fmt: skip
                since = min(other.begun for other in with_it) if with_it else one.begun
                if len(with_it) > most and self.world.calm(since, one.begun, after=SETTLED):
                    raise Violation(f"{len(with_it)} {what}s at {one.begun:.6f} of {most}: {with_it}")
