"""Methods of the Bot API that answer queries, tell what is there, and keep settings."""

from __future__ import annotations

import json

from bot.testing.telegram_bodies import Arguments
from bot.testing.telegram_methods import Context, Planned, answer, method
from bot.testing.telegram_world import Json, World, bad

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
