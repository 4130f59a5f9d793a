"""Watches the connections of aiosqlite.

All calls of a connection and of its cursors go through its ``_execute``, which runs them in its thread; a
subclass of the connection's class has one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import aiosqlite

from bot.core._shared.errors import InvalidArgumentError
from bot.core.query_optimizer.execution.call import Call
from bot.core.query_optimizer.instruments.kept_cursors import MANY, KeptCursor, is_over
from bot.core.query_optimizer.instruments.watching import (
    READING,
    Instrument,
    Run,
    Session,
    in_background,
    in_background_if,
)

ANSWERS = True

_HARMLESS = frozenset(("cursor", "close", "interrupt", "backup", "iterdump"))
_FETCHES = frozenset(("fetchone", "fetchmany", "fetchall"))
_NO_ROWID = _HARMLESS | _FETCHES | frozenset(("commit", "rollback"))
"""What leaves ``lastrowid`` as it is."""

MAX_FACTORIES = 64
"""Row and text factories that are told apart; results of others are not cached."""


class SqliteSession(Session):
    """A connection of aiosqlite.

    While rows of a cursor are left, SQLite keeps showing the database as it was when the cursor was opened;
    so nothing is cached then.
    """

    __slots__ = ("abandoned", "armed", "cursors", "keeps_cursors", "last_rowid")

    def __init__(self, connection: Any, instrument: Instrument) -> None:
        def in_transaction() -> bool:
            inner = connection._connection
            try:
                return inner is not None and inner.in_transaction
            except sqlite3.ProgrammingError:  # it has just been closed
                return False

        super().__init__(instrument, in_transaction)
        # Cursors that may have rows left: the call that opened each, its milliseconds so far, and what keeps
        # its rows. Added to in the connection's thread: an abandoned call's cursor counts, too.
        self.cursors: WeakKeyDictionary[sqlite3.Cursor, list[Any]] = WeakKeyDictionary()
        # Cursors that replay kept rows, of which no row was taken when their caller went on.
        self.armed: WeakSet[KeptCursor] | None = None
        self.keeps_cursors = False
        """Whether reads by cursors are answered."""
        self.last_rowid: int | None = None
        """What a cursor of this connection would have as ``lastrowid``; None: unknown."""
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


class Keep(NamedTuple):
    """What keeps the rows of a cursor, if these factories make them."""

    keep: Callable[[Any], None]
    row_factory: Any
    text_factory: Any

    def makes_rows_of(self, cursor: sqlite3.Cursor) -> bool:
        return cursor.row_factory is self.row_factory and cursor.connection.text_factory is self.text_factory


class Timed:
    """A call for a connection's thread, which notes there how it ended.

    Its wait for the thread, while other calls of the connection run, is not the query's time. When its caller
    goes on, another call may have begun a transaction; and when its caller is cancelled, it still runs.
    """

    __slots__ = ("_fn", "_inside", "_noted", "_now", "_then", "ended", "inside", "seconds")

    def __init__(
        self, fn: Any, now: Callable[[], float], inside: Callable[[], bool], noted: Callable[[Any], None]
    ) -> None:
        self._fn = fn
        self._noted = noted
        self._now = now
        self._inside = inside
        self._then: Callable[[], object] | None = None
        self.seconds = 0.0
        self.inside = False
        """Whether a transaction was open when it ended."""
        self.ended = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = self._now()
        result = None
        try:
            result = self._fn(*args, **kwargs)
            return result
        finally:
            self._noted(result)
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


def watch(
    session: SqliteSession, _: str, run: Any, connection: Any, args: tuple[Any, ...], kwargs: Any
) -> Awaitable[Any]:
    """Make a call by ``run``, the class's own ``_execute``; the first of ``args`` is what to call."""
    fn, args = args[0], args[1:]
    used = getattr(fn, "__self__", None)
    # Three calls of a bot's every query come here, so most of them go on without a look at what is kept.
    if used.__class__ is sqlite3.Cursor and fn.__name__ == "close" and used not in session.cursors:
        return run(connection, fn, *args, **kwargs)  # type: ignore[no-any-return]  # nothing depends on it
    if session.armed is None and not session.instrument.cache and used.__class__ is not KeptCursor:
        return _run(session, run, connection, fn, args, kwargs, None)
    return _watch(session, run, connection, fn, args, kwargs)


