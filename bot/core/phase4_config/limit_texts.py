"""Limits as text, "10/second;100/hour", as users of ``limits`` and slowapi write them (pure)."""

from __future__ import annotations

import re

from bot.core._shared.errors import invalid
from bot.core._shared.validation import YEAR

_UNITS = {
    "second": 1,
    "minute": 60,
    "hour": 3_600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
    "year": YEAR,
}
"""Seconds; a month has 30 days, a year 365."""

_LIMIT = re.compile(
    r"\s*(?P<most>\d{1,12})\s*(?:/|\bper\b)\s*(?P<times>\d{1,9}(?:\.\d{1,9})?)?\s*(?P<unit>[a-z]+?)s?\s*",
    re.IGNORECASE | re.ASCII,
)

ALLOWED = (
    'limits such as "10/second", "100/hour" or "5 per 2 minutes", several separated by ; or , '
    f"(units: {', '.join(_UNITS)})"
)
MAX_LIMITS = 16
"""Limits in one text."""
MAX_LENGTH = 500
"""Characters of a text."""


def looks_like_limits(text: str) -> bool:
    """Whether it is meant as a text of limits, and not as a name."""
    return "/" in text or " per " in text.lower()


def read_limits(name: str, text: str) -> list[tuple[int, float]]:
    """The limits of a text: requests, and the seconds of their window.

    Raises ValueError, which calls it ``name``, for anything else. The numbers' bounds are not checked here.
    """
    if len(text) <= MAX_LENGTH:
        parts = re.split(r"[;,|]", text)
        found = [_LIMIT.fullmatch(part) for part in parts]
        if len(parts) <= MAX_LIMITS and all(match and match["unit"].lower() in _UNITS for match in found):
            return [
                (int(match["most"]), float(match["times"] or 1) * _UNITS[match["unit"].lower()])
                for match in found
                if match
            ]
    raise invalid(name, text, ALLOWED)
