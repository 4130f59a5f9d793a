"""The command ``phase4``: ``phase4 check``, ``status``, ``sql``, ``batch``, ``embed``.

Installed, it is a console command; in a bot that has Phase 4 embedded, ``python -m phase4`` is the same. It
stands beside the package ``bot``, not in it, and never runs ``bot/__init__.py``: a bot's may connect or exit.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
QUIET_PACKAGES = ("bot", "bot.core", "bot.integrations")
"""Packages that belong to the bot which Phase 4 is embedded in: their ``__init__.py`` is not run."""


class Command(NamedTuple):
    """A command: the modules that may hold it, the first that is there wins, and what it is for."""

    modules: tuple[str, ...]
    purpose: str


COMMANDS = {
    "check": Command(
        ("bot.core.phase4_admin.check",), "verify settings, machine and servers before a deployment"
    ),
    "status": Command(
        ("bot.core.phase4_admin.status", "bot.service.status"), "show the figures of a running bot"
    ),
    "sql": Command(("bot.core.query_optimizer.command",), "advice on files of SQL"),
    "batch": Command(("bot.core.phase4_admin.batch_command",), "list, show, replay or drop dead letters"),
    "embed": Command(("bot.embed.command",), "put Phase 4 into a bot's folder, upgrade it, take it out"),
}
"""Each module has ``add_arguments(parser)`` and ``run(arguments) -> exit status``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments say; returns the exit status."""
    if sys.version_info < (3, 11):  # noqa: UP036  (anybody may run this file)
        print(f"Phase 4 needs Python 3.11 or later; this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    quiet_packages(FOLDER)
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(given)
    except ModuleNotFoundError as error:
        missing = (error.name or "bot").split(".")[0]
        if missing == "bot":
            raise  # our own mistake, which no package mends
        print(f"{missing} is missing: pip install -r requirements-phase4.txt", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def quiet_packages(folder: Path) -> None:
    """Make ``bot.core...`` importable from ``folder`` without running the ``__init__.py`` of a bot."""
    for name in QUIET_PACKAGES:
        if name not in sys.modules:
            package = types.ModuleType(name, "A package of which only the folder is used.")
            package.__path__ = [str(folder.joinpath(*name.split(".")))]
            sys.modules[name] = package
            parent, _, last = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], last, package)


def _run(given: list[str]) -> int:
    # Only the command that was asked for is imported: embed, for one, needs no package at all.
    asked = next((word for word in given if not word.startswith("-")), "")
    parser = argparse.ArgumentParser(
        prog="phase4", description="Commands for bots that have Phase 4, and for bots that are to get it."
    )
    parser.add_argument("--version", action="version", version=f"phase4 {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        module = next((each for each in command.modules if _is_there(each)), None)
        if module is None and name == asked:
            parser.error(f"{name} is not here: run it where Phase 4 is installed, or from its own folder")
        if module is None:
            continue
        subparser = commands.add_parser(name, help=command.purpose, description=command.purpose)
        if name == asked:
            loaded = importlib.import_module(module)
            loaded.add_arguments(subparser)
            subparser.set_defaults(run=loaded.run)
    arguments = parser.parse_args(given)
    exit_status: int = arguments.run(arguments)
    return exit_status


def _is_there(module: str) -> bool:
    path = FOLDER.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _version() -> str:
    from bot.core._shared import __version__

    return __version__


if __name__ == "__main__":
    sys.exit(main())
