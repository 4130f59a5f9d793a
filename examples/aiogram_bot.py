"""A bot for polls whose counts change as people vote, with aiogram.

BOT_TOKEN=123456:... ADMINS=42 python aiogram_bot.py
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiogram import Bot, Dispatcher, F
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import TelegramBadRequest
from aiogram.filters import Command, CommandObject, CommandStart
from aiogram.types import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup, Message, TelegramObject

import config
from bot.core.batch_processor import BatchItem, BatchProcessor
from bot.core.cache_manager import cached
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.enhanced_startup_phase4 import get_phase4_status
from bot.core.outbound import Outbound
from bot.core.query_optimizer import QueryOptimizer
from bot.integrations import aiogram as phase4

dispatcher = Dispatcher()


@dispatcher.message(CommandStart())
async def start(message: Message) -> None:
    await message.answer("I make polls. Send me: /poll Where to eat? Pizza, Pasta, Salad")


# Flood control, limits on users, start and stop of all services: they stay out of the handlers.
phase4.setup(dispatcher, config=config.PHASE4, admins=config.ADMINS)

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS polls (id INTEGER PRIMARY KEY, question TEXT NOT NULL, choices TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS votes (poll INTEGER, user INTEGER, choice INTEGER, PRIMARY KEY (poll, user));
"""


@dispatcher.startup()
async def create_tables() -> None:
    async with ConnectionPoolManager.get_instance().connection("main") as connection:
        await connection.executescript(SCHEMA)


async def query(text: str, *params: object) -> list[tuple[Any, ...]]:
    """Rows of a query, from the optimizer's cache until a write changes what they were read from."""

    async def run(text: str, params: tuple[object, ...]) -> list[tuple[Any, ...]]:
        async with ConnectionPoolManager.get_instance().connection("main") as connection:
            rows = await connection.execute_fetchall(text, params)
            await connection.commit()
            return list(rows)

    rows: list[tuple[Any, ...]] = await QueryOptimizer.get_instance().execute(text, params, run)
    return rows


async def remember_user(
    handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
    message: TelegramObject,
    data: dict[str, Any],
) -> Any:
    if isinstance(message, Message) and message.chat.type == "private":
        user = message.chat.id
        if not await query("SELECT 1 FROM users WHERE id = ?", user):
            await query("INSERT OR IGNORE INTO users VALUES (?)", user)
    return await handler(message, data)


dispatcher.message.outer_middleware(remember_user)


async def shown(poll: int) -> tuple[str, InlineKeyboardMarkup]:
    """A poll's text with the counts of now, and its buttons."""
    [(question, choices)] = await query("SELECT question, choices FROM polls WHERE id = ?", poll)
    counted = dict(await query("SELECT choice, COUNT(*) FROM votes WHERE poll = ? GROUP BY choice", poll))
    lines, buttons = [question, ""], []
    for number, choice in enumerate(choices.split("\n")):
        lines.append(f"{counted.get(number, 0)}  {choice}")
        buttons.append([InlineKeyboardButton(text=choice, callback_data=f"vote:{poll}:{number}")])
    return "\n".join(lines), InlineKeyboardMarkup(inline_keyboard=buttons)


@dispatcher.message(Command("poll"))
async def make_poll(message: Message, command: CommandObject) -> None:
    question, _, rest = (command.args or "").partition("?")
    choices = [" ".join(choice.split())[:60] for choice in rest.split(",") if choice.strip()]
    if not question.strip() or not 2 <= len(choices) <= 10:
        await message.answer("So: /poll Where to eat? Pizza, Pasta, Salad (2 to 10 choices)")
        return
    [(poll,)] = await query(
        "INSERT INTO polls (question, choices) VALUES (?, ?) RETURNING id",
        question.strip()[:200] + "?",
        "\n".join(choices),
    )
    text, buttons = await shown(poll)
    await message.answer(text, reply_markup=buttons)


@dispatcher.message(Command("find"))
async def find(message: Message, command: CommandObject) -> None:
    word = (command.args or "").strip()
    found = await query(
        "SELECT question FROM polls WHERE instr(lower(question), lower(?)) > 0 ORDER BY id DESC LIMIT 9", word
    )
    await message.answer("\n".join(question for (question,) in found) or "No such poll.")


