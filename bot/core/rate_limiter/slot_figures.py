"""Counters of slots as a snapshot."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from bot.core.phase4_statistics.rate_limiter import RateLimiterFigures, SlotFigures
from bot.core.rate_limiter.slots import MANY_LIMITS, Slots
from bot.core.rate_limiter.stats import unique_label


def with_slots(figures: RateLimiterFigures, slots: Slots) -> RateLimiterFigures:
    """The same figures with those of slots: of 256 limits by name, of all others together."""
    by_limit: dict[str, SlotFigures] = {}
    rest = [0, 0, *slots.dropped]
    for flight in slots.flights():
        found, limit = flight.figures(), flight.limit
        if len(by_limit) < MANY_LIMITS:
            name = unique_label(limit.label, f"{limit.max_in_flight} in flight", by_limit)
            by_limit[name] = _figures(found, limit.max_in_flight)
        else:
            rest = [total + number for total, number in zip(rest, found, strict=True)]
    if any(rest):
        by_limit[unique_label("other limits", "", by_limit)] = _figures(rest, None)
    return replace(figures, slots=by_limit) if by_limit else figures


def _figures(numbers: Sequence[int], most: int | None) -> SlotFigures:
    in_flight, waiting, granted, refused, lost = numbers
    figures = SlotFigures(in_flight=in_flight, waiting=waiting, granted=granted, refused=refused, lost=lost)
    return figures if most is None else replace(figures, max_in_flight=most)
