"""Watches the connections of aiosqlite.

All calls of a connection and of its cursors go through its ``_execute``, which runs them in its thread; a
subclass of the connection's class has one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

import aiosqlite

from bot.core.query_optimizer.execution.call import Call
from bot.core.query_optimizer.instruments.watching import (
    Instrument,
    Run,
    Session,
    in_background,
    in_background_if,
)

ANSWERS = True

_HARMLESS = frozenset(("cursor", "close", "interrupt", "backup", "iterdump"))
_FETCHES = frozenset(("fetchone", "fetchmany", "fetchall"))

MAX_FACTORIES = 64
"""Row and text factories that are told apart; results of others are not cached."""


class SqliteSession(Session):
    """A connection of aiosqlite.

    While rows of a cursor are left, SQLite keeps showing the database as it was when the cursor was opened;
    so nothing is cached then.
    """

    __slots__ = ("abandoned", "cursors")

    def __init__(self, connection: Any, instrument: Instrument) -> None:
        def in_transaction() -> bool:
            inner = connection._connection
            try:
                return inner is not None and inner.in_transaction
            except sqlite3.ProgrammingError:  # it has just been closed
                return False

        super().__init__(instrument, in_transaction)
        # Cursors that may have rows left: the call that opened each, and its milliseconds so far.
        self.cursors: WeakKeyDictionary[sqlite3.Cursor, list[Any]] = WeakKeyDictionary()
        # Calls whose callers were cancelled, and which wait for the thread, or run in it.
        self.abandoned: list[Timed] = []

    def settled(self) -> Awaitable[Any] | None:
        """Not while an abandoned call may still write: what was answered may have been sent before it."""
        if self.abandoned:
            self.abandoned = [each for each in self.abandoned if not each.ended]
            if self.abandoned:
                return None
        return super().settled()

    def abandon(self, timed: Timed) -> None:
        """The caller of ``timed`` was cancelled: look again when it has ended."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            if self.watches and (told := self.settled()) is not None:
                in_background(told)

        def ended() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody reads any more
                loop.call_soon_threadsafe(look)

        self.abandoned.append(timed)
        timed.when_ended(ended)

    async def closed_by(self, timed: Timed) -> None:
        """A call may have ended a transaction. If another call has begun the next one since, what was written
        in both is dropped now, and again at its end.
        """
        if self.open is not None and not timed.inside and self.watches:
            told = self.instrument.optimizer._invalidation.ended(self.open)
            if told is not None:
                await asyncio.shield(told)

    def _is_plain(self) -> bool:
        return not self.cursors and super()._is_plain()


class Timed:
    """A call for a connection's thread, which notes there how it ended.

    Its wait for the thread, while other calls of the connection run, is not the query's time. When its caller
    goes on, another call may have begun a transaction; and when its caller is cancelled, it still runs.
    """

    __slots__ = ("_fn", "_inside", "_now", "_then", "ended", "inside", "seconds")

    def __init__(self, fn: Any, now: Callable[[], float], inside: Callable[[], bool]) -> None:
        self._fn = fn
        self._now = now
        self._inside = inside
        self._then: Callable[[], object] | None = None
        self.seconds = 0.0
        self.inside = False
        """Whether a transaction was open when it ended."""
        self.ended = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = self._now()
        try:
            return self._fn(*args, **kwargs)
        finally:
            self.seconds = self._now() - start
            self.inside = self._inside()
            self.ended = True
            if self._then is not None:
                self._then()

    def when_ended(self, then: Callable[[], object]) -> None:
        """Call ``then`` in whatever thread, once at least, when it has ended."""
        self._then = then
        if self.ended:
            then()

    def took(self) -> float:
        return self.seconds


