"""Counters of the limiter as a snapshot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bot.core.phase4_statistics.rate_limiter import LimitFigures, RateLimiterFigures
from bot.core.rate_limiter.models import WindowLimit
from bot.core.rate_limiter.parts import Meter
from bot.core.rate_limiter.table import values

if TYPE_CHECKING:
    from bot.core.rate_limiter.shared import SharedBuckets


def snapshot(
    limits: Iterable[tuple[str, Meter]],
    tiers: int,
    most: int,
    others: str,
    dropped: Sequence[int],
    shared: SharedBuckets | None,
    *,
    enabled: bool,
) -> RateLimiterFigures:
    """Totals, and the same per limit for ``most`` of them.

    The rest together, and what was counted for limits that are no more (``dropped``: allowed, blocked),
    are under ``others``. Limits of equal name are told apart by their figures.
    """
    allowed, blocked = dropped
    clients = 0
    by_limit: dict[str, LimitFigures] = {}
    rest_clients, rest_allowed, rest_blocked = 0, allowed, blocked
    for label, meter in limits:
        held = len(meter)
        allowed += meter.allowed
        blocked += meter.blocked
        clients += held
        if len(by_limit) >= most:
            rest_clients += held
            rest_allowed += meter.allowed
            rest_blocked += meter.blocked
            continue
        by_limit[unique_label(label, values(meter.config), by_limit)] = _figures(meter)
    if rest_clients or rest_allowed or rest_blocked:
        by_limit[unique_label(others, "", by_limit)] = LimitFigures(
            active_clients=rest_clients, allowed=rest_allowed, blocked=rest_blocked
        )
    total = allowed + blocked
    figures = RateLimiterFigures(
        enabled=enabled,
        active_clients=clients,
        total_allowed=allowed,
        total_blocked=blocked,
        total_requests=total,
        block_rate_percent=round(blocked / total * 100, 2) if total else 0.0,
        tiers_configured=tiers,
        limits=by_limit,
    )
    if shared is None:
        return figures
    return replace(
        figures,
        shared=True,
        degraded=shared.degraded,
        shared_checks=shared.checks,
        shared_batches=shared.batches,
        remembered_denials=shared.remembered,
        degraded_checks=shared.degraded_checks,
        shared_p50_ms=round(shared.seconds.quantile(0.5) * 1000, 3),
        shared_p99_ms=round(shared.seconds.quantile(0.99) * 1000, 3),
    )


def _figures(meter: Meter) -> LimitFigures:
    limit = meter.config
    counts = LimitFigures(active_clients=len(meter), allowed=meter.allowed, blocked=meter.blocked)
    if isinstance(limit, WindowLimit):
        return replace(counts, max_requests=limit.max_requests, window_seconds=limit.window)
    return replace(counts, requests_per_second=limit.requests_per_second, burst_size=limit.burst_size)


def unique_label(label: str, detail: str, taken: Collection[str]) -> str:
    """A label that is not taken, by its ``detail`` if need be, and that any text format can carry."""
    label = label.encode("utf-8", "backslashreplace").decode()  # a lone surrogate has no UTF-8
    if label in taken and detail:
        label = f"{label} ({detail})"
    found, number = label, 1
    while found in taken:
        number += 1
        found = f"{label} #{number}"
    return found
