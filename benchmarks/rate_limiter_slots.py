"""Slots: the price of taking one and giving it back, local and shared, and how many round trips it needs.

The floor is a dict of ``asyncio.Semaphore``, one for each client, and in Redis the ``Lock`` of redis-py,
which allows one holder where a ConcurrencyLimit allows many.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import defaultdict

from benchmarks.harness import Contender, compare, main, redis_server, table, verdict
from bot.core.rate_limiter import ConcurrencyLimit, RateLimitConfig, RateLimiter

LIMIT = ConcurrencyLimit(10, "downloads")
GENEROUS = RateLimitConfig(1_000_000.0, 1_000_000_000)
TASKS, HELD = 100, 20_000


async def local() -> None:
    limiter = RateLimiter()
    await limiter.enable()
    semaphores: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(10))

    async def floor(n: int) -> None:
        for _ in range(n):
            async with semaphores["u"]:
                pass

    async def ours(n: int) -> None:
        for _ in range(n):
            async with limiter.slot("u", LIMIT):
                pass

    results = await compare([Contender("asyncio.Semaphore", floor), Contender("slot", ours)])
    print(table("Local, one task", results, baseline="asyncio.Semaphore"))

    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    slots = [await limiter.acquire_slot(client, LIMIT) for client in range(HELD)]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"\na held slot takes {(after - before) / len(slots):.0f} bytes\n")
    for slot in slots:
        slot.release()
    await limiter.disable()


async def shared(url: str) -> None:
    import redis.asyncio as redis

    limiter = RateLimiter()
    await limiter.enable(redis_url=url)
    client = redis.Redis.from_url(url, protocol=3)

    async def checks(n: int) -> None:
        for _ in range(n):
            await limiter.is_allowed("u", GENEROUS)

    async def locks(n: int) -> None:
        for _ in range(n):
            async with client.lock("bench:lock", timeout=15):
                pass

    async def ours(n: int) -> None:
        for _ in range(n):
            async with limiter.slot("u", LIMIT):
                pass

    results = await compare(
        [
            Contender("is_allowed, shared", checks, 1_000),
            Contender("slot, shared", ours, 1_000),
            Contender("Lock of redis-py", locks, 1_000),
        ]
    )
    print(table("Shared, one task", results, baseline="Lock of redis-py"))
    before = _calls(limiter)
    slots = await asyncio.gather(*[limiter.acquire_slot(number, LIMIT) for number in range(TASKS)])
    taken = _calls(limiter) - before
    print(verdict(f"round trips of {TASKS} slots that are taken together", taken, 3))
    for slot in slots:
        slot.release()
    await limiter.disable()
    await client.aclose()


def _calls(limiter: RateLimiter) -> int:
    shared_slots = limiter._slots._shared
    return 0 if shared_slots is None else shared_slots._script.batches


async def bench() -> None:
    await local()
    with redis_server() as url:
        await shared(url)


if __name__ == "__main__":
    main(bench)
