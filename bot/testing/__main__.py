"""Talk to a bot without Telegram: ``python -m bot.testing my_bot.py``.

The bot runs as a process of its own, with ``BOT_TOKEN`` and ``TELEGRAM_API_URL`` in its environment. Each
line that is typed is a message of one user; ``/press 2`` presses the second button of the bot's last message
with buttons. What the bot sends, and what it edits, is printed. The end of the input (Ctrl-D) stops the bot.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
from contextlib import suppress
from typing import Any

from bot.testing.telegram import TelegramServer

DESCRIPTION = "Talk to a bot without Telegram. Each line is a message; /press 2 presses the second button."

LOOKED_EACH = 0.05
"""Seconds between two looks at what the bot has sent."""

STOP_WITHIN = 30.0
"""Seconds that the bot has to stop; then it is killed."""


def read_lines(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str | None]) -> None:
    """Hand over standard input line by line, and None at its end. For a thread that is never joined."""
    with suppress(RuntimeError):  # the loop is closed: there is no reader any more
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line.rstrip("\n"))
        loop.call_soon_threadsafe(lines.put_nowait, None)


class Conversation:
    """One user's chat with the bot."""

    def __init__(self, server: TelegramServer, user: int) -> None:
        self._server = server
        self._user = user
        self._shown: dict[int, str] = {}

    def _of_bot(self) -> list[dict[str, Any]]:
        return [one for one in self._server.messages(self._user) if one.get("from", {}).get("is_bot")]

    def show(self) -> None:
        """Print what is new or was edited since the last time."""
        for message in self._of_bot():
            text = str(message.get("text", message.get("caption", "(no text)")))
            if self._shown.get(message["message_id"]) != text:
                self._shown[message["message_id"]] = text
                print(text, flush=True)

    def say(self, line: str) -> None:
        """Send a line, or press a button."""
        if not line.strip():
            return
        command, _, number = line.partition(" ")
        if command != "/press":
            self._server.send_message(user=self._user, text=line)
            return
        for message in reversed(self._of_bot()):
            rows = (message.get("reply_markup") or {}).get("inline_keyboard") or []
            buttons = [button for row in rows for button in row if "callback_data" in button]
            if buttons:
                if number.isdecimal() and 1 <= int(number) <= len(buttons):
                    self._server.press(self._user, message, buttons[int(number) - 1]["callback_data"])
                else:
                    print(f"/press {number}: expected a number from 1 to {len(buttons)}", flush=True)
                return
        print("/press: no message of the bot has buttons", flush=True)


async def talk(command: list[str], user: int) -> int:
    """Run the bot and the conversation: the bot's exit status, or 128 and the signal that has killed it."""
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    async with TelegramServer() as server:
        given = {"BOT_TOKEN": server.token, "TELEGRAM_API_URL": server.url}
        bot = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=asyncio.subprocess.DEVNULL, env={**os.environ, **given}
        )
        reader = threading.Thread(
            target=read_lines, args=(asyncio.get_running_loop(), lines), name="input", daemon=True
        )
        reader.start()
        conversation = Conversation(server, user)
        try:
            while bot.returncode is None:
                conversation.show()
                with suppress(TimeoutError):
                    line = await asyncio.wait_for(lines.get(), LOOKED_EACH)
                    if line is None:
                        break
                    conversation.say(line)
            status = await _stopped(bot)
            return status if status >= 0 else 128 - status
        finally:
            conversation.show()
            if bot.returncode is None:
                bot.kill()
                await bot.wait()
            asked = server.log.of(where=lambda call: call.method != "getUpdates")
            print(f"{len(asked)} requests, {len(server.log.refused())} refused as too many", flush=True)


async def _stopped(bot: asyncio.subprocess.Process) -> int:
    if bot.returncode is None:
        bot.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(bot.wait(), STOP_WITHIN)
    if bot.returncode is None:
        bot.kill()
    return await bot.wait()


def main() -> int:
    """The command line: the bot's exit status."""
    parser = argparse.ArgumentParser(prog="python -m bot.testing", description=DESCRIPTION)
    parser.add_argument("bot", help="the bot's script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    parser.add_argument("--user", type=int, default=42, help="the id of the user who writes (default: 42)")
    given = parser.parse_args()
    if not os.path.isfile(given.bot):
        parser.error(f"{given.bot}: no such file")
    if given.user < 1:
        parser.error(f"--user {given.user}: expected a user's id, 1 or more")
    try:
        return asyncio.run(talk([given.bot, *given.arguments], given.user))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
