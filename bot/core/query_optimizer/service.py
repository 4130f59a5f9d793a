"""The query optimizer: results cached until a write, one run for many callers, figures per shape."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bot.core._shared.bounded_store import MAX_FREQUENCY
from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import InvalidArgumentError, invalid
from bot.core._shared.validation import valid_seconds
from bot.core.phase4_config.query_optimizer import QueryOptimizerSettings
from bot.core.phase4_service import Phase4Service
from bot.core.phase4_statistics.query_optimizer import QueryOptimizerFigures
from bot.core.query_optimizer.analyses import Analyses, advice_on_document
from bot.core.query_optimizer.arguments import (
    functions_of,
    milliseconds_of,
    names_of,
    relations_of,
    valid_query,
)
from bot.core.query_optimizer.details import details_of
from bot.core.query_optimizer.execution.call import Call
from bot.core.query_optimizer.execution.execution import Execution, Executor
from bot.core.query_optimizer.execution.invalidation import AfterWrite, Invalidation
from bot.core.query_optimizer.execution.n_plus_one import NPlusOnePattern, Request
from bot.core.query_optimizer.execution.offered import OfferedResults
from bot.core.query_optimizer.execution.recording import Recorder
from bot.core.query_optimizer.execution.results import key_of
from bot.core.query_optimizer.execution.transactions import Transactions, TransactionScope
from bot.core.query_optimizer.figures import figures_of
from bot.core.query_optimizer.graphql.texts import is_graphql
from bot.core.query_optimizer.models import OptimizationResult, QueryDetails, QueryType, SlowQuery
from bot.core.query_optimizer.preload import Preload
from bot.core.query_optimizer.sql.comments import untagged
from bot.core.query_optimizer.stats import has_parameters

if TYPE_CHECKING:
    from bot.core.query_optimizer.execution.tracing import Tracer
    from bot.core.query_optimizer.mongodb.collection import CachedCollection
    from bot.core.query_optimizer.mongodb.listening import Listener
    from bot.core.query_optimizer.mongodb.results import MongoResults
    from bot.core.query_optimizer.plans.prepare import Explainer


class QueryOptimizer(Phase4Service):
    """Analyses queries and caches their results. While it is off, queries are just executed.

    A cached result is private to the cache: each caller gets a copy of what is mutable (lists, dicts and
    sets; other objects by ``copy.deepcopy``), so no caller can change what another gets.

    This class answers hits itself and delegates everything else. :class:`Analyses` knows what texts mean,
    :class:`Invalidation` which results a write drops, :class:`Execution` runs queries,
    :class:`OfferedResults` takes results that callers read themselves, and :class:`Recorder` counts.
    """

    service_name: ClassVar[str] = "query_optimizer"
    flag: ClassVar[str] = "ENABLE_QUERY_OPTIMIZER"
    while_off: ClassVar[str] = "queries are run and nothing is cached or counted"

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._now = clock.monotonic
        self._settings = QueryOptimizerSettings()
        self._transactions = Transactions()
        self._in_transaction = self._transactions.running
        self._preload = Preload()
        self._analyses = Analyses()
        self._invalidation = Invalidation(self._analyses, self._transactions, self._now)
        self._recorder = Recorder(clock, self._analyses, self._invalidation, self._transactions)
        self._execution = Execution(
            self._now, self._analyses, self._invalidation, self._transactions, self._recorder
        )
        self._offered = OfferedResults(
            self._now, self._invalidation, self._transactions, self._execution, self._recorder
        )
        self._mongodb: MongoResults | None = None
        self._loop: Any = None  # the event loop in which it was enabled last
        # ``live`` of the invalidation, here because each look-up takes it.
        self._live: dict[Hashable, Any] = {}

    # Lifecycle.

    async def enable(
        self,
        *,
        cache_ttl: float | None = None,
        cache_max_size_mb: float | None = None,
        cache_max_entries: int | None = None,
        slow_query_threshold: float | None = None,
        detect_n_plus_one: bool | None = None,
        dialect: str | None = None,
        n_plus_one_threshold: int | None = None,
        n_plus_one_window: float | None = None,
        n_plus_one_total: float | None = None,
        views: Mapping[str, Collection[str]] | None = None,
        cascades: Mapping[str, Collection[str]] | None = None,
        pure_functions: Collection[str] | None = None,
        graphql_max_depth: int | None = None,
        graphql_max_complexity: int | None = None,
        query_timeout: float | None = None,
        catalog_max_age: float | None = None,
        tracing: bool | None = None,
        mongodb_change_streams: bool | None = None,
    ) -> bool:
        """Switch on, or reconfigure; None leaves what was set before.

        ``cache_ttl`` (300) and ``slow_query_threshold`` (1.0) are seconds; the cache holds at most
        ``cache_max_entries`` (10,000) results of ``cache_max_size_mb`` (50) MB together; ``dialect``
        is "postgres", "mysql", "sqlite" or "" (any). ``n_plus_one_threshold`` (10) is how many different
        values of one query within ``n_plus_one_window`` (2.0) seconds of one request are an N+1 pattern, or
        in all of it if they took ``n_plus_one_total`` (2.0) seconds together.
        ``views`` and ``cascades`` are what :meth:`declare_view` and :meth:`declare_cascade` take, by
        name; ``pure_functions`` names functions of the database's own that change nothing and depend on
        their arguments alone. GraphQL operations deeper than ``graphql_max_depth`` (50) fields or of a
        complexity over ``graphql_max_complexity`` (10,000) are not executed. A read that callers share is
        given up after ``query_timeout`` (120) seconds, 0: never. What an explainer read of the catalog counts
        for ``catalog_max_age`` (300) seconds. ``tracing`` (off) makes OpenTelemetry spans of queries. With
        ``mongodb_change_streams`` (off), results of MongoDB are dropped by writes of other programs, too, if
        the server has change streams. Raises ValueError for values out of bounds, MisuseError if
        opentelemetry-api is missing.
        """
        async with self._transition:
            settings = self._settings.changed(
                cache_ttl=cache_ttl,
                cache_max_size_mb=cache_max_size_mb,
                cache_max_entries=cache_max_entries,
                slow_query_threshold=slow_query_threshold,
                detect_n_plus_one=detect_n_plus_one,
                dialect=dialect,
                n_plus_one_threshold=n_plus_one_threshold,
                n_plus_one_window=n_plus_one_window,
                n_plus_one_total=n_plus_one_total,
                views=views,
                cascades=cascades,
                pure_functions=pure_functions,
                graphql_max_depth=graphql_max_depth,
                graphql_max_complexity=graphql_max_complexity,
                query_timeout=query_timeout,
                catalog_max_age=catalog_max_age,
                tracing=tracing,
                mongodb_change_streams=mongodb_change_streams,
            )
            tracer = self._new_tracer() if settings.tracing else None
            speaks = settings.dialect
            # Those of an earlier call have been declared.
            behind = [] if views is None else relations_of("views", settings.views, speaks)
            along = [] if cascades is None else relations_of("cascades", settings.cascades, speaks)
            pure = functions_of(settings.pure_functions)
            if self._settings.mongodb_change_streams and not settings.mongodb_change_streams:
                await self._end_change_streams()
            self._settings = settings
            self._recorder.configure(settings)
            self._execution.timeout = settings.query_timeout or None
            self._invalidation.catalog.max_age = settings.catalog_max_age
            self._analyses.limit(settings.graphql_max_depth, settings.graphql_max_complexity)
            invalidation = self._invalidation
            if self._analyses.read_as(speaks, pure):
                invalidation.cache.write_anything()  # cached while the same texts were read differently
            for name, tables in behind:
                invalidation.declare_view(name, tables)
            for name, tables in along:
                invalidation.declare_cascade(name, tables)
            invalidation.resize(settings.cache_max_size_mb, settings.cache_max_entries)
            invalidation.switch_on()
            self._live = invalidation.live
            self._loop = asyncio.get_running_loop()
            self._trace_with(tracer)
            self._switched_on()
            self._preload.soon(speaks)
        return True

    async def disable(self) -> bool:
        """Switch off and drop every cached result. Executions in progress still end, for the callers that
        wait for them.
        """
        async with self._transition:
            self._enabled = False
            self._trace_with(None)
            self._invalidation.switch_off()
            self._live = self._invalidation.live  # before anything is awaited: nothing is answered any more
            self._offered.lookups.clear()
            self._execution.rest()
            self._analyses.forget()
            if self._invalidation.plans is not None:
                self._invalidation.plans.forget()
            try:
                await self._end_change_streams()
            finally:
                await self._preload.ended()
        return True

    async def _end_change_streams(self) -> None:
        if self._mongodb is not None:
            await self._mongodb.streams.stop()

    def warnings(self) -> list[str]:
        """The databases that have no change stream although they should."""
        return [] if self._mongodb is None else self._mongodb.streams.unavailable()

    def _new_tracer(self) -> Tracer:
        from bot.core.query_optimizer.execution.tracing import Tracer

        return Tracer(lambda: self._analyses.dialect)

    def _trace_with(self, tracer: Tracer | None) -> None:
        """Make spans with this, or none. While it is off, :meth:`execute` does not even look."""
        self._recorder.tracer = tracer
        self.__dict__.pop("execute", None)
        if tracer is not None:
            self.__dict__["execute"] = tracer.traced(self.execute, self._analyses.analyse)

    # What the text of a query does not tell.

    async def declare_view(self, name: str, *tables: str) -> None:
        """``name`` is a view over ``tables``: a write to one of them drops the results that read it.

        "*" stands for any table. A view whose CREATE passes through the optimizer is known without this.
        Raises InvalidArgumentError for what is no table's name.
        """
        names, others = self._named("name", (name,)), self._named("tables", tables, any_table=True)
        for each in names:
            self._invalidation.declare_view(each, others)

    async def declare_cascade(self, table: str, *tables: str) -> None:
        """A write to ``table`` changes ``tables`` too ("*": any): by a trigger, a foreign key, a partition.

        Raises InvalidArgumentError for what is no table's name.
        """
        names, others = self._named("table", (table,)), self._named("tables", tables, any_table=True)
        for each in names:
            self._invalidation.declare_cascade(each, others)

    def _named(self, argument: str, names: Collection[str], *, any_table: bool = False) -> list[str]:
        return names_of(argument, names, self._analyses.dialect, any_table=any_table)

    def request(self) -> Request:
        """``with optimizer.request():`` marks what runs inside as one request, for the N+1 detection.

        It is needed where one task handles many requests, as the workers of some bot frameworks do. A task
        that handles one request needs no mark.
        """
        return self._recorder.detector.request()

    def transaction(self) -> TransactionScope:
        """``async with optimizer.transaction(), connection.transaction():`` for transactions of the driver.

        Other connections see what is written inside only after the commit, so the affected results are
        dropped from the cache again at the end. Reads inside are not cached, and reads of tables that were
        written inside are not answered from the cache. It is not needed if BEGIN and COMMIT pass through
        :meth:`execute` as texts.
        """
        return TransactionScope(self._transactions, self._invalidation.ended)

    # Analysis.

    async def analyze_query(
        self, query: str | Mapping[str, Any] | Sequence[Any], params: Any = None, scope: Any = None
    ) -> OptimizationResult:
        """What the query is and how to improve it: findings, index suggestions, a better form.

        A MongoDB filter, pipeline or command is a dict or a list, and ``params`` its options: ``collection``,
        ``sort``, ``limit``, ``skip``, ``projection``. Any text gets an answer. With an explainer
        (:meth:`explain_with`) a SELECT that is new is explained first, which takes the time of a few round
        trips, and no longer than the explainer's timeout. While the optimizer is off, the answer is UNKNOWN
        and the query itself. ``scope`` is accepted so that all calls can have the same arguments; the advice
        does not depend on it.
        """
        if not self._enabled:
            self._used_while_off()
        elif scope is not None:
            self._invalidation.scope_of(scope)
        if not isinstance(query, str):
            if not isinstance(query, Mapping | list | tuple):
                raise TypeError(f"query = {query!r:.100}: expected a string, a dict or a list")
            document = advice_on_document(query, params) if self._enabled else None
            return _unknown(query) if document is None else document.result(self._settings.cache_ttl)
        if not self._enabled:
            return _unknown(query)
        advice = self._analyses.advise(query, params)
        repeated = self._recorder.saved_by_caching(advice.analysis)
        plans = self._invalidation.plans
        plan = None if plans is None else await plans.evidence_for(advice, params)
        patterns = self._recorder.n_plus_one_of(advice.analysis)
        return advice.result(self._settings.cache_ttl, patterns, repeated, plan)

    @property
    def dialect(self) -> str:
        """The dialect in which texts are read; "" is what all databases have in common."""
        return self._analyses.dialect

    _dialect = dialect  # the name that scripts print it by

    def explain_with(self, explainer: Explainer | None, dialect: str = "", *, timeout: float = 2.0) -> None:
        """Let :meth:`analyze_query` ask a database for the plans of SELECTs; None stops that.

        ``await explainer([(sql, parameters), ...])`` runs statements in order on one connection and answers
        with the rows of each, as sequences; ``dialect`` is "postgres", "mysql" or "sqlite". It is given
        EXPLAIN (never ANALYZE), look-ups in the catalog, and counts over at most 10,000 rows of a table. If
        it raises, only the evidence is missing. ``timeout`` is seconds for one query's evidence, remembered
        per fingerprint for five minutes. Raises ValueError for any other dialect.
        """
        if explainer is None:
            self._invalidation.plans = None
            self._invalidation.read_catalog_from(None, "", timeout)
            return
        from bot.core.query_optimizer.plans import explain

        if dialect not in explain.DIALECTS:
            raise invalid("dialect", dialect, f"one of {explain.DIALECTS}")
        seconds = valid_seconds("timeout", timeout)
        self._invalidation.plans = explain.PlanReader(explainer, dialect, self._now, timeout=seconds)
        self._invalidation.read_catalog_from(explainer, dialect, seconds)

    async def learn_catalog(self) -> bool:
        """Read the database's catalog: views, partitions, cascading keys, triggers, functions.

        Asks the explainer of :meth:`explain_with`; False without one, or if it failed or timed out. This is
        done automatically before the first look-up, and again after a statement that may have defined views
        in a way that cannot be read. Call it after another program changed the schema.
        """
        return await self._invalidation.learn_catalog()

    def _key(self, query: str, params: Any, scope: Any) -> Hashable:
        """The key of a result. Raises TypeError as ``key_of`` does."""
        key = self._analyses.key_of(query, params)
        return key if scope is None else (self._invalidation.scope_of(scope)[0], key)

    def _hidden(self, query: str) -> bool:
        """Whether this context is in a transaction that wrote what the query reads."""
        return bool(self._in_transaction[0]) and self._invalidation.hides(self._analyses.analyse(query))

    # Results.

    async def get_cached_result(self, query: str, params: Any = None, scope: Any = None) -> Any:
        """The cached result of the query, a private copy if it is mutable; None if there is none.

        A miss opens a look-up, which lets this caller (see :mod:`.lookups`) cache what it then reads, by
        :meth:`cache_query_result`. ``scope`` says whose view of the data it is, as in :meth:`execute`.
        """
        key: Hashable = query
        try:
            if params is None is scope:
                entry = self._live.get(query)
            elif scope is None:
                key = key_of(query, params)
                entry = self._live.get(key)
            else:
                entry = self._live.get(self._key(query, params, scope)) if self._enabled else None
        except (InvalidArgumentError, MemoryError):
            raise
        except Exception:
            return None  # parameters that cannot be compared are never cached
        if entry is not None and entry.expires_at > self._now() and not self._in_transaction[0]:
            if entry.frequency < MAX_FREQUENCY:
                entry.frequency += 1
            self._recorder.hits += 1
            return entry.value if entry.thaw is None else entry.thaw(entry.value)
        if not self._enabled:
            self._used_while_off()
            return None
        if self._invalidation.catalog.due <= self._now():
            await self._invalidation.learn_catalog()
        if scope is not None or is_graphql(query) or untagged(query) is not query:
            key = self._key(query, params, scope)
        # Look again, by the exact key: it may be GraphQL, or be read in a transaction.
        entry = self._live.get(key)
        if entry is not None and entry.expires_at > self._now() and not self._hidden(query):
            self._recorder.hits += 1
            return entry.value if entry.thaw is None else entry.thaw(entry.value)
        self._offered.missed(key)
        return None

    async def cache_query_result(
        self,
        query: str,
        result: Any,
        ttl: float | None = None,
        params: Any = None,
        scope: Any = None,
        *,
        fresh: bool = False,
    ) -> bool:
        """Keep a result for ``ttl`` seconds (default: the configured one) or until a write.

        It is kept only if no table that the query reads was written since this caller's
        :meth:`get_cached_result` of it missed; each miss serves one result. Without a look-up, the caller can
        say ``fresh=True``: no table that it read was written since. Returns False, and keeps nothing, if that
        does not hold, if the query's result must not be cached (a write, a locking read, a function such as
        now()), or if the result is too large or cannot be copied.
        """
        valid_query(query)
        seconds = self._settings.cache_ttl if ttl is None else valid_seconds("ttl", ttl)
        if not isinstance(fresh, bool):
            raise invalid("fresh", fresh, "True or False")
        if not self._enabled:
            self._used_while_off()
            return False
        database = "" if scope is None else self._invalidation.scope_of(scope)[1]
        try:
            key = self._key(query, params, scope)
            hash(key)
        except (InvalidArgumentError, MemoryError):
            raise
        except Exception:
            return False
        analysis = self._analyses.analyse(query, params)
        call = Call(query, params, None, analysis, key, seconds, database)
        return self._offered.offer(call, result, fresh=fresh)

    async def execute(
        self, query: str, params: Any, executor: Executor, ttl: float | None = None, scope: Any = None
    ) -> Any:
        """Answer a query from the cache, or by ``await executor(query, params)``.

        Concurrent callers of the same read share one execution and get a copy each. After a write has run,
        every result that read what it wrote is dropped, also if the write failed or was cancelled, since it
        may have written. Queries that must not be cached are executed each time. Errors of the executor reach
        the caller and are not cached. A result is cached only if the parameters are plain data. Raises
        QueryTimeoutError for a read that may be cached and takes longer than the timeout (:meth:`enable`): it
        is cancelled, and the next caller starts a new one. An execution's time is what the executor takes, or
        what it spends ``with database_time():``. ``params`` of a GraphQL query are its variables, or a dict
        with ``variables`` and ``operation_name``; raises QueryTooComplexError, without executing, for what
        exceeds the limits.

        ``scope`` says whose view of the data it is, if the same text can give different results: a role, a
        tenant, a search_path (a str, a number, a tuple), or a :class:`Scope`, which may name a database. Each
        scope has its own results. A write drops the results of its tables in every scope, since scopes may
        share tables; a write in a database that a :class:`Scope` names does not drop results of other
        databases.
        """
        if not self._enabled:
            return await self._execute_while_off(query, params, executor)
        valid_query(query)
        if ttl is not None:
            ttl = valid_seconds("ttl", ttl)
        database = ""
        try:
            key: Hashable = query if params is None else key_of(query, params)
            if scope is not None:
                place, database = self._invalidation.scope_of(scope)
                key = place, key
            entry = self._live.get(key)
        except (InvalidArgumentError, MemoryError):
            raise
        except Exception:
            key = entry = None  # parameters that cannot be told apart are never cached
            if scope is not None:
                database = self._invalidation.scope_of(scope)[1]
        if (
            entry is not None
            and entry.expires_at > self._now()
            and not (self._in_transaction[0] and self._hidden(query))
        ):
            if entry.frequency < MAX_FREQUENCY:
                entry.frequency += 1
            self._recorder.hits += 1
            return entry.value if entry.thaw is None else entry.thaw(entry.value)
        if self._invalidation.catalog.due <= self._now():
            await self._invalidation.learn_catalog()
        analysis = self._analyses.analyse(query, params)
        if self._invalidation.relations.awaits_catalog:
            await self._invalidation.inform(analysis)
        if analysis.graphql is not None or untagged(query) is not query:
            if key is not None:
                key = self._key(query, params, scope)
                entry = self._live.get(key)
                if entry is not None and entry.expires_at > self._now() and not self._hidden(query):
                    self._recorder.hits += 1
                    return entry.value if entry.thaw is None else entry.thaw(entry.value)
            if analysis.graphql is not None:
                self._analyses.refuse_excess(analysis, query, params)
        seconds = self._settings.cache_ttl if ttl is None else ttl
        call = Call(query, params, executor, analysis, key, seconds, database)
        self._recorder.watch(call, self._now())
        return await self._execution.run(call)

    async def _execute_while_off(self, query: str, params: Any, executor: Executor) -> Any:
        self._used_while_off()
        try:
            result = await executor(query, params)
        except BaseException:
            self._ended_unseen(query, params, waits=False)
            raise
        told = self._ended_unseen(query, params)
        if told is not None:
            await asyncio.shield(told)
        return result

    def _ended_unseen(self, query: object, params: Any, *, waits: bool = True) -> Awaitable[Any] | None:
        """Drop what was cached before a statement ended that began while this was off, if it is on now."""
        if not self._enabled:
            return None
        if not isinstance(query, str):
            self._invalidation.cache.write_anything()
            return None
        return self._invalidation.ended_unseen(self._analyses.analyse(query, params), waits=waits)

    def collection(
        self,
        collection: Any,
        *,
        ttl: float | None = None,
        view_of: Collection[str] = (),
        change_streams: bool | None = None,
    ) -> CachedCollection:
        """A MongoDB collection (PyMongo's async client, or motor) whose reads are cached until a write.

        Use it in place of the driver's, for reads and writes; what it does not cache is passed on. ``ttl``
        is seconds for its results (default: the configured one); ``view_of`` names the collections behind
        it, if it is a view. ``change_streams`` is that of :func:`instrument`. Raises InvalidArgumentError for
        anything else.
        """
        if ttl is not None:
            ttl = valid_seconds("ttl", ttl)
        from bot.core.query_optimizer.mongodb.collection import cached

        return cached(self._mongodb_results(), collection, ttl, view_of, change_streams)

    def mongodb_listener(self) -> Listener:
        """A command listener for a MongoDB client: ``AsyncMongoClient(url, event_listeners=[listener])``.

        It counts and times what the client does, and drops the results that its writes concern. Each
        listener serves one client, of PyMongo or of motor.
        """
        from bot.core.query_optimizer.mongodb.listening import Listener

        return Listener(self._mongodb_results())

    def _mongodb_results(self) -> MongoResults:
        if self._mongodb is None:
            from bot.core.query_optimizer.mongodb.results import MongoResults

            self._mongodb = MongoResults(
                self._now,
                self._in_use,
                lambda: self._settings.cache_ttl,
                self._invalidation,
                self._execution,
                self._recorder,
                lambda: self._loop,
                lambda: self._settings.mongodb_change_streams,
            )
        return self._mongodb

    def _in_use(self) -> bool:
        if not self._enabled:
            self._used_while_off()
        return self._enabled

    # Writes of others.

    def after_write(self, hook: AfterWrite | None) -> None:
        """Call ``hook`` with the tables of each write ("*" for any), to tell other instances.

        Give the list to their :meth:`written_elsewhere`: further items may name the database, and what the
        statement defined. The hook's result is awaited before the writer goes on. None removes the hook.
        """
        self._invalidation.after_write = hook

    def written_elsewhere(self, tables: list[str] | None) -> None:
        """Another instance wrote these tables; None or "*": any of them."""
        self._invalidation.written_elsewhere(tables)

    async def invalidate_tables(self, *tables: str, scope: Any = None) -> int:
        """Another program wrote these tables: drop the results that read them; returns how many.

        Names are as in SQL: ``users`` in any schema, ``shop.users`` in one, ``"Users"`` exactly; ``*`` is any
        table. If ``scope`` names a database, only results of that database are dropped.
        """
        names = self._named("tables", tables, any_table=True)
        database = "" if scope is None else self._invalidation.scope_of(scope)[1]
        return self._invalidation.written(names, database)

    async def invalidate_collections(self, *collections: Any) -> int:
        """Another program wrote these MongoDB collections: drop the results that read them; returns how many.

        Collections are a driver's, or those of :meth:`collection`.
        """
        from bot.core.query_optimizer.mongodb.shapes import filed_as

        names = [filed_as(each.database.name, each.name) for each in collections]
        return self._invalidation.written(names, "")

    async def clear_cache(self) -> int:
        """Drop every cached result; returns how many."""
        return self._invalidation.cache.write_anything()

    # Figures.

    async def record_execution(
        self,
        query: str,
        execution_time_ms: float | None = None,
        result_count: int = 0,
        cache_hit: bool = False,
        scope: Any = None,
        *,
        execution_time: float | None = None,
    ) -> bool:
        """Count an execution that was measured elsewhere; a cache hit counts as a hit only.

        The time is ``execution_time_ms`` milliseconds or ``execution_time`` seconds: give one of them. The
        same query in another ``scope`` is not a repetition. False, and nothing counted, while the optimizer
        is off. Raises InvalidArgumentError.
        """
        valid_query(query)
        milliseconds = milliseconds_of(execution_time_ms, execution_time)
        if not self._enabled:
            self._used_while_off()
            return False
        if cache_hit:
            self._recorder.hits += 1
            return True
        key = query if scope is None else (self._invalidation.scope_of(scope)[0], query)
        analysis = self._analyses.analyse(query)
        told_apart = None if has_parameters(query) else key
        call = Call(query, None, None, analysis, key)
        self._recorder.watch(call, self._now())
        self._recorder.record(call, milliseconds, result_count, told_apart)
        return True

    async def get_slow_queries(self, threshold: float | None = None) -> list[SlowQuery]:
        """Query shapes that took at least ``threshold`` seconds once (default: the configured one)."""
        seconds = self._settings.slow_query_threshold if threshold is None else threshold
        return self._recorder.statistics.slow_queries(seconds * 1000)

    async def describe_query(self, fingerprint: str) -> QueryDetails | None:
        """Everything known about a shape of :meth:`get_slow_queries` or :meth:`get_n_plus_one_patterns`.

        Its call sites, advice on the latest such query, and its plan if there is an explainer
        (:meth:`explain_with`), which takes a few round trips for a new shape. None if the shape is not known,
        or no longer.
        """
        if not self._enabled:
            self._used_while_off()
            return None
        plans = self._invalidation.plans
        return await details_of(fingerprint, self._analyses, self._recorder, plans, self._settings.cache_ttl)

    def snapshot(self) -> QueryOptimizerFigures:
        """Counts since the start or the last reset; rates are percent of look-ups."""
        recorder, store = self._recorder, self._invalidation.cache.store
        found, hits, misses = recorder.detector.total, recorder.hits, recorder.missed
        streams = None if self._mongodb is None else self._mongodb.streams.counts()
        return figures_of(recorder.statistics, hits, misses, store, found, streams, enabled=self._enabled)

    async def reset_statistics(self) -> None:
        """Set the counters and the figures of each shape to zero; cached results stay."""
        store = self._invalidation.cache.store
        store.evictions = store.expirations = 0
        self._recorder.clear()
        if self._mongodb is not None:
            self._mongodb.streams.reset()

    async def get_n_plus_one_patterns(self) -> list[NPlusOnePattern]:
        """N+1 patterns found since the start or the last reset, the one with most repetitions first."""
        return self._recorder.patterns()

    async def clear_statistics(self) -> None:
        """The same as :meth:`reset_statistics`."""
        await self.reset_statistics()

    async def reset(self) -> None:
        await self.reset_statistics()
        await self.clear_cache()


def _unknown(query: str | Mapping[str, Any] | Sequence[Any]) -> OptimizationResult:
    """The result for a query about which nothing is known."""
    return OptimizationResult(query, QueryType.UNKNOWN, query, fingerprint="", tables=[])
