"""One run: instances of the library, users who call them, faults, and what was seen.

To add a service, write a :class:`Scenario` (see ``cache_world.py``): what an instance is, one turn of a
user, what must work at the end, and a check of the history.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bot.core.redis_link import RedisLink
from tests.simulation.determined import HostClock, determined
from tests.simulation.faults import HARMLESS, KINDS, LASTING, Begin, Fault, lasting, plan_of
from tests.simulation.log import Log
from tests.simulation.loop import Process, VirtualLoop
from tests.simulation.network import Network, Route
from tests.simulation.redis_model import RedisModel

HEALING = 30.0
"""Seconds after the last fault, and the last call, within which all works again: a probe of the breaker, a
retry, a subscription (5, 5 and 4 seconds at most), one after another, twice."""


class Violation(AssertionError):
    """Something happened that is not allowed."""


@dataclass
class Call:
    """What a user asked of an instance, and what came of it."""

    number: int
    instance: Instance
    what: str
    labels: dict[str, Any]
    begun: float
    ended: float | None = None
    """None: its process died, or still waits."""
    outcome: str = "none"
    """``ok``, ``cancelled``, ``none`` or the error's class."""
    result: Any = None
    entered: bool = False
    """Whether it ran at all: a task may be cancelled before it begins."""

    def __str__(self) -> str:
        ended = "-" if self.ended is None else f"{self.ended:.6f}"
        return (
            f"{self.begun:.6f}..{ended} {self.instance.name} {self.what} "
            f"{self.labels} {self.outcome} {self.result!r}"
        )


class Instance:
    """One process of the library: its clock, its way to Redis, its services."""

    def __init__(self, world: World, number: int, generation: int) -> None:
        self.world, self.number, self.generation = world, number, generation
        self.name = f"i{number}.{generation}"
        self.process = Process(self.name)
        self.clock = HostClock(world.loop, wall=world.chance.uniform(-100, 100))
        self.host = f"{self.name}.redis"
        self.url = f"redis://{self.host}:6379/0"
        self.route = world.network.routes[self.host] = Route(world.redis)
        self.process.clock = self.clock
        self.it: Any = None
        """What the scenario makes of it."""
        self.ready = self.killed = False
        self.leaving = False
        """Whether its users begin nothing more, since it is to be stopped in order."""
        self.stops = math.inf
        """When it begins to stop, its users perhaps at work."""

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a coroutine in this process."""
        return self.world.loop.create_task(
            coro, name=f"{self.name} {name}", context=self.process.context.copy()
        )


class Scenario(ABC):
    """A service among simulated faults; one object for each run."""

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = tuple(kind for kind in KINDS if kind != "clock step of redis")
    """The faults that it is tried with."""
    lasting: ClassVar[tuple[str, ...]] = LASTING
    """Those that may last for ever, one in a run; what is promised then is less."""
    own: ClassVar[dict[str, Begin]] = {}
    """Faults of its own, which ``kinds`` names."""
    share: ClassVar[float] = 1.0
    """How many seeds of it ``make test`` runs, relative to other worlds."""
    allowed: ClassVar[tuple[type[BaseException], ...]] = ()
    """The errors that a call may raise."""
    harmless: ClassVar[tuple[str, ...]] = HARMLESS
    """The faults that no promise makes an exception for."""
    quiet: ClassVar[str] = "$^"
    """A pattern of the errors in the log that are to be expected."""
    length: ClassVar[float] = 20.0
    """Seconds that the users act."""
    users: ClassVar[int] = 2
    """Of each instance."""
    pause: ClassVar[float] = 1.0
    """Seconds between two turns of a user, at most."""
    instances: ClassVar[tuple[int, ...]] = (2, 2, 3)

    def __init__(self, world: World) -> None:
        self.world = world
        self.chance = random.Random(f"program {world.seed}")

    def faults(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The faults that this run may have, and those that may last for ever."""
        return self.kinds, self.lasting

    def around(self) -> contextlib.AbstractContextManager[object]:
        """What stands while a run goes on; nothing by default."""
        return contextlib.nullcontext()

    @abstractmethod
    async def start(self, instance: Instance) -> None:
        """Make ``instance.it``."""

    @abstractmethod
    async def turn(self, instance: Instance, user: int) -> None:
        """One turn of a user; its calls go through :meth:`World.call`."""

    async def look(self, instance: Instance) -> None:  # noqa: B027 - most have nothing to see
        """Look once more at what is at work, before it ends; nothing by default."""

    @abstractmethod
    async def stop(self, instance: Instance) -> None:
        """End ``instance.it``."""

    def gone(self, instance: Instance) -> None:  # noqa: B027 - what all have in common is seen by the world
        """See that nothing is left of what :meth:`stop` has ended; nothing by default."""

    @abstractmethod
    async def healed(self, instance: Instance) -> bool:
        """Whether all works again in an instance, once there is no fault any more."""

    async def finish(self, instance: Instance) -> None:  # noqa: B027 - most have nothing to do
        """What is done once more when all instances are well, before they end; nothing by default."""

    @abstractmethod
    def check(self) -> None:
        """Raise :class:`Violation` if the history is not allowed."""


