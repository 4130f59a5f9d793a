"""``python -m mirror_bot``: until Ctrl-C."""

import asyncio

from pyrogram import idle

from mirror_bot import settings
from mirror_bot.app import build, running


async def main() -> None:
    if not (settings.BOT_TOKEN and settings.API_ID and settings.API_HASH):
        raise SystemExit("BOT_TOKEN (of @BotFather), API_ID and API_HASH (of my.telegram.org) must be set")
    async with running(build()):
        await idle()  # type: ignore[no-untyped-call]


asyncio.run(main())
