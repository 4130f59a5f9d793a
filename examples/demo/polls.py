"""Users of aiogram_bot.py."""

from __future__ import annotations

from functools import partial

from demo.stage import ADMIN, Stage, bot_on_stage, said, told

GROUP = -1_001_000_000_000
ANN, BOB = 1, 2
MEMBERS = range(101, 141)
CHOICES = ("Pizza", "Pasta", "Salad")


def shows(stage: Stage, counts: list[str]) -> bool:
    """Whether the poll in the group shows these counts."""
    lines: list[str] = stage.message(GROUP)["text"].splitlines()
    return lines[2:] == counts


async def play() -> None:
    """Print what users do and what the bot answers. Raises RuntimeError if the server refuses anything."""
    async with bot_on_stage("aiogram_bot.py") as stage:
        server = stage.server
        for user in (ANN, ADMIN, *MEMBERS[:10]):
            answer = await stage.ask(user, "/start")
        said("12 users", "/start", answer)

        answer = await stage.ask(ANN, "/poll Where to eat? Pizza, Pasta, Salad", chat=GROUP)
        said("Ann, in a group", "/poll Where to eat? Pizza, Pasta, Salad", answer)

        votes = 0
        for turn in (1, 2, 3):
            choices = [user * turn % 3 for user in MEMBERS]
            for user, choice in zip(MEMBERS, choices, strict=True):
                server.press(user, stage.message(GROUP), f"vote:1:{choice}")
            expected = [f"{choices.count(number)}  {name}" for number, name in enumerate(CHOICES)]
            await stage.until(partial(shows, stage, expected))
            votes += len(choices)
            said("40 members, at the same moment", "vote", stage.message(GROUP)["text"])
        edits = server.log.of("editMessageText", chat=GROUP)
        told(f"    ({votes} votes, for which {len(edits)} edits of the poll were sent)")

        for user in MEMBERS[:10]:
            answer = await stage.ask(user, "/top")
        said("10 users", "/top", answer)

        for _ in range(12):
            server.send_message(user=BOB, text="/find eat")
        await stage.until(lambda: len(server.texts(BOB)) >= 6)  # five answers, and one to wait
        said("Bob, 12 times at once", "/find eat", "\n".join(server.texts(BOB)))

        server.block(MEMBERS[0])
        await stage.ask(ADMIN, "/news Polls may now have ten choices")
        await stage.until(lambda: "have it" in server.texts(ADMIN)[-1])
        said(
            "The admin, to 13 users of whom one has blocked the bot",
            "/news Polls may now have ten choices",
            "\n".join(server.texts(ADMIN)[-2:]),
        )

        answer = await stage.ask(ADMIN, "/stats")
        said("The admin", "/stats", answer)
        stage.sum_up()
