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
from typing import Any

from bot.core._shared.demotion import postgresql_needs_another_server
from bot.core.connection_pool_manager.drivers import session_state
from bot.core.connection_pool_manager.drivers.base import (
    Driver,
    hard_close,
    import_driver,
    keep_alive,
    without_driver,
)
from bot.core.connection_pool_manager.guard import Guard, guarded_methods
from bot.core.connection_pool_manager.models import PoolSpec
from bot.core.connection_pool_manager.pool import Verdict

_classify = session_state.Classifier(session_state.classify_postgresql)

# Functions outside the catalog schemas that may change the session of who calls them. Languages other
# than SQL and PL/pgSQL cannot be read, so theirs are suspected; C functions come with extensions, of
# which only dblink is known to keep state.
_SUSPECT_ROUTINES = r"""
SELECT EXISTS (
  SELECT 1 FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
  WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
    AND p.prokind IN ('f', 'p')
    AND CASE WHEN l.lanname IN ('sql', 'plpgsql') THEN
          CASE WHEN p.prosrc = '' THEN pg_catalog.pg_get_functiondef(p.oid) ELSE p.prosrc END
            ~* ('set_config|advisory|\mtemp|\mlisten\M|setseed|dblink|_to_xml|\mexecute\M|\mdiscard\M'
              || '|\mreset\M|\mload\M|\mprepare\M|(^|;|\m(begin|then|else|loop)\M)\s*set\M')
        WHEN l.lanname = 'c' THEN p.proname ~ '^dblink'
        WHEN l.lanname = 'internal' THEN p.prosrc ~* 'set_config|advisory|setseed'
        ELSE true END)
"""

_READ_ONLY_TRANSACTION = "25006"
_IS_PRIMARY = (
    "SELECT NOT pg_catalog.pg_is_in_recovery()"
    " AND pg_catalog.current_setting('transaction_read_only') = 'off'"
)

_RESET = (
    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; UNLISTEN *; "
    "SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
)


# What each public method of a connection may leave behind. One that is not listed here, of a later
# version of asyncpg, counts as one that only a new connection undoes.
_TAKES_SQL = ("execute", "executemany", "fetch", "fetchval", "fetchrow", "fetchmany", "copy_from_query")
_CLEAN = {
    "transaction", "is_in_transaction", "is_closed", "close", "terminate", "reset", "get_reset_query",
    "get_server_pid", "get_server_version", "get_settings", "reload_schema_state", "remove_listener",
    "remove_log_listener", "remove_termination_listener", "remove_query_logger",
}  # fmt: skip
_CLEAN_AND_SLOW = ("copy_from_table", "copy_to_table", "copy_records_to_table")
# An object that may still be at work when its lease ends; the reset finds out.
_RESETS = ("add_listener", "add_log_listener")