async def _watch(
    session: SqliteSession, run: Any, connection: Any, fn: Any, args: tuple[Any, ...], kwargs: Any
) -> Any:
    name = getattr(fn, "__name__", "")
    if isinstance(kept := getattr(fn, "__self__", None), KeptCursor):
        if not kept.answers(name, args):
            await _make_real(session, run, connection, kept, name)
        if kept.real is None:
            if connection._running and connection._connection:
                return fn(*args, **kwargs)
            return await run(connection, fn, *args, **kwargs)  # which tells that it is closed
        fn = getattr(kept.real, name)
    text = args[0] if args and isinstance(args[0], str) else None
    keep: Keep | None = None
    inner = getattr(fn, "__self__", None)
    answers = session.keeps_cursors and session.instrument.cache and READING.get() is None
    if answers and text is not None and name == "execute" and isinstance(inner, sqlite3.Connection):
        found, keep = await _look_up(session, connection, inner, text, _plain(args))
        if found is not None:
            return found
    if text is not None and session.armed:
        for each in list(session.armed):
            if each.is_armed:
                await _make_real(session, run, connection, each, "")
        session.armed.clear()
    return await _run(session, run, connection, fn, args, kwargs, keep)


async def _look_up(
    session: SqliteSession, connection: Any, inner: sqlite3.Connection, text: str, params: Any
) -> tuple[KeptCursor | None, Keep | None]:
    """(a cursor that replays the kept rows; else None, what keeps the rows that are read from now on)."""
    instrument = session.instrument
    optimizer = instrument.optimizer
    analysis = optimizer._analyses.analyse(text, params)
    made_by = inner.row_factory, inner.text_factory
    factories = _factories(instrument, connection)
    if not analysis.cacheable or factories is None or not session._is_plain():
        return None, None
    scope = instrument.scope_for((*session.place, *factories, "cursor"))
    if scope is None:
        return None, None
    if session.last_rowid is not None:
        kept = await optimizer.get_cached_result(text, params, scope)
        if kept is not None and session._is_plain() and session.last_rowid is not None:
            names, rows = kept
            again = params.copy() if isinstance(params, list | dict) else params
            found = KeptCursor(inner, text, again, names, rows, session.last_rowid)
            if found.is_armed:
                if session.armed is None:
                    session.armed = WeakSet()
                session.armed.add(found)
            return found, None
    try:
        key = optimizer._key(text, params, scope)
        hash(key)
    except (TypeError, ValueError, InvalidArgumentError):
        return None, None  # parameters that cannot be told apart
    invalidation = optimizer._invalidation
    if invalidation.relations.awaits_catalog:
        await invalidation.inform(analysis)
    # From here to the number that a write is compared with, nothing is awaited: a cursor that is opened
    # before this one, and whose snapshot this one shares, is then younger than that number.
    analysis = optimizer._analyses.analyse(text, params)
    if not (session.watches and session._is_plain() and optimizer._execution.may_keep(analysis, params)):
        return None, None
    ttl = optimizer._settings.cache_ttl if instrument.ttl is None else instrument.ttl
    call = Call(text, params, None, analysis, key, ttl, scope.database)
    return None, Keep(optimizer._execution.keeping(call), *made_by)


async def _make_real(session: SqliteSession, run: Any, connection: Any, kept: KeptCursor, name: str) -> None:
    """Let a real cursor take the place of ``kept``, for a call of its method ``name``, if of any."""
    if kept.real is not None:
        return
    inner = kept.connection
    # Meanwhile another task may take its rows, or close it, and needs no real one then.
    if kept.is_armed and name not in MANY:
        args = (kept.text,) if kept.params is None else (kept.text, kept.params)
        cursor = await _run(session, run, connection, inner.execute, args, {}, None)
        wanted: bool = kept.is_armed
    else:
        cursor = await run(connection, inner.cursor)
        wanted = not kept.is_closed
    if wanted and kept.real is None:
        kept.become(cursor)


