"""A network in memory: names, connections, delays, and what can go wrong with them."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from typing import Any, Protocol

from tests.simulation.loop import PROCESS, Process, VirtualLoop

FULL, ROOM = 1_000_000, 250_000
"""Bytes on their way from which a writer is told to wait, and to go on."""
GIVEN_UP = 120.0
"""Seconds after which an operating system gives up a connection that nobody answers."""


class Peer(Protocol):
    """The server's end of a connection."""

    def feed(self, data: bytes) -> None:
        """Bytes have come."""

    def lost(self) -> None:
        """The connection is no more."""


class Server(Protocol):
    """Something that listens under names of the network."""

    listens: bool

    def accept(self, transport: MemoryTransport) -> Peer:
        """A new connection; ``transport.answer`` sends bytes back."""


class Route:
    """The way from one host's name to a server; each client that is told a name of its own has its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.dark = False
        """Whether nothing gets through, in either direction, and nobody is told."""
        self.slowness = 0.0
        """Seconds that each way takes at most, besides what it takes anyhow."""


class Socket:
    """What redis-py and the library ask of a transport's socket."""

    def __init__(self, number: int) -> None:
        self._number = number

    def setsockopt(self, *_: Any) -> None:
        """Nothing to set."""

    def fileno(self) -> int:
        return self._number


class Poll:
    """As ``select.poll``: whether a connection was closed at the other end, unknown to its loop as yet."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._asked: list[tuple[int, int]] = []

    def register(self, number: int, events: int) -> None:
        self._asked.append((number, events))

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        return [asked for asked in self._asked if self._network.is_closed(asked[0])]


class MemoryTransport(asyncio.Transport):
    """The client's end of a connection."""

    def __init__(self, network: Network, route: Route, protocol: Any) -> None:
        super().__init__()
        self._network, self.route, self._protocol = network, route, protocol
        self._loop = network.loop
        self._context = contextvars.copy_context()
        self.process: Process | None = PROCESS.get()
        self.silent = False
        """Whether this connection alone leads nowhere any more: a NAT has forgotten it."""
        self.ended = False
        self._closing = self._paused = self._told_to_wait = False
        # Bytes on their way, with the time of their arrival: to the server, and back.
        self._there: deque[tuple[float, bytes]] = deque()
        self._back: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self.number = network.numbered()
        self.peer = route.server.accept(self)

    # As asyncio's.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return Socket(self.number)
        return ("10.0.0.1", 1) if name == "peername" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._paused

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._arrive_back)

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self._size

    def write(self, data: Any) -> None:
        if self._closing or not data:
            return
        data = bytes(data)
        self._size += len(data)
        self._carry(self._there, data, self._arrive_there, self._network.outside)
        if self._size > FULL and not self._told_to_wait:
            self._told_to_wait = True
            self._protocol.pause_writing()

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self._end(None)

    # The way there and back.

    def answer(self, data: bytes) -> None:
        """Send bytes from the server to the client."""
        if not self.ended and data:
            self._carry(self._back, data, self._arrive_back, self._context)

    def _carry(self, way: deque[tuple[float, bytes]], data: bytes, arrive: Any, context: Any) -> None:
        at = self._loop.time() + self._network.delay(self.route)
        if way:
            at = max(at, way[-1][0])
        way.append((at, data))
        self._loop.call_at(at, arrive, context=context)

    def _next(self, way: deque[tuple[float, bytes]]) -> bytes | None:
        """The next bytes that have arrived: sometimes in two pieces."""
        if not way or self.ended or self.silent or self.route.dark or way[0][0] > self._loop.time():
            return None
        at, data = way.popleft()
        chance = self._network.chance
        if len(data) > 1 and chance.random() < 0.05:
            cut = chance.randrange(1, len(data))
            way.appendleft((at, data[cut:]))
            data = data[:cut]
        return data

    def _arrive_there(self) -> None:
        while (data := self._next(self._there)) is not None:
            self._size -= len(data)
            self.peer.feed(data)
        if self._told_to_wait and self._size < ROOM and not self.ended:
            self._told_to_wait = False
            self._loop.call_soon(self._protocol.resume_writing, context=self._context)

    def _arrive_back(self) -> None:
        while not self._paused and not self._closing and (data := self._next(self._back)) is not None:
            self._protocol.data_received(data)

    def light(self) -> None:
        """What was held up gets through."""
        self._loop.call_soon(self._arrive_there, context=self._network.outside)
        self._loop.call_soon(self._arrive_back, context=self._context)

    # Its end.

    def _end(self, error: BaseException | None) -> None:
        """The client closes it: what was written still arrives, then the server is told."""
        if self._closing:
            return
        self._closing = True
        self._loop.call_soon(self._protocol.connection_lost, error)
        self._loop.call_at(self._there[-1][0] if self._there else self._loop.time(), self._gone,
                           context=self._network.outside)  # fmt: skip

    def _gone(self) -> None:
        if self.route.dark or self.silent:
            # The server does not hear of it, and keeps its end until its keep-alive finds out.
            self._loop.call_later(GIVEN_UP, self._drop, context=self._network.outside)
        else:
            self._arrive_there()
            self._drop()

    def _drop(self) -> None:
        if not self.ended:
            self.ended = True
            self._network.transports.pop(self, None)
            self.peer.lost()

    def cut(self, *, told: bool = True) -> None:
        """The connection breaks: what is on its way is lost. Untold, the client waits for ever."""
        if not told:
            self.silent = True
            self._loop.call_later(GIVEN_UP, self._drop, context=self._network.outside)
            return
        self._drop()
        if not self._closing:
            self._closing = True
            self._loop.call_soon(
                self._protocol.connection_lost, ConnectionResetError(104, "Connection reset by peer"),
                context=self._context,
            )  # fmt: skip


