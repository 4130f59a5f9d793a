"""Limits from texts, "10/second;100/hour": each is an exact window (pure)."""

from __future__ import annotations

import functools

from bot.core._shared.errors import invalid
from bot.core.phase4_config.limit_texts import ALLOWED, read_limits
from bot.core.rate_limiter.models import BackoffChoice, Limit, Limits, RateLimitConfig, WindowLimit


@functools.lru_cache(1_000)
def parse_limits(text: str, name: str = "", backoff: BackoffChoice = "default") -> tuple[WindowLimit, ...]:
    """The limits of a text, such as "10/second", "5 per 2 minutes" or "10/second;100/hour".

    Each is a :class:`WindowLimit` with that ``name`` and ``backoff``. A month has 30 days, a year 365.
    Raises ValueError for any other text, and for a number or a window out of bounds.
    """
    if not isinstance(text, str):
        raise invalid("text", text, ALLOWED)
    found = read_limits("limit", text)
    return tuple(dict.fromkeys(WindowLimit(most, window, name, backoff) for most, window in found))


def limits_of(name: str, limits: object) -> Limits:
    """A limit, several, or those of a text. Raises TypeError or ValueError, which call it ``name``."""
    if isinstance(limits, str):
        found: tuple[Limit, ...] = parse_limits(limits)
        return found[0] if len(found) == 1 else found
    if isinstance(limits, RateLimitConfig | WindowLimit):
        return limits
    if isinstance(limits, tuple | list) and limits:
        flat: list[Limit] = []
        for each in limits:
            one = limits_of(name, each)
            flat += one if isinstance(one, tuple) else (one,)
        found = tuple(dict.fromkeys(flat))
        return found[0] if len(found) == 1 else found
    raise TypeError(f"{name} = {limits!r}: expected a RateLimitConfig, a WindowLimit, or {ALLOWED}")


def read_or_none(text: str) -> Limits | None:
    """The limits of a text; None if it is no such text."""
    try:
        return limits_of("limit", text)
    except ValueError:
        return None
