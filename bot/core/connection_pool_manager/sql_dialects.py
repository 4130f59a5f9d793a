"""One vocabulary for statements and transactions, over the drivers of the SQL databases.

Every function gets a lease, or the connection that it shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import Struct

from bot.core._shared.errors import MisuseError, invalid
from bot.core.connection_pool_manager.errors import TransactionAbortedError

ISOLATIONS = ("read_uncommitted", "read_committed", "repeatable_read", "serializable")
MODES = ("deferred", "immediate", "exclusive")

_COUNTED = re.compile(r"(?:INSERT \d+|UPDATE|DELETE|MERGE) (\d+)")
_BEGINS = re.compile(r"(?i)\s*(?:begin|start|savepoint)\b")


class TransactionOptions(Struct, frozen=True):
    """How a transaction begins."""

    isolation: str | None = None
    read_only: bool = False
    mode: str | None = None

    @property
    def of_replica(self) -> bool:
        """Whether a replica will do; PostgreSQL's allow no serializable transactions."""
        return self.read_only and self.isolation != "serializable"

    @classmethod
    def of(cls, isolation: object, read_only: object, mode: object) -> TransactionOptions:
        """Raises InvalidArgumentError."""
        word = re.sub(r"[ -]", "_", isolation.strip().lower()) if isinstance(isolation, str) else isolation
        if word is not None and word not in ISOLATIONS:
            raise invalid("isolation", isolation, "None or one of " + ", ".join(map(repr, ISOLATIONS)))
        kind = mode.strip().lower() if isinstance(mode, str) else mode
        if kind is not None and kind not in MODES:
            raise invalid("mode", mode, "None or one of " + ", ".join(map(repr, MODES)))
        if not isinstance(read_only, bool):
            raise invalid("read_only", read_only, "True or False")
        return cls(word, read_only, kind)


class Scope(Protocol):
    """A transaction, or a savepoint within one, that has begun."""

    async def commit(self) -> None:
        """Keep its changes. Raises TransactionAbortedError if they are lost."""

    async def rollback(self, error: BaseException) -> None:
        """Undo its changes; ``error`` ended its block."""


class Dialect(Protocol):
    """What each SQL database does in its own way."""

    def in_transaction(self, conn: Any) -> bool:
        """Whether a transaction is open, as far as this process knows; no round trip."""

    async def execute(self, conn: Any, sql: str, args: tuple[Any, ...]) -> int:
        """How many rows it inserted, updated or deleted."""

    async def fetch(self, conn: Any, sql: str, args: tuple[Any, ...]) -> list[Any]: ...

    async def fetchrow(self, conn: Any, sql: str, args: tuple[Any, ...]) -> Any: ...

    async def begin(self, conn: Any, options: TransactionOptions) -> Scope: ...

    async def savepoint(self, conn: Any, name: str) -> Scope: ...

    async def settle(self, conn: Any, sql: str) -> None:
        """Commit what a statement outside of a transaction has done."""

    async def undo(self, conn: Any, error: BaseException) -> None:
        """Roll back what a statement outside of a transaction has left after ``error``."""


# PostgreSQL.


class _Postgresql:
    def in_transaction(self, conn: Any) -> bool:
        return bool(conn.is_in_transaction())

    async def execute(self, conn: Any, sql: str, args: tuple[Any, ...]) -> int:
        found = _COUNTED.fullmatch(await conn.execute(sql, *args))
        return int(found[1]) if found else 0

    async def fetch(self, conn: Any, sql: str, args: tuple[Any, ...]) -> list[Any]:
        return list(await conn.fetch(sql, *args))

    async def fetchrow(self, conn: Any, sql: str, args: tuple[Any, ...]) -> Any:
        return await conn.fetchrow(sql, *args)

    async def begin(self, conn: Any, options: TransactionOptions) -> Scope:
        if options.mode is not None:
            raise invalid("mode", options.mode, "None: only SQLite has it")
        transaction = conn.transaction(isolation=options.isolation, readonly=options.read_only)
        await transaction.start()
        return _PostgresqlTransaction(conn, transaction)

    async def savepoint(self, conn: Any, name: str) -> Scope:
        transaction = conn.transaction()
        await transaction.start()
        return _PostgresqlSavepoint(transaction)

    async def settle(self, conn: Any, sql: str) -> None:
        """The server has committed it."""

    async def undo(self, conn: Any, error: BaseException) -> None:
        """The server has rolled it back."""


