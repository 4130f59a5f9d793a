"""Users of thanks_bot.py, and an oracle that compares what they are told with the bot's database."""

from __future__ import annotations

import asyncio
import random
import re
import sqlite3
from pathlib import Path

from demo.stage import ADMIN, Stage, bot_on_stage, said, told

NAMES = [f"Member{number}" for number in range(1, 25)]
TURNS = 14
WORDS = ("cake", "lunch", "review")
HISTORY = 50_000
"""Thanks to members who have left: what a search reads through."""


def fill(folder: Path) -> None:
    """A database that has seen some years."""
    with sqlite3.connect(folder / "thanks.db") as connection:
        connection.execute(
            "CREATE TABLE thanks (id INTEGER PRIMARY KEY, giver INTEGER NOT NULL, receiver INTEGER NOT NULL,"
            " note TEXT NOT NULL)"
        )
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO thanks SELECT i, 0, 0, 'for thing ' || i FROM n",
            (HISTORY,),
        )
    connection.close()


class Oracle:
    """Reads the bot's database by a connection of its own, which nothing watches.

    Points and counts only grow. So an answer is stale if it shows less than what was committed before it was
    asked for. While nobody writes, it must be what the database says, to the letter.
    """

    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / "thanks.db")
        self.writes_begun = 0
        self.writes_ended = 0
        self.answers = 0
        self.exact = 0
        """Answers that were compared to the letter."""
        self.stale: list[str] = []

    def truth(self, user: int, command: str) -> str:
        """The answer that the database gives now."""
        name, _, word = command.partition(" ")
        run = self._connection.execute
        if name == "/find":
            [(found,)] = run("SELECT COUNT(*) FROM thanks WHERE note LIKE ?", (f"%{word}%",))
            return f"{found} thanks for {word}"
        if name == "/top":
            best = run("SELECT name, points FROM members ORDER BY points DESC, id LIMIT 12")
            return "\n".join(f"{name}: {points}" for name, points in best)
        [(name, points)] = run("SELECT name, points FROM members WHERE id = ?", (user,))
        notes = run("SELECT note FROM thanks WHERE receiver = ? ORDER BY id DESC LIMIT 3", (user,))
        return "\n".join([f"{name}: {points}", *(note for (note,) in notes)])

    async def ask(self, stage: Stage, user: int, command: str) -> None:
        """Let a user ask, and judge the answer."""
        begun, alone = self.writes_begun, self.writes_begun == self.writes_ended
        least = self.truth(user, command)
        answer = await stage.ask(user, command)
        self.answers += 1
        alone = alone and begun == self.writes_begun
        self.exact += alone
        if (answer != least) if alone else is_older(answer, least):
            self.stale.append(f"{command} of {user} is {answer!r}, and the database said {least!r} before")

    async def thank(self, stage: Stage, user: int, name: str, note: str) -> None:
        """Let a user write."""
        self.writes_begun += 1
        await stage.ask(user, f"/thank {name} {note}")
        self.writes_ended += 1

    def close(self) -> None:
        self._connection.close()


def is_older(answer: str, least: str) -> bool:
    """Whether a number of an answer, or a number of lines, is less than it was."""
    found, floor = ([int(number) for number in re.findall(r"(?<!\w)\d+", text)] for text in (answer, least))
    return len(found) < len(floor) or any(one < other for one, other in zip(found, floor, strict=False))


async def play() -> None:
    """Print what users do and what the bot answers. Raises RuntimeError if an answer is stale."""
    async with bot_on_stage("thanks_bot.py", prepare=fill) as stage:
        users = dict(enumerate(NAMES, 1))
        answers = await asyncio.gather(
            *(stage.ask(user, "/start", name=name) for user, name in users.items()),
            stage.ask(ADMIN, "/start"),
        )
        said(f"{len(users)} members", "/start", answers[0])
        oracle = Oracle(stage.folder)
        try:
            await everyone(stage, oracle, users)
            told("")
            told("Nobody writes any more.")
            for command in ("/me", "/top", *(f"/find {word}" for word in WORDS)):
                await asyncio.gather(*(oracle.ask(stage, user, command) for user in list(users)[:6]))
            said("The last of them", "/find review", stage.server.texts(1)[-1])
        finally:
            oracle.close()
        answer = await stage.ask(ADMIN, "/stats")
        said("The admin", "/stats", answer)
        told("")
        told(f"Answers compared with the database: {oracle.answers}, of them to the letter: {oracle.exact}.")
        told(f"Stale answers: {len(oracle.stale)}.")
        stage.sum_up(may_refuse=True)
        if oracle.stale:
            raise RuntimeError(oracle.stale[0])


async def everyone(stage: Stage, oracle: Oracle, users: dict[int, str]) -> None:
    """All members at once: each asks, and now and then thanks another one."""
    written = 0

    async def act(user: int, chance: random.Random) -> None:
        nonlocal written
        for _ in range(TURNS):
            await asyncio.sleep(chance.uniform(1.0, 1.4))  # people read
            what = chance.random()
            if what < 0.025:
                written += 1
                note = f"for {chance.choice(WORDS)} {written:04}"
                await oracle.thank(stage, user, chance.choice(NAMES), note)
            elif what < 0.4:
                await oracle.ask(stage, user, "/me")
            elif what < 0.75:
                await oracle.ask(stage, user, "/top")
            else:
                await oracle.ask(stage, user, f"/find {chance.choice(WORDS)}")

    await asyncio.gather(*(act(user, random.Random(user)) for user in users))
    told("")
    told(f"Each of them sends {TURNS} commands, all side by side.")
    told(f"{written} of {TURNS * len(users)} thank someone.")
