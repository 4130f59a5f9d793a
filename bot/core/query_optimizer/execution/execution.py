"""Runs queries that have no cached result: reads that callers share, writes, transactions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from bot.core._shared.isolation import Frozen, freeze
from bot.core._shared.masking import one_line
from bot.core._shared.singleflight import SingleFlight, is_given_up
from bot.core.phase4_config.query_optimizer import DEFAULTS
from bot.core.query_optimizer.analyses import Analyses
from bot.core.query_optimizer.errors import QueryTimeoutError
from bot.core.query_optimizer.execution.call import Call
from bot.core.query_optimizer.execution.invalidation import Invalidation
from bot.core.query_optimizer.execution.recording import Recorder
from bot.core.query_optimizer.execution.timing import STOPWATCH, Stopwatch
from bot.core.query_optimizer.execution.transactions import Transactions
from bot.core.query_optimizer.models import Analysis
from bot.core.query_optimizer.sql.moments import names_a_moment

logger = logging.getLogger(__name__)

Executor = Callable[[str, Any], Awaitable[Any]]

MAX_TOLD = 1_000
"""Shapes whose results cannot be copied, and for which that was logged."""


class Execution:
    """The queries in progress: reads that several callers wait for, writes until other instances know of
    them.
    """

    def __init__(
        self,
        now: Callable[[], float],
        analyses: Analyses,
        invalidation: Invalidation,
        transactions: Transactions,
        recorder: Recorder,
    ) -> None:
        self._now = now
        self._analyses = analyses
        self._invalidation = invalidation
        self._transactions = transactions
        self._recorder = recorder
        self.timeout: float | None = DEFAULTS.query_timeout
        """Seconds after which a read that callers share is given up; None: never."""
        self._flights: SingleFlight[Frozen | None] = SingleFlight(led=True)
        self._told: set[str] = set()

    def rest(self) -> None:
        """Hold nothing but the executions in progress: the optimizer is switched off."""
        self._flights.rest()

    def run(self, call: Call) -> Awaitable[Any]:
        """What runs ``call``, to be awaited at once. Not a coroutine around another, which each read pays."""
        analysis = call.analysis
        if analysis.is_write:
            return self._write(call)
        if analysis.transaction:
            return self._transact(call)
        if call.key is None or not self.may_keep(analysis, call.params):
            return self._timed(call, call.key)
        return self._load(call)

    def may_keep(self, analysis: Analysis, params: Any) -> bool:
        if not analysis.cacheable or self._transactions.current() is not None:
            return False
        return params is None or not analysis.takes_moments or not names_a_moment(params)

    def frozen(self, analysis: Analysis, result: Any) -> Frozen | None:
        """A result as the cache keeps it; None if it cannot be copied."""
        try:
            return freeze(result)
        except MemoryError:
            raise
        except Exception as error:
            if analysis.fingerprint not in self._told and len(self._told) < MAX_TOLD:
                self._told.add(analysis.fingerprint)
                logger.warning(
                    "Results of %s are not cached: %s", one_line(analysis.normal_form, 200), one_line(error)
                )
            return None

    async def _write(self, call: Call) -> Any:
        analysis, invalidation = call.analysis, self._invalidation
        if analysis.transaction == "begin":
            self._transactions.begin()  # a script that begins a transaction, writes, and leaves it open
        try:
            result = await self._timed(call, None)
        except BaseException:
            invalidation.written_by(analysis, call.database, waits=False)
            if analysis.transaction:
                # It may have committed before it failed, and may be open still.
                open_still = self._transactions.current()
                if open_still is not None:
                    invalidation.ended(open_still)
            raise
        done = invalidation.written_by(analysis, call.database)
        if done is not None:
            # Awaited before the writer goes on: what it does next may make other instances read.
            await asyncio.shield(done)
        if analysis.transaction:
            done = self._change_transaction(analysis)
            begun = self._transactions.current()
            if begun is not None:  # it is unknown which of its writes came after the BEGIN
                invalidation.note(begun, analysis, call.database)
            if done is not None:
                await done
        return result

    async def _transact(self, call: Call) -> Any:
        analysis = call.analysis
        try:
            result = await self._timed(call, None)
        except BaseException:
            if analysis.transaction in ("commit", "rollback", "chain", "script", "implicit"):
                self._change_transaction(analysis)
            raise
        done = self._change_transaction(analysis)
        if done is not None:
            await done
        return result

    def _change_transaction(self, analysis: Analysis) -> Awaitable[Any] | None:
        ended = self._transactions.change(analysis.transaction, analysis.savepoint, self._analyses.dialect)
        return None if ended is None else self._invalidation.ended(ended)

    async def _load(self, call: Call) -> Any:
        self._recorder.missed += 1
        invalidation = self._invalidation
        led = False
        raw: Any = None

        async def run() -> Frozen | None:
            nonlocal led, raw
            led = True
            cache = invalidation.cache
            begun = cache.begin()
            raw = await self._timed(call, call.key, version)
            frozen = self.frozen(call.analysis, raw)
            # After it was given up, a later caller may have a newer result by now.
            if frozen is not None and invalidation.keeps_in(cache) and not is_given_up():
                # Computed again, since a view may have been declared meanwhile.
                marks = invalidation.marks_of(call.analysis, call.database)
                cache.put(call.key, frozen, marks, begun=begun, now=self._now(), ttl=call.ttl)
            return frozen

        # The version is part of the key: a caller after a write must not join a run from before it.
        version = invalidation.cache.version(invalidation.marks_of(call.analysis, call.database))
        frozen = await self._flights.run(
            (call.key, version), run, timeout=self.timeout, expired=lambda: self._given_up(call)
        )
        if led:
            return raw  # the cache has a copy of its own
        if frozen is not None:
            return frozen.value if frozen.thaw is None else frozen.thaw(frozen.value)
        # The leader's result cannot be copied, and two callers must not share one object.
        return await self._timed(call, call.key)

    async def run_alone(self, call: Call, keep: Callable[[Any], bool]) -> Any:
        """Run a read that leaves something open for its caller; its result is kept if ``keep`` says so."""
        self._recorder.missed += 1
        keep_it = self.keeping(call)
        result = await self._timed(call, call.key)
        if self.may_keep(call.analysis, call.params) and keep(result):
            keep_it(result)
        return result

    def keeping(self, call: Call) -> Callable[[Any], None]:
        """What keeps the result of a read that begins now, unless what it reads is written meanwhile."""
        invalidation = self._invalidation
        cache = invalidation.cache
        begun = cache.begin()

        def keep(result: Any) -> None:
            if not invalidation.keeps_in(cache):
                return
            frozen = self.frozen(call.analysis, result)
            if frozen is not None:
                marks = invalidation.marks_of(call.analysis, call.database)
                cache.put(call.key, frozen, marks, begun=begun, now=self._now(), ttl=call.ttl)

        return keep

    def _given_up(self, call: Call) -> QueryTimeoutError:
        seconds = self.timeout or 0
        logger.warning("Query given up after %g s: %s", seconds, one_line(call.analysis.normal_form))
        return QueryTimeoutError(
            f"no answer to the query within {seconds:g} s (QUERY_OPTIMIZER_QUERY_TIMEOUT)"
        )

    async def _timed(self, call: Call, key: Hashable, version: int | None = None) -> Any:
        """Run it and record its time; ``key`` and ``version`` are those of :meth:`Recorder.record`."""
        watch = Stopwatch(self._now)
        token = STOPWATCH.set(watch)
        start = self._now()
        try:
            result = await call.executor(call.query, call.params)
        finally:
            STOPWATCH.reset(token)
        seconds = watch.seconds if watch.used else self._now() - start
        self._recorder.record(call, seconds * 1000, rows_in(result), key, version)
        return result


def rows_in(result: Any) -> int:
    return len(result) if isinstance(result, list | tuple) else 0
