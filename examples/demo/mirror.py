"""Users of mirror_bot. Its client is a real one; only its connection to Telegram is answered here."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator

from aiohttp import web

from bot.core.outbound import Outbound
from bot.testing.mtproto import MTProtoServer
from demo.stage import ADMIN, PATIENCE, said, told

os.environ |= {"ADMINS": str(ADMIN), "FEED_SECONDS": "2"}  # before the bot reads them

from mirror_bot.app import build, running

GROUPS = [-1_001_000_000_000 - number for number in range(6)]
HELD = GROUPS[0]
FILE_BYTES = 4 * 1024 * 1024
entries: list[str] = []
"""Of the feed; none at first."""


async def file(request: web.Request) -> web.StreamResponse:
    """A file that takes some seconds."""
    answer = web.StreamResponse(headers={"Content-Length": str(FILE_BYTES)})
    await answer.prepare(request)
    async for piece in slowly():
        await answer.write(piece)
    return answer


async def slowly() -> AsyncIterator[bytes]:
    for _ in range(16):
        yield bytes(FILE_BYTES // 16)
        await asyncio.sleep(0.25)


async def feed(request: web.Request) -> web.Response:
    """What was published so far."""
    return web.Response(
        text=f"<rss><channel>{''.join(entries)}</channel></rss>", content_type="application/rss+xml"
    )


async def play() -> None:
    """Print what users do and what the bot answers.

    Raises RuntimeError if the server refuses more than it is told to.
    """
    site = web.Application()
    site.router.add_get("/feed.xml", feed)
    site.router.add_get("/{name}", file)
    runner = web.AppRunner(site, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    came_from = os.getcwd()
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # the bot's database is made where it runs
            await scenes(url)
    finally:
        os.chdir(came_from)
        await runner.cleanup()


async def scenes(url: str) -> None:
    server = MTProtoServer(latency=0.02)
    app = build()
    server.attach(app)
    told("mirror_bot runs with kurigram. The test server answers its client, and has Telegram's limits.")
    async with running(app):

        async def ask(user: int, text: str) -> str:
            sent = len(server.requests("SendMessage", chat=user))
            await server.message(app, text, user=user)
            await server.until(lambda: len(server.requests("SendMessage", chat=user)) > sent, PATIENCE)
            return str(server.requests("SendMessage", chat=user)[sent].text)

        said("Ann", "/start", await ask(1, "/start"))
        await ask(ADMIN, "/start")

        for number, group in enumerate(GROUPS):
            await server.message(app, f"/mirror {url}/film{number}.mkv", user=1 + number, chat=group)
        server.refuse("EditMessage", 4, chat=HELD)
        server.refuse("SendMedia", 3, chat=GROUPS[1])
        said("Six groups", "/mirror LINK", "each gets a status message, which is edited each second")
        told("Telegram refuses an edit in group 1 for 4 s, and group 2's file, once it is uploaded, for 3 s.")
        await server.until(
            lambda: all(shown(server, group) == "All files are here." for group in GROUPS), PATIENCE
        )
        for number, group in enumerate(GROUPS, 1):
            edits = server.requests("EditMessage", chat=group)
            texts = [str(edit.text) for edit in edits if edit.outcome == "ok"]
            steps = " > ".join(text.partition(": ")[2] or text for text in texts)
            said(f"Group {number}", f"{len(texts)} edits", steps)
        parts = server.requests("SaveFilePart") + server.requests("SaveBigFilePart")
        told(
            f"    (parts of files sent: {len(parts)}, of them twice: {len(parts) - 6 * FILE_BYTES // 524288})"
        )

        for user in (11, 12, 13):
            await ask(user, f"/subscribe {url}/feed.xml")
        entries.extend(
            f"<item><title>Release {number}</title><link>https://example.org/{number}</link></item>"
            for number in range(40)
        )
        await server.until(
            lambda: all(len(server.requests("SendMessage", chat=user)) == 2 for user in (11, 12, 13)),
            PATIENCE,
        )
        news = str(server.requests("SendMessage", chat=13)[-1].text)
        said(
            "Three users",
            "/subscribe FEED, which then publishes 40 entries",
            "\n".join([*news.splitlines()[:3], "..."]),
        )

        for user in range(21, 31):
            answer = await ask(user, "/top")
        said("10 users", "/top", answer)

        server.fail("SendMessage", 400, "USER_IS_BLOCKED", chat=1)
        await server.message(app, "/news Feeds are here", user=ADMIN)
        await server.until(
            lambda: "have it" in str(server.requests("SendMessage", chat=ADMIN)[-1].text), PATIENCE
        )
        said("The admin, to 2 chats; Ann has blocked the bot", "/news Feeds are here",
             str(server.requests("SendMessage", chat=ADMIN)[-1].text))  # fmt: skip
        said("The admin", "/stats", await ask(ADMIN, "/stats"))
        superseded = Outbound.get_instance().statistics()["superseded"]
    refused = [one for one in server.log if str(one.outcome).startswith("FLOOD")]
    early = [one for one in server.log if one.in_penalty]
    told("")
    told(f"The server saw {len(server.log)} requests. It was told to refuse 2, and refused {len(refused)}.")
    told(f"Requests that came before a wait was over: {len(early)}. Superseded edits: {superseded}.")
    told("The bot was told to stop, and ended well.")
    if len(refused) != 2 or early:
        raise RuntimeError("the bot has run into Telegram's limits")


def shown(server: MTProtoServer, group: int) -> str | None:
    """The group's status message: its second one, after the command."""
    return server.shown(group, 2)
