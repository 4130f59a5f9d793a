"""PostgreSQL by asyncpg.

A connection notes what runs on it (see ``session_state``), so that only one that may have changed its
session is reset. Transactions are not guessed from text: the protocol reports them after every command.
Functions and triggers could change the session unseen; each new connection asks the catalog whether the
database holds any that might, and if so every lease is reset.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from asyncio import current_task
from types import SimpleNamespace
from typing import Any

from bot.core._shared.demotion import postgresql_needs_another_server
from bot.core.connection_pool_manager.drivers import session_state
from bot.core.connection_pool_manager.drivers.base import (
    hard_close,
    import_driver,
    keep_alive,
    references,
)
from bot.core.connection_pool_manager.drivers.replicated import ReplicatedDriver
from bot.core.connection_pool_manager.drivers.url_options import postgresql_options
from bot.core.connection_pool_manager.guard import Guard, guarded_methods
from bot.core.connection_pool_manager.models import PoolSpec
from bot.core.connection_pool_manager.pool import Slot, Verdict
from bot.core.phase4_config.connection_pools import SCHEMES

_classify = session_state.Classifier(session_state.classify_postgresql)
_new: Any = object.__new__
_set_own = object.__setattr__

CANCEL_TIMEOUT = 10.0
"""Seconds for having the server cancel a statement; then the connection is closed."""
_READ_ONLY_TRANSACTION = "25006"
_CONFUSED = "InternalClientError"
"""asyncpg's error when its protocol is in another state than it should be."""
_IS_PRIMARY = (
    "SELECT NOT pg_catalog.pg_is_in_recovery()"
    " AND pg_catalog.current_setting('transaction_read_only') = 'off'"
)

_RESET = (
    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; UNLISTEN *; "
    "SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
)


# What each public method of a connection may leave behind. A method that is not listed, of a later version of
# asyncpg, counts as one whose effect only a new connection undoes.
_TAKES_SQL = (
    "execute", "executemany", "fetch", "fetchval", "fetchrow", "fetchmany", "copy_from_query", "prepare",
)  # fmt: skip
_CLEAN = {
    "transaction", "is_in_transaction", "is_closed", "close", "terminate", "reset", "get_reset_query",
    "get_server_pid", "get_server_version", "get_settings", "reload_schema_state", "remove_listener",
    "remove_log_listener", "remove_termination_listener", "remove_query_logger",
}  # fmt: skip
_CLEAN_AND_SLOW = ("copy_from_table", "copy_to_table", "copy_records_to_table")
# These return an object that may still be at work when its lease ends; the reset finds out.
_RESETS = ("add_listener", "add_log_listener")


_CONNECTION, _VIEW, _PART = range(3)
"""Whose method it is: a connection's, a lease's view of one, or that of a statement or cursor."""


def _tracked(name: str, original: Any, owner: int) -> Any:
    """``original``, which also notes what runs, for how long it may, and what its error says about the
    server.

    All in one coroutine and without a timer, since every query of a bot pays for it. ``timeout=`` is the
    caller's own limit; without one the pool ends the call after ``query_timeout``, by cancelling its task as
    ``asyncio.timeout`` does, on which asyncpg has the server cancel the statement.
    """
    takes_sql = owner != _PART and name in _TAKES_SQL
    prepares = name == "prepare"

    @functools.wraps(original)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if owner == _VIEW:
            guard = self.phase4_guard
            if guard.ended:
                raise guard.error(repr(name))
            raw = target = guard.raw
        else:
            raw = self if owner == _CONNECTION else self._connection
            target, guard = self, raw.phase4_guard
        if takes_sql:
            raw.phase4_note(args[0] if args else kwargs.get("query", kwargs.get("command")))
        is_first = not raw.phase4_busy  # else it is part of another call, or refused because of one
        raw.phase4_busy += 1
        if is_first:
            raw.phase4_calls += 1
            raw.phase4_task = task = current_task()
            raw.phase4_cancels = task.cancelling()  # type: ignore[union-attr]
            given = kwargs.get("timeout") if kwargs else None
            if owner == _PART and given is None:
                given = _limit_of(self)
            raw.phase4_limit_is_own = given is not None
        try:
            if raw.phase4_watch is None or not is_first or (owner == _CONNECTION and _is_ours(name, args)):
                result = await original(target, *args, **kwargs)
            else:
                result = await raw.phase4_watch.call(name, original, target, args, kwargs)
        except asyncio.CancelledError:
            # The server is asked to cancel it, which takes a moment; a reset waits for that.
            raw.phase4_taint = max(raw.phase4_taint, session_state.RESET)
            if is_first and raw.phase4_expired:
                raw.phase4_expired = False
                if raw.phase4_task.uncancel() <= raw.phase4_cancels:
                    raise guard.outcome(TimeoutError()) from None
            raise
        except Exception as error:
            if type(error).__name__ == _CONFUSED:
                raise _ended_by_server(raw) from error
            if isinstance(error, TimeoutError):
                raw.phase4_taint = max(raw.phase4_taint, session_state.RESET)
                driver = raw.phase4_driver
                if is_first and not raw.phase4_limit_is_own and driver is not None and driver.own_limit:
                    driver.report_timeout(guard)
            told = error if guard is None or not is_first else guard.outcome(error)
            if told is error:
                raise
            raise told from error
        finally:
            raw.phase4_busy -= 1
            if is_first:
                if raw.phase4_expired:  # it ended just when it was about to be ended
                    raw.phase4_expired = False
                    raw.phase4_task.uncancel()
                raw.phase4_task = None
        if prepares:
            raw.phase4_taint = max(raw.phase4_taint, session_state.RESET)
            result.__class__ = _part_classes()[0]
        return result

    return call


