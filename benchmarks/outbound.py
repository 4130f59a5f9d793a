"""Outbound: the price of a call that need not wait, of chats that are idle, and of 10,000 that wait.

Limits are so high that nothing waits, so what is measured is the work alone. Beside it python-telegram-bot's
AIORateLimiter, if python-telegram-bot and aiolimiter are installed. aiogram has no limiter of its own.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.harness import Contender, compare, machine, redis_server, table, verdict
from bot.core.outbound import Limits, Outbound, Priority, Request

WIDE = Limits(group=(100_000, 0.1), chat=(100_000, 0.001), chat_burst=1000, bulk=(100_000, 0.1))
CHATS = 10_000
TARGET = 20.0
"""Microseconds of a call that need not wait."""


async def sent() -> None:
    return None


async def floor(n: int) -> None:
    for _ in range(n):
        await sent()


def to_chat(outbound: Outbound, chat: int, method: str = "sendMessage", **fields: Any) -> Any:
    request = Request(method, chat, **fields)

    async def run(n: int) -> None:
        call = outbound.call
        for _ in range(n):
            await call(sent, request)

    return run


def to_many(outbound: Outbound) -> Any:
    """Each call to the next of many chats, as answers go."""

    async def run(n: int) -> None:
        call, answer = outbound.call, Priority.ANSWER
        for chat in range(1, n + 1):
            await call(sent, Request("sendMessage", chat, priority=answer))

    return run


async def ptb() -> list[Contender]:
    """python-telegram-bot's limiter, called as its bot calls it."""
    if not all(importlib.util.find_spec(name) for name in ("telegram", "aiolimiter")):
        print("python-telegram-bot or aiolimiter is not installed: its limiter is left out\n")
        return []
    from telegram.ext import AIORateLimiter

    limiter = AIORateLimiter(overall_max_rate=100_000, group_max_rate=100_000, group_time_period=1)
    await limiter.initialize()

    async def callback(*_: Any, **__: Any) -> bool:
        return True

    def run_for(chat: int) -> Callable[[int], Awaitable[None]]:
        async def run(n: int) -> None:
            data = {"chat_id": chat}
            for _ in range(n):
                await limiter.process_request(callback, (), {}, "sendMessage", data, None)

        return run

    return [
        Contender("PTB AIORateLimiter, a private chat", run_for(1)),
        Contender("PTB AIORateLimiter, a group", run_for(-1)),
    ]


async def unblocked(loop: str) -> None:
    outbound = Outbound()
    await outbound.enable(WIDE, drain_timeout=0.0)
    contenders = [
        Contender("floor: the request alone", floor),
        Contender("call, a group", to_chat(outbound, -1)),
        Contender("call, a private chat", to_chat(outbound, 1)),
        Contender("call, a chat each", to_many(outbound)),
        Contender("call, a method without a limit", to_chat(outbound, 1, "getChat")),
        Contender(
            "call, an edit that changes nothing",
            to_chat(outbound, -2, "editMessageText", message_id=1, content="x"),
        ),
        *await ptb(),
    ]
    results = await compare(contenders)
    print(table(f"A call that need not wait, {loop}", results, baseline="call, a group"))
    base = results["floor: the request alone"].microseconds
    for name in ("call, a group", "call, a private chat", "call, a chat each"):
        print(
            verdict(f"{name}, {loop}: us over the request alone", results[name].microseconds - base, TARGET)
        )
    print()
    await outbound.disable()


async def idle() -> None:
    """What chats leave behind once their windows are empty."""
    outbound = Outbound()
    await outbound.enable(Limits(bulk=(100_000, 0.1)), drain_timeout=0.0)
    await to_many(outbound)(100)
    gc.collect()
    tracemalloc.start()
    await to_many(outbound)(100_000)
    busy = tracemalloc.get_traced_memory()[0]
    known = (await outbound.get_statistics())["chats_known"]
    while (await outbound.get_statistics())["chats_known"]:
        await asyncio.sleep(0.5)
    gc.collect()
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print("### Idle chats\n")
    print(f"100,000 chats were written to; {known:,} were known at once, {busy / 1024:,.0f} KiB in all")
    print(verdict("KiB left when their windows are empty", left / 1024, 256))
    print(verdict("timers left", float(outbound._dispatcher.has_timer), 0), "\n")
    await outbound.disable()


async def queued() -> None:
    """10,000 chats wait, then all may leave."""
    outbound = Outbound()
    await outbound.enable(WIDE, max_pending=2 * CHATS, max_in_flight=CHATS, drain_timeout=0.0)
    costs = []
    for turn in range(5):
        outbound.hold(None, 1.0 + turn * 0.01)
        begun = time.process_time()
        tasks = [
            asyncio.ensure_future(
                outbound.call(sent, Request("sendMessage", chat, priority=Priority.BROADCAST))
            )
            for chat in range(1, CHATS + 1)
        ]
        await asyncio.gather(*tasks)
        costs.append((time.process_time() - begun) / CHATS * 1e6)
    print(f"### {CHATS:,} chats queued\n")
    print(f"us of processor time for each, from its call to its result: {sorted(costs)[2]:.1f}\n")
    await outbound.disable()


async def shared() -> None:
    """The same call through Redis: alone it is a round trip, together they share it."""
    with redis_server() as url:
        outbound = Outbound()
        await outbound.enable(WIDE, redis_url=url, bot_id="benchmark", drain_timeout=0.0)

        async def together(n: int) -> None:
            for start in range(0, n, 50):
                chats = range(start, min(n, start + 50))
                await asyncio.gather(
                    *[outbound.call(sent, Request("sendMessage", -1 - chat)) for chat in chats]
                )

        results = await compare(
            [
                Contender("one at a time", to_chat(outbound, -1), 2_000),
                Contender("50 together, each", together, 2_000),
            ]
        )
        print(table("A call under a shared budget", results, baseline="one at a time"))
        await outbound.disable()


async def bench() -> None:
    await unblocked("asyncio")
    await idle()
    await queued()
    await shared()


if __name__ == "__main__":
    print(f"{machine()}\n")
    asyncio.run(bench())
    if importlib.util.find_spec("uvloop"):
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(unblocked("uvloop"))
