"""Connections of clients: how many, how long they may wait, and which goes when there are too many.

aiohttp has no time limit for the head of a request and takes every connection; without both, a thousand
half-sent requests would block all other clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware
from multidict import CIMultiDict, CIMultiDictProxy

from bot.core._shared.masking import masked_traceback, one_line
from bot.core.phase4_admin.access import Handler
from bot.core.phase4_admin.client_address import client_of, plain_address

logger = logging.getLogger("bot.http")

HEAD_SECONDS = 15.0
"""In which the head of a connection's first request has to be there."""

IDLE_SECONDS = 75.0
"""For which a connection may wait for its next request; as nginx."""

MAX_CONNECTIONS = 2_048
FEW_CONNECTIONS = 256
"""Below which it is told at the start how many the limit of open files leaves."""

RESERVED_DESCRIPTORS = 128
"""Of the process's open files, what connections leave to databases and the rest."""

BACKLOG = 128
"""Connections that the kernel keeps until they are taken."""

TAKEN_AT_ONCE = 16
"""Connections taken before the first of them is looked at, and perhaps refused; each is an open file."""

_SWEEP_SECONDS = 1.0
_LOG_SECONDS = 60.0
_LINES_PER_MINUTE = 20


def most_connections(files_each: int) -> int:
    """As many as the process's limit of open files allows, MAX_CONNECTIONS at most.

    ``files_each``: the files that one connection may have open, itself included: a service has an upload's
    file beside it, a front a body's and the connection to an instance.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MAX_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(16, min(MAX_CONNECTIONS, (soft - RESERVED_DESCRIPTORS) // files_each))


def allow_open_files(files_each: int) -> None:
    """Raise the process's own limit of open files towards MAX_CONNECTIONS, as far as the system lets it.

    Tell if that is not far.
    """
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = RESERVED_DESCRIPTORS + MAX_CONNECTIONS * files_each
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        # A container may forbid it; then there are as many connections as there can be.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    most = most_connections(files_each)
    if most < FEW_CONNECTIONS:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        logger.warning(
            "The limit of %d open files allows %d client connections, and half as many from one address. "
            "Raise it (ulimit -n 4096; systemd: LimitNOFILE=4096)",
            limit, most,
        )  # fmt: skip


class Connections:
    """The open connections, at most ``limit`` in all and half of it for one client (see ``client_of``).

    A new one takes the place of the one that waits longest without a request in progress, so that
    a client with many connections blocks no other; if all are busy, it is refused. ``trusted``: addresses
    of proxies, behind which many clients stand, may have them all.
    """

    def __init__(
        self, limit: int, trusted: frozenset[str] = frozenset(), *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._per_client = max(1, limit // 2)
        self._trusted = trusted
        self._now = now
        # All changed by admit, begun, ended and gone. A connection is in one of the three.
        self._fresh: OrderedDict[Connection, float] = OrderedDict()  # since when it waits for its first head
        self._idle: OrderedDict[Connection, float] = OrderedDict()  # since when it waits for its next head
        self._busy: dict[Connection, int] = {}  # its requests in progress
        self._by_client: Counter[str] = Counter()
        self._by_transport: dict[asyncio.BaseTransport, Connection] = {}
        self._refused = 0
        self._told = float("-inf")
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._by_transport)

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in; False: there is no room for it."""
        client = connection.client
        fair = connection.address in self._trusted or self._by_client[client] < self._per_client
        if not fair or len(self) >= self._limit:
            waiting = self._longest_waiting(None if fair else client)
            if waiting is None:
                self._refuse(connection.address)
                return False
            waiting.abort()
        self._by_client[client] += 1
        assert connection.transport is not None
        self._by_transport[connection.transport] = connection
        self._fresh[connection] = self._now()
        if self._sweeper is None:
            self._sweep()
        return True

    def _longest_waiting(self, client: str | None) -> Connection | None:
        for waiting in (self._fresh, self._idle):
            for connection in waiting:
                if client is None or connection.client == client:
                    return connection
        return None

    def _refuse(self, address: str) -> None:
        self._refused += 1
        now = self._now()
        if now - self._told >= _LOG_SECONDS:
            logger.warning(
                "%d connection(s) refused, the last from %s: %d are open, each with a request in progress",
                self._refused, address, len(self),
            )  # fmt: skip
            self._told, self._refused = now, 0

    def begun(self, transport: asyncio.BaseTransport | None) -> None:
        """The head of a request is there."""
        connection = self._by_transport.get(transport) if transport is not None else None
        if connection is not None:
            self._fresh.pop(connection, None)
            self._idle.pop(connection, None)
            self._busy[connection] = self._busy.get(connection, 0) + 1

    def ended(self, transport: asyncio.BaseTransport | None) -> None:
        """A request has been answered."""
        connection = self._by_transport.get(transport) if transport is not None else None
        if connection is not None and connection in self._busy:
            self._busy[connection] -= 1
            if not self._busy[connection]:
                del self._busy[connection]
                self._idle[connection] = self._now()

    def gone(self, connection: Connection) -> None:
        """The connection is closed."""
        transport = connection.transport
        if transport is None or self._by_transport.pop(transport, None) is None:
            return
        self._fresh.pop(connection, None)
        self._idle.pop(connection, None)
        self._busy.pop(connection, None)
        self._by_client[connection.client] -= 1
        if not self._by_client[connection.client]:
            del self._by_client[connection.client]

    def _sweep(self) -> None:
        """Close what has waited for too long; again in a second while there are connections."""
        now = self._now()
        for waiting, seconds in ((self._fresh, HEAD_SECONDS), (self._idle, IDLE_SECONDS)):
            while waiting:
                connection, since = next(iter(waiting.items()))
                if now - since < seconds:
                    break
                connection.abort()
        self._sweeper = None
        if self._by_transport:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def close(self) -> None:
        """Stop watching."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def middleware(self) -> Middleware:
        """Tells when requests begin and end; the first of all."""

        @web.middleware
        async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
            transport = request.transport
            self.begun(transport)
            try:
                return await handler(request)
            finally:
                self.ended(transport)

        return watch

    def check_invariants(self) -> None:
        """Assert that each connection is counted once."""
        everywhere = [*self._fresh, *self._idle, *self._busy]
        assert len(everywhere) == len(set(everywhere)) == len(self._by_transport) <= self._limit
        assert set(everywhere) == set(self._by_transport.values())
        assert Counter(connection.client for connection in everywhere) == self._by_client
        assert all(count > 0 for count in self._busy.values())


class Connection(asyncio.Protocol):
    """A client's connection, in front of the protocol of the web server."""

    def __init__(self, server: asyncio.Protocol, connections: Connections) -> None:
        self._server = server
        self._connections = connections
        self._admitted = False
        self.transport: asyncio.Transport | None = None
        self.address = ""
        self.client = ""
        """What its address counts as."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self.address = plain_address(str(peer[0])) if isinstance(peer, tuple) and peer else ""
        self.client = client_of(self.address)
        # uvloop's transports are no subclasses of asyncio's, and have all that these have.
        self.transport = cast("asyncio.Transport", transport)
        self._admitted = self._connections.admit(self)
        if self._admitted:
            self._server.connection_made(transport)
        else:
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self._admitted:
            self._server.data_received(data)

    def eof_received(self) -> bool | None:
        return self._server.eof_received() if self._admitted else None

    def pause_writing(self) -> None:
        self._server.pause_writing()

    def resume_writing(self) -> None:
        self._server.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.gone(self)
        if self._admitted:
            self._server.connection_lost(exc)

    def abort(self) -> None:
        """Close without a word, and count it no more."""
        self._connections.gone(self)
        if self.transport is not None:
            self.transport.abort()


def with_fit_expectations(make_request: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """A maker of requests after which an Expect header outside ASCII is merely one that cannot be met (417).

    aiohttp quotes the header in its answer, and fails at what it cannot encode, before our code is asked.
    """

    def make(message: Any, *more: Any) -> web.BaseRequest:
        expected = message.headers.get("Expect")
        if expected is not None and not expected.isascii():
            headers = CIMultiDict(message.headers)
            headers["Expect"] = "?"
            message = message._replace(headers=CIMultiDictProxy(headers))
        return make_request(message, *more)

    return make


class BriefHttpLog(logging.Filter):
    """What the web server logs of malformed requests and lost clients: one line each, and not many.

    Errors of ours keep their traceback, masked.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        # Changed by filter.
        self._since = float("-inf")
        self._lines = 0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        if not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionResetError):
            record.msg, record.args = "%s\n%s", (one_line(record.getMessage()), masked_traceback(error))
            record.exc_info, record.exc_text = None, None
            return True
        now = self._now()
        if now - self._since >= _LOG_SECONDS:
            self._since, self._lines = now, 0
        self._lines += 1
        if self._lines > _LINES_PER_MINUTE:
            self._left_out += 1
            return False
        more = f" ({self._left_out} more were not logged)" if self._left_out else ""
        self._left_out = 0
        if isinstance(error, ConnectionResetError):
            # Before a handler had the request: while it was told to go on and send its body.
            record.msg, record.args = "A client hung up before it was answered%s", (more,)
        else:
            said = getattr(error, "message", "") or str(error)
            what = said.splitlines()[0] if said else type(error).__name__
            record.msg, record.args = "Malformed request: %s%s", (one_line(what, 100), more)
        record.exc_info, record.exc_text = None, None
        record.levelno, record.levelname = logging.INFO, "INFO"
        return True
