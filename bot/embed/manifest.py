"""What was put into a bot's folder: which files are Phase 4's, and what they replaced.

The manifest is the only state between two runs. It is written first, with everything that a run is about to
do. So a run that dies at any point leaves no file that the next run could take for the bot's own.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bot.embed.errors import EmbedError
from bot.embed.files import write_atomically
from bot.embed.payload import digest

FOLDER = ".phase4-embed"
REPLACED = f"{FOLDER}/replaced"
"""What the bot had under a name that Phase 4 took; ``--remove`` puts it back."""
EDITED = f"{FOLDER}/edited"
"""Phase 4's files that the bot's author had changed, before ``--replace`` took the new ones."""
FORMAT = 1
EMPTY = digest(b"")


@dataclass
class Block:
    """Lines added to a requirements file, and whether a line end was added before them.

    ``texts``: what Phase 4's lines may be there (two while a run goes on: the old and the new).
    """

    file: str
    texts: list[str]
    ended_line: bool


@dataclass
class Manifest:
    """``files``: path -> digests that are ours there (two while a run goes on: the old and the new)."""

    version: str = ""
    state: Literal["installed", "installing", "removing"] = "installed"
    replace: bool = False
    files: dict[str, list[str]] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    block: Block | None = None

    def owns(self, path: str, found: str | None) -> bool:
        """Whether the file with this digest is one that was put there, unchanged.

        An empty one is: a machine that lost its power right after a run has not written its files yet.
        """
        return path in self.files and (found in self.files[path] or found == EMPTY)

    def edited(self, path: str, found: str | None) -> bool:
        """Whether the file was put there and changed since; the bot's own, not yet replaced, is no edit."""
        put = path in self.files and found not in (None, "link", "folder")
        return put and not self.owns(path, found) and found != self.replaced.get(path)


def load(host: Path) -> Manifest | None:
    """The manifest of a bot that has Phase 4, or None. Raises EmbedError if it cannot be understood."""
    path = host / FOLDER / "manifest.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EmbedError(
            f"{path} cannot be read: {error}. Restore it, or remove {FOLDER} by hand."
        ) from error
    return _checked(data, path)


def _checked(data: Any, path: Path) -> Manifest:
    """The manifest as an object. Others may have written it: no path in it may lead out of the folder."""
    try:
        if data.pop("format") != FORMAT:
            raise EmbedError(f"{path} was written by a newer version of Phase 4: use that one.")
        block = data.pop("block")
        found = Manifest(**data, block=Block(**block) if block else None)
        names = [*found.files, *found.replaced, *found.folders, *([found.block.file] if found.block else [])]
        for name in names:
            parts = name.split("/")
            if not name or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
                raise ValueError(f"{name!r} is not a path within the bot's folder")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EmbedError(f"{path} is damaged ({error}). Restore it, or remove {FOLDER} by hand.") from error
    return found


def save(host: Path, manifest: Manifest) -> None:
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomically(host / FOLDER / "manifest.json", text.encode() + b"\n", host / FOLDER)


@contextlib.contextmanager
def only_run(host: Path) -> Iterator[None]:
    """Refuse while another run works in the same folder. The lock ends with the process that has it."""
    folder = host / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / "lock"
    while True:
        with path.open("a+b") as file:
            try:
                _lock(file.fileno())
            except (BlockingIOError, PermissionError):
                raise EmbedError(f"another run is at work in {host}: wait for it to end") from None
            except OSError:
                pass  # a file system without locks; two runs at once are unlikely
            if not _is(path, file.fileno()):
                continue  # the run that had it has ended in between, and its file with it
            try:
                yield
            finally:
                # Nothing that belongs into the bot's repository stays, and no folder without a manifest.
                with contextlib.suppress(OSError):
                    path.unlink()
                with contextlib.suppress(OSError):
                    folder.rmdir()
            return


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> None:
    if os.name == "nt":  # pragma: no cover
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
