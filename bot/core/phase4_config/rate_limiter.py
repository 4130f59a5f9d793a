"""Settings of the rate limiter (pure)."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from bot.core._shared.validation import YEAR
from bot.core.phase4_config.fields import Seconds, doc, starting
from bot.core.phase4_config.limit_texts import read_limits
from bot.core.phase4_config.settings import Settings

MIN_RATE, MAX_RATE = 1e-9, 1_000_000_000_000
"""Requests per second. One in thirty years: below this the sums lose whole tokens to rounding."""
MAX_BURST = 1_000_000_000
MAX_WINDOW_REQUESTS = 100_000
"""Requests of an exact window: each that counts is remembered, in 8 bytes."""
MIN_WINDOW = 0.001
"""Seconds."""
MIN_BACKOFF = 1e-6
"""Seconds of the first step of a backoff: each step up to the longest is worked out beforehand."""

Rate = Annotated[float, Meta(ge=MIN_RATE, le=MAX_RATE)]
BackoffSeconds = Annotated[float, Meta(ge=MIN_BACKOFF, le=YEAR)]
Burst = Annotated[int, Meta(ge=1, le=MAX_BURST)]
SlotLease = Annotated[float, Meta(ge=1, le=300)]


class TierBackoff(Struct, frozen=True, forbid_unknown_fields=True):
    """The backoff of one tier, where it is not that of the settings."""

    base: BackoffSeconds = 2.0
    max: BackoffSeconds = 3600.0
    grace: Seconds = 1.0


class TierLimit(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``RATE_LIMITS``: a rate with its burst, an exact window, or a text of windows."""

    requests_per_second: Rate | None = None
    burst_size: Burst = 50
    backoff: bool | TierBackoff = True
    max_requests: Annotated[int, Meta(ge=1, le=MAX_WINDOW_REQUESTS)] | None = None
    window: Annotated[float, Meta(ge=MIN_WINDOW, le=YEAR)] | None = None
    limits: str = ""
    """A text such as "10/second;100/hour"; a tier that is just a text means the same."""

    def problem(self) -> str:
        """What is wrong with fields that are each within their bounds; empty if nothing is."""
        kinds = [self.requests_per_second is not None, self.max_requests is not None, bool(self.limits)]
        if sum(kinds) != 1 or (self.max_requests is None) != (self.window is None):
            return ": expected requests_per_second and burst_size, or max_requests and window, or limits"
        try:
            windows = read_limits(".limits", self.limits) if self.limits else []
        except ValueError as error:
            return str(error)
        for most, window in windows:
            if not 1 <= most <= MAX_WINDOW_REQUESTS or not MIN_WINDOW <= window <= YEAR:
                return (
                    f".limits = {self.limits!r}: expected from 1 to {MAX_WINDOW_REQUESTS:,} requests in "
                    f"{MIN_WINDOW:g} s to a year"
                )
        return ""


class RateLimiterSettings(Settings, frozen=True, rename=starting("RATE_LIMIT_")):
    """Times are seconds."""

    default_rps: Annotated[Rate, doc("requests per second of each client")] = 10.0
    burst_size: Annotated[Burst, doc("requests a client may make at once")] = 50
    tiers: Annotated[
        dict[str, TierLimit],
        doc(
            'limits by tier: name -> "10/second;100/hour", {requests_per_second, burst_size, backoff}, or '
            "{max_requests, window, backoff}"
        ),
    ] = field(default_factory=dict, name="RATE_LIMITS")
    backoff: Annotated[bool, doc("make clients that retry too early, again and again, wait longer")] = True
    backoff_grace: Annotated[
        Seconds, doc("seconds after its first refusal in which no retry of a client counts as too early")
    ] = 1.0
    backoff_base: Annotated[
        BackoffSeconds, doc("first wait, in seconds, of a client that retries too early; doubled each time")
    ] = 2.0
    backoff_max: Annotated[BackoffSeconds, doc("the longest such wait, in seconds")] = 3600.0
    slot_lease: Annotated[
        SlotLease,
        doc("seconds after which the shared slots of a process that died are free (ConcurrencyLimit)"),
    ] = 15.0
    redis_url: Annotated[str, doc("Redis URL for limits that instances share; empty: not shared")] = ""

    exempt_clients: Annotated[
        list[int | str], doc("ids of clients that are never limited, such as admins")
    ] = field(default_factory=list)

    @classmethod
    def prepared(cls, field: str, name: str, value: Any, source: str) -> Any:
        """A tier that is a text has these limits."""
        if field != "tiers" or not isinstance(value, dict):
            return value
        return {
            tier: {"limits": entry} if isinstance(entry, str) and entry else entry
            for tier, entry in value.items()
        }

    def conflicts(self, named: Callable[[str], str]) -> Iterator[str]:
        """Backoffs whose first step is above the longest, of all tiers and of each."""
        if self.backoff_base > self.backoff_max:
            yield (
                f"{named('backoff_base')} = {self.backoff_base:g}: expected at most "
                f"{named('backoff_max')} = {self.backoff_max:g}"
            )
        for tier, limit in self.tiers.items():
            if problem := limit.problem():
                yield f"{named('tiers')}[{tier!r}]{problem}"
            own = limit.backoff
            if isinstance(own, TierBackoff) and own.base > own.max:
                yield (
                    f"{named('tiers')}[{tier!r}].backoff.base = {own.base:g}: "
                    f"expected at most its max, {own.max:g}"
                )