async def write_votes(items: list[BatchItem]) -> list[None]:
    """All votes of a moment in one transaction. A vote that comes twice is the same vote."""

    async def run(text: str, votes: list[tuple[int, int, int]]) -> None:
        async with ConnectionPoolManager.get_instance().connection("main") as connection:
            await connection.executemany(text, votes)
            await connection.commit()

    votes = [item.data for item in items]
    await QueryOptimizer.get_instance().execute("INSERT OR REPLACE INTO votes VALUES (?, ?, ?)", votes, run)
    return [None] * len(items)


@dispatcher.startup()
async def take_votes() -> None:
    BatchProcessor.get_instance().process_handler = write_votes


@dispatcher.callback_query(F.data.regexp(r"^vote:\d{1,9}:\d$"))
async def vote(press: CallbackQuery) -> None:
    poll, choice = (int(number) for number in (press.data or "").split(":")[1:])
    if not await query("SELECT 1 FROM polls WHERE id = ?", poll):
        await press.answer("That poll is gone")
        return
    await BatchProcessor.get_instance().submit_and_wait((poll, press.from_user.id, choice))
    await press.answer("Counted")
    if isinstance(press.message, Message):
        await follow(press.message, poll)


async def follow(message: Message, poll: int) -> None:
    """Show the counts of now. However many vote: of the edits that wait, only the last one is sent."""
    sent, now = None, await shown(poll)
    while now != sent:  # once more if they have changed meanwhile
        text, buttons = sent = now
        with suppress(TelegramBadRequest):  # deleted, or not modified since before a restart
            await message.edit_text(text, reply_markup=buttons)
        now = await shown(poll)


@cached(key_prefix="top", ttl=30)
async def top_polls() -> str:
    """The ten polls with the most votes, up to half a minute old: every vote would change it."""
    rows = await query(
        "SELECT question, COUNT(*) FROM votes JOIN polls ON polls.id = poll "
        "GROUP BY poll, question ORDER BY 2 DESC LIMIT 10"
    )
    return "\n".join(f"{votes}  {question}" for question, votes in rows) or "Nobody has voted yet."


@dispatcher.message(Command("top"))
async def top(message: Message) -> None:
    await message.answer(await top_polls())


@dispatcher.message(Command("news"), F.from_user.id.in_(config.ADMINS))
async def news(message: Message, command: CommandObject, bot: Bot) -> None:
    text = (command.args or "").strip()
    if not text:
        await message.answer("So: /news There is a new version")
        return

    async def send(user: int) -> None:
        await bot.send_message(user, text)

    users = [user for (user,) in await query("SELECT id FROM users")]
    # Sent again, the same news go on where they stopped; nobody gets them twice.
    report = await Outbound.get_instance().broadcast(f"news: {text}", users, send)
    for user in await report.unreachable():
        await query("DELETE FROM users WHERE id = ?", user)
    await message.answer(f"{report.sent} of {report.done} have it")


@dispatcher.message(Command("stats"), F.from_user.id.in_(config.ADMINS))
async def stats(message: Message) -> None:
    status = await get_phase4_status()
    cache, queries, sent = status["cache_manager"], status["query_optimizer"], status["outbound"]
    votes, limits = status["batch_processor"], status["rate_limiter"]
    await message.answer(
        f"cache: {cache['hit_rate']:.0f} % hits, queries: {queries['hit_rate']:.0f} % hits\n"
        f"votes: {votes['total_items_processed']} in {votes['completed_batches']} transactions\n"
        f"sent: {sent['sent']}, superseded edits: {sent['superseded']}, needless edits: {sent['unchanged']}, "
        f"refused by Telegram: {sent['refusals']}\n"
        f"updates dropped as too many: {limits['total_blocked']}"
    )


async def main() -> None:
    if not config.BOT_TOKEN:
        raise SystemExit("BOT_TOKEN is not set: it is what @BotFather gave you")
    api = TelegramAPIServer.from_base(config.TELEGRAM_API_URL)
    bot = Bot(config.BOT_TOKEN, session=AiohttpSession(api=api))
    await dispatcher.start_polling(bot)


if __name__ == "__main__":
    asyncio.run(main())
