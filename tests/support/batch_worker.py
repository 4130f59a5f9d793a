"""A bot in a process of its own that handles a durable queue, for tests and benchmarks that kill it.

``python -m tests.support.batch_worker URL QUEUE LEASE SIZE SECONDS``: each batch takes SECONDS; how
often each item was handled is counted in the hash ``handled:QUEUE``, as a database would have it, and the
list ``order:QUEUE`` tells when items of lanes began and ended. An item whose data is "poison" ends the
process at once, as a crash in native code does. Ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import redis.asyncio as redis

from bot.core.batch_processor import BatchItem, BatchProcessor


async def work(url: str, queue: str, lease: float, size: int, seconds: float) -> None:
    database: Any = redis.Redis.from_url(url)

    async def handle(items: list[BatchItem]) -> dict[str, Any]:
        async with database.pipeline(transaction=False) as pipe:
            for item in items:
                if item.data == "poison":
                    await database.incr(f"crashes:{queue}")
                    os._exit(70)
                pipe.hincrby(f"handled:{queue}", item.item_id, 1)
                if item.lane is not None:
                    pipe.rpush(f"order:{queue}", f"begin {item.lane} {item.data} {item.deliveries}")
                if item.deliveries > 1:
                    pipe.hset(f"redelivered:{queue}", item.item_id, item.deliveries)
            await pipe.execute()
        await asyncio.sleep(seconds)
        lines = [f"end {item.lane} {item.data} 0" for item in items if item.lane is not None]
        if lines:
            await database.rpush(f"order:{queue}", *lines)
        return {item.item_id: ["by", os.getpid(), item.data] for item in items}

    processor = BatchProcessor()
    await processor.enable(
        handle, size, 0.02, max_concurrent=4, redis_url=url, queue_name=queue, lease=lease,
        max_pending=1_000_000,
    )  # fmt: skip
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print("ready", flush=True)
    await ended.wait()
    await processor.disable()
    await database.aclose()


if __name__ == "__main__":
    _, url, queue, lease, size, seconds = sys.argv
    asyncio.run(work(url, queue, float(lease), int(size), float(seconds)))
