"""Refusals are known by their attributes; the classes here have those of the frameworks."""

import datetime

import pytest

from bot.core.outbound.refusals import UNTOLD, refusal_of
from bot.core.rate_limiter import RateLimitExceeded
from tests.core.outbound.conftest import RetryAfter


class FloodWait(Exception):
    """As pyrogram has it."""

    CODE = 420
    ID = "FLOOD_WAIT_X"

    def __init__(self, value):
        super().__init__(f"Telegram says: [420 FLOOD_WAIT_X] - A wait of {value} seconds is required")
        self.value = value


class SlowmodeWait(FloodWait):
    ID = "SLOWMODE_WAIT_X"


class TakeoutInitDelay(FloodWait):
    ID = "TAKEOUT_INIT_DELAY_X"


class FloodWaitError(Exception):
    """As Telethon has it."""

    code = 420
    seconds = 12


class ApiTelegramException(Exception):
    """As pyTelegramBotAPI has it."""

    error_code = 429

    def __init__(self, result_json):
        super().__init__("A request to the Telegram API was unsuccessful. Error code: 429")
        self.result_json = result_json


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (RetryAfter(5), 5.0),
        (RetryAfter(0.5), 0.5),
        (RetryAfter(datetime.timedelta(minutes=1)), 60.0),
        (RetryAfter(float("nan")), UNTOLD),
        (RetryAfter(-3), UNTOLD),
        (RetryAfter(10**400), 1e9),
        (FloodWait(17), 17.0),
        (SlowmodeWait(30), 30.0),
        (FloodWait(None), UNTOLD),
        (FloodWaitError(), 12.0),
        (ApiTelegramException({"parameters": {"retry_after": 8}}), 8.0),
        (ApiTelegramException(None), UNTOLD),
    ],
)
def test_what_telegram_refused_for_now(error, seconds):
    assert refusal_of(error) == (seconds, True)


@pytest.mark.parametrize(
    "error",
    [ValueError("retry after 5"), TakeoutInitDelay(9), RateLimitExceeded(3.0), RetryAfter(True),
     RetryAfter("5"), KeyboardInterrupt(), TimeoutError()],
)  # fmt: skip
def test_what_is_no_refusal(error):
    assert refusal_of(error) is None


def test_an_album_is_repeated_only_if_nothing_of_it_was_sent():
    assert refusal_of(RetryAfter(5), 10) == (5.0, True), "it says Too Many Requests"
    assert refusal_of(FloodWait(5), 10) == (5.0, True)
    untold = RetryAfter(5)
    untold.args = ("Flood control exceeded. Retry in 5 seconds",)
    assert refusal_of(untold, 10) == (5.0, False)
    assert refusal_of(untold, 1) == (5.0, True)
    partial = RetryAfter(5)
    partial.args = ("Bad Request: retry after 5",)
    assert refusal_of(partial, 10) == (5.0, False)
    assert refusal_of(RuntimeError("Bad Request: failed, retry after 7"), 3) == (7.0, False)
