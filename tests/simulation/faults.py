"""What goes wrong, and when: a plan that a seed decides."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.simulation.world import Instance, World


class Fault(NamedTuple):
    """One thing that goes wrong."""

    at: float
    """Seconds after the users have begun."""
    kind: str
    place: int
    """Which of the instances it strikes, if it strikes one."""
    seconds: float
    """How long it lasts."""
    amount: float
    """How bad it is, from 0 to 1."""


# What begins a fault, and returns what ends it, if anything has to.
Begin = Callable[["World", "Instance", Fault], Callable[[], object] | None]


def _cut(world: World, instance: Instance, fault: Fault) -> None:
    for transport in world.network.of(instance.route):
        transport.cut()


def _half_open(world: World, instance: Instance, fault: Fault) -> None:
    for transport in world.network.of(instance.route):
        if world.chance.random() < 0.5:
            transport.cut(told=False)


def _black_hole(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
    world.network.darken(instance.route)
    return lambda: world.network.light(instance.route)


def _slow(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
    instance.route.slowness = 2 * fault.amount**2

    def end() -> None:
        instance.route.slowness = 0.0

    return end


def _freeze(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
    world.redis.freeze()
    return world.redis.thaw


def _restart_redis(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
    world.redis.kill(keeps=True)
    return world.redis.restart


def _lose_redis(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
    world.redis.kill(keeps=False)
    return world.redis.restart


def _fail_over(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
    """From now on the replica lags behind; then it takes the place of the server."""
    replica = world.redis.copied()

    def promote() -> None:
        world.redis.kill(keeps=False)
        world.redis.load(replica)
        world.redis.restart()

    return promote


def _evict(world: World, instance: Instance, fault: Fault) -> None:
    world.redis.evict(1 + int(fault.amount * 10))


def _state(name: str) -> Begin:
    """A state of the server, for a while."""

    def begin(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
        setattr(world.redis, name, fault.amount / 4 if name == "evicting" else True)
        return lambda: setattr(world.redis, name, 0.0 if name == "evicting" else False)

    return begin


def _mangle(world: World, instance: Instance, fault: Fault) -> None:
    world.redis.mangle()


def _stop_process(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
    instance.process.stopped = True
    return lambda: world.loop.resume(instance.process)


def _kill_process(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
    world.kill(instance)
    return lambda: world.replace(instance)


def _clock_step(world: World, instance: Instance, fault: Fault) -> None:
    instance.clock.wall += (fault.amount - 0.5) * 7200


def _redis_clock_step(world: World, instance: Instance, fault: Fault) -> None:
    world.clock.wall += (fault.amount - 0.5) * 20


KINDS: dict[str, Begin] = {
    "cut": _cut,
    "half open": _half_open,
    "black hole": _black_hole,
    "slow": _slow,
    "freeze": _freeze,
    "restart redis": _restart_redis,
    "lose redis": _lose_redis,
    "fail over": _fail_over,
    "evict": _evict,
    "evicting": _state("evicting"),
    "demote": _state("read_only"),
    "full": _state("full"),
    "loading": _state("loading"),
    "wrong type": _mangle,
    "stop process": _stop_process,
    "kill process": _kill_process,
    "clock step": _clock_step,
    "clock step of redis": _redis_clock_step,
}
"""Every fault by its name."""
HARMLESS = ("clock step",)
"""Those that no promise makes an exception for."""
LOSSES = ("lose redis", "fail over", "evict", "evicting", "wrong type")
"""Those that lose or spoil what Redis holds."""

LASTING = ("black hole", "freeze", "restart redis", "lose redis", "demote", "full", "loading")
"""Those that may last for ever."""


def lasting(chance: random.Random, kinds: tuple[str, ...], length: float, instances: int) -> Fault:
    """A fault that does not end."""
    at = round(chance.uniform(0.0, length), 3)
    return Fault(at, chance.choice(kinds), chance.randrange(instances), math.inf, round(chance.random(), 3))


def plan_of(chance: random.Random, kinds: tuple[str, ...], length: float, instances: int) -> list[Fault]:
    """Up to six faults of these kinds within ``length`` seconds, in their order."""
    return sorted(
        Fault(
            round(chance.uniform(0.0, length), 3), chance.choice(kinds), chance.randrange(instances),
            round(chance.choice((0.05, 0.5, 2.0, 8.0)) * chance.uniform(0.5, 2.0), 3),
            round(chance.random(), 3),
        )
        for _ in range(chance.choice((0, 1, 1, 2, 3, 4, 6)))
    )  # fmt: skip
