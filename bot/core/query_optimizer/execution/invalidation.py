"""Which cached results a write drops, here and in other instances."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bot.core._shared.singleflight import SingleFlight
from bot.core.phase4_config.query_optimizer import DEFAULTS
from bot.core.query_optimizer.analyses import Analyses
from bot.core.query_optimizer.execution.catalog import CatalogReader
from bot.core.query_optimizer.execution.result_scopes import read_in, scope_key, tell, told, written_in
from bot.core.query_optimizer.execution.results import ResultCache
from bot.core.query_optimizer.execution.transactions import Transaction, Transactions
from bot.core.query_optimizer.models import CHANGES_ROWS, Analysis, QueryType
from bot.core.query_optimizer.sql.declarations import Declaration, declared_by, is_message, message_of
from bot.core.query_optimizer.sql.names import NEVER, write_marks
from bot.core.query_optimizer.sql.relations import Relations, are_tables

if TYPE_CHECKING:
    from bot.core.query_optimizer.plans.explain import PlanReader
    from bot.core.query_optimizer.plans.prepare import Explainer

AfterWrite = Callable[[list[str]], Awaitable[Any] | None]

EVERY_TABLE = "*"

_MAY_DEFINE = (QueryType.DDL, QueryType.SCRIPT, QueryType.OTHER, QueryType.UNKNOWN)
"""What may define something, add or remove an index, or change the planner's statistics."""

_MB = 1_048_576


