"""What the real errors of the frameworks mean for a broadcast."""

import pytest

from bot.core.outbound.broadcast.outcomes import Advice, Outcome, verdict_of

aiogram = pytest.importorskip("aiogram.exceptions")
telegram = pytest.importorskip("telegram.error")
pyrogram = pytest.importorskip("pyrogram.errors")


def by_aiogram(kind, text, *more):
    from aiogram.methods import SendMessage

    return getattr(aiogram, kind)(SendMessage(chat_id=1, text="x"), text, *more)


class ApiTelegramException(Exception):
    """As pyTelegramBotAPI raises it."""

    def __init__(self, error_code, description):
        super().__init__(f"A request was unsuccessful. Error code: {error_code}. Description: {description}")
        self.error_code = error_code


class UserIsBlockedError(Exception):
    """As Telethon raises it."""

    code = 400


class ClientResponseError(Exception):
    """Of some other server, which the send asked something of, as aiohttp raises it."""

    status = 404


BLOCKED, DEACTIVATED, NOT_FOUND, FAILED = (
    Outcome.BLOCKED, Outcome.DEACTIVATED, Outcome.NOT_FOUND, Outcome.FAILED,
)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (by_aiogram("TelegramForbiddenError", "Forbidden: bot was blocked by the user"), BLOCKED),
        (by_aiogram("TelegramForbiddenError", "Forbidden: user is deactivated"), DEACTIVATED),
        (
            by_aiogram("TelegramForbiddenError", "Forbidden: bot can't initiate conversation with a user"),
            NOT_FOUND,
        ),
        (
            by_aiogram("TelegramForbiddenError", "Forbidden: bot was kicked from the supergroup chat"),
            NOT_FOUND,
        ),
        (
            by_aiogram("TelegramForbiddenError", "Forbidden: bot is not a member of the channel chat"),
            NOT_FOUND,
        ),
        (by_aiogram("TelegramForbiddenError", "Forbidden: the group chat was deleted"), NOT_FOUND),
        (by_aiogram("TelegramBadRequest", "Bad Request: chat not found"), NOT_FOUND),
        (by_aiogram("TelegramBadRequest", "Bad Request: message text is empty"), FAILED),
        (by_aiogram("TelegramForbiddenError", "Forbidden: something new"), FAILED),
        (
            by_aiogram(
                "TelegramMigrateToChat", "Bad Request: group chat was upgraded to a supergroup chat", -100
            ),
            FAILED,
        ),
        (telegram.Forbidden("Forbidden: bot was blocked by the user"), BLOCKED),
        (telegram.Forbidden("Forbidden: user is deactivated"), DEACTIVATED),
        (telegram.BadRequest("Chat not found"), NOT_FOUND),
        (telegram.BadRequest("Message text is empty"), FAILED),
        (telegram.ChatMigrated(-1001), FAILED),
        (pyrogram.UserIsBlocked(), BLOCKED),
        (pyrogram.InputUserDeactivated(), DEACTIVATED),
        (pyrogram.PeerIdInvalid(), NOT_FOUND),
        (pyrogram.ChannelPrivate(), NOT_FOUND),
        (pyrogram.UsernameNotOccupied(), NOT_FOUND),
        (pyrogram.UserIsBot(), NOT_FOUND),
        (pyrogram.ChatForbidden(), NOT_FOUND),
        (pyrogram.ChatWriteForbidden(), FAILED),
        (pyrogram.YouBlockedUser(), FAILED),
        (ValueError("Peer id invalid: 7"), NOT_FOUND),
        (ApiTelegramException(403, "Forbidden: bot was blocked by the user"), BLOCKED),
        (ApiTelegramException(400, "Bad Request: chat not found"), NOT_FOUND),
        (UserIsBlockedError("User is blocked (caused by SendMessageRequest)"), BLOCKED),
    ],
    ids=lambda value: getattr(value, "value", None) or f"{type(value).__name__}: {value}"[:60],
)
def test_it_is_over_for_this_recipient(error, outcome):
    assert verdict_of(error) == (Advice.OVER, outcome)


@pytest.mark.parametrize(
    "error",
    [
        by_aiogram("TelegramUnauthorizedError", "Unauthorized"),
        by_aiogram("TelegramNotFound", "Not Found"),
        telegram.InvalidToken("The token `123:x` was rejected by the server."),
        pyrogram.AuthKeyUnregistered(),
        pyrogram.UserDeactivated(),
        ApiTelegramException(401, "Unauthorized"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_nobody_can_be_written_to(error):
    assert verdict_of(error).advice is Advice.STOP


@pytest.mark.parametrize(
    "error",
    [
        by_aiogram("TelegramNetworkError", "ClientConnectorError: Cannot connect"),
        by_aiogram("TelegramServerError", "Internal Server Error"),
        by_aiogram("RestartingTelegram", "Bad Gateway: restart"),
        telegram.NetworkError("httpx.ConnectError: All connection attempts failed"),
        telegram.TimedOut(),
        pyrogram.InternalServerError(),
        ConnectionResetError(104, "reset"),
        TimeoutError(),
        ApiTelegramException(502, "Bad Gateway"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_network_or_the_server_is_at_fault(error):
    assert verdict_of(error).advice is Advice.NETWORK


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [KeyError("name"), ClientResponseError(), Unspeakable()], ids=repr)
def test_anything_else_may_pass(error):
    assert verdict_of(error).advice is Advice.RETRY
