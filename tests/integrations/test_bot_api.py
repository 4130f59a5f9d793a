"""What flood control is told of a request to the Bot API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from telegram import InlineKeyboardButton, InlineKeyboardMarkup, InputMediaPhoto

from bot.core.outbound import Priority
from bot.integrations.bot_api import request_of


@pytest.mark.parametrize(
    ("method", "data", "chat"),
    [
        ("sendMessage", {"chat_id": 7}, 7),
        ("sendMessage", {"chat_id": "-1007"}, "-1007"),
        ("sendMessage", {"chat_id": "@Канал"}, "@Канал"),
        ("sendGift", {"user_id": 7}, 7),
        # Not whom it is about, but nobody in particular.
        ("getUserProfilePhotos", {"user_id": 7}, None),
        ("setMyName", {"name": "x"}, None),
        # Telegram refuses these, not the library.
        ("sendMessage", {"chat_id": ""}, None),
        ("sendMessage", {"chat_id": "x" * 300}, None),
        ("sendMessage", {"chat_id": True}, None),
        ("sendMessage", {"chat_id": 1.5}, None),
        ("sendMessage", {}, None),
    ],
)
def test_the_chat_of_a_request(method: str, data: dict[str, Any], chat: object) -> None:
    request = request_of(method, data)
    request.check()
    assert request.chat == chat


@pytest.mark.parametrize(
    ("method", "data", "cost"),
    [
        ("sendMessage", {}, 1),
        ("sendMediaGroup", {"media": [1, 2, 3]}, 3),
        ("send_media_group", {"media": (1, 2)}, 2),
        ("SENDMEDIAGROUP", {"media": json.dumps([{}] * 10)}, 10),
        ("sendMediaGroup", {"media": "no list"}, 1),
        ("sendMediaGroup", {"media": "[" * 100_000}, 1),
        ("sendMediaGroup", {"media": []}, 1),
        ("sendMediaGroup", {"media": [0] * 20_000}, 10_000),
        ("forwardMessages", {"message_ids": list(range(100))}, 100),
        ("copyMessages", {"message_ids": [1, 2]}, 2),
        # One message, however many photos are in it.
        ("sendPaidMedia", {"media": [1, 2, 3]}, 1),
    ],
)
def test_a_request_costs_the_messages_that_it_makes(method: str, data: dict[str, Any], cost: int) -> None:
    request = request_of(method, {"chat_id": 7} | data)
    request.check()
    assert request.cost == cost


@pytest.mark.parametrize(
    ("method", "data", "message", "replaceable"),
    [
        ("editMessageText", {"message_id": 5}, 5, True),
        ("editMessageText", {"message_id": "5"}, 5, True),
        ("editMessageLiveLocation", {"message_id": 5}, 5, True),
        ("editMessageText", {"message_id": "five"}, None, False),
        # Final: not superseded.
        ("stopMessageLiveLocation", {"message_id": 5}, 5, False),
        ("stopPoll", {"message_id": 5}, 5, False),
        # Another message than the bot's own number 5.
        ("editMessageText", {"message_id": 5, "business_connection_id": "b"}, "b:5", True),
        ("sendChatAction", {"action": "typing"}, None, True),
        ("sendChatAction", {"action": "typing", "message_thread_id": 9}, 9, True),
        ("sendMessageDraft", {"draft_id": 3, "text": "x"}, "draft:3", True),
        ("sendMessage", {}, None, False),
        ("deleteMessage", {"message_id": 5}, (5,), False),
        ("deleteMessages", {"message_ids": [5, "6", "x"]}, (5, 6), False),
    ],
)
def test_the_message_of_a_request_and_whether_a_later_one_replaces_it(
    method: str, data: dict[str, Any], message: object, replaceable: bool
) -> None:
    request = request_of(method, {"chat_id": 7} | data)
    request.check()
    assert (request.message_id, request.replaceable) == (message, replaceable)


def test_each_inline_message_has_a_lane_of_its_own() -> None:
    one, other = (request_of("editMessageText", {"inline_message_id": name}) for name in ("AbC", "xyz"))
    for request in (one, other):
        request.check()
    assert one.chat != other.chat
    assert (one.message_id, one.replaceable) == ("AbC", True)


def test_edits_to_the_same_content_are_told_by_it() -> None:
    keyboard = InlineKeyboardMarkup([[InlineKeyboardButton("Да", callback_data="yes")]])
    same = [
        {"message_id": 5, "text": "x", "reply_markup": keyboard},
        {"message_id": "5", "reply_markup": InlineKeyboardMarkup(keyboard.inline_keyboard), "text": "x"},
        {"message_id": 6, "text": "x", "reply_markup": keyboard},
    ]
    others = [
        {"message_id": 5, "text": "x"},
        {"message_id": 5, "text": "y", "reply_markup": keyboard},
        {"message_id": 5, "text": "x", "reply_markup": keyboard, "parse_mode": "HTML"},
    ]
    contents = [request_of("editMessageText", {"chat_id": 7} | data).content for data in same + others]
    assert len(set(contents[: len(same)])) == 1
    assert len(set(contents)) == 1 + len(others)


@pytest.mark.parametrize("source", [b"not seen by Telegram yet", "https://example.org/chart.png"])
def test_what_a_file_shows_is_not_known(source: Any) -> None:
    media = InputMediaPhoto(source)
    assert request_of("editMessageMedia", {"chat_id": 7, "message_id": 5, "media": media}).content is None


def test_what_the_caller_says_is_passed_on() -> None:
    request = request_of(
        "editMessageText",
        {"chat_id": 7, "message_id": 5, "allow_paid_broadcast": True},
        priority=Priority.BROADCAST,
        deadline=3.0,
        replaceable=False,
    )
    assert (request.priority, request.deadline) == (Priority.BROADCAST, 3.0)
    assert (request.replaceable, request.paid) == (False, True)