class _PostgresqlSavepoint:
    def __init__(self, transaction: Any) -> None:
        self._transaction = transaction

    async def commit(self) -> None:
        await self._transaction.commit()

    async def rollback(self, error: BaseException) -> None:
        await self._transaction.rollback()


class _PostgresqlTransaction(_PostgresqlSavepoint):
    def __init__(self, conn: Any, transaction: Any) -> None:
        super().__init__(transaction)
        self._conn = conn

    async def commit(self) -> None:
        if not self._conn.is_in_transaction():
            raise _ended()
        # Not by asyncpg's commit, which does not tell that the server has rolled back instead.
        self._transaction._connection._top_xact = None
        if await self._conn.execute("COMMIT") == "ROLLBACK":
            raise TransactionAbortedError(
                "a statement of the transaction had failed, so the server has rolled it back; let the error "
                "leave the block, or run the statement in a transaction(conn) of its own"
            )


def _ended() -> TransactionAbortedError:
    return TransactionAbortedError(
        "the transaction has ended within its block: by a COMMIT or ROLLBACK, or by an error at which the "
        "database rolls back"
    )


# SQLite and MySQL: transactions by statements.


class _Transaction:
    def __init__(self, dialect: _Sqlite | _Mysql, conn: Any) -> None:
        self._dialect = dialect
        self._conn = conn

    async def commit(self) -> None:
        self._dialect.check_open(self._conn)
        await self._conn.commit()

    async def rollback(self, error: BaseException) -> None:
        await self._dialect.stop(self._conn, error)
        await self._conn.rollback()


class _Savepoint:
    def __init__(self, dialect: _Sqlite | _Mysql, conn: Any, name: str) -> None:
        self._dialect = dialect
        self._conn = conn
        self._name = name

    async def commit(self) -> None:
        await self._dialect.run(self._conn, f"RELEASE SAVEPOINT {self._name}")

    async def rollback(self, error: BaseException) -> None:
        # A statement in progress is not stopped: SQLite would roll back the whole transaction.
        await self._dialect.run(self._conn, f"ROLLBACK TO SAVEPOINT {self._name}")
        await self._dialect.run(self._conn, f"RELEASE SAVEPOINT {self._name}")


def _parameters(args: tuple[Any, ...]) -> Any:
    """The parameters by place, or by name if a mapping is the only one."""
    return args[0] if len(args) == 1 and isinstance(args[0], Mapping) else args


class _Sqlite:
    def in_transaction(self, conn: Any) -> bool:
        return bool(conn.in_transaction)

    async def run(self, conn: Any, sql: str) -> None:
        await (await conn.execute(sql)).close()

    async def execute(self, conn: Any, sql: str, args: tuple[Any, ...]) -> int:
        before = conn.total_changes
        cursor = await conn.execute(sql, _parameters(args))
        try:
            if cursor.description is not None:
                await cursor.fetchall()  # rows of RETURNING are counted at their end
            count = int(cursor.rowcount)
        finally:
            await cursor.close()
        if count >= 0 or conn.total_changes == before:
            return max(0, count)
        # Python counts nothing where WITH comes first.
        cursor = await conn.cursor()
        try:
            cursor.row_factory = None  # a tuple, whatever the user's rows are
            await cursor.execute("SELECT changes()")
            return int((await cursor.fetchone())[0])
        finally:
            await cursor.close()

    async def fetch(self, conn: Any, sql: str, args: tuple[Any, ...]) -> list[Any]:
        return list(await conn.execute_fetchall(sql, _parameters(args)))

    async def fetchrow(self, conn: Any, sql: str, args: tuple[Any, ...]) -> Any:
        cursor = await conn.execute(sql, _parameters(args))
        try:
            return await cursor.fetchone()
        finally:
            await cursor.close()

    async def begin(self, conn: Any, options: TransactionOptions) -> Scope:
        if options.isolation not in (None, "serializable"):
            raise invalid("isolation", options.isolation, "None or 'serializable', which SQLite always has")
        if options.read_only:
            raise invalid("read_only", True, "False: SQLite has no read-only transactions; mode='deferred' "
                          "takes no lock before it writes")  # fmt: skip
        await self.run(conn, f"BEGIN {(options.mode or 'immediate').upper()}")
        return _Transaction(self, conn)

    async def savepoint(self, conn: Any, name: str) -> Scope:
        await self.run(conn, f"SAVEPOINT {name}")
        return _Savepoint(self, conn, name)

    def check_open(self, conn: Any) -> None:
        if not conn.in_transaction:
            raise _ended()

    async def stop(self, conn: Any, error: BaseException) -> None:
        if not isinstance(error, Exception):
            await conn.interrupt()  # its thread may still be at work on a statement that was cancelled

    async def settle(self, conn: Any, sql: str) -> None:
        if not _BEGINS.match(sql) and conn.in_transaction:
            await conn.commit()

    async def undo(self, conn: Any, error: BaseException) -> None:
        await self.stop(conn, error)
        if conn.in_transaction or not isinstance(error, Exception):  # a cancelled BEGIN may be yet to run
            await conn.rollback()


