"""Statements and transactions by the name of a pool: ``fetch``, ``execute``, ``transaction``."""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Mapping
from types import TracebackType
from typing import Any

from bot.core._shared.errors import MisuseError, invalid
from bot.core._shared.masking import one_line
from bot.core.connection_pool_manager.errors import LeaseError, LeaseReleasedError, TransactionAbortedError
from bot.core.connection_pool_manager.guard import Guard
from bot.core.connection_pool_manager.lease import PooledConnection, guard_of, note_error
from bot.core.connection_pool_manager.sql_dialects import (
    Dialect,
    Scope,
    TransactionOptions,
    dialect_of,
)

logger = logging.getLogger(__name__)


class SqlCalls(ABC):
    """Statements on a pool of PostgreSQL, MySQL or SQLite, or on a lease of one.

    ``target`` is the name of a pool, or a lease. With a name, the statement has a lease and a transaction of
    its own: it is committed, or rolled back if it fails or is cancelled. So it is with a lease that is in no
    transaction. Within a transaction, the statement belongs to that. No connection stays leased. A call that
    is cancelled does not wait for the rollback, which the pool does before the connection is leased again.
    """

    @abstractmethod
    async def acquire_connection(
        self, name: str, timeout: float | None = None, *, read_only: bool = False
    ) -> PooledConnection:
        """Lease a connection of pool ``name``."""

    @abstractmethod
    async def release_connection(self, name: str, conn: PooledConnection, is_healthy: bool = True) -> bool:
        """Give a lease back; it does not wait."""

    async def execute(
        self, target: str | PooledConnection, sql: str, *args: Any, timeout: float | None = None
    ) -> int:
        """Run a statement; how many rows it inserted, updated or deleted, 0 for other statements.

        ``args`` are its parameters in the database's own notation: ``$1`` (PostgreSQL), ``%s`` (MySQL), ``?``
        (SQLite); a mapping alone gives those of MySQL and SQLite by name. ``timeout`` is that of
        ``acquire_connection``, and its errors are raised, as are the driver's.
        """
        async with self._on(target, sql, timeout) as (conn, dialect):
            return await dialect.execute(conn, sql, args)

    async def fetch(
        self,
        target: str | PooledConnection,
        sql: str,
        *args: Any,
        timeout: float | None = None,
        read_only: bool = False,
    ) -> list[Any]:
        """Run a statement; its rows as a list, in the driver's type. Otherwise as :meth:`execute`.

        ``read_only=True`` with a pool's name: on a replica, see ``acquire_connection``.
        """
        async with self._on(target, sql, timeout, read_only) as (conn, dialect):
            return await dialect.fetch(conn, sql, args)

    async def fetchrow(
        self,
        target: str | PooledConnection,
        sql: str,
        *args: Any,
        timeout: float | None = None,
        read_only: bool = False,
    ) -> Any:
        """Run a statement; its first row, or None. Otherwise as :meth:`fetch`."""
        async with self._on(target, sql, timeout, read_only) as (conn, dialect):
            return await dialect.fetchrow(conn, sql, args)

    async def fetchval(
        self,
        target: str | PooledConnection,
        sql: str,
        *args: Any,
        timeout: float | None = None,
        read_only: bool = False,
    ) -> Any:
        """Run a statement; the first value of its first row, or None. Otherwise as :meth:`fetch`."""
        row = await self.fetchrow(target, sql, *args, timeout=timeout, read_only=read_only)
        if row is None or isinstance(row, Mapping):
            return None if row is None else next(iter(row.values()), None)
        return row[0] if len(row) else None  # PostgreSQL has rows without columns

    def transaction(
        self,
        target: str | PooledConnection,
        *,
        isolation: str | None = None,
        read_only: bool = False,
        mode: str | None = None,
        timeout: float | None = None,
    ) -> TransactionContext:
        """``async with manager.transaction(name) as conn``: commit at the end, or roll back.

        The block's error or cancellation rolls back, and is raised. With a lease in a transaction as
        ``target`` it is a savepoint: only what this block did is rolled back. ``isolation``:
        read_uncommitted, read_committed, repeatable_read, serializable; None: the database's default.
        With ``read_only=True`` and a pool's name it is on a replica, see ``acquire_connection``.
        ``mode``, of SQLite alone: immediate (the default), deferred, exclusive.

        Raises InvalidArgumentError, the errors of ``acquire_connection`` and the driver's;
        TransactionAbortedError if the block ended well, and its changes are lost.
        """
        options = TransactionOptions.of(isolation, read_only, mode)
        return TransactionContext(self, target, options, timeout)

    @contextlib.asynccontextmanager
    async def _on(
        self, target: str | PooledConnection, sql: str, timeout: float | None, read_only: bool = False
    ) -> AsyncIterator[tuple[PooledConnection, Dialect]]:
        """A lease for one statement, which is committed or rolled back unless a transaction is open."""
        if not isinstance(sql, str):
            raise invalid("sql", sql, "a statement, as a str")
        is_own = not isinstance(target, PooledConnection)
        conn = (
            target if isinstance(target, PooledConnection) else await self._lease(target, timeout, read_only)
        )
        try:
            dialect = dialect_of(conn.backend)
            if not is_own and dialect.in_transaction(conn):
                yield conn, dialect
                return
            try:
                yield conn, dialect
                await dialect.settle(conn, sql)
            except BaseException as error:
                note_error(conn, error)
                if _is_for_pool(error) and is_own:
                    raise
                if not await _undone(conn, dialect.undo(conn, error)) and is_own:
                    await self._give_back(conn, is_healthy=False)
                raise
        finally:
            if is_own:
                await self._give_back(conn)

    async def _lease(self, name: object, timeout: float | None, read_only: bool = False) -> PooledConnection:
        if not isinstance(name, str):
            raise invalid("target", name, "the name of a pool, or a lease")
        return await self.acquire_connection(name, timeout, read_only=read_only)

    async def _give_back(self, conn: PooledConnection, *, is_healthy: bool = True) -> None:
        if not conn.is_released:
            await self.release_connection(conn._runner.name, conn, is_healthy)


