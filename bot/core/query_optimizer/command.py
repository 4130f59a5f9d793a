"""The command ``phase4 sql FILE ...``: advice on files of SQL, on logs and on a server's statistics."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bot.core.query_optimizer.models import SEVERITIES

if TYPE_CHECKING:
    from bot.core.query_optimizer.workload.command import Read
    from bot.core.query_optimizer.workload.report import Report

EXIT_FOUND = 1
EXIT_USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Advice on SQL: rules with stable codes, indexes, rewrites that keep the result. Of logs, and of a "
        "server's statistics, what to do first, by the time that it saves."
    )
    parser.epilog = (
        "docs/query_rules.md explains the rules, docs/workloads.md the report on logs and servers."
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE",
        help='SQL; a log of PostgreSQL (stderr, csvlog, jsonlog; auto_explain); a slow query log of MySQL or '
        'MariaDB; each may be gzip; "-": stdin (default without --url)',
    )  # fmt: skip
    parser.add_argument("--dialect", choices=("postgres", "mysql", "sqlite"), default="", help="default: any")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--json", dest="format", action="store_const", const="json", help="--format json")
    parser.add_argument(
        "--fail-on", choices=(*SEVERITIES, "never"), default="error",
        help="exit with status 1 if anything of this severity or above is found (default: error)",
    )  # fmt: skip
    parser.add_argument("--ignore", default="", metavar="CODES", help="codes not to report: Q003,Q011")
    of_logs = parser.add_argument_group("logs and servers")
    of_logs.add_argument(
        "--url", default="",
        help="postgresql:// or mysql://, or env:NAME of an environment variable that has it: the server that "
        "is asked for plans and indexes and, if no log is given, for its statistics (pg_stat_statements; "
        "performance_schema or mysql.slow_log)",
    )  # fmt: skip
    of_logs.add_argument(
        "--database", default="",
        help="only this database's statements (default: of logs all, of statistics the database of --url)",
    )  # fmt: skip
    of_logs.add_argument("--user", default="", help="only this user's statements")
    of_logs.add_argument(
        "--top", type=_count, default=20, metavar="N", help="shapes of statements to show (20)"
    )
    of_logs.add_argument(
        "--max-indexes", type=_count, default=10, metavar="N", help="indexes to suggest at most (10)"
    )
    of_logs.add_argument(
        "--unused-after", type=_number, default=7.0, metavar="DAYS",
        help="name indexes without a scan in so many days (7)",
    )  # fmt: skip
    of_logs.add_argument(
        "--timeout", type=_seconds, default=10.0, metavar="SECONDS", help="for each answer of the server (10)"
    )
    of_logs.add_argument("--encoding", default="", help="of files (default: UTF-8, or what they begin with)")
    of_logs.add_argument(
        "--literals",
        action="store_true",
        help="show values of statements; without it none leaves the command",
    )


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r}, but it must be a number from 1 to 10000")
    return int(text)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r}, but it must be a number from 0 to 10000")
    return number


def _seconds(text: str) -> float:
    number = _number(text)
    if number < 0.1:
        raise argparse.ArgumentTypeError(f"{text!r}, but it must be 0.1 or more")
    return number


def run(options: argparse.Namespace) -> int:
    """0: nothing at or above ``--fail-on``; 1: something; 2: an unreadable file, or bad arguments."""
    from bot.core.query_optimizer.advice.report import known_codes
    from bot.core.query_optimizer.workload.executions import SourceError

    ignored = frozenset(code.strip().upper() for code in options.ignore.split(",") if code.strip())
    if unknown := sorted(ignored - known_codes()):
        print(f"--ignore: no rule has the code {', '.join(unknown)}", file=sys.stderr)
        return EXIT_USAGE
    try:
        return _run(options, ignored)
    except SourceError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE


def _run(options: argparse.Namespace, ignored: frozenset[str]) -> int:
    from bot.core.query_optimizer.workload.command import read_file
    from bot.core.query_optimizer.workload.shapes import Workload

    workload = Workload()
    names = options.files or ([] if options.url else ["-"])
    read = [read_file(name, workload, options) for name in names]
    scripts = [each for each in read if each.script is not None]
    total = dict.fromkeys(SEVERITIES, 0)
    said: list[str] = []
    document: dict[str, Any] = {}
    if scripts:
        document["statements"] = _review(scripts, options, ignored, total, said)
    if options.url or len(scripts) < len(read):
        report = _workload_report(workload, read, options, ignored, total)
        if options.format == "json":
            document["workload"] = report.as_dict()
        else:
            said.append(report.as_text())
    if options.format == "json":
        said = [json.dumps({"statements": [], **document, "counts": total}, indent=2)]
    _print(said)
    if options.fail_on == "never":
        return 0
    bad = SEVERITIES[SEVERITIES.index(options.fail_on) :]
    return EXIT_FOUND if any(total[severity] for severity in bad) else 0


def _review(
    scripts: Sequence[Read],
    options: argparse.Namespace,
    ignored: frozenset[str],
    total: dict[Any, int],
    said: list[str],
) -> list[dict[str, Any]]:
    """Advice on the scripts: what is found is added to ``total``, the text of the report to ``said``."""
    from bot.core.query_optimizer.advice.report import analyse_scripts, as_text, counts, without

    shown: list[dict[str, Any]] = []
    number = 0
    found_in = analyse_scripts([script.script or "" for script in scripts], options.dialect)
    for script, found in zip(scripts, found_in, strict=True):
        statements = [without(statement, ignored) for statement in found]
        number += len(statements)
        for severity, count in counts(statements).items():
            total[severity] += count
        if options.format == "json":
            shown += [statement.as_dict(script.name) for statement in statements]
        elif report := as_text(script.name, statements):
            said.append(report)
    plural = {severity: f"{count} {severity}{'s' * (count != 1)}" for severity, count in total.items()}
    read = f"{number} statement{'s' * (number != 1)}"
    said.append(f"{read}: {plural['error']}, {plural['warning']}, {total['info']} info")
    return shown


def _workload_report(
    workload: Any,
    read: list[Read],
    options: argparse.Namespace,
    ignored: frozenset[str],
    total: dict[Any, int],
) -> Report:
    """The report on logs and the server: what is found is added to ``total``."""
    from bot.core.query_optimizer.advice.report import schema_of_scripts
    from bot.core.query_optimizer.workload.command import report_on

    schema = schema_of_scripts([each.script for each in read if each.script is not None], options.dialect)
    report = report_on(workload, read, schema, options)
    for judged in report.judgement.judged:
        judged.findings = tuple(each for each in judged.findings if each.code not in ignored)
        for finding in judged.findings:
            total[finding.severity] += 1
    return report


def _print(said: list[str]) -> None:
    """Print, also to a closed pipe (``| head``), which does not change the status."""
    try:
        print("\n".join(said), flush=True)
    except BrokenPipeError:
        # Buffered output would raise again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
