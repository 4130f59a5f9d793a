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
    """The instance's host."""
    port: int
    """The instance's port."""
    url: str
    """The instance's URL."""
    weight: float
    """Its share in weighted strategies."""
    state: str
    """healthy, unhealthy, ejected, half_open, slow_start, draining or drained."""
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
    """Requests it answered."""
    failed_requests: Annotated[
        int, counter("phase4_load_balancer_instance_failures", "Failed requests by instance")
    ]
    success_rate_percent: float
    """Percent of its requests that it answered."""
    average_response_time_ms: float
    """Milliseconds it took to answer or to fail, on average."""
    p99_response_time_ms: float
    """Milliseconds within which 99 % of its requests were answered or failed."""
    consecutive_failures: int
    """Failed requests in a row."""
    failed_checks: int
    """Failed health checks in a row."""
    ejections: int
    """Number of recent ejections."""
    last_error: str
    """The error of the last failed request or check."""
    history: list[dict[str, Any]]
    """Its last changes of state, each with time and reason."""

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
    """Whether the service is on."""
    strategy: str
    """How instances are selected."""
    total_instances: Annotated[int, gauge("phase4_load_balancer_instances", "Instances known")]
    healthy_instances: Annotated[
        int, gauge("phase4_load_balancer_healthy_instances", "Instances that get requests")
    ]
    panic: bool
    """Whether so few instances are healthy that all of them get requests."""
    degraded: Annotated[bool, DEGRADED.of(service)]
    """Whether an instance is not healthy."""
    total_requests: int
    """Requests routed."""
    successful_requests: Annotated[int, _REQUESTS.of("succeeded")]
    """Requests answered."""
    failed_requests: Annotated[int, _REQUESTS.of("failed")]
    """Requests that failed at every instance tried, or had no instance to go to."""
    rejected_requests: Annotated[int, _REQUESTS.of("rejected")]
    """Requests that failed through no fault of an instance: rejected ones, and bugs of the handler."""
    success_rate_percent: float
    """Percent of the requests that were answered."""
    average_response_time_ms: Annotated[
        float,
        gauge("phase4_load_balancer_average_response_seconds", "Response time on average", scale=0.001),
    ]
    """Milliseconds until an answer, on average."""
    p95_response_time_ms: float
    """Milliseconds within which 95 % of the requests were answered."""
    p99_response_time_ms: float
    """Milliseconds within which 99 % of the requests were answered."""
    retries: Annotated[
        int, counter("phase4_load_balancer_retries", "Requests sent again to another instance")
    ]
    retries_refused: int
    """Retries that the budget did not allow."""
    hedged_requests: int
    """Requests sent to a second instance because the first was slow."""
    hedge_wins: int
    """Hedged requests that the second instance answered first."""
    distribution_variance: Annotated[
        float,
        gauge(
            "phase4_load_balancer_distribution_variance_percent",
            "How far requests per instance are from their share, percent",
        ),
    ]
    instances: dict[str, InstanceFigures]
    """The figures of each instance, by its id."""
