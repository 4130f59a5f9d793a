"""What the optimizer learns from the queries of one connection, and where it answers them."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import ref

from bot.core._shared.errors import InvalidArgumentError, invalid
from bot.core._shared.masking import one_line
from bot.core.query_optimizer.execution.result_scopes import KnownScope, Scope, known, scope_key
from bot.core.query_optimizer.execution.results import hash_of
from bot.core.query_optimizer.execution.timing import STOPWATCH, database_time, took_in_all
from bot.core.query_optimizer.execution.transactions import Transaction
from bot.core.query_optimizer.instruments.sessions import alters, is_control, without_name
from bot.core.query_optimizer.models import CHANGES_ROWS, Analysis, QueryType
from bot.core.query_optimizer.service import QueryOptimizer

logger = logging.getLogger(__name__)

_numbers = itertools.count(1)
_SELECT = QueryType.SELECT

Run = Callable[[], Awaitable[Any]]

READING: ContextVar[tuple[Any, ...] | None] = ContextVar("instrument_reading", default=None)
"""The read for which a pool in this context leases a connection: who reads, text, parameters, variant."""


MAX_SCOPES = 2_000
"""Scopes that an instrument remembers: of each kind of read, for each tenant."""


class Options(NamedTuple):
    """How an object is instrumented; see ``instrument``."""

    cache: bool = False
    ttl: float | None = None
    """Seconds."""
    scope: Any = None
    tenant: Callable[[], Any] | None = None
    change_streams: bool | None = None
    """Of MongoDB; None: as it is set."""


def name_of(function: Any) -> str:
    """What a user's function is called in a message."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(function)


class Instrument:
    """What the connections of one instrumented object have in common."""

    def __init__(self, optimizer: QueryOptimizer, options: Options) -> None:
        self.is_on = True
        """False once it is undone."""
        self.number = next(_numbers)
        """Part of every key: what else its connections have in common cannot be known."""
        self.details: Any = None
        """What the driver's module keeps to undo it."""
        self.target = 0
        """The identity of the object."""
        self.sessions = Sessions()
        """Those of connections that have no attributes of their own."""
        self._told: set[str] = set()
        # The scope of reads by (place, class of the tenant, tenant), the oldest first; see scope_for.
        self._scopes: OrderedDict[tuple[Any, ...], KnownScope] = OrderedDict()
        self.change(optimizer, options)

    def change(self, optimizer: QueryOptimizer, options: Options) -> None:
        """Use these from now on."""
        self.optimizer = optimizer
        self.options = options
        self.cache = options.cache
        self._scopes.clear()
        scope = options.scope
        self.database = ""
        """The database that the scope names, as writes are filed by it."""
        if isinstance(scope, Scope) and scope.database is not None:
            self.database = scope_key(Scope(database=scope.database))[1]

    @property
    def ttl(self) -> float | None:
        """Seconds for its results; None: the configured time."""
        return self.options.ttl

    @property
    def change_streams(self) -> bool | None:
        """Whether results of MongoDB are kept only with a change stream; None: as it is set."""
        return self.options.change_streams

    def scope_for(self, place: tuple[Hashable, ...]) -> KnownScope | None:
        """The scope of a read on a connection of this ``place``; None if it cannot be told.

        The tenant is asked each time. What the rest comes to is remembered, since every read asks for it.
        """
        scope, tenant = self.options.scope, self.options.tenant
        try:
            told = None if tenant is None else tenant()
            if tenant is not None and told is None:
                raise invalid(f"{name_of(tenant)}()", told, "the tenant of a read, as a str or number")
            # 1, 1.0 and True are three tenants. Of other classes, what looks equal may differ inside.
            is_plain = told is None or told.__class__ is str or told.__class__ is int
            asked = place, told.__class__, told
            if is_plain and (found := self._scopes.get(asked)) is not None:
                return found
            given = scope if isinstance(scope, Scope) else Scope(tenant=scope)
            found = known(
                Scope(
                    database=given.database,
                    role=given.role,
                    tenant=(given.tenant, told),
                    search_path=(given.search_path, self.number, *place),
                )
            )
            if is_plain:
                if len(self._scopes) >= MAX_SCOPES:
                    self._scopes.popitem(last=False)
                self._scopes[asked] = found
        except InvalidArgumentError as error:
            self.tell_once("scope", "not cached: %s", f"{error}")
        except Exception as error:  # whatever the user's function raises
            said = f"{name_of(tenant)}() raised {type(error).__name__}: {error}"
            self.tell_once("tenant", "not cached: tenant() failed: %s", said)
        else:
            return found
        return None

    def tell_once(self, what: str, text: str, said: str) -> None:
        if what not in self._told:
            self._told.add(what)
            logger.warning(f"Instrument %d: {text}", self.number, one_line(said))


