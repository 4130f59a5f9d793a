"""What else in a bot's folder would undo or hide what was put there: git, an updater, an image's build."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bot.embed.payload import SETTINGS


def notes(host: Path, paths: Sequence[str]) -> list[str]:
    """Sentences for the bot's author; ``paths`` are those that Phase 4 has or will have there."""
    return [*_ignored_by_git(host, paths), *_updater(host), *_image(host), *_config(host)]


def _ignored_by_git(host: Path, paths: Sequence[str]) -> list[str]:
    if not (host / ".git").exists():
        return []
    try:
        shown = subprocess.run(  # noqa: S603
            ["git", "-C", str(host), "check-ignore", "-z", "--stdin"],  # noqa: S607
            input="\0".join(paths), capture_output=True, text=True, encoding="utf-8", timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    ignored = [name for name in shown.stdout.split("\0") if name]
    if not ignored:
        return []
    some = ", ".join(ignored[:3]) + (f" and {len(ignored) - 3} more" if len(ignored) > 3 else "")
    return [f".gitignore keeps git from storing {some}: `git add -f` them, or a deployment will lack them"]


def _updater(host: Path) -> list[str]:
    """Mirror bots have an update.py that fetches their upstream at each start and drops what it has not."""
    try:
        text = (host / "update.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    if not re.search(r"reset\s+--hard", text):
        return []
    return [
        "update.py resets the folder to UPSTREAM_REPO at each start, and deletes what that repository "
        "has not: "
        "commit Phase 4 to a fork and name the fork in UPSTREAM_REPO, or leave UPSTREAM_REPO empty"
    ]


def _image(host: Path) -> list[str]:
    found = []
    for path in sorted(host.glob("*ockerfile*")):
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.splitlines():
            old = re.match(r"\s*FROM\s.*python:3\.(\d+)", line, re.IGNORECASE)
            if old is not None and int(old[1]) < 11:
                found.append(f"{path.name}: {line.strip()}: Phase 4 needs Python 3.11 or later")
    return found


def _config(host: Path) -> list[str]:
    if (host / "config" / "__init__.py").exists() and (host / "config.py").exists():
        return [
            "config.py and config/ have the same name, and Python imports the package: settings in "
            "config.py are "
            f"not read. {SETTINGS} is."
        ]
    return []
