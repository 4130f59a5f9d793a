"""Errors of the rate limiter."""

from __future__ import annotations

from bot.core._shared.errors import CapacityError, MisuseError
from bot.core.rate_limiter.concurrency import RETRY_AFTER, SlotStatus


class RateLimitExceeded(CapacityError):
    """A limit was reached; ``retry_after`` seconds later the same call succeeds."""

    def __init__(self, retry_after: float, *, limit: str = "rate limit") -> None:
        super().__init__(f"{limit} reached: retry after {retry_after:.3f} s")
        self.retry_after = retry_after
        self.limit = limit

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.retry_after, self.limit)


def _rebuild(retry_after: float, limit: str) -> RateLimitExceeded:
    return RateLimitExceeded(retry_after, limit=limit)


class UnknownTierError(MisuseError, LookupError):
    """A tier was named that no ``RATE_LIMITS`` entry and no ``set_tier_limit`` defined."""

    def __init__(self, tier: str, known: list[str]) -> None:
        super().__init__(f"tier = {tier!r}: expected one of {sorted(known)}")


class ConcurrencyLimitExceeded(RateLimitExceeded):
    """All slots of a client are taken; ``status`` says how many are in flight.

    Nobody knows when a slot is given back: ``retry_after`` is 1.0, a pause between two looks and no promise.
    ``timeout=`` waits in line for one.
    """

    def __init__(self, status: SlotStatus, *, limit: str) -> None:
        super().__init__(RETRY_AFTER, limit=limit)
        self.args = (f"{limit} reached: {status.in_flight} of {status.max_in_flight} in flight",)
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_concurrency, (self.status, self.limit)


def _rebuild_concurrency(status: SlotStatus, limit: str) -> ConcurrencyLimitExceeded:
    return ConcurrencyLimitExceeded(status, limit=limit)
