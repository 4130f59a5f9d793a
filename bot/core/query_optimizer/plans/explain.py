"""Asks a database how it would run a query: EXPLAIN, look-ups in the catalog, and bounded samples.

The SQL that is put together here has names from the query that was parsed, quoted, and no values.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cachetools import LRUCache

from bot.core._shared.errors import message_of
from bot.core._shared.masking import one_line
from bot.core._shared.singleflight import SingleFlight
from bot.core.query_optimizer.models import Advice, Evidence, IndexSuggestion, QueryType
from bot.core.query_optimizer.plans.evidence import (
    SAMPLED_ROWS,
    Plan,
    TableFigures,
    judge,
    plan_of_mysql,
    plan_of_postgres,
    plan_of_sqlite,
)

if TYPE_CHECKING:
    from bot.core.query_optimizer.sql.analyzer import Reading

logger = logging.getLogger(__name__)

DIALECTS = ("sqlite", "postgres", "mysql")
REMEMBERED_PLANS = 1_000
REMEMBERED_SECONDS = 300.0
RETRY_SECONDS = 30.0
"""After a failure: how long a query, or a database that is away, is not asked again."""

MAX_CHARACTERS = 20_000
"""Of a query that is explained."""

Statement = tuple[str, Any]
"""SQL in the dialect's form, and its parameters: a sequence, a mapping by name, or None."""

Explainer = Callable[[Sequence[Statement]], Awaitable[Sequence[Sequence[Sequence[Any]]]]]
"""``await explainer(statements)`` runs them in order on one connection and answers with the rows of each."""


class ExplainerUnavailableError(ConnectionError):
    """No connection to be had for EXPLAIN; the message says why."""


class Pools(Protocol):
    """What is used of the connection pool manager."""

    def connection(self, name: str, timeout: float | None = None) -> Any: ...


def pool_explainer(pools: Pools, name: str, dialect: str, timeout: float) -> Explainer:
    """An explainer that leases a connection of a pool for each query, waiting ``timeout`` seconds at most."""

    async def explain(statements: Sequence[Statement]) -> list[list[Sequence[Any]]]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(pools.connection(name, timeout))
            except Exception as error:
                raise ExplainerUnavailableError(str(error)) from error
            return [await _rows(connection, dialect, sql, params) for sql, params in statements]

    return explain


async def _rows(connection: Any, dialect: str, sql: str, params: Any) -> list[Sequence[Any]]:
    if dialect == "postgres":
        return [tuple(row) for row in await connection.fetch(sql, *(params or ()))]
    if dialect == "sqlite":
        async with connection.execute(sql, params or ()) as cursor:
            return list(await cursor.fetchall())
    async with connection.cursor() as cursor:
        await cursor.execute(sql, params or None)
        return list(await cursor.fetchall())


