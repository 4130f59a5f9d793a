"""Figures of the rate limiter (pure)."""

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import UNSET, UnsetType

from bot.core.phase4_statistics.fields import DEGRADED, Figures, counter, gauge, mapping

_REQUESTS = counter("phase4_rate_limit_requests", "Requests by limit and outcome", "outcome")


class LimitFigures(Figures, frozen=True, kw_only=True):
    """Of one limit, or of all that are not shown by themselves; those have no rate and no burst."""

    service = "rate_limiter"
    label = "tier"

    requests_per_second: float | UnsetType = UNSET
    burst_size: int | UnsetType = UNSET
    active_clients: Annotated[
        int, gauge("phase4_rate_limit_active_clients", "Clients whose bucket is not full")
    ]
    allowed: Annotated[int, _REQUESTS.of("allowed")]
    blocked: Annotated[int, _REQUESTS.of("blocked")]

    @classmethod
    def told(cls, services: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """The limits in the status, by name."""
        limits = mapping(mapping(services.get(cls.service)).get("limits"))
        return {str(name): mapping(limit) for name, limit in limits.items()}


class RateLimiterFigures(Figures, frozen=True, kw_only=True):
    """Since the start or the last reset; ``shared_...`` and ``degraded_...`` are 0 if limits are not shared.

    ``shared_checks`` were answered by Redis in ``shared_batches`` round trips; ``remembered_denials``
    needed none; ``degraded_checks`` were decided by this instance alone, as all are while ``degraded``.
    """

    service = "rate_limiter"

    enabled: bool
    active_clients: int
    """Buckets held: those that are not full, and some that were not long ago."""
    total_allowed: int
    total_blocked: int
    total_requests: int
    block_rate_percent: float
    tiers_configured: int
    limits: dict[str, LimitFigures]
    shared: bool = False
    degraded: Annotated[bool, DEGRADED.of(service)] = False
    shared_checks: int = 0
    shared_batches: int = 0
    remembered_denials: int = 0
    degraded_checks: int = 0
    shared_p50_ms: float = 0.0
    shared_p99_ms: float = 0.0

    @property
    def block_rate(self) -> float:
        """The same as ``block_rate_percent``."""
        return self.block_rate_percent

    @property
    def requests_blocked(self) -> int:
        """The same as ``total_blocked``."""
        return self.total_blocked
