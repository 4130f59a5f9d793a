"""Loads the SQL parser before the first query has to wait for it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading

from bot.core._shared.masking import one_line
from bot.core.query_optimizer.analyses import advice_on, analysis_of
from bot.core.query_optimizer.sql.dialects import IMPORTING
from bot.core.query_optimizer.sql.long_texts import repetitions
from bot.core.query_optimizer.sql.numbers import number_or_quoted

logger = logging.getLogger(__name__)

_PARSER = "sqlglot.parser"

DELAY = 0.05
"""Seconds after ``enable``, so that the services that start next do not share the interpreter with it."""

_TEXT = "SELECT a FROM b WHERE c = 1"


class Preload:
    """Imports the parser in a thread, once in a process: it takes a tenth of a second and 30 MB.

    After it, what advice and a pattern of N+1 need, so that no handler imports a part of this package.
    """

    def __init__(self) -> None:
        # What will start the thread, and the thread while it works. Changed by soon, _start and ended.
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None

    def soon(self, dialect: str) -> None:
        """Begin shortly, unless it is loaded. A query that comes before waits as it would without this."""
        if _PARSER in sys.modules or self._thread is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(DELAY, self._start, dialect)

    def _start(self, dialect: str) -> None:
        self._timer = None
        if _PARSER in sys.modules:
            return
        thread = threading.Thread(target=_load, args=(dialect,), name="query optimizer: load the SQL parser")
        try:
            thread.start()
        except RuntimeError:
            return  # no more threads may be started; the first query loads it
        self._thread = thread

    async def ended(self) -> None:
        """Start no thread any more, and wait until one that runs is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._thread is not None and self._thread.is_alive():  # noqa: ASYNC110 - a thread sets no Event
            await asyncio.sleep(0.01)
        self._thread = None


def _load(dialect: str) -> None:
    try:
        analysis_of(_TEXT, dialect)  # first: a query may wait for it already
        advice_on(_TEXT, dialect)
        repetitions()
        number_or_quoted()
        with IMPORTING:
            from bot.core.query_optimizer.execution import batching  # noqa: F401 - imported, not used
    except Exception as error:
        logger.warning("The SQL parser could not be loaded: %s", one_line(error))
