"""Times to live: numbers, timedeltas, functions of the value, and FOREVER (pure)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from bot.core._shared.errors import LARGEST, invalid

FOREVER: float = math.inf
"""As a ttl: the value stays until it is dropped or evicted, in memory as in Redis."""

FOREVER_SECONDS: float = LARGEST
"""What is stored for :data:`FOREVER`. In Redis it is a TTL all the same, so that the ``volatile-`` policies
may evict the value."""

Ttl = float | timedelta
"""Seconds, a timedelta, or :data:`FOREVER`."""

TtlOf = Callable[[Any], Ttl | None]
"""A function of the value that gives its ttl; None from it means that the value is not cached."""

_EXPECTED = f"a number of seconds > 0 and <= {LARGEST:,.0f}, a timedelta > 0, or FOREVER"


def valid_ttl(name: str, value: object) -> float:
    """Seconds, :data:`FOREVER_SECONDS` for :data:`FOREVER`. Raises InvalidArgumentError for all else."""
    kind = value.__class__
    if (kind is float or kind is int) and 0 < value <= LARGEST:  # type: ignore[operator]  # a number, by its class
        return float(value)  # type: ignore[arg-type]
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, int | float) and not isinstance(seconds, bool):
        if seconds == FOREVER:
            return FOREVER_SECONDS
        if 0 < seconds <= LARGEST:
            return float(seconds)
    raise invalid(name, value, _EXPECTED)


def valid_ttl_or_function(name: str, value: object) -> float | TtlOf:
    """:func:`valid_ttl`, or the function that gives the ttl of a loaded value."""
    if callable(value) and not inspect.iscoroutinefunction(value):
        return value
    if isinstance(value, int | float | timedelta):
        return valid_ttl(name, value)
    raise invalid(
        name, value, f"{_EXPECTED}, or a plain function of the value that returns one of them or None"
    )


def ttl_for(ttl: object, value: Any) -> float:
    """The ttl of a value that is at hand; 0.0 if a function says that it is not to be cached.

    Raises InvalidArgumentError for an invalid ttl, or an invalid result of the function.
    """
    kind = ttl.__class__
    if (kind is float or kind is int) and 0 < ttl <= LARGEST:  # type: ignore[operator]  # a number, by its class
        return float(ttl)  # type: ignore[arg-type]
    found = valid_ttl_or_function("ttl", ttl)
    if not callable(found):
        return found
    given = found(value)
    return 0.0 if given is None else valid_ttl("the result of ttl", given)


def by_ttl(
    pairs: Sequence[tuple[str, Any]], ttl: object, default: float
) -> Mapping[float, Sequence[tuple[str, Any]]]:
    """Keys and values by their ttl, as :func:`ttl_for` gives it; ``ttl`` None is ``default``."""
    if not callable(ttl):
        return {default if ttl is None else ttl_for(ttl, None): pairs}
    found: dict[float, list[tuple[str, Any]]] = {}
    for pair in pairs:
        found.setdefault(ttl_for(ttl, pair[1]), []).append(pair)
    return found
