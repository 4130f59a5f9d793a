"""Methods of the Bot API that send messages, and what goes into a message: texts, files, keyboards."""

from __future__ import annotations

import itertools
from typing import Any

from bot.testing.telegram_bodies import Arguments
from bot.testing.telegram_methods import Context, Planned, method
from bot.testing.telegram_text import MarkupError, from_html, units
from bot.testing.telegram_world import Json, StoredFile, bad

_groups = itertools.count(1)

MAX_TEXT, MAX_CAPTION = 4096, 1024

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


def text_of(context: Context) -> Json:
    given = context.given
    fields = _formatted(
        context, given.text("text"), given.value("entities"), given.text("parse_mode"), MAX_TEXT
    )
    if not fields["text"]:
        raise bad("message text is empty")
    return fields


def caption_of(context: Context, given: Json | None = None) -> Json:
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

MEDIA = ("animation", "audio", "document", "photo", "sticker", "video", "video_note", "voice")


def file_of(context: Context, given: object, kind: str, field: str = "") -> StoredFile:
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


def media_of(kind: str, stored: StoredFile, given: Json) -> Json:
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
    return _post(context, text_of(context))


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
    caption = caption_of(context)
    stored = file_of(context, context.given.given.get(kind), kind, field=kind)
    return _post(context, media_of(kind, stored, context.given.given) | caption)


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
        caption = caption_of(context, item)
        contents.append(
            media_of(item["type"], file_of(context, item.get("media"), item["type"]), item) | caption
        )
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
    found = [message for one in ids if (message := world.find(source, integer(one))) is not None]
    if not found:
        raise bad(f"message to {'forward' if forward else 'copy'} not found")
    common = {"from": dict(context.bot.user)} if forward else _common(context)
    caption = {} if many or forward else caption_of(context)

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


def integer(value: object) -> int:
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
