"""What goes into outbound flood control: limits, requests and priorities (pure)."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Literal

from msgspec import Struct

from bot.core._shared.errors import invalid
from bot.core._shared.validation import valid_count, valid_seconds
from bot.core.phase4_config.outbound import (
    LONGEST_WINDOW,
    MAX_BURST,
    MAX_REQUESTS,
    MAX_TYPING_LIMITS,
    SHORTEST_WINDOW,
)

Chat = int | str | None
"""The chat that is written to: its id or ``@name``; None: no chat in particular."""

Window = tuple[int, float]
"""At most so many within any so many seconds."""


class Priority(IntEnum):
    """The order in which requests are sent if they cannot all be sent at once."""

    ANSWER = 0
    """To a user who waits for it. Never held back by the bulk limit."""
    NOTIFY = 1
    STATUS = 2
    BROADCAST = 3


class Limits(Struct, frozen=True, kw_only=True):
    """Telegram's limits, as far as they are known. Refusals are obeyed in any case.

    Windows are (requests, seconds). ``group``: messages in a group or channel. ``chat`` and ``chat_burst``:
    messages to a private chat at that rate, after a short burst. ``bulk``: messages to all chats together;
    ``bulk_reserve`` of them are kept for answers, all others leave within the rest (None: a tenth of them,
    and 1 at least; never the last one).
    ``edits``: whether edits count with the messages of their chat ("shared") or have the same
    limits for themselves ("separate"). ``typing``: chat actions in a chat, all windows at once. ``paid``: as
    ``bulk``, for paid broadcasts. Raises ValueError for what is out of bounds.
    """

    group: Window = (20, 60.0)
    chat: Window = (1, 1.0)
    chat_burst: int = 3
    bulk: Window = (30, 1.0)
    bulk_reserve: int | None = None
    edits: Literal["shared", "separate"] = "shared"
    typing: tuple[Window, ...] = ((20, 5.0), (40, 30.0))
    paid: Window = (1000, 1.0)

    def __post_init__(self) -> None:
        for name in ("group", "chat", "bulk", "paid"):
            _valid_window(name, getattr(self, name))
        if not isinstance(self.typing, tuple) or len(self.typing) > MAX_TYPING_LIMITS:
            allowed = f"a tuple of at most {MAX_TYPING_LIMITS} windows (requests, seconds)"
            raise invalid("typing", self.typing, allowed)
        for window in self.typing:
            _valid_window("typing", window)
        valid_count("chat_burst", self.chat_burst, 1, MAX_BURST)
        reserve = self.bulk_reserve
        if reserve is not None and (type(reserve) is not int or not 0 <= reserve <= MAX_REQUESTS):
            raise invalid("bulk_reserve", reserve, f"a whole number from 0 to {MAX_REQUESTS:,}, or None")
        if self.edits not in ("shared", "separate"):
            raise invalid("edits", self.edits, '"shared" or "separate"')


def _valid_window(name: str, value: object) -> None:
    allowed = f"(requests from 1 to {MAX_REQUESTS:,}, seconds from {SHORTEST_WINDOW} to {LONGEST_WINDOW:,})"
    if not isinstance(value, tuple) or len(value) != 2:
        raise invalid(name, value, allowed)
    count, seconds = value
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_REQUESTS:
        raise invalid(name, value, allowed)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise invalid(name, value, allowed)
    if not SHORTEST_WINDOW <= seconds <= LONGEST_WINDOW:
        raise invalid(name, value, allowed)


class Request(Struct, frozen=True):
    """A request to Telegram, as far as flood control needs to know it.

    ``method`` is the API method in any spelling (``sendMessage``, ``SendMessage``, ``messages.SendMessage``).
    ``chat``: an id or ``@name``. Of what concerns no chat it is None, and a refusal holds all chats, or what
    ``method_alone`` gives, and it holds that method. ``message_id``: of an edit or a delete; several as a
    tuple. ``cost``: messages that the request makes, such as the items of an album. ``priority``: None takes
    that of ``sending``, else NOTIFY. ``deadline``: seconds from the call within which it must leave.
    ``replaceable``: a later request of the same method, chat and message makes this one needless while it
    waits. ``paid``: a paid broadcast, under the ``paid`` limit instead of ``bulk``. ``content``: of an edit,
    all that decides what the message shows after it (text, entities, markup, media), in any form that is
    equal if and only if that is: an edit to what the message shows already is not sent.
    """

    method: str
    chat: int | str | None = None
    message_id: int | str | tuple[int, ...] | None = None
    cost: int = 1
    priority: Priority | None = None
    deadline: float | None = None
    replaceable: bool = False
    paid: bool = False
    content: str | bytes | None = None

    def check(self) -> Chat:
        """The request's chat in plain form; raises ValueError for an invalid field."""
        if type(self.method) is not str or not self.method:
            raise invalid("method", self.method, "the name of an API method")
        if type(self.cost) is not int or not 1 <= self.cost <= 10_000:
            raise invalid("cost", self.cost, "a whole number from 1 to 10,000")
        if self.priority is not None and self.priority not in (0, 1, 2, 3):
            raise invalid("priority", self.priority, "a Priority")
        if self.deadline is not None:
            valid_seconds("deadline", self.deadline, zero=True)
        if self.content is not None and not isinstance(self.content, str | bytes):
            raise invalid("content", type(self.content).__name__, "a str, bytes or None")
        return plain_chat(self.chat)