class _Mysql:
    def in_transaction(self, conn: Any) -> bool:
        return bool(conn.get_transaction_status())

    async def run(self, conn: Any, sql: str) -> None:
        async with conn.cursor() as cursor:
            await cursor.execute(sql)

    async def execute(self, conn: Any, sql: str, args: tuple[Any, ...]) -> int:
        async with conn.cursor() as cursor:
            await cursor.execute(sql, _parameters(args) or None)
            return max(0, int(cursor.rowcount)) if cursor.description is None else 0

    async def fetch(self, conn: Any, sql: str, args: tuple[Any, ...]) -> list[Any]:
        async with conn.cursor() as cursor:
            await cursor.execute(sql, _parameters(args) or None)
            return list(await cursor.fetchall())

    async def fetchrow(self, conn: Any, sql: str, args: tuple[Any, ...]) -> Any:
        async with conn.cursor() as cursor:
            await cursor.execute(sql, _parameters(args) or None)
            return await cursor.fetchone()

    async def begin(self, conn: Any, options: TransactionOptions) -> Scope:
        if options.mode is not None:
            raise invalid("mode", options.mode, "None: only SQLite has it")
        if options.isolation is not None:
            level = options.isolation.replace("_", " ").upper()
            await self.run(conn, f"SET TRANSACTION ISOLATION LEVEL {level}")
        await self.run(conn, "START TRANSACTION READ ONLY" if options.read_only else "START TRANSACTION")
        return _Transaction(self, conn)

    async def savepoint(self, conn: Any, name: str) -> Scope:
        await self.run(conn, f"SAVEPOINT {name}")
        return _Savepoint(self, conn, name)

    def check_open(self, conn: Any) -> None:
        """Statements that define commit at once, so that it is closed proves nothing."""

    async def stop(self, conn: Any, error: BaseException) -> None:
        """The driver has closed a connection whose statement was cancelled."""

    async def settle(self, conn: Any, sql: str) -> None:
        if not _BEGINS.match(sql) and conn.get_transaction_status():
            await conn.commit()

    async def undo(self, conn: Any, error: BaseException) -> None:
        if conn.get_transaction_status():
            await conn.rollback()


_DIALECTS: dict[str, Dialect] = {"postgresql": _Postgresql(), "mysql": _Mysql(), "sqlite": _Sqlite()}

_ELSEWHERE = {
    "redis": "on Redis use connection(), and conn.pipeline(transaction=True) for a transaction",
    "mongodb": "on MongoDB use connection(), and conn.client.start_session() for a transaction",
}


def dialect_of(backend: str) -> Dialect:
    """Raises MisuseError for a database without SQL."""
    found = _DIALECTS.get(backend)
    if found is None:
        raise MisuseError(f"this is for pools of {', '.join(_DIALECTS)}; {_ELSEWHERE[backend]}")
    return found
