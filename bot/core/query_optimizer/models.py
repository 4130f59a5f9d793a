"""What the query optimizer returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, structs

from bot.core.query_optimizer.sql.declarations import EVERY_EVENT

if TYPE_CHECKING:
    from bot.core.query_optimizer.execution.n_plus_one import NPlusOnePattern
    from bot.core.query_optimizer.sql.declarations import Declaration

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")
"""How serious a finding is: from useful to know, to almost surely a mistake."""


class QueryType(Enum):
    """What a query does; SCRIPT is several statements in one text, UNKNOWN what no parser reads."""

    SELECT = "select"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    MERGE = "merge"
    DDL = "ddl"
    TRANSACTION = "transaction"
    SCRIPT = "script"
    QUERY = "query"
    """Of GraphQL, as are the next two."""
    MUTATION = "mutation"
    SUBSCRIPTION = "subscription"
    FIND = "find"
    """Of MongoDB, as is the next; its writes are INSERT, UPDATE and DELETE."""
    AGGREGATE = "aggregate"
    OTHER = "other"
    UNKNOWN = "unknown"


CHANGES_ROWS = (QueryType.UPDATE, QueryType.INSERT, QueryType.DELETE)
"""What changes rows and defines nothing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One piece of advice about a query; ``docs/query_rules.md`` explains each code."""

    code: str
    """Stable: ``Q003`` means the same in every version."""
    name: str
    severity: Severity
    message: str
    """What is wrong, in one sentence that names the columns or tables."""
    fix: str
    """What to do about it."""
    line: int = 1
    """Where in the query's text it begins, from 1."""

    def __str__(self) -> str:
        return f"{self.code} {self.message} {self.fix}"


@dataclass(frozen=True)
class GraphQLReading:
    """One operation of a GraphQL text."""

    kind: str
    """"query", "mutation", "subscription"; empty if the text cannot be read."""
    normal_form: str
    """The operation and its fragments without layout, comments and its name, arguments sorted."""
    shape: str
    """The normal form with every literal replaced."""
    fingerprint: str
    root_fields: tuple[str, ...] = ()
    depth: int = 0
    complexity: int = 0
    """With the defaults of variables; ``complexity_with`` counts with their values."""
    sized_by_variables: bool = False
    problem: str = ""
    """Why it cannot be analysed, or will be refused by every server; empty if all is well."""
    too_large: bool = False
    """It is too long, too deep or endless, so it can be neither measured nor served."""
    findings: tuple[Finding, ...] = ()


UNPARSED = "it cannot be parsed"
"""Why the result of a text that no parser reads is not cached."""


class Analysis(Struct, frozen=True):
    """What one query text means; the same for every execution of it."""

    query_type: QueryType
    fingerprint: str
    """Sixteen hexadecimal digits, the same for queries that differ in literals and layout only."""
    normal_form: str
    """The text with every literal replaced: fit for logs, since it holds no user's data."""
    reads: frozenset[str]
    writes: frozenset[str]
    writes_anything: bool
    """Whether it is unknown what it writes: then every cached result is dropped."""
    not_cacheable: str
    """Why its result must not be cached; empty when it may be."""
    transaction: str = ""
    """What it does to the transaction, as a word for :meth:`Transactions.change`; empty for nothing."""
    savepoint: str = ""
    """The savepoint that it sets or releases."""
    declares: tuple[Declaration, ...] = ()
    """What it defines: views and other relations between tables."""
    events: frozenset[str] = EVERY_EVENT
    """What it may do to the rows of the tables that it writes: insert, update, delete, truncate."""
    takes_moments: bool = False
    """A parameter such as 'now' may be read as the current time."""
    graphql: GraphQLReading | None = None
    """What else is known about a GraphQL text; None for other texts."""
    operations: Mapping[str, Analysis] = {}
    """The operations of a GraphQL text that has several, by name."""

    @property
    def cacheable(self) -> bool:
        return not self.not_cacheable

    @property
    def is_write(self) -> bool:
        return bool(self.writes) or self.writes_anything


