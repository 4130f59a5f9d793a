"""What a method's name and a chat's id tell."""

import pytest

from bot.core.outbound.models import Kind, is_delete, is_private, kind_of, plain_chat


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("sendMessage", Kind.SEND), ("SendMessage", Kind.SEND), ("send_message", Kind.SEND),
        ("messages.SendMedia", Kind.SEND), ("functions.messages.ForwardMessages", Kind.SEND),
        ("copyMessages", Kind.SEND), ("sendMediaGroup", Kind.SEND),
        ("editMessageText", Kind.EDIT), ("messages.EditMessage", Kind.EDIT), ("stopPoll", Kind.EDIT),
        ("sendChatAction", Kind.TYPING), ("messages.SetTyping", Kind.TYPING),
        ("getChat", Kind.OTHER), ("deleteMessage", Kind.OTHER), ("editForumTopic", Kind.OTHER),
        ("answerCallbackQuery", Kind.UNQUEUED), ("answerInlineQuery", Kind.UNQUEUED),
        ("getUpdates", Kind.UNQUEUED), ("upload.SaveFilePart", Kind.UNQUEUED),
        ("functions.upload.GetFile", Kind.UNQUEUED), ("auth.ImportBotAuthorization", Kind.UNQUEUED),
    ],
)  # fmt: skip
def test_the_kind_of_a_method_in_any_spelling(method, kind):
    assert kind_of(method) is kind


def test_deletes():
    assert is_delete("deleteMessage")
    assert is_delete("messages.DeleteMessages")
    assert not is_delete("deleteChatPhoto")


def test_a_chat_in_any_spelling_is_one_chat():
    assert plain_chat("-1001") == -1001
    assert plain_chat(" @News ") == "@news"
    assert plain_chat("42") == 42
    assert is_private(42)
    assert not is_private(-42)
    assert not is_private("@news")
