"""What flood control needs to know of a request to the Bot API (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bot.core.outbound import Priority, Request

_MAX_JSON = 1_000_000
"""Characters of a list that came as JSON, beyond which its items are not counted."""

_TELL_WHAT_IS_SHOWN = ("editmessagetext", "editmessagecaption", "editmessagereplymarkup")
"""Not media: the same address or path may hold something else by now."""
_WHICH_MESSAGE = frozenset({"chat_id", "message_id", "inline_message_id", "business_connection_id"})


class ReadOnceError(Exception):
    """A refusal of an upload that cannot be read again: outbound holds the chat, and does not repeat it."""

    def __init__(self, refusal: Exception) -> None:
        # The text by which outbound knows what must not be repeated.
        super().__init__("Bad Request: the upload cannot be read a second time")
        self.refusal = refusal
        self.retry_after = getattr(refusal, "retry_after", None)


def request_of(
    endpoint: str,
    data: Mapping[str, Any],
    *,
    priority: Priority | None = None,
    deadline: float | None = None,
    replaceable: bool = True,
) -> Request:
    """The request that ``endpoint`` (a method in any spelling) makes with the parameters ``data``.

    Edits, chat actions and drafts are replaceable unless ``replaceable`` is False. What Telegram itself would
    refuse (a chat that is none, a list that is none) is left to Telegram to refuse.
    """
    from bot.core.outbound.models import Kind, Request, is_delete, kind_of, plain_method

    kind = kind_of(endpoint)
    method = plain_method(endpoint)
    chat = _chat_of(data, kind is Kind.SEND)
    message: int | str | tuple[int, ...] | None = None
    replaced = False
    if kind is Kind.EDIT:
        message = _id_of(data.get("message_id"))
        inline = data.get("inline_message_id")
        if chat is None and isinstance(inline, str):
            # A lane for each such message: a refusal of one is none of all.
            chat, message = inline_chat(inline), inline
        # The last edit of a location and the end of a poll are not superseded by others.
        replaced = message is not None and method.startswith("editmessage")
        if message is not None and data.get("business_connection_id") is not None:
            # The counts of its chats start at zero.
            message = f"{data['business_connection_id']}:{message}"
    elif kind is Kind.TYPING:
        # Each topic of a group shows its own.
        message = _id_of(data.get("message_thread_id"))
        replaced = True
    elif method == "sendmessagedraft":
        message = f"draft:{data.get('draft_id')}"
        replaced = True
    elif is_delete(endpoint):
        given = data.get("message_ids", data.get("message_id"))
        ids = [_id_of(one) for one in (given if isinstance(given, list | tuple) else (given,))]
        message = tuple(one for one in ids if one is not None) or None
    return Request(
        endpoint,
        chat,
        message,
        cost=_cost_of(method, data),
        priority=priority,
        deadline=deadline,
        replaceable=replaced and replaceable,
        paid=bool(data.get("allow_paid_broadcast")),
        content=_content_of(data) if method in _TELL_WHAT_IS_SHOWN else None,
    )


def inline_chat(inline_message_id: str) -> str:
    """Stands for the chat of an inline message, which its bot is not told."""
    return f"inline:{inline_message_id}".lower()[:256]


def _chat_of(data: Mapping[str, Any], sends: bool) -> int | str | None:
    chat = data.get("chat_id")
    if chat is None and sends:
        chat = data.get("user_id")  # the receiver of a gift
    if isinstance(chat, str):
        return chat if 0 < len(chat.strip()) <= 256 else None
    return chat if isinstance(chat, int) and not isinstance(chat, bool) else None


def _id_of(value: object) -> int | None:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        return int(value)
    return None


def _content_of(data: Mapping[str, Any]) -> str | None:
    """All that decides what a message shows after an edit; None if it cannot be told."""
    shown = {name: value for name, value in data.items() if name not in _WHICH_MESSAGE}
    try:
        return json.dumps(shown, sort_keys=True, default=_plain)
    except (TypeError, ValueError, RecursionError):
        return None


def _plain(value: object) -> object:
    """An object of python-telegram-bot, or of pydantic as aiogram's are, in what JSON has."""
    for name in ("to_dict", "model_dump"):
        convert = getattr(value, name, None)
        if callable(convert):
            return convert()
    raise TypeError


def _cost_of(method: str, data: Mapping[str, Any]) -> int:
    """Messages that the request makes."""
    if method == "sendmediagroup":
        items = data.get("media")
    elif method in ("forwardmessages", "copymessages"):
        items = data.get("message_ids")
    else:
        return 1
    if isinstance(items, str) and len(items) <= _MAX_JSON:
        try:
            items = json.loads(items)
        except (ValueError, RecursionError):
            return 1
    return max(1, min(len(items), 10_000)) if isinstance(items, list | tuple) else 1