class Network:
    """Names that lead to servers, and every connection that stands."""

    def __init__(self, loop: VirtualLoop, chance: random.Random) -> None:
        self.loop, self.chance = loop, chance
        loop.network = self
        self.outside = contextvars.copy_context()
        """The context of what belongs to no process of the library."""
        self.routes: dict[str, Route] = {}
        # A dict for its order.
        self.transports: dict[MemoryTransport, None] = {}
        self._numbers = 0

    def numbered(self) -> int:
        """The number of a new connection."""
        self._numbers += 1
        return self._numbers

    def is_closed(self, number: int) -> bool:
        """Whether the client's end of a connection has heard that it is no more."""
        return not any(transport.number == number for transport in self.transports)

    def delay(self, route: Route) -> float:
        """Seconds that some bytes take."""
        return self.chance.uniform(0.0001, 0.001) + self.chance.uniform(0.0, route.slowness)

    async def connect(self, protocol_factory: Any, host: str, port: int) -> tuple[MemoryTransport, Any]:
        """As ``loop.create_connection``."""
        route = self.routes.get(host)
        if route is None:
            raise OSError(-2, "Name or service not known")
        given_up, pause = self.loop.time() + GIVEN_UP, 1.0
        await asyncio.sleep(self.delay(route))
        while route.dark:  # the operating system asks again, at longer and longer intervals
            if self.loop.time() > given_up:
                raise TimeoutError(110, "Connection timed out")
            await asyncio.sleep(pause)
            pause *= 2
        if not route.server.listens:
            raise ConnectionRefusedError(111, f"Connect call failed ({host!r}, {port})")
        protocol = protocol_factory()
        transport = MemoryTransport(self, route, protocol)
        self.transports[transport] = None
        protocol.connection_made(transport)
        return transport, protocol

    def of(self, route: Route) -> list[MemoryTransport]:
        """The connections that stand on a route."""
        return [transport for transport in self.transports if transport.route is route]

    def darken(self, route: Route) -> None:
        """From now on nothing gets through, and nobody is told."""
        route.dark = True

    def light(self, route: Route) -> None:
        """What was held up gets through, and all that comes."""
        route.dark = False
        for transport in self.of(route):
            transport.light()

    def kill(self, process: Process) -> None:
        """A process dies: its operating system closes its connections."""
        for transport in list(self.transports):
            if transport.process is process:
                transport._closing = True
                self.loop.call_soon(transport._gone, context=self.outside)
