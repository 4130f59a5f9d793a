"""Users, chats, messages and files as Telegram shows them to bots, held in memory for a test."""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from bot.core._shared.clock import Clock
from bot.core._shared.errors import invalid

Json = dict[str, Any]

MAX_MESSAGES = 10_000
"""Messages of a chat that are kept; older ones are as if deleted."""

MAX_FILE_BYTES = 50 * 1024 * 1024
"""What a bot may upload, as with the public Bot API."""

MAX_STORED_BYTES = 256 * 1024 * 1024
"""Bytes of files that are kept for downloads; the oldest go first."""

_FULL_INFO = {
    "accent_color_id": 0,
    "max_reaction_count": 11,
    "accepted_gift_types": {
        "unlimited_gifts": True,
        "limited_gifts": True,
        "unique_gifts": True,
        "premium_subscription": True,
        "gifts_from_channels": True,
    },
}


class ApiError(Exception):
    """An answer that is not ok. ``parameters`` are its ResponseParameters."""

    def __init__(self, code: int, description: str, **parameters: int) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.parameters = parameters


def bad(description: str) -> ApiError:
    """The error 400 with Telegram's prefix."""
    return ApiError(400, f"Bad Request: {description}")


class StoredFile(Struct, kw_only=True):
    """A file that was uploaded, or named by a URL: then without content."""

    file_id: str
    unique_id: str
    name: str
    mime: str
    size: int
    path: str
    content: bytes | None


class World:
    """What all bots of a server see. Not for use by two threads."""

    def __init__(self, clock: Clock, *, create_chats: bool = True) -> None:
        self._clock = clock
        self._create = create_chats
        self.users: dict[int, Json] = {}
        self.chats: dict[int, Json] = {}
        self.blocked: set[int] = set()
        self.deactivated: set[int] = set()
        self.missing: set[int] = set()
        self.migrated: dict[int, int] = {}
        self.administrators: dict[int, set[int]] = {}
        self.files: OrderedDict[str, StoredFile] = OrderedDict()
        self._names: dict[str, int] = {}
        self._messages: dict[int, OrderedDict[int, Json]] = {}
        self._next_message: dict[int, int] = {}
        self._file_numbers = itertools.count(1)
        self._stored = 0

    def now(self) -> int:
        """The time as messages carry it."""
        return int(self._clock.time())

    # Users and chats.

    def user(self, user: int | Mapping[str, Any]) -> Json:
        """The user with an id, made on first use; a mapping sets fields such as first_name."""
        given = dict(user) if isinstance(user, Mapping) else {"id": user}
        number = given.get("id")
        if type(number) is not int or number <= 0:
            raise invalid("user", user, "a user's id above 0, or a mapping with one")
        known = self.users.setdefault(number, {"id": number, "is_bot": False, "first_name": f"User {number}"})
        known.update(given)
        return known

    def chat(self, chat: int | Mapping[str, Any]) -> Json:
        """The chat with an id, made on first use; a mapping sets fields such as title, username and type."""
        given = dict(chat) if isinstance(chat, Mapping) else {"id": chat}
        number = given.get("id")
        if type(number) is not int or number == 0:
            raise invalid("chat", chat, "a chat's id, or a mapping with one")
        known = self.chats.get(number)
        if known is None:
            if number > 0:
                user = self.user(number)
                fields = ("first_name", "last_name", "username")
                known = {"id": number, "type": "private"} | {key: user[key] for key in fields if key in user}
            else:
                kind = "supergroup" if number < -1_000_000_000_000 else "group"
                known = {"id": number, "type": kind, "title": f"Chat {number}"}
            self.chats[number] = known
        known.update(given)
        if name := known.get("username"):
            self._names[str(name).lower()] = number
        return known

    def full_info(self, chat: Json) -> Json:
        """The chat as getChat answers."""
        return {**_FULL_INFO, **chat}

    def reach(self, given: object) -> Json:
        """The chat that a bot names by id or @name, if it may write there; raises ApiError otherwise."""
        number = self._number(given)
        if number in self.migrated:
            raise ApiError(
                400,
                "Bad Request: group chat was upgraded to a supergroup chat",
                migrate_to_chat_id=self.migrated[number],
            )
        if number in self.missing or (number not in self.chats and not self._create):
            raise bad("chat not found")
        if number in self.deactivated:
            raise ApiError(403, "Forbidden: user is deactivated")
        if number in self.blocked:
            told = "bot was blocked by the user" if number > 0 else "bot was kicked from the group chat"
            raise ApiError(403, f"Forbidden: {told}")
        return self.chat(number)

    def _number(self, given: object) -> int:
        if given is None or given == "":
            raise bad("chat_id is empty")
        text = str(given).strip()
        if text.startswith("@"):
            number = self._names.get(text[1:].lower())
            if number is None:
                raise bad("chat not found")
            return number
        try:
            number = int(text)
        except ValueError:
            raise bad("chat not found") from None
        if number == 0 or abs(number) >= 1 << 52:
            raise bad("chat not found")
        return number

    # Messages.

    def add(self, chat: Json, fields: Mapping[str, Any]) -> Json:
        """A new message in a chat, as it is kept: with its id and date."""
        number = int(chat["id"])
        message_id = self._next_message.get(number, 1)
        self._next_message[number] = message_id + 1
        message = {"message_id": message_id, "date": self.now(), "chat": dict(chat), **fields}
        kept = self._messages.setdefault(number, OrderedDict())
        kept[message_id] = message
        if len(kept) > MAX_MESSAGES:
            kept.popitem(last=False)
        return message

    def find(self, chat: Json, message_id: int) -> Json | None:
        """A message that is shown now."""
        kept = self._messages.get(int(chat["id"]))
        return None if kept is None else kept.get(message_id)

    def remove(self, chat: Json, message_id: int) -> bool:
        """Whether there was such a message, which is gone now."""
        return self._messages.get(int(chat["id"]), OrderedDict()).pop(message_id, None) is not None

    def shown(self, chat: int) -> list[Json]:
        """The chat's messages as shown now, oldest first."""
        return list(self._messages.get(chat, {}).values())

    # Files.

    def store(self, content: bytes | None, name: str, mime: str, folder: str, unique: str = "") -> StoredFile:
        """Keep a file; ``unique`` tells equal ones, by default by their content."""
        number = next(self._file_numbers)
        digest = hashlib.sha256(content if content is not None else unique.encode()).hexdigest()
        suffix = f".{name.rsplit('.', 1)[-1]}" if "." in name and name.isascii() and "/" not in name else ""
        stored = StoredFile(
            file_id=f"test-file-{number}-{digest[:24]}",
            unique_id=digest[:16],
            name=name,
            mime=mime,
            size=len(content or b""),
            path=f"{folder}/file_{number}{suffix}",
            content=content,
        )
        self.files[stored.file_id] = stored
        self._stored += stored.size
        while self._stored > MAX_STORED_BYTES or len(self.files) > 100_000:
            self._stored -= self.files.popitem(last=False)[1].size
        return stored
