"""The command ``phase4 batch dead-letters``: what a durable queue has given up, from outside the bot."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.core._shared.errors import BackendError, InvalidArgumentError
from bot.core._shared.masking import one_line
from bot.core._shared.redis_address import with_options

if TYPE_CHECKING:
    from bot.core.batch_processor.durable.letters import Letters
    from bot.core.phase4_config import Phase4Config

LISTED = 50
EXIT_LEFT, EXIT_USAGE = 1, 2
_SETTINGS = (
    "BATCH_REDIS_URL",
    "BATCH_QUEUE_NAME",
    "BATCH_MAX_PENDING",
    "PHASE4_KEY_PREFIX",
    "PHASE4_REDIS_TIMEOUT",
)


def main(argv: Sequence[str] | None = None) -> int:
    """``phase4 batch``, with the arguments after it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="phase4 batch")
    add_arguments(parser)
    return run(parser.parse_args(argv))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Dead letters of a durable queue (BATCH_REDIS_URL): the items that failed with every try. Works on "
        "Redis, beside the bot's process. Exit status 1 if something asked for was not done, 2 for bad "
        "arguments or settings."
    )
    kinds = parser.add_subparsers(dest="batch_kind", metavar="dead-letters", required=True)
    letters = kinds.add_parser("dead-letters", help="list, show, replay or drop them")
    actions = letters.add_subparsers(dest="batch_action", metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="the newest first")
    listing.add_argument("--offset", type=_count, default=0, help="so many are left out (0)")
    listing.add_argument("--limit", type=_count, default=LISTED, help=f"at most so many ({LISTED})")
    listing.add_argument("--oldest-first", action="store_true")
    showing = actions.add_parser("show", help="one, with its data")
    showing.add_argument("item_id", metavar="ITEM_ID")
    for name, about in (
        ("replay", "submit again, under the same ids and priorities"),
        ("drop", "forget for good"),
    ):
        action = actions.add_parser(name, help=about)
        action.add_argument("item_ids", nargs="*", metavar="ITEM_ID")
        action.add_argument("--all", dest="batch_all", action="store_true", help="every dead letter")
    for action in actions.choices.values():
        _add_common(action)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--redis", metavar="URL",
        help="else BATCH_REDIS_URL of the project or the environment (better: other users of the machine "
        "see arguments)",
    )  # fmt: skip
    parser.add_argument("--queue", metavar="NAME", help="else BATCH_QUEUE_NAME")
    parser.add_argument(
        "--project", default=".", metavar="DIR", help="whose settings are read (.), unless --redis is given"
    )
    parser.add_argument("--format", choices=["table", "json"], default="table", help="(table)")


def run(arguments: argparse.Namespace) -> int:
    """Do it and print the outcome; returns the exit status."""
    logging.getLogger("bot").addHandler(logging.NullHandler())  # what goes wrong is printed here, once
    ids = getattr(arguments, "item_ids", None)
    if ids is not None and bool(ids) == arguments.batch_all:
        print("expected either the ids of items, or --all", file=sys.stderr)
        return EXIT_USAGE
    try:
        config, told = _settings(arguments)
        url = with_options(arguments.redis or config.BATCH_REDIS_URL, **config.redis.options())
        if not url:
            print(
                "BATCH_REDIS_URL is not set, so dead letters are in the memory of the bot's own process: see "
                "its dashboard, or name a Redis by --redis URL",
                file=sys.stderr,
            )
            for line in told:
                print(f"  read: {one_line(line, 500)}", file=sys.stderr)
            return EXIT_USAGE
        return asyncio.run(_run(arguments, url, arguments.queue or config.BATCH_QUEUE_NAME, config))
    except (InvalidArgumentError, ValueError) as error:
        print(one_line(str(error), 1000), file=sys.stderr)
        return EXIT_USAGE
    except BackendError as error:
        print(one_line(str(error), 1000), file=sys.stderr)
        return EXIT_LEFT
    except BrokenPipeError:
        sys.stdout = None  # a pager or head that has seen enough
        return 0


