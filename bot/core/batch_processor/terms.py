"""When an item may be handled, and what it replaces: what ``submit_item`` takes beside the data (pure)."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from typing import NamedTuple

from bot.core._shared.errors import invalid
from bot.core._shared.validation import YEAR, valid_seconds


class Terms(NamedTuple):
    """How items are submitted that wait for a time, or take the place of others."""

    priority: int = 0
    delay: float = 0.0
    """Seconds from now before which they are not handled."""
    not_before: float | None = None
    """The same as Unix time; ``delay`` is 0 then."""
    replace: bool = False
    """Whether they take the place of the pending ones of their keys."""

    def due(self, monotonic: float, unix: float) -> float:
        """The time before which they are not handled, on the monotonic clock.

        ``unix``: what the other clock tells now. Later steps of that one change nothing.
        """
        delay = self.delay if self.not_before is None else self.not_before - unix
        return monotonic + max(0.0, delay)


def terms_of(
    priority: int,
    delay: object,
    not_before: object,
    replace: object,
    unix: float,
) -> Terms:
    """Check the arguments; raises InvalidArgumentError. ``unix``: the time now."""
    if replace.__class__ is not bool:
        raise invalid("replace", replace, "True or False")
    if delay is not None and not_before is not None:
        raise invalid("delay, not_before", (delay, not_before), "one of them")
    seconds = 0.0 if delay is None else seconds_of("delay", delay, zero=True)
    at = None if not_before is None else _unix_time(not_before, unix)
    return Terms(priority, seconds, at, bool(replace))


def keys_for(replace: object, keys: Sequence[str | None]) -> Sequence[str | None]:
    """The keys; raises InvalidArgumentError if one is missing that ``replace`` needs."""
    if replace is not False and None in keys:
        raise invalid("replace", replace, "False without a key: the last one of a key wins")
    return keys


def seconds_of(name: str, value: object, *, zero: bool = False) -> float:
    """A number of seconds, a year at most, given as such or as a timedelta."""
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
        if not 0 <= seconds <= YEAR or not (zero or seconds):
            raise invalid(name, value, f"a time {'>=' if zero else '>'} 0 and <= a year")
        return seconds
    return valid_seconds(name, value, zero=zero, most=YEAR)


def _unix_time(value: object, now: float) -> float:
    allowed = "an aware datetime, or Unix time in seconds, a year ahead at most"
    if isinstance(value, datetime.datetime):
        if value.utcoffset() is None:
            raise invalid("not_before", value, f"{allowed}; this one has no time zone")
        at = value.timestamp()
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid("not_before", value, allowed)
    else:
        try:
            at = float(value)
        except OverflowError:
            raise invalid("not_before", value, allowed) from None
    if not math.isfinite(at) or at > now + YEAR:
        raise invalid("not_before", value, allowed)
    return at
