"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path


def write_atomically(path: Path, data: bytes, spare: Path, *, sync: bool = True) -> None:
    """Write a file so that a reader, and the next run after a crash, finds the old one or the new one.

    ``spare``: a folder for the unfinished file, so that a crash leaves none among the bot's own. ``sync``:
    wait until the disk has it; without, a machine that loses its power may have an empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = spare / "unfinished"
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, unfinished)
        move(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def move(source: Path, target: Path) -> None:
    """Rename, or copy and delete where the two lie on different file systems."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(target.name + ".unfinished")
        shutil.copy2(source, beside, follow_symlinks=False)
        beside.replace(target)
        source.unlink()


def copy(source: Path, target: Path) -> None:
    """A copy with its mode and times, there whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(target.name + ".unfinished")
    shutil.copy2(source, beside, follow_symlinks=False)
    beside.replace(target)


def free_name(path: Path) -> Path:
    """The path, or the path with a number if something is there."""
    number, found = 0, path
    while found.exists() or found.is_symlink():
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found
