"""A bot's requirements on disk: the file that gets Phase 4's lines, and what contradicts them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bot.embed import requirements
from bot.embed.errors import EmbedError, UsageError
from bot.embed.files import write_atomically
from bot.embed.manifest import FOLDER, Block, Manifest
from bot.embed.requirements import Conflict, Requirement

USUAL = ("requirements.txt", "config/requirements.txt", "requirements/base.txt")


class Merge(NamedTuple):
    """What becomes of the requirements.

    ``file``: the one that gets the lines of ``block``, None if the bot has none. ``edited``: its author has
    changed the lines that are there, so they stay. ``elsewhere``: a file that lists requirements and is not
    written to, and ``missing_there`` what it lacks.
    """

    file: str | None
    block: str
    edited: bool
    conflicts: tuple[Conflict, ...]
    elsewhere: str | None
    missing_there: tuple[str, ...]

    def changes(self, host: Path) -> bool:
        if self.file is None or self.edited:
            return False
        return (requirements.block_in(_read(host / self.file)) or "") != self.block


def plan(host: Path, ours: str, manifest: Manifest | None, given: str | None) -> Merge:
    """Raises UsageError for a ``--requirements`` that is not there."""
    file = _file(host, manifest, given)
    needed = requirements.read(requirements.for_running(ours))
    theirs = list(_listed(host, file)) if file is not None else []
    project = list(_of_project(host))
    there = {requirement.name for _, requirement in theirs}
    old = requirements.block_in(_read(host / file)) if file is not None else None
    recorded = manifest.block if manifest is not None else None
    edited = old is not None and (recorded is None or recorded.file != file or old not in recorded.texts)
    in_project = {requirement.name for _, requirement in project}
    return Merge(
        file,
        requirements.block(ours, there) if file is not None else "",
        edited,
        tuple(requirements.conflicts([*theirs, *project], needed)),
        "pyproject.toml" if project else None,
        tuple(r.text.split(" #")[0].strip() for r in needed if r.name not in in_project) if project else (),
    )


def _file(host: Path, manifest: Manifest | None, given: str | None) -> str | None:
    if given is not None:
        path = (host / given).resolve()
        if not path.is_file() or not path.is_relative_to(host):
            raise UsageError(f"--requirements {given}: no such file in {host}")
        return path.relative_to(host).as_posix()
    if manifest is not None and manifest.block is not None and (host / manifest.block.file).is_file():
        return manifest.block.file
    for name in USUAL:
        # Written where it really lies: a link is kept.
        path = (host / name).resolve()
        if path.is_file() and path.is_relative_to(host):
            return path.relative_to(host).as_posix()
    return None


def _listed(host: Path, file: str) -> Iterator[tuple[str, Requirement]]:
    """Every requirement of the bot's own, with those of files that are read from it; not Phase 4's lines."""
    seen: set[Path] = set()
    queue = [host / file]
    while queue:
        path = queue.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        text = _read(path)
        if (ours := requirements.block_in(text)) is not None:
            text = text.replace("\r\n", "\n").replace(ours, "")
        name = path.relative_to(host).as_posix() if path.is_relative_to(host) else str(path)
        yield from ((name, requirement) for requirement in requirements.read(text))
        queue += [(path.parent / other).resolve() for other in requirements.includes(text)]


def _of_project(host: Path) -> Iterator[tuple[str, Requirement]]:
    """What ``pyproject.toml`` depends on, as the standard says or as Poetry does."""
    try:
        data: dict[str, Any] = tomllib.loads((host / "pyproject.toml").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return
    lines = list(data.get("project", {}).get("dependencies", ()))
    for name, version in data.get("tool", {}).get("poetry", {}).get("dependencies", {}).items():
        # Poetry's ^5.9 means below the next whole version: ~=5.9.
        text = version if isinstance(version, str) else ""
        lines.append(
            f"{name}{'~=' + text[1:] if text.startswith('^') else text if text[:1] in '<>=~!' else ''}"
        )
    for line in lines:
        if isinstance(line, str) and (requirement := requirements.parse(line)) is not None:
            yield "pyproject.toml", requirement


def remember(host: Path, merge: Merge, manifest: Manifest) -> None:
    """Note in the manifest what :func:`write` is about to do."""
    if merge.file is None or merge.edited:
        return
    text = _read(host / merge.file)
    old = manifest.block
    if requirements.block_in(text) is None:
        ended = bool(text) and not text.endswith("\n")
    else:
        ended = old is not None and old.ended_line
    texts = sorted({*(old.texts if old is not None else ()), merge.block} - {""})
    manifest.block = Block(merge.file, texts, ended) if texts else None


def write(host: Path, merge: Merge, manifest: Manifest) -> None:
    """Write the lines, and leave in the manifest those that are there now."""
    if merge.file is None or merge.edited:
        return
    if merge.changes(host):
        _write(host, merge.file, requirements.with_block(_read(host / merge.file), merge.block))
    if manifest.block is not None:
        manifest.block.texts = [merge.block] if merge.block else []


def take_out(host: Path, block: Block) -> bool:
    """Remove the lines; False, and nothing is done, if they were changed by hand."""
    if not (host / block.file).is_file():
        return True
    text = _read(host / block.file)
    found = requirements.block_in(text)
    if found is not None and found not in block.texts:
        return False
    if found is not None:
        _write(host, block.file, requirements.without_block(text, ended_line=block.ended_line))
    return True


def _read(path: Path) -> str:
    """Text whose line ends are as they are, and bytes that are no UTF-8 survive."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EmbedError(f"{path} cannot be read: {error.strerror or error}") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise EmbedError(f"{path} is written in UTF-16: save it as UTF-8, so that lines can be added to it")
    return data.decode("utf-8", errors="surrogateescape")


def _write(host: Path, name: str, text: str) -> None:
    write_atomically(host / name, text.encode("utf-8", errors="surrogateescape"), host / FOLDER)
