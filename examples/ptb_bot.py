"""A bot that shows who writes most in a group, on a board that follows, with python-telegram-bot.

BOT_TOKEN=123456:... ADMINS=42 python ptb_bot.py

To see all messages of a group it must be an administrator there, or have its privacy mode off.
"""

from collections import Counter
from typing import Any

from telegram import Chat, Message, Update
from telegram.error import BadRequest
from telegram.ext import Application, CommandHandler, ContextTypes, MessageHandler, filters

import config
from bot.core.batch_processor import BatchItem, BatchProcessor
from bot.core.cache_manager import cached
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.enhanced_startup_phase4 import get_phase4_status
from bot.core.outbound import Outbound, Priority
from bot.core.query_optimizer import QueryOptimizer
from bot.integrations import ptb
from bot.integrations.ptb import RateLimitArgs

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS chats (id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS members (
    chat INTEGER, id INTEGER, name TEXT NOT NULL, messages INTEGER NOT NULL, PRIMARY KEY (chat, id)
);
CREATE TABLE IF NOT EXISTS boards (chat INTEGER PRIMARY KEY, message INTEGER NOT NULL);
"""

COUNT_MESSAGES = """
INSERT INTO members VALUES (?, ?, ?, ?)
ON CONFLICT (chat, id) DO UPDATE SET name = excluded.name, messages = messages + excluded.messages
"""

Bot = Application[Any, Any, Any, Any, Any, Any]
Context = ContextTypes.DEFAULT_TYPE


# The database.


async def query(text: str, *params: object) -> list[tuple[Any, ...]]:
    """Rows of a query, from the optimizer's cache until a write changes what they were read from."""

    async def run(text: str, params: tuple[object, ...]) -> list[tuple[Any, ...]]:
        async with ConnectionPoolManager.get_instance().connection("main") as connection:
            rows = await connection.execute_fetchall(text, params)
            await connection.commit()
            return list(rows)

    rows: list[tuple[Any, ...]] = await QueryOptimizer.get_instance().execute(text, params, run)
    return rows


async def write_many(text: str, rows: list[tuple[Any, ...]]) -> None:
    """One statement for many rows, in one transaction."""

    async def run(text: str, rows: list[tuple[Any, ...]]) -> None:
        async with ConnectionPoolManager.get_instance().connection("main") as connection:
            await connection.executemany(text, rows)
            await connection.commit()

    await QueryOptimizer.get_instance().execute(text, rows, run)


# Messages are counted in batches, and the boards follow.


def message_of(update: Update) -> tuple[Message, Chat]:
    """A command's message and its chat; handlers of commands get no update without them."""
    assert update.message is not None
    return update.message, update.message.chat


async def count(update: Update, context: Context) -> None:
    """A message in a group: nothing waits for its being written."""
    message, chat = message_of(update)
    if message.from_user is not None:
        await BatchProcessor.get_instance().submit_item(
            (chat.id, message.from_user.id, message.from_user.full_name)
        )


def counting(application: Bot) -> Any:
    """The batch processor's handler."""

    async def write(items: list[BatchItem]) -> list[None]:
        counted = Counter(item.data for item in items)
        await write_many(COUNT_MESSAGES, [(*member, messages) for member, messages in counted.items()])
        for chat in {chat for chat, _, _ in counted}:
            application.create_task(follow(application, chat))
        return [None] * len(items)

    return write


async def board_of(chat: int) -> str:
    rows = await query("SELECT name, messages FROM members WHERE chat = ? ORDER BY 2 DESC, 1 LIMIT 5", chat)
    lines = [f"{place}. {name}: {messages}" for place, (name, messages) in enumerate(rows, 1)]
    return "\n".join(["Who writes most", *lines])


async def follow(application: Bot, chat: int) -> None:
    """Show the counts of now on the chat's board. Of the edits that wait, only the last one is sent."""
    status = RateLimitArgs(Priority.STATUS)
    for (message,) in await query("SELECT message FROM boards WHERE chat = ?", chat):
        sent, now = None, await board_of(chat)
        while now != sent:  # once more if they have changed meanwhile
            sent = now
            try:
                await application.bot.edit_message_text(now, chat, message, rate_limit_args=status)
            except BadRequest as error:
                if "not modified" not in error.message:  # deleted, most likely
                    await query("DELETE FROM boards WHERE chat = ? AND message = ?", chat, message)
            now = await board_of(chat)


# Commands.


async def start(update: Update, context: Context) -> None:
    message, chat = message_of(update)
    await query("INSERT OR IGNORE INTO chats VALUES (?)", chat.id)
    await message.reply_text("Add me to a group, and send /board there.")


async def board(update: Update, context: Context) -> None:
    message, chat = message_of(update)
    await query("INSERT OR IGNORE INTO chats VALUES (?)", chat.id)
    shown = await message.reply_text(await board_of(chat.id))
    await query("INSERT OR REPLACE INTO boards VALUES (?, ?)", chat.id, shown.message_id)


@cached(key_prefix="groups", ttl=30)
async def groups_by_messages() -> str:
    """The busiest groups, up to half a minute old: every message would change it."""
    rows = await query("SELECT SUM(messages), COUNT(*) FROM members GROUP BY chat ORDER BY 1 DESC LIMIT 5")
    return "\n".join(f"{messages} messages of {members} members" for messages, members in rows) or "None yet."


async def groups(update: Update, context: Context) -> None:
    message, _ = message_of(update)
    await message.reply_text(await groups_by_messages())


async def announce(update: Update, context: Context) -> None:
    message, _ = message_of(update)
    text = " ".join(context.args or [])
    if not text:
        await message.reply_text("So: /announce There is a new version")
        return

    async def send(chat: int) -> None:
        await context.bot.send_message(chat, text)

    chats = [chat for (chat,) in await query("SELECT id FROM chats")]
    # Sent again, the same text goes on where it stopped; no chat gets it twice.
    report = await Outbound.get_instance().broadcast(f"announce: {text}", chats, send)
    for chat in await report.unreachable():
        await query("DELETE FROM chats WHERE id = ?", chat)
    await message.reply_text(f"{report.sent} of {report.done} have it")


async def stats(update: Update, context: Context) -> None:
    message, _ = message_of(update)
    status = await get_phase4_status()
    cache, queries, sent = status["cache_manager"], status["query_optimizer"], status["outbound"]
    counted, limits = status["batch_processor"], status["rate_limiter"]
    await message.reply_text(
        f"cache: {cache['hit_rate']:.0f} % hits, queries: {queries['hit_rate']:.0f} % hits\n"
        f"messages: {counted['total_items_processed']} in {counted['completed_batches']} transactions\n"
        f"sent: {sent['sent']}, superseded edits: {sent['superseded']}, needless edits: {sent['unchanged']}, "
        f"refused by Telegram: {sent['refusals']}\n"
        f"updates dropped as too many: {limits['total_blocked']}"
    )


# The application.


async def post_init(application: Bot) -> None:
    """After Phase 4's start, before the first update."""
    async with ConnectionPoolManager.get_instance().connection("main") as connection:
        await connection.executescript(SCHEMA)
    BatchProcessor.get_instance().process_handler = counting(application)


def in_private(update: Update) -> int | None:
    """Whom the rate limiter counts: who writes to the bot itself. In groups people write to each other."""
    private = update.effective_chat is None or update.effective_chat.type == Chat.PRIVATE
    return update.effective_user.id if private and update.effective_user is not None else None


def main() -> None:
    if not config.BOT_TOKEN:
        raise SystemExit("BOT_TOKEN is not set: it is what @BotFather gave you")
    builder = Application.builder().token(config.BOT_TOKEN).base_url(f"{config.TELEGRAM_API_URL}/bot")
    ptb.setup(builder, config=config.PHASE4, admins=config.ADMINS, per=in_private)
    application = builder.post_init(post_init).build()
    admin = filters.User(config.ADMINS)
    application.add_handlers(
        [
            CommandHandler("start", start),
            CommandHandler("board", board, filters.ChatType.GROUPS),
            CommandHandler("groups", groups),
            CommandHandler("announce", announce, admin),
            CommandHandler("stats", stats, admin),
            MessageHandler(filters.ChatType.GROUPS & filters.UpdateType.MESSAGE & ~filters.COMMAND, count),
        ]
    )
    application.run_polling()


if __name__ == "__main__":
    main()