class Sessions:
    """The sessions of connections, each for as long as its connection lives.

    By identity: a WeakKeyDictionary does the same, and takes as long for a look-up as for half of what else
    is done for a query.
    """

    __slots__ = ("_alive", "by_id")

    def __init__(self) -> None:
        self.by_id: dict[int, Session] = {}
        """By the identity of the connection; only to look up those of connections that are at hand."""
        self._alive: dict[int, ref[Any]] = {}

    def __len__(self) -> int:
        return len(self.by_id)

    def get(self, connection: Any) -> Session | None:
        return self.by_id.get(id(connection))

    def __setitem__(self, connection: Any, session: Session) -> None:
        identity = id(connection)
        by_id, alive = self.by_id, self._alive

        def forget(gone: ref[Any]) -> None:
            # A connection that was made since may have the identity.
            if alive.get(identity) is gone:
                del alive[identity], by_id[identity]

        alive[identity] = ref(connection, forget)
        by_id[identity] = session


class Session:
    """One connection, as the optimizer sees it.

    For one call at a time, as the connection itself is. A write drops the results of its tables when it has
    run, and again when its transaction ends: only then do other connections see it. A write that was
    cancelled may still be running, so it counts as open until the connection's next answer.
    """

    __slots__ = ("in_transaction", "instrument", "is_altered", "is_resetting", "open", "place")

    def __init__(
        self,
        instrument: Instrument,
        in_transaction: Callable[[], bool],
        place: tuple[Hashable, ...] = (),
        *,
        is_altered: bool = False,
    ) -> None:
        self.instrument = instrument
        self.in_transaction = in_transaction
        """Whether the driver's connection is in a transaction, as the server last said."""
        self.place = place
        """What is known of the server's session: database, user, search path."""
        self.is_altered = is_altered
        """Whether the session may differ from that of another connection of the same place."""
        self.is_resetting = False
        """Whether what runs now are the driver's own statements, which restore the session."""
        # What was written in the transaction that is open, or by a statement whose end is unknown. Changed
        # by the methods below.
        self.open: Transaction | None = None

    @property
    def watches(self) -> bool:
        instrument = self.instrument
        return instrument.is_on and instrument.optimizer._enabled and not self.is_resetting

    def before(self) -> None:
        """A statement is about to run: note a transaction whose beginning was not seen."""
        if self.open is None and self.in_transaction():
            self.open = Transaction([0])
            self.open.anything = True

    # Whoever gets an awaitable from these awaits it before its caller goes on: the other instances are told.

    def answered(
        self,
        text: str,
        params: Any,
        start: float,
        rows: int,
        *,
        seconds: float | None = None,
        is_one: bool = True,
    ) -> Awaitable[Any] | None:
        """A statement has run that began at ``start``. ``seconds`` are what the database took; None: all of
        the time since. ``is_one`` is False for one that ran once for each set of parameters.
        """
        instrument = self.instrument
        optimizer = instrument.optimizer
        now = optimizer._now()
        if seconds is None:
            seconds = now - start
        analysis = optimizer._analyses.known_text(text)
        if analysis is None:
            text = without_name(text)
            analysis = optimizer._analyses.analyse(text, params)
        if STOPWATCH.get() is None:  # else an execution of the optimizer's counts this
            recorder = optimizer._recorder
            if recorder.tracer is not None:
                recorder.tracer.ran(analysis, text, seconds)
            apart: int | None = None
            if is_one:
                try:
                    # Executions are told apart by the hash, so that it is made once and nothing is kept.
                    apart = hash_of(instrument.number, text, params)
                except TypeError:  # parameters that cannot be told apart
                    apart = None
            else:
                params = None
            recorder.ran(analysis, text, params, apart, seconds * 1000, rows, now)
        if self.open is None and not analysis.writes_anything:
            # Most are plain reads and writes of rows, which leave the session as it was.
            kind = analysis.query_type
            is_read = kind is _SELECT and not analysis.writes
            if is_read or (kind in CHANGES_ROWS and analysis.writes and not analysis.transaction):
                if self.in_transaction():
                    self.open = Transaction([0])
                return None if is_read else self._wrote(analysis)
        return self._ran(analysis, text)

    def _ran(self, analysis: Analysis, text: str) -> Awaitable[Any] | None:
        inside = self.in_transaction()
        if analysis.query_type is QueryType.SELECT and not analysis.is_write:
            if inside:
                if self.open is None:
                    self.open = Transaction([0])
            elif self.open is not None:
                return self.settled()
            return None
        if not self.is_altered and alters(analysis, text):
            self.is_altered = True
            if self.instrument.cache:
                said = one_line(analysis.normal_form, 200)
                self.instrument.tell_once("altered", "no read of this connection is cached after: %s", said)
        if inside and self.open is None:
            self.open = Transaction([0])
        told = None
        if analysis.is_write and not (analysis.query_type is QueryType.TRANSACTION and is_control(text)):
            told = self._wrote(analysis)
        if self.open is not None:
            if not inside:
                return both(told, self.settled())
            if analysis.transaction == "implicit":
                # MySQL has committed, and MariaDB says that a transaction is still open.
                return both(told, self.instrument.optimizer._invalidation.ended(self.open))
        return told

    def _wrote(self, analysis: Analysis) -> Awaitable[Any] | None:
        invalidation = self.instrument.optimizer._invalidation
        database = self.instrument.database
        told = invalidation.written_by(analysis, database)
        if self.open is not None:
            invalidation.note(self.open, analysis, database)
        return told

    def failed(self, text: str, error: BaseException) -> Awaitable[Any] | None:
        """A statement raised ``error``; if it is a cancellation or a timeout, it may still be running."""
        text = without_name(text)
        analysis = self.instrument.optimizer._analyses.analyse(text)
        if isinstance(error, Exception) and not isinstance(error, TimeoutError):
            return self._ran(analysis, text)
        if not self.is_altered:
            self.is_altered = alters(analysis, text)
        if self.open is None:
            if not analysis.is_write:
                return None
            self.open = Transaction([0])
        told = self._wrote(analysis) if analysis.is_write else None
        return both(told, self.instrument.optimizer._invalidation.ended(self.open))

    def wrote_in_part(self, text: str) -> None:
        """A statement begins whose rows are read step by step, in a transaction."""
        text = without_name(text)
        analysis = self.instrument.optimizer._analyses.analyse(text)
        self.before()
        if analysis.is_write:
            if self.open is None:
                self.open = Transaction([0])
            invalidation = self.instrument.optimizer._invalidation
            invalidation.note(self.open, analysis, self.instrument.database)
        if not self.is_altered:
            self.is_altered = alters(analysis, text)

    def settled(self) -> Awaitable[Any] | None:
        """The server has answered: if no transaction is open, what was written can now be seen."""
        if self.open is None or self.in_transaction():
            return None
        ended, self.open = self.open, None
        return self.instrument.optimizer._invalidation.ended(ended)

    def was_closed(self) -> Awaitable[Any] | None:
        """The connection is closed, which rolls back."""
        if self.open is None:
            return None
        ended, self.open = self.open, None
        return self.instrument.optimizer._invalidation.ended(ended)

    def was_reset(self) -> Awaitable[Any] | None:
        """The session is as good as new: nothing that statements left in it is there any more."""
        self.is_altered = False
        return self.settled()

    async def run(
        self,
        text: str,
        params: Any,
        call: Run,
        *,
        is_one: bool = True,
        rows: Callable[[Any], int] | None = None,
        took: Callable[[], float] | None = None,
    ) -> Any:
        """Run a statement and note what it did. ``params`` are None or a sequence or mapping; ``rows`` tells
        how many rows the result of ``call`` has; None: those of a list. ``took`` tells how many seconds the
        database took; None: all of ``call``.
        """
        if self.open is None:
            self.before()
        start = self.instrument.optimizer._now()
        try:
            result = await call()
        except BaseException as error:
            self.broke(text, params, start, error)
            raise
        if self.watches:
            count = 0
            if rows is not None:
                count = rows(result)
            elif result.__class__ is list:
                count = len(result)
            seconds = None if took is None else took()
            told = self.answered(text, params, start, count, seconds=seconds, is_one=is_one)
            if told is not None:
                await asyncio.shield(told)
        return result

    def broke(self, text: str, params: Any, start: float, error: BaseException) -> None:
        """A statement that began at ``start`` raised ``error``."""
        if not self.watches:
            return
        optimizer = self.instrument.optimizer
        tracer = optimizer._recorder.tracer
        if tracer is not None and STOPWATCH.get() is None:
            tracer.ran(optimizer._analyses.analyse(text, params), text, optimizer._now() - start, error)
        in_background_if(self.failed(text, error))  # whoever is cancelled shall not wait

    async def settling(self, call: Run) -> Any:
        """Make a call that may end a transaction."""
        self.before()
        try:
            return await call()
        except asyncio.CancelledError:
            if self.open is not None:  # it may have committed
                in_background_if(self.instrument.optimizer._invalidation.ended(self.open))
            raise
        finally:
            if (told := self.settled()) is not None:
                await asyncio.shield(told)

    async def read(
        self,
        text: str,
        params: Any,
        variant: tuple[Hashable, ...],
        call: Run,
        took: Callable[[], float] | None = None,
    ) -> Any:
        """As :meth:`run`, from the cache if the database would give the same answer.

        ``variant`` tells apart what calls of the driver make of the same rows.
        """
        through, *read = READING.get() or (None,)
        if through is not None and read == [text, params, variant]:  # by a pool, which leased the connection
            with database_time():
                result = await call()
            if not self._is_plain():
                raise NotPlain(through, result)
            return result

        async def otherwise() -> Any:
            return await self.run(text, params, call, took=took)

        async def measured() -> Any:
            result = await call()
            if took is not None:
                took_in_all(took())
            return result

        return await self._answer(text, params, variant, measured, otherwise)

    async def read_through(self, text: str, params: Any, variant: tuple[Hashable, ...], call: Run) -> Any:
        """As :meth:`read`, for a pool; ``call`` leases a connection and reads on it."""

        async def leased() -> Any:
            token = READING.set((leased, text, params, variant))
            try:
                return await call()
            except NotPlain as found:
                if found.executor is not leased:
                    raise
                raise NotPlain(executed[0], found.result) from None
            finally:
                READING.reset(token)

        executed: list[Any] = []
        return await self._answer(text, params, variant, leased, call, executed)

    async def _answer(
        self,
        text: str,
        params: Any,
        variant: tuple[Hashable, ...],
        call: Run,
        otherwise: Run,
        executed: list[Any] | None = None,
    ) -> Any:
        instrument = self.instrument
        optimizer = instrument.optimizer
        if not (instrument.cache and optimizer._analyses.analyse(text, params).cacheable):
            return await otherwise()
        scope = instrument.scope_for((*self.place, *variant)) if self._is_plain() else None
        if scope is None:
            return await otherwise()

        async def executor(query: str, _: Any) -> Any:
            result = await call()
            # Also undone meanwhile: a connection that is not watched may be in any state.
            if not (self.watches and instrument.cache and self._is_plain()):
                raise NotPlain(executor, result)
            return result

        if executed is not None:
            executed.append(executor)
        try:
            return await optimizer.execute(text, params, executor, instrument.options.ttl, scope)
        except NotPlain as found:
            if found.executor is executor:
                return found.result
        return await otherwise()

    def _is_plain(self) -> bool:
        """Whether what this connection reads is what any other one of its place would read."""
        return not (self.is_altered or self.open is not None or self.in_transaction())


class NotPlain(Exception):
    """A read whose connection began a transaction, or changed its session, while it was waiting."""

    def __init__(self, executor: Any, result: Any) -> None:
        super().__init__("not to be shared")
        self.executor = executor
        self.result = result


def both(first: Awaitable[Any] | None, second: Awaitable[Any] | None) -> Awaitable[Any] | None:
    if first is None or second is None:
        return second if first is None else first
    return asyncio.gather(first, second)


_background: set[asyncio.Future[Any]] = set()


def in_background_if(told: Awaitable[Any] | None) -> None:
    if told is not None:
        in_background(told)


def in_background(told: Awaitable[Any]) -> None:
    """Let the other instances be told while nobody waits for it."""
    task = asyncio.ensure_future(told)
    _background.add(task)
    task.add_done_callback(_told)


def _told(task: asyncio.Future[Any]) -> None:
    _background.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("Other instances were not told of a write: %s", one_line(f"{error!r}"))
