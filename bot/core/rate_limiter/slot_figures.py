"""Counters of slots as a snapshot."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from bot.core.phase4_statistics.rate_limiter import RateLimiterFigures, SlotFigures
from bot.core.rate_limiter.slots import MANY_LIMITS, Slots


def with_slots(figures: RateLimiterFigures, slots: Slots) -> RateLimiterFigures:
    """The same figures with those of slots: of 256 limits by name, of all others together."""
    by_limit: dict[str, SlotFigures] = {}
    rest = [0, 0, *slots.dropped]
    for flight in slots.flights():
        found, limit = flight.figures(), flight.limit
        if len(by_limit) < MANY_LIMITS:
            name = _unique(limit.label, limit.max_in_flight, by_limit)
            by_limit[name] = _figures(found, limit.max_in_flight)
        else:
            rest = [total + number for total, number in zip(rest, found, strict=True)]
    if any(rest):
        by_limit[_unique("other limits", None, by_limit)] = _figures(rest, None)
    return replace(figures, slots=by_limit) if by_limit else figures


def _figures(numbers: Sequence[int], most: int | None) -> SlotFigures:
    in_flight, waiting, granted, refused, lost = numbers
    figures = SlotFigures(in_flight=in_flight, waiting=waiting, granted=granted, refused=refused, lost=lost)
    return figures if most is None else replace(figures, max_in_flight=most)


def _unique(label: str, most: int | None, taken: Collection[str]) -> str:
    """A label that is not taken, and that any text format can carry."""
    label = label.encode("utf-8", "backslashreplace").decode()  # a lone surrogate has no UTF-8
    if label in taken and most is not None:
        label = f"{label} ({most} in flight)"
    found, number = label, 1
    while found in taken:
        number += 1
        found = f"{label} #{number}"
    return found
