"""What flood control makes of raw functions."""

from types import ModuleType

import pytest
from pyrogram import raw

from bot.core.outbound import Request
from bot.integrations.mtproto_requests import Way, chat_of, plan_of, unwrapped

T, F = raw.types, raw.functions
USER = T.InputPeerUser(user_id=5, access_hash=1)
GROUP = T.InputPeerChat(chat_id=6)
CHANNEL = T.InputPeerChannel(channel_id=1_234_567_890, access_hash=1)


@pytest.mark.parametrize(
    ("peer", "chat"),
    [
        (USER, 5),
        (GROUP, -6),
        (CHANNEL, -1_001_234_567_890),
        (T.InputChannel(channel_id=1, access_hash=1), -1_000_000_000_001),
        (T.InputPeerUserFromMessage(peer=GROUP, msg_id=1, user_id=8), 8),
        (T.InputPeerChannelFromMessage(peer=GROUP, msg_id=1, channel_id=9), -1_000_000_000_009),
        (T.InputPeerSelf(), 42),
        (T.InputPeerEmpty(), None),
        (None, None),
    ],
)
def test_chats_have_the_ids_of_the_bot_api(peer, chat):
    assert chat_of(peer, 42) == chat


def media(number):
    return T.InputSingleMedia(media=T.InputMediaEmpty(), random_id=number, message="")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            F.messages.SendMessage(peer=GROUP, message="x", random_id=1),
            Request("messages.SendMessage", -6),
        ),
        (
            F.messages.SendMedia(
                peer=USER, media=T.InputMediaEmpty(), message="", random_id=1, allow_paid_floodskip=True
            ),
            Request("messages.SendMedia", 5, paid=True),
        ),
        (
            F.messages.SendMultiMedia(peer=GROUP, multi_media=[media(n) for n in range(7)]),
            Request("messages.SendMultiMedia", -6, cost=7),
        ),
        (
            F.messages.ForwardMessages(from_peer=USER, to_peer=GROUP, id=[1, 2], random_id=[1, 2]),
            Request("messages.ForwardMessages", -6, cost=2),
        ),
        (
            F.messages.SetTyping(peer=GROUP, action=T.SendMessageTypingAction(), top_msg_id=3),
            Request("messages.SetTyping", -6, message_id=3, replaceable=True),
        ),
        (
            F.channels.DeleteMessages(channel=CHANNEL, id=[1, 2]),
            Request("channels.DeleteMessages", -1_001_234_567_890, message_id=(1, 2)),
        ),
        (
            F.messages.DeleteMessages(id=[9, 8]),
            Request("messages.DeleteMessages", -6, message_id=(9, 8)),
        ),
        (
            F.messages.UpdatePinnedMessage(peer=GROUP, id=3),
            Request("messages.UpdatePinnedMessage", -6),
        ),
        (
            F.messages.EditMessage(peer=GROUP, id=3, message="x", schedule_date=5),
            Request("messages.EditMessage", -6, message_id=3),
        ),
    ],
)
def test_what_writes_to_a_chat_waits_in_its_lane(query, expected):
    plan = plan_of(query, 42, {8: -6})
    assert (plan.way, plan.request) == (Way.LANE, expected)


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        ({"message": "x"}, "messages.EditMessage"),
        ({"message": "x", "media": T.InputMediaEmpty()}, "messages.EditMessageMedia"),
        ({}, "messages.EditMessageReplyMarkup"),
    ],
)
def test_an_edit_supersedes_its_like_and_tells_what_it_shows(changes, method):
    query = F.messages.EditMessage(peer=GROUP, id=3, **changes)
    request = plan_of(query).request
    assert (request.method, request.message_id, request.replaceable) == (method, 3, True)
    assert request.content == query.write()


@pytest.mark.parametrize(
    ("query", "way", "key"),
    [
        (F.upload.SaveFilePart(file_id=1, file_part=0, bytes=b""), Way.ALONE, "parts sent"),
        (F.upload.GetFile(location=None, offset=0, limit=1), Way.ALONE, "parts read"),
        (F.users.GetUsers(id=[]), Way.ALONE, "users.GetUsers"),
        (F.contacts.ResolveUsername(username="a"), Way.ALONE, "contacts.ResolveUsername"),
        (F.channels.JoinChannel(channel=CHANNEL), Way.ALONE, "channels.JoinChannel"),
        (F.messages.DeleteMessages(id=[1]), Way.ALONE, "messages.DeleteMessages"),
        (F.account.SendVerifyEmailCode(purpose=None, email=""), Way.ALONE, "account.SendVerifyEmailCode"),
        (
            F.messages.SetBotCallbackAnswer(query_id=1, cache_time=0),
            Way.UNTOUCHED,
            "messages.SetBotCallbackAnswer",
        ),
        (F.updates.GetState(), Way.UNTOUCHED, "updates.GetState"),
        (F.auth.LogOut(), Way.UNTOUCHED, "auth.LogOut"),
        (F.help.GetConfig(), Way.UNTOUCHED, "help.GetConfig"),
        (F.Ping(ping_id=1), Way.UNTOUCHED, "Ping"),
    ],
)
def test_what_concerns_no_chat_is_sent_at_once(query, way, key):
    plan = plan_of(query, 42, {})
    assert (plan.way, plan.request, plan.key) == (way, None, key)


def test_wrappers_are_taken_off():
    query = F.messages.SendMessage(peer=GROUP, message="x", random_id=1)
    wrapped = F.InvokeWithTakeout(
        takeout_id=1,
        query=F.InvokeWithoutUpdates(query=F.InvokeWithBusinessConnection(connection_id="a", query=query)),
    )
    assert unwrapped(wrapped) is query
    assert unwrapped(query) is query


def test_every_function_of_the_layer_has_a_plan():
    """Also those that nobody thought of."""
    found = {
        one
        for space in (F, *vars(F).values())
        if isinstance(space, ModuleType)
        for one in vars(space).values()
        if isinstance(one, type) and str(getattr(one, "QUALNAME", "")).startswith("functions.")
    }
    found |= {
        one for one in raw.all.objects.values() if getattr(one, "QUALNAME", "").startswith("functions.")
    }
    assert len(found) > 100
    for function in found:
        query = function.__new__(function)
        for slot in function.__slots__:
            setattr(query, slot, None)
        plan = plan_of(unwrapped(query), 42, {})
        assert (plan.request is None) == (plan.way is not Way.LANE)