class PlanReader:
    """Evidence from plans, remembered per fingerprint. Any number of callers of one shape ask once.

    Its methods never raise for what the database does. A caller that is cancelled leaves alone.
    """

    def __init__(
        self, explainer: Explainer, dialect: str, now: Callable[[], float], *, timeout: float
    ) -> None:
        self.dialect = dialect
        self._explainer = explainer
        self._now = now
        self._timeout = timeout
        # fingerprint -> (monotonic time until which it holds, what was found); and for what is not explained,
        # (fingerprint, whether parameters are missing) -> (that time, None)
        self._known: LRUCache[Hashable, tuple[float, Evidence | None]] = LRUCache(maxsize=REMEMBERED_PLANS)
        self._flights: SingleFlight[Evidence | None] = SingleFlight()
        self._away_until = 0.0
        self._told_away = self._told_refused = False  # what the log has said
        self._number = 0  # grows with forget: what was asked before it is not remembered

    def forget(self) -> None:
        """An index may have come or gone: plans are asked for anew."""
        self._known.clear()
        self._number += 1

    async def evidence_for(self, advice: Advice, params: Any) -> Evidence | None:
        """What the plan proves; None for what is not explained, and while the database does not answer."""
        fingerprint = advice.analysis.fingerprint
        known = self._known.get(fingerprint)
        now = self._now()
        if known is not None and known[0] > now:
            return known[1]
        if now < self._away_until:
            return None
        passed = (fingerprint, params is None)  # whether it can be explained may depend on that
        known = self._known.get(passed)
        if known is not None and known[0] > now:
            return None
        prepared = _prepare(advice, params, self.dialect)
        if prepared is None:
            self._known[passed] = now + REMEMBERED_SECONDS, None
            return None
        return await self._flights.run(fingerprint, lambda: self._ask(fingerprint, prepared))

    async def _ask(self, fingerprint: str, prepared: _Prepared) -> Evidence | None:
        number = self._number
        found: Evidence | None = None
        kept = RETRY_SECONDS
        try:
            async with asyncio.timeout(self._timeout):
                found = await _ASKS[self.dialect](self._explainer, prepared)
            kept = REMEMBERED_SECONDS
            self._told_away = False
        except OSError as error:  # TimeoutError is one
            self._away_until = self._now() + RETRY_SECONDS
            if not self._told_away:
                self._told_away = True
                reason = one_line(message_of(error)) or f"no answer within {self._timeout:g} s"
                logger.warning("EXPLAIN does not work, advice goes without its evidence: %s", reason)
        except Exception as error:
            if not self._told_refused:
                self._told_refused = True
                # Not the message: it may quote the query, and with it a user's data.
                logger.warning(
                    "EXPLAIN was refused (%s), the advice goes without its evidence; this is logged once. "
                    "The query: %s",
                    type(error).__name__,
                    one_line(prepared.normal_form),
                )
        if number == self._number:
            self._known[fingerprint] = self._now() + kept, found
        return found


class _Prepared:
    """A query that may be explained, with what is needed to understand its plan."""

    __slots__ = ("aliases", "normal_form", "params", "sql", "stops_early", "suggestions", "tables", "top")

    def __init__(self) -> None:
        self.sql = ""
        self.normal_form = ""
        """For the log: it has no user's data."""
        self.params: Any = None
        self.aliases: dict[str, str] = {}
        """Alias, or name, of each table -> its name; in lower case the first, as written the second."""
        self.tables: dict[str, str] = {}
        """Name in lower case -> as the query writes it, with its schema, quoted."""
        self.suggestions: tuple[IndexSuggestion, ...] = ()
        self.stops_early = False
        self.top: int | None = None
        """Rows wanted of a single table by LIMIT (and OFFSET), in its order and without conditions."""


def _prepare(advice: Advice, params: Any, dialect: str) -> _Prepared | None:
    """None unless it is one SELECT that parses, changes nothing, and whose parameters are known."""
    analysis = advice.analysis
    if (
        analysis.query_type is not QueryType.SELECT
        or analysis.is_write
        or analysis.graphql is not None
        or analysis.transaction
        or len(advice.query) > MAX_CHARACTERS
    ):
        return None
    sql = advice.query.strip().rstrip("; \n\t")
    if ";" in sql:
        return None  # whatever a parser thinks of it, the database must see one statement
    from bot.core.query_optimizer.sql.analyzer import read

    reading = read(sql, dialect)
    try:
        if (
            len(reading.censuses) != 1
            or reading.analysis.query_type is not QueryType.SELECT
            or reading.analysis.is_write
        ):
            return None
        return _understood(reading, advice, sql, params)
    except (RecursionError, AttributeError, TypeError, KeyError, ValueError, IndexError) as error:
        # A tree of a form that was not foreseen.
        logger.debug("not explained: %s: %s", one_line(analysis.normal_form, 200), one_line(error))
        return None
    finally:
        reading.release()


