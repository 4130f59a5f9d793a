"""SQLite by aiosqlite: one connection, and one thread, for each lease.

A database in memory (``sqlite://`` or ``sqlite:///:memory:``) is shared by the connections of its pool and
lives as long as the pool does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from bot.core._shared.errors import invalid
from bot.core._shared.masking import mask_url
from bot.core.connection_pool_manager.drivers import session_state
from bot.core.connection_pool_manager.drivers.base import Driver, import_driver
from bot.core.connection_pool_manager.guard import Guard, guarded_methods
from bot.core.connection_pool_manager.pool import Verdict
from bot.core.phase4_config.connection_pools import SCHEMES

_classify = session_state.Classifier(session_state.classify_sqlite)

# Calls into the connection that leave nothing but what its statements do.
_HARMLESS = frozenset(
    {
        "execute", "executemany", "executescript", "_execute_insert", "_execute_fetchall", "cursor",
        "commit", "rollback", "close", "fetchone", "fetchmany", "fetchall", "backup", "iterdump", "interrupt",
    }
)  # fmt: skip

_PRAGMAS = {"journal_mode": "WAL", "synchronous": "NORMAL", "foreign_keys": "ON"}
"""What each connection is opened with; ``pragmas={...}`` adds and overrides."""


_PYTHON_OPTIONS: dict[str, Any] = {
    "timeout": float, "detect_types": int, "cached_statements": int, "isolation_level": str,
}  # fmt: skip
"""Options of a url that ``sqlite3.connect`` takes."""
_URI_OPTIONS = ("mode", "cache", "immutable", "nolock", "psow", "vfs", "modeof")
"""Options of a url that SQLite takes in its own URIs."""


def _tracked(original: Any, *, in_lease: bool) -> Any:
    """``_execute`` of a connection, or of a lease's view of one. It is one coroutine, since every call pays
    for it.
    """
    run = original._execute

    async def _execute(self: Any, fn: Any, *args: Any, **kwargs: Any) -> Any:
        guard = self.phase4_guard if in_lease else None
        if guard is not None and guard.ended:
            raise guard.error("something taken from its lease")
        state = self.__dict__  # shared by the connection and its views
        state["phase4_seen"] += 1
        if getattr(fn, "__name__", "") not in _HARMLESS:
            state["phase4_taint"] = session_state.DISCARD
        elif args and isinstance(text := args[0], str) and (found := _classify(text)):
            state["phase4_taint"] = max(state["phase4_taint"], found)
        state["phase4_busy"] += 1
        try:
            if in_lease and self.phase4_watch is not None:
                return await self.phase4_watch.call("", run, self, (fn, *args), kwargs)
            return await run(self, fn, *args, **kwargs)
        except asyncio.CancelledError:
            # The thread still works on it: what it leaves behind is unknown until it is done.
            state["phase4_taint"] = max(state["phase4_taint"], session_state.RESET)
            raise
        except sqlite3.OperationalError as error:
            told = error if guard is None else guard.outcome(error)
            if told is error:
                raise
            raise told from error
        finally:
            state["phase4_busy"] -= 1
            if guard is not None and guard.timed_out is not None:
                guard.timed_out = None  # only the statement was ended; the connection is as good as before

    return _execute


@functools.cache
def _connection_class() -> Any:
    aiosqlite = import_driver("aiosqlite", "aiosqlite", "sqlite")

    class TrackedConnection(aiosqlite.Connection):  # type: ignore[misc,name-defined]
        """aiosqlite's connection, noting whether it may differ from a new one."""

        phase4_expected: tuple[Any, ...] = ()
        phase4_watch: Any = None

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.phase4_taint = 0
            self.phase4_seen = 0
            self.phase4_busy = 0

    TrackedConnection._execute = _tracked(aiosqlite.Connection, in_lease=False)
    return TrackedConnection


