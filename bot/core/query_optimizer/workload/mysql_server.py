"""What a MySQL or MariaDB server knows: statements and their times, tables, indexes and their use."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from bot.core._shared.masking import mask_url, one_line
from bot.core.query_optimizer.plans.prepare import Statement
from bot.core.query_optimizer.workload.executions import Execution, SourceError
from bot.core.query_optimizer.workload.existing import ExistingIndex, IndexUse, Key
from bot.core.query_optimizer.workload.server import Observed, Table
from bot.core.query_optimizer.workload.shapes import OWN

MISSING = """neither performance_schema nor the table mysql.slow_log has statements. In my.cnf, and restart:
    performance_schema = ON
or, without a restart, as an administrator:
    SET GLOBAL log_output = 'FILE,TABLE', slow_query_log = ON, long_query_time = 0.1;"""

MAX_LOGGED = 1_000_000
"""Rows of mysql.slow_log that are read; it has no index."""

_SYSTEM = "('mysql', 'information_schema', 'performance_schema', 'sys')"
_VARIABLES = "SELECT @@performance_schema, @@log_output, @@slow_query_log, UNIX_TIMESTAMP(NOW(6)), DATABASE()"
_DIGESTS = """
SELECT DIGEST_TEXT, COUNT_STAR, SUM_TIMER_WAIT / 1e12, MAX_TIMER_WAIT / 1e12, SUM_ROWS_SENT,
       COALESCE(SCHEMA_NAME, ''), UNIX_TIMESTAMP(FIRST_SEEN), UNIX_TIMESTAMP(LAST_SEEN), {sample}
FROM performance_schema.events_statements_summary_by_digest
WHERE COUNT_STAR > 0 AND (DIGEST IS NULL OR SCHEMA_NAME = %s)
"""
_SLOW_LOG = f"""
SELECT sql_text,
       HOUR(query_time) * 3600 + MINUTE(query_time) * 60 + SECOND(query_time) + MICROSECOND(query_time) / 1e6,
       rows_sent, db, user_host, thread_id, UNIX_TIMESTAMP(start_time)
FROM mysql.slow_log WHERE db = %s LIMIT {MAX_LOGGED}
"""  # noqa: S608 - a constant
_TABLES = f"""
SELECT table_schema, table_name, column_name, is_nullable = 'NO', column_type
FROM information_schema.columns
WHERE table_schema = DATABASE() AND table_schema NOT IN {_SYSTEM}
ORDER BY 1, 2, ordinal_position LIMIT 200000
"""  # noqa: S608 - a constant
_INDEXES = f"""
SELECT s.table_schema, s.table_name, s.index_name, s.index_type, s.non_unique, s.column_name,
       COALESCE(s.sub_part, ''), COALESCE(s.collation, ''), {{expression}}, t.engine, {{visible}}
