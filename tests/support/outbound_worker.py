"""A bot in a process of its own that sends under a shared budget, for tests that kill it or its Redis.

``python -m tests.support.outbound_worker URL BOT LIMIT WINDOW GROUP_MESSAGES OTHERS LATENCY``: sends
GROUP_MESSAGES to the group -100, one after the other, and OTHERS to a private chat each. A line of output
for each: "group" or "other", when it left and when its answer came, by the machine's monotonic clock;
"degraded" or "shared" and the time whenever that changes; "end" at the end.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time

from bot.core.outbound import Limits, Outbound, Request


async def work(
    url: str, bot: str, limit: int, window: float, group_messages: int, others: int, latency: float
) -> None:
    outbound = Outbound()
    await outbound.enable(
        Limits(group=(limit, window)), redis_url=url, bot_id=bot, max_pending=100_000, drain_timeout=0.0
    )

    async def send(kind: str) -> None:
        left = time.monotonic()
        await asyncio.sleep(random.uniform(0.5, 1.5) * latency)
        print(kind, left, time.monotonic(), flush=True)

    async def watch() -> None:
        before = None
        while True:
            degraded = (await outbound.get_statistics())["degraded"]
            if degraded is not before:
                print("degraded" if degraded else "shared", time.monotonic(), flush=True)
            before = degraded
            await asyncio.sleep(0.01)

    watching = asyncio.ensure_future(watch())
    first = os.getpid() * 1_000_000
    await asyncio.gather(
        *[outbound.call(lambda: send("group"), Request("sendMessage", -100)) for _ in range(group_messages)],
        *[outbound.call(lambda: send("other"), Request("sendMessage", first + n)) for n in range(others)],
    )
    watching.cancel()
    outbound.check_invariants()
    await outbound.disable()
    print("end", flush=True)


if __name__ == "__main__":
    _, url, bot, limit, window, group_messages, others, latency = sys.argv
    asyncio.run(work(url, bot, int(limit), float(window), int(group_messages), int(others), float(latency)))
