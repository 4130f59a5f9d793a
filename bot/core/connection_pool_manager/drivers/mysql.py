"""MySQL and MariaDB by asyncmy.

A connection notes what runs on it (see ``session_state``) and the server reports open transactions after
every command. A lease that only left a transaction open costs a ROLLBACK; one that may have changed its
session costs COM_RESET_CONNECTION, which drops temporary tables, variables, locks and prepared statements
in one round trip. Stored functions and triggers could change the session unseen: while the server holds
any outside its own schemas, every lease is reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from bot.core._shared.demotion import mysql_needs_another_server
from bot.core._shared.errors import invalid, message_of
from bot.core._shared.masking import mask_url
from bot.core.connection_pool_manager.drivers import session_state
from bot.core.connection_pool_manager.drivers.base import hard_close, import_driver, keep_alive
from bot.core.connection_pool_manager.drivers.replicated import ReplicatedDriver
from bot.core.connection_pool_manager.drivers.url_options import mysql_options
from bot.core.connection_pool_manager.errors import LeaseError
from bot.core.connection_pool_manager.guard import Guard, guarded_methods
from bot.core.connection_pool_manager.models import PoolSpec
from bot.core.connection_pool_manager.pool import Verdict
from bot.core.phase4_config.connection_pools import SCHEMES

_classify = session_state.Classifier(session_state.classify_mysql)

_COM_INIT_DB, _COM_QUERY, _COM_PING, _COM_STMT_PREPARE = 0x02, 0x03, 0x0E, 0x16
_COM_RESET_CONNECTION = 0x1F

_READ_ONLY_TRANSACTION = 1792
"""ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION: it says that the server is read-only, unless the lease asked for
that.
"""
_ENDING = frozenset(("commit", "rollback", "begin", "autocommit"))
"""Methods of a connection that may begin or end a transaction."""
_LOGIN_REFUSED = (1044, 1045, 1251, 1698, 1862, 3118, 4151)
"""Access denied, in its kinds; the password has expired; the account is locked."""

_SUSPECT_ROUTINES = """
SELECT EXISTS (SELECT 1 FROM information_schema.routines
               WHERE routine_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema'))
    OR EXISTS (SELECT 1 FROM information_schema.triggers
               WHERE trigger_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema'))
"""


@functools.cache
def _connection_class() -> Any:
    base = import_driver("asyncmy.connection", "asyncmy", "mysql").Connection

    class TrackedConnection(base):  # type: ignore[misc,valid-type]
        """asyncmy's connection, noting whether its session may differ from a new one's."""

        phase4_taint = 0
        phase4_seen = 0
        phase4_busy = 0
        phase4_driver: Any = None
        phase4_guard: Any = None
        phase4_watch: Any = None
        phase4_read_only = False
        """The current lease asked for a transaction or session that is read-only."""

        def _phase4_note(self, command: int, sql: Any) -> None:
            self.phase4_seen += 1
            if command == _COM_PING:
                return
            found = session_state.DISCARD
            if command in (_COM_QUERY, _COM_STMT_PREPARE):
                text = sql.decode("utf-8", "replace") if isinstance(sql, bytes | bytearray) else str(sql)
                found = _classify(text)
                if command == _COM_STMT_PREPARE:
                    found = max(found, session_state.RESET)
            if found & session_state.ROUTINES and self.phase4_driver is not None:
                self.phase4_driver.always_reset = True
            if found & session_state.READ_ONLY:
                self.phase4_read_only = True
            self.phase4_taint = max(self.phase4_taint, found & 3)

        async def _execute_command(self, command: int, sql: Any) -> Any:
            waiter = getattr(getattr(self, "_proto", None), "_read_waiter", None)
            if waiter is not None and not waiter.done():
                raise _in_use()
            self._phase4_note(command, sql)
            return await super()._execute_command(command, sql)

        async def query(self, sql: Any, unbuffered: bool = False) -> Any:
            if self.phase4_busy:
                raise _in_use()
            self.phase4_busy += 1
            try:
                return await super().query(sql, unbuffered)
            except asyncio.CancelledError:
                # Its answer would be read as that of the next command.
                self.phase4_taint = session_state.DISCARD
                raise
            except Exception as error:
                told = error if self.phase4_guard is None else self.phase4_guard.outcome(error)
                if told is error:
                    raise
                raise told from error
            finally:
                self.phase4_busy -= 1

    return TrackedConnection


def _in_use() -> LeaseError:
    # The driver would send it, and each of the two callers would read the other's answer, or wait for ever.
    return LeaseError(
        "this lease's connection waits for the answer of another call: await that first, or acquire a second "
        "lease"
    )


class _Ended:
    """Stands in for the connection of a cursor whose lease has ended: every use is an error."""

    def __init__(self, guard: Guard) -> None:
        object.__setattr__(self, "_guard", guard)

    def __bool__(self) -> bool:
        raise self._guard.error("a cursor")

    def __getattr__(self, name: str) -> Any:
        raise self._guard.error("a cursor")


class _LeasedStatement:
    """A prepared statement, until its lease ends."""

    def __init__(self, statement: Any, guard: Guard) -> None:
        self._statement = statement
        self._guard = guard

    async def execute(self, args: Any = ()) -> Any:
        guard = self._guard
        guard.check("a prepared statement")
        guard.running += 1
        try:
            return await self._statement.execute(args)
        except Exception as error:
            told = guard.outcome(error)
            if told is error:
                raise
            raise told from error
        finally:
            guard.running -= 1

    async def close(self) -> None:
        self._guard.check("a prepared statement")
        await self._statement.close()

    async def __aenter__(self) -> _LeasedStatement:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()

    def __getattr__(self, name: str) -> Any:
        self._guard.check("a prepared statement")
        return getattr(self._statement, name)


@functools.cache
def _view_class() -> Any:
    base = _connection_class()

    class LeasedConnection:
        """The connection as one lease sees it."""

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

        def cursor(self, cursor: Any = None) -> Any:
            guard = self.phase4_guard
            guard.check("'cursor'")
            made = self.phase4_connection.cursor(cursor)
            if self.phase4_connection.phase4_watch is not None:
                made = self.phase4_connection.phase4_watch.cursor(made)
            # A cursor is compiled code that needs the connection itself, so it cannot ask the guard: the
            # release tells it.
            known = guard.cursors
            if known is None:
                known = guard.cursors = []
            elif len(known) >= 64 and not len(known) & (len(known) - 1):
                known[:] = [one for one in known if one.connection is not None]
            known.append(made)
            return made

        async def prepare(self, query: Any) -> Any:
            guard = self.phase4_guard
            guard.check("'prepare'")
            try:
                made = await self.phase4_connection.prepare(query)
                if self.phase4_connection.phase4_watch is not None:
                    made = self.phase4_connection.phase4_watch.statement(made, query)
                return _LeasedStatement(made, guard)
            except Exception as error:
                guard.failed(error)
                raise

    by_hand = ("cursor", "prepare")
    public = [name for name in dir(base) if not name.startswith(("_", "phase4_")) and name not in by_hand]
    for name, method in guarded_methods(base, "phase4_connection", public).items():
        setattr(LeasedConnection, name, _settling(method) if name in _ENDING else method)
    return LeasedConnection


def _settling(method: Any) -> Any:
    """A view's method that may end a transaction, which the one who watches is told."""

    @functools.wraps(method)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        watch = self.phase4_connection.phase4_watch
        if watch is None:
            return await method(self, *args, **kwargs)
        return await watch.settling(lambda: method(self, *args, **kwargs))

    return call


def _address(parts: SplitResult) -> dict[str, Any]:
    return {"host": parts.hostname or "127.0.0.1", "port": parts.port or 3306}


class MysqlDriver(ReplicatedDriver):
    backend = "mysql"
    schemes = SCHEMES["mysql"]
    package = "asyncmy"
    extra = "asyncmy"

    def __init__(self, spec: PoolSpec) -> None:
        super().__init__(spec)
        self.always_reset = self.reset_mode == "always"

    async def start(self) -> None:
        import_driver(self.package, self.extra, self.backend)
        # Rows as tuples, whatever kind of cursor the user has chosen.
        self.plain = import_driver("asyncmy.cursors", "asyncmy", self.backend).Cursor
        try:
            parts = urlsplit(self.places[0])
            for place in self.places:
                _address(urlsplit(place))
        except ValueError:
            raise invalid("url", mask_url(self.url), "mysql://user:password@host:port/database") from None
        settings: dict[str, Any] = {
            **_address(parts),
            "user": unquote(parts.username or "root"),
            "password": unquote(parts.password or ""),
            "charset": "utf8mb4",
        }
        if database := unquote(parts.path.strip("/")):
            settings["database"] = database
        settings["connect_timeout"] = self.spec.options.connect_timeout
        settings |= mysql_options(self.url, parts.query)
        by_name = import_driver("asyncmy.charset", "asyncmy", self.backend).charset_by_name
        charset = self.options.get("charset", settings["charset"])
        if by_name(charset) is None:
            raise invalid("charset", charset, "a character set of MySQL, as 'utf8mb4'")
        self.settings = {**settings, **self.options}

    async def connect_to(self, place: str) -> Any:
        settings = self.settings
        if len(self.places) > 1:
            settings = {**settings, **_address(urlsplit(place))}
        if (password := await self.password()) is not None:
            settings = {**settings, "password": password}
        raw = _connection_class()(**settings)
        try:
            await raw.connect()
            keep_alive(raw._transport)
            await self.check_tracker(raw)
            if self.reset_mode == "smart":
                async with raw.cursor(self.plain) as cursor:
                    await cursor.execute(_SUSPECT_ROUTINES)
                    self.always_reset = bool((await cursor.fetchone())[0])
            raw.phase4_driver = self
            await self.prepare(raw)
            if raw.get_transaction_status():
                await raw.rollback()
        except BaseException:
            self.terminate(raw)
            raise
        raw.phase4_taint = 0
        return raw

    def let_watch(self, raw: Any) -> None:
        raw.phase4_watch = None if self.observer is None else self.observer(raw)

    def view(self, raw: Any, guard: Guard) -> Any:
        raw.phase4_guard = guard
        raw.phase4_read_only = False
        return _view_class()(raw, guard)

    def is_demotion(self, error: BaseException, raw: Any) -> bool:
        number = error.args[0] if error.args and not self.spec.is_replica else None
        if not isinstance(number, int):
            return False
        if number == _READ_ONLY_TRANSACTION:
            return not raw.phase4_read_only
        return mysql_needs_another_server(number, message_of(error))

    def adopt(self, spec: PoolSpec) -> bool:
        old = self.spec.options.connect_timeout
        super().adopt(spec)
        self.always_reset = self.reset_mode != "never"  # with "smart", until the next connection has asked
        if self.settings["connect_timeout"] == old:  # it was the pool's, and not the driver's own
            self.settings["connect_timeout"] = spec.options.connect_timeout
        return True

    def call_in_progress(self, raw: Any, guard: Guard) -> Any:
        if raw.phase4_busy or guard.running:
            return int(raw.phase4_seen)
        # Rows of an unbuffered cursor are read without a call that the tracker sees.
        return getattr(getattr(raw, "_proto", None), "_read_waiter", None)

    def is_login_refused(self, error: BaseException) -> bool:
        return bool(error.args) and error.args[0] in _LOGIN_REFUSED

    async def is_primary(self, raw: Any) -> bool | None:
        async with raw.cursor(self.plain) as cursor:
            await cursor.execute("SELECT @@global.read_only, @@global.innodb_read_only")
            values = await cursor.fetchone()
        if raw.get_transaction_status():
            await raw.rollback()
        return all(str(value).upper() in ("0", "OFF") for value in values)

    def end_cursors(self, cursors: list[Any], guard: Guard) -> None:
        for cursor in cursors:
            if cursor.connection is not None:
                cursor.connection = _Ended(guard)

    def is_open(self, raw: Any) -> bool:
        return bool(raw.connected) and not raw._stream_broken

    def verdict(self, raw: Any) -> Verdict:
        if not self.is_open(raw) or raw.phase4_busy:
            return Verdict.BROKEN
        if self.is_blind or raw.phase4_taint == session_state.DISCARD:
            return Verdict.DISCARD
        result = raw._result
        if result is not None and (result.unbuffered_active or result.has_next):
            return Verdict.BROKEN
        if raw.phase4_taint and self.reset_mode != "never":
            return Verdict.RESET
        if raw.get_transaction_status() or self.always_reset:
            return Verdict.RESET
        return Verdict.CLEAN

    async def ping(self, raw: Any) -> None:
        await raw.ping(reconnect=False)

    async def reset(self, raw: Any) -> None:
        if raw.phase4_taint or self.always_reset:
            await raw._execute_command(_COM_RESET_CONNECTION, b"")
            await raw._read_ok_packet()
            raw._result = None
            raw._stmt_cache.clear()
            # The reset restores the server's defaults, not the options that this connection was opened with.
            for statement in self._initial_statements():
                async with raw.cursor() as cursor:
                    await cursor.execute(statement)
            wanted = bool(self.settings.get("autocommit", False))
            if raw.get_autocommit() != wanted:
                await raw.autocommit(wanted)
            await self.prepare(raw)
        if raw.get_transaction_status():
            await raw.rollback()
        raw.phase4_taint = 0

    def _initial_statements(self) -> list[str]:
        # Not by set_charset, which fails in asyncmy 0.2.18. The charset was checked by start.
        found = [f"SET NAMES {self.settings['charset']}"]
        if mode := self.settings.get("sql_mode"):
            found.append(f"SET sql_mode = '{mode}'")
        if command := self.settings.get("init_command"):
            found.append(str(command))
        return found

    async def close(self, raw: Any) -> None:
        await raw.ensure_closed()

    def terminate(self, raw: Any) -> None:
        transport = raw._transport
        hard_close(transport)
        with contextlib.suppress(Exception):
            raw._transport = None
            raw._connected = False
