"""Results that callers read themselves: looked up first, offered to the cache afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

from bot.core._shared.masking import one_line
from bot.core.query_optimizer.execution.call import Call
from bot.core.query_optimizer.execution.execution import Execution, rows_in
from bot.core.query_optimizer.execution.invalidation import Invalidation
from bot.core.query_optimizer.execution.lookups import Found, Lookups
from bot.core.query_optimizer.execution.recording import Recorder
from bot.core.query_optimizer.execution.transactions import Transactions
from bot.core.query_optimizer.models import Analysis

logger = logging.getLogger(__name__)


class OfferedResults:
    """Look-ups that missed, and the results that callers then offer.

    A result is kept only if its caller looked it up before reading it, or vouches for it. Otherwise a write
    between the read and the offer could be missed.
    """

    def __init__(
        self,
        now: Callable[[], float],
        invalidation: Invalidation,
        transactions: Transactions,
        execution: Execution,
        recorder: Recorder,
    ) -> None:
        self._now = now
        self._invalidation = invalidation
        self._transactions = transactions
        self._execution = execution
        self._recorder = recorder
        self.lookups = Lookups()
        self._unproven_logged = False

    def missed(self, key: Hashable) -> None:
        """The caller looked ``key`` up and found nothing."""
        self._recorder.missed += 1
        if self._transactions.current() is None:  # in a transaction it may read an older snapshot
            self.lookups.open(key, self._invalidation.cache.begin(), self._now())

    def offer(self, call: Call, result: Any, *, fresh: bool) -> bool:
        """Keep a result if nothing that it read was written since its look-up, or ``fresh`` says so."""
        analysis, key, cache = call.analysis, call.key, self._invalidation.cache
        self._invalidation.ask_for(analysis)
        found = self.lookups.find(key)
        now = self._now()
        self._recorder.watch(call, now)
        if found is not None:
            # The time from the miss to the result, which callers do not measure.
            self._recorder.record(call, (now - found.missed_at) * 1000, rows_in(result), key)
        begun = self._begun(analysis, found, fresh)
        if begun is None:
            return False
        marks = self._invalidation.marks_of(analysis, call.database)
        if cache.written_since(begun, marks):
            if found is not None:
                found.refused()
            return False
        if found is not None:
            found.answered()
        if not self._execution.may_keep(analysis, call.params):
            return False
        frozen = self._execution.frozen(analysis, result)
        if frozen is None:
            return False
        return cache.put(key, frozen, marks, begun=begun, now=now, ttl=call.ttl)

    def _begun(self, analysis: Analysis, found: Found | None, fresh: bool) -> int | None:
        """The write number after which the result was read; None if that is unknown."""
        if fresh:
            return self._invalidation.cache.begin()
        if found is not None:
            return found.begun
        if self._transactions.current() is None and analysis.cacheable and not self._unproven_logged:
            self._unproven_logged = True
            logger.warning(
                "A result was not kept, because there was no look-up: call get_cached_result first, "
                "in the same task, or pass fresh=True (logged once; the query was %s)",
                one_line(analysis.normal_form, 200),
            )
        return None
