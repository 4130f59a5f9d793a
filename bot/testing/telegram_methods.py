"""The Bot API's methods that the test server knows: each checks its arguments and plans the rest."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from bot.testing.telegram_bodies import Arguments
from bot.testing.telegram_bots import BotAccount
from bot.testing.telegram_limits import Kind
from bot.testing.telegram_text import MarkupError, from_html, units
from bot.testing.telegram_world import ApiError, Json, StoredFile, World, bad


class Planned(NamedTuple):
    """A valid request: what it counts as, and what it does once the limits let it."""

    commit: Callable[[int], Any]
    """Does it, for so many of its messages: the result."""
    kind: Kind = "other"
    chat: int | None = None
    cost: int = 1
    album: bool = False


class Context(NamedTuple):
    """Who asks what."""

    world: World
    bot: BotAccount
    method: str
    given: Arguments


Method = Callable[[Context], Planned]
METHODS: dict[str, tuple[str, Method]] = {}
"""By name in lower case: the name as the API spells it, and what it does."""

_groups = itertools.count(1)

MAX_TEXT, MAX_CAPTION = 4096, 1024


def method(*names: str) -> Callable[[Method], Method]:
    """Register a function for the methods of these names."""

    def register(function: Method) -> Method:
        for name in names:
            METHODS[name.lower()] = (name, function)
        return function

    return register


def answer(result: Any) -> Planned:
    """Nothing is limited or done; the result is known."""
    return Planned(lambda _: result)


# Texts.


def _formatted(context: Context, text: str, entities: Any, mode: str, most: int) -> Json:
    """``text`` and ``entities`` as a message has them."""
    found: list[Json] = entities if isinstance(entities, list) else []
    if mode.lower() == "html":
        try:
            text, found = from_html(text)
        except MarkupError as error:
            raise bad(f"can't parse entities: {error}") from None
    if units(text) > most:
        raise bad("message is too long" if most == MAX_TEXT else "message caption is too long")
    return {"text": text.strip(), "entities": found} if found else {"text": text.strip()}


def _text(context: Context) -> Json:
    given = context.given
    fields = _formatted(
        context, given.text("text"), given.value("entities"), given.text("parse_mode"), MAX_TEXT
    )
    if not fields["text"]:
        raise bad("message text is empty")
    return fields


def _caption(context: Context, given: Json | None = None) -> Json:
    if given is None:
        read = context.given
        given = {
            "caption": read.text("caption"),
            "caption_entities": read.value("caption_entities"),
            "parse_mode": read.text("parse_mode"),
        }
    if not given.get("caption"):
        return {}
    fields = _formatted(
        context,
        str(given["caption"]),
        given.get("caption_entities"),
        str(given.get("parse_mode") or ""),
        MAX_CAPTION,
    )
    renamed = {"caption": fields["text"]}
    return renamed | ({"caption_entities": fields["entities"]} if "entities" in fields else {})


# Files.

_MEDIA = ("animation", "audio", "document", "photo", "sticker", "video", "video_note", "voice")


def _file(context: Context, given: object, kind: str, field: str = "") -> StoredFile:
    """The file that a parameter names: an upload, the id of a file, or a URL."""
    uploads = context.given.uploads
    if isinstance(given, str) and given.startswith("attach://"):
        field, given = given.removeprefix("attach://"), None
    if given is None or given == "":
        upload = uploads.get(field)
        if upload is None:
            raise bad(f"there is no {kind} in the request")
        if not upload.content:
            raise bad("file must be non-empty")
        return context.world.store(upload.content, upload.name, upload.mime, f"{kind}s")
    text = str(given)
    known = context.world.files.get(text)
    if known is not None:
        return known
    if text.startswith(("http://", "https://")):
        name = text.rsplit("/", 1)[-1] or kind
        return context.world.store(None, name, "application/octet-stream", f"{kind}s", unique=text)
    raise bad("wrong file identifier/HTTP URL specified")


def _media(kind: str, stored: StoredFile, given: Json) -> Json:
    """The field of a message that shows a file."""
    described: Json = {
        "file_id": stored.file_id,
        "file_unique_id": stored.unique_id,
        "file_size": stored.size,
    }
    size = {"width": int(given.get("width") or 320), "height": int(given.get("height") or 240)}
    named = {"file_name": stored.name, "mime_type": stored.mime}
    duration = {"duration": int(given.get("duration") or 0)}
    if kind == "photo":
        return {"photo": [described | size]}
    if kind == "sticker":
        return {"sticker": described | size | {"type": "regular", "is_animated": False, "is_video": False}}
    if kind == "video_note":
        return {"video_note": described | duration | {"length": int(given.get("length") or 240)}}
    if kind in ("video", "animation"):
        shown = {kind: described | size | duration | named}
        # An animation is a document, too, for clients that do not know them.
        return shown | ({"document": described | named} if kind == "animation" else {})
    if kind in ("audio", "voice"):
        titled = {key: given[key] for key in ("title", "performer") if given.get(key)}
        return {kind: described | duration | named | (titled if kind == "audio" else {})}
    return {"document": described | named}


# Sending.


def _common(context: Context) -> Json:
    """What every message of a bot has, and what its parameters add."""
    given, world = context.given, context.world
    fields: Json = {"from": dict(context.bot.user)}
    if markup := given.mapping("reply_markup"):
        # Only inline keyboards are part of a message.
        fields |= {"reply_markup": markup} if "inline_keyboard" in markup else {}
    if thread := given.number("message_thread_id"):
        fields |= {"message_thread_id": thread, "is_topic_message": True}
    if given.flag("protect_content"):
        fields["has_protected_content"] = True
    reply = given.mapping("reply_parameters") or {}
    wanted = reply.get("message_id") or given.number("reply_to_message_id")
    if wanted:
        target = world.find(world.reach(given.given.get("chat_id")), int(wanted))
        if target is not None:
            fields["reply_to_message"] = {k: v for k, v in target.items() if k != "reply_to_message"}
        elif not (reply.get("allow_sending_without_reply") or given.flag("allow_sending_without_reply")):
            raise bad("message to be replied not found")
    return fields


def _post(context: Context, content: Json) -> Planned:
    """One message to the chat that the request names."""
    world = context.world
    chat = world.reach(context.given.given.get("chat_id"))
    fields = _common(context) | content
    return Planned(lambda _: world.add(chat, fields), "message", chat["id"])


@method("sendMessage")
def send_message(context: Context) -> Planned:
    return _post(context, _text(context))


@method(
    "sendAnimation",
    "sendAudio",
    "sendDocument",
    "sendPhoto",
    "sendSticker",
    "sendVideo",
    "sendVideoNote",
    "sendVoice",
)
def send_media(context: Context) -> Planned:
    kind = {"sendVideoNote": "video_note"}.get(context.method, context.method.removeprefix("send").lower())
    context.world.reach(context.given.given.get("chat_id"))
    caption = _caption(context)
    stored = _file(context, context.given.given.get(kind), kind, field=kind)
    return _post(context, _media(kind, stored, context.given.given) | caption)


@method("sendContact", "sendDice", "sendLocation", "sendPoll", "sendVenue")
def send_object(context: Context) -> Planned:
    given = context.given
    kind = context.method.removeprefix("send").lower()
    place = {"latitude": _coordinate(given, "latitude"), "longitude": _coordinate(given, "longitude")}
    if kind == "contact":
        return _post(
            context,
            {"contact": {key: given.text(key) for key in ("phone_number", "first_name", "last_name")}},
        )
    if kind == "dice":
        return _post(context, {"dice": {"emoji": given.text("emoji") or "🎲", "value": 1}})
    if kind == "location":
        return _post(context, {"location": place})
    if kind == "venue":
        venue = {"location": place, "title": given.text("title"), "address": given.text("address")}
        return _post(context, {"venue": venue, "location": place})
    options = given.listed("options")
    if not 2 <= len(options) <= 12:
        raise bad("poll must have from 2 to 12 options")
    texts = [option.get("text", "") if isinstance(option, dict) else str(option) for option in options]
    poll = {
        "id": f"poll-{next(_groups)}",
        "question": given.text("question"),
        "options": [
            {"persistent_id": str(index), "text": text, "voter_count": 0} for index, text in enumerate(texts)
        ],
        "total_voter_count": 0,
        "is_closed": False,
        "is_anonymous": given.text("is_anonymous").lower() != "false",
        "type": given.text("type") or "regular",
        "allows_multiple_answers": given.flag("allows_multiple_answers"),
        "allows_revoting": True,
        "members_only": False,
    }
    return _post(context, {"poll": poll})


def _coordinate(given: Arguments, name: str) -> float:
    try:
        return float(given.text(name) or 0)
    except ValueError:
        raise bad(f"invalid {name} specified") from None


@method("sendMediaGroup")
def send_media_group(context: Context) -> Planned:
    world = context.world
    chat = world.reach(context.given.given.get("chat_id"))
    items = context.given.listed("media")
    if not 2 <= len(items) <= 10:
        raise bad("group send failed: an album has from 2 to 10 items")
    contents = []
    for item in items:
        if not isinstance(item, dict) or item.get("type") not in ("audio", "document", "photo", "video"):
            raise bad("can't parse InputMedia: type must be audio, document, photo or video")
        caption = _caption(context, item)
        contents.append(_media(item["type"], _file(context, item.get("media"), item["type"]), item) | caption)
    common = _common(context) | {"media_group_id": str(next(_groups))}
    return Planned(
        lambda admitted: [world.add(chat, common | content) for content in contents[:admitted]],
        "message",
        chat["id"],
        len(contents),
        album=True,
    )


@method("copyMessage", "forwardMessage", "copyMessages", "forwardMessages")
def copy_or_forward(context: Context) -> Planned:
    world, given = context.world, context.given
    many = context.method.endswith("s")
    forward = context.method.startswith("forward")
    chat = world.reach(given.given.get("chat_id"))
    source = world.reach(given.given.get("from_chat_id"))
    ids = given.listed("message_ids") if many else [given.number("message_id")]
    if many and not 1 <= len(ids) <= 100:
        raise bad("the number of messages must be from 1 to 100")
    found = [message for one in ids if (message := world.find(source, _integer(one))) is not None]
    if not found:
        raise bad(f"message to {'forward' if forward else 'copy'} not found")
    common = {"from": dict(context.bot.user)} if forward else _common(context)
    caption = {} if many or forward else _caption(context)

    def commit(admitted: int) -> Any:
        sent = []
        for message in found:
            content = {key: value for key, value in message.items() if key not in _OF_ITS_CHAT}
            if forward:
                origin = {
                    "type": "user",
                    "date": message["date"],
                    "sender_user": message.get("from", dict(context.bot.user)),
                }
                content |= {"forward_origin": origin}
            sent.append(world.add(chat, content | common | caption))
        if not many:
            return sent[0] if forward else {"message_id": sent[0]["message_id"]}
        return [{"message_id": message["message_id"]} for message in sent]

    return Planned(commit, "message", chat["id"], len(found))


_OF_ITS_CHAT = frozenset(
    "message_id date chat from edit_date reply_to_message message_thread_id is_topic_message reply_markup "
    "forward_origin media_group_id".split()
)


def _integer(value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise bad("message identifier is not specified") from None


@method("sendChatAction")
def send_chat_action(context: Context) -> Planned:
    chat = context.world.reach(context.given.given.get("chat_id"))
    action = context.given.text("action")
    if not action.startswith(("typing", "upload_", "record_", "choose_", "find_")):
        raise bad("wrong parameter action in request")
    return Planned(lambda _: True, "action", chat["id"])


# Editing and deleting.

_NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup are exactly the same as a "
    "current content and reply markup of the message"
)


@method("editMessageText", "editMessageCaption", "editMessageReplyMarkup", "editMessageMedia")
def edit_message(context: Context) -> Planned:
    world, given = context.world, context.given
    inline = given.text("inline_message_id")
    chat = None if inline else world.reach(given.given.get("chat_id"))
    message = {} if chat is None else _editable(context, chat)
    content: Json = {}
    dropped: tuple[str, ...] = ()
    if context.method == "editMessageText":
        content, dropped = _text(context), ("text", "entities")
        if chat is not None and "text" not in message:
            raise bad("there is no text in the message to edit")
    elif context.method == "editMessageCaption":
        content, dropped = _caption(context), ("caption", "caption_entities")
    elif context.method == "editMessageMedia":
        item = given.mapping("media") or {}
        if item.get("type") not in ("animation", "audio", "document", "photo", "video"):
            raise bad("can't parse InputMedia: type is wrong")
        content = _media(item["type"], _file(context, item.get("media"), item["type"]), item)
        content |= _caption(context, item)
        dropped = (*_MEDIA, "text", "entities", "caption", "caption_entities")
    markup = given.mapping("reply_markup")
    content |= {"reply_markup": markup} if markup and markup.get("inline_keyboard") else {}
    if chat is None:
        return _edit_inline(context, inline, content)
    edited = {key: value for key, value in message.items() if key not in (*dropped, "reply_markup")} | content
    if _same(edited, message):
        raise bad(_NOT_MODIFIED)

    def commit(admitted: int) -> Json:
        message.clear()
        message.update(edited | {"edit_date": world.now()})
        return message

    return Planned(commit, "edit", chat["id"])


def _edit_inline(context: Context, inline: str, content: Json) -> Planned:
    """Messages sent by way of inline mode: nobody knows their chat, so no limit of a chat meets them."""
    known: dict[str, Json] = context.bot.settings.setdefault("inline_messages", {})
    if _same(known.get(inline), content):
        raise bad(_NOT_MODIFIED)
    if inline not in known and len(known) >= 10_000:
        raise bad("MESSAGE_ID_INVALID")

    def commit(admitted: int) -> bool:
        known[inline] = content
        return True

    return Planned(commit)


def _same(one: object, other: object) -> bool:
    """Equal but for ids that each upload gets anew."""

    def without_ids(value: object) -> object:
        if isinstance(value, dict):
            return {
                key: without_ids(item) for key, item in value.items() if key not in ("file_id", "edit_date")
            }
        return [without_ids(item) for item in value] if isinstance(value, list) else value

    return without_ids(one) == without_ids(other)


def _editable(context: Context, chat: Json) -> Json:
    message_id = context.given.number("message_id")
    if not message_id:
        raise bad("message identifier is not specified")
    message = context.world.find(chat, message_id)
    if message is None:
        raise bad("message to edit not found")
    if message.get("from", {}).get("id") != context.bot.id:
        raise bad("message can't be edited")
    return message


@method("deleteMessage", "deleteMessages")
def delete_messages(context: Context) -> Planned:
    world, given = context.world, context.given
    chat = world.reach(given.given.get("chat_id"))
    if context.method == "deleteMessage":
        message_id = given.number("message_id")
        if world.find(chat, message_id) is None:
            raise bad("message to delete not found")
        ids = [message_id]
    else:
        ids = [_integer(one) for one in given.listed("message_ids")]
        if not 1 <= len(ids) <= 100:
            raise bad("the number of messages must be from 1 to 100")

    def commit(admitted: int) -> bool:
        for one in ids:
            world.remove(chat, one)
        return True

    return Planned(commit, chat=chat["id"])


@method("stopPoll")
def stop_poll(context: Context) -> Planned:
    chat = context.world.reach(context.given.given.get("chat_id"))
    message = _editable(context, chat)
    if "poll" not in message:
        raise bad("message with poll to stop not found")
    if message["poll"]["is_closed"]:
        raise bad("poll has already been closed")

    def commit(admitted: int) -> Json:
        message["poll"] = message["poll"] | {"is_closed": True}
        return dict(message["poll"])

    return Planned(commit, "edit", chat["id"])


# Queries.


@method("answerCallbackQuery", "answerInlineQuery", "answerPreCheckoutQuery", "answerShippingQuery")
def answer_query(context: Context) -> Planned:
    names = ("callback_query_id", "inline_query_id", "pre_checkout_query_id", "shipping_query_id")
    query = next((text for name in names if (text := context.given.text(name))), "")
    if query not in context.bot.queries:
        raise bad("query is too old and response timeout expired or query ID is invalid")

    def commit(admitted: int) -> bool:
        context.bot.queries[query] = context.given.logged()
        return True

    return Planned(commit)


# Reading.


@method("getMe")
def get_me(context: Context) -> Planned:
    abilities = {
        "can_join_groups": True,
        "can_read_all_group_messages": True,
        "supports_inline_queries": True,
        "can_connect_to_business": False,
        "has_main_web_app": False,
    }
    return answer(context.bot.user | abilities)


@method("getChat")
def get_chat(context: Context) -> Planned:
    return answer(context.world.full_info(context.world.reach(context.given.given.get("chat_id"))))


@method("getChatMember", "getChatAdministrators", "getChatMemberCount")
def get_members(context: Context) -> Planned:
    world = context.world
    chat = world.reach(context.given.given.get("chat_id"))
    admins = world.administrators.get(chat["id"], set())
    if context.method == "getChatMemberCount":
        return answer(max(2, len(admins) + 1))
    if context.method == "getChatAdministrators":
        return answer([_member(world, user, admins) for user in sorted(admins)])
    user = context.given.number("user_id")
    if user == context.bot.id:
        return answer({"status": "member", "user": dict(context.bot.user)})
    if user not in world.users:
        raise bad("user not found")
    return answer(_member(world, user, admins))


def _member(world: World, user: int, admins: set[int]) -> Json:
    if user in admins:
        return {"status": "creator", "user": world.user(user), "is_anonymous": False}
    return {"status": "member", "user": world.user(user)}


@method("getFile")
def get_file(context: Context) -> Planned:
    stored = context.world.files.get(context.given.text("file_id"))
    if stored is None:
        raise bad("invalid file_id")
    if stored.size > 20 * 1024 * 1024:
        raise bad("file is too big")
    return answer(
        {
            "file_id": stored.file_id,
            "file_unique_id": stored.unique_id,
            "file_size": stored.size,
            "file_path": stored.path,
        }
    )


@method("getUserProfilePhotos")
def get_profile_photos(context: Context) -> Planned:
    return answer({"total_count": 0, "photos": []})


# Settings: kept and given back.

_SETTINGS = {
    "setMyCommands": "getMyCommands",
    "setMyName": "getMyName",
    "setMyDescription": "getMyDescription",
    "setMyShortDescription": "getMyShortDescription",
    "setChatMenuButton": "getChatMenuButton",
}


@method(*_SETTINGS, "deleteMyCommands")
def set_setting(context: Context) -> Planned:
    name = _SETTINGS.get(context.method, "getMyCommands")
    scope = json.dumps([context.given.value("scope"), context.given.text("language_code")], sort_keys=True)
    kept: dict[str, Json] = context.bot.settings.setdefault(name, {})
    if context.method == "setMyCommands" and len(context.given.listed("commands")) > 100:
        raise bad("BOT_COMMANDS_TOO_MUCH")
    if scope not in kept and len(kept) >= 1_000:
        raise bad("too many scopes")

    def commit(admitted: int) -> bool:
        kept[scope] = {} if context.method == "deleteMyCommands" else dict(context.given.given)
        return True

    return Planned(commit)


@method(*_SETTINGS.values())
def get_setting(context: Context) -> Planned:
    scope = json.dumps([context.given.value("scope"), context.given.text("language_code")], sort_keys=True)
    kept: Json = context.bot.settings.get(context.method, {}).get(scope, {})
    if context.method == "getMyCommands":
        return answer(Arguments(kept, {}).listed("commands"))
    if context.method == "getChatMenuButton":
        return answer(Arguments(kept, {}).mapping("menu_button") or {"type": "commands"})
    field = {"getMyName": "name", "getMyDescription": "description"}.get(context.method, "short_description")
    otherwise = context.bot.user["first_name"] if field == "name" else ""
    return answer({field: kept.get(field) or otherwise})


_TRUE = """
approveChatJoinRequest banChatMember banChatSenderChat close closeForumTopic closeGeneralForumTopic
declineChatJoinRequest deleteChatPhoto deleteChatStickerSet deleteForumTopic editForumTopic
editGeneralForumTopic hideGeneralForumTopic leaveChat logOut pinChatMessage promoteChatMember
reopenForumTopic reopenGeneralForumTopic restrictChatMember sendMessageDraft
setChatAdministratorCustomTitle setChatDescription setChatPermissions setChatPhoto setChatStickerSet
setChatTitle setMessageReaction setMyDefaultAdministratorRights setPassportDataErrors setUserEmojiStatus
unbanChatMember unbanChatSenderChat unhideGeneralForumTopic unpinAllChatMessages
unpinAllForumTopicMessages unpinAllGeneralForumTopicMessages unpinChatMessage
"""


@method(*_TRUE.split())
def do_nothing(context: Context) -> Planned:
    """Methods that a test can see in the log, and that change nothing here."""
    chat = context.given.given.get("chat_id")
    if chat is None:
        return answer(True)
    return Planned(lambda _: True, chat=context.world.reach(chat)["id"])


def plan(context: Context) -> Planned:
    """What the method would do. Raises ApiError."""
    found = METHODS.get(context.method.lower())
    if found is None:
        raise ApiError(404, "Not Found: method not found")
    return found[1](context)