def _understood(reading: Reading, advice: Advice, sql: str, params: Any) -> _Prepared | None:
    from sqlglot import exp

    from bot.core.query_optimizer.sql.dialects import dialect_of

    dialect = reading.dialect
    census = reading.censuses[0]
    found = _Prepared()
    found.sql = sql
    found.normal_form = advice.analysis.normal_form
    found.suggestions = advice.index_suggestions
    for table in census.all(exp.Table):
        if table.this.__class__ is not exp.Identifier:
            continue
        found.aliases[(table.alias or table.name).lower()] = table.name
        found.aliases.setdefault(table.name.lower(), table.name)
        plain = exp.Table(this=table.this.copy(), db=table.args.get("db"))
        found.tables[table.name.lower()] = plain.sql(dialect=dialect_of(dialect))
    for with_ in census.all(exp.CTE):
        found.aliases.pop(with_.alias.lower(), None)  # no table, though it reads like one
    args = census.statement.args
    found.stops_early = bool(args.get("limit") and not args.get("group") and not census.has((exp.Order,)))
    found.top = _top(args, exp)
    needed = len(census.all(exp.Placeholder)) + len(census.all(exp.Parameter)) > 0
    if params is None and needed:
        if dialect != "sqlite":
            return None
        found.params = _nulls(census.all(exp.Placeholder), reading.parameters.written)
    elif isinstance(params, Mapping):
        if dialect == "postgres":
            return None
        found.params = dict(params)
    elif isinstance(params, list | tuple):
        found.params = tuple(params)
    elif params is not None:
        found.params = (params,)
    return found


def _top(args: Mapping[str, Any], exp: Any) -> int | None:
    if not args.get("order") or any(args.get(part) for part in ("where", "joins", "group", "distinct")):
        return None
    total = 0
    for part in ("limit", "offset"):
        clause = args.get(part)
        number: Any = clause.args.get("expression") if clause is not None else None
        if number.__class__ is exp.Literal and number.this.isdigit():
            total += int(number.this)
        elif clause is not None or part == "limit":
            return None
    return total


def _nulls(placeholders: Sequence[Any], numbered: Sequence[str]) -> Any:
    """Values for a text's parameters. SQLite's plan does not depend on them."""
    names = [node.name for node in placeholders if node.name.isidentifier() and "phase4_" not in node.name]
    if names:
        return dict.fromkeys(names)
    numbers = [int(mark[1:]) for mark in numbered if mark[1:].isdigit()]
    return (None,) * max([len(placeholders), *numbers])


def _known_by(
    prepared: _Prepared, indexes: Mapping[str, Sequence[tuple[str, ...]]], views: Iterable[Any]
) -> frozenset[str]:
    """DDL of the suggestions that an index of the catalog serves by its columns, or that are for views."""
    from bot.core.query_optimizer.sql.schema import Schema

    schema = Schema()
    schema.indexes = {table.lower(): list(columns) for table, columns in indexes.items()}
    named = {str(view).lower() for view in views}
    return frozenset(
        each.ddl
        for each in prepared.suggestions
        if each.table.rpartition(".")[2].lower() in named
        or schema.serves(each.table.rpartition(".")[2], each.columns, len(each.equality_columns))
    )


def _by_index(rows: Sequence[Sequence[Any]]) -> dict[str, list[tuple[str, ...]]]:
    """Rows of (table, index, column), a table's and an index' columns in order -> columns by table."""
    found: dict[str, dict[str, list[str]]] = {}
    for table, index, column in rows:
        columns = found.setdefault(str(table).lower(), {}).setdefault(str(index), [])
        columns.append(str(column or "").lower())
    return {table: [tuple(columns) for columns in by.values()] for table, by in found.items()}


# Samples, where the planner does not tell how many rows an index would leave.


