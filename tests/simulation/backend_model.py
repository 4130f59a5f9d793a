"""Instances of a bot as their balancers see them: they listen, answer, and fail as servers fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.network import MemoryTransport, Route

if TYPE_CHECKING:
    from tests.simulation.world import World


class Troubles:
    """When something was wrong with one thing."""

    def __init__(self) -> None:
        self._times: list[list[float]] = []

    def begin(self, now: float) -> Callable[[float], None]:
        """Something is wrong from now on; returns what ends it."""
        times = [now, math.inf]
        self._times.append(times)

        def end(now: float) -> None:
            times[1] = now

        return end

    def moment(self, now: float) -> None:
        """Something was wrong, and is no more."""
        self._times.append([now, now])

    def between(self, begun: float, ended: float) -> bool:
        """Whether anything was wrong at any time between the two."""
        return any(begin <= ended and end >= begun for begin, end in self._times)

    def lasts(self, now: float) -> float:
        """Seconds for which one trouble has lasted without a break; 0.0 without any."""
        return max((now - begin for begin, end in self._times if end > now), default=0.0)


class Backend:
    """One instance of a bot: a process that listens, whoever asks."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.id = f"b{number}"
        self.weight = float(1 + number % 2)
        # How many faults, of those that last, keep it dead and frozen: one may end before another.
        self._deaths = self._freezes = 0
        self.failing = self.slowness = 0.0
        """The share of requests that it answers with 503; seconds that an answer takes at most."""
        self.received: list[int] = []
        """The numbers of the requests that have come, each as often as it came."""
        self.bad: set[int] = set()
        """The numbers of requests that it answers with 400."""
        self.down, self.unwell = Troubles(), Troubles()
        """When it gave no answer at all; when anything was wrong with it, that included."""
        self.connections: dict[BackendConnection, None] = {}

    def accept(self, transport: MemoryTransport) -> BackendConnection:
        connection = BackendConnection(self, transport)
        self.connections[connection] = None
        return connection

    @property
    def listens(self) -> bool:
        return not self._deaths

    @property
    def frozen(self) -> bool:
        """Whether it stands still, with its machine: for the next process, too."""
        return self._freezes > 0

    def kill(self) -> None:
        self._deaths += 1
        for connection in list(self.connections):
            connection.transport.cut()

    def restart(self) -> None:
        self._deaths -= 1

    def freeze(self) -> None:
        self._freezes += 1

    def thaw(self) -> None:
        self._freezes -= 1
        if self.frozen:
            return
        for connection in list(self.connections):
            connection.go_on()

    def drop_clients(self) -> None:
        """Its connections are reset; it works on."""
        for connection in list(self.connections):
            connection.transport.cut()


class BackendConnection:
    """The server's end of a connection: one question, ``GET /health`` or ``POST /NUMBER``."""

    def __init__(self, backend: Backend, transport: MemoryTransport) -> None:
        self.backend, self.transport = backend, transport
        self._come = b""
        self._answered = False

    def feed(self, data: bytes) -> None:
        self._come += data
        self.go_on()

    def lost(self) -> None:
        self.backend.connections.pop(self, None)

    def go_on(self) -> None:
        """Read what has come, unless the process stands still."""
        backend = self.backend
        if self._answered or backend.frozen or b"\r\n" not in self._come:
            return
        self._answered = True
        method, path = self._come.split()[:2]
        chance = backend.world.chance
        seconds = chance.uniform(0.0, 0.02) + chance.uniform(0.0, backend.slowness)
        if method == b"GET":
            self._answer_in(seconds, b"200 OK")
            return
        number = int(path[1:])
        backend.received.append(number)
        if number in backend.bad:
            self._answer_in(seconds, b"400 no")
        elif chance.random() < backend.failing:
            self._answer_in(seconds, b"503 broken")
        else:
            self._answer_in(seconds + chance.choice((0.0, 0.0, 0.0, 0.3)), b"200 %d" % number)

    def _answer_in(self, seconds: float, status: bytes) -> None:
        world = self.backend.world
        world.loop.call_later(seconds, self._answer, status, context=world.network.outside)

    def _answer(self, status: bytes) -> None:
        if self.backend.frozen:
            self._answer_in(0.1, status)
        else:
            self.transport.answer(b"HTTP/1.1 " + status + b"\r\n\r\n")


class Way:
    """The way from one balancer to a backend."""

    def __init__(self, world: World, host: str, backend: Backend) -> None:
        self.host, self.backend = host, backend
        self.route = world.network.routes[host] = Route(backend)
        self.dark, self.unwell = Troubles(), Troubles()

    def broken_for(self, now: float) -> float:
        """Seconds for which nothing has been answered on it."""
        return max(self.dark.lasts(now), self.backend.down.lasts(now))

    def well(self, begun: float, ended: float) -> bool:
        """Whether nothing was wrong with it, or with the backend, at any time between the two."""
        return not (self.unwell.between(begun, ended) or self.backend.unwell.between(begun, ended))
