"""Repeats the changes and messages that Redis missed, because it was unreachable or refused them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from bot.core._shared.backoff import exponential
from bot.core._shared.tasks import BackgroundTasks
from bot.core.cache_manager.backplane import Backplane
from bot.core.cache_manager.failures import Failures
from bot.core.cache_manager.keys import every_key, is_lock
from bot.core.redis_link import RedisLink

SCAN_COUNT = 1000

RETRY_FIRST, RETRY_LONGEST = 0.1, 5.0
"""Seconds between two attempts to repeat what Redis refused."""

MAX_UNSYNCED = 10_000
"""Most keys remembered that changed while Redis was unreachable; if there are more, the whole cache in Redis
is dropped.
"""


class Resync:
    """The keys changed here whose change Redis missed, until it has dropped them.

    Until then Redis holds outdated values under them, so no read trusts these.
    """

    def __init__(self, link: RedisLink, backplane: Backplane, failures: Failures) -> None:
        self._link = link
        self._backplane = backplane
        self._failures = failures
        self.in_step = True
        """Whether Redis has every change made here. Changed only by missed*, untold and _forget."""
        # Each with the number of its last change. Changed only by missed and _forget.
        self._unsynced: dict[bytes, int] = {}
        self._changes = 0
        # The change since which any key may be outdated; 0: none. Changed only by missed* and run.
        self._unsynced_all = 0
        # Whether other instances may not have heard of a change. Changed only by untold and run.
        self._untold = False
        # Topics of other services of which a message may not have arrived. Changed only by untold_of and run.
        self._untold_topics: set[str] = set()
        # Set when Redis accepts a change after it refused one.
        self._accepted: asyncio.Event | None = None
        # At most one task, which retries until Redis has every change. Spawned only by _keep_trying.
        self._tasks = BackgroundTasks()
        self._stopped = False
        self._forget_moves = link.on_move(self._moved)

    def outdated(self, at: bytes) -> bool:
        """Whether Redis holds an outdated value under a key."""
        return bool(self._unsynced_all) or at in self._unsynced

    def missed(self, at: Iterable[bytes]) -> None:
        """Redis may have missed a change of these keys."""
        self.in_step = False
        for key in at:
            self._changes += 1
            if len(self._unsynced) >= MAX_UNSYNCED:
                self._unsynced_all = self._changes
                break
            self._unsynced[key] = self._changes
        self._keep_trying()

    def missed_all(self) -> None:
        """Redis may have missed a change of some keys, and it is unknown which."""
        self.in_step = False
        self._changes += 1
        self._unsynced_all = self._changes
        self._keep_trying()

    def untold(self) -> None:
        """Redis may have made a change without telling the other instances."""
        self.in_step = False
        self._untold = True
        self._keep_trying()

    def untold_of(self, topic: str) -> None:
        """The other instances may have missed a message of another service."""
        self.in_step = False
        self._untold_topics.add(topic)
        self._keep_trying()

    def taken(self, at: Iterable[bytes]) -> None:
        """Redis accepted a change of these keys, but may have missed others."""
        self._forget(at)
        if self._accepted is not None:
            self._accepted.set()

    async def run(self) -> None:
        """Drop in Redis the keys whose changes it missed."""
        keys, everything, untold = dict(self._unsynced), self._unsynced_all, self._untold
        topics = sorted(self._untold_topics)
        if not keys and not everything and not untold and not topics:
            return
        self._untold = False  # one that comes meanwhile needs a message after this one
        self._untold_topics.difference_update(topics)
        try:
            if everything:
                await self._drop_everything()
            at = list(keys)
            for start in range(0, len(at), SCAN_COUNT):
                part = [key for key in at[start : start + SCAN_COUNT] if key in self._unsynced]
                await self._link.unlink(part)
            if keys or everything or untold:
                await self._link.execute(*self._backplane.message("all", "", []))
            for topic in topics:
                await self._link.execute(*self._backplane.message("lost", topic, []))
        except BaseException as error:
            self._untold = self._untold or untold
            self._untold_topics.update(topics)
            # What was taken meanwhile left nothing to be told, as it seemed.
            self._forget(())
            self._keep_trying()
            if not isinstance(error, Exception):
                raise
            self._failures.failed(error)
            return
        # Only now, and only what did not change again meanwhile: until then no read trusts these keys.
        if everything == self._unsynced_all:
            self._unsynced_all = 0
        self._forget([key for key, change in keys.items() if self._unsynced.get(key) == change])

    async def stop(self) -> None:
        """Stop retrying."""
        self._stopped = True
        self._forget_moves()
        await self._tasks.stop()

    def _forget(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._unsynced.pop(key, None)
        self.in_step = not (self._unsynced or self._unsynced_all or self._untold or self._untold_topics)

    async def _drop_everything(self) -> None:
        root = self._link.root_bytes
        async for found in self._link.scan(every_key(root), SCAN_COUNT):
            # Locks stay: no change was missed in them, and their holders are at work.
            await self._link.unlink([key for key in found if not is_lock(key, root)])

    def _moved(self) -> None:
        # The tasks of the event loop before have ended with it.
        self._tasks.abandon()
        if not self.in_step:
            self._keep_trying()

    def _keep_trying(self) -> None:
        if not self._stopped and not self._tasks:
            self._tasks.spawn(self._until_in_step(), name="cache-make-good")

    async def _until_in_step(self) -> None:
        """A return of an unreachable server is noticed; of one that refuses it is not, so this retries."""
        accepted = self._accepted = asyncio.Event()
        attempts = 0
        while not self.in_step:
            attempts += 1
            accepted.clear()
            # At least this long, since some servers accept one command and always refuse another.
            await asyncio.sleep(RETRY_FIRST)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(exponential(attempts, RETRY_FIRST, RETRY_LONGEST)):
                    await accepted.wait()
            if self._link.complete:
                await self.run()
