"""What the library logs while a world runs: lines of its history, and errors that are not allowed."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.world import World


class Log(logging.Handler):
    """Hands records on to the world whose run it is."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.note(f"log {record.levelname} {record.getMessage()}")
        if record.levelno >= logging.ERROR and not re.search(self._world.scenario.quiet, record.getMessage()):
            self._world.wrong(f"log: {record.getMessage()}")
