"""The service's door to its database: rows as dicts, one connection for each piece of work.

Where the connection comes from is decided once, at the start: from a pool when pools are on, else it is
opened for each call, which is what a bot without pools does.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from bot.core._shared.errors import CapacityError, ClosedError
from bot.core._shared.masking import one_line
from bot.core.query_optimizer import database_time

if TYPE_CHECKING:
    from bot.core.connection_pool_manager import ConnectionPoolManager

logger = logging.getLogger("bot.service.database")

POOL_NAME = "service"
"""The pool's name: an entry of ``DATABASE_POOLS`` of that name sets its sizes and options."""

Row = dict[str, Any]
Progress = Callable[[str], None]


class DatabaseUnavailableError(Exception):
    """No connection can be had, or it broke; trying later can succeed. Answered with 503."""


class ConstraintError(Exception):
    """The database refused a row: a duplicate key, an unknown reference, a missing value."""


class Database(Protocol):
    """What the handlers need of a database. ``?`` stands for a parameter on every backend.

    Each raises DatabaseUnavailableError when there is no connection; the writes also ConstraintError.
    """

    def one_connection(self) -> AbstractAsyncContextManager[None]:
        """A block whose calls share a connection, where each would else open one."""
        ...

    async def fetch(self, query: str, params: Sequence[Any] = ()) -> list[Row]:
        """The rows of a query."""
        ...

    async def write(self, query: str, params: Sequence[Any] = ()) -> int:
        """Run one statement in a transaction of its own; the id of the row it made, or 0."""
        ...

    async def write_many(self, query: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run one statement for each of ``rows``, all in one transaction: all are written or none.

        Returns how many there were.
        """
        ...


class _Shared:
    """The connection of a block: used by one call at a time, closed with the block or its last call."""

    def __init__(self, database: ServiceDatabase) -> None:
        self.database = database
        # Changed by one_connection and _own_connection only.
        self.busy = False
        self.ended = False
        self.connection: Any = None
        self.opened: AbstractAsyncContextManager[Any] | None = None

    async def close_if_over(self) -> None:
        """Close it unless it is, or may yet be, used: tasks that the block started may outlive it."""
        if self.busy or not self.ended:
            return
        opened, self.opened = self.opened, None
        if opened is not None:
            await opened.__aexit__(None, None, None)


_SHARED: ContextVar[_Shared | None] = ContextVar("_SHARED", default=None)


class ServiceDatabase(ABC):
    """A database of the service, with a connection of a pool or a new one for each call."""

    backend: ClassVar[str]

    def __init__(self) -> None:
        # Changed by use_pool and _connection only.
        self._pools: ConnectionPoolManager | None = None
        self._opened = 0
        self._open_now = 0
        self._open_peak = 0
        self._unavailable = False  # an outage is logged when it begins and when it ends

    @abstractmethod
    async def prepare(self, progress: Progress) -> None:
        """Create the data set unless it is there. Raises CannotStartError."""

    @abstractmethod
    def _open(self) -> AbstractAsyncContextManager[Any]:
        """A new connection, closed at the end."""

    @abstractmethod
    def _pool_arguments(self) -> dict[str, Any]:
        """For ``create_pool``: the url, and what the connections need."""

    @abstractmethod
    def _is_outage(self, error: Exception) -> bool:
        """Whether ``error`` says that there is no database to talk to."""

    @abstractmethod
    async def fetch(self, query: str, params: Sequence[Any] = ()) -> list[Row]: ...

    @abstractmethod
    async def write(self, query: str, params: Sequence[Any] = ()) -> int: ...

    @abstractmethod
    async def write_many(self, query: str, rows: Sequence[Sequence[Any]]) -> int: ...

    async def use_pool(self, manager: ConnectionPoolManager) -> None:
        """Take connections from a pool of ``manager`` from now on, for as long as it is enabled."""
        await manager.create_pool(POOL_NAME, self.backend, **self._pool_arguments())
        self._pools = manager

    @contextlib.asynccontextmanager
    async def one_connection(self) -> AsyncIterator[None]:
        """Within the block, calls one after another share a connection, which the first opens.

        With a pool nothing changes: giving a connection back between two calls costs nothing there.
        """
        if self._pools is not None and self._pools.enabled:
            yield
            return
        shared = _Shared(self)
        token = _SHARED.set(shared)
        try:
            yield
        finally:
            _SHARED.reset(token)
            shared.ended = True
            await shared.close_if_over()

    @contextlib.asynccontextmanager
    async def _opened_here(self) -> AsyncIterator[Any]:
        async with self._open() as connection:
            self._opened += 1
            self._open_now += 1
            self._open_peak = max(self._open_peak, self._open_now)
            try:
                yield connection
            finally:
                self._open_now -= 1

    @contextlib.asynccontextmanager
    async def _own_connection(self) -> AsyncIterator[Any]:
        shared = _SHARED.get()
        if shared is None or shared.database is not self or shared.busy or shared.ended:
            async with self._opened_here() as connection:
                yield connection
            return
        shared.busy = True
        try:
            if shared.connection is None:
                opening = self._opened_here()
                shared.connection = await opening.__aenter__()
                shared.opened = opening
            yield shared.connection
        finally:
            shared.busy = False
            await shared.close_if_over()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        try:
            if self._pools is not None and self._pools.enabled:
                async with self._pools.connection(POOL_NAME) as connection:
                    with database_time():
                        yield connection
            else:
                async with self._own_connection() as connection:
                    with database_time():
                        yield connection
        except Exception as error:
            if not (isinstance(error, CapacityError | ClosedError | OSError) or self._is_outage(error)):
                raise
            said = one_line(error)
            if not self._unavailable:
                self._unavailable = True
                logger.error("The database cannot be used: %s", said)
            raise DatabaseUnavailableError(said) from error
        if self._unavailable:
            self._unavailable = False
            logger.info("The database can be used again")

    async def figures(self) -> dict[str, Any]:
        """For ``/health``: connections opened since the start, open now, and at most at once."""
        if self._pools is not None and self._pools.enabled:
            pool = self._pools.snapshot().pools[POOL_NAME]
            opened, now, peak = pool.connections_opened, pool.total_connections, pool.peak_connections
        else:
            opened, now, peak = self._opened, self._open_now, self._open_peak
        return {
            "backend": self.backend,
            "pool": POOL_NAME if self._pools is not None and self._pools.enabled else None,
            "connections_opened": opened,
            "connections_open": now,
            "connections_peak": peak,
        }
