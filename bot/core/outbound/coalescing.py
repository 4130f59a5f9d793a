"""The requests that wait and that a later one may make needless (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from bot.core.outbound.keys import Key, messages_of
from bot.core.outbound.lanes import Entry
from bot.core.outbound.models import Chat


class Replaceable:
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