@dataclass(frozen=True, slots=True)
class IndexSuggestion:
    """An index that would serve a query. Its columns are in the order that the index needs."""

    table: str
    columns: tuple[str, ...]
    """Its keys, as columns by name or, if they are in ``expressions``, as SQL. Those compared for equality
    come first, then the one compared by range or those sorted by.
    """
    ddl: str
    """The statement that creates it."""
    reason: str
    equality_columns: tuple[str, ...] = ()
    """The first of ``columns``, which are compared for equality."""
    sort_columns: tuple[str, ...] = ()
    """The last of ``columns``, which only give the order."""
    method: str = "btree"
    """The access method: "btree" or "gin"."""
    expressions: tuple[str, ...] = ()
    """Those of ``columns`` that are expressions, as SQL without outer parentheses."""
    predicate: str = ""
    """Of a partial index: the condition, as SQL, of the rows that it holds; else empty."""
    include: tuple[str, ...] = ()
    """Columns that it holds beside the keys, for scans that read nothing else."""
    operator_class: str = ""
    """Of its last key compared by pattern, or of a GIN index; empty for the type's own."""
    extension: str = ""
    """The extension that must be created first; empty if none is missing."""

    def __str__(self) -> str:
        return self.ddl


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a plan proves."""

    improvement: float = 0.0
    """Percent, 0-100."""
    sentences: tuple[str, ...] = ()
    served: frozenset[str] = frozenset()
    """DDL of suggestions that an index serves already, or that are for a view."""
    instead: tuple[IndexSuggestion, ...] | None = None
    """What the planner would use, in place of what the query's text suggests; None if it is not known."""


@dataclass(frozen=True)
class OptimizationResult:
    """What is known about a query. Percentages are 0-100 and computed from evidence; 0.0 without evidence."""

    query: Any
    """As given: a text, or a MongoDB filter, pipeline or command."""
    query_type: QueryType
    optimized_query: Any
    fingerprint: str
    tables: list[str]
    recommendations: list[str] = field(default_factory=list)
    """The findings as text: a stable code, a sentence and a fix. Rewrites are among them."""
    index_suggestions: list[IndexSuggestion] = field(default_factory=list)
    n_plus_one_detected: bool = False
    cache_suggestion: str = ""
    estimated_improvement: float = 0.0
    """Percent: of the time measured, what cached results would have saved; or, of the rows that its plan
    examines (or its cost), what the suggested indexes would. The larger of the two; see ``evidence``."""
    findings: list[Finding] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)
    """Columns by clause ("select", "where", "join", "group_by", "having", "order_by", "set"), as
    ``table.column`` where the query tells the table."""
    evidence: list[str] = field(default_factory=list)
    """What ``estimated_improvement`` was computed from, a sentence each; empty without evidence."""

    depth: int = 0
    """Of a GraphQL operation: fields from the root to the deepest one."""
    complexity: int = 0
    """Of a GraphQL operation: what it may cost, in fields; lists count by their page size."""

    @property
    def estimated_improvement_percent(self) -> float:
        return self.estimated_improvement


class Told(Struct, frozen=True):
    """What is known of a text before it is read, from itself or from one that differs in numbers alone."""

    analysis: Analysis
    advice: Advice | None = None
    """On the other text: its index suggestions and columns hold for both, its findings do not."""


