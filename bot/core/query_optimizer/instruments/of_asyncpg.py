"""Watches the pools and connections of asyncpg.

A connection's class is replaced by a subclass of it, whose public methods tell the optimizer what they run.
asyncpg's query loggers do not serve: they are called in a later iteration of the event loop, when others may
have read what was written, and out of the caller's task.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import asyncpg
from asyncpg.pool import Pool, PoolConnectionProxy
from asyncpg.prepared_stmt import PreparedStatement

from bot.core._shared.errors import MisuseError
from bot.core.query_optimizer.instruments.watching import Instrument, Session, in_background

ANSWERS = True

_READS = frozenset(("fetch", "fetchrow", "fetchval"))
_RUNS = ("execute", "executemany", "fetch", "fetchrow", "fetchval", "fetchmany", "copy_from_query")
_COPIES_IN = ("copy_to_table", "copy_records_to_table")
_MANY = frozenset(("executemany", "fetchmany"))
_CODECS = ("set_type_codec", "reset_type_codec", "set_builtin_type_codec")


async def watch(session: Session, name: str, original: Any, target: Any, args: Any, kwargs: Any) -> Any:
    """Make a call of a connection, a pool's lease or a prepared statement; ``original`` is its method."""

    def call() -> Awaitable[Any]:
        return original(target, *args, **kwargs)  # type: ignore[no-any-return]

    if isinstance(target, PreparedStatement):
        if name not in _RUNS:
            return await call()  # of a cursor, which wrote_in_part has seen
        text = target.get_query()
        return await session.run(text, args, call, is_one=name not in _MANY)
    if name in _COPIES_IN:
        return await session.run(_copy(args, kwargs), None, call, is_one=False)
    text, params = _text_and_params(args, kwargs)
    if name not in _RUNS or not isinstance(text, str):
        if name in _CODECS:
            session.is_altered = True
        return await call()
    if name in _MANY:
        return await session.run(text, None, call, is_one=False)
    if name in _READS and session.instrument.cache and not _unusual(kwargs):
        return await session.read(text, params, (name, _column(kwargs)), call)
    return await session.run(text, params, call)


