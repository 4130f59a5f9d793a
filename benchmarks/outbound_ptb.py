"""python-telegram-bot with Phase4RateLimiter beside its own AIORateLimiter, on the same Bot API server.

Each bot is the real package, over HTTP to a server with Telegram's limits. Minutes pass on an event loop
whose time jumps while everybody waits, so the figures are how long requests waited, not how fast this
machine is. An answer takes 50 ms on the network.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from benchmarks.harness import main, verdict
from bot.core.outbound import Outbound, Priority
from bot.integrations import ptb
from bot.testing import fast_loop
from bot.testing.telegram import ServerLimits, TelegramServer

GROUP = -100
LATENCY = 0.05
MINUTES = 10
HELD = 41.0
BROADCAST = 3_000
RETRIES = 10
"""AIORateLimiter gives up at the first refusal unless it is told a number."""

OURS, PEER = "Phase4RateLimiter", "AIORateLimiter"


class _Loop(fast_loop.FastLoop):
    """Its time moves a little with each look at it: aiolimiter asks again and again until a wait is over that
    rounding has left, which on a clock that stands still is never."""

    _looks = 0

    def time(self) -> float:
        self._looks += 1
        return super().time() + self._looks * 1e-7


class Sender(NamedTuple):
    """A bot, its server, and how it says that a message is an answer or a broadcast."""

    server: TelegramServer
    bot: Any
    answer: dict[str, Any]
    broadcast: dict[str, Any]


@asynccontextmanager
async def sender(name: str, limits: ServerLimits | None = None) -> AsyncIterator[Sender]:
    from telegram.ext import AIORateLimiter, BaseRateLimiter, ExtBot
    from telegram.request import HTTPXRequest

    loop = asyncio.get_running_loop()
    assert isinstance(loop, fast_loop.FastLoop)
    outbound = Outbound(clock=loop.clock)
    await outbound.enable()
    ours = name == OURS
    limiter: BaseRateLimiter[Any] = (
        ptb.Phase4RateLimiter(outbound) if ours else AIORateLimiter(max_retries=RETRIES)
    )

    def say(priority: Priority) -> dict[str, Any]:
        return {"rate_limit_args": ptb.RateLimitArgs(priority)} if ours else {}

    async with TelegramServer(limits=limits) as server:
        server.delay = LATENCY
        request = HTTPXRequest(
            connection_pool_size=1_000, pool_timeout=3_600.0, connect_timeout=3_600.0, read_timeout=3_600.0
        )
        async with ExtBot(
            server.token, base_url=server.base_url, request=request, rate_limiter=limiter
        ) as bot:
            yield Sender(server, bot, say(Priority.ANSWER), say(Priority.BROADCAST))
    await outbound.disable()


def now() -> float:
    return asyncio.get_running_loop().time()


def p99(waits: list[float]) -> float:
    return sorted(waits)[math.ceil(0.99 * len(waits)) - 1]


async def quietly(sending: Awaitable[object]) -> bool:
    """Whether it was sent."""
    from telegram.error import TelegramError

    try:
        await sending
    except TelegramError:
        return False
    return True


async def group(name: str) -> dict[str, float]:
    """Eight tasks that write to one group for ten minutes, with pauses now and then."""
    chance = random.Random(1)
    async with sender(name) as (server, bot, *_):
        end = now() + 60 * MINUTES

        async def write() -> None:
            while now() < end:
                await quietly(bot.send_message(GROUP, "text"))
                await asyncio.sleep(chance.choice((0.0, 0.0, 1.0, 45.0)))

        await asyncio.gather(*(write() for _ in range(8)))
        return {
            "most_in_60s": server.log.most_in_window(GROUP, 60.0),
            "delivered": sum(call.done for call in server.log.of("sendMessage", chat=GROUP)),
            "refused": len(server.log.refused(GROUP)),
            "in_penalty": len(server.log.in_penalties(GROUP)),
        }


async def unlimited_group(name: str) -> dict[str, float]:
    """The same against a server that lets everything through: what the limiter alone keeps to."""
    chance = random.Random(1)
    async with sender(name, ServerLimits(group=(100_000, 60.0))) as (server, bot, *_):
        end = now() + 60 * MINUTES

        async def write() -> None:
            while now() < end:
                await bot.send_message(GROUP, "text")
                await asyncio.sleep(chance.choice((0.0, 0.0, 1.0, 45.0)))

        await asyncio.gather(*(write() for _ in range(8)))
        return {"most_in_60s": server.log.most_in_window(GROUP, 60.0)}


async def answers(talk: Sender, seconds: float, users: range, *, every: float = 0.5) -> list[float]:
    """What answers to ``users``, one each ``every`` s, waited beyond the network."""
    waits: list[float] = []

    async def answer(user: int) -> None:
        asked = now()
        if await quietly(talk.bot.send_message(user, "answer", **talk.answer)):
            waits.append(now() - asked - LATENCY)

    tasks = []
    end = now() + seconds
    index = 0
    while now() < end:
        tasks.append(asyncio.create_task(answer(users[index % len(users)])))
        index += 1
        await asyncio.sleep(every)
    await asyncio.gather(*tasks)
    return waits


async def held(name: str) -> dict[str, float]:
    """One group is refused for 41 s while 22 messages go to it; what the others' answers wait for."""
    async with sender(name) as talk:
        before = await answers(talk, 60.0, range(1, 101))

        async def write() -> None:
            # While no answer is under way: the end of one would lift AIORateLimiter's halt.
            await asyncio.sleep(0.25)
            talk.server.penalize(GROUP, HELD)
            await asyncio.gather(*(quietly(talk.bot.send_message(GROUP, "text")) for _ in range(22)))

        writing = asyncio.create_task(write())
        during = await answers(talk, 60.0, range(1, 101))
        await writing
        return {
            "p99_before": p99(before),
            "p99_during": p99(during),
            "worst": max(during),
            "refused": len(talk.server.log.refused(GROUP)),
            "in_penalty_after_the_first": max(0, len(talk.server.log.in_penalties(GROUP)) - 1),
        }


