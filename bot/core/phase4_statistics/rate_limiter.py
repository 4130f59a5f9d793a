"""Figures of the rate limiter (pure)."""

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import UNSET, UnsetType, field

from bot.core.phase4_statistics.fields import DEGRADED, Figures, counter, gauge, mapping

_REQUESTS = counter("phase4_rate_limit_requests", "Requests by limit and outcome", "outcome")
_SLOTS = counter("phase4_rate_limit_slots", "Calls for a slot by limit and outcome", "outcome")


class LimitFigures(Figures, frozen=True, kw_only=True):
    """Of one limit, or of all that are not shown by themselves; those have no figures of a limit.

    A limit has a rate and a burst, or the requests and seconds of its exact window.
    """

    service = "rate_limiter"
    label = "tier"

    requests_per_second: float | UnsetType = UNSET
    """The limit's rate."""
    burst_size: int | UnsetType = UNSET
    """The limit's burst."""
    max_requests: int | UnsetType = UNSET
    """Requests that the limit allows in any window."""
    window_seconds: float | UnsetType = UNSET
    """Seconds of the limit's window."""
    active_clients: Annotated[
        int, gauge("phase4_rate_limit_active_clients", "Clients whose bucket is not full")
    ]
    allowed: Annotated[int, _REQUESTS.of("allowed")]
    """Requests allowed."""
    blocked: Annotated[int, _REQUESTS.of("blocked")]
    """Requests refused."""

    @classmethod
    def told(cls, services: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """The limits in the status, by name."""
        limits = mapping(mapping(services.get(cls.service)).get("limits"))
        return {str(name): mapping(limit) for name, limit in limits.items()}


class SlotFigures(Figures, frozen=True, kw_only=True):
    """Of one ConcurrencyLimit, or of all not shown by themselves, which have no ``max_in_flight``."""

    service = "rate_limiter"
    label = "limit"

    max_in_flight: int | UnsetType = UNSET
    """Slots that each client may have."""
    in_flight: Annotated[int, gauge("phase4_rate_limit_slots_in_flight", "Slots taken in this process")]
    """Slots that this process holds, of all clients."""
    waiting: Annotated[
        int, gauge("phase4_rate_limit_slots_waiting", "Callers of this process that wait for a slot")
    ]
    """Callers that wait for a slot in this process."""
    granted: Annotated[int, _SLOTS.of("granted")]
    """Slots taken."""
    refused: Annotated[int, _SLOTS.of("refused")]
    """Calls for a slot that were refused, or waited too long."""
    lost: Annotated[
        int, counter("phase4_rate_limit_slots_lost", "Slots whose lease ended before they were given back")
    ]
    """Slots whose lease ended before they were given back, if they are shared."""

    @classmethod
    def told(cls, services: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """The limits in the status, by name."""
        limits = mapping(mapping(services.get(cls.service)).get("slots"))
        return {str(name): mapping(limit) for name, limit in limits.items()}


class RateLimiterFigures(Figures, frozen=True, kw_only=True):
    """Since the start or the last reset; ``shared_...`` and ``degraded_...`` are 0 if limits are not shared.

    ``shared_checks`` were answered by Redis in ``shared_batches`` round trips; ``remembered_denials``
    needed none; ``degraded_checks`` were decided by this instance alone, as all are while ``degraded``.
    """

    service = "rate_limiter"

    enabled: bool
    """Whether the service is on."""
    active_clients: int
    """Buckets in memory: those that are not full, and some that became full lately."""
    total_allowed: int
    """Requests allowed."""
    total_blocked: int
    """Requests refused."""
    total_requests: int
    """Requests that a limit applied to."""
    block_rate_percent: float
    """Percent of requests refused."""
    tiers_configured: int
    """Tiers that have their own limit."""
    exempted: int = 0
    """Requests of clients that are never limited; they are in no other count."""
    limits: dict[str, LimitFigures]
    """The figures of each limit, by its name."""
    slots: dict[str, SlotFigures] = field(default_factory=dict)
    """The figures of each ConcurrencyLimit, by its name."""
    shared: bool = False
    """Whether instances share their limits through Redis."""
    degraded: Annotated[bool, DEGRADED.of(service)] = False
    """Whether Redis is unreachable, so each instance limits on its own."""
    shared_checks: int = 0
    """Checks that Redis answered."""
    shared_batches: int = 0
    """Round trips of these checks."""
    remembered_denials: int = 0
    """Refusals that needed no round trip."""
    degraded_checks: int = 0
    """Checks that this instance decided without Redis although limits are shared."""
    shared_p50_ms: float = 0.0
    """Milliseconds within which half of the shared checks were answered."""
    shared_p99_ms: float = 0.0
    """Milliseconds within which 99 % of the shared checks were answered."""

    @property
    def block_rate(self) -> float:
        """The same as ``block_rate_percent``."""
        return self.block_rate_percent

    @property
    def requests_blocked(self) -> int:
        """The same as ``total_blocked``."""
        return self.total_blocked
