"""What the optimizer learns from the commands of a MongoDB client, as the driver's listeners hear of them."""

from __future__ import annotations

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from msgspec import Struct
from pymongo.monitoring import CommandListener

from bot.core.query_optimizer.execution.call import Call
from bot.core.query_optimizer.execution.timing import STOPWATCH
from bot.core.query_optimizer.mongodb.commands import HARMLESS, Commands, Seen
from bot.core.query_optimizer.mongodb.samples import Arguments, values_of
from bot.core.query_optimizer.mongodb.wire_transactions import (
    WireTransaction,
    WireTransactions,
    transaction_in,
)

if TYPE_CHECKING:
    from pymongo.monitoring import CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent

    from bot.core.query_optimizer.mongodb.results import MongoResults

MAX_CURSORS = 1_000
"""Cursors with batches to come whose time is added to that of their query."""

MAX_PENDING = 10_000
"""Commands in progress; beyond that, the oldest tenth is forgotten, as if these had been cancelled."""

LOST = 600.0
"""Seconds after which a command without an end counts as cancelled."""

SWEEP = 1.0
"""Seconds between two searches for such commands."""


class Origin(NamedTuple):
    """Where a call of a driver with threads comes from."""

    loop: asyncio.AbstractEventLoop
    site: str


ORIGIN: ContextVar[Origin | None] = ContextVar("mongodb_call", default=None)
"""The call in this context, which the threads of motor inherit."""


class View(Protocol):
    """How a client is watched."""

    is_on: bool
    number: int
    database: str
    """The database of its tables, as writes are filed by it; "" if unknown."""


class Pending(Struct, eq=False):
    """A command in progress."""

    name: str
    command: Mapping[str, Any]
    seen: Seen | None
    arguments: Any
    values: Hashable
    """What tells the arguments apart, if it is known."""
    start: float
    transaction: WireTransaction | None = None
    task: weakref.ref[asyncio.Task[Any]] | None = None
    """Of a write: the task that runs it, to notice that it does so no longer."""
    place: int = 0
    """The identity of that task."""
    key: Hashable = None
    """Its own, among the commands in progress."""