def _is_for_pool(error: BaseException) -> bool:
    """Whether the pool rolls back, by the reset of the connection: one who is cancelled shall not wait."""
    return not isinstance(error, Exception)


async def _undone(conn: PooledConnection, rollback: Coroutine[Any, Any, None]) -> bool:
    """Whether ``rollback`` worked. What it raises must not hide the error that made it necessary."""
    try:
        await rollback
    except LeaseReleasedError:
        return True  # the block gave its connection back, which rolled back
    except Exception as error:
        logger.debug("Not rolled back, so it is closed: %s", one_line(f"{conn!r}: {type(error).__name__}"))
        return False
    return True


class TransactionContext:
    """One transaction or savepoint, for the length of an ``async with`` block.

    Whatever is cancelled at whatever await, the connection of a transaction goes back to its pool, which
    rolls back what is left open.
    """

    def __init__(
        self,
        calls: SqlCalls,
        target: str | PooledConnection,
        options: TransactionOptions,
        timeout: float | None,
    ) -> None:
        self._calls = calls
        self._target = target
        self._options = options
        self._timeout = timeout
        self._is_own = not isinstance(target, PooledConnection)
        self._is_in_use = False
        # Set by __aenter__, and unset by __aexit__.
        self._conn: PooledConnection | None = None
        self._guard: Guard | None = None
        self._scope: Scope | None = None
        self._outer: TransactionContext | None = None
        self._depth = 0
        self._lost: BaseException | None = None
        """Why a savepoint within this could not be rolled back, so that this must not be committed."""

    async def __aenter__(self) -> PooledConnection:
        if self._is_in_use:
            raise LeaseError("this context is in use already; call transaction() for each block")
        self._is_in_use = True
        target = self._target
        conn: PooledConnection | None = None
        try:
            conn = (
                target
                if isinstance(target, PooledConnection)
                else await self._calls._lease(target, self._timeout, self._options.of_replica)
            )
            await self._begin(conn)
        except BaseException as error:
            self._is_in_use = False
            if conn is not None and self._is_own:
                note_error(conn, error)
                await self._calls._give_back(conn)
            raise
        self._conn = conn
        return conn

    async def _begin(self, conn: PooledConnection) -> None:
        dialect = dialect_of(conn.backend)
        guard = guard_of(conn)
        outer: TransactionContext | None = guard.transaction
        self._lost, self._depth = None, 0
        if not self._is_own and dialect.in_transaction(conn):
            if self._options != TransactionOptions():
                raise MisuseError(
                    f"{conn!r} is in a transaction already: expected no isolation, read_only or mode, "
                    "since a savepoint has those of its transaction"
                )
            self._depth = 1 if outer is None else outer._depth + 1
            self._scope = await dialect.savepoint(conn, f"phase4_{self._depth}")
        else:
            try:
                self._scope = await dialect.begin(conn, self._options)
            except BaseException as error:
                if not self._is_own:
                    await _undone(conn, dialect.undo(conn, error))
                raise
        self._outer, self._guard, guard.transaction = outer, guard, self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        conn, scope = self._conn, self._scope
        assert conn is not None
        assert scope is not None
        assert self._guard is not None
        self._guard.transaction, self._guard = self._outer, None
        try:
            if error is None:
                await self._commit(conn, scope)
            else:
                note_error(conn, error)
                await self._roll_back(conn, scope, error)
        finally:
            self._conn = self._scope = self._outer = None
            self._is_in_use = False
            if self._is_own:
                await self._calls._give_back(conn)

    async def _commit(self, conn: PooledConnection, scope: Scope) -> None:
        try:
            if self._lost is not None:
                raise TransactionAbortedError(
                    "a savepoint of the transaction could not be rolled back, so nothing of it is committed"
                ) from self._lost
            await scope.commit()
        except BaseException as error:
            note_error(conn, error)
            await self._roll_back(conn, scope, error)
            raise

    async def _roll_back(self, conn: PooledConnection, scope: Scope, error: BaseException) -> None:
        is_undone = False
        if _is_for_pool(error) and self._is_own:
            return
        try:
            is_undone = await _undone(conn, scope.rollback(error))
        finally:
            if not is_undone:
                if self._outer is not None:
                    self._outer._lost = error
                if self._is_own:
                    await self._calls._give_back(conn, is_healthy=False)
