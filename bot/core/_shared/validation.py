"""Checks of arguments: each returns the value, or raises InvalidArgumentError with its name (pure).

One wording and one bound for what every service checks. ``default`` is what None stands for.
"""

from __future__ import annotations

import re

from bot.core._shared.errors import LARGEST, invalid

YEAR = 31_536_000
"""Seconds that a time limit which means "never" may be set to."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}")


def valid_seconds(
    name: str, value: object, *, zero: bool = False, most: float = LARGEST, default: float | None = None
) -> float:
    """A number of seconds above 0, or from 0 on with ``zero``, as a float."""
    kind = value.__class__
    if (kind is float or kind is int) and 0 < value <= most:  # type: ignore[operator]  # a number, by its class
        return float(value)  # type: ignore[arg-type]
    if value is None and default is not None:
        return default
    if _is_within(value, most) and (zero or value):
        return float(value)  # type: ignore[arg-type]  # a number, by _is_within
    above = ">= 0" if zero else "> 0"
    if most < LARGEST:
        raise invalid(name, value, f"a number of seconds {above} and <= {most:,.0f}")
    raise invalid(name, value, f"a finite number of seconds {above}")


def valid_number(name: str, value: object, *, zero: bool = False) -> float:
    """A finite number above 0, or from 0 on with ``zero``, as a float."""
    if _is_within(value, LARGEST) and (zero or value):
        return float(value)  # type: ignore[arg-type]  # a number, by _is_within
    raise invalid(name, value, f"a finite number {'>= 0' if zero else '> 0'}")


def valid_count(name: str, value: object, least: int, most: int, *, default: int | None = None) -> int:
    """A whole number within bounds."""
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise invalid(name, value, f"a whole number from {least:,} to {most:,}")
    return value


def valid_plain_name(name: str, value: object) -> str:
    """A name that can stand in a key of Redis as it is."""
    if not isinstance(value, str) or not _PLAIN_NAME.fullmatch(value):
        raise invalid(name, value, "1 to 100 letters, digits and _ . : -")
    return value


def _is_within(value: object, most: float) -> bool:
    # Compared, not asked whether it is finite: NaN is within no bounds, and a huge int has no float.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most
