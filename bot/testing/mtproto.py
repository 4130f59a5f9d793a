"""Telegram's side of MTProto for tests of bots on kurigram: no network, limits enforced, everything logged.

    server = MTProtoServer()
    app = server.client("bot")              # or server.attach(your_client)
    async with app:
        await app.send_message(-1001, "hello")
    assert server.shown(-1001, 1) == "hello"

A client keeps its own ``Session.invoke``, with its retries and its sleeping through waits; only
``Session.send`` is answered here instead of by a data centre. Times are those of the event loop, so a
:class:`~bot.testing.fast_loop.FastLoop` lets minutes pass in moments. What is not answered here raises
NotImplementedError and says so: :meth:`MTProtoServer.on` adds an answer.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pyrogram
from pyrogram.errors.rpc_error import RPCError
from pyrogram.session import Session
from pyrogram.session.session import SessionState
from pyrogram.storage import SQLiteStorage, UpdateState

from bot.core._shared.errors import invalid
from bot.testing.mtproto_world import (
    RawRequest,
    World,
    as_received,
    method_of,
    number_of,
    peer_of,
    types,
    unwrapped,
)
from bot.testing.telegram_limits import ServerLimits, TelegramLimits

__all__ = ["Hang", "MTProtoServer", "RawRequest"]

Answer = Callable[[pyrogram.Client, Any], Any]
"""A function of client and raw function giving the raw answer, or a coroutine function."""

_DATACENTRE = 2


class _Rule:
    """What becomes of requests of a method, to a chat or to any, so many times."""

    def __init__(self, method: str, chat: int | None, times: int | None, **what: Any) -> None:
        self.method = method
        self.chat = chat
        self.times = times
        self.refusal: str | None = what.get("refusal")
        self.code: int = what.get("code", 420)
        self.hang: Hang | None = what.get("hang")

    def takes(self, request: RawRequest) -> bool:
        if self.times == 0 or self.method not in (request.method, request.method.rpartition(".")[2]):
            return False
        if self.chat is not None and self.chat != request.chat:
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Hang:
    """Requests that get no answer until :meth:`release`."""

    def __init__(self) -> None:
        self._released = asyncio.Event()
        self.waiting = 0
        """Requests that hang now."""

    def release(self) -> None:
        """Answer those that hang, and all later ones."""
        self._released.set()

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await self._released.wait()
        finally:
            self.waiting -= 1


class MTProtoServer:
    """Answers any number of clients, each an account with limits of its own.

    ``limits``: those of each account; None: none are enforced. ``latency``: seconds from a request to
    its answer. Raises ValueError for what is out of bounds.
    """

    def __init__(self, *, limits: ServerLimits | None = ServerLimits(), latency: float = 0.0) -> None:  # noqa: B008
        if limits is not None and not isinstance(limits, ServerLimits):
            raise invalid("limits", limits, "ServerLimits or None")
        if isinstance(latency, bool) or not isinstance(latency, int | float) or not 0 <= latency <= 3600:
            raise invalid("latency", latency, "seconds from 0 to 3600")
        self.latency = latency
        self.log: list[RawRequest] = []
        """Every raw request in the order in which they came."""
        self._limits = limits
        self._accounts: dict[int, TelegramLimits] = {}
        self._rules: list[_Rule] = []
        self._answers: dict[str, Answer] = {}
        self._world = World()
        self._ids = itertools.count(1)

    # Clients.

    def client(self, name: str = "bot", *, is_bot: bool = True, **options: Any) -> pyrogram.Client:
        """A new client of an account of its own. ``options`` are those of pyrogram.Client."""
        return self.attach(pyrogram.Client(name, **options), is_bot=is_bot)

    def attach(
        self, client: pyrogram.Client, *, user_id: int | None = None, is_bot: bool = True
    ) -> pyrogram.Client:
        """Let a client, before its start, talk to this server: the client. Its session is kept in memory.

        ``user_id``: the account's; by default the first part of the client's bot token. ``is_bot=False``: a
        user that is signed in already.
        """
        if client.is_connected:
            raise invalid("client", client.name, "a client that is not started")
        token = client.bot_token or ""
        number = token.partition(":")[0]
        me = user_id or (int(number) if number.isdecimal() else 7_000_000 + next(self._ids))
        if is_bot:
            client.bot_token = token or f"{me}:test"
        storage = SQLiteStorage(client.name, workdir=client.workdir, in_memory=True)
        client.storage = storage

        async def load_session() -> None:
            await storage.open()  # type: ignore[no-untyped-call]
            await storage.api_id(client.api_id or 1)
            await storage.dc_id(_DATACENTRE)
            await storage.server_address("127.0.0.1")
            await storage.port(443)
            await storage.date(0)
            await storage.test_mode(True)
            await storage.auth_key(bytes(256))
            await storage.user_id(None if is_bot else me)  # type: ignore[arg-type]
            await storage.is_bot(None if is_bot else False)  # type: ignore[arg-type]
            await storage.set_update_state(UpdateState(0, 1, 0, 1, 1))

        async def get_session(
            dc_id: int | None = None, is_media: bool = False, temporary: bool = False, **_: Any
        ) -> Session:
            dc_id = dc_id or _DATACENTRE
            if client.session is not None and not is_media and not temporary and dc_id == _DATACENTRE:
                return client.session
            kept = client.media_sessions if is_media else client.sessions
            session = None if temporary else kept.get(dc_id)
            if session is None:
                session = _FakeSession(self, me, client, dc_id, is_media)
                if not temporary:
                    kept[dc_id] = session
                await session.start()
            return session

        client.load_session = load_session  # type: ignore[method-assign]
        client.get_session = get_session  # type: ignore[method-assign,assignment]
        self._world.add_account(me, client.name, is_bot)
        if self._limits is not None:
            self._accounts[me] = TelegramLimits(self._limits)
        return client

    # What a test wants to happen.

    def refuse(
        self,
        method: str,
        seconds: int,
        *,
        chat: int | None = None,
        times: int | None = 1,
        error: str = "FLOOD_WAIT",
    ) -> None:
        """Refuse the next requests of a method: ``SendMedia``, ``upload.SaveBigFilePart``.

        ``chat``: to this one only. ``times``: None for good. ``error``: such as SLOWMODE_WAIT or
        FLOOD_PREMIUM_WAIT.
        """
        self._rules.append(_Rule(method, chat, times, refusal=f"{error}_{seconds}"))

    def fail(
        self, method: str, code: int, error: str, *, chat: int | None = None, times: int | None = 1
    ) -> None:
        """Answer the next requests of a method with an error: ``fail("SendMedia", 400, "CHAT_INVALID")``."""
        self._rules.append(_Rule(method, chat, times, refusal=error, code=code))

    def hang(self, method: str, *, chat: int | None = None, times: int | None = None) -> Hang:
        """Let requests of a method hang: what releases them."""
        hang = Hang()
        self._rules.append(_Rule(method, chat, times, hang=hang))
        return hang

    def on(self, method: str, answer: Answer) -> None:
        """Answer a method (``messages.GetHistory``) with what a function of client and raw function gives."""
        self._answers[method] = answer

    # What comes in.

    async def message(
        self, client: pyrogram.Client, text: str, *, user: int = 1001, chat: int | None = None
    ) -> int:
        """A user writes ``text`` to a chat, or to the client itself: the message's id."""
        chat = user if chat is None else chat
        me = self._me(client)
        message = self._world.add_message(me, chat, text=text, sender=user)
        kind = types.UpdateNewChannelMessage if is_channel(chat) else types.UpdateNewMessage
        await self.update(client, kind(message=message, pts=1, pts_count=1), user=user, chat=chat)
        return int(message.id)

    async def callback(
        self,
        client: pyrogram.Client,
        data: bytes,
        *,
        user: int = 1001,
        chat: int | None = None,
        message_id: int,
    ) -> int:
        """A user presses a button: the query's id."""
        chat = user if chat is None else chat
        query_id = next(self._ids)
        update = types.UpdateBotCallbackQuery(
            query_id=query_id,
            user_id=user,
            peer=peer_of(chat),
            msg_id=message_id,
            chat_instance=1,
            data=data,
        )
        await self.update(client, update, user=user, chat=chat)
        return query_id

    async def update(
        self, client: pyrogram.Client, update: Any, *, user: int | None = None, chat: int | None = None
    ) -> None:
        """Any raw update; ``user`` and ``chat`` are those that it speaks of."""
        users = [] if user is None else [self._world.user(user)]
        chats = [] if chat is None or chat > 0 else [self._world.chat(chat)]
        updates = types.Updates(updates=[update], users=users, chats=chats, date=1, seq=0)
        await client.handle_updates(as_received(updates))  # type: ignore[no-untyped-call]

    # What a test looks at.

    def requests(self, method: str | None = None, *, chat: int | None = None) -> list[RawRequest]:
        """Those of the log, of one method (with or without its namespace) or chat."""
        return [
            one
            for one in self.log
            if (method is None or method in (one.method, one.method.rpartition(".")[2]))
            and (chat is None or one.chat == chat)
        ]

    async def until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        """Wait until a condition is true. Raises TimeoutError after so many seconds of the event loop."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - it may be about anything
                await asyncio.sleep(0.005)

    def shown(self, chat: int, message_id: int, *, client: pyrogram.Client | None = None) -> str | None:
        """The text of a message; None if it was deleted. ``client``: whose numbers, if there are several."""
        me = next(iter(self._world.accounts)) if client is None else self._me(client)
        return self._world.text_of(me, chat, message_id)

    def parts(self, file_id: int | None = None) -> dict[int, list[tuple[int, str]]]:
        """Parts of a file, or of the only one, as they came: part to (bytes, BLAKE2b digest) each time."""
        return self._world.parts_of(file_id)

    def _me(self, client: pyrogram.Client) -> int:
        return next(number for number, name in self._world.accounts.items() if name == client.name)

    # Requests.

    async def _receive(self, session: _FakeSession, data: Any) -> Any:
        """What a request is answered with; raises what Telegram refuses it with."""
        query = unwrapped(data)
        now = asyncio.get_running_loop().time()
        request = RawRequest(now, session.account, method_of(query), query, is_media=session.is_media)
        request.chat = number_of(query, session.account, self._world)
        self.log.append(request)
        try:
            refusal = await self._refusal(request)
            if self.latency or refusal is not None:
                await asyncio.sleep(self.latency)
            if refusal is not None:
                request.outcome = refusal.error_message
                RPCError.raise_it(refusal, type(query))
            answer = await self._answer(session, request, query)
            if isinstance(answer, types.RpcError):
                request.outcome = answer.error_message
                RPCError.raise_it(answer, type(query))
            request.outcome = "ok"
            return as_received(answer)
        finally:
            request.answered = asyncio.get_running_loop().time()
            request.forget_bytes()

    async def _refusal(self, request: RawRequest) -> Any:
        for rule in self._rules:
            if not rule.takes(request):
                continue
            if rule.hang is not None:
                await rule.hang._wait()
                continue
            if rule.code == 420 and request.chat is not None and request.kind != "other":
                seconds = int(str(rule.refusal).rpartition("_")[2])
                if limits := self._accounts.get(request.account):
                    limits.penalize(request.chat, seconds, request.at)
            return types.RpcError(error_code=rule.code, error_message=str(rule.refusal))
        limits = self._accounts.get(request.account)
        if limits is None or request.chat is None:
            return None
        verdict = limits.admit(
            request.chat, request.kind, request.at, cost=request.cost, paid=request.is_paid
        )
        request.in_penalty = verdict.in_penalty
        if not verdict.retry_after:
            return None
        return types.RpcError(error_code=420, error_message=f"FLOOD_WAIT_{verdict.retry_after}")

    async def _answer(self, session: _FakeSession, request: RawRequest, query: Any) -> Any:
        own = self._answers.get(request.method)
        if own is not None:
            answer = own(session.client, query)
            return await answer if isinstance(answer, Awaitable) else answer
        known = self._world.answer_to(request.method)
        if known is None:
            raise NotImplementedError(
                f"{request.method} has no answer: server.on({request.method!r}, lambda client, query: ...)"
            )
        return known(session.account, query)


class _FakeSession(Session):
    """A session whose requests the server answers; ``invoke`` is the real one."""

    def __init__(
        self, server: MTProtoServer, account: int, client: pyrogram.Client, dc_id: int, is_media: bool
    ) -> None:
        super().__init__(client, dc_id, "127.0.0.1", 443, bytes(256), True, is_media=is_media)
        self._server = server
        self.account = account

    async def start(self) -> None:
        """Started at once."""
        await self._set_state(SessionState.STARTED)
        self.is_started.set()
        if callable(self.client.connect_handler):
            await self.client.connect_handler(self.client, self)

    async def stop(self) -> None:
        """Stopped at once."""
        self.is_started.clear()
        await self._set_state(SessionState.STOPPED)
        if callable(self.client.disconnect_handler):
            await self.client.disconnect_handler(self.client, self)

    async def restart(self) -> None:
        """As a lost connection that is back."""
        await self.stop()
        await self.start()

    async def send(self, data: Any, wait_response: bool = True, timeout: float = Session.WAIT_TIMEOUT) -> Any:
        """The server's answer. Raises what it refuses with, and OSError while the session is stopped."""
        if not self.is_started.is_set():
            raise OSError("the session is stopped")
        if not wait_response:
            return None
        try:
            async with asyncio.timeout(timeout):
                return await self._server._receive(self, data)
        except TimeoutError:
            raise TimeoutError("Request timed out") from None


def is_channel(chat: int) -> bool:
    """Whether a chat's id is that of a channel or supergroup."""
    return chat < -1_000_000_000_000