@functools.cache
def _view_class() -> Any:
    base = _connection_class()
    # Whatever else a connection can do goes through `_execute` or `_conn`.
    by_hand = ("close", "stop", "backup")

    class LeasedConnection(base):  # type: ignore[misc,valid-type]
        """The connection as one lease sees it: the same state, until the lease ends."""

        __slots__ = ("phase4_guard",)

        def __del__(self) -> None:
            """Does not close the connection."""

        @property
        def _conn(self) -> Any:
            if self.phase4_guard.ended:
                self.phase4_guard.check()
            inner = self._connection
            return super()._conn if inner is None else inner

    LeasedConnection._execute = _tracked(base.__base__, in_lease=True)
    for name, method in guarded_methods(base, None, by_hand).items():
        setattr(LeasedConnection, name, method)
    return LeasedConnection


class SqliteDriver(Driver):
    backend = "sqlite"
    schemes = SCHEMES["sqlite"]
    package = "aiosqlite"
    extra = "aiosqlite"
    advice = "check that the file is a database, and that it and its directory may be read and written"

    async def start(self) -> None:
        import_driver(self.package, self.extra, self.backend)
        given = self.options.pop("pragmas", {})
        if not isinstance(given, Mapping):
            raise invalid("pragmas", given, "names and plain values, as {'busy_timeout': 5000}")
        self.pragmas = {**_PRAGMAS, **given}
        for name, value in self.pragmas.items():
            if not str(name).isidentifier() or not str(value).lstrip("-").replace("_", "").isalnum():
                raise invalid("pragmas", self.pragmas, "names and plain values, as {'busy_timeout': 5000}")
        self.anchor: sqlite3.Connection | None = None
        path, query, uri = self._path()
        options = {**query, **self.options}
        if uri:
            path, options["uri"] = uri, True
            if query_of(uri).get("mode") == "ro" or "immutable" in query_of(uri):
                self.pragmas.pop("journal_mode", None)  # it would be written to the file
            if query_of(uri).get("mode") == "memory":
                self.pragmas.pop("journal_mode", None)
                self.anchor = sqlite3.connect(path, uri=True, check_same_thread=False)
        if path == ":memory:":
            # Separate connections to :memory: would be separate databases; this file system keeps one
            # in memory, with proper locks (shared cache has table locks that do not wait).
            path = f"file:/phase4-{uuid.uuid4().hex}?vfs=memdb"
            options["uri"] = True
            self.pragmas.pop("journal_mode", None)
            self.anchor = sqlite3.connect(path, uri=True, check_same_thread=False)
        elif not options.get("uri") and not _in_a_directory(path):
            raise invalid("url", self.url, "a file in a directory that exists")
        self.path, self.connect_options = path, options

    def _path(self) -> tuple[str, dict[str, Any], str]:
        """The file; the options for Python's connect; and the URI for SQLite, if the url has options of
        SQLite's own.
        """
        parts = urlsplit(self.url)
        if parts.netloc:
            raise invalid(
                "url", mask_url(self.url), "sqlite:///relative.db, sqlite:////absolute.db or sqlite://"
            )
        path = unquote(parts.path[1:]) or ":memory:"
        query: dict[str, Any] = {}
        own: list[tuple[str, str]] = []
        for name, value in parse_qsl(parts.query):
            if name in ("uri", "check_same_thread"):
                continue  # of SQLAlchemy: file: says the same, and each connection has its own thread
            if name in _PYTHON_OPTIONS:
                query[name] = self._option(name, value)
            elif name in _URI_OPTIONS:
                own.append((name, value))
            else:
                known = ", ".join([*_PYTHON_OPTIONS, *_URI_OPTIONS])
                raise invalid("url", mask_url(self.url), f"of options after the ? only {known}")
        if not own and not path.startswith("file:"):
            return path, query, ""
        file = path.removeprefix("file:")
        if file != ":memory:" and dict(own).get("mode") != "memory":
            if not _in_a_directory(file):
                raise invalid("url", mask_url(self.url), "a file in a directory that exists")
            file = _expanded(file)
        return path, query, f"file:{quote(file)}" + (f"?{urlencode(own)}" if own else "")

    def _option(self, name: str, value: str) -> Any:
        kind = _PYTHON_OPTIONS[name]
        try:
            return kind(value)
        except ValueError:
            raise invalid("url", mask_url(self.url), f"{name} = a number") from None

    async def connect(self) -> Any:
        options = dict(self.connect_options)
        path = self.path if options.get("uri") else _expanded(self.path)

        def connector() -> sqlite3.Connection:
            opened = sqlite3.connect(path, **options)
            try:
                for name, value in self.pragmas.items():
                    opened.execute(f"PRAGMA {name} = {value}")
                opened.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # is it a database at all?
            except BaseException:
                opened.close()
                raise
            return cast(sqlite3.Connection, opened)

        raw = _connection_class()(connector, 64)
        raw._thread.daemon = True  # the thread of an abandoned connection must not keep the process alive
        await raw
        try:
            await self.check_tracker(raw)
            await self.prepare(raw)
            inner = raw._conn  # no longer there if init closed the connection
            if inner.in_transaction:
                await raw.rollback()
            raw.phase4_expected = (inner.row_factory, inner.text_factory, inner.isolation_level)
            raw.phase4_taint = 0  # nothing undoes what init did: a reset only rolls back
        except BaseException:
            self.terminate(raw)
            raise
        return raw

    def let_watch(self, raw: Any) -> None:
        raw.phase4_watch = None if self.observer is None else self.observer(raw)

    def view(self, raw: Any, guard: Guard) -> Any:
        kind = _view_class()
        view = kind.__new__(kind)
        view.__dict__ = raw.__dict__
        view.phase4_guard = guard
        return view

    def call_in_progress(self, raw: Any, guard: Guard) -> Any:
        return int(raw.phase4_seen) if raw.phase4_busy else None

    def interrupt(self, raw: Any) -> None:
        raw._connection.interrupt()

    def is_setting(self, error: BaseException) -> bool:
        return "locked" not in str(error)  # there is no server that could come later

    def is_open(self, raw: Any) -> bool:
        return raw._connection is not None and raw._running

    def verdict(self, raw: Any) -> Verdict:
        inner = raw._connection
        if inner is None or not raw._running:
            return Verdict.BROKEN
        if self.is_blind or raw.phase4_taint == session_state.DISCARD:
            return Verdict.DISCARD
        if (inner.row_factory, inner.text_factory, inner.isolation_level) != raw.phase4_expected:
            return Verdict.DISCARD
        if raw.phase4_taint or raw.phase4_busy or inner.in_transaction or self.reset_mode == "always":
            return Verdict.RESET
        return Verdict.CLEAN

    async def ping(self, raw: Any) -> None:
        async with raw.execute("SELECT 1") as cursor:
            await cursor.fetchone()

    async def reset(self, raw: Any) -> None:
        # A cancelled statement may still be running; the rollback queues behind it.
        await raw.interrupt()
        with contextlib.suppress(sqlite3.OperationalError):
            await raw.rollback()
        if raw.in_transaction:
            raise sqlite3.OperationalError("a transaction is open after its rollback")
        # While an unclosed cursor is at a row, SQLite keeps interrupting: then this raises.
        await self.ping(raw)
        raw.phase4_taint = 0

    async def close(self, raw: Any) -> None:
        with contextlib.suppress(Exception):
            await raw.interrupt()
        await raw.close()

    def terminate(self, raw: Any) -> None:
        inner = raw._connection
        if inner is None:
            return
        with contextlib.suppress(Exception):
            inner.interrupt()

        def close_and_stop() -> Any:
            inner.close()
            return _stop_sentinel()

        # As aiosqlite's stop(), without a future: the loop that would receive it may be closed.
        raw._running = False
        raw._connection = None
        raw._tx.put_nowait((None, close_and_stop))

    async def stop(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        anchor, self.anchor = getattr(self, "anchor", None), None
        if anchor is not None:
            anchor.close()


def query_of(uri: str) -> dict[str, str]:
    """The options in a URI of SQLite's."""
    return dict(parse_qsl(uri.partition("?")[2]))


def _expanded(path: str) -> str:
    return str(Path(path).expanduser())


def _in_a_directory(path: str) -> bool:
    return Path(path).expanduser().parent.is_dir()


def _stop_sentinel() -> Any:
    from aiosqlite import core

    return core._STOP_RUNNING_SENTINEL
