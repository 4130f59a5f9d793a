"""Telling from an error whether Telegram refused a request for now, and for how long (pure).

Errors are known by their attributes, so that no framework need be installed: ``retry_after`` of aiogram and
python-telegram-bot (an int, a float or a timedelta), ``value`` of pyrogram and its forks, ``seconds`` of
Telethon, ``result_json`` of pyTelegramBotAPI.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from bot.core._shared.errors import Phase4Error, message_of

UNTOLD = 1.0
"""Seconds for a refusal that tells no usable number."""

_WAITS = re.compile(r"(?:flood|slowmode|flood_?premium)_?wait", re.IGNORECASE)
_IN_TEXT = re.compile(r"retry[ _]after[^0-9]{0,3}(\d{1,9})", re.IGNORECASE)


_BAD_REQUESTS = frozenset({"BadRequest", "TelegramBadRequest"})


class Refusal(NamedTuple):
    """Telegram did not do it, and says when it will."""

    seconds: float
    repeatable: bool
    """Whether nothing of the request was done, so that repeating it does nothing twice."""


def refusal_of(error: BaseException, cost: int = 1) -> Refusal | None:
    """What Telegram refused with, or None for any other error. ``cost``: messages of the request.

    A request of several messages, an album, may have been done in part. It is then told with 400 and a
    text that says "retry after", or by a framework that does not tell 400 from 429; only an error that
    says that nothing was done makes it repeatable.
    """
    if isinstance(error, Phase4Error) or not isinstance(error, Exception):
        return None
    told = _told(error)
    text = message_of(error)[:2_000]
    partial = "bad request" in text.lower() or _is_bad_request(error)
    if told is None:
        found = _IN_TEXT.search(text) if partial else None
        return None if found is None else Refusal(float(found[1]), False)
    seconds, whole = told
    done_nothing = cost == 1 or whole or "too many requests" in text.lower()
    return Refusal(seconds, done_nothing and not partial)


def _told(error: Exception) -> tuple[float, bool] | None:
    """Seconds, and whether the error's kind says that nothing was done."""
    code = code_of(error)
    if code == 420:
        name = f"{getattr(error, 'ID', '')} {type(error).__name__}"
        if not _WAITS.search(name):
            return None
        for attribute in ("value", "seconds", "x"):
            seconds = getattr(error, attribute, None)
            if _is_number(seconds):
                return _seconds(seconds), True
        return UNTOLD, True
    waits = getattr(error, "retry_after", None)
    if _is_number(waits) or isinstance(waits, datetime.timedelta):
        return _seconds(waits), code == 429
    answer = getattr(error, "result_json", None)
    if code == 429:
        parameters = answer.get("parameters") if isinstance(answer, Mapping) else None
        waits = parameters.get("retry_after") if isinstance(parameters, Mapping) else None
        if _is_number(waits):
            return _seconds(waits), True
        found = _IN_TEXT.search(message_of(error)[:2_000])
        return (float(found[1]) if found else UNTOLD), True
    return None


def code_of(error: BaseException) -> object:
    """The error's code, such as 403, under whichever name its framework has it; None if it has none."""
    for attribute in ("CODE", "error_code", "code", "status_code", "status"):
        code = getattr(error, attribute, None)
        if type(code) is int:
            return code
    return None


def _is_bad_request(error: Exception) -> bool:
    """By its code, or by its class, as python-telegram-bot has no code and takes the words from the text."""
    return code_of(error) == 400 or any(kind.__name__ in _BAD_REQUESTS for kind in type(error).__mro__)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seconds(value: object) -> float:
    try:
        seconds = value.total_seconds() if isinstance(value, datetime.timedelta) else float(value)  # type: ignore[arg-type]
    except OverflowError:
        return 1e9
    return seconds if math.isfinite(seconds) and seconds >= 0.0 else UNTOLD
