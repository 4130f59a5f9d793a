"""Accounts, chats, messages and files of a :class:`~bot.testing.mtproto.MTProtoServer`, as raw types."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

from pyrogram import raw
from pyrogram.raw.core import TLObject

from bot.testing.telegram_limits import Kind

types: Any = raw.types
"""pyrogram's types, whose module exports each when it is asked for."""

_CHANNELS_BELOW = -1_000_000_000_000
_SENDS = ("SendMessage", "SendMedia", "SendMultiMedia", "ForwardMessages", "SendInlineBotResult")
_DATE = 1_700_000_000
_ACCESS_HASH = 1


class RawRequest:
    """A request as it came: ``at`` and ``answered`` are the event loop's seconds.

    ``method``: ``messages.SendMessage``. ``chat``: as in the Bot API; None for none. ``outcome``: "ok", the
    error's text, or None while it hangs or after its client gave up. ``in_penalty``: it came before the time
    that an earlier refusal had told. Of file parts ``query.bytes`` is emptied.
    """

    __slots__ = ("account", "answered", "at", "chat", "in_penalty", "is_media", "method", "outcome", "query")

    def __init__(self, at: float, account: int, method: str, query: Any, *, is_media: bool) -> None:
        self.at = at
        self.account = account
        self.method = method
        self.query = query
        self.is_media = is_media
        self.chat: int | None = None
        self.outcome: str | None = None
        self.answered: float | None = None
        self.in_penalty = False

    @property
    def kind(self) -> Kind:
        """What it is for the limits."""
        name = self.method.rpartition(".")[2]
        if name in _SENDS:
            return "message"
        return "edit" if name == "EditMessage" else "action" if name == "SetTyping" else "other"

    @property
    def cost(self) -> int:
        """Messages that it makes."""
        if self.method == "messages.SendMultiMedia":
            return len(self.query.multi_media)
        return len(self.query.id) if self.method == "messages.ForwardMessages" else 1

    @property
    def is_paid(self) -> bool:
        """Whether it is a paid broadcast."""
        return bool(getattr(self.query, "allow_paid_floodskip", None))

    @property
    def text(self) -> str | None:
        """The text of a message or an edit."""
        return getattr(self.query, "message", None)

    def forget_bytes(self) -> None:
        """Keep no file in memory. The part's sender has its answer, or gave up on it."""
        if self.outcome == "ok" and isinstance(getattr(self.query, "bytes", None), bytes):
            self.query.bytes = b""

    def __repr__(self) -> str:
        return f"<{self.at:.3f} {self.method} chat={self.chat} {self.outcome}>"


def unwrapped(query: Any) -> Any:
    """The function without InvokeWithoutUpdates and the like."""
    while query.QUALNAME.startswith(("functions.InvokeWith", "functions.InvokeAfter")):
        query = query.query
    return query


def method_of(query: Any) -> str:
    """``messages.SendMessage``."""
    return str(query.QUALNAME).removeprefix("functions.")


def peer_of(chat: int) -> Any:
    """A chat's id as a raw peer."""
    if chat > 0:
        return types.PeerUser(user_id=chat)
    if chat > _CHANNELS_BELOW:
        return types.PeerChat(chat_id=-chat)
    return types.PeerChannel(channel_id=_CHANNELS_BELOW - chat)


def number_of(query: Any, account: int, world: World) -> int | None:
    """The chat that a function names, or that its messages are in."""
    for attribute in ("to_peer", "peer", "channel"):
        peer = getattr(query, attribute, None)
        if isinstance(peer, types.InputPeerSelf):
            return account
        for name, sign, base in (("channel_id", -1, _CHANNELS_BELOW), ("chat_id", -1, 0), ("user_id", 1, 0)):
            number = getattr(peer, name, None)
            if isinstance(number, int):
                return base + sign * number
    return None


def as_received(answer: Any) -> Any:
    """An answer as it looks after its way over a connection: what was left out of a list is an empty one."""
    if not isinstance(answer, TLObject):
        return answer
    return TLObject.read(BytesIO(answer.write()))


