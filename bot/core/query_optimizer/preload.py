"""Loads the SQL parser before the first query has to wait for it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading

from bot.core._shared.masking import one_line
from bot.core.query_optimizer.analyses import analysis_of

logger = logging.getLogger(__name__)

_PARSER = "sqlglot.parser"

_TEXT = "SELECT a FROM b WHERE c = 1"


class Preload:
    """Imports the parser in a thread, once in a process: it takes a tenth of a second and 30 MB."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None  # while it works; changed by start and ended

    def start(self, dialect: str) -> None:
        """Begin, unless it is loaded. A query that comes meanwhile waits for it as it would without this."""
        if _PARSER in sys.modules or self._thread is not None:
            return
        thread = threading.Thread(target=_load, args=(dialect,), name="query optimizer: load the SQL parser")
        try:
            thread.start()
        except RuntimeError:
            return  # no more threads may be started; the first query loads it
        self._thread = thread

    async def ended(self) -> None:
        """Wait until the thread is gone."""
        while self._thread is not None and self._thread.is_alive():  # noqa: ASYNC110 - a thread sets no Event
            await asyncio.sleep(0.01)
        self._thread = None


def _load(dialect: str) -> None:
    try:
        analysis_of(_TEXT, dialect)
    except Exception as error:
        logger.warning("The SQL parser could not be loaded: %s", one_line(error))