def _ended_by_server(raw: Any) -> Exception:
    """Close a connection whose protocol is in no state to be used, and say what happened.

    The server has said goodbye to it while it was idle (``pg_terminate_backend``, a restart), and has not
    hung up yet: asyncpg then takes no statement, sends nothing, and names the states of its protocol.
    """
    from asyncpg import ConnectionDoesNotExistError

    raw.terminate()
    error: Exception = ConnectionDoesNotExistError("the server has ended this connection")
    return error


def _is_ours(name: str, args: Any) -> bool:
    """Whether the driver itself calls a connection; its transactions do so for a lease."""
    return name != "execute" or args[:1] == (_RESET,)


def _limit_of(part: Any) -> Any:
    return getattr(part, "_timeout", None)


@functools.cache
def _part_classes() -> tuple[Any, Any]:
    """asyncpg's statements and cursors, tracked; of the same layout, so that theirs become these."""
    from asyncpg.cursor import Cursor, CursorFactory, CursorIterator
    from asyncpg.prepared_stmt import PreparedStatement

    def tracked(kind: Any, name: str, *methods: str) -> Any:
        made = {method: _tracked(method, getattr(kind, method), _PART) for method in methods}
        return type(name, (kind,), {"__slots__": (), "__module__": __name__, "__doc__": kind.__doc__, **made})

    cursor_class = tracked(Cursor, "TrackedCursor", "fetch", "fetchrow", "forward", "_init")
    iterator_class = tracked(CursorIterator, "TrackedCursorIterator", "__anext__")

    class TrackedCursorFactory(CursorFactory):  # type: ignore[misc]
        __slots__ = ()

        def __aiter__(self) -> Any:
            iterator = super().__aiter__()
            iterator.__class__ = iterator_class
            return iterator

        def __await__(self) -> Any:
            return open_cursor(self).__await__()

    async def opened(factory: Any) -> Any:
        cursor = await _Awaitable(CursorFactory.__await__(factory))
        cursor.__class__ = cursor_class
        return cursor

    open_cursor = _tracked("cursor", opened, _PART)
    executing = ("explain", "fetch", "fetchval", "fetchrow", "fetchmany", "executemany")
    base = tracked(
        PreparedStatement, "Statement", *[name for name in executing if hasattr(PreparedStatement, name)]
    )

    class TrackedStatement(base):  # type: ignore[misc,valid-type]
        __slots__ = ()

        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            if self._connection.phase4_watch is not None:
                self._connection.phase4_watch.began(self.get_query())
            factory = super().cursor(*args, **kwargs)
            factory.__class__ = TrackedCursorFactory
            return factory

    return TrackedStatement, TrackedCursorFactory


class _Awaitable:
    """Makes the result of an ``__await__`` awaitable."""

    def __init__(self, steps: Any) -> None:
        self.steps = steps

    def __await__(self) -> Any:
        return self.steps


