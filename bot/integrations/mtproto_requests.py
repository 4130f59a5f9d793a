"""What flood control needs to know of raw MTProto functions of pyrogram and its forks (pure).

Functions are known by their ``QUALNAME`` and attributes, so that any fork and any layer will do.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from bot.core.outbound.models import MAX_METHODS, Kind, Request, kind_of, plain_method

CHANNELS_BELOW = -1_000_000_000_000
"""The chat id of a channel or supergroup is this minus the channel's number."""

_WRAPPERS = ("functions.InvokeWith", "functions.InvokeAfter")
_NAMESPACES = ("messages.", "ephemeral.")
_FILES = "upload."
_INLINE = "messages.EditInlineBotMessage"
# Signing in, updates and what keeps a connection alive. Their errors are the framework's business.
_CONNECTION = ("auth.", "updates.", "help.", "Ping", "DestroyS", "GetFutureSalts", "InitConnection")
# What writes to a chat beside messages, edits and chat actions, and is refused together with them.
_WITH_MESSAGES = frozenset(
    """messages.UploadMedia messages.SendReaction messages.SendPaidReaction messages.SendVote
    messages.UpdatePinnedMessage messages.UnpinAllMessages messages.SetGameScore channels.DeleteMessages
    messages.DeleteMessages messages.DeleteHistory channels.DeleteHistory ephemeral.DeleteMessages""".split()
)


class Way(Enum):
    """How a request is sent."""

    LANE = "lane"
    """In its chat's lane."""
    ALONE = "alone"
    """At once; a refusal holds its method (or file parts) alone."""
    UNTOUCHED = "untouched"
    """At once, its refusals as the framework treats them."""


class Plan(NamedTuple):
    """``request`` if it waits in a lane; ``key``: what a refusal of ``method`` holds if it goes alone."""

    way: Way
    request: Request | None
    method: str
    key: str


def unwrapped(query: Any) -> Any:
    """The function itself, without InvokeWithoutUpdates, InvokeWithTakeout and their like."""
    for _ in range(8):
        if not getattr(query, "QUALNAME", "").startswith(_WRAPPERS):
            break
        inner = getattr(query, "query", None)
        if inner is None:
            break
        query = inner
    return query


def method_of(query: Any) -> str:
    """``messages.SendMessage`` for what is no wrapper."""
    name = getattr(query, "QUALNAME", None)
    return name.removeprefix("functions.") if isinstance(name, str) else type(query).__name__


def chat_of(peer: Any, me: int | None = None) -> int | str | None:
    """The chat's id as the Bot API has it: users positive, groups negative, channels -100...

    ``me``: the account's own id. None for what is no peer.
    """
    for attribute, sign, base in (("channel_id", -1, CHANNELS_BELOW), ("chat_id", -1, 0), ("user_id", 1, 0)):
        number = getattr(peer, attribute, None)
        if type(number) is int:
            return base + sign * number
    name = type(peer).__name__
    if name in ("InputPeerSelf", "InputUserSelf"):
        return me if me is not None else "self"
    return None


def is_numbered(chat: int | str | None) -> bool:
    """Whether the chat is a user or basic group, whose messages share the account's numbers."""
    return type(chat) is int and chat > CHANNELS_BELOW


_planned: dict[str, tuple[Way, Kind]] = {}
"""How requests of a method are sent; as many as Telegram has methods."""


def _way_of(method: str) -> tuple[Way, Kind]:
    kind = kind_of(method)
    if method.startswith(_FILES):
        return Way.ALONE, kind
    if kind is Kind.UNQUEUED or method.startswith(_CONNECTION):
        return Way.UNTOUCHED, kind
    in_lane = method in _WITH_MESSAGES or method == _INLINE or kind is not Kind.OTHER
    return (Way.LANE if in_lane and method.startswith((*_NAMESPACES, "channels.")) else Way.ALONE), kind


def plan_of(query: Any, me: int | None = None, editing: dict[int, int | str] | None = None) -> Plan:
    """How a function without wrappers is sent.

    ``me``: the account's own id. ``editing``: chats of the edits under way, by message, for a
    ``messages.DeleteMessages``, which names no chat.
    """
    method = method_of(query)
    found = _planned.get(method)
    if found is None:
        found = _way_of(method)
        if len(_planned) < MAX_METHODS:
            _planned[method] = found
    way, kind = found
    if way is Way.LANE:
        inline = method == _INLINE
        request = _inline_edit(query) if inline else _request(query, method, kind, me, editing)
        return Plan(way if request is not None else Way.ALONE, request, method, method)
    if way is Way.ALONE and method.startswith(_FILES):
        return Plan(way, None, method, "parts sent" if ".Save" in method else "parts read")
    return Plan(way, None, method, method)


def _request(
    query: Any, method: str, kind: Kind, me: int | None, editing: dict[int, int | str] | None
) -> Request | None:
    ids = getattr(query, "id", None)
    chat = None
    for attribute in ("to_peer", "peer", "channel"):
        peer = getattr(query, attribute, None)
        if peer is not None:
            chat = chat_of(peer, me)
            break
    if method == "messages.DeleteMessages" and editing and isinstance(ids, list):
        chat = next((editing[one] for one in ids if one in editing), None)
    if chat is None:
        return None
    if kind is Kind.SEND:
        return Request(
            method,
            chat,
            cost=_cost(query, method, ids),
            paid=getattr(query, "allow_paid_floodskip", None) is True,
        )
    if kind is Kind.TYPING:
        return Request(method, chat, message_id=_whole(getattr(query, "top_msg_id", None)), replaceable=True)
    if kind is Kind.EDIT:
        now = getattr(query, "schedule_date", None) is None
        return _edit(query, _edit_method(query, method), chat, _whole(ids), replaceable=now)
    if plain_method(method) == "deletemessages" and isinstance(ids, list):
        return Request(method, chat, message_id=tuple(one for one in ids if type(one) is int))
    return Request(method, chat)


def _edit_method(query: Any, method: str) -> str:
    """An edit replaces only another that changes the same: the text, the media, or the buttons alone."""
    if getattr(query, "media", None) is not None:
        return f"{method}Media"
    if getattr(query, "message", None) is None and getattr(query, "rich_message", None) is None:
        return f"{method}ReplyMarkup"
    return method


def _edit(query: Any, method: str, chat: int | str, message_id: Any, *, replaceable: bool) -> Request:
    if not replaceable or message_id is None:
        return Request(method, chat, message_id=message_id)
    return Request(method, chat, message_id=message_id, replaceable=True, content=_bytes(query))


def _inline_edit(query: Any) -> Request:
    """Of a message sent through inline mode: its chat is not known, so it is one by itself."""
    message = getattr(query, "id", None)
    parts = (getattr(message, name, 0) for name in ("dc_id", "owner_id", "id", "access_hash"))
    chat = f"inline {':'.join(str(part) for part in parts)}"
    return _edit(query, _edit_method(query, "messages.EditMessageInline"), chat, 0, replaceable=True)


def _bytes(query: Any) -> bytes | None:
    """All that the edit says."""
    try:
        written = query.write()
    except Exception:
        return None  # a fork's type that cannot be written will fail when it is sent
    return written if isinstance(written, bytes) else None


def _cost(query: Any, method: str, ids: Any) -> int:
    items = ids if method.endswith(("ForwardMessages", "ScheduledMessages", "QuickReplyMessages")) else None
    items = getattr(query, "multi_media", items)
    return min(max(len(items), 1), 10_000) if isinstance(items, list | tuple) else 1


def _whole(number: Any) -> int | None:
    return number if type(number) is int else None
