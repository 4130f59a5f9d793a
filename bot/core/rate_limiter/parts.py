"""What one check takes: tokens of clients under limits (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bot.core._shared.errors import invalid
from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.models import ClientId, RateLimitConfig, RateLimitStatus
from bot.core.rate_limiter.windows import Windows

Meter = Buckets | Windows
"""What all clients have under one limit."""


class Part(NamedTuple):
    """What is to be taken from one client under one limit."""

    meter: Meter
    client: ClientId
    tokens: int


def most_of(meter: Meter) -> int:
    """Tokens that can be taken at once."""
    config = meter.config
    return config.burst_size if isinstance(config, RateLimitConfig) else config.max_requests


def summed(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The parts with those of one client and limit as one. Raises ValueError for more than there can be."""
    tokens: dict[tuple[Meter, ClientId], int] = {}
    for meter, client, wanted in parts:
        tokens[meter, client] = tokens.get((meter, client), 0) + wanted
    found = tuple(Part(meter, client, wanted) for (meter, client), wanted in tokens.items())
    for meter, _, wanted in found:
        if wanted > most_of(meter):
            raise invalid(
                "tokens_required",
                wanted,
                f"in all at most {most_of(meter):,} tokens of one client from {meter.config!r}",
            )
    return found


def tightest(statuses: Sequence[RateLimitStatus]) -> RateLimitStatus:
    """Of checks that are one, the status that tells most: the longest wait, else the fewest tokens left."""
    if len(statuses) == 1:
        return statuses[0]
    refused = [status for status in statuses if not status.allowed]
    if refused:
        return max(refused, key=lambda status: status.retry_after)
    return min(statuses, key=lambda status: status.remaining_tokens)


def parts_of(meters: Meter | tuple[Meter, ...], client: ClientId, tokens: int) -> tuple[Part, ...]:
    """The same of one client under all of these limits."""
    if isinstance(meters, tuple):
        return tuple(Part(meter, client, tokens) for meter in meters)
    return (Part(meters, client, tokens),)