async def _run(
    session: SqliteSession,
    run: Any,
    connection: Any,
    fn: Any,
    args: tuple[Any, ...],
    kwargs: Any,
    keep: Keep | None,
) -> Any:
    name = getattr(fn, "__name__", "")
    text = args[0] if args and isinstance(args[0], str) else None
    used: Any = getattr(fn, "__self__", None)
    on_cursor = isinstance(used, sqlite3.Cursor)
    fetches = on_cursor and name in _FETCHES
    optimizer = session.instrument.optimizer
    caches = session.instrument.cache
    params = _plain(args) if text is not None else None
    pending: list[Any] = [text, params, 0.0, keep]
    fetched = [False, False]
    keep_of_fetch: Keep | None = None
    opened = session.cursors.get(used) if fetches else None
    if opened is not None:
        keep_of_fetch, opened[3] = opened[3], None  # rows are kept of a first fetch that takes all of them
    # While nothing is answered, nobody asks for the rowid; unknown is then right, and needs no analysis.
    changes_no_rowid = name in _NO_ROWID or (
        caches
        and text is not None
        and name == "_execute_fetchall"
        and optimizer._analyses.analyse(text).cacheable
    )

    def noted(result: Any) -> None:  # in the connection's thread
        if fetches:
            if caches:
                fetched[:] = is_over(used), keep_of_fetch is not None and keep_of_fetch.makes_rows_of(used)
            return
        cursor = used if on_cursor else result
        if name == "execute" and result is not None and isinstance(cursor, sqlite3.Cursor):
            session.last_rowid = cursor.lastrowid
            if cursor.description is not None:
                session.cursors[cursor] = pending
            if keep is not None and not keep.makes_rows_of(cursor):
                pending[3] = None
        elif not changes_no_rowid:
            session.last_rowid = None

    timed = Timed(fn, optimizer._now, session.in_transaction, noted)

    async def call() -> Any:
        try:
            return await run(connection, timed, *args, **kwargs)
        except asyncio.CancelledError:
            session.abandon(timed)
            raise

    if name in _FETCHES:
        return await _fetch(session, name, used, timed, call, opened, keep_of_fetch, fetched)
    if text is not None and name == "_execute_fetchall":
        factories = _factories(session.instrument, connection) if caches else None
        if factories is not None:
            return await session.read(text, params, factories, call, timed.took)
        return await session.run(text, params, call, took=timed.took)
    if text is not None and name in ("execute", "_execute_insert"):
        if on_cursor:
            session.cursors.pop(used, None)  # its old rows are gone
        result = await session.run(text, params, call, took=timed.took)
        pending[2] += timed.seconds * 1000
        if timed.inside:
            pending[3] = None
        if session.open is not None:
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
        if isinstance(used, sqlite3.Cursor):
            session.cursors.pop(used, None)
            return await call()
        try:
            return await call()
        finally:
            in_background_if(session.was_closed())
    if name not in _HARMLESS:
        session.is_altered = True  # a function, a collation, an extension
    return await call()


async def _fetch(
    session: SqliteSession,
    name: str,
    cursor: Any,
    timed: Timed,
    call: Run,
    pending: list[Any] | None,
    keep: Keep | None,
    fetched: list[bool],
) -> Any:
    """``fetched`` tells after the call whether no rows are left, and whether ``keep`` may have them."""
    rows = await call()
    over, may_keep = fetched
    if session.cursors.get(cursor) is not pending:
        pending = None  # the cursor was used for another query, or closed
    if pending is not None:
        before = pending[2]
        pending[2] += timed.seconds * 1000
        is_alone = len(session.cursors) == 1 and cursor in session.cursors
        if name == "fetchall" or not rows or over:
            session.cursors.pop(cursor, None)
        text, params, after, _ = pending
        if session.watches:
            optimizer = session.instrument.optimizer
            call_made = Call(text, params, None, optimizer._analyses.analyse(text), None)
            count = len(rows) if isinstance(rows, list) else int(rows is not None)
            optimizer._recorder.lengthen(call_made, before, after, count)
            may_keep = may_keep and over and is_alone and not timed.inside and session.instrument.cache
            if keep is not None and may_keep and session._is_plain():
                taken = rows if name != "fetchone" else [] if rows is None else [rows]
                keep.keep((tuple([column[0] for column in cursor.description]), taken))
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
    session.keeps_cursors = True

    class Watched(base):  # type: ignore[misc]
        __doc__ = base.__doc__
        phase4_instrument = instrument

        def _execute(self, *args: Any, **kwargs: Any) -> Any:
            if not session.watches:
                return base._execute(self, *args, **kwargs)
            return watch(session, "", base._execute, self, args, kwargs)

    Watched.__name__, Watched.__qualname__, Watched.__module__ = (
        base.__name__, base.__qualname__, base.__module__,
    )  # fmt: skip
    obj.__class__ = Watched


def detach(obj: Any, instrument: Instrument) -> None:
    obj.__class__ = instrument.details["class"]
