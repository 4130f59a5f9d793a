"""Writes of other programs, as MongoDB's change streams tell of them.

A stream is opened for a database when a result of it is about to be kept, and closed when none can be left.
Results of the database are kept only while its stream is open. When the stream breaks off, or the server has
not answered for ``SILENT`` seconds, they are dropped; when it is back, once more, and then it goes on.

The driver resumes a stream once by itself, with the stream's resume token, after a network error or an error
that the server marks as resumable. That counts as an interruption, too: the server that answers then may be
another one, and what was read from the first may have been rolled back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from inspect import isawaitable
from typing import Any, Literal, NamedTuple

import pymongo
from bson.codec_options import CodecOptions
from pymongo import ReadPreference
from pymongo.errors import InvalidOperation, PyMongoError
from pymongo.read_concern import ReadConcern

from bot.core._shared.backoff import full_jitter
from bot.core._shared.loop_owner import still_runs
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks, to_the_end
from bot.core.query_optimizer.execution.invalidation import Invalidation
from bot.core.query_optimizer.mongodb.changes import (
    PIPELINE,
    is_resumable,
    why_unavailable,
    written_by_event,
)
from bot.core.query_optimizer.mongodb.shapes import whole_database

logger = logging.getLogger(__name__)

State = Literal["opening", "open", "lost", "unavailable"]

AWAIT = 1.0
"""Seconds after which the server answers if there was no event."""

SILENT = 5.0
"""Seconds without an answer after which a stream counts as lost."""

BATCH = 500
"""Events of one answer: as many are handled in one turn of the event loop."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds between two attempts to open a stream that is lost: the longest first one, and the longest."""

CLOSING = 5.0
"""Seconds that closing a stream may take."""

MAX_STREAMS = 20
"""Streams of one optimizer. Results of further databases are not kept."""

PROBE_AGAIN = 3_600.0
"""Seconds after which a server without change streams is asked again."""

_PLAIN: CodecOptions[dict[str, Any]] = CodecOptions(unicode_decode_error_handler="replace")


class StreamCounts(NamedTuple):
    """Figures of the streams: how many are in which state; what was counted since the start or a reset."""

    open: int = 0
    lost: int = 0
    """Those that are being opened for the first time are among them: nothing is kept either."""
    unavailable: int = 0
    events: int = 0
    resumes: int = 0
    gaps: int = 0


class ChangeStreams:
    """The change streams of one optimizer, one for each client and database that needs it.

    For the event loop's thread. A stream is a task of the loop in which its first read was.
    """

    def __init__(
        self, now: Callable[[], float], invalidation: Invalidation, number_of: Callable[[Any], int]
    ) -> None:
        self._now = now
        self._invalidation = invalidation
        self._number_of = number_of
        # (number of a client, database) -> its stream. Changed by watch, end, stop and the streams' own end.
        self._streams: dict[tuple[int, str], ChangeStream] = {}
        self._tasks = BackgroundTasks()
        self._told: set[str] = set()
        self.events = 0
        """Events received since the start or the last reset, those of own writes among them."""
        self.resumes = 0
        """Interruptions after which a stream went on where it was."""
        self.gaps = 0
        """Interruptions of which it is unknown what was written meanwhile: the stream began anew."""

    def watch(self, client: Any, database: str, seconds: float) -> str:
        """A result of this database is about to be kept for so long: see that there is a stream.

        Returns why it must not be kept; "": it may be, as soon as the stream is open.
        """
        key = self._number_of(client), database
        now = self._now()
        found = self._streams.get(key)
        loop = asyncio.get_running_loop()
        if found is not None and found.loop is not loop and not still_runs(found.loop):
            found.forget()  # its loop has ended, and with it its task
            found = None
        if found is not None and found.state == "unavailable" and found.until <= now:
            del self._streams[key]
            found = None
        if found is None:
            self._forget_unavailable(now)
            if len(self._streams) >= MAX_STREAMS:
                self.tell_once(
                    f"{MAX_STREAMS} databases of MongoDB have change streams: "
                    f"results of others are not cached"
                )
                return "as many change streams are open as may be"
            found = self._streams[key] = ChangeStream(self, key, client, self._invalidation, loop)
            found.until = now + seconds
            found.task = self._tasks.spawn(found.run(), name=f"change stream of {database}")
        elif found.state != "unavailable" and found.until < now + seconds:
            found.until = now + seconds
        return ""

    def _forget_unavailable(self, now: float) -> None:
        for key, stream in list(self._streams.items()):
            if stream.state == "unavailable" and stream.until <= now:
                del self._streams[key]

    def forget(self, stream: ChangeStream) -> None:
        if self._streams.get(stream.key) is stream:
            del self._streams[stream.key]

    def open_for(self, number: int) -> int:
        """How many streams a client has, which each use a connection of it."""
        return sum(
            1 for key, each in self._streams.items() if key[0] == number and each.state != "unavailable"
        )

    def end(self, client: Any) -> None:
        """The client is no longer watched. Its streams end at once, and their tasks soon after."""
        number = self._number_of(client)
        for stream in [each for key, each in self._streams.items() if key[0] == number]:
            stream.forget()
            stream.cancel()

    async def stop(self) -> None:
        """End all streams, in whichever event loop they run."""
        for stream in list(self._streams.values()):
            stream.forget()
        await self._tasks.stop()

    def tell_once(self, text: str) -> None:
        if text not in self._told and len(self._told) < 1_000:
            self._told.add(text)
            logger.warning("%s", one_line(text, 1000))

    def unavailable(self) -> list[str]:
        """A sentence for each database that has no stream although it should."""
        return sorted({each.why_not for each in self._streams.values() if each.state == "unavailable"})

    def counts(self) -> StreamCounts:
        states = [each.state for each in self._streams.values()]
        is_open, unavailable = states.count("open"), states.count("unavailable")
        lost = len(states) - is_open - unavailable
        return StreamCounts(is_open, lost, unavailable, self.events, self.resumes, self.gaps)

    def reset(self) -> None:
        self.events = self.resumes = self.gaps = 0

    @property
    def now(self) -> float:
        return self._now()


