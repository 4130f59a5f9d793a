"""Requests spread over instances: strategies, health checks, ejection, failover, sticky sessions."""

from bot.core.load_balancer.errors import (
    BalancerOffError,
    InstanceFailure,
    NoInstanceError,
    NotSentError,
    RequestFailed,
    RequestRejected,
    UnknownInstanceError,
)
from bot.core.load_balancer.instances import Instance
from bot.core.load_balancer.models import (
    Attempt,
    InstanceEvent,
    InstanceState,
    LoadBalancingStrategy,
    RouteResult,
)
from bot.core.load_balancer.service import LoadBalancer

__all__ = [
    "Attempt",
    "BalancerOffError",
    "Instance",
    "InstanceEvent",
    "InstanceFailure",
    "InstanceState",
    "LoadBalancer",
    "LoadBalancingStrategy",
    "NoInstanceError",
    "NotSentError",
    "RequestFailed",
    "RequestRejected",
    "RouteResult",
    "UnknownInstanceError",
]
