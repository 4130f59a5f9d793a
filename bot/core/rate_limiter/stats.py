"""Counters of the limiter as a snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bot.core.rate_limiter.bucket import Buckets


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