def _text_and_params(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    if args:
        return args[0], args[1:]
    return kwargs.get("query", kwargs.get("command")), ()


def _unusual(kwargs: dict[str, Any]) -> bool:
    """Whether a call has its own kind of rows, or its own limit of time, which others must not wait for."""
    return any(value is not None for name, value in kwargs.items() if name not in ("column", "query"))


def _column(kwargs: dict[str, Any]) -> Hashable:
    column = kwargs.get("column", 0)
    return column if type(column) in (int, str) else repr(column)


def _copy(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """A text that writes what a COPY into a table writes."""
    table = args[0] if args else kwargs.get("table_name")
    schema = kwargs.get("schema_name")
    parts = [part for part in (schema, table) if part is not None]
    return f"COPY {'.'.join(_quoted(str(part)) for part in parts)} FROM STDIN"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def session_of(connection: Any, instrument: Instrument, *, is_altered: bool = False) -> Session:
    """A session for a connection of asyncpg."""

    def in_transaction() -> bool:
        return not connection.is_closed() and connection.is_in_transaction()

    return Session(instrument, in_transaction, place_of(connection), is_altered=is_altered)


def place_of(connection: Any) -> tuple[Hashable, ...]:
    """Whose view of which database a connection has, as far as it was told when it was opened."""
    params = connection._params
    settings = sorted((getattr(params, "server_settings", None) or {}).items())
    told = [f"{name}={value}" for name, value in settings]
    return (str(connection._addr), str(params.database), str(params.user), *told)


# Classes.


def _session(connection: Any, instrument: Instrument) -> Session:
    found = instrument.sessions.get(connection)
    if found is None:
        found = instrument.sessions[connection] = session_of(connection, instrument)
        if instrument.details["pool"]:
            instrument.details["session"] = Session(instrument, lambda: False, found.place)
    return found


def _watched_method(name: str, original: Any, instrument: Instrument) -> Any:
    runs_one = name in _RUNS and name not in _MANY
    reads, usual = name in _READS, (name, 0)
    sessions, of_pool = instrument.sessions.by_id, instrument.details["pool"]

    @functools.wraps(original)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not (instrument.is_on and instrument.optimizer._enabled):
            return await original(self, *args, **kwargs)
        session = sessions.get(id(self)) or _session(self, instrument)
        if session.is_resetting or (of_pool and self._proxy is None):
            # Without a lease it is the pool's own call, which prepares or resets the connection.
            return await original(self, *args, **kwargs)
        if runs_one and args and args[0].__class__ is str:
            # What watch and Session.run do, without their questions: most calls come here.
            if not (reads and instrument.cache):
                text, params = args[0], args[1:]
                if session.open is None:
                    session.before()
                start = instrument.optimizer._now()
                try:
                    result = await original(self, *args, **kwargs)
                except BaseException as error:
                    session.broke(text, params, start, error)
                    raise
                if instrument.is_on and instrument.optimizer._enabled and not session.is_resetting:
                    rows = len(result) if result.__class__ is list else 0
                    told = session.answered(text, params, start, rows)
                    if told is not None:
                        await asyncio.shield(told)
                return result
            if not kwargs:
                return await session.read(args[0], args[1:], usual, functools.partial(original, self, *args))
        return await watch(session, name, original, self, args, kwargs)

    return call


def watched_class(base: Any, instrument: Instrument) -> Any:
    """A subclass of a class of connections, whose instances tell ``instrument`` what they run."""

    class Watched(base):  # type: ignore[misc]
        __slots__ = ()
        __doc__ = base.__doc__
        phase4_instrument = instrument

        def cursor(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            session = _session(self, instrument)
            if session.watches and isinstance(query, str):
                session.wrote_in_part(query)
            return super().cursor(query, *args, **kwargs)

        async def prepare(self, *args: Any, **kwargs: Any) -> Any:
            statement = await super().prepare(*args, **kwargs)
            kind = type(statement)
            if kind is PreparedStatement:
                statement.__class__ = _statement_class(kind, instrument)
            return statement

        async def reset(self, *args: Any, **kwargs: Any) -> None:
            session = _session(self, instrument)
            session.is_resetting = True
            try:
                await super().reset(*args, **kwargs)
            finally:
                # It stays altered: a reset leaves temporary tables and the role, for example.
                session.is_resetting = False
                if session.watches and (told := session.settled()) is not None:
                    in_background(told)

    for name in (*_RUNS, *_COPIES_IN, *_CODECS):
        original = getattr(base, name, None)
        if inspect.iscoroutinefunction(original):
            setattr(Watched, name, _watched_method(name, original, instrument))
    Watched.__name__ = base.__name__
    Watched.__qualname__ = base.__qualname__
    Watched.__module__ = base.__module__
    return Watched


def _statement_class(base: Any, instrument: Instrument) -> Any:
    known = instrument.details["statements"]
    if base not in known:
        methods: dict[str, Any] = {"__slots__": (), "__module__": base.__module__, "__doc__": base.__doc__}
        for name in _RUNS:
            if hasattr(base, name):
                methods[name] = _statement_method(name, getattr(base, name), instrument)

        def cursor(self: Any, *args: Any, **kwargs: Any) -> Any:
            session = _session(self._connection, instrument)
            if session.watches:
                session.wrote_in_part(self.get_query())
            return base.cursor(self, *args, **kwargs)

        methods["cursor"] = functools.wraps(base.cursor)(cursor)
        known[base] = type(base.__name__, (base,), methods)
    return known[base]


def _statement_method(name: str, original: Any, instrument: Instrument) -> Any:
    @functools.wraps(original)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        session = _session(self._connection, instrument)
        if not session.watches:
            return await original(self, *args, **kwargs)
        return await watch(session, name, original, self, args, kwargs)

    return call


def _pool_class(base: Any, instrument: Instrument) -> Any:
    """A subclass of a class of pools that answers reads without a connection."""

    class WatchedPool(base):  # type: ignore[misc]
        __slots__ = ()
        __doc__ = base.__doc__
        phase4_instrument = instrument

    def reading(name: str) -> Callable[..., Any]:
        original = getattr(base, name)

        @functools.wraps(original)
        async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            session: Session | None = instrument.details["session"]
            text, params = _text_and_params(args, kwargs)
            if (
                session is None
                or not (session.watches and instrument.cache)
                or not isinstance(text, str)
                or _unusual(kwargs)
            ):
                return await original(self, *args, **kwargs)
            variant = (name, _column(kwargs))
            return await session.read_through(text, params, variant, lambda: original(self, *args, **kwargs))

        return call

    for name in _READS:
        setattr(WatchedPool, name, reading(name))
    WatchedPool.__name__ = base.__name__
    WatchedPool.__qualname__ = base.__qualname__
    WatchedPool.__module__ = base.__module__
    return WatchedPool


# On and off.


def target(obj: Any) -> Any:
    if isinstance(obj, PoolConnectionProxy):
        return obj._con
    return obj if isinstance(obj, asyncpg.Connection | Pool) else None


def attach(obj: Any, instrument: Instrument) -> None:
    is_pool = isinstance(obj, Pool)
    instrument.details = {"statements": {}, "pool": is_pool, "class": type(obj), "session": None}
    if not is_pool:
        obj.__class__ = watched_class(type(obj), instrument)
        return
    if not hasattr(obj, "_connection_class") or not hasattr(obj, "_holders"):
        raise MisuseError(f"this version of asyncpg ({asyncpg.__version__}) hides the connections of a pool")
    plain = instrument.details["plain"] = obj._connection_class
    watched = instrument.details["watched"] = watched_class(plain, instrument)
    obj._connection_class = watched
    obj.__class__ = _pool_class(type(obj), instrument)
    for holder in obj._holders:
        if holder._con is not None and type(holder._con) is plain:
            holder._con.__class__ = watched


def detach(obj: Any, instrument: Instrument) -> None:
    obj.__class__ = instrument.details["class"]
    if not instrument.details["pool"]:
        return
    plain, watched = instrument.details["plain"], instrument.details["watched"]
    if obj._connection_class is watched:
        obj._connection_class = plain
    for holder in obj._holders:
        if holder._con is not None and type(holder._con) is watched:
            holder._con.__class__ = plain