FROM information_schema.statistics s
JOIN information_schema.tables t ON t.table_schema = s.table_schema AND t.table_name = s.table_name
WHERE s.table_schema = DATABASE() AND s.table_schema NOT IN {_SYSTEM}
ORDER BY 1, 2, 3, s.seq_in_index LIMIT 100000
"""  # noqa: S608 - constants
_SIZES = """
SELECT database_name, table_name, index_name, stat_value * @@innodb_page_size FROM mysql.innodb_index_stats
WHERE stat_name = 'size' AND database_name = DATABASE()
"""
_SCANS = """
SELECT object_schema, object_name, index_name, SUM(count_star)
FROM performance_schema.table_io_waits_summary_by_index_usage
WHERE index_name IS NOT NULL AND object_schema = DATABASE() GROUP BY 1, 2, 3
"""
_INSTRUMENTED = """
SELECT COUNT(*) FROM performance_schema.setup_instruments
WHERE name = 'wait/io/table/sql/handler' AND enabled = 'YES'
"""
_UNSEEN = "UPDATE performance_schema.threads SET instrumented = 'NO' WHERE processlist_id = CONNECTION_ID()"
_UPTIME = "SHOW GLOBAL STATUS LIKE 'Uptime'"


class MySQLServer:
    """One connection; nothing is changed."""

    dialect = "mysql"

    def __init__(self, connection: Any, *, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    async def statements(self, database: str, user: str) -> Observed:
        """Of performance_schema's digests, or of mysql.slow_log if those are off or a user is named.

        Raises SourceError if neither is there, with the lines that set them up.
        """
        with _telling("the server's variables"):
            digests, outputs, logs, now, current = (await self._rows(_VARIABLES))[0]
        within = database or current
        if not within:
            raise SourceError("--url: it names no database, and there is no --database")
        if digests and not user:
            return await self._digests(within, float(now))
        if logs and "TABLE" in str(outputs):
            return await self._slow_log(within, user, float(now))
        if digests:
            raise SourceError(
                "--user: performance_schema's digests do not tell the user; mysql.slow_log would"
            )
        raise SourceError(MISSING)

    async def _digests(self, database: str, now: float) -> Observed:
        columns = await self._rows(
            "SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = 'performance_schema' AND "
            "table_name = 'events_statements_summary_by_digest' AND column_name = 'QUERY_SAMPLE_TEXT'"
        )
        sql = _DIGESTS.format(sample="QUERY_SAMPLE_TEXT" if columns[0][0] else "NULL")
        rows = await self._allowed(sql, database, of="performance_schema.*")
        executions, lost = [], 0.0
        begins: float | None = None
        for row in rows:
            if row[0] is None:
                lost += float(row[2])
                continue
            executions.append(_of_digest(row))
            if row[6] is not None:
                begins = min(float(row[6]), begins if begins is not None else float(row[6]))
        notes = []
        if lost:
            notes.append(
                f"the table of digests is full: {lost:.1f} s are of statements that it has no "
                "room for (performance_schema_digests_size)"
            )
        return Observed(executions, begins, now, tuple(notes), lost)

    async def _slow_log(self, database: str, user: str, now: float) -> Observed:
        rows = await self._allowed(_SLOW_LOG, database, of="mysql.slow_log")
        executions = [_of_slow_log(row) for row in rows]
        notes = []
        if len(rows) >= MAX_LOGGED:
            notes.append(f"of mysql.slow_log {MAX_LOGGED:,} rows were read")
        if user:
            executions = [each for each in executions if each.user == user]
        threshold = (await self._rows("SELECT @@GLOBAL.long_query_time"))[0][0]
        notes.append(
            f"mysql.slow_log has statements of {float(threshold):g} s and more only (long_query_time)"
        )
        times = [each.at for each in executions if each.at is not None]
        return Observed(executions, min(times, default=None), now, tuple(notes))

    async def tables(self) -> list[Table]:
        with _telling("information_schema"):
            rows = await self._rows(_TABLES)
        return [
            Table(_text(schema), _text(table), _text(column), bool(not_null), _text(kind))
            for schema, table, column, not_null, kind in rows
        ]

    async def indexes(self) -> IndexUse:
        with _telling("information_schema"):
            return await self._indexes()

    async def _indexes(self) -> IndexUse:
        rows = await self._rows(_INDEXES.format(**await self._index_columns()))
        notes = ["reads on replicas are not counted here"]
        sizes = await self._if_allowed(_SIZES)
        if sizes is None:
            notes.append("sizes are not known: the user may not read mysql.innodb_index_stats")
        scans = None
        performance, *_ = (await self._rows(_VARIABLES))[0]
        counted = await self._if_allowed(_INSTRUMENTED) if performance else None
        if counted and counted[0][0]:
            scans = await self._if_allowed(_SCANS)
        if scans is None:
            notes.append("whether an index is used is not known: performance_schema is off, or not readable")
        uptime = await self._rows(_UPTIME)
        seconds = float(uptime[0][1]) if uptime and scans is not None else None
        found = indexes_of(rows, _by_name(sizes or ()), None if scans is None else _by_name(scans))
        return IndexUse(
            found, seconds, "since the server's start, or a reset of performance_schema", tuple(notes)
        )

    async def _index_columns(self) -> dict[str, str]:
        columns = {
            _text(row[0]).upper()
            for row in await self._rows(
                "SELECT column_name FROM information_schema.columns "
                "WHERE table_schema = 'information_schema' AND lower(table_name) = 'statistics'"
            )
        }
        visible = "s.is_visible = 'YES'" if "IS_VISIBLE" in columns else "1"
        if "IGNORED" in columns:
            visible = "s.ignored = 'NO'"
        return {"expression": "s.expression" if "EXPRESSION" in columns else "NULL", "visible": visible}

    async def explain(self, statements: Sequence[Statement]) -> list[list[Sequence[Any]]]:
        """For :class:`PlanReader`."""
        return [await self._rows(sql, params) for sql, params in statements]

    async def _allowed(self, sql: str, database: str, *, of: str) -> list[Sequence[Any]]:
        with _telling(of, f" (GRANT SELECT ON {of})"):
            return await self._rows(sql, (database,))

    async def _if_allowed(self, sql: str) -> list[Sequence[Any]] | None:
        from asyncmy import errors

        try:
            return await self._rows(sql)
        except errors.MySQLError:
            return None

    async def _rows(self, sql: str, params: Any = None) -> list[Sequence[Any]]:
        async with asyncio.timeout(self._timeout), self._connection.cursor() as cursor:
            await cursor.execute(f"{OWN} {sql}", params or None)
            return list(await cursor.fetchall())

    async def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def _telling(what: str, hint: str = "") -> Iterator[None]:
    """Raise SourceError for what the server refuses."""
    from asyncmy import errors

    try:
        yield
    except (errors.MySQLError, OSError) as error:
        raise SourceError(f"{what} cannot be read: {one_line(error)}{hint}") from error


async def open_mysql(url: str, timeout: float) -> MySQLServer:
    """Connect; raises SourceError, which does not tell the password."""
    try:
        import asyncmy
        from asyncmy import errors
    except ModuleNotFoundError as error:
        raise SourceError("asyncmy is missing: pip install bot-phase4[mysql]") from error
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(timeout):
            connection = await asyncmy.connect(
                host=parts.hostname or "127.0.0.1",
                port=parts.port or 3306,
                user=unquote(parts.username or "root"),
                password=unquote(parts.password or ""),
                database=unquote(parts.path.lstrip("/")) or None,
                charset="utf8mb4",
                autocommit=True,
            )
            async with connection.cursor() as cursor:
                await cursor.execute("SET SESSION long_query_time = 3600")
                # What is asked here is no part of the workload. Few users may say so.
                with contextlib.suppress(errors.MySQLError):
                    await cursor.execute(_UNSEEN)
                # Functions that a statement calls may run for EXPLAIN.
                await cursor.execute("SET SESSION TRANSACTION READ ONLY")
    except (OSError, errors.MySQLError, ValueError) as error:
        raise SourceError(f"{mask_url(url)}: {one_line(error)}") from error
    return MySQLServer(connection, timeout=timeout)


_MORE = re.compile(r"\?\s*,\s*\.\.\.")
_ROW = re.compile(r"\(\s*\.\.\.\s*\)")


def readable_digest(text: str) -> str:
    """A digest's text as SQL: without its dots for what is repeated."""
    return _ROW.sub("(?)", _MORE.sub("?", text)).strip()


