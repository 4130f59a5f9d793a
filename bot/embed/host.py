"""The bot's folder: whether it is one that Phase 4 fits into, its interpreter, and what lies where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from bot.embed.errors import EmbedError, UsageError
from bot.embed.manifest import FOLDER
from bot.embed.payload import ROOT, digest

OLDEST = (3, 11)
NOT_THE_BOTS = frozenset({"node_modules", "site-packages", "__pycache__", FOLDER})
"""Folders whose modules are not the bot's."""


def find(text: str) -> Path:
    """The folder that HOST names. Raises UsageError, with what to do instead, if Phase 4 cannot go there."""
    host = Path(text).expanduser()
    if not host.exists():
        raise UsageError(f"{text}: no such folder")
    if not host.is_dir():
        raise UsageError(f"{text}: not a folder. HOST is the folder that has the bot's package bot/ in it.")
    host = host.resolve()
    if (host / "bot" / "embed" / "payload.py").exists():
        raise UsageError(f"{host} is Phase 4's own folder. HOST is the folder of the bot that is to get it.")
    package = host / "bot"
    if not package.is_dir():
        raise UsageError(_no_package(host))
    if (module := host / "bot.py").exists():
        raise UsageError(
            f"{module} has the same name as the package {package}, and Python imports the package alone. "
            f"Rename one of the two."
        )
    stay_inside(host, ["bot", FOLDER])
    return host


def _no_package(host: Path) -> str:
    install = f"pip install {ROOT}" if (ROOT / "pyproject.toml").is_file() else "pip install bot-phase4"
    if (host / "bot.py").is_file():
        return (
            f"{host}: the bot is a module, bot.py, and Phase 4 is imported as bot.core...; Python cannot "
            "have a "
            f"module and a package of the same name. Rename bot.py, say to main.py, and run: {install}"
        )
    if host.name == "bot" and (host / "__init__.py").exists():
        return f"{host} is the bot's package. HOST is the folder above it: {host.parent}"
    others = sorted(path.parent.name for path in host.glob("*/__init__.py") if path.parent.name != "tests")
    has = f"it has {', '.join(others[:5])}" if others else "it has no package at all"
    return (
        f"{host} has no package bot/ ({has}). Phase 4's modules import each other as bot.core...; for a bot "
        f"whose package has another name, install it instead of embedding it: {install}"
    )


def stay_inside(host: Path, folders: Iterable[str]) -> None:
    """Raises UsageError if one of the folders is a link to somewhere else: what goes there is another's."""
    for name in sorted(folders):
        folder = host / name
        if folder.is_symlink() and not folder.resolve().is_relative_to(host):
            raise UsageError(
                f"{folder} is a link to {folder.resolve()}, outside {host}: put the folder itself there, or "
                f"embed Phase 4 where it is"
            )


class Interpreter(NamedTuple):
    """A Python, where it comes from, and its version."""

    path: Path
    origin: str
    version: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.path} ({self.origin}, Python {'.'.join(map(str, self.version))})"


def interpreter(host: Path, given: str | None) -> Interpreter:
    """The Python that runs the bot. Raises UsageError if it is too old or does not run."""
    if given is not None:
        path, origin = Path(given).expanduser(), "--python"
        if not path.is_file():
            raise UsageError(f"--python {given}: no such file")
        # Not resolved: a link in a virtual environment is what makes the environment.
        path = Path(os.path.abspath(path))
    else:
        found = next(iter(environments(host)), None)
        path = found if found is not None else Path(sys.executable)
        origin = (
            "the bot's own"
            if found is not None
            else "the one that runs this command: no venv in the bot's folder"
        )
    code = "import json, sys; print(json.dumps(list(sys.version_info[:3])))"
    try:
        shown = subprocess.run(  # noqa: S603
            [str(path), "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        major, minor, micro = json.loads(shown.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UsageError(
            f"{path} does not run: {error}. Name the bot's interpreter with --python."
        ) from error
    made = Interpreter(path, origin, (major, minor, micro))
    if (major, minor) < OLDEST:
        raise UsageError(
            f"Phase 4 needs Python {OLDEST[0]}.{OLDEST[1]} or later, and the bot runs on {made}. Make its "
            f"environment anew with a later Python, or name another with --python."
        )
    return made


def environments(host: Path) -> Iterator[Path]:
    """Interpreters of virtual environments in the bot's folder, the usual names first."""
    names = [".venv", "venv", "env"]
    names += sorted(path.parent.name for path in host.glob("*/pyvenv.cfg") if path.parent.name not in names)
    for name in names:
        for python in (host / name / "bin" / "python", host / name / "Scripts" / "python.exe"):
            if python.is_file():
                yield python


def modules(host: Path) -> Iterator[Path]:
    """The bot's own ``.py`` files: no environment's, no hidden folder's, not those of Phase 4's checkout."""
    for folder, names, files in os.walk(host):
        here = Path(folder)
        names[:] = sorted(
            name
            for name in names
            if name not in NOT_THE_BOTS
            and not name.startswith(".")
            and not (here / name / "pyvenv.cfg").exists()
            and (here / name).resolve() != ROOT
        )
        yield from (here / name for name in sorted(files) if name.endswith(".py"))


def digests(host: Path, paths: Iterable[str]) -> dict[str, str | None]:
    """Path -> digest of the file there. None: nothing there; ``"link"``, ``"folder"``: no plain file."""
    found: dict[str, str | None] = {}
    for name in paths:
        path = host / name
        try:
            if path.is_symlink():
                found[name] = "link"
            elif path.is_dir():
                found[name] = "folder"
            elif path.exists():
                found[name] = digest(path.read_bytes())
            else:
                found[name] = None
        except OSError as error:
            raise EmbedError(f"{path} cannot be read: {error.strerror or error}") from error
    return found
