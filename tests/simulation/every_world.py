"""All services at once, as a bot has them: started, watched, reset and stopped by the start-up.

Each instance is a process with one of each service, which ``initialize_phase4_services`` has made and wired.
Users of each service go on as in its own world, side by side, and its promises are checked as there; the
services share a connection to Redis, an event loop, and what goes wrong. Besides:

- A start succeeds whatever has failed; so does a second one with the same settings, which changes nothing.
- ``get_phase4_status`` tells of every service at any time, and of nothing but well ones in the end.
- A bot that is stopped in order and started anew is no excuse, but for batches that it had begun; one that
  is stopped at work is, until it has ended. Either way it ends in time, and leaves nothing.

In some runs Redis loses what it holds: it evicts keys, restarts empty, has keys of another type. Then the
queue has a Redis of its own, as the documentation demands, which keeps what it holds and is always there.

Not covered: a Redis that evicts all the time, or is replaced by a replica that lags; the services' own worlds
have that, as far as they promise anything then.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar
from unittest import mock

from bot.core import enhanced_startup_phase4 as startup
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.connection_pool_manager import service as pool_service
from bot.core.connection_pool_manager.lease_context import release
from bot.core.phase4_config import Phase4Config
from bot.core.phase4_config.batch_processor import BatchProcessorSettings
from bot.core.phase4_config.connection_pools import PoolSizes
from bot.core.phase4_config.load_balancer import LoadBalancerOptions
from bot.core.phase4_service import Phase4Service
from bot.core.phase4_wiring import SERVICES
from tests.simulation import (
    balancer_world,
    batch_world,
    cache_world,
    limiter_world,
    optimizer_world,
    outbound_world,
    pool_world,
    slots_world,
)
from tests.simulation.backend_model import Troubles
from tests.simulation.faults import HARMLESS, KINDS, LASTING, LOSSES, Begin, Fault
from tests.simulation.loop import PROCESS
from tests.simulation.network import Route
from tests.simulation.optimizer_world import TABLES
from tests.simulation.parts import OneOfEach, Part, PartInstance, Registry
from tests.simulation.redis_model import RedisModel
from tests.simulation.rows_model import Writing
from tests.simulation.world import Instance, Scenario, World

PARTS: tuple[type[Scenario], ...] = (
    balancer_world.BalancerWorld, batch_world.BatchWorld, cache_world.CacheWorld,
    limiter_world.LimiterWorld, optimizer_world.OptimizerWorld, outbound_world.OutboundWorld,
    pool_world.PoolWorld, slots_world.SlotsWorld,
)  # fmt: skip
USERS = (
    "balancer", "batch", "batch", "cache", "cache", "limiter", "limiter", "optimizer", "outbound", "outbound",
    "pool", "pool", "slots", "administrator",
)  # fmt: skip
"""What each user of an instance does."""
PACKAGES = {wiring.package for wiring in SERVICES}
S = TypeVar("S", bound=Scenario)
LOSING = ("lose redis", "evict", "wrong type")
"""Faults of a Redis that does not hold the queue."""
LOSES = 0.4
"""The share of runs that have them, and half of whose faults are such."""
LEFT_AT_WORK = 0.5
"""The share of stops that do not wait for what goes on."""


class Pool:
    """The pool of the manager, as :class:`pool_world.PoolWorld` uses one."""

    def __init__(self, manager: ConnectionPoolManager) -> None:
        self._manager = manager

    async def acquire(self, timeout: float | None = None) -> Any:
        return await self._manager.acquire_connection("p", timeout)

    def release(self, lease: Any) -> None:
        release(lease, True)


class Everything:
    """What an instance has, by the names of the worlds."""

    def __init__(self, views: dict[str, PartInstance]) -> None:
        self.views = views
        self.config: Any = None

    @property
    def front(self) -> balancer_world.Front:
        return self.views["balancer"].it  # type: ignore[no-any-return]

    # What the balancer's faults ask of an instance.

    @property
    def ways(self) -> Any:
        return self.front.ways

    @property
    def unsettled(self) -> Troubles:
        return self.front.unsettled


def _leave(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
    """It is stopped in order, at work or when its users have gone, and another starts in its place."""
    if not instance.process.dead and not instance.leaving and instance.ready:
        world.errand(_left(world, instance, at_work=fault.amount < LEFT_AT_WORK), f"{instance.name} leaves")
    return lambda: world.replace(instance)


async def _left(world: World, instance: Instance, *, at_work: bool) -> None:
    instance.leaving = True
    users = world.users_of(instance)
    if users and not at_work:
        await asyncio.wait(users, timeout=10.0)
    busy = not all(user.done() for user in users)
    everything: EveryWorld = world.scenario  # type: ignore[assignment]
    own = everything.parts["batch"].own
    own.append(world.trouble() if busy else [world.now, float("inf")])
    ended = instance.it.unsettled.begin(world.now)
    await world.leave(instance)
    own[-1][1] = world.now
    ended(world.now)


class EveryWorld(Scenario):
    """Bots that use everything."""

    name: ClassVar[str] = "every"
    kinds: ClassVar[tuple[str, ...]] = (
        *(kind for kind in KINDS if kind not in (*LOSSES, "stop process", "clock step of redis")),
        *(kind for part in PARTS for kind in part.own), "leave", "leave",
    )  # fmt: skip
    lasting: ClassVar[tuple[str, ...]] = (
        *(kind for kind in LASTING if kind not in LOSSES),
        "database refuses", "statements fail", "backend dies", "way is dark",
    )  # fmt: skip
    own: ClassVar[dict[str, Begin]] = {
        **{kind: begin for part in PARTS for kind, begin in part.own.items()}, "leave": _leave,
    }  # fmt: skip
    harmless: ClassVar[tuple[str, ...]] = (*HARMLESS, "leave")
    quiet: ClassVar[str] = "|".join(part.quiet for part in PARTS if part.quiet != Scenario.quiet)
    share: ClassVar[float] = 0.05
    length: ClassVar[float] = 12.0
    users: ClassVar[int] = len(USERS)
    pause: ClassVar[float] = 1.5
    instances: ClassVar[tuple[int, ...]] = (2, 2, 3, 4)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.parts = {kind.name: Part(world, kind, number) for number, kind in enumerate(PARTS)}
        self.database = self._scenario(pool_world.PoolWorld).database
        self.rows = self._scenario(optimizer_world.OptimizerWorld).rows
        self.backends = self._scenario(balancer_world.BalancerWorld).backends
        self.queue: RedisModel | None = None
        """The Redis of the queue, if it has its own."""
        if random.Random(f"losses {world.seed}").random() < LOSES:
            self.queue = RedisModel(world.loop, random.Random(f"queue {world.seed}"))
            self.parts["batch"].redis = self.queue

    def faults(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if self.queue is None:
            return self.kinds, self.lasting
        return (*self.kinds, *8 * (*LOSING, "demote")), (*self.lasting, "lose redis")

    def _scenario(self, kind: type[S]) -> S:
        found = self.parts[kind.name].scenario
        assert isinstance(found, kind)
        return found

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Every simulated process has singletons and a start-up of its own, and the database is a model."""
        runtime = startup._Runtime
        with (
            mock.patch.object(Phase4Service, "_instances", Registry()),
            mock.patch.object(startup, "_runtime", OneOfEach(runtime)),
            mock.patch.object(pool_service, "driver_class", return_value=self._driver),
            # Which the operating system has of the real process, and of no simulated one.
            mock.patch.object(startup, "_process_figures", return_value={}),
        ):
            yield

    def _driver(self, spec: Any) -> pool_world.ModelDriver:
        part, process = self.parts["pool"], PROCESS.get()
        instance = next(one for one in self.world.instances if one.process is process)
        return pool_world.ModelDriver(spec, self.database, part.of(instance))

    # An instance.

    async def start(self, instance: Instance) -> None:
        views = {name: part.of(instance) for name, part in self.parts.items()}
        everything = Everything(views)
        balancers = self._scenario(balancer_world.BalancerWorld)
        front = balancers.front_of(views["balancer"])
        instance.it = everything
        everything.config = Phase4Config.from_mapping(self._settings(instance, front))
        await self._initialize(everything)
        registry = {wiring.package: wiring.instance() for wiring in SERVICES}
        cache, optimizer = registry["cache_manager"], registry["query_optimizer"]
        limiter: Any = registry["rate_limiter"]
        batches: Any = registry["batch_processor"]
        views["cache"].it, views["limiter"].it, views["outbound"].it = cache, limiter, registry["outbound"]
        views["slots"].it = limiter, cache
        views["optimizer"].it = optimizer_world.Services(cache, optimizer)  # type: ignore[arg-type]
        views["pool"].it = Pool(registry["connection_pool_manager"])  # type: ignore[arg-type]
        views["batch"].it = batches
        batches.process_handler = self._scenario(batch_world.BatchWorld).handler_of(views["batch"])
        await balancers.begin(front, registry["load_balancer"])  # type: ignore[arg-type]

    def _settings(self, instance: Instance, front: balancer_world.Front) -> dict[str, Any]:
        balancing = self._scenario(balancer_world.BalancerWorld).options(front)
        if front.strategy == "function":  # which is no setting
            front.strategy = balancer_world.LoadBalancingStrategy.ROUND_ROBIN
        url = queue_url = instance.url
        if self.queue is not None:
            host = f"queue.{instance.host}"
            self.world.network.routes[host] = Route(self.queue)
            queue_url = f"redis://{host}:6379/0"
        return {
            **{wiring.flag: True for wiring in SERVICES},
            **_named(BatchProcessorSettings, batch_world.OPTIONS),
            **_named(PoolSizes, pool_world.OPTIONS),
            **_named(LoadBalancerOptions, balancing),
            "LOAD_BALANCER_STRATEGY": front.strategy.value,
            "DATABASE_POOLS": {
                "p": {"backend": "redis", "url": "redis://h", "options": {"validation_timeout": 1.0}}
            },
            "CACHE_L2_REDIS_URL": url,
            "CACHE_DEFAULT_TTL": cache_world.TTL,
            "QUERY_OPTIMIZER_CACHE_TTL": optimizer_world.TTL,
            "QUERY_OPTIMIZER_QUERY_TIMEOUT": optimizer_world.QUERY_TIMEOUT,
            "RATE_LIMIT_REDIS_URL": url,
            "RATE_LIMIT_SLOT_LEASE": slots_world.LEASE,
            "BATCH_REDIS_URL": queue_url,
            "OUTBOUND_REDIS_URL": url,
            "OUTBOUND_BOT_ID": "7",
            "OUTBOUND_GROUP_LIMIT": outbound_world.GROUP[0],
            "OUTBOUND_GROUP_WINDOW": outbound_world.GROUP[1],
            "OUTBOUND_BULK_LIMIT": outbound_world.BULK[0],
            "OUTBOUND_DRAIN_TIMEOUT": 1.0,
            "OUTBOUND_BROADCAST_STORE": "",
        }

    async def _initialize(self, everything: Everything) -> str:
        report = await startup.initialize_phase4_services(everything.config)
        if not report["success"] or len(report["services_initialized"]) != len(SERVICES):
            self.world.wrong(f"a start fails: {report}")
        return "started"

    async def look(self, instance: Instance) -> None:
        for part, view in self._of(instance):
            await part.scenario.look(view)

    async def stop(self, instance: Instance) -> None:
        clean = await startup.shutdown_phase4_services()
        if not clean and instance.it is not None and not instance.leaving:
            self.world.wrong(f"{instance.name} does not stop cleanly")
        if running := [wiring.class_name for wiring in SERVICES if wiring.running() is not None]:
            self.world.wrong(f"{running} of {instance.name} still run")

    def gone(self, instance: Instance) -> None:
        for part, view in self._of(instance):
            part.scenario.gone(view)

    def _of(self, instance: Instance) -> list[tuple[Part, PartInstance]]:
        return [(part, part.of(instance)) for part in self.parts.values()]

    # Users.

    async def turn(self, instance: Instance, user: int) -> None:
        part = self.parts.get(USERS[user])
        if part is not None:
            await part.scenario.turn(part.of(instance), user)
            return
        what, operation = self.chance.choice([
            *3 * [("status", self._status)], *2 * [("start again", self._start_again)],
            ("reset", self._reset),
        ])  # fmt: skip
        await self.world.call(instance, what, lambda: operation(instance))

    async def _status(self, instance: Instance) -> str:
        status = await startup.get_phase4_status()
        expected = PACKAGES
        if instance.it.unsettled.between(self.world.now, self.world.now):
            expected = expected - {"load_balancer"}  # somebody has switched it off
        if missing := expected - set(status["services"]):
            self.world.wrong(f"the status of {instance.name} says nothing of {sorted(missing)}")
        states = {package: state["state"] for package, state in status["states"].items()}
        for package in sorted(expected):
            # That of a balancer whose instances are all out is "failed".
            if states[package] == "off" or (states[package] == "failed" and package != "load_balancer"):
                reason = status["states"][package]["reason"]
                self.world.wrong(f"{package} of {instance.name} is {states[package]}: {reason}")
        return " ".join(sorted(package for package in expected if states[package] != "ok")) or "ok"

    async def _start_again(self, instance: Instance) -> str:
        return await self._initialize(instance.it)

    async def _reset(self, instance: Instance) -> bool:
        # To the optimizer it is as a write of all tables: what runs is not shared any more.
        writing = Writing(self.parts["optimizer"].of(instance), self.world.now, tables=set(TABLES))
        self.rows.writings.append(writing)
        try:
            return await startup.reset_phase4_services()
        finally:
            writing.ended = self.world.now

    # The end.

    async def healed(self, instance: Instance) -> bool:
        for part, view in self._of(instance):
            if not await part.scenario.healed(view):
                return False
        return await self._status(instance) == "ok"

    async def finish(self, instance: Instance) -> None:
        for part, view in self._of(instance):
            await part.scenario.finish(view)

    def check(self) -> None:
        for part in self.parts.values():
            part.scenario.check()


def _named(settings: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``enable`` as settings."""
    names = settings.setting_names()
    return {names[argument]: value for argument, value in options.items()}
