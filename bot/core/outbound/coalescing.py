"""Requests that wait, and those that a later one makes needless (pure)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import Any

from bot.core.outbound.models import Chat, Kind, Priority, plain_method

Key = tuple[Hashable, ...]


class Claim:
    """One caller's wish to send. The last claim of an entry is the one that is sent for all of them."""

    __slots__ = ("chat", "content", "deadline", "entry", "expires_at", "future", "message")

    def __init__(self, entry: Entry, now: float, deadline: float | None) -> None:
        # None once it is over for this caller. Changed by the scheduler.
        self.entry: Entry | None = entry
        self.chat = entry.chat
        self.message = entry.message
        self.content = entry.content
        self.deadline = deadline
        self.expires_at = math.inf if deadline is None else now + deadline
        # How its caller is woken; the service's.
        self.future: Any = None


class Entry:
    """A place in a chat's lane, and who shares it."""

    __slots__ = (
        "answers", "attempts", "chat", "claims", "content", "cost", "departed", "key", "kind", "lane",
        "message", "paid", "priority", "reservation", "starved",
    )  # fmt: skip

    def __init__(
        self,
        kind: Kind,
        chat: Chat,
        *,
        cost: int = 1,
        priority: Priority = Priority.NOTIFY,
        key: Key | None = None,
        message: Key | None = None,
        content: bytes | None = None,
        paid: bool = False,
    ) -> None:
        self.kind = kind
        self.chat = chat
        self.cost = cost
        self.priority = priority
        self.key = key
        self.message = message
        # A digest of what its first caller's edit makes of the message; each claim has its own.
        self.content = content
        self.paid = paid
        self.claims: list[Claim] = []
        self.attempts = 0
        self.departed = 0.0
        # How it left, which is more than its own priority says: with an answer behind it, or after having
        # waited too long. Changed by the scheduler.
        self.answers = self.starved = False
        # Its place in windows that instances share. Changed by the shared budget.
        self.reservation: Any = None
        # The scheduler's Lane, while it waits or is in flight. Changed by the scheduler.
        self.lane: Any = None


def replaces(method: str, chat: Chat, message_id: object) -> Key:
    """What two requests have in common of which the later one makes the earlier needless."""
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


class Waiting:
    """The entries that wait and may be superseded or dropped: by what replaces them, and by message."""

    def __init__(self) -> None:
        # Only waiting entries, only those with a key or a message. Changed by add and remove.
        self._by_key: dict[Key, Entry] = {}
        self._by_message: dict[Key, dict[Entry, None]] = {}

    def like(self, key: Key | None) -> Entry | None:
        """The waiting entry whose place a new request of this key takes."""
        return None if key is None else self._by_key.get(key)

    def superseding(self, entry: Entry) -> Entry | None:
        """The waiting entry that makes one that comes back from its flight needless."""
        if entry.message is not None:
            others = self._by_message.get(entry.message, {})
            if len(others) != 1:
                return None  # it leaves before them
        return self.like(entry.key)

    def add(self, entry: Entry, *, first: bool = False) -> None:
        """It waits from now on, behind all others or (``first``) before them.

        A place that another edit of its message waits behind is not taken any more: the newer
        request would leave before that one, and the message would show the older of the two.
        """
        replaceable = entry.key is not None
        if entry.message is not None:
            others = self._by_message.setdefault(entry.message, {})
            if first and others:
                replaceable = False
            for other in others:
                if not first and other.key not in (None, entry.key) and self._by_key.get(other.key) is other:
                    del self._by_key[other.key]
            others[entry] = None
        if replaceable and entry.key is not None:
            self._by_key[entry.key] = entry

    def remove(self, entry: Entry) -> None:
        """It leaves, or nobody wants it any more."""
        if entry.key is not None and self._by_key.get(entry.key) is entry:
            del self._by_key[entry.key]
        if entry.message is not None:
            entries = self._by_message.get(entry.message)
            if entries is not None:
                entries.pop(entry, None)
                if not entries:
                    del self._by_message[entry.message]

    def of_messages(self, chat: Chat, message_id: object) -> Iterator[Entry]:
        """The waiting edits of a message, or of several (a tuple or list of ids)."""
        for message in messages_of(chat, message_id):
            yield from self.of_message(message)

    def of_message(self, message: Key) -> list[Entry]:
        """The waiting edits of one message."""
        return list(self._by_message.get(message, ()))

    def entries(self) -> set[Entry]:
        """All that is held here, for check_invariants."""
        found = set(self._by_key.values())
        for entries in self._by_message.values():
            found |= entries.keys()
        return found
