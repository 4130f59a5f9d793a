"""Asks a database how it would run a query, and remembers what the answer proves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Protocol

from cachetools import LRUCache

from bot.core._shared.errors import message_of
from bot.core._shared.masking import one_line
from bot.core._shared.singleflight import SingleFlight
from bot.core.query_optimizer.models import Advice, Evidence
from bot.core.query_optimizer.plans.mysql import ask_mysql
from bot.core.query_optimizer.plans.postgresql import ask_postgres
from bot.core.query_optimizer.plans.prepare import Explainer, Prepared, Statement, prepare
from bot.core.query_optimizer.plans.sqlite import ask_sqlite

logger = logging.getLogger(__name__)

DIALECTS = ("sqlite", "postgres", "mysql")
REMEMBERED_PLANS = 1_000
REMEMBERED_SECONDS = 300.0
VALUES_PER_SHAPE = 100
"""Plans of one shape, with different values, that are asked for in ``REMEMBERED_SECONDS``; for more values
there is no evidence."""
RETRY_SECONDS = 30.0
"""Seconds after a failure until a query is explained again, or an unreachable database is asked again."""


class ExplainerUnavailableError(ConnectionError):
    """There was no connection for EXPLAIN; the message says why."""


class Pools(Protocol):
    """The part of the connection pool manager that is used here."""

    def connection(self, name: str, timeout: float | None = None) -> Any: ...


def pool_explainer(pools: Pools, name: str, dialect: str, timeout: float) -> Explainer:
    """An explainer that leases a connection of a pool for each query, waiting ``timeout`` seconds at most."""

    async def explain(statements: Sequence[Statement]) -> list[list[Sequence[Any]]]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(pools.connection(name, timeout))
            except Exception as error:
                raise ExplainerUnavailableError(str(error)) from error
            return [await _answer(connection, dialect, sql, params) for sql, params in statements]

    return explain


async def _answer(connection: Any, dialect: str, sql: str, params: Any) -> list[Sequence[Any]]:
    if dialect == "postgres":
        return [tuple(row) for row in await connection.fetch(sql, *(params or ()))]
    if dialect == "sqlite":
        async with connection.execute(sql, params or ()) as cursor:
            return list(await cursor.fetchall())
    async with connection.cursor() as cursor:
        await cursor.execute(sql, params or None)
        return list(await cursor.fetchall())


class PlanReader:
    """Evidence from plans, remembered for each query with its values: others may find other shares of a
    table. Concurrent callers of one query ask once.

    Its methods never raise for a failure of the database. A caller that is cancelled does not cancel the
    others.
    """

    def __init__(
        self, explainer: Explainer, dialect: str, now: Callable[[], float], *, timeout: float
    ) -> None:
        self.dialect = dialect
        self._explainer = explainer
        self._now = now
        self._timeout = timeout
        # A query, which is (shape, digest of its values), -> (monotonic time until which it is valid, what
        # was found); and for queries that are not explained, (shape, whether parameters are missing) ->
        # (that time, None). A shape is (fingerprint, DDL advised ...).
        self._known: LRUCache[Hashable, tuple[float, Evidence | None]] = LRUCache(maxsize=REMEMBERED_PLANS)
        # A shape -> (monotonic time at which its count starts anew, plans asked for since)
        self._asked: LRUCache[Hashable, tuple[float, int]] = LRUCache(maxsize=REMEMBERED_PLANS)
        self._flights: SingleFlight[Evidence | None] = SingleFlight()
        self._away_until = 0.0
        self._told_away = self._told_refused = False  # what the log has said
        self._number = 0  # grows with forget: answers to earlier questions are not remembered

    def forget(self) -> None:
        """An index may have been added or removed: ask for plans again."""
        self._known.clear()
        self._asked.clear()
        self._number += 1

    async def evidence_for(self, advice: Advice, params: Any) -> Evidence | None:
        """What the plan proves; None for queries that are not explained, and while the database does not
        answer.
        """
        # Of one shape, LIKE 'a%' asks for an index and LIKE '%a' does not.
        shape = (advice.analysis.fingerprint, *[each.ddl for each in advice.index_suggestions])
        asked = (shape, _digest(advice.query, params))
        known = self._known.get(asked)
        now = self._now()
        if known is not None and known[0] > now:
            return known[1]
        if now < self._away_until:
            return None
        passed = (shape, params is None)  # whether it can be explained may depend on the parameters
        known = self._known.get(passed)
        if known is not None and known[0] > now:
            return None
        prepared = prepare(advice, params, self.dialect)
        if prepared is None:
            self._known[passed] = now + REMEMBERED_SECONDS, None
            return None
        if not self._may_ask(shape, now):
            return None
        return await self._flights.run(asked, lambda: self._ask(asked, prepared))

    def _may_ask(self, shape: Hashable, now: float) -> bool:
        """Whether a shape has had less than its share of questions; counts this one."""
        until, count = self._asked.get(shape, (0.0, 0))
        if until <= now:
            until, count = now + REMEMBERED_SECONDS, 0
        self._asked[shape] = until, count + 1
        return count < VALUES_PER_SHAPE

    async def _ask(self, asked: Hashable, prepared: Prepared) -> Evidence | None:
        number = self._number
        found: Evidence | None = None
        kept = RETRY_SECONDS
        try:
            async with asyncio.timeout(self._timeout):
                found = await _ASKS[self.dialect](self._explainer, prepared)
            kept = REMEMBERED_SECONDS
            self._told_away = False
        except OSError as error:  # TimeoutError is one
            self._away_until = self._now() + RETRY_SECONDS
            if not self._told_away:
                self._told_away = True
                reason = one_line(message_of(error)) or f"no answer within {self._timeout:g} s"
                logger.warning("EXPLAIN does not work, so advice has no evidence from it: %s", reason)
        except Exception as error:
            if not self._told_refused:
                self._told_refused = True
                # Not the message: it may quote the query, and with it a user's data.
                logger.warning(
                    "EXPLAIN was refused (%s), so the advice has no evidence from it; this is logged once. "
                    "The query: %s",
                    type(error).__name__,
                    one_line(prepared.normal_form),
                )
        if number == self._number:
            self._known[asked] = self._now() + kept, found
        return found


def _digest(query: str, params: Any) -> bytes:
    """Tells queries of one shape apart by their values, and keeps none of them."""
    text = f"{query}\0{params!r}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


_ASKS: dict[str, Callable[[Explainer, Prepared], Awaitable[Evidence]]] = {
    "sqlite": ask_sqlite,
    "postgres": ask_postgres,
    "mysql": ask_mysql,
}