def plain_chat(chat: object) -> Chat:
    """The chat as an int or a str of exactly that type, one for each chat: "-100" is -100, "@A" is "@a"."""
    if type(chat) is int or chat is None:
        return chat
    if isinstance(chat, bool) or not isinstance(chat, int | str):
        raise invalid("chat", chat, "a chat's id, its @name, or None")
    if isinstance(chat, int):
        return int.__int__(chat)
    text = chat.strip()
    digits = text[1:] if text[:1] == "-" else text
    if digits.isascii() and digits.isdecimal() and len(digits) <= 20:
        return int(text)
    if not text or len(text) > 256:
        raise invalid("chat", chat, "a chat's id, its @name, or None")
    return text.lower()


def method_alone(method: str) -> str:
    """The ``chat`` of requests of which a refusal concerns their method alone, such as ``setMyName``."""
    return f"[{method}]"


def is_method(chat: Chat) -> bool:
    """Whether it stands for a method that is held by itself."""
    return type(chat) is str and chat.startswith("[")


def is_private(chat: Chat) -> bool:
    """Whether it is a private chat: users have positive ids; names are taken for groups or channels."""
    return type(chat) is int and chat > 0


class Kind(Enum):
    """What a request is for the limits. Each chat has a lane for each kind but UNQUEUED."""

    SEND = "send"
    EDIT = "edit"
    TYPING = "typing"
    OTHER = "other"
    """No limit is known; waits for penalties alone."""
    UNQUEUED = "unqueued"
    """Answers to queries, which expire; updates, files and their parts, and signing in."""

    # An Enum's own hash is a Python function; lanes are looked up by kind with each request.
    __hash__ = object.__hash__


_UNQUEUED = frozenset(
    """getupdates getfile getme setwebhook deletewebhook getwebhookinfo close logout
    setbotcallbackanswer setinlinebotresults setbotprecheckoutresults setbotshippingresults
    savefilepart savebigfilepart getfilehashes getcdnfile getcdnfilehashes reuploadcdnfile getwebfile
    ping pingdelaydisconnect msgsack initconnection getconfig getdifference getchanneldifference getstate
    """.split()
)
_UNQUEUED_NAMESPACES = ("upload.", "auth.", "updates.")
_EDITS = ("editmessage", "stopmessagelivelocation", "stoppoll")
_SENDS = ("send", "forward", "copymessage")
_NO_SENDS = ("sendreaction", "sendvote", "sendcode", "sendscreenshot")
_DELETES = ("deletemessage", "deletemessages")

MAX_METHODS = 1_000
"""Spellings of methods whose kind is remembered."""

_known: dict[str, Kind] = {}


def kind_of(method: str) -> Kind:
    """What kind of request a method is, in any of its spellings."""
    kind = _known.get(method)
    if kind is None:
        kind = _kind_of(method)
        if len(_known) < MAX_METHODS:
            _known[method] = kind
    return kind


def plain_method(method: str) -> str:
    """``messages.SendMessage``, ``send_message`` and ``sendMessage`` in one spelling."""
    return method.rsplit(".", 1)[-1].replace("_", "").lower()


def _kind_of(method: str) -> Kind:
    name = plain_method(method)
    # Raw types of pyrogram are functions.upload.SaveFilePart; others start with the namespace.
    if any(f".{method.lower()}".find(f".{space}") >= 0 for space in _UNQUEUED_NAMESPACES):
        return Kind.UNQUEUED
    if name in _UNQUEUED or name.startswith("answer"):
        return Kind.UNQUEUED
    if name in ("sendchataction", "settyping"):
        return Kind.TYPING
    if name.startswith(_EDITS):
        return Kind.EDIT
    if name.startswith(_SENDS) and not name.startswith(_NO_SENDS):
        return Kind.SEND
    return Kind.OTHER


def is_delete(method: str) -> bool:
    """Whether the method deletes messages."""
    return plain_method(method) in _DELETES