class Invalidation:
    """The cached results, and what is known of tables: views, cascades, databases.

    A result is indexed by the tables that it read, also through views. A write drops the results of the
    tables that it wrote, and of tables that change along with them. In an open transaction a write is noted
    there, too, and the same results are dropped again when it ends.
    """

    def __init__(
        self,
        analyses: Analyses,
        transactions: Transactions,
        now: Callable[[], float],
    ) -> None:
        self._analyses = analyses
        self._transactions = transactions
        self.max_size_mb = DEFAULTS.cache_max_size_mb
        self.max_entries = DEFAULTS.cache_max_entries
        self.relations = Relations()
        self.catalog = CatalogReader(now)
        self.plans: PlanReader | None = None
        """Asks for plans, which a definition may change; None without an explainer."""
        self.after_write: AfterWrite | None = None
        """Called after each write, to tell other instances."""
        self._reading_catalog: SingleFlight[bool] = SingleFlight()
        # Whether results are indexed by database, too: from the first named database on.
        self._by_database = False
        # Names -> by how many they are held. Changed by hold and release.
        self._held: Counter[str] = Counter()
        self.cache = self._new_cache()
        self.live: dict[Hashable, Any] = {}
        """The cache's live entries while on, empty while off, so that one look-up answers both questions."""

    def _new_cache(self, begun: int = 0) -> ResultCache:
        return ResultCache(max_bytes=int(self.max_size_mb * _MB), max_entries=self.max_entries, begun=begun)

    # On and off.

    def switch_on(self) -> None:
        self.live = self.cache.live

    def switch_off(self) -> None:
        """Drop every result; those of queries in progress will not be kept, nor joined after a switch on."""
        self.cache.write_anything()
        self.cache = self._new_cache(self.cache.begin())
        self.live = {}

    def keeps_in(self, cache: ResultCache) -> bool:
        """Whether ``cache``, as it was when a query began, still keeps results."""
        return self.live is cache.live

    def resize(self, max_size_mb: float, max_entries: int) -> None:
        if (max_size_mb, max_entries) != (self.max_size_mb, self.max_entries):
            self.max_size_mb, self.max_entries = max_size_mb, max_entries
            self.cache.store.resize(max_bytes=int(max_size_mb * _MB), max_entries=max_entries)

    # What a result is indexed by.

    def scope_of(self, scope: Any) -> tuple[Hashable, str]:
        """:func:`scope_key`, and note that the scope is in use."""
        place, database = scope_key(scope)
        if database:
            self._by_database = True
        return place, database

    def marks_of(self, analysis: Analysis, database: str) -> frozenset[str]:
        marks = self.relations.marks_of(analysis.reads)
        if database:
            marks = read_in(marks, self._database(self.relations.read_by(analysis.reads), database))
        if self._held and not self._held.keys().isdisjoint(analysis.reads):
            marks |= {NEVER}
        return marks

    def hold(self, names: Iterable[str]) -> None:
        """Keep no result that reads one of these until as many :meth:`release` of it."""
        self._held.update(names)

    def release(self, names: Iterable[str]) -> None:
        self._held -= Counter(names)

    def version_of(self, analysis: Analysis) -> int:
        """Changes with each write to what the query reads."""
        return self.cache.version(self.relations.marks_of(analysis.reads))

    def hides(self, analysis: Analysis) -> bool:
        """Whether this context is in a transaction that wrote what the query reads."""
        transaction = self._transactions.current()
        return transaction is not None and transaction.hides(self.relations.read_by(analysis.reads))

    def _database(self, tables: Collection[str], database: str) -> str:
        """``database``, or "" if a name may refer to another one; in PostgreSQL no name can."""
        if database and self._analyses.dialect != "postgres" and any("." in name for name in tables):
            return ""
        return database

    # What drops results.

    def written_by(self, analysis: Analysis, database: str, *, waits: bool = True) -> Awaitable[Any] | None:
        """A statement has run that writes, or may have written before it failed.

        ``waits`` is False for a caller that does not await what it gets.
        """
        if analysis.declares:
            self.learn(analysis.declares)
        kind = analysis.query_type
        if kind not in CHANGES_ROWS and kind in _MAY_DEFINE:  # most are of the first, which is found at once
            self.catalog.soon()
            if self.plans is not None:
                self.plans.forget()
        if self._transactions.running[0] and (transaction := self._transactions.current()) is not None:
            self.note(transaction, analysis, database)
        tables, anything, marks = self.relations.all_written(analysis.writes, analysis.events)
        told = self._written(tables, marks, anything or analysis.writes_anything, database, analysis.declares)
        if self.relations.awaits_catalog and are_tables(analysis.writes):
            self.catalog.ask(self.relations.unknown(analysis.writes))
            if self.catalog.is_overdue:
                # What changes along was known too long ago: whoever wrote waits for what is known now.
                if waits:
                    return self._and_read(told)
                self.cache.write_anything()
        return told

    def ended_unseen(self, analysis: Analysis, *, waits: bool) -> Awaitable[Any] | None:
        """A statement has run that was not watched when it began."""
        if analysis.is_write:
            return self.written_by(analysis, "", waits=waits)
        if analysis.transaction:
            return self._written((), (), True, "")  # what was written in it, nobody noted
        return None

    def note(self, transaction: Transaction, analysis: Analysis, database: str) -> None:
        """Note in an open transaction what a statement in it writes and defines."""
        written = self.relations.all_written(analysis.writes, analysis.events)
        transaction.write(written.tables, written.anything or analysis.writes_anything, database)
        if analysis.query_type in _MAY_DEFINE:
            transaction.defines = True
            transaction.doubt = transaction.doubt or any(each.kind == "doubt" for each in analysis.declares)

    async def _and_read(self, told: Awaitable[Any] | None) -> None:
        try:
            await self.learn_catalog()
        finally:
            if told is not None:
                await told

    def ended(self, transaction: Transaction) -> Awaitable[Any] | None:
        """A transaction has ended: others can now see what it wrote."""
        if transaction.defines:
            self.catalog.soon()
        if not transaction.anything and not transaction.written:
            return None
        # What it defined can be read in the catalog only now.
        declares = (Declaration("doubt"),) if transaction.doubt else ()
        self.learn(declares)
        written = transaction.written
        done = self._written(
            written, write_marks(written), transaction.anything, transaction.database or "", declares
        )
        return None if done is None else asyncio.shield(done)

    def _written(
        self,
        tables: Collection[str],
        marks: Collection[str],
        anything: bool,
        database: str,
        declares: Sequence[Declaration] = (),
    ) -> Awaitable[Any] | None:
        """Drop what read the tables (``anything``: all results) and tell the other instances."""
        if anything:
            self.cache.write_anything()
        else:
            if database:
                database = self._database(tables, database)
            if self._by_database:
                marks = written_in(frozenset(marks), database)
            self.cache.write(marks)
        if self.after_write is None:
            return None
        names = [EVERY_TABLE] if anything else tell(sorted(tables), database)
        return self.after_write([*names, *map(message_of, declares)] if declares else names)

    def written_elsewhere(self, tables: list[str] | None) -> None:
        """Another instance wrote these tables; None or "*": any of them."""
        if not isinstance(tables, list) or not all(isinstance(name, str) for name in tables):
            tables = None  # messages were missed, or this is not one of ours
        if tables is None:
            self.catalog.doubt()  # definitions may have been missed, too
        else:
            self.learn([each for name in tables if (each := declared_by(name)) is not None])
            tables = [name for name in tables if not is_message(name)]
        if tables is None or EVERY_TABLE in tables:
            self.cache.write_anything()
            return
        names, database = told(tables)
        self.written(names, database)

    def written(self, names: Collection[str], database: str) -> int:
        """Another program wrote these tables; returns how many results were dropped."""
        tables, anything, marks = self.relations.all_written(frozenset(names))
        if anything:
            return self.cache.write_anything()
        if self._by_database:
            marks = written_in(marks, self._database(tables, database))
        return self.cache.write(marks)

    # What is known of tables.

    def declare_view(self, name: str, tables: Collection[str]) -> None:
        self.relations.view(name, tables)
        self.cache.write(write_marks([name]))  # what is cached already was indexed without it

    def declare_cascade(self, name: str, tables: Collection[str]) -> None:
        self.relations.cascade(name, tables)
        self.cache.write(write_marks([name]))

    def learn(self, declarations: Iterable[Declaration]) -> None:
        """Learn what statements, other instances or the catalog declare."""
        before = self.relations.functions
        for declaration in declarations:
            self.relations.learn(declaration)
            if declaration.kind == "doubt":
                self.catalog.doubt()
        if self.relations.functions != before:
            self._functions_changed()

    def _functions_changed(self) -> None:
        """A name may no longer mean the built-in function alone."""
        self._analyses.own_functions(self.relations.functions)

    def read_catalog_from(self, explainer: Explainer | None, dialect: str, timeout: float) -> None:
        """Ask ``explainer`` for the catalog from now on; None: nobody."""
        self.catalog.read_from(explainer, dialect, timeout)
        self.relations.await_catalog(explainer is not None)
        self._functions_changed()

    async def inform(self, analysis: Analysis) -> None:
        """Read the catalog if it is due, or does not have a name of this statement."""
        self.ask_for(analysis)
        if self.catalog.is_overdue:
            await self.learn_catalog()

    def ask_for(self, analysis: Analysis) -> None:
        if self.relations.awaits_catalog:
            self.catalog.ask(self.relations.unknown(analysis.reads | analysis.writes))

    async def learn_catalog(self) -> bool:
        """Read the catalog; any number of callers read it once. False if it was not read."""
        if not self.catalog.has_source:
            return False
        return await self._reading_catalog.run("catalog", self._learn_catalog)

    async def _learn_catalog(self) -> bool:
        relations = self.relations
        doubts = relations.doubts
        found = None
        try:
            found = await self.catalog.read()
        finally:
            if found is None and relations.is_current and not self.catalog.is_current:
                relations.lose_catalog()
                self.cache.write_anything()
        if found is None:
            return False
        functions = relations.functions
        if relations.learn_catalog(*found, doubts):
            self.cache.write_anything()  # cached results were indexed by what was known before
        if relations.functions != functions:
            self._functions_changed()
        return True
