"""Load balancers among faults: requests go where they are answered, and nowhere else.

Each instance is a front with a balancer of its own; they share two to four backends, which are models. What
the documentation promises, and what is checked here:

- A request is sent to members only: not to one that was removed or drained.
- It is not sent to a backend that has given no answer for ``DETECTED`` seconds, unless so few are healthy
  that all get requests (panic mode).
- Every request ends in its time, with the answer to it, or with an error that is documented. It succeeds if
  one backend that works was in rotation all the time.
- What is not to be repeated reaches no more than one backend; what may be reaches each once at most.
- No backend has more requests of a front in progress than ``max_concurrent``.
- ``HEALING`` seconds after the last fault every backend gets requests, and its share of them; a session is
  at the same backend in all fronts; nothing is in progress.

Not covered: the default handler (aiohttp needs sockets), a front that changes its figures, a backend that
moves to another address.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from bot.core.load_balancer import (
    BalancerOffError,
    InstanceFailure,
    LoadBalancer,
    LoadBalancingStrategy,
    NoInstanceError,
    RequestFailed,
    RequestRejected,
)
from tests.simulation.backend_model import Backend, Troubles, Way
from tests.simulation.faults import Begin, Fault
from tests.simulation.world import Call, Instance, Scenario, Violation, World

INTERVAL, CHECK, THRESHOLD = 0.5, 0.3, 2
REQUEST, TOTAL = 1.0, 5.0
EJECTED = 2.0
DETECTED = INTERVAL + THRESHOLD * (1.1 * INTERVAL + CHECK) + 0.3
"""Seconds after which checks have found out that nothing is answered."""
RECOVERED = DETECTED + EJECTED + THRESHOLD * (1.1 * INTERVAL + CHECK) + 4.0
"""Seconds after a fault in which it has come back: it was ejected, or checks have to succeed; and then it
needs trial requests, which come when users ask something."""
PANIC = 30.0
SESSIONS = 12


class Front:
    """A balancer, and what it was told."""

    def __init__(self, scenario: BalancerWorld, instance: Instance) -> None:
        self.instance = instance
        self.balancer: LoadBalancer
        self.strategy: Any = scenario.chance.choice([*LoadBalancingStrategy, "function"])
        self.ways = {
            backend.id: Way(scenario.world, f"{instance.name}.{backend.id}", backend)
            for backend in scenario.backends
        }
        self.members: dict[str, float] = {}
        """Backends that get requests, with the time since when they do."""
        self.changed: dict[str, list[tuple[float, bool]]] = {id: [] for id in self.ways}
        """When each was added, removed, drained or returned, and whether it gets requests since."""
        self.unsettled = Troubles()
        """When it was off, or stood still."""
        self.most = scenario.chance.choice((0, 0, 3))
        self.active: Counter[str] = Counter()
        self.drained: set[str] = set()
        self.reached: set[str] = set()

    def joins(self, id: str, now: float) -> None:
        self.members[id] = now
        self.changed[id].append((now, True))

    def leaves(self, id: str, now: float) -> None:
        self.members.pop(id, None)
        self.changed[id].append((now, False))

    def changes(self, id: str, begun: float, ended: float) -> bool:
        """Whether a backend was added, removed, drained or returned between the two."""
        return any(begun <= at <= ended for at, _ in self.changed[id])

    def sure(self, id: str, begun: float, ended: float) -> bool:
        """Whether a backend must have been in rotation between the two."""
        before = begun - RECOVERED
        stood = [is_in for at, is_in in self.changed[id] if at < before]
        return (
            stood[-1:] == [True]
            and not self.changes(id, before, ended)
            and self.ways[id].well(before, ended)
            and not self.unsettled.between(before, ended)
        )


class BalancerWorld(Scenario):
    """Fronts whose users send requests, while backends come, go and fail."""

    name: ClassVar[str] = "balancer"
    kinds: ClassVar[tuple[str, ...]] = (
        "backend dies", "backend freezes", "backend is slow", "backend fails", "backend drops",
        "way is dark", "way is slow", "way is cut", "front stops", "kill process", "clock step",
    )  # fmt: skip
    lasting: ClassVar[tuple[str, ...]] = (
        "backend dies", "backend freezes", "backend is slow", "backend fails", "way is dark", "way is slow",
    )  # fmt: skip
    allowed: ClassVar[tuple[type[BaseException], ...]] = ()
    instances: ClassVar[tuple[int, ...]] = (1, 2, 2)
    users: ClassVar[int] = 2
    share: ClassVar[float] = 0.5
    length: ClassVar[float] = 20.0
    pause: ClassVar[float] = 0.6

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.backends = [Backend(world, number) for number in range(self.chance.choice((2, 3, 4)))]
        self.fronts: dict[Instance, Front] = {}
        self.quiet = self.chance.random() < 0.2
        """Whether requests are so few that nobody but the checks can find out what is wrong."""
        self.numbers = 0
        self.sessions: list[list[str | None]] = []

    # A front.

    async def start(self, instance: Instance) -> None:
        front = self.front_of(instance)
        strategy = (lambda some: some[-1]) if front.strategy == "function" else front.strategy
        balancer = LoadBalancer(clock=instance.clock)
        await balancer.enable(strategy, **self.options(front))
        await self.begin(front, balancer)

    def front_of(self, instance: Instance) -> Front:
        """What an instance is to be."""
        front = instance.it = self.fronts[instance] = Front(self, instance)
        return front

    def options(self, front: Front) -> dict[str, Any]:
        """How a balancer is enabled."""
        return {
            "check_interval": INTERVAL, "check_timeout": CHECK, "check_path": "/health",
            "failure_threshold": THRESHOLD, "recovery_threshold": THRESHOLD, "request_timeout": REQUEST,
            "total_timeout": TOTAL, "outlier_window": 3.0, "outlier_failures": 1000 if self.quiet else 3,
            "ejection_time": EJECTED / 2, "ejection_max_time": EJECTED, "panic_percent": PANIC,
            "slow_start": 1.0, "max_concurrent": front.most, "hedging": self.chance.random() < 0.3,
        }  # fmt: skip

    async def begin(self, front: Front, balancer: LoadBalancer) -> None:
        """Have a balancer that is on send requests to every backend."""

        async def handler(at: Any, number: int) -> int:
            return await self._send(front, at, number)

        front.balancer = balancer
        balancer.request_handler = handler
        for backend in self.backends:
            await self._add(front, backend.id)
        front.changed = {id: [(0.0, True)] for id in front.ways}  # in rotation from the first request on

    async def look(self, instance: Instance) -> None:
        front: Front = instance.it
        front.balancer.check_invariants()
        chosen = [front.balancer.select_nowait(f"s{number}") for number in range(SESSIONS)]
        if not front.most and not self.world.ailing:
            self.sessions.append([None if one is None else one.id for one in chosen])
        if busy := [one.id for one in front.balancer.instances if one.in_flight]:
            self.world.wrong(f"{instance.name} has requests in progress at {busy}, and nobody asks")

    async def stop(self, instance: Instance) -> None:
        if not await instance.it.balancer.disable():
            self.world.wrong(f"{instance.name} is not idle when it is switched off")

    async def _send(self, front: Front, at: Any, number: int) -> int:
        """The request handler."""
        self._check_sending(front, at.id, number)
        begun = self.world.now
        front.active[at.id] += 1
        if 0 < front.most < front.active[at.id]:
            self.world.wrong(f"{front.active[at.id]} requests at {at.id} of {front.instance.name}")
        try:
            reader, writer = await asyncio.open_connection(at.host, at.port)
            try:
                writer.write(b"POST /%d HTTP/1.1\r\n\r\n" % number)
                words = (await reader.readline()).split()
            finally:
                writer.transport.abort()
        finally:
            front.active[at.id] -= 1
            seconds = self.world.now - begun
            if seconds > REQUEST + 0.1 and not front.unsettled.between(begun, self.world.now):
                self.world.wrong(f"a try took {seconds:.3f} s: request {number} at {at.id}")
        if len(words) < 3:
            raise ConnectionResetError("it broke off")
        status = int(words[1])
        if status == 400:
            raise RequestRejected("a bad request", status=status)
        if status != 200:
            raise InstanceFailure("an internal error", status=status)
        front.reached.add(at.id)
        return int(words[2])

    def _check_sending(self, front: Front, id: str, number: int) -> None:
        now = self.world.now
        if id not in front.members:
            self.world.wrong(f"request {number} of {front.instance.name} goes to {id}, which is no member")
            return
        broken = front.ways[id].broken_for(now)
        since = max(now - broken, front.members[id])
        if now - since <= DETECTED or front.unsettled.between(since, now):
            return
        good = sum(front.sure(other, now, now) for other in front.members)
        if good and 100.0 * good >= PANIC * len(front.members):
            self.world.wrong(
                f"request {number} of {front.instance.name} goes to {id}, which is broken for {broken:.3f} s"
            )

    # What users and administrators do.

    async def turn(self, instance: Instance, user: int) -> None:
        what = self.chance.random()
        if self.quiet and self.chance.random() < 0.8:
            return
        if what < 0.96:
            await asyncio.gather(*[
                self._ask(instance.it) for _ in range(self.chance.choice((1, 1, 1, 6)))
            ])  # fmt: skip
        elif what < 0.995:
            await self._change(instance, self.chance.choice(list(instance.it.ways)))
        else:
            await self.world.call(instance, "off and on", lambda: self._restart(instance.it))

    async def _ask(self, front: Front) -> Call:
        self.numbers += 1
        number, retries = self.numbers, self.chance.choice((3, 3, 3, 0))
        idempotent = self.chance.choice((None, None, False, True))
        session = f"s{self.chance.randrange(SESSIONS)}" if self.chance.random() < 0.2 else None
        if bad := self.chance.random() < 0.05:
            for backend in self.backends:
                backend.bad.add(number)
        return await self.world.call(
            front.instance,
            "request",
            lambda: front.balancer.route_request(number, session, retries, idempotent=idempotent),
            number=number, retries=retries, idempotent=idempotent, bad=bad,
        )  # fmt: skip

    async def _change(self, instance: Instance, id: str) -> None:
        front: Front = instance.it
        balancer, drains = front.balancer, self.chance.random() < 0.6
        if id in front.drained:
            await self.world.call(instance, "return", lambda: self._return(front, id), id=id)
        elif id not in front.members:
            await self.world.call(instance, "add", lambda: self._add(front, id), id=id)
        elif self.chance.random() < 0.5:
            await self.world.call(instance, "remove", lambda: self._remove(front, id, drains), id=id)
        else:

            async def drain() -> bool:
                front.leaves(id, self.world.now)
                front.drained.add(id)
                return await balancer.drain_instance(id, timeout=1.0 if drains else 0.0)

            await self.world.call(instance, "drain", drain, id=id)

    async def _add(self, front: Front, id: str) -> bool:
        front.joins(id, self.world.now)
        way = front.ways[id]
        return await front.balancer.add_instance(id, way.host, 80, way.backend.weight)

    async def _remove(self, front: Front, id: str, drains: bool) -> bool:
        front.leaves(id, self.world.now)
        return await front.balancer.remove_instance(id, drains, timeout=2.0)

    async def _return(self, front: Front, id: str) -> bool:
        front.drained.discard(id)
        front.joins(id, self.world.now)
        return await front.balancer.return_instance(id)

    async def _restart(self, front: Front) -> None:
        ended = front.unsettled.begin(self.world.now)
        try:
            idle = await front.balancer.disable(drain_timeout=self.chance.choice((0.0, 10.0)))
            if idle and +front.active:
                self.world.wrong(f"{front.instance.name} was called idle with {+front.active}")
        finally:
            if not front.instance.leaving:
                await front.balancer.enable()
            ended(self.world.now)

    # The end.

    async def healed(self, instance: Instance) -> bool:
        front: Front = instance.it
        balancer = front.balancer
        for id in front.ways:
            if id in front.drained:
                await self._return(front, id)
            elif id not in front.members:
                await self._add(front, id)
        if not balancer.enabled:
            await balancer.enable()
        for _ in range(2 * len(self.backends)):
            self.numbers += 1
            if not (await balancer.route_request(self.numbers)).success:
                return False
        states = {one["state"] for one in balancer.statistics()["instances"].values()}
        if states != {"healthy"}:
            front.reached.clear()
            return False
        # Of two, that with the lower latency gets all while one asks at a time: the peak of the other, which
        # was slow, may take longer to fade.
        choosy = front.strategy in ("function", LoadBalancingStrategy.LEAST_LOADED)
        everybody = choosy or front.reached == set(front.ways)
        if everybody:
            await self._check_shares(front)
        return everybody

    async def _check_shares(self, front: Front) -> None:
        """Requests one after another, to backends that are all well."""
        shares: Counter[str] = Counter()
        total = 4 * int(sum(backend.weight for backend in self.backends))
        for _ in range(total):
            self.numbers += 1
            success, result, id = await front.balancer.route_request(self.numbers)
            if not success or id is None:
                self.world.wrong(f"a request of {front.instance.name} fails among the well: {result}")
                return
            shares[id] += 1
        if front.strategy is LoadBalancingStrategy.ROUND_ROBIN:
            counts = [shares[id] for id in front.ways]
            fair = max(counts) - min(counts) <= 1
        elif front.strategy is LoadBalancingStrategy.WEIGHTED:
            fair = all(abs(shares[b.id] - 4 * b.weight) <= b.weight for b in self.backends)
        elif front.strategy is LoadBalancingStrategy.LEAST_CONNECTIONS:
            fair = all(shares[id] for id in front.ways)
        else:
            return
        if not fair:
            self.world.wrong(f"{front.strategy.name} of {front.instance.name} gives {dict(shares)}")

    def check(self) -> None:
        if any(sessions != self.sessions[0] for sessions in self.sessions):
            raise Violation(f"sessions are at {self.sessions}")
        reached: dict[int, Counter[str]] = {}
        for backend in self.backends:
            for number in backend.received:
                reached.setdefault(number, Counter())[backend.id] += 1
        for call in self.world.calls:
            if call.what == "request":
                self._check_request(call, reached.get(call.labels["number"], Counter()))

    def _check_request(self, call: Call, reached: Counter[str]) -> None:
        front, labels = self.fronts[call.instance], call.labels
        ended = self.world.now if call.ended is None else call.ended
        if labels["idempotent"] is False and reached.total() > 1:
            raise Violation(f"sent to {dict(reached)}, and was not to be repeated: {call}")
        for id, times in reached.items():
            if times > 1 and not front.changes(id, call.begun, ended):
                raise Violation(f"sent to {id} {times} times: {call}")
        if call.outcome != "ok":
            return
        if ended - call.begun > TOTAL + 0.2 and not front.unsettled.between(call.begun, ended):
            raise Violation(f"took {ended - call.begun:.3f} s: {call}")
        success, result, id = call.result
        if success:
            if result != labels["number"] or labels["bad"] or not reached[id]:
                raise Violation(f"answered by {id}, and sent to {dict(reached)}: {call}")
            return
        self._check_error(call, front, result, ended)

    def _check_error(self, call: Call, front: Front, error: Any, ended: float) -> None:
        labels = call.labels
        if isinstance(error, RequestRejected):
            if not labels["bad"]:
                raise Violation(f"a good request was rejected: {call}")
        elif isinstance(error, BalancerOffError):
            if not front.unsettled.between(call.begun, ended):
                raise Violation(f"the balancer was on: {call}")
        elif not isinstance(error, RequestFailed | NoInstanceError):
            raise Violation(f"an error that is not documented: {call}")
        elif labels["idempotent"] is False or labels["retries"] < 3 or front.most or "budget" in str(error):
            return
        elif well := [id for id in front.ways if front.sure(id, call.begun, ended)]:
            raise Violation(f"{well} worked all the time: {call}")


def _backend(world: World, fault: Fault) -> Backend:
    backends: list[Backend] = world.scenario.backends  # type: ignore[attr-defined]
    return backends[int(fault.amount * 1000) % len(backends)]


def _of_backend(
    begin: Callable[[Backend, Fault], Callable[[], object] | None], *, down: bool = False
) -> Begin:
    """A fault that strikes one backend."""

    def strike(world: World, instance: Instance, fault: Fault) -> Callable[[], object] | None:
        backend = _backend(world, fault)
        troubles = [backend.unwell, *([backend.down] if down else [])]
        end = begin(backend, fault)
        if end is None:
            for trouble in troubles:
                trouble.moment(world.now)
            return None
        ends = [trouble.begin(world.now) for trouble in troubles]

        def ended() -> None:
            end()
            for one in ends:
                one(world.now)

        return ended

    return strike


def _die(backend: Backend, fault: Fault) -> Callable[[], object]:
    backend.kill()
    return backend.restart


def _freeze(backend: Backend, fault: Fault) -> Callable[[], object]:
    backend.freeze()
    return backend.thaw


def _set(name: str, scale: float) -> Callable[[Backend, Fault], Callable[[], object]]:
    def begin(backend: Backend, fault: Fault) -> Callable[[], object]:
        setattr(backend, name, scale * (0.2 + fault.amount))
        return lambda: setattr(backend, name, 0.0)

    return begin


def _drop(backend: Backend, fault: Fault) -> None:
    backend.drop_clients()


def _way(world: World, instance: Instance, fault: Fault) -> Way | None:
    """The way from a front to a backend; None before it has started."""
    return None if instance.it is None else instance.it.ways[_backend(world, fault).id]


def _darken(world: World, instance: Instance, fault: Fault) -> Callable[[], object] | None:
    if (way := _way(world, instance, fault)) is None:
        return None
    world.network.darken(way.route)
    ends = [way.dark.begin(world.now), way.unwell.begin(world.now)]

    def end() -> None:
        world.network.light(way.route)
        for one in ends:
            one(world.now)

    return end


def _slow_way(world: World, instance: Instance, fault: Fault) -> Callable[[], object] | None:
    if (way := _way(world, instance, fault)) is None:
        return None
    way.route.slowness = 2 * fault.amount
    ended = way.unwell.begin(world.now)

    def end() -> None:
        way.route.slowness = 0.0
        ended(world.now)

    return end


def _cut_way(world: World, instance: Instance, fault: Fault) -> None:
    if (way := _way(world, instance, fault)) is not None:
        way.unwell.moment(world.now)
        for transport in world.network.of(way.route):
            transport.cut()


def _stop_front(world: World, instance: Instance, fault: Fault) -> Callable[[], object]:
    instance.process.stopped = True
    ended = instance.it.unsettled.begin(world.now) if instance.it is not None else None

    def end() -> None:
        world.loop.resume(instance.process)
        if ended is not None:
            ended(world.now)

    return end


BalancerWorld.own = {
    "backend dies": _of_backend(_die, down=True),
    "backend freezes": _of_backend(_freeze, down=True),
    "backend is slow": _of_backend(_set("slowness", 2.0)),
    "backend fails": _of_backend(_set("failing", 0.9)),
    "backend drops": _of_backend(_drop),
    "way is dark": _darken,
    "way is slow": _slow_way,
    "way is cut": _cut_way,
    "front stops": _stop_front,
}
