"""What a bot gets: the files, where each goes, and when two texts are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1]
"""The package ``bot`` that this command belongs to."""
ROOT = PACKAGE.parent
BESIDE = PACKAGE / "embed" / "beside"
"""What an installed distribution carries of the files that lie in a checkout's root."""

SETTINGS = "config_enhancements_phase4.py"
REQUIREMENTS = "requirements-phase4.txt"
TESTS = "tests/test_phase4_integration.py"
FOLDERS = ("bot/core", "bot/integrations")
SHARED = frozenset(f"{folder}/__init__.py" for folder in FOLDERS)
"""Files that say nothing: a bot that has them keeps its own."""


class Payload(NamedTuple):
    """The files by their path in a bot's folder (with ``/``), and the version that they are of."""

    version: str
    files: Mapping[str, bytes]

    def packages(self) -> set[str]:
        """Folders that are packages of Phase 4 alone."""
        return {
            path.removesuffix("/__init__.py")
            for path in self.files
            if path.endswith("/__init__.py") and path not in SHARED
        }

    def size(self) -> int:
        return sum(map(len, self.files.values()))


def gather(*, tests: bool = True) -> Payload:
    """Read what this distribution or checkout has to give."""
    from bot.core._shared import __version__

    files = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and _belongs(path):
                files[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    files["phase4.py"] = (ROOT / "phase4.py").read_bytes()
    for name in (SETTINGS, REQUIREMENTS, *((TESTS,) if tests else ())):
        carried = BESIDE / name
        files[name] = (carried if carried.is_file() else ROOT / name).read_bytes()
    return Payload(__version__, {name: plain(data) for name, data in files.items()})


def _belongs(path: Path) -> bool:
    return path.suffix != ".pyc" and not any(
        part == "__pycache__" or part.startswith(".") for part in path.relative_to(ROOT).parts
    )


def plain(data: bytes) -> bytes:
    """Text with the line ends of Unix: git may have checked it out with those of Windows."""
    return data if b"\0" in data else data.replace(b"\r\n", b"\n")


def digest(data: bytes) -> str:
    """The same for the same text, whatever its line ends."""
    return hashlib.sha256(plain(data)).hexdigest()
