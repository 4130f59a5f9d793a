"""The calls of the rate limiter."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, ClassVar

from bot.core.phase4_service import Phase4Service
from bot.core.rate_limiter import (
    ConcurrencyLimit,
    RateLimitConfig,
    RateLimiter,
    WindowLimit,
    limited_slots,
    rate_limited,
)
from tests.cancellation.sweep.worlds import World, scenario

FAST = RateLimitConfig(1000.0, 1, backoff=None)
"""A token a millisecond: who comes second waits, and not for long."""
PLENTY = RateLimitConfig(1000.0, 1000, backoff=None)
WINDOW = WindowLimit(2, 0.02)
ONE = ConcurrencyLimit(1, "one")


async def switched_on(world: Any) -> None:
    assert await world.limiter.enable(redis_url=world.url, slot_lease=5.0)


async def emptied(world: Any) -> None:
    await world.limiter.reset_client("waits")


async def slot_is_free(world: Any) -> None:
    async with world.limiter.slot("c", ONE, timeout=5.0):
        pass


async def nothing_missing(world: Any) -> None:
    """A token that a cancelled call did not take, or gave back, is there again within its refill.

    That begins when Redis has heard of it: a call that was cancelled may still be on its way, and gives back
    what it got when it is answered. What is asked after it is answered after it.
    """
    for _ in range(2):
        await world.limiter.get_client_status("waits", FAST)
    await asyncio.sleep(0.005)
    allowed, _ = await world.limiter.is_allowed("waits", FAST)
    assert allowed, "tokens are missing"


class LimiterWorld(World):
    name = "limiter"
    shared: ClassVar[bool] = True

    async def start(self) -> None:
        self.url = self.servers.redis if self.shared else ""
        self.limiter = Phase4Service._instances[RateLimiter] = RateLimiter()
        await self.limiter.enable(PLENTY, {"t": PLENTY}, redis_url=self.url, slot_lease=5.0)

        @rate_limited(limit=PLENTY, key="number")
        async def limited(number: int) -> int:
            await asyncio.sleep(0)
            return number

        @limited_slots(ONE, key=lambda _: "c")
        async def slotted(number: int) -> int:
            await asyncio.sleep(0)
            return number

        self.limited, self.slotted = limited, slotted

    async def stop(self) -> None:
        await self.limiter.disable()

    async def held(self) -> list[str]:
        status = await self.limiter.slot_status("c", ONE)
        if not (status.in_flight or status.waiting):
            return []
        gc.collect()  # a slot that is forgotten is given back when it is removed
        return [f"slots: {status}"]

    @scenario("RateLimiter.is_allowed")
    async def is_allowed(self) -> None:
        await self.limiter.is_allowed("a", PLENTY)

    @scenario("RateLimiter.is_allowed")
    async def is_allowed_of_tier(self) -> None:
        await self.limiter.is_allowed("a", tier="t", tokens_required=2)

    @scenario("RateLimiter.is_allowed_all")
    async def is_allowed_all(self) -> None:
        await self.limiter.is_allowed_all([("a", PLENTY), ("b", WINDOW), ("c", "100/second;1000/minute")])

    @scenario("RateLimiter.allow_batch")
    async def allow_batch(self) -> None:
        await self.limiter.allow_batch("a", 3, PLENTY)

    @scenario("RateLimiter.acquire", after=nothing_missing)
    async def acquire(self) -> None:
        for _ in range(3):
            await self.limiter.acquire("waits", FAST)

    @scenario("RateLimiter.acquire", after=nothing_missing)
    async def acquire_among_others(self) -> None:
        others = [asyncio.ensure_future(self.limiter.acquire("waits", FAST)) for _ in range(3)]
        try:
            await self.limiter.acquire("waits", FAST)
        finally:
            await asyncio.shield(asyncio.gather(*others))

    @scenario("RateLimiter.acquire")
    async def acquire_in_a_window(self) -> None:
        for _ in range(3):
            await self.limiter.acquire("w", WINDOW)

    @scenario("RateLimiter.acquire")
    async def acquire_of_several_limits(self) -> None:
        for _ in range(2):
            await self.limiter.acquire("several", "500/second;1000/minute")

    @scenario("RateLimiter.charge", "RateLimiter.refund")
    async def charge_and_refund(self) -> None:
        await self.limiter.charge("a", PLENTY, 3)
        await self.limiter.refund("a", PLENTY, 3)

    @scenario("RateLimiter.get_client_status")
    async def get_client_status(self) -> None:
        await self.limiter.get_client_status("a", PLENTY)

    @scenario("RateLimiter.get_status", "RateLimiter.find_warnings")
    async def get_status(self) -> None:
        await self.limiter.get_status()
        await self.limiter.find_warnings()

    @scenario("RateLimiter.reset_client")
    async def reset_client(self) -> None:
        await self.limiter.is_allowed("a", PLENTY)
        await self.limiter.reset_client("a")

    @scenario("RateLimiter.slot", "SlotContext.__aenter__", "SlotContext.__aexit__", after=slot_is_free)
    async def slot(self) -> None:
        async with self.limiter.slot("c", ONE, timeout=5.0):
            await asyncio.sleep(0)

    @scenario("RateLimiter.slot", after=slot_is_free)
    async def slot_behind_another(self) -> None:
        async def hold() -> None:
            async with self.limiter.slot("c", ONE, timeout=5.0):
                await asyncio.sleep(0.001)

        others = [asyncio.ensure_future(hold()) for _ in range(2)]
        try:
            async with self.limiter.slot("c", ONE, timeout=5.0):
                await asyncio.sleep(0)
        finally:
            await asyncio.shield(asyncio.gather(*others))

    @scenario("RateLimiter.acquire_slot", after=slot_is_free)
    async def acquire_slot(self) -> None:
        (await self.limiter.acquire_slot("c", ONE, timeout=5.0)).release()

    @scenario("RateLimiter.slot_status")
    async def slot_status(self) -> None:
        await self.limiter.slot_status("c", ONE)

    @scenario("rate_limited")
    async def call_limited(self) -> None:
        assert await self.limited(1) == 1

    @scenario("limited_slots", after=slot_is_free)
    async def call_slotted(self) -> None:
        assert await self.slotted(1) == 1

    @scenario("RateLimiter.reset", "RateLimiter.reset_statistics", after=slot_is_free)
    async def reset(self) -> None:
        await self.limiter.reset()

    @scenario("RateLimiter.disable", before=switched_on, after=switched_on)
    async def disable(self) -> None:
        assert await self.limiter.disable()

    @scenario("RateLimiter.disable", before=switched_on, after=switched_on)
    async def disable_while_others_wait(self) -> None:
        slot = await self.limiter.acquire_slot("c", ONE, timeout=5.0)
        waiting = asyncio.ensure_future(self.limiter.acquire_slot("c", ONE, timeout=5.0))
        try:
            await asyncio.sleep(0)
            await self.limiter.disable()
        finally:
            slot.release()
            (await asyncio.shield(waiting)).release()

    @scenario("RateLimiter.enable", before=lambda world: world.limiter.disable(), after=switched_on)
    async def enable(self) -> None:
        assert await self.limiter.enable(PLENTY, redis_url=self.url)

    @scenario("RateLimiter.enable", before=switched_on, after=switched_on)
    async def enable_shared_or_not(self) -> None:
        assert await self.limiter.enable(redis_url="" if self.shared else self.servers.redis)

    @scenario("RateLimiter.enable", before=switched_on, after=switched_on)
    async def enable_with_another_redis(self) -> None:
        assert await self.limiter.enable(redis_url=f"{self.servers.redis}&key_prefix=other")


class LimiterAloneWorld(LimiterWorld):
    name = "limiter without Redis"
    shared = False
