"""Users of ptb_bot.py."""

from __future__ import annotations

import asyncio
from collections import Counter

from demo.stage import ADMIN, bot_on_stage, said, told

GROUP, OTHER = -1_001_000_000_000, -1_002_000_000_000
ANN, BOB = 1, 2
NAMES = ("Ann", "Bob", "Carla", "Dora", "Emil")
MINUTE = 12.0
"""Seconds of a minute here: a group gets 20 messages in it, and the last edits wait for its end."""


async def play() -> None:
    """Print what users do and what the bot answers. Raises RuntimeError if the server refuses anything."""
    async with bot_on_stage("ptb_bot.py", minute=MINUTE) as stage:
        server = stage.server
        answer = await stage.ask(ANN, "/start")
        said("Ann", "/start", answer)
        await stage.ask(ADMIN, "/start")
        for group in (GROUP, OTHER):
            answer = await stage.ask(ANN, "/board", chat=group)
        said("Ann, in two groups", "/board", answer)

        written = Counter[str]()
        for turn in range(40):
            for number, name in enumerate(NAMES, 1):
                if turn % number == 0:
                    server.send_message(user={"id": number, "first_name": name}, chat=GROUP, text="Hello")
                    written[name] += 1
            await asyncio.sleep(0.15)  # what people write comes little by little
        total = sum(written.values())
        told("")
        told(f"Five members write {total} messages within six seconds. The board is edited after each batch")
        told("of them, until the group has had its 20 messages of a minute. Then the last edit waits.")
        board = [f"{place}. {name}: {count}" for place, (name, count) in enumerate(written.most_common(), 1)]
        await stage.until(lambda: stage.message(GROUP)["text"].splitlines()[1:] == board)
        said("The board, in the end", "", stage.message(GROUP)["text"])
        most = server.log.most_in_window(GROUP, MINUTE)
        told(f"    (messages and edits in any minute of this group: {most} at most)")

        for user in range(101, 111):
            answer = await stage.ask(user, "/groups")
        said("10 users", "/groups", answer)

        for _ in range(12):
            server.send_message(user=BOB, text="/groups")
        await stage.until(lambda: len(server.texts(BOB)) >= 6)  # five answers, and one to wait
        said("Bob, 12 times at once", "/groups", "\n".join(server.texts(BOB)))

        server.block(OTHER)
        server.send_message(user=ADMIN, text="/announce Boards are back")
        await stage.until(lambda: "have it" in server.texts(ADMIN)[-1])
        said("The admin, to 4 chats; one group has removed the bot", "/announce Boards are back",
             server.texts(ADMIN)[-1])  # fmt: skip

        answer = await stage.ask(ADMIN, "/stats")
        said("The admin", "/stats", answer)
        stage.sum_up()
