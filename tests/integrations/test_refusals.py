"""An album that was sent in part is known from the errors that the frameworks raise."""

import pytest

from bot.core.outbound.refusals import refusal_of

aiogram = pytest.importorskip("aiogram")
telegram = pytest.importorskip("telegram.error")

IN_PART = 'Bad Request: failed to send message #5 with the error message "Too Many Requests: retry after 7"'


class ApiTelegramException(Exception):
    """As pyTelegramBotAPI raises it."""

    error_code = 400


def test_by_aiogram():
    album = aiogram.methods.SendMediaGroup(chat_id=1, media=[])
    assert refusal_of(aiogram.exceptions.TelegramBadRequest(album, IN_PART), 8) == (7.0, False)


def test_by_python_telegram_bot():
    told = telegram.BadRequest(IN_PART)
    assert "bad request" not in str(told).lower(), "it takes the words away"
    assert refusal_of(told, 8) == (7.0, False)
    assert refusal_of(telegram.BadRequest("Chat not found")) is None


def test_by_pytelegrambotapi():
    assert refusal_of(ApiTelegramException(IN_PART), 8) == (7.0, False)
