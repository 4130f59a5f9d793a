"""A stage for a bot of the Bot API: the test server, the bot as a process of its own, and users."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bot.testing.telegram import ServerLimits, TelegramServer

EXAMPLES = Path(__file__).resolve().parents[1]

ADMIN = 42
PATIENCE = 150.0
"""Seconds: on a slow machine a group's messages of a minute are used up before the last edit."""


class Stage:
    """The server, and what users do there; each step is printed with the bot's answer."""

    def __init__(self, server: TelegramServer, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.server = server
        self.folder = folder
        """Where the bot runs."""
        self._process = process

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition is true. Raises RuntimeError if the bot has ended, TimeoutError."""
        await self.server.until(lambda: condition() or self._process.returncode is not None, PATIENCE)
        if self._process.returncode is not None:
            raise RuntimeError(f"the bot has ended with status {self._process.returncode}")

    async def ask(self, user: int, text: str, *, chat: int | None = None, name: str | None = None) -> str:
        """A user writes; the bot's next message in that chat. ``name``: the user's name."""
        chat = user if chat is None else chat
        before = len(self.server.texts(chat))
        author = user if name is None else {"id": user, "first_name": name}
        self.server.send_message(user=author, chat=chat, text=text)
        await self.until(lambda: len(self.server.texts(chat)) > before)
        return self.server.texts(chat)[before]

    def message(self, chat: int) -> dict[str, Any]:
        """The bot's latest message in a chat, as shown now."""
        return [one for one in self.server.messages(chat) if one.get("from", {}).get("is_bot")][-1]

    def sum_up(self, *, may_refuse: bool = False) -> None:
        """Print what the server saw. Raises RuntimeError if it has refused anything and may not.

        Users who write side by side on a busy machine may use up the bot's 30 messages of a second at once.
        """
        log = self.server.log
        asked = log.of(where=lambda call: call.method != "getUpdates")
        told("")
        told(f"The server saw {len(asked)} requests. It refused {len(log.refused())} of them as too many.")
        if log.refused() and not may_refuse:
            raise RuntimeError("the bot has run into Telegram's limits")


@asynccontextmanager
async def bot_on_stage(
    script: str, *, minute: float = 60.0, prepare: Callable[[Path], None] | None = None
) -> AsyncIterator[Stage]:
    """A bot of this folder against a new server, in a folder that is deleted afterwards.

    ``minute``: seconds in which a group may get 20 messages; Telegram's minute is long to watch.
    ``prepare`` puts into the folder what the bot finds there.

    The bot knows of the server what it would know of Telegram: a token and an address. Raises RuntimeError if
    it does not end well when it is told to stop.
    """
    async with TelegramServer(limits=ServerLimits(group=(20, minute))) as server:
        with tempfile.TemporaryDirectory() as folder:
            if prepare is not None:
                prepare(Path(folder))
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(EXAMPLES / script),
                cwd=folder,
                env={
                    **os.environ,
                    "BOT_TOKEN": server.token,
                    "ADMINS": str(ADMIN),
                    "TELEGRAM_API_URL": server.url,
                    "OUTBOUND_GROUP_WINDOW": str(minute),
                },
            )
            told(f"{script} runs against {server.url}, which has Telegram's limits.")
            if minute != 60.0:
                told(f"A minute of these limits has {minute:g} s here, so that you need not wait for long.")
            try:
                yield Stage(server, process, Path(folder))
                process.terminate()
                status = await asyncio.wait_for(process.wait(), PATIENCE)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            if status != 0:
                raise RuntimeError(f"the bot has ended with status {status}")
            told("The bot was told to stop, and ended well.")


def told(line: str) -> None:
    """Print a line at once."""
    print(line.rstrip(), flush=True)


def said(who: str, what: str, answer: str) -> None:
    """Print what users did, and what they got."""
    told("")
    told(f"{who}: {what}" if what else who)
    for line in answer.splitlines():
        told(f"    {line}")
