"""Counters of the limiter as a snapshot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.models import RateLimitConfig, exact

if TYPE_CHECKING:
    from bot.core.rate_limiter.shared import SharedBuckets


def snapshot(
    limits: Iterable[tuple[str, Buckets]], tiers: int, most: int, others: str, dropped: Sequence[int]
) -> dict[str, Any]:
    """The statistics of design: totals, and the same per limit for ``most`` of them.

    The rest together, and what was counted for limits that are no more (``dropped``: allowed, blocked),
    are under ``others``. Limits of equal name are told apart by their figures.
    """
    allowed, blocked = dropped
    clients = 0
    by_limit: dict[str, dict[str, Any]] = {}
    rest = {"active_clients": 0, "allowed": allowed, "blocked": blocked}
    for label, buckets in limits:
        held = len(buckets)
        allowed += buckets.allowed
        blocked += buckets.blocked
        clients += held
        if len(by_limit) >= most:
            rest["active_clients"] += held
            rest["allowed"] += buckets.allowed
            rest["blocked"] += buckets.blocked
            continue
        by_limit[_unique(label, buckets.config, by_limit)] = {
            "requests_per_second": buckets.config.requests_per_second,
            "burst_size": buckets.config.burst_size,
            "active_clients": held,
            "allowed": buckets.allowed,
            "blocked": buckets.blocked,
        }
    if any(rest.values()):
        by_limit[_unique(others, None, by_limit)] = rest
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


def _unique(label: str, config: RateLimitConfig | None, taken: Collection[str]) -> str:
    """A label that is not taken, and that any text format can carry."""
    label = label.encode("utf-8", "backslashreplace").decode()  # a lone surrogate has no UTF-8
    if label in taken and config is not None:
        label = f"{label} ({exact(config.requests_per_second)}/s burst {config.burst_size})"
    found, number = label, 1
    while found in taken:
        number += 1
        found = f"{label} #{number}"
    return found


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
