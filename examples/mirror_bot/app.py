"""The client, its commands, and what runs beside them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from pyrogram import Client, filters
from pyrogram.handlers.message_handler import MessageHandler
from pyrogram.handlers.start_handler import StartHandler
from pyrogram.types import Message

from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import cached
from bot.core.enhanced_startup_phase4 import get_phase4_status
from bot.core.outbound import Outbound
from bot.integrations.pyrogram import install
from mirror_bot import settings
from mirror_bot.database import create_tables, query
from mirror_bot.feeds import Feeds, write_entries
from mirror_bot.mirror import Mirror


def build() -> Client:
    """The client, with Phase 4 and its commands; not started."""
    app = Client(
        "mirror_bot",
        api_id=int(settings.API_ID or 0),
        api_hash=settings.API_HASH,
        bot_token=settings.BOT_TOKEN,
    )
    install(app, config=settings.PHASE4, admins=settings.ADMINS)

    app.add_handler(StartHandler(prepare))
    app.add_handler(MessageHandler(start, filters.command("start")))
    app.add_handler(MessageHandler(subscribe, filters.command("subscribe")))
    app.add_handler(MessageHandler(top, filters.command("top")))
    admin = filters.user(list[int | str](settings.ADMINS))
    app.add_handler(MessageHandler(news, filters.command("news") & admin))
    app.add_handler(MessageHandler(stats, filters.command("stats") & admin))
    return app


async def prepare(client: Client) -> None:
    """After Phase 4's start, before the first update."""
    await create_tables()
    BatchProcessor.get_instance().process_handler = write_entries


@asynccontextmanager
async def running(app: Client) -> AsyncIterator[None]:
    """The started client, its mirror and its feeds."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        mirror, feeds = Mirror(app, session), Feeds(app, session)

        async def start_mirror(client: Client, message: Message) -> None:
            url = argument_of(message)
            if not url.startswith(("http://", "https://")):
                await message.reply("So: /mirror https://example.org/file.iso")
                return
            await mirror.start(chat_of(message), url)

        app.add_handler(MessageHandler(start_mirror, filters.command("mirror")))
        async with app:
            tasks = [asyncio.create_task(mirror.show_progress()), asyncio.create_task(feeds.watch())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await mirror.stop()


def argument_of(message: Message) -> str:
    return str(message.text).partition(" ")[2].strip()


def chat_of(message: Message) -> int:
    assert message.chat is not None
    assert message.chat.id is not None
    return message.chat.id


async def start(client: Client, message: Message) -> None:
    await query("INSERT OR IGNORE INTO chats VALUES (?)", chat_of(message))
    await message.reply("Send me /mirror LINK or /subscribe FEED")


async def subscribe(client: Client, message: Message) -> None:
    feed = argument_of(message)
    if not feed.startswith(("http://", "https://")):
        await message.reply("So: /subscribe https://example.org/feed.xml")
        return
    await query("INSERT OR IGNORE INTO subscriptions VALUES (?, ?)", feed, chat_of(message))
    await message.reply("You will hear of it.")


@cached(key_prefix="busiest", ttl=30)
async def busiest_chats() -> str:
    """Up to half a minute old: every file would change it."""
    rows = await query("SELECT COUNT(*), SUM(bytes) FROM files GROUP BY chat ORDER BY 2 DESC LIMIT 5")
    return "\n".join(f"{files} files, {size // 1_000_000} MB" for files, size in rows) or "No file yet."


async def top(client: Client, message: Message) -> None:
    await message.reply(await busiest_chats())


async def news(client: Client, message: Message) -> None:
    text = argument_of(message)
    if not text:
        await message.reply("So: /news There is a new version")
        return

    async def send(chat: Any) -> None:
        await client.send_message(chat, text)

    chats = [chat for (chat,) in await query("SELECT id FROM chats")]
    # Sent again, the same news go on where they stopped; no chat gets them twice.
    report = await Outbound.get_instance().broadcast(f"news: {text}", chats, send)
    for chat in await report.unreachable():
        await query("DELETE FROM chats WHERE id = ?", chat)
    await message.reply(f"{report.sent} of {report.done} have it")


async def stats(client: Client, message: Message) -> None:
    status = await get_phase4_status()
    cache, queries, sent = status["cache_manager"], status["query_optimizer"], status["outbound"]
    entries = status["batch_processor"]
    await message.reply(
        f"cache: {cache['hit_rate']:.0f} % hits, queries: {queries['hit_rate']:.0f} % hits\n"
        f"entries of feeds: {entries['total_items_processed']} in {entries['completed_batches']} batches\n"
        f"sent: {sent['sent']}, superseded edits: {sent['superseded']}, needless edits: {sent['unchanged']}, "
        f"refused by Telegram: {sent['refusals']}"
    )
