"""What a PostgreSQL server knows: statements and their times, tables, indexes and their use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from bot.core._shared.masking import mask_url, one_line
from bot.core.query_optimizer.plans.prepare import Statement
from bot.core.query_optimizer.workload.executions import Execution, SourceError
from bot.core.query_optimizer.workload.existing import ExistingIndex, IndexUse, Key
from bot.core.query_optimizer.workload.server import Observed, Table
from bot.core.query_optimizer.workload.shapes import OWN

MISSING = """pg_stat_statements is not there. In postgresql.conf, and restart the server:
    shared_preload_libraries = 'pg_stat_statements'
in the database, as a superuser:
    CREATE EXTENSION pg_stat_statements;"""

_EXTENSION = """
SELECT quote_ident(n.nspname) || '.pg_stat_statements',
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = to_regclass(quote_ident(n.nspname) || '.pg_stat_statements')
             AND a.attnum > 0 AND NOT a.attisdropped),
       to_regclass(quote_ident(n.nspname) || '.pg_stat_statements_info') IS NOT NULL
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'pg_stat_statements'
"""
_INFO = "SELECT extract(epoch FROM stats_reset)::float8, dealloc FROM {}_info"
HIDDEN = "<insufficient privilege>"
"""The text of a statement that another user ran."""

_TABLES = """
SELECT n.nspname::text, c.relname::text, a.attname::text, a.attnotnull, format_type(a.atttypid, a.atttypmod)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname !~ '^pg_(toast|temp)'
ORDER BY 1, 2, a.attnum LIMIT 200000
"""
_INDEXES = """
SELECT n.nspname::text, t.relname::text, c.relname::text, m.amname::text,
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) FROM generate_series(1, i.indnkeyatts) k),
       ARRAY(SELECT k::text || ' ' || coalesce((
                 SELECT array_to_string(a.attoptions, ',') FROM pg_attribute a
                 WHERE a.attrelid = i.indexrelid AND a.attnum = x.place), '')
             FROM unnest(i.indclass::oid[]) WITH ORDINALITY AS x (k, place) ORDER BY x.place),
       i.indcollation::oid[]::text[], i.indoption::int2[]::text[],
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true)
             FROM generate_series(i.indnkeyatts + 1, i.indnatts) k),
       coalesce(pg_get_expr(i.indpred, i.indrelid), ''),
       i.indisunique OR i.indisprimary OR i.indisexclusion,
       c.relkind <> 'i' OR i.indisreplident OR i.indisclustered
           OR EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = i.indexrelid)
           OR EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
           OR EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass
                      AND d.refobjid = i.indexrelid AND d.deptype IN ('n', 'a', 'i', 'e', 'x'))
           OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                      AND d.objid = i.indexrelid AND d.deptype = 'e'),
       i.indisvalid AND i.indisready AND i.indislive, pg_relation_size(i.indexrelid)::float8,
       s.idx_scan::int8, pg_get_indexdef(i.indexrelid)
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_class t ON t.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
JOIN pg_catalog.pg_am m ON m.oid = c.relam
LEFT JOIN pg_catalog.pg_stat_user_indexes s ON s.indexrelid = i.indexrelid
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
  AND t.relpersistence <> 't'
ORDER BY 1, 2, 3 LIMIT 20000
"""
_SINCE = """
SELECT extract(epoch FROM now() - greatest(stats_reset, pg_postmaster_start_time()))::float8,
       extract(epoch FROM now() - stats_reset)::float8, pg_is_in_recovery()