def error(text: str, code: int = 400) -> Any:
    """What Telegram answers with when it does not do something."""
    return types.RpcError(error_code=code, error_message=text)


class World:
    """What the server remembers. Users and basic groups share an account's numbers; a channel has its own."""

    def __init__(self) -> None:
        self.accounts: dict[int, str] = {}
        self._bots: set[int] = set()
        self._messages: dict[tuple[int, int], Any] = {}
        self._last: dict[int, int] = {}
        self._random: dict[int, set[int]] = {}
        self._files: dict[int, dict[int, list[tuple[int, str]]]] = {}
        self._media: dict[int, Any] = {}
        self._next = 1
        self._answers: dict[str, Callable[[int, Any], Any]] = {
            "auth.ImportBotAuthorization": self._sign_in,
            "updates.GetState": lambda me, query: types.updates.State(
                pts=1, qts=0, date=_DATE, seq=1, unread_count=0
            ),
            "updates.GetDifference": lambda me, query: types.updates.DifferenceEmpty(date=_DATE, seq=1),
            "updates.GetChannelDifference": lambda me, query: types.updates.ChannelDifferenceEmpty(
                pts=1, final=True
            ),
            "users.GetFullUser": self._full_user,
            "users.GetUsers": lambda me, query: [self.user(self._number(one, me)) for one in query.id],
            "messages.GetChats": lambda me, query: types.messages.Chats(
                chats=[self.chat(-one) for one in query.id]
            ),
            "channels.GetChannels": lambda me, query: types.messages.Chats(
                chats=[self.chat(_CHANNELS_BELOW - one.channel_id) for one in query.id]
            ),
            "messages.SendMessage": self._send_message,
            "messages.SendMedia": self._send_media,
            "messages.SendMultiMedia": self._send_multi_media,
            "messages.UploadMedia": lambda me, query: self._media_of(query.media),
            "messages.ForwardMessages": self._forward,
            "messages.EditMessage": self._edit,
            "messages.DeleteMessages": self._delete,
            "channels.DeleteMessages": self._delete,
            "messages.SetTyping": lambda me, query: True,
            "messages.SetBotCallbackAnswer": lambda me, query: True,
            "messages.SetInlineBotResults": lambda me, query: True,
            "messages.EditInlineBotMessage": lambda me, query: True,
            "upload.SaveFilePart": self._save_part,
            "upload.SaveBigFilePart": self._save_part,
        }

    def answer_to(self, method: str) -> Callable[[int, Any], Any] | None:
        """What answers a method, as a function of account and query."""
        return self._answers.get(method)

    # Accounts and chats.

    def add_account(self, number: int, name: str, is_bot: bool) -> None:
        """An account that may sign in."""
        self.accounts[number] = name
        if is_bot:
            self._bots.add(number)

    def user(self, number: int) -> Any:
        """Any user; they all exist."""
        name = self.accounts.get(number, f"User {number}")
        is_bot = number in self._bots
        return types.User(
            id=number,
            first_name=name,
            access_hash=_ACCESS_HASH,
            bot=is_bot or None,
            bot_info_version=1 if is_bot else None,
            username=f"{name}_bot" if is_bot else None,
        )

    def chat(self, number: int) -> Any:
        """Any basic group or supergroup; they all exist."""
        photo = types.ChatPhotoEmpty()
        if number > _CHANNELS_BELOW:
            return types.Chat(
                id=-number, title=f"Group {number}", photo=photo, participants_count=2, date=_DATE, version=1
            )
        return types.Channel(
            id=_CHANNELS_BELOW - number,
            title=f"Group {number}",
            photo=photo,
            date=_DATE,
            megagroup=True,
            access_hash=_ACCESS_HASH,
        )

    def _number(self, peer: Any, me: int) -> int:
        return int(getattr(peer, "user_id", me))

    def _sign_in(self, me: int, query: Any) -> Any:
        return types.auth.Authorization(user=self._self(me))

    def _self(self, me: int) -> Any:
        user = self.user(me)
        user.is_self = True
        return user

    def _full_user(self, me: int, query: Any) -> Any:
        number = self._number(query.id, me)
        full = types.UserFull(
            id=number,
            settings=types.PeerSettings(),
            notify_settings=types.PeerNotifySettings(),
            common_chats_count=0,
        )
        user = self._self(me) if number == me else self.user(number)
        return types.users.UserFull(full_user=full, chats=[], users=[user])

    # Messages.

    def add_message(self, me: int, chat: int, *, text: str = "", sender: int, **fields: Any) -> Any:
        """A new message in a chat."""
        numbering = chat if chat < _CHANNELS_BELOW else me
        number = self._last[numbering] = self._last.get(numbering, 0) + 1
        message = types.Message(
            id=number,
            peer_id=peer_of(chat),
            date=_DATE,
            message=text,
            out=sender == me or None,
            from_id=types.PeerUser(user_id=sender) if chat < 0 or sender == me else None,
            **fields,
        )
        self._messages[numbering, number] = message
        return message

    def text_of(self, me: int, chat: int, number: int) -> str | None:
        """A message's text; None if there is no such message."""
        message = self._messages.get((chat if chat < _CHANNELS_BELOW else me, number))
        return None if message is None else str(message.message)

    def _is_repeated(self, me: int, numbers: list[int]) -> bool:
        known = self._random.setdefault(me, set())
        if known.intersection(numbers):
            return True
        known.update(numbers)
        return False

    def _sent(self, me: int, chat: int, sent: list[tuple[int, Any]]) -> Any:
        channel = chat < _CHANNELS_BELOW
        kind = types.UpdateNewChannelMessage if channel else types.UpdateNewMessage
        updates: list[Any] = []
        for random_id, message in sent:
            updates.append(types.UpdateMessageID(id=message.id, random_id=random_id))
            updates.append(kind(message=message, pts=1, pts_count=1))
        return self._updates(me, chat, updates)

    def _updates(self, me: int, chat: int, updates: list[Any]) -> Any:
        users = [self._self(me)] if chat < 0 or chat == me else [self._self(me), self.user(chat)]
        chats = [self.chat(chat)] if chat < 0 else []
        return types.Updates(updates=updates, users=users, chats=chats, date=_DATE, seq=0)

    def _chat_of(self, me: int, query: Any) -> int:
        return number_of(query, me, self) or me

    def _send_message(self, me: int, query: Any) -> Any:
        if not query.message:
            return error("MESSAGE_EMPTY")
        if self._is_repeated(me, [query.random_id]):
            return error("RANDOM_ID_DUPLICATE", 500)
        chat = self._chat_of(me, query)
        message = self.add_message(
            me,
            chat,
            text=query.message,
            sender=me,
            entities=query.entities,
            reply_markup=query.reply_markup,
        )
        return self._sent(me, chat, [(query.random_id, message)])

    def _send_media(self, me: int, query: Any) -> Any:
        media = self._media_of(query.media)
        if isinstance(media, types.RpcError):
            return media
        if self._is_repeated(me, [query.random_id]):
            return error("RANDOM_ID_DUPLICATE", 500)
        chat = self._chat_of(me, query)
        message = self.add_message(me, chat, text=query.message, sender=me, media=media)
        return self._sent(me, chat, [(query.random_id, message)])

    def _send_multi_media(self, me: int, query: Any) -> Any:
        found = [self._media_of(one.media) for one in query.multi_media]
        for media in found:
            if isinstance(media, types.RpcError):
                return media
        if self._is_repeated(me, [one.random_id for one in query.multi_media]):
            return error("RANDOM_ID_DUPLICATE", 500)
        chat = self._chat_of(me, query)
        self._next += 1
        sent = []
        for one, media in zip(query.multi_media, found, strict=True):
            message = self.add_message(
                me, chat, text=one.message, sender=me, media=media, grouped_id=self._next
            )
            sent.append((one.random_id, message))
        return self._sent(me, chat, sent)

    def _forward(self, me: int, query: Any) -> Any:
        if self._is_repeated(me, query.random_id):
            return error("RANDOM_ID_DUPLICATE", 500)
        chat = self._chat_of(me, query)
        header = types.MessageFwdHeader(date=_DATE, from_name="somebody")
        sent = [
            (random_id, self.add_message(me, chat, text=f"forwarded {number}", sender=me, fwd_from=header))
            for number, random_id in zip(query.id, query.random_id, strict=True)
        ]
        return self._sent(me, chat, sent)

    def _edit(self, me: int, query: Any) -> Any:
        chat = self._chat_of(me, query)
        message = self._messages.get((chat if chat < _CHANNELS_BELOW else me, query.id))
        if message is None:
            return error("MESSAGE_ID_INVALID")
        media = None if query.media is None else self._media_of(query.media)
        if isinstance(media, types.RpcError):
            return media
        text = message.message if query.message is None else query.message
        if (text, query.reply_markup) == (message.message, message.reply_markup) and media is None:
            return error("MESSAGE_NOT_MODIFIED")
        message.message = text
        message.reply_markup = query.reply_markup
        message.media = media if media is not None else message.media
        channel = chat < _CHANNELS_BELOW
        kind = types.UpdateEditChannelMessage if channel else types.UpdateEditMessage
        return self._updates(me, chat, [kind(message=message, pts=1, pts_count=1)])

    def _delete(self, me: int, query: Any) -> Any:
        chat = number_of(query, me, self)
        numbering = me if chat is None else chat
        deleted = sum(self._messages.pop((numbering, one), None) is not None for one in query.id)
        return types.messages.AffectedMessages(pts=1, pts_count=deleted)

    # Files.

    def _save_part(self, me: int, query: Any) -> bool:
        digest = hashlib.blake2b(query.bytes, digest_size=16).hexdigest()
        parts = self._files.setdefault(query.file_id, {})
        parts.setdefault(query.file_part, []).append((len(query.bytes), digest))
        return True

    def parts_of(self, file_id: int | None) -> dict[int, list[tuple[int, str]]]:
        """Each time that each part came."""
        if file_id is None:
            if len(self._files) != 1:
                raise LookupError(f"{len(self._files)} files were uploaded: {sorted(self._files)}")
            file_id = next(iter(self._files))
        return self._files.get(file_id, {})

    def _media_of(self, media: Any) -> Any:
        """An InputMedia as what a message shows; an error if parts of its file are missing."""
        known = self._media.get(getattr(getattr(media, "id", None), "id", 0))
        if known is not None:
            return known
        file = getattr(media, "file", None)
        size = 0
        if file is not None:
            parts = self._files.get(file.id, {})
            for part in range(file.parts):
                if part not in parts:
                    return error(f"FILE_PART_{part}_MISSING")
            size = sum(received[-1][0] for received in parts.values())
        self._next += 1
        if "Photo" in type(media).__name__:
            sizes: list[Any] = [types.PhotoSize(type="m", w=100, h=100, size=size)]
            photo = types.Photo(
                id=self._next,
                access_hash=_ACCESS_HASH,
                file_reference=b"",
                date=_DATE,
                sizes=sizes,
                dc_id=2,
            )
            self._media[self._next] = shown = types.MessageMediaPhoto(photo=photo)
            return shown
        document = types.Document(
            id=self._next,
            access_hash=_ACCESS_HASH,
            file_reference=b"",
            date=_DATE,
            mime_type=getattr(media, "mime_type", "application/octet-stream"),
            size=size,
            dc_id=2,
            attributes=getattr(media, "attributes", []),
        )
        shown_document = types.MessageMediaDocument(document=document)
        self._media[self._next] = shown_document
        return shown_document
