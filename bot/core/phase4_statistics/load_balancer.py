"""Figures of the load balancer (pure)."""

from collections.abc import Mapping
from typing import Annotated, Any

from bot.core.phase4_statistics.fields import DEGRADED, Figures, counter, gauge, mapping

_REQUESTS = counter("phase4_load_balancer_requests", "Requests routed by outcome", "outcome")


class InstanceFigures(Figures, frozen=True, kw_only=True):
    """Of one instance, since its start or the last reset."""

    service = "load_balancer"
    # Not "instance": that is Prometheus's own name for what it scrapes, and would be renamed there.
    label = "bot_instance"

    address: str
    port: int
    url: str
    weight: float
    state: str
    since: float
    """Unix time of the last change of state."""
    healthy: Annotated[
        bool, gauge("phase4_load_balancer_instance_healthy", "1 while the instance is healthy")
    ]
    drained: Annotated[
        bool, gauge("phase4_load_balancer_instance_drained", "1 while an operator has taken the instance out")
    ]
    active_requests: Annotated[int, gauge("phase4_load_balancer_instance_active", "Requests in progress")]
    total_requests: Annotated[int, counter("phase4_load_balancer_instance_requests", "Requests by instance")]
    successful_requests: int
    failed_requests: Annotated[
        int, counter("phase4_load_balancer_instance_failures", "Failed requests by instance")
    ]
    success_rate_percent: float
    average_response_time_ms: float
    p99_response_time_ms: float
    consecutive_failures: int
    failed_checks: int
    ejections: int
    last_error: str
    history: list[dict[str, Any]]

    @property
    def avg_response_time(self) -> float:
        """The same as ``average_response_time_ms``."""
        return self.average_response_time_ms

    @classmethod
    def told(cls, services: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """The instances in the status, by id."""
        instances = mapping(mapping(services.get(cls.service)).get("instances"))
        return {str(name): mapping(instance) for name, instance in instances.items()}


class LoadBalancerFigures(Figures, frozen=True, kw_only=True):
    """Since the start or the last reset; see docs/load_balancer.md for each."""

    service = "load_balancer"

    enabled: bool
    strategy: str
    total_instances: Annotated[int, gauge("phase4_load_balancer_instances", "Instances known")]
    healthy_instances: Annotated[
        int, gauge("phase4_load_balancer_healthy_instances", "Instances that get requests")
    ]
    panic: bool
    degraded: Annotated[bool, DEGRADED.of(service)]
    total_requests: int
    successful_requests: Annotated[int, _REQUESTS.of("succeeded")]
    failed_requests: Annotated[int, _REQUESTS.of("failed")]
    rejected_requests: Annotated[int, _REQUESTS.of("rejected")]
    success_rate_percent: float
    average_response_time_ms: Annotated[
        float,
        gauge("phase4_load_balancer_average_response_seconds", "Response time on average", scale=0.001),
    ]
    p95_response_time_ms: float
    p99_response_time_ms: float
    retries: Annotated[
        int, counter("phase4_load_balancer_retries", "Requests sent again to another instance")
    ]
    retries_refused: int
    hedged_requests: int
    hedge_wins: int
    distribution_variance: Annotated[
        float,
        gauge(
            "phase4_load_balancer_distribution_variance_percent",
            "How far requests are from their share, percent",
        ),
    ]
    instances: dict[str, InstanceFigures]
