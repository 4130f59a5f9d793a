"""Results of MongoDB collections: kept until a write to what they read, here or in another instance."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Protocol

from msgspec.structs import replace

from bot.core._shared.bounded_store import MAX_FREQUENCY
from bot.core._shared.masking import one_line
from bot.core.query_optimizer.execution.call import Call
from bot.core.query_optimizer.execution.execution import Execution
from bot.core.query_optimizer.execution.invalidation import Invalidation
from bot.core.query_optimizer.execution.recording import Recorder
from bot.core.query_optimizer.models import Analysis
from bot.core.query_optimizer.mongodb.change_streams import ChangeStreams
from bot.core.query_optimizer.mongodb.keys import Identity, NotCacheableError, key_of_arguments
from bot.core.query_optimizer.mongodb.samples import Keyed
from bot.core.query_optimizer.mongodb.sessions import may_still_happen, note_in_transaction
from bot.core.query_optimizer.mongodb.shapes import (
    EVERYTHING,
    analysis_of,
    filed_as,
    read_by_pipeline,
    reads_of,
    written_by_pipeline,
)
from bot.core.query_optimizer.sql.declarations import Declaration
from bot.core.query_optimizer.sql.names import NEVER

logger = logging.getLogger(__name__)

Run = Callable[[], Awaitable[Any]]

_PRIMARY = 0
_NEWEST = (None, "local", "linearizable")
"""Read concerns whose answers hold every acknowledged write; others may lag behind."""


UNSURE = 10.0
"""Seconds in which the server may still carry out a write whose answer never came."""

MAX_UNSURE = 1_000
"""Collections with such writes that are remembered one by one; beyond that, none is cached for that time."""


class MongoResults:
    """What the collections of one optimizer share. Its results are in the optimizer's own cache."""

    def __init__(
        self,
        now: Callable[[], float],
        is_on: Callable[[], bool],
        ttl: Callable[[], float],
        invalidation: Invalidation,
        execution: Execution,
        recorder: Recorder,
        loop: Callable[[], asyncio.AbstractEventLoop],
        change_streams: Callable[[], bool],
    ) -> None:
        self.now = now
        self.is_on = is_on
        self.ttl = ttl
        self.invalidation = invalidation
        self.execution = execution
        self.recorder = recorder
        self.loop = loop
        """The event loop to which listeners in threads hand what they hear, where nothing else tells it."""
        self.change_streams = change_streams
        """Whether results are kept only with a change stream, where it is not said otherwise."""
        self.streams = ChangeStreams(now, invalidation, self.client_number)
        # id of a client -> (the client, its number); a client that is gone leaves no number to another.
        self._clients: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._last_client = 0
        # Collections as filed -> until when a write may still be carried out; "" stands for all. Changed by
        # doubt. And the messages to other instances that are being sent.
        self._unsure: dict[str, float] = {}
        self._telling: set[asyncio.Future[Any]] = set()
        # Collections that are written together, as filed -> how many such writes are in progress. Changed by
        # begun and over.
        self._being_written: dict[frozenset[str], int] = {}
        # Whether results of collections may be kept at all: their readers set it, for good.
        self.has_readers = False
        # Whether a listener in a thread had no event loop to hand a command to. Changed by missed and answer.
        self.has_missed = False

    def client_number(self, client: Any) -> int:
        """A number that no other client has or had."""
        known = self._clients.get(id(client))
        if known is not None and known[0]() is client:
            return known[1]
        self._last_client += 1
        number, place, clients = self._last_client, id(client), self._clients

        def gone(reference: weakref.ref[Any]) -> None:
            if place in clients and clients[place][0] is reference:
                del clients[place]

        clients[place] = weakref.ref(client, gone), number
        return number

    def declare_view(self, name: str, behind: frozenset[str]) -> None:
        """The collection filed as ``name`` is a view over these."""
        if not behind <= self.invalidation.relations.read_by(frozenset((name,))):
            self.invalidation.declare_view(name, behind)

    def doubt(self, names: frozenset[str]) -> None:
        """A write to these collections was cancelled, or its connection was lost: it may still happen.

        Until it cannot, nothing that reads them is kept here; then the other instances are told once more.
        """
        unsure, now = self._unsure, self.now()
        for name in [name for name, until in unsure.items() if until <= now]:
            del unsure[name]
        for name in names:
            unsure[name if len(unsure) < MAX_UNSURE else ""] = now + UNSURE
        asyncio.get_running_loop().call_later(UNSURE, self._tell_again, names)

    def _tell_again(self, names: frozenset[str]) -> None:
        self.tell(self.ended(names))

    def tell(self, told: Awaitable[Any] | None) -> None:
        """Let the other instances be told of a write while nobody waits for it."""
        if told is not None:
            telling = asyncio.ensure_future(told)
            self._telling.add(telling)
            telling.add_done_callback(self._told)

    def _told(self, telling: asyncio.Future[Any]) -> None:
        self._telling.discard(telling)
        if not telling.cancelled() and (error := telling.exception()) is not None:
            logger.warning("Other instances were not told of a write: %s", one_line(error))

    def is_unsure(self, reads: frozenset[str]) -> bool:
        """Whether a write to what is read is in progress, or may still be carried out."""
        if not self._unsure and not self._being_written:
            return False
        now = self.now()
        names = (*self.invalidation.relations.read_by(reads), "")
        if not all(written.isdisjoint(names) for written in self._being_written):
            return True
        return any(self._unsure.get(name, 0.0) > now for name in names)

    def missed(self) -> None:
        """Called in a thread: a command may have written anything. The next reader drops what was kept."""
        self.has_missed = True

    def drop_missed(self) -> None:
        self.has_missed = False
        self.tell(self.ended(frozenset((EVERYTHING,))))
        logger.warning(
            "The results of all collections were dropped: a thread of motor reported a command, and the "
            "event loop in which the optimizer was enabled is closed. Use instrument(client), which knows "
            "its loop"
        )

    def begun(self, names: frozenset[str]) -> None:
        """A write to these begins: until it is ``over``, nothing that reads them is kept."""
        writing = self._being_written
        writing[names] = writing.get(names, 0) + 1
        # Where collections are only watched, and nothing is cached, it is enough to drop results at its end.
        if self.has_readers or self.invalidation.cache.live:
            self.invalidation.written(names, "")

    def over(self, names: frozenset[str]) -> None:
        writing = self._being_written
        left = writing.pop(names, 0) - 1
        if left > 0:
            writing[names] = left

    def ended(self, names: frozenset[str], database: str = "") -> Awaitable[Any] | None:
        """A transaction that wrote these collections has ended."""
        return self.invalidation.written_by(analysis_of("commit", "", "", {}, writes=names), database)

    def never_kept(self, analysis: Analysis, names: frozenset[str]) -> Analysis:
        """The analysis of a write without acknowledgement: the server may do it at any time."""
        never = frozenset((NEVER,))
        declares = tuple(Declaration("view", name, never) for name in sorted(names))
        analysis = replace(analysis, declares=declares)
        self.tell_declared(analysis, "it is written without acknowledgement")
        return analysis

    def tell_declared(self, analysis: Analysis, why: str = "its documents go without a write") -> None:
        """Say once that results of a collection are not kept from now on."""
        for _, name, others, _on in analysis.declares:
            known = self.invalidation.relations.read_by(frozenset((name,)))
            if NEVER in others and NEVER not in known:
                logger.warning("Results of %s are not cached from now on: %s", one_line(name), one_line(why))


