"""PostgreSQL by asyncpg.

A connection notes what runs on it (see ``session_state``), so that only one that may have changed its
session is reset. Transactions are not guessed from text: the protocol reports them after every command.
Functions and triggers could change the session unseen; each new connection asks the catalog whether the
database holds any that might, and if so every lease is reset.
"""

from __future__ import annotations

import functools
from typing import Any

from bot.core.connection_pool_manager.drivers import session_state
from bot.core.connection_pool_manager.drivers.base import Driver, hard_close, import_driver
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

_RESET = (
    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; UNLISTEN *; "
    "SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
)


@functools.cache
def _connection_class() -> Any:
    asyncpg: Any = import_driver("asyncpg", "asyncpg", "postgresql")

    class TrackedConnection(asyncpg.Connection):  # type: ignore[misc]
        """asyncpg's connection, noting whether its session may differ from a new one's."""

        phase4_taint = 0
        phase4_driver: Any = None

        def _phase4_note(self, text: Any) -> None:
            found = _classify(text) if isinstance(text, str) else session_state.DISCARD
            if found:
                if found & session_state.ROUTINES and self.phase4_driver is not None:
                    self.phase4_driver.always_reset = True
                self.phase4_taint = max(self.phase4_taint, found & 3)

        # Every statement passes one of these four, whichever public method it came by. They are plain
        # functions returning the coroutine of the original: a coroutine around it would cost more.

        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            self._phase4_note(query)
            return super().execute(query, *args, **kwargs)

        def _get_statement(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            self._phase4_note(query)
            return super()._get_statement(query, *args, **kwargs)

        def _copy_out(self, copy_stmt: Any, *args: Any, **kwargs: Any) -> Any:
            self._phase4_note(copy_stmt)
            return super()._copy_out(copy_stmt, *args, **kwargs)

        def _copy_in(self, copy_stmt: Any, *args: Any, **kwargs: Any) -> Any:
            self._phase4_note(copy_stmt)
            return super()._copy_in(copy_stmt, *args, **kwargs)

    def tainting(name: str, level: int) -> None:
        original = getattr(asyncpg.Connection, name)

        @functools.wraps(original)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.phase4_taint = max(self.phase4_taint, level)
            return original(self, *args, **kwargs)

        setattr(TrackedConnection, name, wrapper)

    # State of the client's side, which no reset query reaches.
    for name in ("add_listener", "add_log_listener", "add_query_logger", "add_termination_listener"):
        tainting(name, session_state.RESET)
    for name in ("set_type_codec", "reset_type_codec", "set_builtin_type_codec"):
        tainting(name, session_state.DISCARD)
    return TrackedConnection


class PostgresqlDriver(Driver):
    backend = "postgresql"
    schemes = ("postgresql", "postgres")
    package = "asyncpg"
    extra = "asyncpg"

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self.always_reset = self.reset_mode == "always"

    async def start(self) -> None:
        self._asyncpg = import_driver(self.package, self.extra, self.backend)

    async def connect(self) -> Any:
        options = {"connection_class": _connection_class(), **self.options}
        # An attempt that times out must leave nothing behind: asyncpg's own timeout takes care of that.
        options.setdefault("timeout", self.spec.options.connect_timeout)
        raw = await self._asyncpg.connect(
            self.url.replace("postgresql+asyncpg://", "postgresql://"), **options
        )
        try:
            if self.reset_mode == "smart":
                self.always_reset = bool(await raw.fetchval(_SUSPECT_ROUTINES))
        except BaseException:
            raw.terminate()
            raise
        raw.phase4_taint = 0
        raw.phase4_driver = self
        return raw

    def is_open(self, raw: Any) -> bool:
        return not raw.is_closed()

    def verdict(self, raw: Any) -> Verdict:
        protocol = raw._protocol
        if protocol is None or not protocol.is_connected():
            return Verdict.DISCARD
        # Statements, cursors and transactions of the lease that ends must not work on in the next.
        raw._pool_release_ctr += 1
        if raw.phase4_taint:
            if raw.phase4_taint == session_state.DISCARD:
                return Verdict.DISCARD
            if self.reset_mode != "never":
                return Verdict.RESET
        if protocol.is_in_transaction() or raw._top_xact is not None or protocol._is_cancelling():
            return Verdict.RESET
        return Verdict.RESET if self.always_reset else Verdict.CLEAN

    async def ping(self, raw: Any) -> None:
        await raw.fetchval("SELECT 1")

    async def reset(self, raw: Any) -> None:
        if raw._protocol._is_cancelling():
            await raw._protocol._wait_for_cancellation(self.spec.options.connect_timeout)
        raw._listeners.clear()
        raw._log_listeners.clear()
        raw._query_loggers.clear()
        raw._termination_listeners.clear()
        raw._top_xact = None
        # One round trip for all of it. SET SESSION AUTHORIZATION is first: the role may not be allowed more.
        rollback = "ROLLBACK; " if raw.is_in_transaction() else ""
        await raw.execute(rollback + (_RESET if self.reset_mode != "never" else "SELECT 1"))
        raw.phase4_taint = 0

    async def close(self, raw: Any) -> None:
        await raw.close()

    def terminate(self, raw: Any) -> None:
        hard_close(getattr(raw, "_transport", None))