class Advice(Struct, frozen=True, dict=True):
    """What a text means and what to do about it; the same for every execution of it."""

    query: Any
    analysis: Analysis
    optimized_query: Any
    findings: tuple[Finding, ...] = ()
    recommendations: tuple[str, ...] = ()
    """The findings as text."""
    index_suggestions: tuple[IndexSuggestion, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = {}

    @property
    def characters(self) -> int:
        """Its approximate size in characters, for the bound on what is remembered."""
        return len(self.query) * 2 + sum(map(len, self.recommendations)) * 2 + 1_500

    def of(self, query: str) -> Advice:
        """The same advice for ``query``, which differs only in comments."""
        optimized = query if self.optimized_query == self.query else self.optimized_query
        return structs.replace(self, query=query, optimized_query=optimized)

    def result(
        self,
        ttl: float,
        observed: Sequence[Finding] = (),
        repeated: tuple[float, str] | None = None,
        plan: Evidence | None = None,
    ) -> OptimizationResult:
        """The advice as callers get it, with lists of their own.

        ``ttl`` is how long a result would be cached, in seconds; ``observed`` are findings from executions
        (an N+1 pattern); ``repeated`` is what caching would save, in percent, and the evidence for it;
        ``plan`` is what EXPLAIN proved.
        """
        improvement = 0.0
        evidence: list[str] = []
        suggestions = self.index_suggestions
        if repeated is not None:
            improvement = repeated[0]
            evidence.append(repeated[1])
        if plan is not None:
            improvement = max(improvement, plan.improvement)
            evidence += plan.sentences
            if plan.instead is not None:
                suggestions = plan.instead
            else:
                suggestions = tuple(each for each in suggestions if each.ddl not in plan.served)
        result = object.__new__(OptimizationResult)
        # Filled in directly: the analysis of a known text does little else, and setting the fields of a
        # frozen class would take half of its time.
        fields = result.__dict__
        known = self.__dict__.get("known")
        if known is None:
            known = self.__dict__["known"] = self._known()
        constant, tables, suggestion, rest = known
        fields.update(constant)
        fields["cache_suggestion"] = f"{suggestion}{ttl:g}{rest}" if rest else suggestion
        fields["tables"] = [*tables]
        fields["recommendations"] = [*self.recommendations, *map(str, observed)]
        fields["findings"] = [*self.findings, *observed]
        fields["index_suggestions"] = list(suggestions)
        fields["n_plus_one_detected"] = bool(observed)
        fields["estimated_improvement"] = improvement
        fields["evidence"] = evidence
        fields["columns"] = {clause: list(names) for clause, names in self.columns.items()}
        return result

    def _known(self) -> tuple[dict[str, Any], tuple[str, ...], str, str]:
        """What every result shares: immutable fields, tables, and the text about caching before and after the
        seconds; if nothing follows, there are no seconds.
        """
        analysis = self.analysis
        graphql = analysis.graphql
        constant = {
            "query": self.query,
            "query_type": analysis.query_type,
            "optimized_query": self.optimized_query,
            "fingerprint": analysis.fingerprint,
            "depth": graphql.depth if graphql is not None else 0,
            "complexity": graphql.complexity if graphql is not None else 0,
        }
        if graphql is not None:
            tables = tuple(graphql.root_fields)
        else:
            tables = tuple(sorted(analysis.reads | analysis.writes))
        if analysis.not_cacheable:
            return constant, tables, f"not cacheable: {analysis.not_cacheable}", ""
        until = "a mutation" if graphql is not None else f"a write to {', '.join(tables) or 'any table'}"
        return constant, tables, "cacheable for ", f" s, until {until}"


@dataclass(frozen=True)
class SlowQuery:
    """A query shape that was slow, with measured times."""

    fingerprint: str
    query: str
    executions: int
    slow_executions: int
    avg_time_ms: float
    max_time_ms: float
    last_seen: float
    """Unix time in seconds."""

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class QueryDetails:
    """Everything known about one query shape, without any value of a query."""

    fingerprint: str
    query: str
    """The whole shape, to 8,000 characters."""
    query_type: QueryType
    tables: list[str]
    executions: int
    slow_executions: int
    rows: int
    """Rows that all executions returned together."""
    avg_time_ms: float | None
    """None, as for the next, if no execution was timed since the statistics were reset."""
    max_time_ms: float | None
    last_seen: float | None
    """Unix time in seconds."""
    call_sites: list[str]
    """``file:line in function`` of slow executions and of N+1 patterns, as far as they are known."""
    findings: list[Finding]
    optimized_query: str
    """The shape of a better form; empty if none is known."""
    index_suggestions: list[IndexSuggestion]
    cache_suggestion: str
    evidence: list[str]
    """What plans and recorded executions prove, a sentence each."""
    estimated_improvement: float
    """Percent, from the evidence; 0.0 without any."""
    n_plus_one: NPlusOnePattern | None