@functools.cache
def _connection_class() -> Any:
    asyncpg: Any = import_driver("asyncpg", "asyncpg", "postgresql")

    class TrackedConnection(asyncpg.Connection):  # type: ignore[misc]
        """asyncpg's connection, noting whether its session may differ from a new one's.

        Every public method is replaced, and no private one, so that no statement passes unseen with another
        version of asyncpg.
        """

        phase4_taint = 0
        phase4_busy = 0
        """Calls in progress: if a lease ends during one, its connection cannot be used again."""
        phase4_driver: Any = None
        phase4_watch: Any = None
        phase4_read_only = False
        """The current lease asked for a transaction or session that is read-only."""
        phase4_guard: Any = None
        phase4_calls = 0
        phase4_task: Any = None
        """The task of the call in progress, and how often it had been cancelled when the call began."""
        phase4_cancels = 0
        phase4_limit_is_own = False
        """Whether the call in progress was given a ``timeout`` of its own."""
        phase4_expired = False
        """Whether the call in progress took too long, so that its task was cancelled."""

        async def _cancel(self, *args: Any) -> None:
            try:
                async with asyncio.timeout(CANCEL_TIMEOUT):
                    await super()._cancel(*args)
                    return
            except TimeoutError:
                pass
            self.terminate()

        def phase4_note(self, text: Any) -> None:
            found = _classify(text) if isinstance(text, str) else session_state.DISCARD
            if found:
                if found & session_state.ROUTINES and self.phase4_driver is not None:
                    self.phase4_driver.always_reset = True
                if found & session_state.READ_ONLY:
                    self.phase4_read_only = True
                self.phase4_taint = max(self.phase4_taint, found & 3)

        # asyncpg has its own pool forget everywhere what one connection has found to be out of date: after a
        # change of the schema one statement fails, and not one for each connection.

        def _drop_global_statement_cache(self) -> None:
            for connection in self._phase4_all():
                connection._drop_local_statement_cache()

        def _drop_global_type_cache(self) -> None:
            for connection in self._phase4_all():
                connection._drop_local_type_cache()

        def _phase4_all(self) -> list[Any]:
            return [self] if self.phase4_driver is None else list(self.phase4_driver.connections)

        def get_reset_query(self) -> str:
            # SESSION AUTHORIZATION first: the current role may lack the rights for the rest.
            return _RESET

        def cursor(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            self.phase4_note(query)
            self.phase4_taint = max(self.phase4_taint, session_state.RESET)
            if self.phase4_watch is not None:
                self.phase4_watch.began(query)
            factory = super().cursor(query, *args, **kwargs)
            factory.__class__ = _part_classes()[1]
            return factory

    def tainting(name: str, level: int) -> None:
        original = getattr(asyncpg.Connection, name)

        @functools.wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.phase4_taint = max(self.phase4_taint, level)
            return original(self, *args, **kwargs)

        setattr(TrackedConnection, name, call)

    for name in dir(asyncpg.Connection):
        if name.startswith("_") or name in _CLEAN or name == "cursor":
            continue
        original = getattr(asyncpg.Connection, name)
        if name in _TAKES_SQL or name in _CLEAN_AND_SLOW:
            setattr(TrackedConnection, name, _tracked(name, original, _CONNECTION))
        elif callable(original):
            tainting(name, session_state.RESET if name in _RESETS else session_state.DISCARD)
    return TrackedConnection


@functools.cache
def _view_class() -> Any:
    from asyncpg.connection import _ConnectionProxy  # has isinstance(view, asyncpg.Connection)

    base = _connection_class()

    class LeasedConnection(_ConnectionProxy):  # type: ignore[misc]
        """The connection as one lease sees it.

        Transactions, statements and cursors ask asyncpg's own counter of leases.
        """

        __slots__ = ("phase4_guard",)

        @property
        def phase4_connection(self) -> Any:
            return self.phase4_guard.raw

        def __getattr__(self, name: str) -> Any:
            self.phase4_guard.check(repr(name))
            return getattr(self.phase4_guard.raw, name)

        def __setattr__(self, name: str, value: Any) -> None:
            self.phase4_guard.check(repr(name))
            setattr(self.phase4_guard.raw, name, value)

        def __repr__(self) -> str:
            return f"<LeasedConnection {self.phase4_guard.raw!r}>"

    public = [name for name in dir(base) if not name.startswith(("_", "phase4_"))]
    for name, method in guarded_methods(base, "phase4_connection", public).items():
        setattr(LeasedConnection, name, method)
    original = import_driver("asyncpg", "asyncpg", "postgresql").Connection
    for name in (*_TAKES_SQL, *_CLEAN_AND_SLOW):
        if hasattr(original, name):
            setattr(LeasedConnection, name, _tracked(name, getattr(original, name), _VIEW))
    return LeasedConnection


class PostgresqlDriver(ReplicatedDriver):
    backend = "postgresql"
    schemes = SCHEMES["postgresql"]
    package = "asyncpg"
    extra = "asyncpg"
    takes_timeout = True
    held_by_pool: int | None = None

    def __init__(self, spec: PoolSpec) -> None:
        super().__init__(spec)
        self.always_reset = self.reset_mode == "always"
        self.connections: weakref.WeakSet[Any] = weakref.WeakSet()

    async def start(self) -> None:
        self._asyncpg = import_driver(self.package, self.extra, self.backend)
        options = postgresql_options(self.url)[1]
        self.options = {**options, **self.options}
        if (seconds := self.options.get("command_timeout")) is not None:
            self.own_limit = ("command_timeout", seconds)

    async def connect_to(self, place: str) -> Any:
        options = {"connection_class": _connection_class(), **self.options}
        # An attempt that times out must leave nothing behind: asyncpg's own timeout takes care of that.
        options.setdefault("timeout", self.spec.options.connect_timeout)
        if (password := await self.password()) is not None:
            options["password"] = password
        raw = await self._asyncpg.connect(postgresql_options(place)[0], **options)
        keep_alive(raw._transport)
        try:
            if self.reset_mode == "smart":
                self.always_reset = bool(await raw.fetchval(session_state.POSTGRESQL_SUSPECTS))
            raw.phase4_driver = self
            await self._prepare(raw)
        except BaseException:
            raw.terminate()
            raise
        self.connections.add(raw)
        return raw

    def let_watch(self, raw: Any) -> None:
        raw.phase4_watch = None if self.observer is None else self.observer(raw)

    async def _prepare(self, raw: Any) -> None:
        """Run the user's init; what it leaves is the state that later resets return to."""
        await self.prepare(raw)
        _forget_transaction(raw)
        if raw.is_in_transaction():
            await raw.execute("ROLLBACK")
        raw.phase4_taint = 0

    def view(self, raw: Any, guard: Guard) -> Any:
        raw.phase4_read_only = False
        raw.phase4_guard = guard
        view = _new(_view_class())
        _set_own(view, "phase4_guard", guard)
        return view

    def is_let_go(self, view: Any, guard: Guard) -> bool:
        # Bound methods and calls that are not over hold the view; statements, cursors and transactions ask
        # asyncpg's own counter of leases.
        if references is None:
            return False
        if self.held_by_pool is None:
            self.held_by_pool = self._held_by_pool()
        if references(view) + references(guard) != self.held_by_pool:
            return False
        guard.raw.phase4_read_only = False
        return True

    def _held_by_pool(self) -> int:
        """What is_let_go counts of what only a slot holds, asked in the same way."""

        def ask(view: Any, guard: Guard) -> int:
            assert references is not None
            return references(view) + references(guard)

        slot = Slot(SimpleNamespace(), 0)
        slot.guard = Guard(self, slot.raw)
        slot.view = self.view(slot.raw, slot.guard)
        return ask(slot.view, slot.guard)

    def is_demotion(self, error: BaseException, raw: Any) -> bool:
        code = None if self.spec.is_replica else getattr(error, "sqlstate", None)
        if not isinstance(code, str) or not postgresql_needs_another_server(code):
            return False
        return not (code == _READ_ONLY_TRANSACTION and raw.phase4_read_only)

    def adopt(self, spec: PoolSpec) -> bool:
        super().adopt(spec)
        self.always_reset = self.reset_mode != "never"  # with "smart", until the next connection has looked
        return True

    def call_in_progress(self, raw: Any, guard: Guard) -> Any:
        if raw.phase4_task is None or raw.phase4_limit_is_own or self.own_limit is not None:
            return None
        return int(raw.phase4_calls)

    def interrupt(self, raw: Any) -> None:
        if raw.phase4_expired:
            self.terminate(raw)  # its task was cancelled before, and went on
        elif raw.phase4_task is not None:
            raw.phase4_expired = True
            raw.phase4_task.cancel()

    def is_login_refused(self, error: BaseException) -> bool:
        return str(getattr(error, "sqlstate", "")).startswith("28")

    async def is_primary(self, raw: Any) -> bool | None:
        return bool(await raw.fetchval(_IS_PRIMARY))

    def is_open(self, raw: Any) -> bool:
        return not raw.is_closed()

    def verdict(self, raw: Any) -> Verdict:
        if raw.is_closed() or raw.phase4_busy:
            return Verdict.BROKEN
        # Statements, cursors and transactions of the lease that ends cannot be used by the next one.
        raw._pool_release_ctr += 1
        if raw.phase4_taint:
            if raw.phase4_taint == session_state.DISCARD:
                return Verdict.DISCARD
            if self.reset_mode != "never":
                return Verdict.RESET
        # The server may have no transaction where the client believes that one is open.
        if raw.is_in_transaction() or raw._top_xact is not None:
            return Verdict.RESET
        return Verdict.RESET if self.always_reset else Verdict.CLEAN

    async def ping(self, raw: Any) -> None:
        await raw.fetchval("SELECT 1")

    async def reset(self, raw: Any) -> None:
        _forget_transaction(raw)
        if raw.is_in_transaction():
            await raw.execute("ROLLBACK")
        if self.reset_mode != "never":
            await raw.reset()
            await self._prepare(raw)
        raw.phase4_taint = 0

    async def close(self, raw: Any) -> None:
        await raw.close()

    def terminate(self, raw: Any) -> None:
        hard_close(getattr(raw, "_transport", None))


# What asyncpg's own pool does with private attributes. An asyncpg without them raises AttributeError here,
# and the connection is then replaced after each lease: slow, and correct.


def _forget_transaction(raw: Any) -> None:
    raw._top_xact = None
