"""A bot that keeps count of who helped whom, with python-telegram-bot and aiosqlite.

BOT_TOKEN=123456:... ADMINS=42 python thanks_bot.py

Its database code is that of any bot: no decorator, and no query is handed to Phase 4. One line, in
``open_database``, lets the query optimizer see the connection.
"""

from typing import Any

import aiosqlite
from telegram import Message, Update, User
from telegram.ext import Application, CommandHandler, ContextTypes, filters

import config
from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.instruments import instrument
from bot.integrations import ptb

PHASE4: dict[str, Any] = {
    "ENABLE_OUTBOUND": True,
    "ENABLE_QUERY_OPTIMIZER": True,
    "QUERY_OPTIMIZER_DIALECT": "sqlite",
    "QUERY_OPTIMIZER_SLOW_QUERY_THRESHOLD": 0.01,
}

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS members (id INTEGER PRIMARY KEY, name TEXT NOT NULL, points INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS thanks (
    id INTEGER PRIMARY KEY, giver INTEGER NOT NULL, receiver INTEGER NOT NULL, note TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_receiver ON thanks (receiver);
"""

Bot = Application[Any, Any, Any, Any, Any, Any]
Context = ContextTypes.DEFAULT_TYPE


# The database.


async def open_database(application: Bot) -> None:
    connection = await aiosqlite.connect("thanks.db")
    await connection.executescript(SCHEMA)
    application.bot_data["db"] = instrument(connection, cache=True)


async def close_database(application: Bot) -> None:
    await application.bot_data["db"].close()


async def register(db: aiosqlite.Connection, user: User) -> None:
    """A new member is written; of a known one nothing is."""
    if not await db.execute_fetchall("SELECT 1 FROM members WHERE id = ?", (user.id,)):
        await db.execute("INSERT OR IGNORE INTO members VALUES (?, ?, 0)", (user.id, user.full_name))
        await db.commit()


async def points_of(db: aiosqlite.Connection, member: int) -> tuple[str, int]:
    [(name, points)] = await db.execute_fetchall("SELECT name, points FROM members WHERE id = ?", (member,))
    return name, points


async def thanks_to(db: aiosqlite.Connection, member: int) -> list[str]:
    """The notes of the last three."""
    rows = await db.execute_fetchall(
        "SELECT note FROM thanks WHERE receiver = ? ORDER BY id DESC LIMIT 3", (member,)
    )
    return [note for (note,) in rows]


async def write_thanks(db: aiosqlite.Connection, giver: int, receiver: int, note: str) -> None:
    await db.execute("INSERT INTO thanks (giver, receiver, note) VALUES (?, ?, ?)", (giver, receiver, note))
    await db.execute("UPDATE members SET points = points + 1 WHERE id = ?", (receiver,))
    await db.commit()


# Commands.


def message_of(update: Update) -> tuple[Message, User]:
    """A command's message and who sent it; handlers of commands get no update without them."""
    assert update.message is not None
    assert update.message.from_user is not None
    return update.message, update.message.from_user


async def start(update: Update, context: Context) -> None:
    message, user = message_of(update)
    await register(context.bot_data["db"], user)
    await message.reply_text("Send /thank NAME FOR WHAT, /me, /top or /find WORD")


async def thank(update: Update, context: Context) -> None:
    message, user = message_of(update)
    db, (name, *words) = context.bot_data["db"], context.args or [""]
    await register(db, user)
    found = list(await db.execute_fetchall("SELECT id FROM members WHERE name = ?", (name,)))
    if not found or not words:
        await message.reply_text("So: /thank Ann for the cake")
        return
    await write_thanks(db, user.id, found[0][0], " ".join(words)[:200])
    await message.reply_text(f"{name} is thanked.")


async def me(update: Update, context: Context) -> None:
    message, user = message_of(update)
    db = context.bot_data["db"]
    await register(db, user)
    name, points = await points_of(db, user.id)
    await message.reply_text("\n".join([f"{name}: {points}", *await thanks_to(db, user.id)]))


async def top(update: Update, context: Context) -> None:
    """One query for the list, and then one for each member of it: that is what the optimizer finds."""
    message, user = message_of(update)
    db = context.bot_data["db"]
    await register(db, user)
    best = await db.execute_fetchall("SELECT id FROM members ORDER BY points DESC, id LIMIT 12")
    lines = []
    for (member,) in best:
        name, points = await points_of(db, member)
        lines.append(f"{name}: {points}")
    await message.reply_text("\n".join(lines))


async def find(update: Update, context: Context) -> None:
    message, _ = message_of(update)
    word = " ".join(context.args or [])
    [(found,)] = await context.bot_data["db"].execute_fetchall(
        "SELECT COUNT(*) FROM thanks WHERE note LIKE ?", (f"%{word}%",)
    )
    await message.reply_text(f"{found} thanks for {word}")


async def stats(update: Update, context: Context) -> None:
    """What the optimizer has seen; the dashboard shows the same (PHASE4_DASHBOARD_PORT)."""
    message, _ = message_of(update)
    optimizer = QueryOptimizer.get_instance()
    figures = optimizer.snapshot()
    lines = [
        f"queries run: {figures.total_executions}, answered from the cache: {figures.cache_hits}",
        f"hit rate: {figures.cache_hit_rate_percent:.0f} %",
    ]
    lines += [
        f"N+1: {pattern.query}\n  {pattern.count} times at {', '.join(pattern.call_sites)}"
        for pattern in await optimizer.get_n_plus_one_patterns()
    ]
    for slow in await optimizer.get_slow_queries():
        known = await optimizer.describe_query(slow.fingerprint)
        sites = known.call_sites if known is not None else []
        lines.append(f"slow, up to {slow.max_time_ms:.0f} ms: {slow.query}\n  at {', '.join(sites)}")
    await message.reply_text("\n".join(lines)[:4096])


# The application.


def main() -> None:
    if not config.BOT_TOKEN:
        raise SystemExit("BOT_TOKEN is not set: it is what @BotFather gave you")
    builder = Application.builder().token(config.BOT_TOKEN).base_url(f"{config.TELEGRAM_API_URL}/bot")
    ptb.setup(builder, config=PHASE4, admins=config.ADMINS)
    application = builder.post_init(open_database).post_shutdown(close_database).build()
    application.add_handlers(
        [
            CommandHandler("start", start),
            CommandHandler("thank", thank),
            CommandHandler("me", me),
            CommandHandler("top", top),
            CommandHandler("find", find),
            CommandHandler("stats", stats, filters.User(config.ADMINS)),
        ]
    )
    application.run_polling()


if __name__ == "__main__":
    main()
