"""Updates from pyrogram: their sender, whether they are over the limit, and how long replies are answers."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from typing import Any, NamedTuple

import pyrogram
from pyrogram.handlers import RawUpdateHandler

from bot.core._shared.errors import Phase4Error
from bot.core._shared.masking import one_line
from bot.integrations.inbound import ANSWER_DEADLINE, Gate, Throttle, TooMany, handling
from bot.integrations.services import running_outbound

logger = logging.getLogger(__name__)

ANSWERS_AT_MOST = 60.0
"""Seconds after an update came in after which nothing is an answer to it. Handlers that mirror a film go on
for an hour, and what they show meanwhile is no answer any more."""

GROUP = -1_000_000
"""The handler group of the throttle: before those of the bot."""

MAX_TELLING = 100
"""Clients that are being told at the same time; more are dropped without a word."""


class Origin(NamedTuple):
    """The sender of an update, and its chat."""

    chat: int | None
    user: int | None
    limited: bool
    """Whether it is a message or query of a person, which can be sent again."""
    query_id: int | None = None


_LIMITED_MESSAGES = (
    "UpdateNewMessage",
    "UpdateNewChannelMessage",
    "UpdateEditMessage",
    "UpdateEditChannelMessage",
    "UpdateBotNewBusinessMessage",
    "UpdateBotEditBusinessMessage",
)
_LIMITED_QUERIES = (
    "UpdateBotCallbackQuery",
    "UpdateInlineBotCallbackQuery",
    "UpdateBusinessBotCallbackQuery",
    "UpdateBotInlineQuery",
)


def origin_of(update: Any) -> Origin:
    """The sender of a raw update. Payments, memberships, own messages and channel posts are not limited."""
    name = type(update).__name__
    message = getattr(update, "message", None)
    if message is not None and hasattr(message, "peer_id"):
        chat = _id_of(message.peer_id)
        sender = getattr(message, "from_id", None)
        own = bool(getattr(message, "out", False))
        post = bool(getattr(message, "post", False))
        user = _id_of(sender) if sender is not None else (chat if chat is not None and chat > 0 else None)
        # Of service messages (MessageService: payments, members) none is dropped.
        limited = name in _LIMITED_MESSAGES and type(message).__name__ == "Message" and not own and not post
        return Origin(chat, user, limited)
    user = getattr(update, "user_id", None)
    chat = _id_of(getattr(update, "peer", None))
    limited = name in _LIMITED_QUERIES
    query_id = getattr(update, "query_id", None) if limited and "Callback" in name else None
    return Origin(chat, user if type(user) is int else None, limited, query_id)


def _id_of(peer: Any) -> int | None:
    for attribute, sign, base in (
        ("channel_id", -1, -1_000_000_000_000),
        ("chat_id", -1, 0),
        ("user_id", 1, 0),
    ):
        number = getattr(peer, attribute, None)
        if type(number) is int:
            return base + sign * number
    return None


# The handling of the update that a worker has in hand.
_open: ContextVar[handling | None] = ContextVar("phase4_pyrogram_open", default=None)


class Updates:
    """One client's incoming updates.

    A worker of pyrogram's dispatcher is one task for all its updates, and takes each from
    ``dispatcher.updates_queue``: there the context of one ends and that of the next begins.
    """

    def __init__(self, client: pyrogram.Client) -> None:
        self._client = client
        self.gate: Gate[Any] = Gate(Throttle())
        self._handler = RawUpdateHandler(self._judge)
        self._telling: set[asyncio.Task[None]] = set()
        self._queue: Any = None

    # Attaching.

    def attach(self) -> None:
        """Put the throttle first, and follow the queue; again after the client dropped its handlers."""
        dispatcher = self._client.dispatcher
        # Not add_handler, which works in a task of its own, after the first updates.
        groups = dispatcher.groups
        if self._handler not in groups.get(GROUP, ()):
            ours = {GROUP: [self._handler, *groups.get(GROUP, ())]}
            merged = type(groups)(sorted({**groups, **ours}.items()))
            dispatcher.groups = merged
        queue = dispatcher.updates_queue
        if self._queue is not queue:
            self._leave_queue()
            self._queue = queue
            original = queue.get

            async def get() -> Any:
                _end()
                packet = await original()
                if self._queue is queue and packet is not None:
                    _begin(packet[0])
                return packet

            queue.get = get  # type: ignore[method-assign]

    def detach(self) -> None:
        """Undo :meth:`attach`."""
        groups = self._client.dispatcher.groups
        if self._handler in groups.get(GROUP, ()):
            rest = [one for one in groups[GROUP] if one is not self._handler]
            ours = {GROUP: rest} if rest else {}
            others = {group: found for group, found in groups.items() if group != GROUP}
            self._client.dispatcher.groups = type(groups)(sorted({**others, **ours}.items()))
        self._leave_queue()

    def _leave_queue(self) -> None:
        if self._queue is not None:
            self._queue.__dict__.pop("get", None)
            self._queue = None

    async def stop(self) -> None:
        """End what is still being told."""
        telling = list(self._telling)
        for task in telling:
            task.cancel()
        await asyncio.gather(*telling, return_exceptions=True)

    # Throttling.

    async def _judge(self, client: pyrogram.Client, update: Any, users: Any, chats: Any) -> None:
        """The first handler of each update: StopPropagation for what is too much."""
        origin = origin_of(update)
        if not origin.limited:
            return
        try:
            refused = await self.gate.refuses(update, origin.user, origin.chat)
        except Phase4Error as error:
            # A tier that the limiter does not have any more, above all: the bot goes on.
            logger.warning("The limit could not be checked, so an update passed: %s", one_line(error))
            return
        if refused is None:
            return
        if refused.tell and len(self._telling) < MAX_TELLING:
            # Not here: it may have to wait, and the worker has other updates.
            task = asyncio.get_running_loop().create_task(self._tell(update, origin, refused))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        raise pyrogram.StopPropagation

    async def _tell(self, update: Any, origin: Origin, refused: TooMany) -> None:
        try:
            answer = self.gate.throttle.answer
            if callable(answer):
                await answer(update, refused.seconds)
                return
            assert answer is not None
            text = refused.text(answer)
            if origin.query_id is not None:
                await self._client.answer_callback_query(str(origin.query_id), text)
            elif origin.chat is not None:
                await self._send(origin.chat, text)
        except Exception as error:
            logger.info("A client was not told to wait: %s", one_line(error))

    async def _send(self, chat: int, text: str) -> None:
        if running_outbound() is None:
            await self._client.send_message(chat, text)
            return
        from bot.core.outbound import Priority, sending

        with sending(Priority.ANSWER, ANSWER_DEADLINE):
            await self._client.send_message(chat, text)


def _begin(update: Any) -> None:
    origin = origin_of(update)
    begun = handling((origin.chat, origin.user), ANSWERS_AT_MOST)
    begun.__enter__()
    _open.set(begun)


def _end() -> None:
    begun = _open.get()
    if begun is not None:
        _open.set(None)
        begun.__exit__(None, None, None)
