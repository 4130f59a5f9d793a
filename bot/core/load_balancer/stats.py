"""Counters of the load balancer as a snapshot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bot.core.load_balancer.cluster import Cluster
from bot.core.load_balancer.instances import Instance
from bot.core.load_balancer.models import InstanceState, LoadBalancingStrategy
from bot.core.load_balancer.router import Router
from bot.core.phase4_statistics.load_balancer import InstanceFigures, LoadBalancerFigures


def snapshot(cluster: Cluster, router: Router, enabled: bool) -> LoadBalancerFigures:
    """The statistics of the design; see ``docs/load_balancer.md`` for each."""
    counters = router.counters
    members = list(cluster.members.values())
    decided = counters.succeeded + counters.failed
    strategy = cluster.strategy
    named = isinstance(strategy, LoadBalancingStrategy)
    return LoadBalancerFigures(
        enabled=enabled,
        strategy=strategy.value if named else getattr(strategy, "__qualname__", repr(strategy)),  # type: ignore[union-attr]
        total_instances=len(members),
        healthy_instances=sum(instance.is_healthy for instance in members),
        panic=cluster.panic,
        # What an operator has drained is as it should be.
        degraded=cluster.panic
        or any(
            not instance.is_healthy and instance.state is not InstanceState.DRAINED for instance in members
        ),
        total_requests=counters.requests,
        successful_requests=counters.succeeded,
        failed_requests=counters.failed,
        rejected_requests=counters.refused,
        success_rate_percent=_percent(counters.succeeded, decided),
        average_response_time_ms=_ms(router.response_seconds.mean()),
        p95_response_time_ms=_ms(router.response_seconds.quantile(0.95)),
        p99_response_time_ms=_ms(router.response_seconds.quantile(0.99)),
        retries=counters.retries,
        retries_refused=router.budget.refused,
        hedged_requests=counters.hedged,
        hedge_wins=counters.hedge_wins,
        distribution_variance=variance(members, weighted=cluster.strategy is LoadBalancingStrategy.WEIGHTED),
        instances={instance.id: _figures(instance) for instance in members},
    )


def variance(members: Sequence[Instance], *, weighted: bool) -> float:
    """Coefficient of variation, in percent, of the requests of each healthy instance.

    Counted since the set of healthy instances last changed; with ``weighted``, requests per weight.
    """
    counts = [
        (instance.picked - instance.picked_before) / (instance.weight if weighted else 1.0)
        for instance in members
        if instance.is_healthy
    ]
    mean = statistics.fmean(counts) if counts else 0.0
    return round(statistics.pstdev(counts) / mean * 100.0, 2) if mean else 0.0


def _figures(instance: Instance) -> InstanceFigures:
    return InstanceFigures(
        address=instance.host,
        port=instance.port,
        url=instance.get_url(),
        weight=instance.weight,
        state=instance.state.value,
        since=round(instance.since, 3),
        healthy=instance.is_healthy,
        drained=instance.state is InstanceState.DRAINED,
        active_requests=instance.in_flight,
        total_requests=instance.picked,
        successful_requests=instance.succeeded,
        failed_requests=instance.failed,
        success_rate_percent=_percent(instance.succeeded, instance.succeeded + instance.failed),
        average_response_time_ms=_ms(instance.response_seconds.mean()),
        p99_response_time_ms=_ms(instance.response_seconds.quantile(0.99)),
        consecutive_failures=instance.consecutive_failures,
        failed_checks=instance.failed_checks,
        ejections=instance.ejections,
        last_error=instance.last_error,
        history=list(instance.history),
    )


def _percent(part: int, whole: int) -> float:
    return round(part / whole * 100.0, 2) if whole else 0.0


def _ms(seconds: float) -> float:
    return round(seconds * 1000.0, 3)
