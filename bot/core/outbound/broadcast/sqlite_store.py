"""The progress of broadcasts in an SQLite file, or in memory, which is SQLite too.

Every write is a transaction of its own, written through to the disk (WAL, ``synchronous=FULL``): what is
recorded outlives a kill -9 and, on a disk that keeps its promises, a loss of power. The file is used from one
thread of the store's own, so that no event loop waits for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bot.core._shared.errors import shown
from bot.core._shared.masking import one_line
from bot.core.outbound.broadcast.errors import BroadcastLostError, BroadcastStoreError, StoreAwayError
from bot.core.outbound.broadcast.outcomes import Outcome
from bot.core.outbound.broadcast.store import REASON_LENGTH, ChatId, Ended, Kept

T = TypeVar("T")

BUSY_TIMEOUT = 2.0
"""Seconds to wait for another process's transaction; then the write is tried again."""

PAGE = 1_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS phase4_broadcasts (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, beat INTEGER NOT NULL,
    lease REAL NOT NULL, started_at REAL NOT NULL, finished_at REAL);
CREATE TABLE IF NOT EXISTS phase4_broadcast_recipients (
    broadcast INTEGER NOT NULL, chat NOT NULL, state INTEGER NOT NULL, reason TEXT,
    PRIMARY KEY (broadcast, chat)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS phase4_broadcast_unfinished
    ON phase4_broadcast_recipients (broadcast) WHERE state = 0;
"""

_CLAIMED = 0
_STATES = {
    Outcome.SENT: 1, Outcome.BLOCKED: 2, Outcome.DEACTIVATED: 3, Outcome.NOT_FOUND: 4, Outcome.FAILED: 5,
}  # fmt: skip
_OUTCOMES = {state: outcome for outcome, state in _STATES.items()}
_PASSING = ("locked", "busy", "full", "disk i/o", "unable to open")


def connect(path: str) -> sqlite3.Connection:
    """A connection to a file, ``:memory:`` included, with the tables made. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, cached_statements=32
    )
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


