"""Watches the connections of psycopg 3, and the pools of psycopg_pool.

The class of a connection, and that of its cursors, is replaced by a subclass. Whatever a connection does
passes its ``wait``, also the commit of a ``transaction()`` block, so that is where transactions are seen to
end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.pq import TransactionStatus

from bot.core._shared.errors import MisuseError
from bot.core.query_optimizer.instruments.watching import Instrument, Session, in_background_if

ANSWERS = False

_OUTSIDE = (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)


def _text(query: Any, connection: Any) -> str | None:
    """The text of what psycopg takes for a query; None if it is none, which psycopg refuses."""
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode("utf-8", "replace")
    if isinstance(query, sql.Composable):
        return query.as_string(connection)
    return None


def session_of(connection: Any, instrument: Instrument) -> Session:
    return Session(instrument, lambda: connection.pgconn.transaction_status not in _OUTSIDE)


def _session(connection: Any, instrument: Instrument) -> Session:
    found = instrument.sessions.get(connection)
    if found is None:
        found = instrument.sessions[connection] = session_of(connection, instrument)
    return found


def _watched_connection(base: Any, instrument: Instrument) -> Any:
    class Watched(base):  # type: ignore[misc]
        __doc__ = base.__doc__
        phase4_instrument = instrument

        async def wait(self, *args: Any, **kwargs: Any) -> Any:
            session = _session(self, instrument)
            if session.watches:
                session.before()
            try:
                return await super().wait(*args, **kwargs)
            finally:
                if session.watches and (told := session.settled()) is not None:
                    await asyncio.shield(told)

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            made = super().cursor(*args, **kwargs)
            kind = type(made)
            if isinstance(made, AsyncCursor):
                known = instrument.details["cursors"]
                if kind not in known:
                    known[kind] = _watched_cursor(kind, instrument)
                made.__class__ = known[kind]
            return made

        async def close(self) -> None:
            try:
                await super().close()
            finally:
                in_background_if(_session(self, instrument).was_closed())

    return _like(Watched, base)


def _watched_cursor(base: Any, instrument: Instrument) -> Any:
    class Watched(base):  # type: ignore[misc]
        __slots__ = ()
        __doc__ = base.__doc__

        async def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
            session = _session(self._conn, instrument)
            text = _text(query, self._conn) if session.watches else None
            if text is None:
                return await super().execute(query, params, **kwargs)
            run = super().execute
            return await session.run(text, params, lambda: run(query, params, **kwargs), rows=_rows)

        async def executemany(self, query: Any, params_seq: Any, **kwargs: Any) -> Any:
            session = _session(self._conn, instrument)
            text = _text(query, self._conn) if session.watches else None
            if text is None:
                return await super().executemany(query, params_seq, **kwargs)
            run = super().executemany
            return await session.run(text, None, lambda: run(query, params_seq, **kwargs), is_one=False)

        async def stream(self, query: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            session = _session(self._conn, instrument)
            text = _text(query, self._conn) if session.watches else None
            if text is not None:
                session.wrote_in_part(text)
            try:
                async for row in super().stream(query, *args, **kwargs):
                    yield row
            finally:
                if text is not None and (told := session.settled()) is not None:
                    in_background_if(told)

        def copy(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
            session = _session(self._conn, instrument)
            text = _text(statement, self._conn) if session.watches else None
            if text is not None:
                session.wrote_in_part(text)
            return super().copy(statement, *args, **kwargs)

    return _like(Watched, base)


def _rows(cursor: Any) -> int:
    return max(int(cursor.rowcount), 0)


def _like(made: Any, base: Any) -> Any:
    made.__name__, made.__qualname__, made.__module__ = base.__name__, base.__qualname__, base.__module__
    return made


def _pool_type() -> tuple[Any, ...]:
    """The class of psycopg's pools, if its module is in use."""
    module = sys.modules.get("psycopg_pool")
    return () if module is None else (module.AsyncConnectionPool,)


def target(obj: Any) -> Any:
    return obj if isinstance(obj, (AsyncConnection, *_pool_type())) else None


def attach(obj: Any, instrument: Instrument) -> None:
    details = instrument.details = {"cursors": {}, "pool": isinstance(obj, _pool_type())}
    if not details["pool"]:
        details["class"] = type(obj)
        obj.__class__ = _watched_connection(type(obj), instrument)
        return
    if not hasattr(obj, "connection_class") or not hasattr(obj, "_pool"):
        raise MisuseError("this version of psycopg_pool hides the connections of a pool")
    plain = details["class"] = obj.connection_class
    details["watched"] = obj.connection_class = _watched_connection(plain, instrument)
    obj.phase4_instrument = instrument
    base: Any = type(obj)
    details["pool_class"] = base

    class WatchedPool(base):  # type: ignore[misc]
        __doc__ = base.__doc__

        async def getconn(self, *args: Any, **kwargs: Any) -> Any:
            connection = await super().getconn(*args, **kwargs)
            if type(connection) is plain:
                connection.__class__ = details["watched"]
            return connection

    obj.__class__ = _like(WatchedPool, base)
    for connection in obj._pool:
        if type(connection) is plain:
            connection.__class__ = details["watched"]


def detach(obj: Any, instrument: Instrument) -> None:
    details = instrument.details
    if not details["pool"]:
        obj.__class__ = details["class"]
        return
    obj.connection_class = details["class"]
    obj.__class__ = details["pool_class"]
    del obj.phase4_instrument
    for connection in obj._pool:
        if type(connection) is details["watched"]:
            connection.__class__ = details["class"]
