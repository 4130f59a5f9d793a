"""Open transactions, by task context: others see what they wrote only when they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from bot.core.query_optimizer.sql.names import read_marks, write_marks


class Transaction:
    """One open transaction, with what was written in it. It ends by ``end``, or with its context."""

    __slots__ = (
        "_marks", "_open", "_running", "anything", "database", "defines", "doubt", "recurs", "savepoints",
        "written",
    )  # fmt: skip

    def __init__(self, running: list[int]) -> None:
        self.written: set[str] = set()
        """Names of tables, and of what changes along with them."""
        self.anything = False
        self.database: str | None = None
        """The database in which everything was written; "": unknown, None: nothing was written."""
        self.defines = False
        """Whether something may have been defined in it."""
        self.doubt = False
        """Whether that may have been views, in a way that cannot be read."""
        self.savepoints: list[str] = []
        """Open savepoints, if one of them began the transaction instead of BEGIN: to release the first is to
        commit.
        """
        self.recurs = False
        """Whether autocommit is off, so that its end begins the next one."""
        self._marks: set[str] = set()
        self._running = running
        self._open = True
        running[0] += 1

    def write(self, tables: frozenset[str], anything: bool, database: str = "") -> None:
        self.anything = self.anything or anything
        self.database = database if self.database in (None, database) else ""
        if not tables <= self.written:
            self.written |= tables
            self._marks |= write_marks(tables)

    def hides(self, tables: frozenset[str]) -> bool:
        """Whether a cached result that read these tables may differ from what the transaction sees."""
        return self.anything or not self._marks.isdisjoint(read_marks(tables))

    def end(self) -> None:
        if self._open:
            self._open = False
            self._running[0] -= 1

    def __del__(self) -> None:
        self.end()  # its task ended without a COMMIT


class Transactions:
    """The transactions of one optimizer. ``running[0]`` is how many are open, for hot paths to read."""

    def __init__(self) -> None:
        self.running = [0]
        # A context keeps its variables alive. One for each optimizer is fine, since there are few optimizers.
        self._current: ContextVar[Transaction | None] = ContextVar("transaction", default=None)

    def current(self) -> Transaction | None:
        """The open transaction of this context."""
        return self._current.get() if self.running[0] else None

    def begin(self) -> Transaction:
        """Open one in this context, unless one is open already."""
        found = self.current()
        if found is None:
            found = Transaction(self.running)
            self._current.set(found)
        return found

    def end(self) -> Transaction | None:
        """Close the transaction of this context; None if there is none."""
        found = self.current()
        if found is not None:
            found.end()
            self._current.set(None)
        return found

    def change(self, what: str, savepoint: str, dialect: str) -> Transaction | None:
        """Apply what a text did; returns the transaction whose writes become visible, or are undone, by it.

        "begin"; "savepoint" and "autocommit off", which begin one where none is open; "commit", "rollback"
        and "autocommit on"; "chain": one ends and another begins; "script": a text ended what it began, and
        with it what was open; "implicit": a definition, which commits in MySQL; "release" of a savepoint and
        "back" to one. A transaction that ends without having begun here may have written anything.
        """
        found = self.current()
        if what == "begin" and found is not None and dialect in ("mysql", ""):
            if dialect == "mysql":
                self._end_and_begin(found.recurs)
            return found
        if what in ("begin", "savepoint", "autocommit off"):
            begun = self.begin()
            begun.recurs = begun.recurs or what == "autocommit off"
            if what == "savepoint" and (found is None or found.savepoints):
                begun.savepoints.append(savepoint)
            return None
        if found is None:
            if what == "chain":
                self.begin()
            return None if what in ("script", "implicit") else _unknown()
        if what == "implicit":
            return found  # it stays open, since a definition of a temporary table does not commit
        if what == "back":
            return None
        if what == "release":
            if not found.savepoints:
                return None
            if savepoint in found.savepoints:
                while found.savepoints.pop() != savepoint:
                    pass
            if found.savepoints:
                return None
        self.end()
        if what == "chain" or (found.recurs and what != "autocommit on"):
            self._end_and_begin(found.recurs)
        return found

    def _end_and_begin(self, recurs: bool) -> None:
        self.end()
        self.begin().recurs = recurs


# Statements before which MySQL commits, beside definitions.
_COMMITS = frozenset(
    (
        "grant revoke analyze optimize repair check flush lock unlock cache load rename reset install "
        "uninstall start stop change purge create drop alter truncate shutdown"
    ).split()
)


def transaction_of(words: Sequence[str], dialect: str) -> tuple[str, bool]:
    """(what a statement that begins with these words does to the transaction beside BEGIN and the like, in
    the words of :meth:`Transactions.change`; whether that is all it does)"""
    first, second = words[0] if words else "", words[1] if len(words) > 1 else ""
    if first == "prepare" and second == "transaction":
        return "commit", True  # it goes on without this connection, until a COMMIT PREPARED
    if dialect not in ("mysql", ""):
        return "", False
    if first == "xa":
        if second in ("start", "begin"):
            return "begin", True
        if second in ("commit", "rollback"):
            return second, True
        return "", second in ("end", "prepare", "recover")
    if first == "start" and second == "transaction":
        return "", False
    if first == "set" and second == "password":
        return "implicit", False
    return ("implicit", first == "start") if first in _COMMITS else ("", False)


def _unknown() -> Transaction:
    """A transaction that began outside this context, so what it wrote is unknown."""
    transaction = Transaction([0])
    transaction.anything = True
    return transaction


class TransactionScope:
    """``async with optimizer.transaction():`` around a transaction that the driver manages.

    Leave the driver's own block first: ``async with optimizer.transaction(), connection.transaction():``.
    """

    __slots__ = ("_ended", "_outermost", "_transactions")

    def __init__(
        self, transactions: Transactions, ended: Callable[[Transaction], Awaitable[Any] | None]
    ) -> None:
        self._transactions = transactions
        self._ended = ended
        self._outermost = False

    async def __aenter__(self) -> None:
        self._outermost = self._transactions.current() is None
        self._transactions.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._outermost:
            return
        found = self._transactions.end()
        told = self._ended(found) if found is not None else None
        if told is not None:
            await told