@dataclass
class World:
    """A run of a scenario."""

    seed: int
    kind: type[Scenario]
    without: frozenset[int] = frozenset()
    """Faults of the plan that are left out, by their number."""
    lines: list[str] = field(default_factory=list)
    """The history, as text."""
    calls: list[Call] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """What went wrong while it ran."""

    def __post_init__(self) -> None:
        self.chance = random.Random(f"world {self.seed}")
        self.loop = VirtualLoop(random.Random(f"loop {self.seed}"), shuffles=self.seed % 3 == 2)
        self.clock = HostClock(self.loop)
        """The clock of the machine that Redis runs on."""
        self.network = Network(self.loop, random.Random(f"network {self.seed}"))
        self._instances: list[Instance] = []
        self._dead: list[Instance] = []
        self.ending = False
        self.faults_ended = 0.0
        self._troubled: list[list[float]] = []
        self.ailing = False
        """Whether a fault goes on when the users have ended: then nothing recovers, and all ends in time."""
        self._users: dict[Any, Instance] = {}
        """The tasks of users."""
        self._errands: list[Any] = []
        """Tasks that belong to no instance, and end before the run does."""
        self._pending: list[tuple[list[float], Callable[[], object]]] = []

    # What a scenario uses.

    @property
    def now(self) -> float:
        return self.loop.time()

    @property
    def instances(self) -> list[Instance]:
        """The latest process in each place."""
        return self._instances

    @property
    def dead(self) -> list[Instance]:
        """Processes that have ended, killed or in order."""
        return self._dead

    @property
    def troubled(self) -> list[list[float]]:
        """When each fault that excuses anything began and ended; while it lasts, it ends never."""
        return self._troubled

    def trouble(self) -> list[float]:
        """Something begins that is an excuse; set the second figure to the time of its end."""
        self._troubled.append([self.now, math.inf])
        return self._troubled[-1]

    def note(self, text: str) -> None:
        """A line of the history."""
        self.lines.append(f"{self.now:.6f} {text}")

    def wrong(self, text: str) -> None:
        """Something happened that is not allowed."""
        self.note(f"WRONG {text}")
        self.troubles.append(text)

    async def call(
        self, instance: Instance, what: str, operation: Callable[[], Awaitable[Any]], **labels: Any
    ) -> Call:
        """Have a user call something, who may change his mind (cancel) at any step; what came of it."""
        call = Call(len(self.calls), instance, what, labels, self.now)
        self.calls.append(call)

        async def run() -> Any:
            call.entered = True
            return await operation()

        def cancel() -> None:
            nonlocal cancels
            cancels = task.cancel() or cancels

        cancels, later = False, None
        task = self.loop.create_task(run(), name=f"{instance.name} {what}")
        if self.chance.random() < 0.15:
            if self.chance.random() < 0.7:
                self.loop.after_steps(self.chance.randrange(1, 40), cancel)
            else:
                later = self.loop.call_later(self.chance.uniform(0.0, 2.0), cancel)
        await asyncio.wait([task])
        if later is not None:
            later.cancel()
        call.ended = self.now
        if task.cancelled():
            call.outcome = "cancelled"
            if not cancels and not instance.killed:
                self.wrong(f"nobody has cancelled {call}")
        elif (error := task.exception()) is not None:
            call.outcome, call.result = type(error).__name__, str(error)
            if not isinstance(error, self.kind.allowed):
                self.wrong(f"{call}")
        else:
            call.outcome, call.result = "ok", task.result()
        self.note(str(call))
        return call

    def calm(self, begun: float, ended: float, *, after: float) -> bool:
        """Whether no fault lasted at any time between the two, or had ended less than ``after`` before."""
        return not any(start <= ended and end + after >= begun for start, end in self.troubled)

    def kill(self, instance: Instance) -> None:
        """SIGKILL."""
        if instance.process.dead:
            return
        instance.process.dead = instance.killed = True
        instance.process.stopped = False
        instance.ready = False
        self.network.kill(instance.process)
        self._dead.append(instance)

    def replace(self, instance: Instance) -> None:
        """Start another process in the place of a dead one."""
        if self.instances[instance.number] is instance and not self.ending:
            self._begin(instance.number, instance.generation + 1)

    def users_of(self, instance: Instance) -> list[Any]:
        """The tasks of an instance's users."""
        return [user for user, of in self._users.items() if of is instance]

    def errand(self, coro: Coroutine[Any, Any, Any], name: str) -> None:
        """Do something that belongs to no instance; the run does not end before it."""
        self._errands.append(self.loop.create_task(coro, name=name, context=self.network.outside.copy()))

    async def leave(self, instance: Instance) -> None:
        """Stop what runs in a process, and end it."""
        instance.leaving = True
        instance.ready = False
        instance.stops = self.now
        await self._stop_one(instance)
        await self._end_of(self.users_of(instance))
        if not instance.process.dead:
            await asyncio.sleep(0.1)
            self._nothing_left(instance)
            instance.process.dead = True
            self._dead.append(instance)

    # The run.

    def run(self) -> None:
        """All of it; raises Violation, Standstill or Livelock."""
        logger = logging.getLogger("bot")
        handler, propagate = Log(self), logger.propagate
        logger.addHandler(handler)
        logger.propagate = False
        try:
            with determined(self.seed, self.loop, self.clock):
                self.redis = RedisModel(self.loop, random.Random(f"redis {self.seed}"))
                self.scenario = self.kind(self)
                self.loop.set_exception_handler(self._unhandled)
                with self.scenario.around():
                    try:
                        self.loop.run_until_complete(self._main())
                    finally:
                        self._bury()
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagate
        if self.troubles:
            raise Violation("; ".join(self.troubles[:3]))
        self.scenario.check()

    def digest(self) -> str:
        """A hash of the history: equal for equal runs."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def _unhandled(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.wrong(f"unhandled: {context.get('message')} {type(error).__name__} {error}")

    async def _main(self) -> None:
        plan_chance = random.Random(f"plan {self.seed}")
        count = plan_chance.choice(self.kind.instances)
        kinds, may_last = self.scenario.faults()
        plan = plan_of(plan_chance, kinds, self.kind.length, count)
        last = random.Random(f"lasting {self.seed}")
        if may_last and last.random() < 0.15:
            plan.append(lasting(last, may_last, self.kind.length, count))
        for number in range(count):
            self._begin(number, 0)
        begun = self.now
        await self._strike(sorted(fault for n, fault in enumerate(plan) if n not in self.without), begun)
        await asyncio.sleep(max(0.0, begun + self.kind.length - self.now))
        self.ending = True
        for pending in list(self._pending):
            self._ended(pending)
        self.faults_ended = self.now
        self.note("a fault goes on" if self.ailing else "no faults any more")
        await self._end_of(list(self._users))
        await self._end_of(self._errands)
        if not self.ailing:
            if not any(True for _ in self._living()):  # all have left, and what they accepted waits
                last = self._instances[0]
                self._begin(last.number, last.generation + 1)
            await self._heal()
            await self._finish()
        await self._stop()

    def _begin(self, number: int, generation: int) -> None:
        instance = Instance(self, number, generation)
        self._instances[number : number + 1] = [instance]
        self.note(f"start {instance.name}")
        instance.spawn(self._live(instance), "main")

    async def _live(self, instance: Instance) -> None:
        await self.scenario.start(instance)
        instance.ready = True
        for user in range(0 if self.ending else self.kind.users):
            self._users[instance.spawn(self._use(instance, user), f"user {user}")] = instance

    async def _use(self, instance: Instance, user: int) -> None:
        chance = random.Random(f"user {self.seed} {instance.name} {user}")
        while not (self.ending or instance.leaving):
            await asyncio.sleep(chance.uniform(0.0, self.kind.pause))
            if not (self.ending or instance.leaving):
                await self.scenario.turn(instance, user)

    async def _strike(self, plan: list[Fault], begun: float) -> None:
        for fault in plan:
            await asyncio.sleep(max(0.0, begun + fault.at - self.now))
            instance = self.instances[fault.place]
            self.note(f"fault {fault.kind} {instance.name} {fault.seconds} {fault.amount}")
            end = (self.kind.own.get(fault.kind) or KINDS[fault.kind])(self, instance, fault)
            trouble = [self.now, self.now if end is None else math.inf]
            if fault.kind not in self.kind.harmless:
                self._troubled.append(trouble)
            if fault.seconds == math.inf:
                self.ailing = True
            elif end is not None:
                pending = trouble, end
                self._pending.append(pending)
                self.loop.call_later(fault.seconds, self._ended, pending)

    def _ended(self, pending: tuple[list[float], Callable[[], object]]) -> None:
        if pending in self._pending:
            self._pending.remove(pending)
            self.note("a fault ends")
            trouble, end = pending
            trouble[1] = self.now
            end()

    def _living(self) -> Iterator[Instance]:
        return (instance for instance in self._instances if not instance.process.dead)

    async def _end_of(self, tasks: list[Any]) -> None:
        living = [task for task in tasks if task.process is None or not task.process.dead]
        if living:
            _, late = await asyncio.wait(living, timeout=HEALING)
            for task in sorted(late, key=hash):
                if task.process is None or not task.process.dead:
                    self.wrong(f"{task.get_name()} still waits")

    async def _heal(self) -> None:
        """Side by side: an instance that takes its time takes none from the others. What users and bots that
        leave are still waiting for has ended by now, in its own time.
        """
        begun = self.now
        await asyncio.gather(*[self._heal_one(instance, begun) for instance in self._living()])

    async def _heal_one(self, instance: Instance, begun: float) -> None:
        while not (instance.ready and await self._asked(instance)):
            if self.now > begun + HEALING:
                self.wrong(f"{instance.name} has not recovered in {HEALING} s")
                break
            await asyncio.sleep(0.5)
        self.note(f"{instance.name} is well")

    async def _finish(self) -> None:
        if not self.troubles:
            for instance in self._living():
                await instance.spawn(self.scenario.finish(instance), "finish")

    async def _asked(self, instance: Instance) -> bool:
        asked = instance.spawn(self.scenario.healed(instance), "healed")
        await asyncio.wait([asked])
        return bool(asked.result())

    async def _stop(self) -> None:
        for instance in self._living():
            looking = instance.spawn(self.scenario.look(instance), "look")
            await asyncio.wait([looking])
            if (error := looking.exception()) is not None:
                self.wrong(f"{instance.name} is not as it should be: {error!r}")
            await self._stop_one(instance)
        await asyncio.sleep(0.1)
        for instance in self._living():
            self._nothing_left(instance)

    async def _stop_one(self, instance: Instance) -> None:
        stopping = instance.spawn(self.scenario.stop(instance), "stop")
        _, late = await asyncio.wait([stopping], timeout=HEALING)
        if instance.process.dead:
            return
        if late:
            self.wrong(f"{instance.name} does not stop")
        elif (error := stopping.exception()) is not None:
            self.wrong(f"{instance.name} stops with {error!r}")
        else:
            self.scenario.gone(instance)

    def _nothing_left(self, instance: Instance) -> None:
        """Of one that was stopped in order."""
        for task in self._tasks_left():
            if task.process is instance.process:
                self.wrong(f"task {task.get_name()} is left")
        for transport in self.network.transports:
            if transport.process is instance.process and not transport.is_closing():
                self.wrong(f"a connection of {instance.name} is left")
        for timer in self.loop.timers_of(instance.process):
            self.wrong(f"a timer of {instance.name} is left: {timer}")
        if any(instance.host in url for url in RedisLink._links):
            self.wrong(f"a link of {instance.name} is left")

    def _tasks_left(self) -> list[Any]:
        """The tasks of processes, in the order in which they were made."""
        tasks = [task for task in asyncio.all_tasks(self.loop) if getattr(task, "process", None) is not None]
        return sorted(tasks, key=hash)

    def _bury(self) -> None:
        """Let go of what is left of the dead, so that nothing of this run disturbs the next."""
        self.loop.set_exception_handler(lambda loop, context: None)
        self.loop.steps = 0
        lines, troubles = list(self.lines), list(self.troubles)
        self.loop.run_until_complete(self._burial())
        self.lines, self.troubles = lines, troubles
        for url in list(RedisLink._links):
            if any(instance.host in url for instance in self._instances + self._dead):
                del RedisLink._links[url]
        self.loop.close()

    async def _burial(self) -> None:
        for instance in self._instances + self._dead:
            instance.process.dead = False
            instance.process.held += instance.process.buried
            self.loop.resume(instance.process)
        for transport in list(self.network.transports):
            transport.cut()
        for route in self.network.routes.values():
            if isinstance(route.server, RedisModel):
                route.server.listens = False
        for _ in range(5):
            if tasks := self._tasks_left():
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=10)
