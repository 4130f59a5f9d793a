"""The command ``phase4 embed HOST``: look, tell, then do; with ``--dry-run``, only look and tell."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bot.embed import apply, clashes, importers, merging, payload, plan, proof, report, surroundings
from bot.embed import host as hosts
from bot.embed import manifest as manifests
from bot.embed.errors import EmbedError, UsageError
from bot.embed.host import Interpreter
from bot.embed.manifest import FOLDER, REPLACED, Manifest
from bot.embed.merging import Merge
from bot.embed.payload import Payload
from bot.embed.plan import Plan

DONE, REFUSED, USAGE, NOT_PROVEN = 0, 1, 2, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Copy Phase 4 into a bot that has a package bot/ of its own, upgrade an earlier copy, or take it "
        "out. "
        "Every clash of names is told before a file is touched. Exit status 0: done and proven; 1: "
        "refused, or "
        "broken; 2: no such bot; 3: copied, and packages have to be installed."
    )
    parser.add_argument("host", metavar="HOST", help="the bot's folder, which has bot/ in it")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--replace", action="store_true", help="take clashing names; the bot's files are kept")
    what.add_argument("--remove", action="store_true", help="take Phase 4 out, put back what it replaced")
    parser.add_argument("--dry-run", action="store_true", help="tell what would be done, and touch nothing")
    parser.add_argument(
        "--python", metavar="FILE", help="the bot's interpreter (default: of .venv or venv in HOST)"
    )
    parser.add_argument(
        "--requirements", metavar="FILE", help="the bot's requirements file (default: requirements.txt)"
    )
    parser.add_argument(
        "--no-tests", action="store_true", help="without tests/test_phase4_integration.py, the guide's tests"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments say; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files are what they are
    try:
        host = hosts.find(arguments.host)
        return _remove(host, arguments) if arguments.remove else _install(host, arguments)
    except EmbedError as error:
        print(error, file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else REFUSED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(
            f"{place}{error.strerror or error}. Each file is whole, the old or the new one. Mend this "
            "and run the "
            f"same command again, or run it with --remove.",
            file=sys.stderr,
        )
        return REFUSED


class _Look(NamedTuple):
    """Everything that is known before a file is touched."""

    new: Payload
    old: Manifest | None
    plan: Plan
    merge: Merge
    python: Interpreter
    replace: bool


def _install(host: Path, arguments: argparse.Namespace) -> int:
    with contextlib.ExitStack() as stack:
        look = _look(host, arguments)
        if look.plan.clashes and not look.replace:
            _say(_clashes(host, look))
            return REFUSED
        if not arguments.dry_run:
            _room_for(host, look)
            stack.enter_context(manifests.only_run(host))
            look = _look(host, arguments)  # another run may have ended in between
            if look.plan.clashes and not look.replace:
                raise EmbedError("the bot's files have changed meanwhile: run this again")
        _tell(host, look, dry=arguments.dry_run)
        if arguments.dry_run:
            _say(["", "Nothing was touched (--dry-run)."])
            return DONE
        apply.install(host, look.new, look.plan, look.merge, look.old, replace=look.replace)
    return _prove(host, look)


def _look(host: Path, arguments: argparse.Namespace) -> _Look:
    old = manifests.load(host)
    python = hosts.interpreter(host, arguments.python)
    new = payload.gather(tests=not arguments.no_tests)
    folders = {parent.as_posix() for path in new.files for parent in Path(path).parents}
    hosts.stay_inside(host, folders - {"."})
    # A run that was interrupted had its answer already.
    replace = arguments.replace or (old is not None and old.state == "installing" and old.replace)
    found = hosts.digests(host, {*new.files, *(old.files if old is not None else ())})
    clashing = clashes.find(host, new, found, old)
    decided = plan.decide(new, found, old, clashing)
    merge = merging.plan(host, new.files[payload.REQUIREMENTS].decode(), old, arguments.requirements)
    return _Look(new, old, decided, merge, python, replace)


def _clashes(host: Path, look: _Look) -> list[str]:
    # If the bot's modules are renamed, their imports of each other change too.
    imports, offered = _users(host, look, skipped=set())
    by_hand = look.old is None and (host / "bot/core/phase4_service.py").exists()
    lines = report.clash_report(look.plan.clashes, imports, offered, by_hand=by_hand)
    notes = [*report.conflict_report(look.merge), *surroundings.notes(host, sorted(look.new.files))]
    return ["Nothing was touched.", "", *lines, *_as_notes(notes)]


def _users(
    host: Path, look: _Look, *, skipped: set[str]
) -> tuple[list[importers.Import], dict[str, frozenset[str] | None]]:
    """The lines of the bot that import what clashes, and the names that Phase 4 has for each."""
    modules = {clash.module for clash in look.plan.clashes}
    moved = {path for clash in look.plan.clashes for path in clash.paths}
    ours = set(look.new.files) - moved if look.old is not None else set()
    found = importers.find(host, modules, skipped | ours) if modules else []
    return found, {module: importers.names_of(look.new, module) for module in modules}


def _tell(host: Path, look: _Look, *, dry: bool) -> None:
    version, old = look.new.version, look.old
    lines = []
    if old is not None and old.state != "installed":
        lines.append("An earlier run was interrupted; this one ends it.")
    if old is None:
        lines.append(f"Phase 4 {version} {'would go' if dry else 'goes'} into {host}:")
    elif look.plan.changes(look.replace) or look.merge.changes(host):
        becomes = "would become" if dry else "becomes"
        lines.append(f"Phase 4 {old.version or version} in {host} {becomes} {version}:")
    else:
        lines.append(f"Phase 4 {version} is in {host} already:")
    lines += report.plan_report(look.plan, look.replace)
    if look.replace and look.plan.clashes:
        number = report.count(len(look.plan.clashes), "clashing name")
        lines.append(f"  {number} replaced, the bot's kept in {REPLACED}/:")
        moved = {path for clash in look.plan.clashes for path in clash.paths}
        imports, offered = _users(host, look, skipped=moved)
        for clash in look.plan.clashes:
            lines.append(f"    {clash.name}")
            users = sorted({f"{each.file}:{each.line}" for each in imports if each.module == clash.module})
            for sentence in report.lacking(clash, imports, offered):
                lines.append(f"      BREAKS: {sentence}; see {', '.join(users[: report.SHOWN])}")
    lines += report.requirements_report(look.merge, host)
    _say([*lines, *_as_notes(surroundings.notes(host, sorted(look.new.files)))])


def _as_notes(lines: Iterable[str]) -> list[str]:
    stripped = [line if line.startswith("  ") else f"  note: {line}" for line in lines]
    return ["", *stripped] if stripped else []


def _room_for(host: Path, look: _Look) -> None:
    """Refuse before the first file what would fail at the hundredth."""
    needed = 2 * look.new.size()
    if (free := shutil.disk_usage(host).free) < needed:
        raise EmbedError(
            f"{host}: {free / 1e6:.1f} MB are free on its disk, {needed / 1e6:.1f} MB are needed"
        )
    paths = [*look.plan.to_write(look.replace), *look.plan.delete, f"{FOLDER}/manifest.json"]
    if look.merge.changes(host):
        paths.append(str(look.merge.file))
    folders = {next(each for each in (host / path).parents if each.is_dir()) for path in paths}
    if locked := sorted(str(folder) for folder in folders if not os.access(folder, os.W_OK | os.X_OK)):
        raise EmbedError(f"No file can be written to {', '.join(locked[:5])}: nothing was touched")


def _prove(host: Path, look: _Look) -> int:
    found = proof.prove(host, look.new, look.python)
    _say(["", *report.proof_report(found, look.python)])
    if found.broken:
        _say(["Take Phase 4 out again with --remove, or mend this and run the command again."])
        return REFUSED
    if not found.complete:
        return NOT_PROVEN
    _say(
        [
            "The bot's own __init__.py files were not run for this. Next: call initialize_phase4_services()",
            "where the bot starts; docs/embedding.md shows how.",
        ]
    )
    return DONE


def _remove(host: Path, arguments: argparse.Namespace) -> int:
    made = manifests.load(host)
    if made is None:
        raise EmbedError(f"{host} has no {FOLDER}/manifest.json: Phase 4 was not put there by this command")
    if arguments.dry_run:
        found = hosts.digests(host, made.files)
        ours = sum(made.owns(path, state) for path, state in found.items())
        taken, back = report.count(ours, "file"), report.count(len(made.replaced), "file")
        _say([f"{taken} would be taken out, {back} put back."])
        changed = sorted(
            path for path, state in found.items() if state is not None and not made.owns(path, state)
        )
        _say(["Changed by hand, would be left:", *report.listed(changed)] if changed else [])
        return DONE
    with manifests.only_run(host):
        again = manifests.load(host)
        done = apply.remove(host, again) if again is not None else None
    if done is None:
        raise EmbedError(f"another run has just taken Phase 4 out of {host}")
    _say(report.removal_report(done))
    return DONE


def _say(lines: Iterable[str]) -> None:
    """Print, also to a reader that has seen enough (``| head``): the work goes on without it."""
    try:
        for line in lines:
            print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
