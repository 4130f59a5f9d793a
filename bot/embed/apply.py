"""Carries a plan out: the manifest first, then each file whole or not at all.

A run that dies between two files leaves a manifest in the state ``installing`` or ``removing``. Every step
can be done twice, so the same command, given again, ends what was begun.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from bot.embed import manifest as manifests
from bot.embed import merging, payload
from bot.embed.clashes import Clash
from bot.embed.files import copy, free_name, move, write_atomically
from bot.embed.host import digests
from bot.embed.manifest import EDITED, FOLDER, REPLACED, Manifest
from bot.embed.merging import Merge
from bot.embed.payload import Payload
from bot.embed.plan import Plan


def install(
    host: Path, new: Payload, plan: Plan, merge: Merge, old: Manifest | None, *, replace: bool
) -> None:
    """Put the payload into the folder. ``replace``: clashing names of the bot's are moved aside first."""
    made = old or Manifest()
    made.version, made.state, made.replace = new.version, "installing", replace
    clashes = plan.clashes if replace else []
    made.folders = sorted({*made.folders, *_new_folders(host, [*new.files])})
    moved = sorted({path for clash in clashes for path in clash.paths})
    aside = digests(host, moved)
    _free_old_copies(host, moved, aside, made)
    made.replaced.update({path: state or "" for path, state in aside.items()})
    written = plan.to_write(replace)
    for path in [*written, *plan.same]:
        coming = payload.digest(new.files[path])
        made.files[path] = sorted({*made.files.get(path, ()), coming})
    merging.remember(host, merge, made)
    manifests.save(host, made)

    for clash in clashes:
        _move_aside(host, clash, new)
    for path in written:
        if path in plan.edited:
            copy(host / path, free_name(host / EDITED / path))
        # Hundreds of waits for the disk would take most of the time; see Manifest.owns.
        write_atomically(host / path, new.files[path], host / FOLDER, sync=False)
    for path in plan.delete:
        _delete(host, path)
    merging.write(host, merge, made)

    for path in [*written, *plan.same]:
        made.files[path] = [payload.digest(new.files[path])]
    for path in plan.delete:
        made.files.pop(path, None)
    made.state, made.replace = "installed", False
    manifests.save(host, made)


def _new_folders(host: Path, paths: list[str]) -> set[str]:
    """Folders that have to be made for these files."""
    folders = {parent.as_posix() for path in paths for parent in Path(path).parents} - {"."}
    return {folder for folder in folders if not (host / folder).is_dir()}


def _free_old_copies(host: Path, moved: list[str], aside: dict[str, str | None], made: Manifest) -> None:
    """Something replaced before has come back, by an update of the bot, say: keep the older copy too."""
    for path in moved:
        kept = host / REPLACED / path
        if (kept.exists() or kept.is_symlink()) and digests(host, [f"{REPLACED}/{path}"]) != {
            f"{REPLACED}/{path}": aside[path]
        }:
            move(kept, free_name(kept))


def _move_aside(host: Path, clash: Clash, new: Payload) -> None:
    for path in clash.paths:
        source, kept = host / path, host / REPLACED / path
        if path in new.files and source.is_file() and not source.is_symlink():
            copy(source, kept)  # the new file takes its place in one step
        elif source.exists() or source.is_symlink():
            move(source, kept)
    if clash.name.endswith("/"):
        _tidy(host, clash.name.rstrip("/"))


class Removal:
    """What taking out left behind: files changed by hand, names that could not be given back."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.restored: list[str] = []
        self.left: list[str] = []
        self.not_restored: list[str] = []
        self.requirements_left: str | None = None
        self.kept: str | None = None


def remove(host: Path, made: Manifest) -> Removal:
    """Take out what was put in and not changed; put back what it replaced."""
    made.state = "removing"
    manifests.save(host, made)
    done = Removal()
    found = digests(host, made.files)
    for path, state in sorted(found.items()):
        if made.owns(path, state):
            _delete(host, path)
            done.deleted.append(path)
        elif state is not None and state != made.replaced.get(path):
            done.left.append(path)
    if made.block is not None and not merging.take_out(host, made.block):
        done.requirements_left = made.block.file
    # From the deepest up, so that a folder of folders becomes empty too.
    for folder in sorted(made.folders, key=lambda name: -name.count("/")):
        _tidy(host, folder)
    for path in sorted(made.replaced):
        kept, place = host / REPLACED / path, host / path
        if not kept.exists() and not kept.is_symlink():
            continue  # put back by a run before this one
        if place.exists() or place.is_symlink():
            done.not_restored.append(path)
        else:
            move(kept, place)
            done.restored.append(path)
    _forget(host, done)
    return done


def _delete(host: Path, path: str) -> None:
    """Delete a file and its bytecode."""
    target = host / path
    target.unlink(missing_ok=True)
    for bytecode in target.parent.glob(f"__pycache__/{target.stem}.*.pyc"):
        with contextlib.suppress(OSError):
            bytecode.unlink()
    with contextlib.suppress(OSError):
        (target.parent / "__pycache__").rmdir()  # only if it is empty


def _tidy(host: Path, folder: str) -> None:
    """Remove folders in which nothing is left but bytecode."""
    path = host / folder
    if not path.is_dir() or path.is_symlink():
        return
    for inner in sorted(
        (each for each in path.rglob("*") if each.is_dir()), key=lambda each: -len(each.parts)
    ):
        if inner.name == "__pycache__":
            for bytecode in inner.glob("*.pyc"):
                source = inner.parent / f"{bytecode.name.split('.')[0]}.py"
                if not source.exists():
                    bytecode.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            inner.rmdir()
    with contextlib.suppress(OSError):
        path.rmdir()


def _forget(host: Path, done: Removal) -> None:
    """Delete the manifest last of all; the folder stays if it keeps something of the bot's."""
    folder = host / FOLDER
    for name in ("replaced", "edited"):
        _tidy(host, f"{FOLDER}/{name}")
    for name in ("unfinished", "lock", "manifest.json"):
        (folder / name).unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        done.kept = FOLDER
