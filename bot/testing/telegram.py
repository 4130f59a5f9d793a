"""A Bot API server for tests: the limits of Telegram's, over HTTP, in the test's own process.

    async with TelegramServer() as server:
        bot = Bot(server.token, session=AiohttpSession(api=TelegramAPIServer.from_base(server.url)))

aiohttp is imported when this module is: install the extra ``service``. See docs/testing.md.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import ClientSession, ClientTimeout, web

from bot.core._shared.clock import Clock
from bot.core._shared.errors import MisuseError, invalid
from bot.testing.fast_loop import RunningLoopClock
from bot.testing.telegram_bots import BotAccount
from bot.testing.telegram_limits import ServerLimits
from bot.testing.telegram_log import Call, Log
from bot.testing.telegram_requests import DESCRIPTIONS, Fault, Requests
from bot.testing.telegram_text import commands_in
from bot.testing.telegram_world import Json, World

__all__ = ["Call", "Log", "ServerLimits", "TelegramServer"]

Chat = int | Mapping[str, Any]
"""A chat's id, or its fields with ``id`` among them; it is made on first use. The same for a user."""

NEVER_IDLE = 1e6
"""Seconds for which an idle connection is kept: a bot's own time limits are the ones under test."""


LOOKED_EACH = 0.05
"""Seconds after which ``until`` looks at its condition though no request has come."""


