"""The query optimizer: results cached until a write, one run for many callers, figures per shape."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from bot.core._shared.bounded_store import MAX_FREQUENCY
from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import LARGEST, InvalidArgumentError, invalid
from bot.core._shared.isolation import Frozen, freeze
from bot.core._shared.masking import one_line
from bot.core._shared.singleflight import SingleFlight
from bot.core._shared.validation import valid_number, valid_seconds
from bot.core.phase4_service import Phase4Service
from bot.core.query_optimizer.analyses import (
    MAX_ADVISED,
    advice_on,
    analysis_of,
    analysis_size,
    graphql_analysis_of,
    key_of_text,
    stumbled,
)
from bot.core.query_optimizer.errors import QueryTimeoutError, QueryTooComplexError
from bot.core.query_optimizer.execution.lookups import Lookups
from bot.core.query_optimizer.execution.n_plus_one import (
    Detector,
    NPlusOnePattern,
    Request,
    call_site,
)
from bot.core.query_optimizer.execution.remembered import Remembered
from bot.core.query_optimizer.execution.result_scopes import read_in, scope_key, tell, told, written_in
from bot.core.query_optimizer.execution.results import ResultCache, freeze_params, key_of
from bot.core.query_optimizer.execution.timing import STOPWATCH, SlowQueryLog, Stopwatch
from bot.core.query_optimizer.execution.transactions import Transaction, Transactions, TransactionScope
from bot.core.query_optimizer.graphql.limits import advise_graphql, excess, operation_name_of
from bot.core.query_optimizer.graphql.operations import MISSING, is_graphql
from bot.core.query_optimizer.models import (
    Advice,
    Analysis,
    Finding,
    OptimizationResult,
    QueryType,
    SlowQuery,
)
from bot.core.query_optimizer.sql.comments import untagged
from bot.core.query_optimizer.sql.declarations import Declaration, declared_by, is_message, message_of
from bot.core.query_optimizer.sql.functions import NOTHING
from bot.core.query_optimizer.sql.long_texts import SHORT
from bot.core.query_optimizer.sql.moments import names_a_moment
from bot.core.query_optimizer.sql.names import names_given, write_marks
from bot.core.query_optimizer.sql.relations import Relations
from bot.core.query_optimizer.stats import MAX_SHOWN, ExecutionStatistics, has_parameters

if TYPE_CHECKING:
    from bot.core.query_optimizer.plans.explain import PlanReader
    from bot.core.query_optimizer.plans.prepare import Explainer

logger = logging.getLogger(__name__)

Executor = Callable[[str, Any], Awaitable[Any]]

AfterWrite = Callable[[list[str]], Awaitable[Any] | None]
EVERY_TABLE = "*"

DIALECTS = ("", "postgres", "mysql", "sqlite")
ANALYSES_CHARACTERS = 4_000_000
"""Characters of query texts, and 500 for each, whose analysis is remembered."""

_MAY_INDEX = (QueryType.DDL, QueryType.SCRIPT, QueryType.OTHER)
"""What may bring or take an index, or figures that the planner goes by."""

UNPROVEN = "no look-up"

CATALOG = "(catalog)"
CATALOG_RETRY, LONGEST_CATALOG_RETRY = 60.0, 3600.0
"""Seconds until a catalog that could not be read is asked for again, the first time and at most."""

_MB = 1_048_576


class QueryOptimizer(Phase4Service):
    """Analyses queries and keeps their results. While off, queries are just executed.

    A cached result is private to the cache: callers get a copy of what is mutable (rows as lists,
    dicts and sets; other objects by ``copy.deepcopy``), so none can change what another gets.
    """

    service_name: ClassVar[str] = "query_optimizer"

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._clock = clock
        self._now = clock.monotonic
        self._ttl = 300.0
        self._max_size_mb = 50.0
        self._max_entries = 10_000
        self._slow_threshold = 1.0
        self._query_timeout: float | None = 120.0
        self._detector = Detector()
        self._detecting = True
        self._relations = Relations()
        self._known = NOTHING
        self._max_depth = 50
        self._max_complexity = 10_000
        self._transactions = Transactions()
        self._in_transaction = self._transactions.running
        self._dialect = ""
        self._cache = self._new_cache()
        # The cache's live entries while on, nothing while off: one look-up tells both.
        self._live: dict[Hashable, Any] = {}
        self._lookups = Lookups()
        # Whether results of named databases are told apart: from the first of them on.
        self._by_database = False
        self._flights: SingleFlight[Any] = SingleFlight()
        self._analyses: Remembered[Analysis] = Remembered(ANALYSES_CHARACTERS)
        self._advices: Remembered[Advice] = Remembered(ANALYSES_CHARACTERS)
        self._statistics = ExecutionStatistics()
        self._slow_log = SlowQueryLog()
        self._hits = 0
        self._missed = 0
        self._unkept: set[str] = set()
        self._after_write: AfterWrite | None = None
        self._plans: PlanReader | None = None
        self._catalog: tuple[Explainer, str, float] | None = None
        # When the catalog is read next, monotonic; never without a pool to read it from.
        self._catalog_due = math.inf
        self._catalog_retry = CATALOG_RETRY

    def _new_cache(self) -> ResultCache:
        return ResultCache(max_bytes=int(self._max_size_mb * _MB), max_entries=self._max_entries)

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
        views: Mapping[str, Collection[str]] | None = None,
        cascades: Mapping[str, Collection[str]] | None = None,
        pure_functions: Collection[str] | None = None,
        graphql_max_depth: int | None = None,
        graphql_max_complexity: int | None = None,
        query_timeout: float | None = None,
    ) -> bool:
        """Switch on, or reconfigure; None leaves what was set before.

        ``cache_ttl`` (300) and ``slow_query_threshold`` (1.0) are seconds; the cache holds at most
        ``cache_max_entries`` (10,000) results of ``cache_max_size_mb`` (50) MB together; ``dialect``
        is "postgres", "mysql", "sqlite" or "" (any). ``n_plus_one_threshold`` (10) is how many different
        values of one query within ``n_plus_one_window`` (2.0) seconds of one request are an N+1 pattern.
        ``views`` and ``cascades`` are what :meth:`declare_view` and :meth:`declare_cascade` take, by
        name; ``pure_functions`` names functions of the database's own that change nothing and depend on
        their arguments alone. GraphQL operations deeper than ``graphql_max_depth`` (50) fields or of a
        complexity over ``graphql_max_complexity`` (10,000) are not executed. A read that callers share is
        given up after ``query_timeout`` (120) seconds, 0: never. Raises ValueError for values out of bounds.
        """
        ttl = self._ttl if cache_ttl is None else valid_seconds("cache_ttl", cache_ttl)
        size = (
            self._max_size_mb
            if cache_max_size_mb is None
            else valid_number("cache_max_size_mb", cache_max_size_mb)
        )
        entries = self._max_entries if cache_max_entries is None else cache_max_entries
        if isinstance(entries, bool) or not isinstance(entries, int) or entries < 1:
            raise invalid("cache_max_entries", entries, "a whole number of 1 or more")
        slow = (
            self._slow_threshold
            if slow_query_threshold is None
            else valid_number("slow_query_threshold", slow_query_threshold)
        )
        timeout = self._query_timeout
        if query_timeout is not None:
            timeout = valid_seconds("query_timeout", query_timeout, zero=True) or None
        if dialect is not None and dialect not in DIALECTS:
            raise invalid("dialect", dialect, f"one of {DIALECTS}")
        if n_plus_one_threshold is not None and (
            isinstance(n_plus_one_threshold, bool)
            or not isinstance(n_plus_one_threshold, int)
            or not 2 <= n_plus_one_threshold <= 10_000
        ):
            raise invalid("n_plus_one_threshold", n_plus_one_threshold, "a whole number from 2 to 10,000")
        window = None if n_plus_one_window is None else valid_seconds("n_plus_one_window", n_plus_one_window)
        speaks = self._dialect if dialect is None else dialect
        behind = _relations("views", views, speaks)
        along = _relations("cascades", cascades, speaks)
        max_depth = self._max_depth if graphql_max_depth is None else graphql_max_depth
        max_complexity = self._max_complexity if graphql_max_complexity is None else graphql_max_complexity
        for name, limit in (("graphql_max_depth", max_depth), ("graphql_max_complexity", max_complexity)):
            if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
                raise invalid(name, limit, "a whole number of 1 or more")
        pure = self._known.pure if pure_functions is None else _functions(pure_functions)
        async with self._transition:
            self._ttl, self._slow_threshold, self._query_timeout = ttl, slow, timeout
            if (max_depth, max_complexity) != (self._max_depth, self._max_complexity):
                self._max_depth, self._max_complexity = max_depth, max_complexity
                self._advices = Remembered(ANALYSES_CHARACTERS)
            if n_plus_one_threshold is not None:
                self._detector.threshold = n_plus_one_threshold
            if window is not None:
                self._detector.window = window
            if detect_n_plus_one is not None:
                self._detecting = detect_n_plus_one
            if (speaks, pure) != (self._dialect, self._known.pure):
                self._dialect, self._known = speaks, self._known._replace(pure=pure)
                self._analyses = Remembered(ANALYSES_CHARACTERS)
                self._advices = Remembered(ANALYSES_CHARACTERS)
                self._cache.write_anything()  # cached by another reading of the same texts
            for name, tables in behind:
                self._relate(self._relations.view, name, tables)
            for name, tables in along:
                self._relate(self._relations.cascade, name, tables)
            if (size, entries) != (self._max_size_mb, self._max_entries):
                self._max_size_mb, self._max_entries = size, entries
                self._cache.store.resize(max_bytes=int(size * _MB), max_entries=entries)
            self._live = self._cache.live
            self._enabled = True
        return True

    async def disable(self) -> bool:
        """Switch off and drop every cached result; runs in progress end for those who wait for them."""
        async with self._transition:
            self._enabled = False
            self._cache = self._new_cache()
            self._live = {}
            self._lookups.clear()
            self._analyses = Remembered(ANALYSES_CHARACTERS)
            self._advices = Remembered(ANALYSES_CHARACTERS)
            if self._plans is not None:
                self._plans.forget()
        return True

    # What the text of a query cannot tell.

    async def declare_view(self, name: str, *tables: str) -> None:
        """``name`` is a view over ``tables``: a write to one of them drops the results that read it.

        A view whose CREATE passes through the optimizer is known without this. Raises ValueError for
        what is no table's name.
        """
        names, others = self._named("name", (name,)), self._named("tables", tables)
        for each in names:
            self._relate(self._relations.view, each, others)

    async def declare_cascade(self, table: str, *tables: str) -> None:
        """A write to ``table`` changes ``tables`` too: by a trigger, a foreign key, or a partition."""
        names, others = self._named("table", (table,)), self._named("tables", tables)
        for each in names:
            self._relate(self._relations.cascade, each, others)

    def _relate(
        self, relate: Callable[[str, Collection[str]], None], name: str, tables: Collection[str]
    ) -> None:
        relate(name, tables)
        # What is cached already was filed without it.
        self._cache.write(write_marks([name]))

    def _named(self, argument: str, names: Collection[str]) -> list[str]:
        return _names(argument, names, self._dialect)

    def request(self) -> Request:
        """``with optimizer.request():`` makes what runs inside one request for the N+1 detection.

        Needed where one task handles many requests, as the workers of some bot frameworks do; a task
        that handles one request is one without it.
        """
        return self._detector.request()

    def transaction(self) -> TransactionScope:
        """``async with optimizer.transaction(), connection.transaction():`` for transactions of the driver.

        What is written inside shows to others only when the driver commits, so it is dropped from the
        cache again at the end; reads inside are not cached, and those of tables written inside are not
        answered from the cache. For BEGIN and COMMIT that pass through :meth:`execute` as text it is not
        needed.
        """
        return TransactionScope(self._transactions, self._ended)

    def _ended(self, transaction: Transaction) -> Awaitable[Any] | None:
        if not transaction.anything and not transaction.written:
            return None
        done = self._written(transaction.written, transaction.anything, transaction.database or "")
        return None if done is None else asyncio.shield(done)

    def _written(
        self, tables: Collection[str], anything: bool, database: str, declares: Sequence[Declaration] = ()
    ) -> Awaitable[Any] | None:
        """Drop what read the tables (``anything``: all results) and tell the other instances."""
        if anything:
            self._cache.write_anything()
        else:
            database = self._database(tables, database)
            self._drop(tables, database)
        if self._after_write is None:
            return None
        names = [EVERY_TABLE] if anything else tell(sorted(tables), database)
        return self._after_write([*names, *map(message_of, declares)] if declares else names)

    def _drop(self, tables: Collection[str], database: str) -> int:
        marks = write_marks(tables)
        if self._by_database:
            return self._cache.write(written_in(marks, database))
        return self._cache.write(marks)

    def _database(self, tables: Collection[str], database: str) -> str:
        """``database``, unless a name may lead out of it: in PostgreSQL a qualified one does not."""
        if database and self._dialect != "postgres" and any("." in name for name in tables):
            return ""
        return database

    def _marks(self, analysis: Analysis, database: str) -> frozenset[str]:
        """What a result of this query is filed under."""
        marks = self._relations.marks_of(analysis.reads)
        if not database:
            return marks
        return read_in(marks, self._database(self._relations.read_by(analysis.reads), database))

    def _scope(self, scope: Any) -> tuple[Hashable, str]:
        """:func:`scope_key`, of a scope that is used from now on."""
        place, database = scope_key(scope)
        if database:
            self._by_database = True
        return place, database

    # Analysis.

    async def analyze_query(
        self, query: str | Mapping[str, Any] | Sequence[Any], params: Any = None, scope: Any = None
    ) -> OptimizationResult:
        """What the query is and what to do about it: findings, index suggestions, a better form.

        A MongoDB filter, pipeline or command is a dict or a list, and ``params`` its options: ``collection``,
        ``sort``, ``limit``, ``skip``, ``projection``. Any text gets an answer. With an explainer
        (:meth:`explain_with`) a SELECT that is new is explained first, which takes the time of a few round
        trips, and no longer than the explainer's timeout. While the optimizer is off, the answer is UNKNOWN
        and the query itself. ``scope`` is taken so that one set of arguments serves all calls; advice is the
        same in all scopes.
        """
        if scope is not None and self._enabled:
            self._scope(scope)
        if not isinstance(query, str):
            if not isinstance(query, Mapping | list | tuple):
                raise TypeError(f"query = {query!r:.100}: expected a string, a dict or a list")
            from bot.core.query_optimizer.mongodb.documents import advise_mongo

            if not self._enabled:
                return OptimizationResult(query, QueryType.UNKNOWN, query, fingerprint="", tables=[])
            try:
                return advise_mongo(query, params).result(self._ttl)
            except MemoryError:
                raise
            except Exception as error:
                stumbled(error, "a MongoDB query")
                return OptimizationResult(query, QueryType.UNKNOWN, query, fingerprint="", tables=[])
        if not self._enabled:
            return OptimizationResult(query, QueryType.UNKNOWN, query, fingerprint="", tables=[])
        advice = self._advise(query, params)
        fingerprint = advice.analysis.fingerprint
        repeated = None
        if fingerprint in self._statistics.repeated:
            repeated = self._statistics.saved_by_caching(fingerprint)
        plan = None
        if self._plans is not None:
            plan = await self._plans.evidence_for(advice, params)
        return advice.result(self._ttl, self._n_plus_one_of(advice.analysis), repeated, plan)

    def explain_with(self, explainer: Explainer | None, dialect: str = "", *, timeout: float = 2.0) -> None:
        """Have :meth:`analyze_query` ask a database for the plans of SELECTs; None: no longer.

        ``await explainer([(sql, parameters), ...])`` runs statements in order on one connection and answers
        with the rows of each, as sequences; ``dialect`` is "postgres", "mysql" or "sqlite". It is given
        EXPLAIN (never ANALYZE), look-ups in the catalog, and counts over at most 10,000 rows of a table. What
        it raises costs the evidence only. ``timeout`` is seconds for one query's evidence, remembered
        per fingerprint for five minutes. Raises ValueError for a dialect that has no EXPLAIN known here.
        """
        if explainer is None:
            self._plans = self._catalog = None
            self._catalog_due = math.inf
            return
        from bot.core.query_optimizer.plans import explain

        if dialect not in explain.DIALECTS:
            raise invalid("dialect", dialect, f"one of {explain.DIALECTS}")
        seconds = valid_seconds("timeout", timeout)
        self._plans = explain.PlanReader(explainer, dialect, self._now, timeout=seconds)
        self._catalog = (explainer, dialect, seconds)
        self._catalog_due, self._catalog_retry = 0.0, CATALOG_RETRY

    async def learn_catalog(self) -> bool:
        """Read from the database what its tables are: views, partitions, cascading keys, triggers, functions.

        Asks the explainer of :meth:`explain_with`; False without one, or if it failed or timed out. Happens
        by itself before the first result is looked up, and again after a statement that may have defined
        views unseen. Call it after somebody else changed the schema.
        """
        if self._catalog is None:
            return False
        return bool(await self._flights.run(CATALOG, self._learn_catalog))

    async def _learn_catalog(self) -> bool:
        from bot.core.query_optimizer.sql.catalog import CATALOGS, MAX_DEFINITIONS, learnt

        if self._catalog is None:
            return False
        explainer, dialect, timeout = self._catalog
        relations = self._relations
        self._catalog_due = math.inf  # a doubt that arises from now on asks again
        had_doubt, relations.doubt = relations.doubt, False
        done = False
        try:
            async with asyncio.timeout(timeout):
                rows = (await explainer([(CATALOGS[dialect], None)]))[0]
            if len(rows) > MAX_DEFINITIONS:
                raise OverflowError(f"more than {MAX_DEFINITIONS:,} definitions")
            found = await asyncio.to_thread(learnt, rows, dialect)
            done = True
        except Exception as error:
            if CATALOG not in self._unkept:
                self._unkept.add(CATALOG)
                logger.warning(
                    "The catalog was not read (%s): views are known by declaration alone", one_line(error)
                )
            return False
        finally:
            if not done:
                relations.doubt = relations.doubt or had_doubt
                self._catalog_due = self._now() + self._catalog_retry
                self._catalog_retry = min(self._catalog_retry * 2, LONGEST_CATALOG_RETRY)
        self._catalog_retry = CATALOG_RETRY
        self._learn(found)
        self._cache.write_anything()  # what is kept is filed by what was known before
        return True

    def _advise(self, query: str, params: Any) -> Advice:
        if is_graphql(query):
            # Not kept: it depends on the variables, and parsing is all that is slow about it.
            analysis = self._analyse(query, params)
            try:
                return advise_graphql(query, analysis, params, self._max_depth, self._max_complexity)
            except MemoryError:
                raise
            except Exception as error:
                stumbled(error, "advice on a GraphQL text")
                return Advice(query, analysis, query)
        text = untagged(query)
        if text is not query:
            return self._advise(text, params).of(query)
        if len(query) > MAX_ADVISED:
            return Advice(query, self._analyse(query), query)
        advice = self._advices.get(query)
        if advice is None:
            advice = advice_on(query, self._dialect, self._known)
            self._advices.put(query, advice, advice.characters)
        return advice

    def _n_plus_one_of(self, analysis: Analysis) -> list[Finding]:
        """Q900, if this query's shape was seen to run once per value within a request."""
        pattern = self._detector.patterns.get(analysis.fingerprint)
        if pattern is None:
            return []
        message, _, fix = pattern.sentence().partition(" Use one query: ")
        fix = f"Use one query: {fix}" if fix else "Fetch what belongs together at once."
        return [Finding("Q900", "n_plus_one", "warning", message, fix)]

    def _analyse(self, query: str, params: Any = None) -> Analysis:
        key = query if len(query) <= SHORT else key_of_text(query)
        analysis = self._analyses.get(key)
        if analysis is None:
            if is_graphql(query):
                analysis = graphql_analysis_of(query)
                if analysis.not_cacheable == MISSING and MISSING not in self._unkept:
                    self._unkept.add(MISSING)
                    logger.warning("GraphQL is executed and not cached: %s", MISSING)
            elif (text := untagged(query)) is not query:
                return self._analyse(text, params)
            else:
                analysis = analysis_of(query, self._dialect, self._known)
            self._analyses.put(key, analysis, analysis_size(key, analysis))
        if analysis.operations:
            return analysis.operations.get(operation_name_of(params) or "", analysis)
        return analysis

    def _key(self, query: str, params: Any, scope: Any = None) -> Hashable:
        """Under what a result is kept: GraphQL by its normal form, SQL without a tracer's comments.

        Raises TypeError as ``key_of`` does.
        """
        text = untagged(query)
        if is_graphql(query):
            text = query
            reading = self._analyse(query, params).graphql
            if reading is not None:
                text = f"graphql {reading.normal_form}"
        key = key_of(text, params)
        return key if scope is None else (self._scope(scope)[0], key)

    def _refuse(self, analysis: Analysis, query: str, params: Any) -> None:
        try:
            message, depth, complexity = excess(
                query, analysis, params, self._max_depth, self._max_complexity
            )
        except MemoryError:
            raise
        except Exception as error:
            stumbled(error, "the measuring of a GraphQL text")
            return
        if message:
            raise QueryTooComplexError(message, depth=depth, complexity=complexity)

    # Results.

    async def get_cached_result(self, query: str, params: Any = None, scope: Any = None) -> Any:
        """The cached result of the query, a private copy where it is mutable; None if there is none.

        A miss opens a look-up: it lets this caller (:mod:`.lookups` says who that is) keep what it then
        reads by :meth:`cache_query_result`. ``scope`` is whose view of the data it is, as in :meth:`execute`.
        """
        key: Hashable = query
        try:
            if params is None is scope:
                entry = self._live.get(query)
            elif scope is None:
                key = query, freeze_params(params)
                entry = self._live.get(key)
            else:
                entry = self._live.get(self._key(query, params, scope)) if self._enabled else None
        except (InvalidArgumentError, MemoryError):
            raise
        except Exception:
            return None  # parameters that cannot be told apart are never cached
        if entry is not None and entry.expires_at > self._now() and not self._in_transaction[0]:
            if entry.frequency < MAX_FREQUENCY:
                entry.frequency += 1
            self._hits += 1
            return entry.value if entry.thaw is None else entry.thaw(entry.value)
        if not self._enabled:
            return None
        if self._catalog is not None and self._catalog_due <= self._now():
            await self.learn_catalog()
        if scope is not None or is_graphql(query) or untagged(query) is not query:
            key = self._key(query, params, scope)
        return self._look_closer(key, query)

    def _look_closer(self, key: Hashable, query: str) -> Any:
        """The cached result of what may be GraphQL, or asked for in a transaction; else opens a look-up."""
        entry = self._live.get(key)
        if entry is not None and entry.expires_at > self._now() and not self._hidden(query):
            self._hits += 1
            return entry.value if entry.thaw is None else entry.thaw(entry.value)
        self._missed += 1
        if self._transactions.current() is None:  # else it may read a snapshot from before
            self._lookups.open(key, self._cache.begin(), self._now())
        return None

    def _hidden(self, query: str) -> bool:
        """Whether this context is in a transaction that wrote what the query reads."""
        transaction = self._transactions.current()
        return transaction is not None and transaction.hides(self._reads(self._analyse(query)))

    def _reads(self, analysis: Analysis) -> frozenset[str]:
        return self._relations.read_by(analysis.reads)

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

        Kept only if no table that the query reads was written since this caller's :meth:`get_cached_result`
        of it missed; each miss is good for one result. ``fresh=True`` is the caller's own word instead, for
        a result that no look-up came before: nothing that it read was written since it was read. False, and
        nothing kept, if that does not hold, if the query's result must not be cached (a write, a locking
        read, a function such as now()), or if the result is too large or cannot be copied.
        """
        _valid_query(query)
        seconds = self._ttl if ttl is None else valid_seconds("ttl", ttl)
        if not isinstance(fresh, bool):
            raise invalid("fresh", fresh, "True or False")
        if not self._enabled:
            return False
        database = "" if scope is None else self._scope(scope)[1]
        try:
            key = self._key(query, params, scope)
            hash(key)
        except (InvalidArgumentError, MemoryError):
            raise
        except Exception:
            return False
        analysis = self._analyse(query, params)
        found = self._lookups.find(key)
        now = self._now()
        if found is not None:
            # What the guide's own code measures nowhere: the time from the miss to the result.
            self._record(analysis, (now - found.missed_at) * 1000, rows_in(result), key)
        self._watch(analysis, key, query, params, now, None)
        if fresh:
            begun = self._cache.begin()
        elif found is not None:
            begun = found.begun
        else:
            if self._transactions.current() is None:
                self._say_unproven(analysis)
            return False
        marks = self._marks(analysis, database)
        if self._cache.written_since(begun, marks):
            if found is not None:
                found.refused()
            return False
        if found is not None:
            found.answered()
        if not self._may_keep(analysis, params):
            return False
        frozen = self._freeze(analysis, result)
        if frozen is None:
            return False
        return self._cache.put(key, frozen, marks, begun=begun, now=now, ttl=seconds)

    def _may_keep(self, analysis: Analysis, params: Any) -> bool:
        if not analysis.cacheable or self._transactions.current() is not None:
            return False
        return params is None or not analysis.takes_moments or not names_a_moment(params)

    def _say_unproven(self, analysis: Analysis) -> None:
        if analysis.cacheable and UNPROVEN not in self._unkept:
            self._unkept.add(UNPROVEN)
            logger.warning(
                "A result was not kept, since its caller had not looked it up: call get_cached_result first, "
                "in the same task, or say fresh=True (said once; the query was %s)",
                one_line(analysis.normal_form, 200),
            )

    def _freeze(self, analysis: Analysis, result: Any) -> Frozen | None:
        try:
            return freeze(result)
        except MemoryError:
            raise
        except Exception as error:
            if analysis.fingerprint not in self._unkept and len(self._unkept) < 1000:
                self._unkept.add(analysis.fingerprint)
                logger.warning(
                    "Results of %s are not cached: %s", one_line(analysis.normal_form, 200), one_line(error)
                )
            return None

    async def execute(
        self, query: str, params: Any, executor: Executor, ttl: float | None = None, scope: Any = None
    ) -> Any:
        """Answer a query from the cache, or by ``await executor(query, params)``.

        Concurrent callers of the same read share one execution and get a copy each. A write drops,
        after it has run (or failed, or was cancelled: it may have written), every result that read
        what it wrote. What must not be cached is executed each time. Errors of the executor reach
        the caller and are not cached. Parameters must be plain data for a result to be cached. Raises
        QueryTimeoutError for a read that may be cached and takes longer than the timeout (:meth:`enable`): it
        is cancelled, and the next caller starts anew.
        An execution's time is what the executor takes, or what it spends ``with database_time():``.
        ``params`` of a GraphQL query are its variables, or a dict with ``variables`` and
        ``operation_name``; raises QueryTooComplexError, without executing, for what exceeds the limits.

        ``scope`` is whose view of the data it is, where one text means several things: a role, a tenant, a
        search_path (a str, a number, a tuple), or a :class:`Scope`, which may name a database. Each has
        results of its own. A write drops what was read of the tables in every scope, since scopes may share
        them; one in a database named by a :class:`Scope` leaves the other databases' results alone.
        """
        if not self._enabled:
            return await executor(query, params)
        _valid_query(query)
        seconds = self._ttl if ttl is None else valid_seconds("ttl", ttl)
        database = ""
        try:
            key: Hashable = query if params is None else key_of(query, params)
            if scope is not None:
                place, database = self._scope(scope)
                key = place, key
            entry = self._live.get(key)
        except (InvalidArgumentError, MemoryError):
            raise
        except Exception:
            key = entry = None  # parameters that cannot be told apart are never cached
            if scope is not None:
                database = self._scope(scope)[1]
        if (
            entry is not None
            and entry.expires_at > self._now()
            and not (self._in_transaction[0] and self._hidden(query))
        ):
            if entry.frequency < MAX_FREQUENCY:
                entry.frequency += 1
            self._hits += 1
            return entry.value if entry.thaw is None else entry.thaw(entry.value)
        if self._catalog is not None and self._catalog_due <= self._now():
            await self.learn_catalog()
        analysis = self._analyse(query, params)
        if analysis.graphql is not None or untagged(query) is not query:
            if key is not None:
                key = self._key(query, params, scope)
                entry = self._live.get(key)
                if entry is not None and entry.expires_at > self._now() and not self._hidden(query):
                    self._hits += 1
                    return entry.value if entry.thaw is None else entry.thaw(entry.value)
            if analysis.graphql is not None:
                self._refuse(analysis, query, params)
        self._watch(analysis, key, query, params, self._now(), executor)
        if analysis.is_write:
            return await self._write(analysis, query, params, executor, database)
        if analysis.transaction:
            return await self._transact(analysis, query, params, executor)
        if key is None or not self._may_keep(analysis, params):
            return await self._timed(analysis, query, params, executor, key)
        return await self._load(key, analysis, query, params, executor, seconds, database)

    async def _write(
        self, analysis: Analysis, query: str, params: Any, executor: Executor, database: str
    ) -> Any:
        if analysis.transaction == "begin":
            self._transactions.begin()  # a script that begins, and writes, and leaves it open
        try:
            result = await self._timed(analysis, query, params, executor, None)
        except BaseException:
            self._invalidate(analysis, database)
            if analysis.transaction:
                # It may have committed before it failed, and may be open still.
                open_still = self._transactions.current()
                if open_still is not None:
                    self._ended(open_still)
            raise
        done = self._invalidate(analysis, database)
        if done is not None:
            # Before the writer goes on: what it does next may make other instances read.
            await asyncio.shield(done)
        if analysis.transaction:
            done = self._change_transaction(analysis)
            begun = self._transactions.current()
            if begun is not None:  # which of its writes came after the BEGIN is not told
                written, anything = self._relations.all_written(analysis.writes, analysis.writes_anything)
                begun.write(written, anything, database)
            if done is not None:
                await done
        return result

    async def _transact(self, analysis: Analysis, query: str, params: Any, executor: Executor) -> Any:
        try:
            result = await self._timed(analysis, query, params, executor, None)
        except BaseException:
            if analysis.transaction in ("commit", "rollback", "chain", "script", "implicit"):
                self._change_transaction(analysis)
            raise
        done = self._change_transaction(analysis)
        if done is not None:
            await done
        return result

    def _change_transaction(self, analysis: Analysis) -> Awaitable[Any] | None:
        ended = self._transactions.change(analysis.transaction, analysis.savepoint, self._dialect)
        return None if ended is None else self._ended(ended)

    def _watch(
        self, analysis: Analysis, key: Hashable, query: str, params: Any, now: float, executor: Any
    ) -> None:
        """Count one execution for the N+1 detection."""
        if not self._detecting or key is None or analysis.transaction:
            return
        detector = self._detector
        tally = detector.note(analysis.fingerprint, hash(key), (query, params), now)
        if tally is None:
            return
        sample, tally.sample = tally.sample, None
        fingerprint = analysis.fingerprint
        suggestion: str | None = None
        if fingerprint not in detector.patterns:
            if fingerprint not in detector.dismissed:
                from bot.core.query_optimizer.execution.batching import batched

                suggestion = batched(analysis.normal_form, sample, (query, params), self._dialect)
            if suggestion is None:
                detector.dismiss(tally, fingerprint)
                return
        site = call_site(executor)
        pattern, new = detector.found(
            tally, fingerprint, analysis.normal_form[:MAX_SHOWN], site, self._clock.time()
        )
        if new:
            pattern.suggestion = suggestion or ""
            logger.warning("%s -- %s", one_line(pattern.sentence()), one_line(pattern.query))

    async def _load(
        self,
        key: Hashable,
        analysis: Analysis,
        query: str,
        params: Any,
        executor: Executor,
        ttl: float,
        database: str,
    ) -> Any:
        self._missed += 1
        led = False
        raw: Any = None

        async def run() -> Frozen | None:
            nonlocal led, raw
            led = True
            begun = self._cache.begin()
            cache = self._cache
            raw = await self._timed(analysis, query, params, executor, key)
            frozen = self._freeze(analysis, raw)
            if frozen is not None and self._enabled and cache is self._cache:
                # Asked for again: a view may have been declared meanwhile.
                marks = self._marks(analysis, database)
                cache.put(key, frozen, marks, begun=begun, now=self._now(), ttl=ttl)
            return frozen

        # The version is part of the key: who reads after a write must not join a run from before it.
        version = self._cache.version(self._marks(analysis, database))
        frozen = await self._flights.run(
            (key, version), run, timeout=self._query_timeout, expired=lambda: self._given_up(analysis)
        )
        if led:
            return raw  # the cache has a copy of its own
        if frozen is not None:
            return frozen.value if frozen.thaw is None else frozen.thaw(frozen.value)
        # The leader's result cannot be copied, and an object that two callers hold is not two results.
        return await self._timed(analysis, query, params, executor, key)

    def _given_up(self, analysis: Analysis) -> QueryTimeoutError:
        logger.warning(
            "Query given up after %g s: %s", self._query_timeout or 0, one_line(analysis.normal_form)
        )
        return QueryTimeoutError(
            f"no answer to the query within {self._query_timeout or 0:g} s (QUERY_OPTIMIZER_QUERY_TIMEOUT)"
        )

    async def _timed(
        self, analysis: Analysis, query: str, params: Any, executor: Executor, key: Hashable
    ) -> Any:
        watch = Stopwatch(self._now)
        token = STOPWATCH.set(watch)
        start = self._now()
        try:
            result = await executor(query, params)
        finally:
            STOPWATCH.reset(token)
        seconds = watch.seconds if watch.used else self._now() - start
        self._record(analysis, seconds * 1000, rows_in(result), key)
        return result

    def _invalidate(self, analysis: Analysis, database: str) -> Awaitable[Any] | None:
        if analysis.declares:
            self._learn(analysis.declares)
        if self._plans is not None and analysis.query_type in _MAY_INDEX:
            self._plans.forget()
        written, anything = self._relations.all_written(analysis.writes, analysis.writes_anything)
        transaction = self._transactions.current()
        if transaction is not None:
            transaction.write(written, anything, database)
        return self._written(written, anything, database, analysis.declares)

    def _learn(self, declarations: Iterable[Declaration]) -> None:
        before = self._relations.functions
        for declaration in declarations:
            self._relations.learn(declaration)
            if declaration.kind == "doubt" and self._catalog is not None:
                self._catalog_due = 0.0
        if self._relations.functions != before:
            # A name that was a built-in's alone is so no more.
            self._known = self._known._replace(own=self._relations.functions)
            self._analyses = Remembered(ANALYSES_CHARACTERS)
            self._advices = Remembered(ANALYSES_CHARACTERS)

    def after_write(self, hook: AfterWrite | None) -> None:
        """Call ``hook`` with the tables of each write ("*" for all), to tell other instances.

        It is for :meth:`written_elsewhere` there: other items may say in which database, and what the
        statement defined. What it returns is awaited before the writer goes on. None takes the hook away.
        """
        self._after_write = hook

    def written_elsewhere(self, tables: list[str] | None) -> None:
        """Another instance wrote these tables; None or "*": any of them."""
        if not isinstance(tables, list) or not all(isinstance(name, str) for name in tables):
            tables = None  # missed, or no message of ours
        if tables is None:
            self._catalog_due = 0.0  # what was defined may have been missed, too
        else:
            self._learn([each for name in tables if (each := declared_by(name)) is not None])
            tables = [name for name in tables if not is_message(name)]
        if tables is None or EVERY_TABLE in tables:
            self._cache.write_anything()
            return
        names, database = told(tables)
        written, anything = self._relations.all_written(names, False)
        if anything:
            self._cache.write_anything()
        else:
            self._drop(written, self._database(written, database))

    async def invalidate_tables(self, *tables: str, scope: Any = None) -> int:
        """Tables were written by somebody else: drop the results that read them; how many there were.

        A name is as in SQL: ``users`` is that of any schema, ``shop.users`` that of one, ``"Users"`` exact.
        ``scope`` limits it as it limits what a write drops: to one database, if it names one.
        """
        written, anything = self._relations.all_written(frozenset(self._named("tables", tables)), False)
        if anything:
            return self._cache.write_anything()
        database = "" if scope is None else self._scope(scope)[1]
        return self._drop(written, self._database(written, database))

    async def clear_cache(self) -> int:
        """Drop every cached result; how many there were."""
        return self._cache.write_anything()

    # Figures.

    async def record_execution(
        self,
        query: str,
        execution_time_ms: float,
        result_count: int = 0,
        cache_hit: bool = False,
        scope: Any = None,
    ) -> None:
        """Count an execution that was measured elsewhere; a cache hit counts as a hit only.

        The same query in another ``scope`` is not a repetition.
        """
        _valid_query(query)
        if isinstance(execution_time_ms, bool) or not isinstance(execution_time_ms, int | float):
            raise invalid("execution_time_ms", execution_time_ms, "milliseconds, 0 or more")
        if not 0 <= execution_time_ms <= LARGEST:
            raise invalid("execution_time_ms", execution_time_ms, "milliseconds, 0 or more")
        if not self._enabled:
            return
        if cache_hit:
            self._hits += 1
            return
        key = query if scope is None else (self._scope(scope)[0], query)
        analysis = self._analyse(query)
        self._record(analysis, execution_time_ms, result_count, None if has_parameters(query) else key)
        self._watch(analysis, key, query, None, self._now(), None)

    def _record(self, analysis: Analysis, milliseconds: float, rows: int, key: Hashable) -> None:
        """``key`` tells executions of the shape apart; None where nothing does."""
        slow = milliseconds >= self._slow_threshold * 1000
        self._statistics.record(analysis, milliseconds, rows, slow, self._clock.time())
        if key is not None and analysis.cacheable and self._transactions.current() is None:
            version = self._cache.version(self._relations.marks_of(analysis.reads))
            self._statistics.note_repeat(analysis, key, milliseconds, version, self._now(), self._ttl)
        if slow:
            unnamed = self._slow_log.note(analysis.fingerprint, self._now())
            if unnamed is not None:
                since = f" ({unnamed} more of it since the last line)" if unnamed else ""
                logger.warning(
                    "Slow query, %.0f ms%s: %s", milliseconds, since, one_line(analysis.normal_form)
                )

    async def get_slow_queries(self, threshold: float | None = None) -> list[SlowQuery]:
        """Query shapes that took at least ``threshold`` seconds once (default: the configured one)."""
        seconds = self._slow_threshold if threshold is None else threshold
        return self._statistics.slow_queries(seconds * 1000)

    async def get_statistics(self) -> dict[str, Any]:
        """Counts since the start or the last reset; rates are percent of look-ups.

        ``total_executions`` and ``avg_execution_time_ms`` are of executions on the database.
        """
        looked_up = self._hits + self._missed
        rate = round(self._hits / looked_up * 100, 2) if looked_up else 0.0
        store = self._cache.store
        return {
            "enabled": self._enabled,
            "total_unique_queries": len(self._statistics),
            "total_executions": self._statistics.executions,
            "cache_hits": self._hits,
            "cache_misses": self._missed,
            "hit_rate": rate,
            "cache_hit_rate_percent": rate,
            "avg_execution_time_ms": round(self._statistics.average_ms, 3),
            "total_execution_time_ms": round(self._statistics.total_ms, 3),
            "cached_results_count": len(store),
            "cached_results_mb": round(store.bytes_used / _MB, 3),
            "cache_evictions": store.evictions,
            "slow_queries": self._statistics.slow,
            "n_plus_one_patterns": self._detector.total,
        }

    async def reset_statistics(self) -> None:
        """Counters and the figures per shape to zero; cached results stay."""
        self._hits = self._missed = 0
        self._cache.store.evictions = self._cache.store.expirations = 0
        self._statistics.clear()
        self._slow_log.clear()
        self._detector.clear()

    async def get_n_plus_one_patterns(self) -> list[NPlusOnePattern]:
        """N+1 patterns found since the start or the last reset, the one with most repetitions first."""
        found = [replace(p, call_sites=list(p.call_sites)) for p in self._detector.patterns.values()]
        return sorted(found, key=lambda pattern: pattern.count, reverse=True)

    async def clear_statistics(self) -> None:
        """The same as :meth:`reset_statistics`."""
        await self.reset_statistics()

    async def reset(self) -> None:
        await self.reset_statistics()
        await self.clear_cache()


def rows_in(result: Any) -> int:
    return len(result) if isinstance(result, list | tuple) else 0


def _valid_query(query: object) -> None:
    if not isinstance(query, str):
        raise TypeError(f"query = {query!r:.100}: expected a string")


def _names(argument: str, names: Collection[str], dialect: str) -> list[str]:
    found: list[str] = []
    for name in names:
        try:
            found += names_given(name, dialect)
        except (ValueError, TypeError):
            raise invalid(argument, name, "names of tables") from None
    return found


def _relations(
    argument: str, given: Mapping[str, Collection[str]] | None, dialect: str
) -> list[tuple[str, list[str]]]:
    found = []
    for name, tables in (given or {}).items():
        if isinstance(tables, str):
            raise invalid(f"{argument}[{name!r}]", tables, "a list of tables")
        others = _names(f"{argument}[{name!r}]", tables, dialect)
        found += [(each, others) for each in _names(argument, [name], dialect)]
    return found


def _functions(names: Collection[str]) -> frozenset[str]:
    if isinstance(names, str) or not all(isinstance(name, str) and name.strip() for name in names):
        raise invalid("pure_functions", names, "names of functions")
    return frozenset(name.strip().lower() for name in names)
