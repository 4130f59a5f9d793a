"""Counters of the limiter as a snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bot.core.rate_limiter.bucket import Buckets

if TYPE_CHECKING:
    from bot.core.rate_limiter.shared import SharedBuckets


def snapshot(limits: Iterable[tuple[str, Buckets]], tiers: int) -> dict[str, Any]:
    """The statistics of design: totals, and the same per limit."""
    allowed = blocked = clients = 0
    by_limit: dict[str, dict[str, Any]] = {}
    for name, buckets in limits:
        allowed += buckets.allowed
        blocked += buckets.blocked
        clients += len(buckets)
        by_limit[name] = {
            "requests_per_second": buckets.config.requests_per_second,
            "burst_size": buckets.config.burst_size,
            "active_clients": len(buckets),
            "allowed": buckets.allowed,
            "blocked": buckets.blocked,
        }
    total = allowed + blocked
    rate = round(blocked / total * 100, 2) if total else 0.0
    return {
        "enabled": True,
        "active_clients": clients,
        "total_allowed": allowed,
        "total_blocked": blocked,
        "total_requests": total,
        "block_rate": rate,
        "block_rate_percent": rate,
        "tiers_configured": tiers,
        "limits": by_limit,
    }


def shared_figures(shared: SharedBuckets | None) -> dict[str, Any]:
    """What sharing through Redis adds to the statistics; zeros where limits are not shared.

    ``shared_checks`` were answered by Redis in ``shared_batches`` round trips; ``remembered_denials``
    needed none; ``degraded_checks`` were decided by this instance alone, as all are while ``degraded``.
    """
    if shared is None:
        return {
            "shared": False, "degraded": False, "shared_checks": 0, "shared_batches": 0,
            "remembered_denials": 0, "degraded_checks": 0, "shared_p50_ms": 0.0, "shared_p99_ms": 0.0,
        }  # fmt: skip
    return {
        "shared": True,
        "degraded": shared.degraded,
        "shared_checks": shared.checks,
        "shared_batches": shared.batches,
        "remembered_denials": shared.remembered,
        "degraded_checks": shared.degraded_checks,
        "shared_p50_ms": round(shared.seconds.quantile(0.5) * 1000, 3),
        "shared_p99_ms": round(shared.seconds.quantile(0.99) * 1000, 3),
    }
