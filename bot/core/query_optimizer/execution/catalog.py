"""Reads a database's catalog, and knows when to read it again."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from bot.core._shared.masking import one_line
from bot.core.phase4_config.query_optimizer import DEFAULTS
from bot.core.query_optimizer.sql.dialects import load_parser
from bot.core.query_optimizer.sql.relations import MAX_ASKED

if TYPE_CHECKING:
    from bot.core.query_optimizer.plans.prepare import Explainer
    from bot.core.query_optimizer.sql.catalog import Learnt
    from bot.core.query_optimizer.sql.declarations import Declaration

logger = logging.getLogger(__name__)

SCHEMAS = "PRAGMA database_list"
"""Asks SQLite for the databases that are attached."""

RETRY_FIRST, RETRY_LONGEST = 5.0, 300.0
"""Seconds until the next attempt after a failure: the first time, and at most."""

SOON = 5.0
"""Seconds until it is read again after a definition whose meaning is known."""

APART = 1.0
"""Seconds at least between two readings for names that are not known."""


class CatalogReader:
    """The catalog of one database: views, partitions, cascading keys, triggers, functions.

    It is read as soon as there is an explainer, again after a doubt (:meth:`doubt`), for a name that it did
    not have (:meth:`ask`), and at half its greatest age; after a failure at growing intervals.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._source: tuple[Explainer, str, float] | None = None
        self._retry = RETRY_FIRST
        self._failure_logged = False
        self._unclear_logged: frozenset[str] = frozenset()
        self._read_at = self._retry_at = -math.inf
        self._asked: set[str] = set()
        """Names for which it is to be read."""
        self.max_age = DEFAULTS.catalog_max_age
        """Seconds after which what was read no longer counts."""
        self.due = math.inf
        """When it is read next, in monotonic seconds; infinity without an explainer."""

    @property
    def has_source(self) -> bool:
        return self._source is not None

    @property
    def is_current(self) -> bool:
        """Whether what was read last is not too old."""
        return self._now() < self._read_at + self.max_age

    @property
    def is_overdue(self) -> bool:
        """Whether it is to be read now."""
        return self.due <= self._now()

    def read_from(self, explainer: Explainer | None, dialect: str, timeout: float) -> None:
        """Set the explainer; ``timeout`` is seconds for one reading. With None nothing is read."""
        self._read_at = self._retry_at = -math.inf
        self._asked.clear()
        if explainer is None:
            self._source, self.due = None, math.inf
            return
        self._source = explainer, dialect, timeout
        self.due, self._retry = 0.0, RETRY_FIRST

    def doubt(self) -> None:
        """What is known of the catalog may be out of date: read it again."""
        if self._source is not None:
            self.due = 0.0

    def soon(self) -> None:
        """Something was defined whose meaning is known: read it again, but there is no hurry."""
        if self._source is not None:
            self.due = min(self.due, max(self._now() + SOON, self._retry_at))

    def ask(self, names: Collection[str]) -> None:
        """Read it for names that it did not have."""
        if self._source is not None and names and len(self._asked) < MAX_ASKED:
            self._asked.update(names)
            self.due = min(self.due, max(self._now(), self._read_at + APART, self._retry_at))

    async def read(self) -> tuple[list[Declaration], Collection[str]] | None:
        """(what the catalog declares, the names that it was read for).

        None without an explainer, or if that failed or timed out.
        """
        if self._source is None:
            return None
        load_parser()  # here, and not in the thread that reads what is found
        source = self._source
        begun, self.due = self._now(), math.inf  # a doubt from now on makes it due again
        asked, self._asked = self._asked, set()
        found: Learnt | None = None
        try:
            found = await self._found(*source)
        except Exception as error:
            if not self._failure_logged:
                self._failure_logged = True
                logger.warning(
                    "The catalog was not read (%s): no result is kept of what was not declared or seen",
                    one_line(error),
                )
        finally:
            if self._source is source:
                self._done(begun, found is not None)
        if found is None or self._source is not source:
            return None
        self._tell(found.unclear)
        return found.declarations, asked

    async def _found(self, explainer: Explainer, dialect: str, timeout: float) -> Learnt:
        from bot.core.query_optimizer.sql.catalog import learnt
        from bot.core.query_optimizer.sql.catalog_queries import MAX_DEFINITIONS, query_of

        async with asyncio.timeout(timeout):
            schemas = (await explainer([(SCHEMAS, None)]))[0] if dialect == "sqlite" else ()
            rows = (await explainer([(query_of(dialect, schemas), None)]))[0]
        if len(rows) > MAX_DEFINITIONS:
            raise OverflowError(f"more than {MAX_DEFINITIONS:,} definitions")
        return await asyncio.to_thread(learnt, rows, dialect)

    def _done(self, begun: float, succeeded: bool) -> None:
        if succeeded:
            self._read_at, self._retry, self._retry_at = begun, RETRY_FIRST, -math.inf
            self.due = min(self.due, begun + self.max_age / 2)
        else:
            self.due = self._retry_at = self._now() + self._retry
            self._retry = min(self._retry * 2, RETRY_LONGEST)

    def _tell(self, unclear: dict[str, str]) -> None:
        """Say once what makes writes drop everything."""
        told = frozenset(unclear)
        if told - self._unclear_logged:
            some = "; ".join(f"{name}: {why}" for name, why in sorted(unclear.items())[:5])
            logger.info(
                "A write to %d tables drops every cached result: %s", len(unclear), one_line(some, 500)
            )
        self._unclear_logged = told