class Opened:
    """A connection that several stores use in turn: what is kept in memory is seen by it alone."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.lock = threading.Lock()


class SqliteStore:
    """One broadcast in a file; or, ``opened``, where that leads, which is not closed with the store."""

    def __init__(self, path: str, name: str, opened: Opened | None = None) -> None:
        self._path = os.path.abspath(path) if opened is None else "memory"
        self._name = name
        # The connection is used under the lock, on the store's own thread.
        self._connection = None if opened is None else opened.connection
        self._lock = threading.Lock() if opened is None else opened.lock
        self._keep_open = opened is not None
        self._thread = ThreadPoolExecutor(1, "phase4-broadcast")
        self._id: int | None = None
        self._token = ""
        self.data_was_lost = False

    async def _do(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Run it on the store's thread; one that is cancelled is finished there all the same."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._act, action)

    def _act(self, action: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = connect(self._path)
            with self._lock:
                return action(self._connection)
        except sqlite3.Error as error:
            passing = isinstance(error, sqlite3.OperationalError) and any(
                words in str(error).lower() for words in _PASSING
            )
            kind = StoreAwayError if passing else BroadcastStoreError
            raise kind(
                f"the progress of broadcasts cannot be kept in {self._path}: {one_line(error)}"
            ) from error

    @contextlib.contextmanager
    def _writing(self, connection: sqlite3.Connection, *, owned: bool = True) -> Iterator[int]:
        """A transaction, in which the broadcast is this store's own: its number."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            if owned:
                row = connection.execute(
                    "SELECT owner FROM phase4_broadcasts WHERE id = ?", (self._id,)
                ).fetchone()
                if row is None or row[0] != self._token:
                    raise BroadcastLostError(self._name)
            yield self._id or 0
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # it may have been rolled back by SQLite itself
                connection.execute("ROLLBACK")
            raise

    async def read(self) -> Kept | None:
        return await self._do(self._read)

    def _read(self, connection: sqlite3.Connection) -> Kept | None:
        row = connection.execute(
            "SELECT owner, beat, lease, started_at, finished_at, id FROM phase4_broadcasts WHERE name = ?",
            (self._name,),
        ).fetchone()
        if row is None:
            return None
        self._id = row[5]
        return Kept(*row[:5])

    async def take(
        self, token: str, lease: float, seen: Kept | None, now: float, *, restart: bool
    ) -> Mapping[Outcome, int] | None:
        def take(connection: sqlite3.Connection) -> Mapping[Outcome, int] | None:
            with self._writing(connection, owned=False):
                kept = self._read(connection)
                if (kept and kept[:2]) != (seen and seen[:2]):
                    return None
                if kept is None:
                    self._id = connection.execute(
                        "INSERT INTO phase4_broadcasts (name, owner, beat, lease, started_at) "
                        "VALUES (?, ?, 1, ?, ?)",
                        (self._name, token, lease, now),
                    ).lastrowid
                else:
                    connection.execute(
                        "UPDATE phase4_broadcasts SET owner = ?, beat = beat + 1, lease = ?, "
                        "finished_at = NULL, started_at = ? WHERE id = ?",
                        (token, lease, now if restart else kept.started_at, self._id),
                    )
                if restart:
                    connection.execute(
                        "DELETE FROM phase4_broadcast_recipients WHERE broadcast = ?", (self._id,)
                    )
            self._token = token
            return self._counts(connection)

        return await self._do(take)

    async def beat(self) -> None:
        def beat(connection: sqlite3.Connection) -> None:
            with self._writing(connection) as number:
                connection.execute("UPDATE phase4_broadcasts SET beat = beat + 1 WHERE id = ?", (number,))

        await self._do(beat)

    async def claim(self, chats: Sequence[ChatId]) -> list[ChatId]:
        def claim(connection: sqlite3.Connection) -> list[ChatId]:
            open_ones: list[ChatId] = []
            fresh: list[tuple[int, ChatId, int]] = []
            with self._writing(connection) as number:
                for chat in chats:
                    row = connection.execute(
                        "SELECT state FROM phase4_broadcast_recipients WHERE broadcast = ? AND chat = ?",
                        (number, chat),
                    ).fetchone()
                    if row is None:
                        fresh.append((number, chat, _CLAIMED))
                    if row is None or row[0] == _CLAIMED:
                        open_ones.append(chat)
                connection.executemany(
                    "INSERT OR IGNORE INTO phase4_broadcast_recipients (broadcast, chat, state) "
                    "VALUES (?, ?, ?)",
                    fresh,
                )
            return open_ones

        return await self._do(claim)

    async def unfinished(self) -> list[ChatId]:
        return await self._do(
            lambda connection: [
                chat
                for (chat,) in connection.execute(
                    "SELECT chat FROM phase4_broadcast_recipients WHERE broadcast = ? AND state = 0",
                    (self._id,),
                )
            ]
        )

    async def record(self, ended: Sequence[Ended]) -> None:
        def record(connection: sqlite3.Connection) -> None:
            with self._writing(connection) as number:
                connection.executemany(
                    "UPDATE phase4_broadcast_recipients SET state = ?, reason = ? "
                    "WHERE broadcast = ? AND chat = ? AND state = 0",
                    [
                        (_STATES[one.outcome], one.reason[:REASON_LENGTH] or None, number, one.chat)
                        for one in ended
                    ],
                )

        await self._do(record)

    async def release(self, chats: Sequence[ChatId]) -> None:
        def release(connection: sqlite3.Connection) -> None:
            with self._writing(connection) as number:
                connection.executemany(
                    "DELETE FROM phase4_broadcast_recipients WHERE broadcast = ? AND chat = ? AND state = 0",
                    [(number, chat) for chat in chats],
                )

        await self._do(release)

    async def let_go(self, finished_at: float | None) -> None:
        def let_go(connection: sqlite3.Connection) -> None:
            with self._writing(connection) as number:
                connection.execute(
                    "UPDATE phase4_broadcasts SET owner = '', beat = beat + 1, finished_at = ? WHERE id = ?",
                    (finished_at, number),
                )

        await self._do(let_go)

    async def counts(self) -> Mapping[Outcome, int]:
        return await self._do(self._counts)

    def _counts(self, connection: sqlite3.Connection) -> Mapping[Outcome, int]:
        rows = connection.execute(
            "SELECT state, count(*) FROM phase4_broadcast_recipients WHERE broadcast = ? GROUP BY state",
            (self._id,),
        )
        return {_OUTCOMES[state]: number for state, number in rows if state in _OUTCOMES}

    async def page(self, outcome: Outcome, after: str) -> tuple[list[tuple[ChatId, str]], str]:
        def page(connection: sqlite3.Connection) -> tuple[list[tuple[ChatId, str]], str]:
            if self._read(connection) is None:
                raise BroadcastStoreError(
                    f"the progress of broadcast {shown(self._name)} is no longer stored"
                )
            # Ids come before names; "i7" and "n@name" say after which.
            condition, last = "", []
            if after:
                condition = "AND chat > ?"
                last = [int(after[1:]) if after[0] == "i" else after[1:]]
            rows = connection.execute(
                "SELECT chat, coalesce(reason, '') FROM phase4_broadcast_recipients "  # noqa: S608 - constants
                f"WHERE broadcast = ? AND state = ? {condition} ORDER BY chat LIMIT {PAGE}",
                (self._id, _STATES[outcome], *last),
            ).fetchall()
            if len(rows) < PAGE:
                return rows, ""
            chat = rows[-1][0]
            return rows, f"i{chat}" if isinstance(chat, int) else f"n{chat}"

        return await self._do(page)

    async def forget(self) -> None:
        def forget(connection: sqlite3.Connection) -> None:
            with self._writing(connection, owned=False):
                if self._read(connection) is not None:
                    connection.execute(
                        "DELETE FROM phase4_broadcast_recipients WHERE broadcast = ?", (self._id,)
                    )
                    connection.execute("DELETE FROM phase4_broadcasts WHERE id = ?", (self._id,))

        await self._do(forget)

    async def close(self) -> None:
        def close() -> None:
            connection, self._connection = self._connection, None
            if connection is not None and not self._keep_open:
                connection.close()

        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, close)
        finally:
            self._thread.shutdown(wait=False)
