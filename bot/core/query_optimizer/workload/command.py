"""``phase4 sql`` of logs and of a server: reads them, judges them, and makes the report."""

from __future__ import annotations

import argparse
import asyncio
import os
from contextlib import AsyncExitStack
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from bot.core.query_optimizer.plans.prepare import Explainer
from bot.core.query_optimizer.sql.schema import Schema
from bot.core.query_optimizer.workload.executions import SourceError
from bot.core.query_optimizer.workload.judgement import judge
from bot.core.query_optimizer.workload.lines import lines_of
from bot.core.query_optimizer.workload.logs import Log, log_of
from bot.core.query_optimizer.workload.opening import open_server
from bot.core.query_optimizer.workload.report import Report
from bot.core.query_optimizer.workload.server import Server, schema_of
from bot.core.query_optimizer.workload.shapes import Workload
from bot.core.query_optimizer.workload.wording import DAY


class Read(NamedTuple):
    """A file: a script, or a log that was added to a workload."""

    name: str
    script: str | None
    """Its text; None for a log."""
    source: str = ""
    """Of a log: its name, its kind and how many statements it has."""
    notes: tuple[str, ...] = ()


def read_file(name: str, workload: Workload, options: argparse.Namespace) -> Read:
    """Read a file, and add a log's statements to the workload. Raises SourceError."""
    shown = "stdin" if name == "-" else name
    try:
        log, lines = log_of(lines_of(name, options.encoding))
        if log is None:
            return Read(shown, "".join(lines))
        return _read_log(shown, log, workload, options)
    except LookupError as error:
        raise SourceError(f"--encoding: {options.encoding!r} is not known to Python") from error


def _read_log(name: str, log: Log, workload: Workload, options: argparse.Namespace) -> Read:
    before = workload.calls
    others = workload.add_all(log.executions, log.dialect, options.database, options.user)
    server = "PostgreSQL" if log.dialect == "postgres" else "MySQL"
    notes = []
    if others:
        notes.append(f"{name}: {others:,} statements are of other databases or users, or do not tell theirs")
    if workload.calls == before and not others:
        notes.append(
            f"{name}: no statement with its time is in it"
            + (
                " (log_min_duration_statement, auto_explain; lc_messages must be English)"
                * (server == "PostgreSQL")
            )
        )
    source = f"{name} ({server} {log.kind}, {workload.calls - before:,} statements)"
    return Read(name, None, source, tuple(notes))


def report_on(workload: Workload, read: list[Read], schema: Schema, options: argparse.Namespace) -> Report:
    """Judge the workload, with the server's help if there is a URL. Raises SourceError."""
    report = Report(workload, top=options.top, literals=options.literals)
    report.unused_after = options.unused_after * DAY
    for each in read:
        if each.source:
            report.sources.append(each.source)
        report.notes += each.notes
    asyncio.run(_judge(report, schema, options, has_logs=bool(report.sources)))
    return report


async def _judge(report: Report, schema: Schema, options: argparse.Namespace, *, has_logs: bool) -> None:
    url = address_of(options.url)
    explainers: dict[str, Explainer] = {}
    databases: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        if url:
            server = await open_server(url, options.timeout)
            stack.push_async_callback(server.close)
            if not has_logs:
                await _add_statements(report, server, url, options)
            report.use = await server.indexes()
            report.dialect = server.dialect
            schema = schema_of(await server.tables(), report.use.indexes, server.dialect)
            explainers[server.dialect] = server.explain
            databases[server.dialect] = _database_of(url)
        report.judgement = await judge(
            report.workload.ranked(),
            schema,
            explainers,
            databases=databases,
            max_indexes=options.max_indexes,
            timeout=options.timeout,
            taken=frozenset(each.name.lower() for each in report.use.indexes) if report.use else frozenset(),
        )
    if not url:
        report.notes.append("no --url: nothing is known of plans, of existing indexes and of their use")


async def _add_statements(report: Report, server: Server, url: str, options: argparse.Namespace) -> None:
    observed = await server.statements(options.database, options.user)
    workload = report.workload
    workload.add_all(observed.executions, server.dialect)
    workload.cover(observed.begins, observed.ends)
    workload.dropped_seconds += observed.hidden_seconds
    report.notes += observed.notes
    database = options.database or _database_of(url)
    report.sources.append(f"statistics of the server, database {database}")


def address_of(given: str) -> str:
    """The URL; of ``env:NAME`` what the environment has, so that no password is on a command line."""
    if not given.startswith("env:"):
        return given
    url = os.environ.get(given[4:], "")
    if not url:
        raise SourceError(f"--url: {given}, but the environment has no {given[4:]}")
    return url


def _database_of(url: str) -> str:
    parts = urlsplit(url)
    return unquote(parts.path.lstrip("/")) or unquote(parts.username or "")
