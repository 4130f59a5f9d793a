"""Methods of the Bot API that edit and delete messages."""

from __future__ import annotations

from bot.testing.telegram_methods import Context, Planned, method
from bot.testing.telegram_sending import MEDIA, caption_of, file_of, integer, media_of, text_of
from bot.testing.telegram_world import Json, bad

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
        content, dropped = text_of(context), ("text", "entities")
        if chat is not None and "text" not in message:
            raise bad("there is no text in the message to edit")
    elif context.method == "editMessageCaption":
        content, dropped = caption_of(context), ("caption", "caption_entities")
    elif context.method == "editMessageMedia":
        item = given.mapping("media") or {}
        if item.get("type") not in ("animation", "audio", "document", "photo", "video"):
            raise bad("can't parse InputMedia: type is wrong")
        content = media_of(item["type"], file_of(context, item.get("media"), item["type"]), item)
        content |= caption_of(context, item)
        dropped = (*MEDIA, "text", "entities", "caption", "caption_entities")
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
    """Messages sent by inline mode: their chat is unknown, so no limit of a chat applies."""
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
    """Equal except for ids that are new for each upload."""

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
        ids = [integer(one) for one in given.listed("message_ids")]
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