FROM pg_catalog.pg_stat_database WHERE datname = current_database()
"""


class PostgresServer:
    """One connection. Nothing is changed: every statement runs in a transaction that only reads."""

    dialect = "postgres"

    def __init__(self, connection: Any, *, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    async def statements(self, database: str, user: str) -> Observed:
        """Of pg_stat_statements: of the database that the URL names, or another one, and of one user or all.

        Raises SourceError if the extension is not there, with the two lines that set it up.
        """
        import asyncpg

        with _telling("pg_stat_statements"):
            found = await self._rows(_EXTENSION)
        if not found:
            raise SourceError(MISSING)
        view, columns, has_info = found[0]
        sql = statements_query(view, columns)
        try:
            with _telling("pg_stat_statements", but=asyncpg.ObjectNotInPrerequisiteStateError):
                rows = await self._rows(sql, database or None, user or None)
                info = await self._rows(_INFO.format(view)) if has_info else []
                now = (await self._rows("SELECT extract(epoch FROM now())::float8"))[0][0]
        except asyncpg.ObjectNotInPrerequisiteStateError as error:
            raise SourceError(MISSING) from error  # CREATE EXTENSION was run, and it is not loaded
        notes = []
        if hidden := sum(row[5] == HIDDEN for row in rows):
            notes.append(
                f"{hidden} of {len(rows)} statements are of other users and not shown: "
                "GRANT pg_read_all_stats TO the user of the URL"
            )
        if info and info[0][1]:
            notes.append(
                f"pg_stat_statements is too small: it dropped the least used statements {info[0][1]:,} times "
                "(pg_stat_statements.max)"
            )
        executions = [_execution(row) for row in rows if row[5] != HIDDEN and row[5]]
        hidden_seconds = sum(row[1] for row in rows if row[5] == HIDDEN) / 1e3
        return Observed(executions, info[0][0] if info else None, now, tuple(notes), hidden_seconds)

    async def tables(self) -> list[Table]:
        with _telling("the catalog"):
            return [Table(*row) for row in await self._rows(_TABLES)]

    async def indexes(self) -> IndexUse:
        with _telling("the catalog"):
            return await self._indexes()

    async def _indexes(self) -> IndexUse:
        found = [index_of(row) for row in await self._rows(_INDEXES)]
        since, reset, replica = (await self._rows(_SINCE))[0]
        if since is None:
            started = await self._rows(
                "SELECT extract(epoch FROM now() - pg_postmaster_start_time())::float8"
            )
            since = started[0][0]
        said = (
            "since their last reset"
            if reset is not None and reset <= since + 1
            else "since the server's start"
        )
        notes = ["reads on replicas are not counted here: look at pg_stat_user_indexes of each"]
        if replica:
            notes = ["this server is a replica: reads on its primary are not counted here"]
        return IndexUse(found, since, said, tuple(notes))

    async def explain(self, statements: Sequence[Statement]) -> list[list[Sequence[Any]]]:
        """For :class:`PlanReader`. EXPLAIN whose parameters are all unknown gets the generic plan."""
        answers: list[list[Sequence[Any]]] = []
        for sql, params in statements:
            unknown = bool(params) and all(value is None for value in params)
            if unknown and sql.startswith(_EXPLAIN):
                answers.append(await self._generic(sql.removeprefix(_EXPLAIN), len(params)))
            else:
                answers.append(await self._rows(sql, *(params or ())))
        return answers

    async def _generic(self, sql: str, parameters: int) -> list[Sequence[Any]]:
        """The plan for any values (PostgreSQL 12 and later)."""
        nulls = ", ".join(["NULL"] * parameters)
        async with self._reading():
            await self._connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            await self._connection.execute(f"{OWN} PREPARE phase4_generic AS {sql}")
            try:
                return list(await self._connection.fetch(f"{OWN} {_EXPLAIN}EXECUTE phase4_generic({nulls})"))
            finally:
                await self._connection.execute("DEALLOCATE phase4_generic")

    async def _rows(self, sql: str, *params: Any) -> list[Sequence[Any]]:
        async with self._reading():
            return [tuple(row) for row in await self._connection.fetch(f"{OWN} {sql}", *params)]

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        async with self._connection.transaction(readonly=True):
            await self._connection.execute(f"SET LOCAL statement_timeout = {int(self._timeout * 1e3)}")
            yield

    async def close(self) -> None:
        await self._connection.close(timeout=5)


_EXPLAIN = "EXPLAIN (FORMAT JSON) "


@contextmanager
def _telling(what: str, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Raise SourceError for what the server refuses, except for ``but``."""
    import asyncpg

    try:
        yield
    except but:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise SourceError(f"{what} cannot be read: {one_line(error)}") from error


async def open_postgres(url: str, timeout: float) -> PostgresServer:
    """Connect; raises SourceError, which does not tell the password."""
    try:
        import asyncpg
    except ModuleNotFoundError as error:
        raise SourceError("asyncpg is missing: pip install bot-phase4[postgresql]") from error
    address = url.replace("postgresql+asyncpg://", "postgresql://", 1)
    try:
        # Without prepared statements of its own, so that it works behind a pooler.
        connection = await asyncpg.connect(
            address, timeout=timeout, statement_cache_size=0, command_timeout=2 * timeout
        )
    except (
        OSError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        ValueError,
        TimeoutError,
    ) as error:
        raise SourceError(f"{mask_url(url)}: {one_line(error)}") from error
    return PostgresServer(connection, timeout=timeout)


def statements_query(view: str, columns: Sequence[str]) -> str:
    """(calls, total ms, longest ms, rows, nested, text, database, user) of every version of the view.

    Times are ``total_exec_time`` since 1.8, ``total_time`` before.
    """
    known = set(columns)
    total, longest = (
        ("total_exec_time", "max_exec_time") if "total_exec_time" in known else ("total_time", "max_time")
    )
    nested = "NOT s.toplevel" if "toplevel" in known else "false"
    return f"""
        SELECT s.calls::int8, s.{total}::float8, s.{longest}::float8, s.rows::int8, {nested}, s.query,
               d.datname::text, u.rolname::text
        FROM {view} s LEFT JOIN pg_catalog.pg_database d ON d.oid = s.dbid
        LEFT JOIN pg_catalog.pg_roles u ON u.oid = s.userid
        WHERE d.datname = coalesce($1::text, current_database()) AND ($2::text IS NULL OR u.rolname = $2)
          AND s.calls > 0
    """  # noqa: S608 - names of the catalog


def _execution(row: Sequence[Any]) -> Execution:
    calls, total, longest, rows, nested, text, database, user = row
    return Execution(
        text,
        total / 1e3,
        calls,
        longest=longest / 1e3,
        rows=float(rows),
        user=user or "",
        database=database or "",
        nested=nested,
    )


def index_of(row: Sequence[Any]) -> ExistingIndex:
    """The index of a row of the catalog."""
    schema, table, name, method, keys, classes, collations, options, include, predicate, *facts = row
    unique, bound, valid, size, scans, created = facts
    # What is only included has no class.
    listed = tuple(map(Key, keys, classes, collations, options))
    return ExistingIndex(
        schema, table, name, method, listed, frozenset(include), predicate, unique, bound, valid, size, scans,
        created,
    )  # fmt: skip