async def behind_a_broadcast(name: str) -> dict[str, float]:
    """3,000 messages to as many users are queued; then answers to others come, two a second."""
    async with sender(name) as talk:
        users = range(10_000, 10_000 + BROADCAST)
        sends = [
            asyncio.create_task(quietly(talk.bot.send_message(user, "news", **talk.broadcast)))
            for user in users
        ]
        await asyncio.sleep(1.0)
        waits = await answers(talk, 60.0, range(1, 101))
        delivered = sum(await asyncio.gather(*sends))
        return {
            "p99": p99(waits),
            "worst": max(waits),
            "delivered": delivered,
            "refused": len(talk.server.log.refused()),
        }


SCENES: dict[str, Callable[[str], Awaitable[dict[str, float]]]] = {
    "ten minutes of writing to one group": group,
    "the same, the server refusing nothing": unlimited_group,
    "one group refused for 41 s, answers to 100 others": held,
    "answers to 100 others behind 3,000 broadcasts": behind_a_broadcast,
}


async def bench() -> None:
    logging.disable(logging.CRITICAL)  # each refusal is logged, and they are counted here
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for title, scene in SCENES.items():
        figures[title] = {name: await asyncio.to_thread(_run, scene, name) for name in (OURS, PEER)}
        ours, peer = figures[title].values()
        print(f"### {title}\n\n| | {OURS} | {PEER} |\n|---|---:|---:|")
        for figure in ours:
            unit = " s" if figure.startswith(("p99", "worst")) else ""
            cells = " | ".join(
                f"{one[figure]:.2f}{unit}" if unit else f"{one[figure]:,.0f}" for one in (ours, peer)
            )
            print(f"| {figure.replace('_', ' ')} | {cells} |")
        print()
    written, free, refused, queued = (figures[title][OURS] for title in SCENES)
    lines = [
        verdict("messages to a group within any 60 s", written["most_in_60s"], 20),
        verdict("the same, the server refusing nothing", free["most_in_60s"], 20),
        verdict("refusals of a group", written["refused"], 0),
        verdict(
            "rise of the others' p99 while a group is held, s",
            refused["p99_during"] - refused["p99_before"],
            0.05,
        ),
        verdict("requests to the group inside its penalty", refused["in_penalty_after_the_first"], 0),
        verdict("p99 of an answer behind 3,000 broadcasts, s", queued["p99"], 0.1),
        verdict("refusals of the broadcast", queued["refused"], 0),
    ]
    print("\n".join(lines))


def _run(scene: Callable[[str], Awaitable[dict[str, float]]], name: str) -> dict[str, float]:
    """In a thread, which has an event loop of its own."""

    async def run() -> dict[str, float]:
        return await scene(name)

    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(run())


if __name__ == "__main__":
    main(bench)
