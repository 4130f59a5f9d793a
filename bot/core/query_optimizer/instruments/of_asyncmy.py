"""Watches the pools and connections of asyncmy.

A connection's class is replaced by a subclass of it, which makes cursors of a subclass, too. Its
``query_callback`` does not serve: it is given neither parameters nor errors.
"""

from __future__ import annotations

from typing import Any

from asyncmy.connection import Connection
from asyncmy.pool import Pool

from bot.core._shared.errors import MisuseError
from bot.core.query_optimizer.instruments.watching import Instrument, Session, in_background_if

ANSWERS = False

_SETTLING = ("commit", "rollback", "begin", "autocommit")


class _Cursors:
    """The classes of cursors that tell what they run, by the class that each is made of."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def of(self, base: Any) -> Any:
        if base not in self._known:
            self._known[base] = _cursor_class(base)
        return self._known[base]


def _cursor_class(base: Any) -> Any:
    class Watched(base):  # type: ignore[misc]
        __doc__ = base.__doc__
        phase4_session: Any = None
        phase4_depth = 0
        """Calls in progress: the inner ones are parts of the first."""

        async def _phase4_run(self, text: Any, params: Any, call: Any, *, is_one: bool) -> Any:
            session = self.phase4_session
            if self.phase4_depth or session is None or not session.watches or not isinstance(text, str):
                return await call()
            self.phase4_depth += 1
            try:
                return await session.run(
                    text, params, call, is_one=is_one, rows=lambda _: max(int(self.rowcount or 0), 0)
                )
            finally:
                self.phase4_depth -= 1

        async def execute(self, query: Any, args: Any = None) -> Any:
            return await self._phase4_run(query, args, lambda: base.execute(self, query, args), is_one=True)

        async def executemany(self, query: Any, args: Any) -> Any:
            return await self._phase4_run(
                query, None, lambda: base.executemany(self, query, args), is_one=False
            )

        async def callproc(self, procname: Any, args: Any = ()) -> Any:
            return await self._phase4_run(
                f"CALL {procname}()", None, lambda: base.callproc(self, procname, args), is_one=False
            )

    Watched.__name__, Watched.__qualname__, Watched.__module__ = (
        base.__name__, base.__qualname__, base.__module__,
    )  # fmt: skip
    return Watched


_cursors = _Cursors()


def session_of(connection: Any, instrument: Instrument) -> Session:
    def in_transaction() -> bool:
        return bool(connection.connected) and bool(connection.get_transaction_status())

    return Session(instrument, in_transaction)


def watched_cursor(made: Any, session: Session) -> Any:
    """The cursor ``made`` as one that tells what it runs."""
    cursor = _cursors.of(type(made))(made.connection, made._echo, made._query_callback)
    cursor.phase4_session = session
    return cursor


class _WatchedStatement:
    """A prepared statement that tells what it runs; otherwise as the driver's own."""

    __slots__ = ("_session", "_statement", "_text")

    def __init__(self, statement: Any, text: str, session: Session) -> None:
        self._statement = statement
        self._text = text
        self._session = session

    async def execute(self, args: Any = ()) -> Any:
        statement, session = self._statement, self._session
        if not session.watches:
            return await statement.execute(args)
        return await session.run(self._text, tuple(args), lambda: statement.execute(args), rows=_rows)

    async def __aenter__(self) -> _WatchedStatement:
        await self._statement.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._statement.__aexit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._statement, name)


def _rows(result: Any) -> int:
    rows = getattr(result, "rows", None)
    return len(rows) if rows is not None else 0


def watched_statement(statement: Any, text: Any, session: Session) -> Any:
    """``statement``, prepared from ``text``, as one that tells what it runs."""
    return _WatchedStatement(statement, text, session) if isinstance(text, str) else statement


def watched_class(base: Any, instrument: Instrument) -> Any:
    """A subclass of a class of connections, whose cursors tell ``instrument`` what they run."""

    class Watched(base):  # type: ignore[misc]
        __slots__ = ()
        __doc__ = base.__doc__
        phase4_instrument = instrument

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            return watched_cursor(super().cursor(*args, **kwargs), _session(self, instrument))

        async def prepare(self, query: Any) -> Any:
            return watched_statement(await super().prepare(query), query, _session(self, instrument))

        async def ensure_closed(self) -> None:
            try:
                await super().ensure_closed()
            finally:
                in_background_if(_session(self, instrument).was_closed())

    def settling(name: str) -> Any:
        original = getattr(base, name)

        async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            session = _session(self, instrument)
            if not session.watches:
                return await original(self, *args, **kwargs)
            return await session.settling(lambda: original(self, *args, **kwargs))

        return call

    for name in _SETTLING:
        setattr(Watched, name, settling(name))
    Watched.__name__, Watched.__qualname__, Watched.__module__ = (
        base.__name__, base.__qualname__, base.__module__,
    )  # fmt: skip
    return Watched


def _session(connection: Any, instrument: Instrument) -> Session:
    found = instrument.sessions.get(connection)
    if found is None:
        found = instrument.sessions[connection] = session_of(connection, instrument)
    return found


def target(obj: Any) -> Any:
    return obj if isinstance(obj, Connection | Pool) else None


def attach(obj: Any, instrument: Instrument) -> None:
    instrument.details = {"class": type(obj), "pool": isinstance(obj, Pool)}
    if not instrument.details["pool"]:
        obj.__class__ = watched_class(type(obj), instrument)
        return
    if not hasattr(obj, "_free") or not hasattr(obj, "_used"):
        raise MisuseError("this version of asyncmy hides the connections of a pool")
    base: Any = type(obj)

    class WatchedPool(base):  # type: ignore[misc]
        __doc__ = base.__doc__
        phase4_instrument = instrument

        async def _acquire(self) -> Any:
            connection = await base._acquire(self)
            watch_connection(connection, instrument)
            return connection

    WatchedPool.__name__, WatchedPool.__qualname__, WatchedPool.__module__ = (
        base.__name__, base.__qualname__, base.__module__,
    )  # fmt: skip
    obj.__class__ = WatchedPool
    for connection in (*obj._free, *obj._used):
        watch_connection(connection, instrument)


def watch_connection(connection: Any, instrument: Instrument) -> None:
    if getattr(connection, "phase4_instrument", None) is None:
        connection.__class__ = watched_class_of(type(connection), instrument)


def watched_class_of(base: Any, instrument: Instrument) -> Any:
    """The one class that connections of this class get."""
    known = instrument.details.setdefault("classes", {})
    if base not in known:
        known[base] = watched_class(base, instrument)
    return known[base]


def detach(obj: Any, instrument: Instrument) -> None:
    obj.__class__ = instrument.details["class"]
    if instrument.details["pool"]:
        plain = {watched: base for base, watched in instrument.details.get("classes", {}).items()}
        for connection in (*obj._free, *obj._used):
            if type(connection) in plain:
                connection.__class__ = plain[type(connection)]
