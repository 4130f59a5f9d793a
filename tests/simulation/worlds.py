"""Every world by its name, and running them."""

from __future__ import annotations

from tests.simulation.balancer_world import BalancerWorld
from tests.simulation.batch_world import BatchWorld
from tests.simulation.cache_world import CacheWorld
from tests.simulation.every_world import EveryWorld
from tests.simulation.limiter_world import LimiterWorld
from tests.simulation.optimizer_world import OptimizerWorld
from tests.simulation.outbound_world import OutboundWorld
from tests.simulation.pool_world import PoolWorld
from tests.simulation.slots_world import SlotsWorld
from tests.simulation.world import Scenario, World

_KINDS: tuple[type[Scenario], ...] = (
    BalancerWorld, BatchWorld, CacheWorld, EveryWorld, LimiterWorld, OptimizerWorld, OutboundWorld, PoolWorld,
    SlotsWorld,
)  # fmt: skip
WORLDS: dict[str, type[Scenario]] = {kind.name: kind for kind in _KINDS}


def failure_of(kind: type[Scenario], seed: int, without: frozenset[int] = frozenset()) -> str | None:
    """What is wrong in a run; None if nothing is."""
    try:
        World(seed, kind, without).run()
    except AssertionError as error:
        return f"{type(error).__name__}: {error}"
    return None


def told(kind: type[Scenario], seed: int, failure: str) -> str:
    """A failure, and the command that replays it with no more faults than it takes."""
    without: frozenset[int] = frozenset()
    for number in range(7):
        if failure_of(kind, seed, without | {number}) is not None:
            without |= {number}
    left_out = f" --without {','.join(map(str, sorted(without)))}" if without else ""
    return f"{failure}\n    python -m tests.simulation --world {kind.name} --seed {seed}{left_out}"