@functools.cache
def _connection_class() -> Any:
    asyncpg: Any = import_driver("asyncpg", "asyncpg", "postgresql")

    class TrackedConnection(asyncpg.Connection):  # type: ignore[misc]
        """asyncpg's connection, noting whether its session may differ from a new one's.

        Every public method is replaced, and nothing private: a statement cannot pass unseen in another
        version of asyncpg.
        """

        phase4_taint = 0
        phase4_busy = 0
        """Calls under way: a lease that ends in the middle of one gives back no usable connection."""
        phase4_driver: Any = None
        phase4_read_only = False
        """The current lease asked for a transaction or session that is read-only."""

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
            # SESSION AUTHORIZATION first: the role that was set may not be allowed the rest.
            return _RESET

        def cursor(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            self.phase4_note(query)
            self.phase4_taint = max(self.phase4_taint, session_state.RESET)
            return super().cursor(query, *args, **kwargs)

        async def prepare(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            self.phase4_note(query)
            self.phase4_taint = max(self.phase4_taint, session_state.RESET)
            return await super().prepare(query, *args, **kwargs)

    def tracked(name: str, takes_sql: bool) -> None:
        original = getattr(asyncpg.Connection, name)

        @functools.wraps(original)
        async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if takes_sql:
                self.phase4_note(args[0] if args else kwargs.get("query", kwargs.get("command")))
            self.phase4_busy += 1
            try:
                return await original(self, *args, **kwargs)
            except (asyncio.CancelledError, TimeoutError):
                # The server is told to stop it, which takes a moment; a reset waits for that.
                self.phase4_taint = max(self.phase4_taint, session_state.RESET)
                raise
            finally:
                self.phase4_busy -= 1

        setattr(TrackedConnection, name, call)

    def tainting(name: str, level: int) -> None:
        original = getattr(asyncpg.Connection, name)

        @functools.wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.phase4_taint = max(self.phase4_taint, level)
            return original(self, *args, **kwargs)

        setattr(TrackedConnection, name, call)

    for name in dir(asyncpg.Connection):
        if name.startswith("_") or name in _CLEAN or name in ("cursor", "prepare"):
            continue
        if name in _TAKES_SQL or name in _CLEAN_AND_SLOW:
            tracked(name, name in _TAKES_SQL)
        elif callable(getattr(asyncpg.Connection, name)):
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

        __slots__ = ("phase4_connection", "phase4_guard")

        def __init__(self, connection: Any, guard: Guard) -> None:
            set_own = object.__setattr__
            set_own(self, "phase4_connection", connection)
            set_own(self, "phase4_guard", guard)

        def __getattr__(self, name: str) -> Any:
            self.phase4_guard.check(repr(name))
            return getattr(self.phase4_connection, name)

        def __setattr__(self, name: str, value: Any) -> None:
            self.phase4_guard.check(repr(name))
            setattr(self.phase4_connection, name, value)

        def __repr__(self) -> str:
            return f"<LeasedConnection {self.phase4_connection!r}>"

    public = [name for name in dir(base) if not name.startswith(("_", "phase4_"))]
    for name, method in guarded_methods(base, "phase4_connection", public).items():
        setattr(LeasedConnection, name, method)
    return LeasedConnection


class PostgresqlDriver(Driver):
    backend = "postgresql"
    schemes = ("postgresql", "postgres")
    package = "asyncpg"
    extra = "asyncpg"

    def __init__(self, spec: PoolSpec) -> None:
        super().__init__(spec)
        self.always_reset = self.reset_mode == "always"
        self.connections: weakref.WeakSet[Any] = weakref.WeakSet()

    async def start(self) -> None:
        self._asyncpg = import_driver(self.package, self.extra, self.backend)

    async def connect(self) -> Any:
        options = {"connection_class": _connection_class(), **self.options}
        # An attempt that times out must leave nothing behind: asyncpg's own timeout takes care of that.
        options.setdefault("timeout", self.spec.options.connect_timeout)
        # asyncpg's own timeout has the server cancel the statement, too.
        options.setdefault("command_timeout", self.spec.options.query_timeout or None)
        raw = await self._asyncpg.connect(without_driver(self.url), **options)
        keep_alive(raw._transport)
        try:
            if self.reset_mode == "smart":
                self.always_reset = bool(await raw.fetchval(_SUSPECT_ROUTINES))
        except BaseException:
            raw.terminate()
            raise
        raw.phase4_taint = 0
        raw.phase4_driver = self
        self.connections.add(raw)
        return raw

    def view(self, raw: Any, guard: Guard) -> Any:
        raw.phase4_read_only = False
        return _view_class()(raw, guard)

    def is_demotion(self, error: BaseException, raw: Any) -> bool:
        code = getattr(error, "sqlstate", None)
        if not isinstance(code, str) or not postgresql_needs_another_server(code):
            return False
        return not (code == _READ_ONLY_TRANSACTION and raw.phase4_read_only)

    def adopt(self, spec: PoolSpec) -> bool:
        super().adopt(spec)
        self.always_reset = self.reset_mode != "never"  # with "smart", until the next connection has looked
        return True

    def call_in_progress(self, raw: Any, guard: Guard) -> int | None:
        return None  # asyncpg has its own timeout

    def timed_out(self, guard: Guard) -> None:
        self.report_timeout(guard)

    def is_login_refused(self, error: BaseException) -> bool:
        return str(getattr(error, "sqlstate", "")).startswith("28")

    async def is_primary(self, raw: Any) -> bool | None:
        return bool(await raw.fetchval(_IS_PRIMARY))

    def is_open(self, raw: Any) -> bool:
        return not raw.is_closed()

    def verdict(self, raw: Any) -> Verdict:
        if raw.is_closed() or raw.phase4_busy:
            return Verdict.BROKEN
        _end_lease(raw)
        if raw.phase4_taint:
            if raw.phase4_taint == session_state.DISCARD:
                return Verdict.DISCARD
            if self.reset_mode != "never":
                return Verdict.RESET
        if raw.is_in_transaction() or _has_transaction(raw):
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
        raw.phase4_taint = 0

    async def close(self, raw: Any) -> None:
        await raw.close()

    def terminate(self, raw: Any) -> None:
        hard_close(getattr(raw, "_transport", None))


# What asyncpg's own pool does by its private parts. An asyncpg without them raises AttributeError here, and
# the connection is then replaced after each lease: slow, and correct.


def _end_lease(raw: Any) -> None:
    """Have statements, cursors and transactions of the lease that ends refuse to work on in the next."""
    raw._pool_release_ctr += 1


def _has_transaction(raw: Any) -> bool:
    """Whether the client believes that a transaction is open, whatever the server says."""
    return raw._top_xact is not None


def _forget_transaction(raw: Any) -> None:
    raw._top_xact = None