class Listener(CommandListener):
    """Counts and times the commands of a client, and drops the results that they make wrong.

    The driver calls it in the task that runs the command (PyMongo), before that task goes on; or in a thread
    (motor), which hands everything to the event loop, again before its caller goes on. It raises nothing.

    PyMongo before 4.20 says nothing of a command that was cancelled. So the results that a write concerns are
    dropped when it begins, too, and none is kept while it runs; one whose task has ended or runs another
    command was cancelled.
    """

    def __init__(self, shared: MongoResults, view: View | None = None) -> None:
        self.shared = shared
        self.view = view
        self._commands = Commands()
        self._transactions = WireTransactions()
        # Commands in progress. Changed by started, succeeded, failed; in motor's threads, too: each step is
        # one operation on a dict.
        self._pending: dict[Any, Pending] = {}
        # Of these, the writes of tasks: by the task's identity. For the event loop only, as is
        # everything below.
        self._writing: dict[int, Pending] = {}
        self._swept = 0.0
        # id of a cursor with batches to come -> its query, and the milliseconds so far.
        self._cursors: OrderedDict[int, list[Any]] = OrderedDict()

    # What the driver calls.

    def started(self, event: CommandStartedEvent) -> None:
        name = event.command_name
        if name in _NOT_COUNTED and name not in _CONTROL:
            return
        shared, view = self.shared, self.view
        if not shared.is_on() or (view is not None and not view.is_on):
            return
        command = event.command
        seen: Seen | None = None
        arguments = values = None
        if name not in _NOT_COUNTED:
            seen, arguments, values = self._commands.read(name, command, event.database_name)
            if seen is None:
                return
        pending = Pending(name, command, seen, arguments, values, shared.now())
        if "autocommit" in command:
            pending.transaction = transaction_in(command)
        if len(self._pending) >= MAX_PENDING:
            self._forget_oldest()
        key = event.request_id, event.server_connection_id
        self._pending[key] = pending
        if self._writing or (seen is not None and seen.written):
            loop = asyncio._get_running_loop()
            if loop is not None:
                self._began(key, pending, loop)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pending = self._pending.pop((event.request_id, event.server_connection_id), None)
        if pending is not None:
            # A write that a task began ends in it.
            if pending.task is not None or asyncio._get_running_loop() is not None:
                self._succeeded(pending, None, event.duration_micros / 1000, event.reply)
            else:
                self._on_loop(self._succeeded, pending, event.duration_micros / 1000, event.reply)

    def failed(self, event: CommandFailedEvent) -> None:
        pending = self._pending.pop((event.request_id, event.server_connection_id), None)
        if pending is not None:
            # A server's answer has a code; what the driver itself noticed has the name of an error.
            failure = event.failure
            if self.shared.recorder.tracer is not None and pending.seen is not None:
                kind = str(failure.get("errtype") or failure.get("codeName") or "OperationFailure")
                details = event.duration_micros / 1e6, kind, failure.get("code")
                self._on_loop(self._trace_failure, pending, *details)
            self._on_loop(self._failed, pending, "errtype" not in failure and not _is_doubtful(failure))

    def _on_loop(self, act: Callable[..., None], pending: Pending, *details: Any) -> None:
        if asyncio._get_running_loop() is not None:
            act(pending, None, *details)
            return
        origin = ORIGIN.get()
        loop = self.shared.loop() if origin is None else origin.loop
        try:
            loop.call_soon_threadsafe(act, pending, origin, *details)
        except RuntimeError:  # it is closed
            self.shared.missed()

    # The beginnings of writes, on the event loop.

    def _began(self, key: Any, pending: Pending, loop: asyncio.AbstractEventLoop) -> None:
        # To look for the running loop takes a system call, before Python 3.12.
        task, seen = asyncio.current_task(loop), pending.seen
        if self._writing:
            self._sweep(pending.start, task)
        if task is None or seen is None or not seen.written:
            return
        place = id(task)
        pending.task, pending.place, pending.key = weakref.ref(task), place, key
        self._writing[place] = pending
        self.shared.begun(seen.written)

    def _sweep(self, now: float, task: asyncio.Task[Any] | None) -> None:
        """Find writes that were cancelled without a word: this task runs another one, or the task is gone."""
        own = self._writing.get(id(task))
        lost = [] if own is None else [own]
        if now - self._swept >= SWEEP:
            self._swept = now
            for each in self._writing.values():
                known = None if each.task is None else each.task()
                if each is not own and (known is None or known.done() or now - each.start > LOST):
                    lost.append(each)
        for pending in lost:
            if self._pending.pop(pending.key, None) is not None:
                self._failed(pending, None, is_certain=False)

    def _forget_oldest(self) -> None:
        # Many at once, since the way to the first of a dict grows with what was taken out before it.
        for key in list(self._pending)[: MAX_PENDING // 10]:
            pending = self._pending.pop(key, None)
            if pending is not None:  # else a thread of the driver was quicker
                self._on_loop(self._failed, pending, False)

    def _over(self, pending: Pending, seen: Seen) -> None:
        """A write is over whose beginning was noted."""
        if self._writing.get(pending.place) is pending:
            del self._writing[pending.place]
        self.shared.over(seen.written)

    # The ends, on the event loop.

    def _succeeded(
        self, pending: Pending, origin: Origin | None, milliseconds: float, reply: Mapping[str, Any]
    ) -> None:
        seen = pending.seen
        if seen is None:
            name = pending.name
            if name == "getMore":
                self._more(pending, milliseconds, reply)
            elif name == "killCursors":
                for number in pending.command.get("cursors") or ():
                    self._cursors.pop(number, None)
            else:
                self._ended(pending, is_certain=True)
            return
        if pending.task is not None:
            self._over(pending, seen)
        if STOPWATCH.get() is None:  # else an execution of the optimizer's counts it
            if (tracer := self.shared.recorder.tracer) is not None:
                tracer.ran(seen.analysis, "", milliseconds / 1000)
            self._record(pending, seen, origin, milliseconds, reply)
        if pending.transaction is not None:
            self._transactions.note(pending.transaction, seen.written)
        if seen.written:
            self._wrote(pending, seen)

    def _trace_failure(
        self, pending: Pending, origin: Origin | None, seconds: float, kind: str, code: Any
    ) -> None:
        tracer = self.shared.recorder.tracer
        if tracer is not None and pending.seen is not None and STOPWATCH.get() is None:
            tracer.failed(pending.seen.analysis, seconds, kind, code)

    def _failed(self, pending: Pending, origin: Origin | None, is_certain: bool) -> None:
        """It failed; unless ``is_certain``, it may still be carried out."""
        seen = pending.seen
        if seen is None:
            if pending.name in ("commitTransaction", "abortTransaction"):
                self._ended(pending, is_certain=is_certain)
            return
        if pending.task is not None:
            self._over(pending, seen)
        if pending.transaction is not None:
            self._transactions.note(pending.transaction, seen.written)
        if seen.written:
            self._wrote(pending, seen)
            if not is_certain:
                self.shared.doubt(seen.written)

    def _wrote(self, pending: Pending, seen: Seen) -> None:
        shared, view = self.shared, self.view
        analysis = seen.analysis
        concern = pending.command.get("writeConcern")
        if concern is not None and isinstance(concern, Mapping) and concern.get("w") == 0:
            analysis = shared.never_kept(analysis, seen.written)
        elif analysis.declares:
            shared.tell_declared(analysis)
        told = shared.invalidation.written_by(analysis, "" if view is None else view.database)
        if told is not None:
            shared.tell(told)

    def _ended(self, pending: Pending, *, is_certain: bool) -> None:
        """A transaction has ended, or may have."""
        if pending.transaction is None:
            return
        is_commit = pending.name == "commitTransaction"
        names = self._transactions.end(pending.transaction, keep=not is_certain)
        if names and is_commit:
            database = "" if self.view is None else self.view.database
            self.shared.tell(self.shared.ended(names, database))
            if not is_certain:
                self.shared.doubt(names)

    # Counting.

    def _record(
        self,
        pending: Pending,
        seen: Seen,
        origin: Origin | None,
        milliseconds: float,
        reply: Mapping[str, Any],
    ) -> None:
        shared, view = self.shared, self.view
        analysis = seen.analysis
        params = key = apart = None
        if pending.arguments is not None:
            values = values_of(pending.arguments) if pending.values is None else pending.values
            if values is not None:
                params = Arguments(seen.method, pending.arguments)
                key = (0 if view is None else view.number), analysis.fingerprint, values
                apart = hash(key)
        site = "" if origin is None else origin.site
        if seen.has_cursor:
            number, rows = _answered(reply)
        else:
            number, count = 0, reply.get("n")
            rows = count if count.__class__ is int else _answered(reply)[1]
        now = pending.start + milliseconds / 1000
        shared.recorder.ran(analysis, analysis.normal_form, params, apart, milliseconds, rows, now, site)
        if number and seen.has_cursor:
            if len(self._cursors) >= MAX_CURSORS:
                self._cursors.popitem(last=False)
            kept = None if params is None else params.kept()
            call = Call(analysis.normal_form, kept, None, analysis, key, site=site)
            self._cursors[number] = [call, milliseconds]

    def _more(self, pending: Pending, milliseconds: float, reply: Mapping[str, Any]) -> None:
        """A further batch of a cursor: a part of its query."""
        known = self._cursors.get(pending.command["getMore"])
        if known is None:
            return
        call, before = known
        known[1] = before + milliseconds
        number, rows = _answered(reply)
        self.shared.recorder.lengthen(call, before, before + milliseconds, rows)
        if not number:
            self._cursors.pop(pending.command["getMore"], None)


_CONTROL = frozenset(("getMore", "killCursors", "commitTransaction", "abortTransaction"))
"""Commands that are about others."""

_NOT_COUNTED = HARMLESS | _CONTROL


def _is_doubtful(failure: Mapping[str, Any]) -> bool:
    return "UnknownTransactionCommitResult" in (failure.get("errorLabels") or ())


def _answered(reply: Mapping[str, Any]) -> tuple[int, int]:
    """(the cursor that has further batches, or 0; how many documents came, or how many a write concerned)"""
    cursor = reply.get("cursor")
    if cursor is not None:
        batch = cursor.get("firstBatch")
        if batch is None:
            batch = cursor.get("nextBatch")
        return cursor.get("id") or 0, len(batch) if batch.__class__ is list else 0
    found = reply.get("values")
    if found.__class__ is list:
        return 0, len(found)
    number = reply.get("n")
    if number.__class__ is int:
        return 0, number
    return 0, int(reply.get("value") is not None)
