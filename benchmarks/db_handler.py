"""What instruments save a mirror bot whose ``db_handler`` module talks to MongoDB by AsyncMongoClient.

The calls are those of mirror-leech-telegram-bot's ``DbManager`` and of its relatives: who has written in
private, access tokens, unfinished tasks, settings of users, RSS. The server is nx-27017, a stand-in that
speaks MongoDB's protocol on this machine, unless PHASE4_BENCH_MONGODB_URL names another. It takes no dot in
the name of a collection, so where those modules have ``pm_users.<id of the bot>``, this has ``pm_users``.
Commands are counted by a listener of PyMongo's, so they are what the server was asked. It prints the tables
of docs/integrations/mongodb.md.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandListener

from benchmarks.harness import main, verdict
from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.instruments import instrument

USERS = 200
COMMANDS = 1_000
"""Of users to the bot, each with the calls that the bot makes for it."""
REPEATS = 2

AS_IT_IS, WATCHED, ANSWERED = "as it is", "instrument(client)", "instrument(client, cache=True)"


class Counting(CommandListener):
    """Counts what the server is asked."""

    def __init__(self) -> None:
        self.commands: Counter[str] = Counter()

    def started(self, event: Any) -> None:
        self.commands[event.command_name] += 1

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass


class Handler:
    """The calls of a db_handler, as such modules make them."""

    def __init__(self, client: Any) -> None:
        self.db = client.h_mirror

    async def update_pm_users(self, user: int) -> bool:
        known = await self.db.pm_users.find_one({"_id": user})
        if not known:
            await self.db.pm_users.insert_one({"_id": user})
        return bool(known)

    async def get_pm_uids(self) -> list[int]:
        return [found["_id"] async for found in self.db.pm_users.find({})]

    async def get_token_expiry(self, user: int) -> Any:
        found = await self.db.access_token.find_one({"_id": user})
        return found and found.get("TIME")

    async def get_user_token(self, user: int) -> Any:
        found = await self.db.access_token.find_one({"_id": user})
        return found and found.get("TOKEN")

    async def update_user_tdata(self, user: int, token: str, at: int) -> None:
        values = {"$set": {"TOKEN": token, "TIME": at}}
        await self.db.access_token.update_one({"_id": user}, values, upsert=True)

    async def add_incomplete_task(self, chat: int, link: str, tag: str) -> None:
        await self.db.tasks.insert_one({"_id": link, "cid": chat, "tag": tag})

    async def rm_complete_task(self, link: str) -> None:
        await self.db.tasks.delete_one({"_id": link})

    async def update_user_data(self, user: int, settings: dict[str, Any]) -> None:
        await self.db.users.replace_one({"_id": user}, settings, upsert=True)

    async def rss_update(self, user: int, feeds: dict[str, Any]) -> None:
        await self.db.rss.replace_one({"_id": user}, feeds, upsert=True)

    async def check_download(self, link: str) -> Any:
        return await self.db.download_links.find_one({"_id": link})


Note = Callable[[str, Awaitable[Any]], Awaitable[Any]]


async def replay(handler: Handler, seed: int, note: Note) -> list[Any]:
    """What users make a bot ask of its database; some users write far more often than others."""
    chance = random.Random(seed)
    answers: list[Any] = []
    for number in range(COMMANDS):
        user = min(int(chance.paretovariate(0.8)), USERS)
        link = f"https://example.org/{chance.randrange(300)}"
        answers.append(await note("pm users: known?", handler.update_pm_users(user)))
        answers.append(await note("token: expiry", handler.get_token_expiry(user)))
        answers.append(await note("token: value", handler.get_user_token(user)))
        if number % 4 == 0:
            answers.append(await note("links: mirrored before?", handler.check_download(link)))
            await note("tasks: begun and done", handler.add_incomplete_task(user, f"{link}#{number}", "@x"))
            await note("tasks: begun and done", handler.rm_complete_task(f"{link}#{number}"))
        if number % 25 == 0:
            await note("token: renewed", handler.update_user_tdata(user, f"t{number}", number))
            await note(
                "settings of a user", handler.update_user_data(user, {"AS_DOCUMENT": True, "n": number})
            )
        if number % 10 == 0:
            await note("rss", handler.rss_update(user, {"feed": {"last_feed": link, "paused": False}}))
        if number % 500 == 499:
            answers.append(await note("pm users: all, for a broadcast", handler.get_pm_uids()))
    return answers


class Run:
    """A way to open the client, and what its replay cost."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.commands: Counter[str] = Counter()
        """For each kind of call."""
        self.calls: Counter[str] = Counter()
        self.answers: list[Any] = []

    async def once(self, url: str, how: str) -> None:
        counting = Counting()
        self.commands.clear()
        self.calls.clear()
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url, event_listeners=[counting])
        async with client:
            await client.drop_database("h_mirror")
            if how != AS_IT_IS:
                instrument(client, cache=how == ANSWERED)

            async def note(kind: str, call: Awaitable[Any]) -> Any:
                before = counting.commands.total()
                result = await call
                self.calls[kind] += 1
                self.commands[kind] += counting.commands.total() - before
                return result

            start = time.perf_counter()
            self.answers = await replay(Handler(client), 1, note)
            self.seconds.append(time.perf_counter() - start)
            await client.drop_database("h_mirror")


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The MongoDB that is named, else the stand-in."""
    if url := os.environ.get("PHASE4_BENCH_MONGODB_URL"):
        yield url
        return
    from tests.support.servers import MongoServer, running

    with running(MongoServer()) as started:
        assert isinstance(started, MongoServer)
        yield started.url


async def bench() -> None:
    optimizer = QueryOptimizer.get_instance()
    await optimizer.enable(detect_n_plus_one=False)  # one task replays all users
    runs = {how: Run() for how in (AS_IT_IS, WATCHED, ANSWERED)}
    with server() as url:
        for _ in range(REPEATS):
            for how, run in runs.items():
                await run.once(url, how)
                await optimizer.clear_cache()
    await optimizer.disable()
    report(runs)


def report(runs: dict[str, Run]) -> None:
    plain, answered = runs[AS_IT_IS], runs[ANSWERED]
    print(f"### {COMMANDS:,} commands of {USERS} users\n")
    print("| calls | number | server commands | with `cache=True` |\n|---|---:|---:|---:|")
    for kind, number in plain.calls.items():
        print(f"| {kind} | {number:,} | {plain.commands[kind]:,} | {answered.commands[kind]:,} |")
    total, left = plain.commands.total(), answered.commands.total()
    print(f"| **all** | **{plain.calls.total():,}** | **{total:,}** | **{left:,}** |\n")
    print("| | seconds | of that for each command of a user |\n|---|---:|---:|")
    for how, run in runs.items():
        best = min(run.seconds)
        print(f"| {how} | {best:.2f} | {best / COMMANDS * 1e3:.2f} ms |")
    print()
    different = sum(one != other for one, other in zip(plain.answers, answered.answers, strict=True))
    print(verdict("answers that differ", different, 0))
    print(verdict("share of server commands that is left, percent", left / total * 100, 50))


if __name__ == "__main__":
    main(bench)