def _settings(arguments: argparse.Namespace) -> tuple[Phase4Config, list[str]]:
    """What the project sets for this, whatever its other settings are, and what of it could not be read.

    It is read and not started; not at all where ``--redis`` names the place. Raises ConfigError and other
    ValueErrors.
    """
    from bot.core.phase4_config import Phase4Config

    if arguments.redis:
        return Phase4Config.load(modules=(), only=_SETTINGS), []
    root = Path(arguments.project).expanduser()
    if not root.is_dir():
        raise ValueError(f"--project {arguments.project}: no such folder")
    from bot.core.phase4_admin.check.findings import NOT_READ
    from bot.core.phase4_admin.check.project import Reader, interpreter

    root = root.resolve()
    read = Reader(root, interpreter(root), os.environ).read()
    config, _ = Phase4Config.read(
        read.overrides, host=read.host, modules=read.modules, environ=read.environ, only=_SETTINGS
    )
    unread = [finding.found for finding in read.findings if finding.check in (NOT_READ, "settings read")]
    return config, unread


async def _run(arguments: argparse.Namespace, url: str, queue: str, config: Phase4Config) -> int:
    from bot.core.batch_processor import durable_dead_letters

    async with AsyncExitStack() as stack:
        letters = await stack.enter_async_context(durable_dead_letters(url, queue))
        if arguments.batch_action == "list":
            return await _list(arguments, letters)
        if arguments.batch_action == "show":
            return await _show(arguments, letters)
        return await _act(arguments, letters, config.BATCH_MAX_PENDING)


async def _list(arguments: argparse.Namespace, letters: Letters) -> int:
    from bot.core.phase4_admin.letters import SHORT, as_dict

    total = await letters.count()
    rows: list[dict[str, Any]] = []
    if arguments.limit:
        async for letter in letters.each(arguments.offset, newest_first=not arguments.oldest_first):
            rows.append(as_dict(letter, SHORT))
            if len(rows) >= arguments.limit:
                break
    if arguments.format == "json":
        print(json.dumps({"total": total, "items": rows}, indent=2))
        return 0
    if rows:
        width = min(40, max(len("ITEM"), *[len(_plain(row["item_id"])) for row in rows]))
        print(f"{'DIED (UTC)':19}  {'ITEM':{width}}  TRIES  ERROR")
        for row in rows:
            at = row["at"][:19].replace("T", " ")
            print(f"{at:19}  {_plain(row['item_id']):{width}}  {row['attempts']:5}  {row['error'][:200]}")
    shown = f"{len(rows):,} of {total:,}" if len(rows) < total else f"{total:,}"
    print(f"{shown} dead letter{'' if total == 1 else 's'}")
    return 0


async def _show(arguments: argparse.Namespace, letters: Letters) -> int:
    from bot.core.phase4_admin.letters import WHOLE, as_dict

    letter = await letters.find(arguments.item_id)
    if letter is None:
        print(f"no dead letter has the id {_plain(arguments.item_id)}", file=sys.stderr)
        return EXIT_LEFT
    row = as_dict(letter, WHOLE)
    if arguments.format == "json":
        print(json.dumps(row, indent=2))
        return 0
    for name, value in row.items():
        print(f"{name:9} {_plain(value) if name == 'item_id' else value}")
    return 0


async def _act(arguments: argparse.Namespace, letters: Letters, max_pending: int) -> int:
    from bot.core.phase4_admin.letters import told, told_dropped

    wanted = None if arguments.batch_all else list(dict.fromkeys(arguments.item_ids))
    if arguments.batch_action == "replay":
        report = await letters.replay(wanted, max_pending)
        said, left = told(report), report.missing + report.pending + report.no_room
        figures = {
            "replayed": report.replayed,
            "missing": report.missing,
            "pending": report.pending,
            "no_room": report.no_room,
        }
    else:
        dropped = await letters.discard(wanted)
        left = 0 if wanted is None else max(0, len(wanted) - dropped)
        said, figures = told_dropped(dropped, left), {"dropped": dropped, "missing": left}
    print(json.dumps(figures) if arguments.format == "json" else said)
    return EXIT_LEFT if left else 0


def _plain(text: str) -> str:
    """An id as it can stand in a line: one with spaces, quotes or control characters as Python writes it."""
    return text if text.isprintable() and " " not in text else repr(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 0 to 999,999,999")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