class TelegramServer:
    """See the module. One world of users, chats and messages, and one or more bots in it.

    For use on one event loop. Bots share no limits: Telegram's are each token's own.
    """

    def __init__(
        self,
        *,
        limits: ServerLimits | None = None,
        token: str = "100000001:a-token-of-the-test-server",  # noqa: S107  # opens nothing but this
        clock: Clock | None = None,
        create_chats: bool = True,
        log_size: int = 100_000,
        port: int = 0,
    ) -> None:
        """``limits``: None are those of Telegram, as far as they are known. ``token``: of the first bot.

        ``clock``: where the server's time comes from, by default the event loop. ``create_chats``: whether
        a chat exists as soon as a request uses its id; else ``add_chat`` does it, and others are
        "chat not found". ``log_size``: calls that are remembered. ``port``: 0 takes a free one.
        Raises ValueError for a token that is none.
        """
        self.url = ""
        """The server's address, such as ``http://127.0.0.1:12345``."""
        self._limits = limits or ServerLimits()
        self._token = token
        self._port = port
        self._ids = itertools.count(1)
        self._runner: web.AppRunner | None = None
        self._clock: Clock = clock or RunningLoopClock()
        self._requests = Requests(Log(log_size), World(self._clock, create_chats=create_chats), self._clock)
        _check_token(token)
        self.add_bot(token)

    # Lifecycle.

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen on 127.0.0.1. Raises MisuseError if it does already, OSError for a port that is taken."""
        if self._runner is not None:
            raise MisuseError("the test server runs already")
        app = web.Application()
        app.router.add_route("*", "/bot{token}/{method}", self._requests.answer)
        app.router.add_get("/file/bot{token}/{path:.+}", self._requests.download)
        runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=NEVER_IDLE,
            handler_cancellation=True,
            shutdown_timeout=0.1,
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port)
        try:
            await site.start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self._requests.client = ClientSession(timeout=ClientTimeout(total=60))
        self._port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """Close all connections; what was seen stays. Started again, it has the same port and world."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for bot in self._requests.bots.values():
            await bot.stop()
        client, self._requests.client = self._requests.client, None
        if client is not None:
            await client.close()
        await runner.cleanup()

    @property
    def token(self) -> str:
        """The first bot's token."""
        return self._token

    @property
    def base_url(self) -> str:
        """What python-telegram-bot calls ``base_url``."""
        return f"{self.url}/bot"

    @property
    def base_file_url(self) -> str:
        """What python-telegram-bot calls ``base_file_url``."""
        return f"{self.url}/file/bot"

    @property
    def world(self) -> World:
        """Users, chats, messages and files."""
        return self._requests.world

    @property
    def log(self) -> Log:
        """The calls that came in."""
        return self._requests.log

    @property
    def results(self) -> dict[str, Any]:
        """Answers of the test's own, by a method's name, also of methods that the server does not know."""
        return self._requests.results

    @property
    def delay(self) -> float | Callable[[str], float]:
        """Seconds between a request's arrival, when it is done, and its answer; or what gives them for
        a method's name."""
        return self._requests.delay

    @delay.setter
    def delay(self, delay: float | Callable[[str], float]) -> None:
        self._requests.delay = delay

    # Bots, users and chats.

    def add_bot(
        self, token: str | None = None, *, username: str | None = None, limits: ServerLimits | None = None
    ) -> BotAccount:
        """Another bot, with limits of its own: its ``token``, ``id`` and ``user``."""
        world = self.world
        token = token if token is not None else f"{200_000_000 + next(self._ids)}:a-token-of-the-test-server"
        number = _check_token(token)
        if token in self._requests.bots or any(bot.id == number for bot in self._requests.bots.values()):
            raise invalid("token", token[: len(str(number))], "a bot's id that is not taken yet")
        user = {
            "id": number,
            "is_bot": True,
            "first_name": "Test bot",
            "username": username or f"test{number}_bot",
        }
        bot = BotAccount(token, user, limits or self._limits, self._clock)
        self._requests.bots[token] = bot
        world.users[number] = user
        return bot

    def bot(self, token: str | None = None) -> BotAccount:
        """The bot of a token, by default the first one. Raises KeyError for an unknown token."""
        return self._requests.bots[token or self._token]

    def add_user(self, user: Chat) -> Json:
        """A user, with fields such as first_name and username."""
        return self.world.user(user)

    def add_chat(self, chat: Chat, *, administrators: tuple[int, ...] = ()) -> Json:
        """A chat, with fields such as type, title and username, and the ids of its administrators."""
        known = self.world.chat(chat)
        if administrators:
            self.world.administrators[known["id"]] = set(administrators)
            for user in administrators:
                self.world.user(user)
        return known

    def block(self, chat: int) -> None:
        """The user has blocked the bots, or the group has removed them: 403."""
        self.world.blocked.add(chat)

    def unblock(self, chat: int) -> None:
        """Takes ``block``, ``deactivate`` and ``remove_chat`` back."""
        for kept in (self.world.blocked, self.world.deactivated, self.world.missing):
            kept.discard(chat)

    def deactivate(self, user: int) -> None:
        """The user's account is gone: 403."""
        self.world.deactivated.add(user)

    def remove_chat(self, chat: int) -> None:
        """There is no such chat: 400 "chat not found"."""
        self.world.missing.add(chat)

    def migrate(self, group: int, supergroup: int) -> None:
        """The group has become a supergroup: 400 with its new id in ``migrate_to_chat_id``."""
        world = self.world
        fields = {**world.chat(group), "id": supergroup, "type": "supergroup"}
        world.chat(fields)
        world.migrated[group] = supergroup

    def penalize(self, chat: int | None, seconds: float, *, token: str | None = None) -> None:
        """Refuse messages to a chat, or to all if it is None, for ``seconds``."""
        self.bot(token).limits.penalize(chat, seconds, self._clock.monotonic())

    def fail(
        self,
        method: str | None = None,
        *,
        chat: int | None = None,
        code: int = 500,
        description: str = "",
        retry_after: int = 0,
        performed: bool = False,
        times: int = 1,
    ) -> None:
        """Answer the next ``times`` requests with an error, of any method and chat unless they are given.

        ``code``: the HTTP status; 0 closes the connection without an answer. ``retry_after``: seconds, as a
        429 has them. ``performed``: the request is done nevertheless, and only its answer is lost.
        """
        if code != 0 and not 400 <= code <= 599:
            raise invalid("code", code, "an HTTP status from 400 to 599, or 0")
        text = description or DESCRIPTIONS.get(code, "Error")
        if retry_after and not description:
            text = f"Too Many Requests: retry after {retry_after}"
        self._requests.faults.append(
            Fault(
                method=method.lower() if method else None,
                chat=chat,
                code=code,
                description=text,
                retry_after=retry_after,
                performed=performed,
                times=times,
            )
        )

    # Updates.

    def update(self, kind: str, content: Json, *, token: str | None = None) -> int | None:
        """Give a bot an update such as ``"chat_member"``: its id; None if the bot asked for no such kind."""
        return self.bot(token).enqueue(kind, content)

    def send_message(
        self, user: Chat, chat: Chat | None = None, text: str = "", *, token: str | None = None, **fields: Any
    ) -> Json:
        """A user writes; by default to the bot. ``fields`` are those of a Message, such as photo."""
        author = self.world.user(user)
        known = self.world.chat(author["id"] if chat is None else chat)
        content: Json = {"from": dict(author), **fields}
        if text:
            content["text"] = text
            if entities := commands_in(text):
                content.setdefault("entities", entities)
        kind = "message"
        if known["type"] == "channel":
            del content["from"]
            kind = "channel_post"
        message = self.world.add(known, content)
        self.update(kind, message, token=token)
        return message

    def edit_message(self, message: Json, text: str, *, token: str | None = None) -> Json:
        """A user edits a message of his."""
        message |= {"text": text, "edit_date": self.world.now()}
        self.update("edited_message", message, token=token)
        return message

    def press(self, user: Chat, message: Json, data: str, *, token: str | None = None) -> str:
        """A user presses a button below a bot's message: the callback query's id.

        How the bot answered it is in ``server.bot().queries[id]``: parameters, None until then.
        """
        return self._query(
            "callback_query",
            user,
            token,
            {"message": message, "chat_instance": str(message["chat"]["id"]), "data": data},
        )

    def inline_query(self, user: Chat, text: str, *, token: str | None = None) -> str:
        """A user asks a bot in inline mode: the query's id."""
        return self._query("inline_query", user, token, {"query": text, "offset": ""})

    def _query(self, kind: str, user: Chat, token: str | None, content: Json) -> str:
        query = f"query-{next(self._ids)}"
        self.bot(token).queries[query] = None
        self.update(kind, {"id": query, "from": self.world.user(user), **content}, token=token)
        return query

    def join(self, user: Chat, chat: Chat, *, token: str | None = None) -> Json:
        """A user joins a group: the service message; bots that ask for it get chat_member, too."""
        return self._membership(user, chat, token, "new_chat_members", ("left", "member"))

    def leave(self, user: Chat, chat: Chat, *, token: str | None = None) -> Json:
        """A user leaves a group, as ``join``."""
        return self._membership(user, chat, token, "left_chat_member", ("member", "left"))

    def _membership(
        self, user: Chat, chat: Chat, token: str | None, field: str, status: tuple[str, str]
    ) -> Json:
        person, known = self.world.user(user), self.world.chat(chat)
        content: Any = [dict(person)] if field == "new_chat_members" else dict(person)
        message = self.world.add(known, {"from": dict(person), field: content})
        self.update("message", message, token=token)
        before, after = ({"status": one, "user": dict(person)} for one in status)
        change = {
            "chat": dict(known),
            "from": dict(person),
            "date": self.world.now(),
            "old_chat_member": before,
            "new_chat_member": after,
        }
        self.update("chat_member", change, token=token)
        return message

    # What a test looks at.

    def messages(self, chat: int) -> list[Json]:
        """The chat's messages as shown now, oldest first, users' and bots'."""
        return self.world.shown(chat)

    def texts(self, chat: int) -> list[str]:
        """Texts or captions of the bots' messages in a chat, as shown now, oldest first."""
        return [
            str(message.get("text", message.get("caption", "")))
            for message in self.messages(chat)
            if message.get("from", {}).get("is_bot")
        ]

    async def until(self, condition: Callable[[], object], timeout: float = 30.0) -> None:
        """Wait until ``condition()`` is true: it is asked after each request, and now and then.

        ``timeout``: seconds of the event loop's time; then it raises TimeoutError.
        """
        async with asyncio.timeout(timeout):
            while not condition():
                await self._requests.changed(LOOKED_EACH)


def _check_token(token: object) -> int:
    """The bot's id in a token. Raises ValueError, without the token's secret part."""
    number, colon, secret = token.partition(":") if isinstance(token, str) else ("", "", "")
    if not colon or not secret or not number.isascii() or not number.isdecimal() or not int(number):
        raise invalid("token", f"{number[:20]}...", 'a token such as "123:secret"')
    if any(character.isspace() or character in "/?#" for character in secret):
        raise invalid("token", f"{number[:20]}...", "a token without spaces, slashes, ? and #")
    return int(number)
