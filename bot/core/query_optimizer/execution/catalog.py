"""Reads a database's catalog, and knows when to read it again."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from bot.core._shared.masking import one_line
from bot.core.query_optimizer.sql.dialects import load_parser

if TYPE_CHECKING:
    from bot.core.query_optimizer.plans.prepare import Explainer
    from bot.core.query_optimizer.sql.declarations import Declaration

logger = logging.getLogger(__name__)

RETRY_FIRST, RETRY_LONGEST = 60.0, 3600.0
"""Seconds until the next attempt after a failure: the first time, and at most."""


class CatalogReader:
    """The catalog of one database: views, partitions, cascading keys, triggers, functions.

    It is read as soon as there is an explainer, again after a doubt (:meth:`doubt`), and after a failure at
    growing intervals.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._source: tuple[Explainer, str, float] | None = None
        self._retry = RETRY_FIRST
        self._failure_logged = False
        self.due = math.inf
        """When it is read next, in monotonic seconds; infinity without an explainer."""

    @property
    def has_source(self) -> bool:
        return self._source is not None

    def read_from(self, explainer: Explainer | None, dialect: str, timeout: float) -> None:
        """Set the explainer; ``timeout`` is seconds for one reading. With None nothing is read."""
        if explainer is None:
            self._source, self.due = None, math.inf
            return
        self._source = explainer, dialect, timeout
        self.due, self._retry = 0.0, RETRY_FIRST

    def doubt(self) -> None:
        """What is known of the catalog may be out of date: read it again."""
        if self._source is not None:
            self.due = 0.0

    async def read(self) -> list[Declaration] | None:
        """Read what the catalog declares; None without an explainer, or if that failed or timed out."""
        if self._source is None:
            return None
        load_parser()  # here, and not in the thread that reads what is found
        from bot.core.query_optimizer.sql.catalog import CATALOGS, MAX_DEFINITIONS, learnt

        source = self._source
        explainer, dialect, timeout = source
        self.due = math.inf  # a doubt from now on makes it due again
        found: list[Declaration] | None = None
        try:
            async with asyncio.timeout(timeout):
                rows = (await explainer([(CATALOGS[dialect], None)]))[0]
            if len(rows) > MAX_DEFINITIONS:
                raise OverflowError(f"more than {MAX_DEFINITIONS:,} definitions")
            found = await asyncio.to_thread(learnt, rows, dialect)
        except Exception as error:
            if not self._failure_logged:
                self._failure_logged = True
                logger.warning(
                    "The catalog was not read (%s): only declared views are known", one_line(error)
                )
        finally:
            if found is None and self._source is source:
                self.due = self._now() + self._retry
                self._retry = min(self._retry * 2, RETRY_LONGEST)
            elif found is not None:
                self._retry = RETRY_FIRST
        return found
