"""How long an error asks to wait before the next try (pure)."""

from __future__ import annotations

import datetime
import math
import re

MOST_WAITS = 10
"""Waits of one batch, or of one item, that use up no attempt."""

_WAITS = re.compile(r"(?:flood|slowmode)_?(?:premium_?)?wait", re.IGNORECASE)


def told_wait(error: BaseException, most: float) -> float:
    """Seconds that the error asks for, ``most`` at most; 0.0 if it asks for none.

    It asks by ``retry_after`` (a number of seconds, or a timedelta), as aiogram's TelegramRetryAfter, python-
    telegram-bot's RetryAfter and RateLimitExceeded do; or by ``value`` or ``seconds``, if its class is named
    as pyrogram's FloodWait and Telethon's FloodWaitError are. What is no finite number above 0 is none.
    """
    told = _seconds(_attribute(error, "retry_after"))
    if not told and any(_WAITS.search(kind.__name__) for kind in type(error).__mro__):
        told = _seconds(_attribute(error, "value")) or _seconds(_attribute(error, "seconds"))
    return min(told, most)


def _attribute(error: BaseException, name: str) -> object:
    try:
        return getattr(error, name, None)
    except Exception:  # a property of somebody else's error class, which must not break its handling
        return None


def _seconds(value: object) -> float:
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return 0.0
    try:
        seconds = float(value)
    except OverflowError:
        return 1e18
    return seconds if math.isfinite(seconds) else 0.0