def _samples(prepared: _Prepared, plan: Plan, dialect: str) -> list[tuple[str, IndexSuggestion | None, str]]:
    """(table, suggestion, SQL) that counts sampled rows, and distinct keys of the suggestion among them."""
    by_table = {each.table.rpartition(".")[2].lower(): each for each in prepared.suggestions}
    found: list[tuple[str, IndexSuggestion | None, str]] = []
    for table in plan.scanned():
        written = prepared.tables.get(table)
        if written is None:
            continue
        suggestion = by_table.get(table)
        keys = suggestion.equality_columns if suggestion is not None else ()
        listed = ", ".join(_quoted(key, dialect) for key in keys)
        rows = f"SELECT {listed or '1 AS one'} FROM {written} LIMIT {SAMPLED_ROWS}"  # noqa: S608 - names
        distinct = "0"
        if keys:
            distinct = f"SELECT count(*) FROM (SELECT DISTINCT {listed} FROM ({rows}) AS s) AS d"  # noqa: S608
        sql = f"SELECT count(*), ({distinct}) FROM ({rows}) AS r"  # noqa: S608 - names
        found.append((table, suggestion if keys else None, sql))
    return found


def _quoted(name: str, dialect: str) -> str:
    # SQLite takes a name in double quotes that it does not know for a string.
    mark = '"' if dialect == "postgres" else "`"
    return mark + name.replace(mark, mark * 2) + mark


def _sampled(
    samples: Sequence[tuple[str, IndexSuggestion | None, str]],
    answers: Sequence[Sequence[Sequence[Any]]],
    sizes: Mapping[str, float],
) -> dict[str, TableFigures]:
    found = {}
    for (table, suggestion, _), answer in zip(samples, answers, strict=True):
        rows, keys = int(answer[0][0]), int(answer[0][1])
        size = sizes.get(table)
        selected = {suggestion.ddl: 1 / keys} if suggestion is not None and keys else {}
        found[table] = TableFigures(
            max(rows, size or 0.0), at_least=size is None and rows >= SAMPLED_ROWS, selected=selected
        )
    return found


# What each database is asked.


_SQLITE_INDEXES = """
SELECT m.name, i.name, c.name
FROM sqlite_master AS m JOIN pragma_index_list(m.name) AS i JOIN pragma_index_info(i.name) AS c
WHERE m.type = 'table' AND i.partial = 0 AND lower(m.name) IN ({})
ORDER BY m.name, i.name, c.seqno
"""
_SQLITE_VIEWS = """
SELECT type, name FROM sqlite_master
WHERE name = 'sqlite_stat1' OR (type = 'view' AND lower(name) IN ({}))
"""
_SQLITE_SIZES = "SELECT tbl, stat FROM sqlite_stat1 WHERE lower(tbl) IN ({})"


async def _ask_sqlite(explainer: Explainer, prepared: _Prepared) -> Evidence:
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in prepared.tables) or "''"
    indexes = _SQLITE_INDEXES.format(names)
    rows, found, others = await explainer(
        [
            (f"EXPLAIN QUERY PLAN {prepared.sql}", prepared.params),
            (indexes, None),
            (_SQLITE_VIEWS.format(names), None),
        ]
    )
    has_statistics = any(kind == "table" for kind, _ in others)
    views = [name for kind, name in others if kind == "view"]
    plan = plan_of_sqlite(rows, prepared.aliases)
    samples = _samples(prepared, plan, "sqlite")
    statements: list[Statement] = [(sql, None) for _, _, sql in samples]
    if has_statistics:
        statements.append((_SQLITE_SIZES.format(names), None))
    answers = list(await explainer(statements)) if statements else []
    sizes = {}
    if has_statistics:
        sizes = {str(table).lower(): float(str(stat).split()[0]) for table, stat in answers.pop()}
    return judge(
        plan,
        prepared.suggestions,
        _sampled(samples, answers, sizes),
        known=_known_by(prepared, _by_index(found), views),
        stops_early=prepared.stops_early and not plan.sorts,
        top=prepared.top if plan.sorts else None,
    )


_POSTGRES_INDEXES = """
SELECT t.relname::text, i.indexrelid::text, a.attname::text
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0
WHERE i.indrelid = ANY ($1::text[]::regclass[]) AND i.indisvalid AND i.indpred IS NULL
  AND k.place <= i.indnkeyatts
ORDER BY 1, 2, k.place
"""
_POSTGRES_SIZES = """
SELECT c.relname::text, c.reltuples::float8, c.relkind::text FROM pg_catalog.pg_class c
WHERE c.oid = ANY ($1::text[]::regclass[])
"""
_HYPOPG = "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'hypopg'"


