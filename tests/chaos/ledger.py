"""What an instance writes down of its own doings, and what is read of it after it was killed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class Ledger:
    """Lines of JSON, each written in one call: what is written survives a kill of the process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, kind: str, **told: Any) -> None:
        """Write an event down, with the machine's monotonic time as ``at``."""
        line = json.dumps({"kind": kind, "at": time.monotonic(), **told})
        os.write(self._file, line.encode() + b"\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """The events of all processes in order of time; ``who`` is the process, such as ``a-2``."""
    events: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.ledger")):
        events += [{**json.loads(line), "who": path.stem} for line in path.read_text().splitlines()]
    return sorted(events, key=lambda event: event["at"])


def instance_of(who: str) -> str:
    """``a`` of the process ``a-2``."""
    return who.partition("-")[0]
