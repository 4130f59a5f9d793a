"""A bot in a process of its own that holds slots of a shared limit, for tests that kill or freeze it.

``python -m tests.support.slot_worker URL LEASE MAX_IN_FLIGHT COUNT``: takes COUNT slots of the client
"mirror" under the limit "downloads" and prints "held", then holds them until it is killed. For each line
of its input it prints how many of them are lost.
"""

from __future__ import annotations

import asyncio
import sys

from bot.core.rate_limiter import ConcurrencyLimit, RateLimiter


async def work(url: str, lease: float, most: int, count: int) -> None:
    limiter, limit = RateLimiter(), ConcurrencyLimit(most, "downloads")
    await limiter.enable(redis_url=url, slot_lease=lease)
    slots = [await limiter.acquire_slot("mirror", limit, timeout=30) for _ in range(count)]
    print("held", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(sum(slot.lost for slot in slots), flush=True)


if __name__ == "__main__":
    _, url, lease, most, count = sys.argv
    asyncio.run(work(url, float(lease), int(most), int(count)))
