"""The command ``phase4 sql FILE.sql ...``: advice on files of SQL, for people and for CI."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from bot.core.query_optimizer.models import SEVERITIES

EXIT_FOUND = 1
EXIT_USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Advice on SQL: rules with stable codes, indexes, rewrites that keep the result."
    parser.epilog = "The rules are explained in docs/query_rules.md."
    parser.add_argument("files", nargs="*", default=["-"], metavar="FILE.sql", help='"-" (default): stdin')
    parser.add_argument("--dialect", choices=("postgres", "mysql", "sqlite"), default="", help="default: any")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument(
        "--fail-on", choices=(*SEVERITIES, "never"), default="error",
        help="exit with status 1 if anything of this severity or above is found (default: error)",
    )  # fmt: skip
    parser.add_argument("--ignore", default="", metavar="CODES", help="codes not to report: Q003,Q011")


def run(options: argparse.Namespace) -> int:
    """0: nothing at or above ``--fail-on``; 1: something; 2: an unreadable file, or bad arguments."""
    from bot.core.query_optimizer.advice.report import analyse_scripts, as_text, counts, known_codes, without

    ignored = frozenset(code.strip().upper() for code in options.ignore.split(",") if code.strip())
    if unknown := sorted(ignored - known_codes()):
        print(f"--ignore: no rule has the code {', '.join(unknown)}", file=sys.stderr)
        return EXIT_USAGE
    total = dict.fromkeys(SEVERITIES, 0)
    texts = []
    for name in options.files:
        try:
            texts.append(
                sys.stdin.read() if name == "-" else Path(name).read_text("utf-8-sig", errors="replace")
            )
        except OSError as error:
            print(f"{name}: {error.strerror or error}", file=sys.stderr)
            return EXIT_USAGE
    shown, number = [], 0
    said = []
    for name, found in zip(options.files, analyse_scripts(texts, options.dialect), strict=True):
        source = "stdin" if name == "-" else name
        statements = [without(statement, ignored) for statement in found]
        number += len(statements)
        for severity, count in counts(statements).items():
            total[severity] += count
        if options.format == "json":
            shown += [statement.as_dict(source) for statement in statements]
        elif report := as_text(source, statements):
            said.append(report)
    if options.format == "json":
        said.append(json.dumps({"statements": shown, "counts": total}, indent=2))
    else:
        plural = {severity: f"{count} {severity}{'s' * (count != 1)}" for severity, count in total.items()}
        read = f"{number} statement{'s' * (number != 1)}"
        said.append(f"{read}: {plural['error']}, {plural['warning']}, {total['info']} info")
    _print(said)
    if options.fail_on == "never":
        return 0
    bad = SEVERITIES[SEVERITIES.index(options.fail_on) :]
    return EXIT_FOUND if any(total[severity] for severity in bad) else 0


def _print(said: list[str]) -> None:
    """Print, also to a closed pipe (``| head``), which does not change the status."""
    try:
        print("\n".join(said), flush=True)
    except BrokenPipeError:
        # Buffered output would raise again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