def _of_digest(row: Sequence[Any]) -> Execution:
    text, calls, total, longest, rows, database, _, last, sample = row
    # The sample has values; one that is cut off does not help.
    whole = _text(sample) if sample is not None and not _text(sample).endswith("...") else ""
    return Execution(
        whole or readable_digest(_text(text)),
        float(total),
        int(calls),
        longest=float(longest),
        rows=float(rows),
        at=None if last is None else float(last),
        database=_text(database),
    )


def _of_slow_log(row: Sequence[Any]) -> Execution:
    text, seconds, rows, database, user_host, thread, at = row
    return Execution(
        _text(text),
        float(seconds),
        rows=float(rows),
        at=float(at),
        session=str(thread),
        user=_text(user_host).partition("[")[0].strip(),
        database=_text(database),
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)


def _by_name(rows: Sequence[Sequence[Any]]) -> dict[tuple[str, ...], float]:
    return {tuple(map(_text, row[:3])): float(row[3]) for row in rows}


def indexes_of(
    rows: Sequence[Sequence[Any]],
    sizes: dict[tuple[str, ...], float],
    scans: dict[tuple[str, ...], float] | None,
) -> list[ExistingIndex]:
    """The indexes of rows of information_schema.statistics, a row for each key in its order.

    ``scans`` is None if they are not counted.
    """
    by_index: dict[tuple[str, ...], list[Sequence[Any]]] = {}
    for row in rows:
        by_index.setdefault(tuple(map(_text, row[:3])), []).append(row)
    keys = {name: tuple(map(_key, parts)) for name, parts in by_index.items()}
    found = []
    for name, parts in by_index.items():
        kind, non_unique, engine, visible = _text(parts[0][3]), parts[0][4], _text(parts[0][9]), parts[0][10]
        order: tuple[Key, ...] = ()
        primary = keys.get((name[0], name[1], "PRIMARY"), ())
        if engine == "InnoDB" and kind == "BTREE":
            # An entry ends with the primary key: rows of equal keys stand in its order.
            order = (*keys[name], *[key for key in primary if key not in keys[name]])
        found.append(
            ExistingIndex(
                name[0], name[1], name[2], kind, keys[name],
                unique=not int(non_unique),
                # Without a primary key, the first unique index is the table.
                bound=name[2] == "PRIMARY",
                valid=bool(visible),
                size=sizes.get(name),
                scans=None if scans is None else int(scans.get(name, 0)),
                order=order,
            )
        )  # fmt: skip
    return found


def _key(row: Sequence[Any]) -> Key:
    text = _text(row[8]) if row[8] is not None else _text(row[5])
    return Key(text, operators=_text(row[6]), options=_text(row[7]))
