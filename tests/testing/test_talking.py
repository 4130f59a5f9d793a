"""``python -m bot.testing``: a conversation with a bot, typed line by line."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server

BOT = """
import asyncio, os
from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.types import InlineKeyboardButton as Button, InlineKeyboardMarkup

dispatcher = Dispatcher()
BUTTONS = [[Button(text="a", callback_data="a"), Button(text="site", url="https://example.org")],
           [Button(text="b", callback_data="b")]]

@dispatcher.message()
async def echo(message):
    await message.answer(f"{message.from_user.id}: {message.text}",
                         reply_markup=InlineKeyboardMarkup(inline_keyboard=BUTTONS))

@dispatcher.callback_query()
async def pressed(press):
    await press.message.edit_text(f"pressed {press.data}")

api = TelegramAPIServer.from_base(os.environ["TELEGRAM_API_URL"])
asyncio.run(dispatcher.start_polling(Bot(os.environ["BOT_TOKEN"], session=AiohttpSession(api=api))))
"""


class Talk:
    """The command with a bot, and lines to and from it."""

    def __init__(self, folder: Path, code: str, *options: str) -> None:
        (folder / "echo_bot.py").write_text(code)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bot.testing", *options, "echo_bot.py"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()


def test_messages_buttons_and_the_end_of_the_input(tmp_path):
    talk = Talk(tmp_path, BOT, "--user", "7")
    assert talk.ask("/press 1") == "/press: no message of the bot has buttons\n"
    assert talk.ask("Grüße 👋") == "7: Grüße 👋\n"
    assert talk.ask("/press 3") == "/press 3: expected a number from 1 to 2\n"
    assert talk.ask("/press 2") == "pressed b\n"
    rest, _ = talk.process.communicate(timeout=60)
    # getMe, the message and the edit.
    assert rest == "3 requests, 0 refused as too many\n"
    assert talk.process.returncode == 0


def test_a_bot_that_fails_ends_the_conversation_with_its_status(tmp_path):
    talk = Talk(tmp_path, "raise SystemExit(3)")
    assert talk.process.wait(timeout=60) == 3
    assert talk.process.communicate() == ("0 requests, 0 refused as too many\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["none.py"], "none.py: no such file"), (["--user", "0", __file__], "--user 0: expected a user's id")],
)
def test_arguments_that_are_wrong_are_named(arguments, said, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "bot.testing", *arguments], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2
    assert said in ran.stderr