class GapError(Exception):
    """The stream is over, and cannot go on where it was."""


class ChangeStream:
    """One database, watched through one client.

    While it is not ``open``, no result of the database is kept: it says so before its first ``await``, and
    takes it back when it ends, in whatever way.
    """

    def __init__(
        self,
        streams: ChangeStreams,
        key: tuple[int, str],
        client: Any,
        invalidation: Invalidation,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.key = key
        self.loop = loop
        self.task: asyncio.Task[None] | None = None
        self.until = 0.0
        """When the last of its results has expired; of one that is unavailable, when to ask again."""
        self.state: State = "opening"
        self.why_not = ""
        self._streams = streams
        self._client = client
        self._invalidation = invalidation
        self._name = key[1]
        self._names = frozenset((whole_database(key[1]),))
        self._is_held = True
        invalidation.hold(self._names)
        # What the events of one turn of the loop concern. Changed by _note and _flush.
        self._written: set[str] = set()
        self._token: Mapping[str, Any] | None = None
        # The driver's cursor within the stream: another one means that the driver has resumed it.
        self._cursor: Any = None
        self._heard_at = 0.0
        self._failures = 0
        # The call of motor's that runs in a thread, where it cannot be cancelled.
        self._call: asyncio.Future[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # From outside.

    def forget(self) -> None:
        """It is no longer in use: nothing is held back for it."""
        self._streams.forget(self)
        if self.state == "open":
            self._drop()  # nobody will tell of the next write
        self.state = "lost"
        self.until = 0.0
        self._release()

    def cancel(self) -> None:
        task = self.task
        if task is None or task.done():
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the task gone with it
            if asyncio._get_running_loop() is self.loop:
                task.cancel()
            else:
                self.loop.call_soon_threadsafe(task.cancel)

    # What is kept.

    def _drop(self) -> None:
        self._invalidation.written(self._names, "")

    def _release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._invalidation.release(self._names)

    def _lose(self, why: str) -> None:
        """It is unknown what is written from now on; without a reason, because nobody needs to know."""
        was, self.state = self.state, "lost"
        if not self._is_held:
            self._is_held = True
            self._invalidation.hold(self._names)
        self._drop()
        if was != "lost" and why:
            logger.warning(
                "MongoDB's change stream of %s is lost: nothing of it is cached until it is back (%s)",
                one_line(self._name), one_line(why),
            )  # fmt: skip

    def _opened(self) -> None:
        """Every write from now on is told."""
        was, self.state = self.state, "open"
        self._drop()
        self._release()
        if was != "open":
            logger.info("MongoDB's change stream of %s is open", one_line(self._name))

    def _note(self, event: Mapping[str, Any]) -> None:
        self._streams.events += 1
        if not self._written:
            self.loop.call_soon(self._flush)
        self._written |= written_by_event(event, self._name)

    def _flush(self) -> None:
        written, self._written = self._written, set()
        self._invalidation.written(written, "")

    # The task.

    async def run(self) -> None:
        try:
            while self.until > self._streams.now:
                try:
                    await self._follow()
                except Exception as error:
                    if not self._goes_on(error):
                        return
                    self._failures += 1
                    await asyncio.sleep(full_jitter(self._failures, FIRST_PAUSE, LONGEST_PAUSE))
        finally:
            if self.state != "unavailable":
                self.forget()
            self._release()
            self._client = None

    def _goes_on(self, error: Exception) -> bool:
        """Whether there is to be a further attempt after this error."""
        if isinstance(error, InvalidOperation):  # the client is closed
            return False
        streams = self._streams
        why_not = why_unavailable(error)
        if why_not:
            self._is_unavailable(why_not)
            return False
        if self._token is None or not is_resumable(error):
            # A first attempt that failed has missed nothing.
            streams.gaps += self.state == "open" or self._token is not None
            self._token = None
        self._lose(one_line(error))
        return True

    def _is_unavailable(self, why: str) -> None:
        if self.state == "open":
            self._drop()
        self.state = "unavailable"
        self.until = self._streams.now + PROBE_AGAIN
        self.why_not = (
            f"no change stream of MongoDB's database {one_line(self._name)}: {why}. "
            f"What other programs write there is not seen, and results may be as old as their time to live"
        )
        self._streams.tell_once(self.why_not)
        self._release()

    async def _follow(self) -> None:
        """Open the stream and hear it until no result is left. Raises what it ends with."""
        patience, why_not = self._patience()
        if why_not:
            self._is_unavailable(why_not)
            raise InvalidOperation(why_not)
        database = self._client.get_database(
            self._name,
            codec_options=_PLAIN,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern(),
        )
        token = self._token
        self._cursor = None
        self._heard_at = self.loop.time()
        stream = database.watch(
            PIPELINE, resume_after=token, max_await_time_ms=int(patience * 1000), batch_size=BATCH
        )
        in_thread = not isawaitable(stream)
        self._expect()
        try:
            if not in_thread:
                stream = await stream
                self._answered(stream, token)
            while self.until > self._streams.now:
                event = await (self._in_thread(stream) if in_thread else stream.try_next())
                self._answered(stream, token)
                self._failures = 0
                if event is not None:
                    self._note(event)
                    if event.get("operationType") == "invalidate":
                        raise GapError("the database was dropped")
            self._lose("")  # until it is known that no read came while it is being closed
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if not isawaitable(stream):
                self._token = stream.resume_token if self._cursor is not None else token
                await to_the_end(self._closed(stream))

    def _patience(self) -> tuple[float, str]:
        """(seconds for which the server may hold back its answer, why there can be no stream)"""
        options = self._client.options
        pool = options.pool_options
        if pool.max_pool_size is not None and self._streams.open_for(self.key[0]) >= pool.max_pool_size:
            return (
                0.0,
                f"it needs a connection of its own, and the client's maxPoolSize is {pool.max_pool_size}",
            )
        limits = [each / 2 for each in (pool.socket_timeout, options.timeout) if each]
        return min([AWAIT, *limits]), ""

    async def _in_thread(self, stream: Any) -> Any:
        call = self._call = asyncio.ensure_future(stream.try_next())
        return await asyncio.shield(call)

    async def _closed(self, stream: Any) -> None:
        """Close the stream, as far as the server can be reached."""
        call, self._call = self._call, None
        if call is not None:
            # Closed during this, the driver would open a further cursor.
            await asyncio.wait([call], timeout=CLOSING)
            if not call.done():
                return  # the connection is dead, and the cursor with it
            if not call.cancelled():
                call.exception()
        with contextlib.suppress(PyMongoError, OSError, TimeoutError):
            async with asyncio.timeout(CLOSING):
                await stream.close()

    def _answered(self, stream: Any, token: Any) -> None:
        """The server has answered."""
        self._heard_at = self.loop.time()
        before = self._cursor
        self._cursor = getattr(getattr(stream, "delegate", stream), "_cursor", None)
        if self._cursor is None:
            self._is_unavailable(f"PyMongo {pymongo.version} does not show when it resumes a stream")
            raise InvalidOperation(self.why_not)
        if before is None:
            self._streams.resumes += token is not None
            self._opened()
        elif self._cursor is not before:
            self._streams.resumes += 1
            self._opened()
        elif self.state != "open":
            self._opened()

    def _expect(self) -> None:
        """See from time to time that the server still answers."""
        due = self.loop.time() + AWAIT
        self._timer = self.loop.call_at(due, self._look, due)

    def _look(self, due: float) -> None:
        now = self.loop.time()
        # A loop that was busy for a second may have an answer that it has not read yet.
        if now - self._heard_at > SILENT and now - due < AWAIT and self.state == "open":
            self._lose(f"no answer for {SILENT:g} s")
        self._expect()