async def watch(
    session: SqliteSession, _: str, run: Any, connection: Any, args: tuple[Any, ...], kwargs: Any
) -> Any:
    """Make a call by ``run``, the class's own ``_execute``; the first of ``args`` is what to call."""
    fn, *rest = args
    args = tuple(rest)
    timed = Timed(fn, session.instrument.optimizer._now, session.in_transaction)

    async def call() -> Any:
        try:
            return await run(connection, timed, *args, **kwargs)
        except asyncio.CancelledError:
            session.abandon(timed)
            raise

    name = getattr(fn, "__name__", "")
    text = args[0] if args and isinstance(args[0], str) else None
    if name in _FETCHES:
        return await _fetch(session, name, getattr(fn, "__self__", None), timed, call)
    if text is not None and name == "_execute_fetchall":
        factories = _factories(session.instrument, connection)
        if session.instrument.cache and factories is not None:
            return await session.read(text, _plain(args), factories, call, timed.took)
        return await session.run(text, _plain(args), call, took=timed.took)
    if text is not None and name in ("execute", "_execute_insert"):
        used = getattr(fn, "__self__", None)
        if isinstance(used, sqlite3.Cursor):
            session.cursors.pop(used, None)  # its old rows are gone
        result = await session.run(text, _plain(args), call, took=timed.took)
        cursor = used if isinstance(used, sqlite3.Cursor) else result
        if isinstance(cursor, sqlite3.Cursor) and cursor.description is not None:
            session.cursors[cursor] = [text, _plain(args), timed.seconds * 1000]
        await session.closed_by(timed)
        return result
    if text is not None and name in ("executemany", "executescript"):
        result = await session.run(text, None, call, is_one=False, took=timed.took)
        await session.closed_by(timed)
        return result
    if name in ("commit", "rollback"):
        # Neither ends a cursor that has rows left: after a rollback, too, it may keep its old snapshot.
        result = await session.settling(call)
        await session.closed_by(timed)
        return result
    if name == "close":
        if isinstance(used := getattr(fn, "__self__", None), sqlite3.Cursor):
            session.cursors.pop(used, None)
            return await call()
        try:
            return await call()
        finally:
            in_background_if(session.was_closed())
    if name not in _HARMLESS:
        session.is_altered = True  # a function, a collation, an extension
    return await call()


async def _fetch(session: SqliteSession, name: str, cursor: Any, timed: Timed, call: Run) -> Any:
    rows = await call()
    pending = session.cursors.get(cursor)
    if pending is not None:
        before = pending[2]
        pending[2] += timed.seconds * 1000
        if name == "fetchall" or not rows:
            session.cursors.pop(cursor, None)
        if session.watches:
            optimizer = session.instrument.optimizer
            text, params, after = pending
            call_made = Call(text, params, None, optimizer._analyses.analyse(text), None)
            count = len(rows) if isinstance(rows, list) else int(rows is not None)
            optimizer._recorder.lengthen(call_made, before, after, count)
    if (told := session.settled()) is not None:
        in_background_if(told)
    return rows


def _plain(args: tuple[Any, ...]) -> Any:
    params = args[1] if len(args) > 1 else None
    return None if params is None or params == [] else params


def _factories(instrument: Instrument, connection: Any) -> tuple[Hashable, ...] | None:
    """What tells apart the rows that a connection makes; None: too many kinds."""
    inner = connection._connection
    if inner is None:
        return None
    known = instrument.details["factories"]
    found = []
    for factory in (inner.row_factory, inner.text_factory):
        if not any(other is factory for other in known):
            if len(known) >= MAX_FACTORIES:
                return None
            known.append(factory)
        found += [number for number, other in enumerate(known) if other is factory]
    return tuple(found)


def session_of(connection: Any, instrument: Instrument) -> SqliteSession:
    return SqliteSession(connection, instrument)


def target(obj: Any) -> Any:
    return obj if isinstance(obj, aiosqlite.Connection) else None


def attach(obj: Any, instrument: Instrument) -> None:
    base: Any = type(obj)
    instrument.details = {"class": base, "factories": []}
    session = SqliteSession(obj, instrument)

    class Watched(base):  # type: ignore[misc]
        __doc__ = base.__doc__
        phase4_instrument = instrument

        async def _execute(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            if not session.watches:
                return await super()._execute(fn, *args, **kwargs)
            return await watch(session, "", base._execute, self, (fn, *args), kwargs)

    Watched.__name__, Watched.__qualname__, Watched.__module__ = (
        base.__name__, base.__qualname__, base.__module__,
    )  # fmt: skip
    obj.__class__ = Watched


def detach(obj: Any, instrument: Instrument) -> None:
    obj.__class__ = instrument.details["class"]