class Reader(Protocol):
    """Who reads collections, if that is more than their client: an instrument."""

    is_on: bool
    cache: bool
    number: int
    database: str

    @property
    def change_streams(self) -> bool | None: ...

    @property
    def ttl(self) -> float | None: ...

    def scope_for(self, place: tuple[Hashable, ...]) -> Any: ...


class CollectionResults:
    """The results of one collection, as one client with one set of options reads it."""

    __slots__ = (
        "_change_streams",
        "_client",
        "_codec",
        "_name",
        "_own",
        "_reader",
        "_ttl",
        "_why_not",
        "client",
        "database",
        "driver",
        "filed",
        "shared",
    )

    def __init__(
        self,
        shared: MongoResults,
        driver: Any,
        ttl: float | None,
        reader: Reader | None = None,
        change_streams: bool | None = None,
    ) -> None:
        self.shared = shared
        shared.has_readers = True
        self._change_streams = change_streams
        self._reader = reader
        self.driver = driver
        """The driver's collection."""
        self._ttl = ttl
        self.database: str = driver.database.name
        self._name: str = driver.name
        self.filed = filed_as(self.database, self._name)
        """The name under which its results are filed."""
        self.client = driver.database.client
        # All clients of an instrument count as one: those of a pool's leases differ.
        self._client: Hashable = (
            shared.client_number(self.client) if reader is None else ("instrument", reader.number)
        )
        self._own = reads_of(self.database, self._name)
        self._codec = Identity(driver.codec_options)
        newest = driver.read_preference.mode == _PRIMARY and driver.read_concern.level in _NEWEST
        self._why_not = "" if newest else "its read preference or read concern allows older data"

    def of(self, driver: Any) -> CollectionResults:
        """The same for another collection, or one with other options."""
        return CollectionResults(self.shared, driver, self._ttl, self._reader, self._change_streams)

    def key(self, method: str, arguments: Mapping[str, Any]) -> Hashable:
        """The key of a read's result. Raises NotCacheableError."""
        if self._why_not:
            raise NotCacheableError(self._why_not)
        client = self._client
        if self._reader is not None:
            scope = self._reader.scope_for(())
            if scope is None:
                raise NotCacheableError("its scope cannot be told")
            client = client, self.shared.invalidation.scope_of(scope)[0]
        parts = key_of_arguments(arguments)
        return self.filed, (CollectionResults, client, self._codec, method, parts)

    def may_keep(self, method: str, arguments: Mapping[str, Any]) -> bool:
        """Whether the result of a read may be cached."""
        try:
            self.key(method, arguments)
            self._reads(method, arguments)
        except NotCacheableError:
            return False
        return True

    def _reads(self, method: str, arguments: Mapping[str, Any]) -> frozenset[str]:
        reads = self._own
        if method == "aggregate":
            reads |= read_by_pipeline(arguments.get("pipeline"), self.database)
        return reads

    async def answer(
        self,
        method: str,
        arguments: Mapping[str, Any],
        run: Run,
        keep: Callable[[Any], bool] | None = None,
        otherwise: Run | None = None,
        why_not: str = "",
    ) -> Any:
        """The result from the cache, or that of ``await run()``.

        With ``keep`` the run is not shared with other callers, and its result is kept if ``keep`` says so.
        ``otherwise`` replaces ``run`` if the result must not be cached. With a reason in ``why_not`` it is
        only counted.
        """
        shared, reader = self.shared, self._reader
        if not shared.is_on() or (reader is not None and not (reader.is_on and reader.cache)):
            return await (otherwise or run)()
        if shared.has_missed:
            shared.drop_missed()
        key: Hashable = None
        reads = self._own
        ttl, database = (self._ttl, "") if reader is None else (reader.ttl, reader.database)
        seconds = shared.ttl() if ttl is None else ttl
        try:
            if why_not:
                raise NotCacheableError(why_not)
            key = self.key(method, arguments)
            entry = shared.invalidation.live.get(key)
            if entry is not None and entry.expires_at > shared.now():
                if entry.frequency < MAX_FREQUENCY:
                    entry.frequency += 1
                shared.recorder.hits += 1
                if (tracer := shared.recorder.tracer) is not None:
                    tracer.hit(analysis_of(method, self.database, self._name, arguments, reads=reads))
                return entry.value if entry.thaw is None else entry.thaw(entry.value)
            reads = self._reads(method, arguments)
            if shared.is_unsure(reads):
                raise NotCacheableError("a write to it may still be carried out")
            self._see_to_a_stream(seconds)
        except NotCacheableError as error:
            key, why_not, run = None, str(error), otherwise or run
        analysis = analysis_of(
            method, self.database, self._name, arguments, reads=reads, not_cacheable=why_not
        )
        call = Call(
            analysis.normal_form,
            None if key is None else Keyed(key),
            _executor(run),
            analysis,
            key,
            seconds,
            database,
        )
        shared.recorder.watch(call, shared.now())
        tracer = shared.recorder.tracer
        if tracer is not None:
            return await tracer.around(analysis, lambda: self._run(call, keep))
        return await self._run(call, keep)

    def _see_to_a_stream(self, seconds: float) -> None:
        """Have writes of other programs told while a result is kept, if that is wanted."""
        shared, reader = self.shared, self._reader
        wanted = self._change_streams if reader is None else reader.change_streams
        if shared.change_streams() if wanted is None else wanted:
            why_not = shared.streams.watch(self.client, self.database, seconds)
            if why_not:
                raise NotCacheableError(why_not)

    async def _run(self, call: Call, keep: Callable[[Any], bool] | None) -> Any:
        if keep is not None and call.key is not None:
            return await self.shared.execution.run_alone(call, keep)
        return await self.shared.execution.run(call)

    def written_by(self, pipeline: Any) -> frozenset[str]:
        """The collections that a pipeline writes, as filed."""
        return written_by_pipeline(pipeline, self.database)

    async def write(
        self, method: str, run: Run, names: frozenset[str], session: Any, arguments: Mapping[str, Any]
    ) -> Any:
        """``await run()``, which writes the collections filed as ``names``."""
        shared, reader = self.shared, self._reader
        if session is not None:
            note_in_transaction(session, shared, names, shared.ended, shared.doubt)
        if not shared.is_on() or (reader is not None and not reader.is_on):
            try:
                return await run()
            finally:
                if shared.is_on():  # by now, and reads may have been kept since
                    shared.tell(shared.ended(names))
        analysis = analysis_of(method, self.database, self._name, arguments, writes=names)
        if not self.driver.write_concern.acknowledged:
            # The server may do it at any time after the driver returned.
            analysis = shared.never_kept(analysis, names)
        database = "" if reader is None else reader.database
        call = Call(analysis.normal_form, None, _executor(run), analysis, None, database=database)
        tracer = shared.recorder.tracer
        try:
            if tracer is not None:
                return await tracer.around(analysis, lambda: shared.execution.run(call))
            return await shared.execution.run(call)
        except BaseException as error:
            if may_still_happen(error):
                shared.doubt(names)
            raise


def _executor(run: Run) -> Callable[[str, Any], Awaitable[Any]]:
    async def execute(query: str, params: Any) -> Any:
        return await run()

    return execute
