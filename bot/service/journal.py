"""What users did, kept in MongoDB when ``MONGODB_URL`` names one.

A request never waits for it: notes are queued here and written in the background, many at once. While
MongoDB is away they wait, up to a bound; what goes beyond it is dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from bot.core._shared.backoff import full_jitter
from bot.core._shared.masking import mask_url, one_line
from bot.service.settings import CannotStartError

if TYPE_CHECKING:
    from bot.core.connection_pool_manager import ConnectionPoolManager

logger = logging.getLogger("bot.service.journal")

POOL_NAME = "journal"
COLLECTION = "journal"
DATABASE = "bot_phase4"
"""The database, where the url names none."""

MOST_WAITING = 10_000
"""Notes that wait to be written at most."""
BATCH = 500
KEPT_SECONDS = 90 * 86_400
"""MongoDB drops a note after this."""
RETRY_BASE, RETRY_CAP = 0.2, 10.0
SERVER_TIMEOUT = 2.0
"""Seconds until a MongoDB that does not answer counts as away."""
FLUSH_SECONDS = 2.0
"""How long a stop waits for what is not yet written."""

_DUPLICATE_KEY = 11_000


class JournalUnavailableError(Exception):
    """MongoDB cannot be read now."""


class Journal:
    """Notes on their way to MongoDB. ``note`` does not wait and does not fail."""

    def __init__(self, url: str) -> None:
        """Raises CannotStartError for a url that MongoDB does not have. Connects to nothing yet."""
        try:
            from pymongo import uri_parser
            from pymongo.errors import InvalidURI
        except ImportError:
            raise CannotStartError(
                "MONGODB_URL is set, and pymongo is missing: pip install 'pymongo>=4.13'"
            ) from None
        try:
            named = uri_parser.parse_uri(url).get("database")
        except (InvalidURI, ValueError) as error:
            raise CannotStartError(f"MONGODB_URL = {mask_url(url)!r}: {one_line(str(error))}") from None
        self._url = url
        self._database: str = named or DATABASE
        # Changed on the event loop only, by note and _write.
        self._waiting: deque[dict[str, Any]] = deque()
        self._written = 0
        self._dropped = 0
        self._failures = 0  # in a row
        self._error: str | None = None
        self._indexed = False
        self._client: Any = None
        self._pools: ConnectionPoolManager | None = None
        self._task: asyncio.Task[None] | None = None
        self._news: asyncio.Event | None = None
        self._settled: asyncio.Event | None = None  # all is written, or MongoDB is away

    async def start(self, pools: ConnectionPoolManager | None) -> None:
        """Begin to write, over a pool of ``pools`` if it is given. Does not wait for MongoDB."""
        self._pools = pools
        self._news, self._settled = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._write(), name="journal")

    async def stop(self) -> None:
        """Write what waits, for a moment, and close the connection."""
        task, self._task = self._task, None
        if task is None:
            return
        if self._waiting and self._settled is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._settled.wait()
        task.cancel()
        await asyncio.wait([task])
        if self._waiting:
            logger.warning("Journal: stopped; %d note(s) were not written", len(self._waiting))
        if self._client is not None:
            await self._client.close()
            self._client = None

    def note(self, action: str, user_id: int | None, **details: Any) -> None:
        """Keep that ``user_id`` did ``action``, now."""
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append({"at": datetime.now(UTC), "action": action, "user_id": user_id, **details})
        if self._news is not None and self._settled is not None:
            self._news.set()
            self._settled.clear()

    async def latest(self, user_id: int | None, limit: int) -> list[dict[str, Any]]:
        """The last notes, newest first. Raises JournalUnavailableError."""
        query = {} if user_id is None else {"user_id": user_id}
        try:
            async with asyncio.timeout(SERVER_TIMEOUT + 1), self._collection() as collection:
                found = await collection.find(query).sort("at", -1).limit(limit).to_list(limit)
        except Exception as error:
            raise JournalUnavailableError(_said(error)) from error
        return [
            {**{name: value for name, value in note.items() if name != "_id"}, "at": note["at"].isoformat()}
            for note in found
        ]

    def figures(self) -> dict[str, Any]:
        """For ``/health``."""
        return {
            "written": self._written,
            "waiting": len(self._waiting),
            "dropped": self._dropped,
            "error": self._error,
        }

    async def _write(self) -> None:
        assert self._news is not None
        assert self._settled is not None
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                batch = list(islice(self._waiting, BATCH))
                try:
                    await self._insert(batch)
                except Exception as error:
                    self._failed(error)
                    self._settled.set()
                    await asyncio.sleep(full_jitter(self._failures, RETRY_BASE, RETRY_CAP))
                    continue
                for _ in batch:
                    self._waiting.popleft()
                self._written += len(batch)
                if self._failures:
                    self._failures, self._error = 0, None
                    logger.info("Journal: MongoDB answers again")
            self._settled.set()

    async def _insert(self, batch: list[dict[str, Any]]) -> None:
        from pymongo.errors import BulkWriteError

        async with self._collection() as collection:
            if not self._indexed:
                await collection.create_index([("at", 1)], expireAfterSeconds=KEPT_SECONDS)
                await collection.create_index([("user_id", 1), ("at", -1)])
                self._indexed = True
            try:
                await collection.insert_many(batch, ordered=False)
            except BulkWriteError as error:
                # A try whose answer was lost has written some; each note got its _id at the first try.
                if any(one["code"] != _DUPLICATE_KEY for one in error.details["writeErrors"]):
                    raise

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._error = _said(error)
        if self._failures == 1:
            logger.warning("Journal: MongoDB cannot be reached, so notes wait: %s", self._error)

    @contextlib.asynccontextmanager
    async def _collection(self) -> AsyncIterator[Any]:
        if self._pools is not None and self._pools.enabled:
            await self._pools.create_pool(  # nothing happens if it is there
                POOL_NAME, "mongodb", min_size=1, max_size=4, url=self._url, driver="pymongo",
                database=self._database, collection=COLLECTION, connect_timeout=SERVER_TIMEOUT,
            )  # fmt: skip
            async with self._pools.connection(POOL_NAME, timeout=SERVER_TIMEOUT) as lease:
                yield lease
            return
        if self._client is None:
            from pymongo import AsyncMongoClient

            milliseconds = int(SERVER_TIMEOUT * 1000)
            self._client = AsyncMongoClient(
                self._url, serverSelectionTimeoutMS=milliseconds, connectTimeoutMS=milliseconds
            )
        yield self._client[self._database][COLLECTION]


def _said(error: Exception) -> str:
    # Of a server that is away PyMongo tells pages; the first clause says it.
    return one_line(error, 200)
