"""Clusters of the load balancer on virtual time."""

from __future__ import annotations

import random
from typing import Any

from bot.core.load_balancer.cluster import Cluster
from bot.core.load_balancer.instances import Instance
from bot.core.load_balancer.strategies import strategy_of
from bot.core.phase4_config.load_balancer import LoadBalancerOptions
from tests.support.clock import VirtualClock


def options(**figures: Any) -> LoadBalancerOptions:
    """The defaults but for ``figures``; no panic, no slow start."""
    return LoadBalancerOptions().changed(**{"panic_percent": 0, "slow_start": 0, **figures})


def cluster(
    count: int = 3,
    strategy: Any = "round_robin",
    *,
    clock: VirtualClock | None = None,
    weights: dict[str, float] | None = None,
    seed: int = 0,
    **figures: Any,
) -> Cluster:
    """Instances ``a``, ``b``, ``c`` and so on."""
    clock = clock or VirtualClock()
    made = Cluster(
        strategy_of(strategy), options(**figures), clock.monotonic, clock.time, random.Random(seed)
    )
    for index in range(count):
        name = chr(ord("a") + index)
        made.add(Instance(name, "127.0.0.1", 8001 + index, (weights or {}).get(name, 1.0)))
    return made


def picks(of: Cluster, count: int) -> list[str]:
    """The ids of ``count`` picks, each request ended before the next."""
    found = []
    for _ in range(count):
        instance = of.select()
        assert instance is not None
        of.acquire(instance)
        of.release(instance)
        found.append(instance.id)
    return found


def take_down(of: Cluster, name: str, now: float = 0.0) -> Instance:
    """Fail the health checks of an instance."""
    instance = of.members[name]
    for _ in range(of.options.failure_threshold):
        of.checked(instance, "no answer", now)
    return instance


def bring_up(of: Cluster, name: str, now: float = 0.0) -> Instance:
    instance = of.members[name]
    for _ in range(of.options.recovery_threshold):
        of.checked(instance, "", now)
    return instance