async def _ask_postgres(explainer: Explainer, prepared: _Prepared) -> Evidence:
    explain = f"EXPLAIN (FORMAT JSON) {prepared.sql}"
    names = [name for key, name in prepared.tables.items() if key in prepared.aliases]
    rows, indexes, sizes, hypopg = await explainer(
        [
            (explain, prepared.params),
            (_POSTGRES_INDEXES, (names,)),
            (_POSTGRES_SIZES, (names,)),
            (_HYPOPG, None),
        ]
    )
    plan = plan_of_postgres(rows[0][0])
    known = _known_by(prepared, _by_index(indexes), [name for name, _, kind in sizes if kind == "v"])
    by_table = {each.table.rpartition(".")[2].lower(): each for each in prepared.suggestions}
    expected = {access.table.lower(): access.expected for access in plan.accesses if access.full_scan}
    figures = {}
    for table, size, kind in sizes:
        if kind == "v" or size < 0:
            continue  # never analyzed
        rows_expected, suggestion = expected.get(table.lower()), by_table.get(table.lower())
        selected = {}
        if suggestion is not None and rows_expected is not None and size and suggestion.ddl not in known:
            selected = {suggestion.ddl: min(1.0, rows_expected / size)}
        figures[table.lower()] = TableFigures(size, selected=selected)
    wanted = [each for each in prepared.suggestions if each.ddl not in known]
    after = None
    if hypopg and wanted:
        # Hypothetical indexes are the session's own, and exist for its EXPLAIN only.
        reset: Statement = ("SELECT hypopg_reset()", None)
        create: list[Statement] = [("SELECT * FROM hypopg_create_index($1)", (each.ddl,)) for each in wanted]
        answers = await explainer([reset, *create, (explain, prepared.params), reset])
        after = plan_of_postgres(answers[-2][0][0]).cost
    return judge(
        plan,
        prepared.suggestions,
        figures,
        known=known,
        stops_early=prepared.stops_early and not plan.sorts,
        top=prepared.top if plan.sorts else None,
        cost_after=after,
    )


_MYSQL_INDEXES = """
SELECT table_name, index_name, column_name FROM information_schema.statistics
WHERE table_schema = DATABASE() AND lower(table_name) IN ({})
ORDER BY table_name, index_name, seq_in_index
"""
_MYSQL_VIEWS = """
SELECT table_name FROM information_schema.views
WHERE table_schema = DATABASE() AND lower(table_name) IN ({})
"""


async def _ask_mysql(explainer: Explainer, prepared: _Prepared) -> Evidence:
    names = ", ".join("'" + name.replace("'", "''").replace("\\", "\\\\") + "'" for name in prepared.tables)
    rows, found, views = await explainer(
        [
            (f"EXPLAIN FORMAT=JSON {prepared.sql}", prepared.params),
            (_MYSQL_INDEXES.format(names or repr("")), None),
            (_MYSQL_VIEWS.format(names or repr("")), None),
        ]
    )
    plan = plan_of_mysql(rows[0][0], prepared.aliases)
    samples = _samples(prepared, plan, "mysql")
    answers = await explainer([(sql, None) for _, _, sql in samples]) if samples else []
    # What a full scan examines is the table.
    sizes = {
        access.table.lower(): access.expected
        for access in plan.accesses
        if access.full_scan and access.expected is not None
    }
    return judge(
        plan,
        prepared.suggestions,
        _sampled(samples, answers, sizes),
        known=_known_by(prepared, _by_index(found), [row[0] for row in views]),
        stops_early=prepared.stops_early and not plan.sorts,
        top=prepared.top if plan.sorts else None,
    )


_ASKS: dict[str, Callable[[Explainer, _Prepared], Awaitable[Evidence]]] = {
    "sqlite": _ask_sqlite,
    "postgres": _ask_postgres,
    "mysql": _ask_mysql,
}
