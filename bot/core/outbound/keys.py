"""What two requests have in common of which the later one makes the earlier needless (pure)."""

from __future__ import annotations

from collections.abc import Hashable

from bot.core.outbound.models import Chat, plain_method

Key = tuple[Hashable, ...]


def replaces(method: str, chat: Chat, message_id: object) -> Key:
    """Equal for two requests of which the later one makes the earlier needless."""
    return (plain_method(method), *message_of(chat, message_id))


def message_of(chat: Chat, message_id: object) -> Key:
    """The message that an edit changes."""
    if type(message_id) is str and message_id.isascii() and message_id.isdecimal() and len(message_id) <= 20:
        return (chat, int(message_id))
    return (chat, message_id)


def messages_of(chat: Chat, message_id: object) -> list[Key]:
    """One message, or several (a tuple or list of ids)."""
    ids = message_id if isinstance(message_id, tuple | list) else (message_id,)
    return [message_of(chat, one) for one in ids]
