"""What goes into the load balancer and what comes out of it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict


class LoadBalancingStrategy(enum.Enum):
    """How an instance is chosen; ``docs/load_balancer.md`` compares them."""

    ROUND_ROBIN = "round_robin"
    LEAST_CONNECTIONS = "least_connections"
    WEIGHTED = "weighted"
    WEIGHTED_ROUND_ROBIN = "weighted"  # noqa: PIE796  # another name of the same
    RANDOM = "random"
    LEAST_LOADED = "least_loaded"

    @classmethod
    def _missing_(cls, value: object) -> LoadBalancingStrategy | None:
        if not isinstance(value, str):
            return None
        name = value.strip().lower()
        name = "weighted" if name == "weighted_round_robin" else name
        return next((member for member in cls if member.value == name), None)


class InstanceState(enum.Enum):
    """The state of an instance. The first two get requests; HALF_OPEN gets one trial at a time."""

    HEALTHY = "healthy"
    SLOW_START = "slow_start"
    """Back, with a share of requests that grows to its full one."""
    HALF_OPEN = "half_open"
    """Its ejection is over: it gets single requests until it has proved itself."""
    EJECTED = "ejected"
    """Requests to it failed: it gets none for a while."""
    UNHEALTHY = "unhealthy"
    """Health checks failed: it gets none until they succeed again."""
    DRAINING = "draining"
    """Being removed: it finishes what it has."""
    DRAINED = "drained"
    """Taken out by an operator: it finishes what it has, and gets nothing more until it is returned."""


class Attempt(NamedTuple):
    """One try of a request that did not succeed."""

    instance_id: str
    error: str
    seconds: float


class RouteResult(NamedTuple):
    """The outcome of ``route_request``: ``success, result, instance_id = ...``."""

    success: bool
    result: Any
    """What the handler returned; without success, the exception that tells why."""
    instance_id: str | None
    """The instance that answered; without success, the one tried last, if any."""


class InstanceEvent(NamedTuple):
    """A change of state of an instance, or of the whole (``instance_id`` None: panic begins or ends)."""

    instance_id: str | None
    old: str
    new: str
    reason: str
    at: float
    """Unix time in seconds."""


EventCallback = Callable[[InstanceEvent], object]


class Figures(TypedDict, total=False):
    """Keyword arguments of ``LoadBalancer.enable``: the settings ``LOAD_BALANCER_*``, in lower case."""

    check_interval: float
    check_timeout: float
    check_path: str
    failure_threshold: int
    recovery_threshold: int
    request_timeout: float
    total_timeout: float
    max_concurrent: int
    retry_budget_percent: float
    retry_budget_min_per_second: float
    outlier_failures: int
    outlier_failure_percent: float
    outlier_min_requests: int
    outlier_window: float
    ejection_time: float
    ejection_max_time: float
    max_ejected_percent: float
    panic_percent: float
    slow_start: float
    hedging: bool
