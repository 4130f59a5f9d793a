"""Watches the async engines of SQLAlchemy 2, by its events.

Its event of a commit comes before the commit, when others would still read, and cache, the old rows. So the
dialect's commit and rollback are wrapped; no events exist for what follows them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from sqlalchemy import event  # type: ignore[import-not-found,unused-ignore]
from sqlalchemy.ext.asyncio import AsyncEngine  # type: ignore[import-not-found,unused-ignore]
from sqlalchemy.util import await_only  # type: ignore[import-not-found,unused-ignore]
from sqlalchemy.util.concurrency import in_greenlet  # type: ignore[import-not-found,unused-ignore]

from bot.core.query_optimizer.instruments.watching import Instrument, Session, in_background_if

ANSWERS = False

_ENDS = ("do_commit", "do_rollback", "do_commit_twophase", "do_rollback_twophase")


class EngineSession(Session):
    """One database connection of an engine: a transaction is open from its first statement to its end."""

    __slots__ = ("is_inside", "started")

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument, lambda: self.is_inside)
        self.is_inside = False
        self.started = 0.0

    def ended(self) -> Awaitable[Any] | None:
        self.is_inside = False
        return self.settled()


class Listeners:
    """What listens to one engine."""

    def __init__(self, engine: Any, instrument: Instrument) -> None:
        self._engine = engine
        self._instrument = instrument
        self._key = f"phase4_instrument_{instrument.number}"
        self._replaced: list[str] = []
        self._listening = (
            ("before_cursor_execute", self._before),
            ("after_cursor_execute", self._after),
            ("handle_error", self._failed),
            ("invalidate", self._gone),
            ("close", self._gone),
        )

    def listen(self) -> None:
        for name, function in self._listening:
            event.listen(self._engine, name, function)
        dialect = self._engine.dialect
        for name in _ENDS:
            setattr(dialect, name, self._ending(getattr(dialect, name)))

    def stop(self) -> None:
        for name, function in self._listening:
            event.remove(self._engine, name, function)
        for name in _ENDS:
            # The method of its class shows again.
            self._engine.dialect.__dict__.pop(name, None)

    def _session(self, info: dict[str, Any]) -> EngineSession:
        found: EngineSession | None = info.get(self._key)
        if found is None:
            found = info[self._key] = EngineSession(self._instrument)
        return found

    # A failure of these would be one of the user's query; they only look at what they are given.

    def _before(
        self, connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        session = self._session(connection.info)
        if session.watches:
            session.wrote_in_part(statement)  # whatever comes of it, the end of the transaction drops it
            session.is_inside = True
            session.started = self._instrument.optimizer._now()

    def _after(
        self, connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        session = self._session(connection.info)
        if session.watches:
            rows = cursor.rowcount if isinstance(cursor.rowcount, int) else 0
            params = None if many or not parameters else parameters
            _tell(session.answered(statement, params, session.started, max(rows, 0), is_one=not many))

    def _failed(self, context: Any) -> None:
        connection, statement = context.connection, context.statement
        if connection is None or statement is None or connection.invalidated or connection.closed:
            return
        session = self._session(connection.info)
        if session.watches:
            _tell(session.failed(statement, context.original_exception))

    def _gone(self, dbapi_connection: Any, record: Any, *_: Any) -> None:
        session = record.info.get(self._key)
        if session is not None and _in_loop():  # else nobody can be told; it was rolled back before
            session.is_inside = False
            _tell(session.was_closed())

    def _ending(self, original: Any) -> Any:
        def end(connection: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return original(connection, *args, **kwargs)
            finally:
                session = _info(connection).get(self._key)
                if session is not None and _in_loop():
                    _tell(session.ended())

        return end


def _info(connection: Any) -> dict[str, Any]:
    """What is kept with a connection; nothing with one on which SQLAlchemy first tries a dialect."""
    try:
        info: dict[str, Any] = connection.info
    except (AttributeError, NotImplementedError):
        return {}
    return info


def _in_loop() -> bool:
    """Whether an event loop runs: an engine may also be disposed of after it."""
    return asyncio._get_running_loop() is not None


def _tell(told: Awaitable[Any] | None) -> None:
    if told is None:
        return
    if in_greenlet():
        await_only(told)
    else:
        in_background_if(told)


def target(obj: Any) -> Any:
    return obj.sync_engine if isinstance(obj, AsyncEngine) else None


def attach(obj: Any, instrument: Instrument) -> None:
    instrument.details = Listeners(obj, instrument)
    instrument.details.listen()
    obj.phase4_instrument = instrument


def detach(obj: Any, instrument: Instrument) -> None:
    instrument.details.stop()
    del obj.phase4_instrument
