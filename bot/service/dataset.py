"""The embedded data set: users, files and downloads of a mirror bot, from a fixed seed."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

SEED = 4
USERS = 2_000
FILES = 12_000
DOWNLOADS = 60_000
EPOCH = 1_700_000_000
"""Unix time of the oldest row, so that the data are the same on every machine and day."""

VERSION = 1
"""Kept in the database's user_version; a file of another version is created again."""

SCHEMA = """
CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    username TEXT NOT NULL UNIQUE,
    tier TEXT NOT NULL,
    status TEXT NOT NULL,
    joined_at INTEGER NOT NULL
);
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    uploaded_by INTEGER REFERENCES users (id),
    created_at INTEGER NOT NULL
);
CREATE TABLE downloads (
    id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users (id),
    file_id INTEGER NOT NULL REFERENCES files (id),
    status TEXT NOT NULL,
    bytes_done INTEGER NOT NULL,
    started_at INTEGER NOT NULL
);
"""
INDEXES = """
CREATE INDEX downloads_by_user ON downloads (user_id, started_at);
CREATE INDEX downloads_by_file ON downloads (file_id);
"""

_WORDS = (
    "aurora harbor linux mint debian ubuntu fedora session lecture archive podcast episode trailer "
    "album live acoustic remix sample dataset backup photos wedding holiday tutorial course season "
    "manual firmware driver patch release nightly stable beta museum concert"
).split()
_KINDS = {"video": ".mkv", "audio": ".flac", "archive": ".zip", "image": ".iso", "document": ".pdf"}
_BATCH = 10_000


class ForeignDatabaseError(Exception):
    """There is something at the path that is not this data set."""


def ensure(path: Path, progress: Callable[[str], None], *, replace: bool = True) -> None:
    """Create the database at ``path`` unless a complete one is there. Blocking: a second or two.

    Written beside its place and moved there when whole, so an interrupted start leaves no half. What is
    there and is not this data set is kept under another name, and the log says so, or raises
    ForeignDatabaseError if ``replace`` is False.
    """
    if path.exists() and _version(path) == VERSION:
        return
    if path.exists() and not replace and path.stat().st_size:
        raise ForeignDatabaseError(
            "it exists and does not belong to the service; name a file that does not exist yet"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_name(f"{path.name}.{os.getpid()}.building")
    building.unlink(missing_ok=True)
    try:
        with sqlite3.connect(building) as connection:
            _fill(connection, progress)
        connection.close()
        if path.exists() and _version(path) == VERSION:
            return  # another process that starts here was faster
        if path.exists() and path.stat().st_size:
            kept = _put_aside(path)
            logger.warning(
                "%s has no data set of this version; its old content is kept as %s", path, kept.name
            )
        os.replace(building, path)
    finally:
        building.unlink(missing_ok=True)


def _version(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise  # locked, or not to be read: it may be a good one
        return -1
    finally:
        connection.close()


def _put_aside(path: Path) -> Path:
    """Rename a database, its log with it; the name it has now."""
    kept = path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}.kept")
    os.replace(path, kept)
    for suffix in ("-wal", "-shm"):  # SQLite would take them for the new one's
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{kept}{suffix}")
    return kept


def _fill(connection: sqlite3.Connection, progress: Callable[[str], None]) -> None:
    rng = random.Random(SEED)
    total = USERS + FILES + DOWNLOADS
    done = 0
    connection.executescript(SCHEMA)
    for table, rows in tables(rng):
        while batch := list(itertools.islice(rows, _BATCH)):
            marks = ", ".join("?" * len(batch[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", batch)  # noqa: S608 - our own names
            done += len(batch)
            progress(f"creating the embedded data set: {done:,} of {total:,} rows")
    connection.executescript(INDEXES)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.commit()
    # Readers then never wait for a writer; the mode stays with the file.
    connection.execute("PRAGMA journal_mode = WAL")


def tables(rng: random.Random) -> Iterator[tuple[str, Iterator[tuple[object, ...]]]]:
    """Each table's name and rows, in an order in which their references hold."""
    yield "users", _users(rng)
    yield "files", _files(rng)
    yield "downloads", _downloads(rng)


def _users(rng: random.Random) -> Iterator[tuple[object, ...]]:
    for user_id in range(1, USERS + 1):
        tier = rng.choices(("free", "plus", "pro"), (85, 12, 3))[0]
        status = "active" if rng.random() < 0.93 else "banned"
        name = f"{rng.choice(_WORDS)}_{user_id}"
        yield user_id, name, tier, status, EPOCH + rng.randrange(20_000_000)


def _files(rng: random.Random) -> Iterator[tuple[object, ...]]:
    for file_id in range(1, FILES + 1):
        kind = rng.choice(tuple(_KINDS))
        name = ".".join(rng.choices(_WORDS, k=3)) + f".{rng.randrange(1990, 2026)}{_KINDS[kind]}"
        size = int(rng.lognormvariate(18, 1.8))
        digest = hashlib.sha256(f"{SEED}:{file_id}".encode()).hexdigest()
        yield file_id, name, kind, size, digest, rng.randrange(1, USERS + 1), EPOCH + file_id * 1_500


def _downloads(rng: random.Random) -> Iterator[tuple[object, ...]]:
    for download_id in range(1, DOWNLOADS + 1):
        # A few users do most of the downloading, and a few files are most of what they take.
        user_id = min(USERS, int(rng.paretovariate(0.6)))
        file_id = min(FILES, int(rng.paretovariate(0.5)))
        status = rng.choices(("done", "failed", "cancelled"), (90, 6, 4))[0]
        size = int(rng.lognormvariate(18, 1.8)) if status == "done" else rng.randrange(1_000_000)
        yield download_id, user_id, file_id, status, size, EPOCH + 18_000_000 + download_id * 300
