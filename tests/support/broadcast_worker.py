"""A bot in a process of its own that broadcasts, for tests that kill it.

``python -m tests.support.broadcast_worker STORE LOG NAME RECIPIENTS [OPTION=VALUE ...]`` sends to the chats
1 to RECIPIENTS in an order of its own. The log gets "b CHAT" when a send begins and "e CHAT" when it ends, at
once, as Telegram would know it. Ends with the report, or the error's name, as JSON on standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys

from bot.core.outbound import Limits, Outbound

BLOCKED_EACH = 100
"""Chats that have blocked the bot: multiples of this."""


class Forbidden(Exception):
    pass


async def work(store: str, log: str, name: str, number: int, options: dict[str, float]) -> None:
    lines = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def send(chat: int) -> None:
        os.write(lines, f"b {chat}\n".encode())
        await asyncio.sleep(options.get("seconds", 0.005))
        os.write(lines, f"e {chat}\n".encode())
        if chat % BLOCKED_EACH == 0:
            raise Forbidden("Forbidden: bot was blocked by the user")

    outbound = Outbound()
    await outbound.enable(Limits(bulk=(300, 0.05), paid=(10_000, 1.0)), drain_timeout=1.0)
    recipients = list(range(1, number + 1))
    random.Random(os.getpid()).shuffle(recipients)
    answer: dict[str, object]
    try:
        report = await outbound.broadcast(
            name, recipients, send, store=store, lease=options.get("lease", 0.5),
            concurrency=int(options.get("concurrency", 50)), paid=bool(options.get("paid", 0)),
        )  # fmt: skip
        answer = {"done": report.done, "sent": report.sent, "blocked": report.blocked}
        answer["unreachable"] = sorted(map(str, await report.unreachable()))
    except Exception as error:
        answer = {"error": type(error).__name__}
    await outbound.disable()
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _, store, log, name, number, *rest = sys.argv
    options = {key: float(value) for key, _, value in (word.partition("=") for word in rest)}
    asyncio.run(work(store, log, name, int(number), options))
