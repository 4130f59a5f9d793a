"""Counts executions: time for each shape, slow ones, repetitions, N+1 patterns."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bot.core._shared.clock import Clock
from bot.core._shared.masking import one_line
from bot.core.phase4_config.query_optimizer import QueryOptimizerSettings
from bot.core.query_optimizer.advice.rules.registry import register
from bot.core.query_optimizer.analyses import Analyses
from bot.core.query_optimizer.execution.call import Call
from bot.core.query_optimizer.execution.invalidation import Invalidation
from bot.core.query_optimizer.execution.n_plus_one import Detector, NPlusOnePattern, Tally, call_site
from bot.core.query_optimizer.execution.specimens import Specimens
from bot.core.query_optimizer.execution.timing import SlowQueryLog
from bot.core.query_optimizer.execution.transactions import Transactions
from bot.core.query_optimizer.models import Analysis, Finding
from bot.core.query_optimizer.sql.names import is_mongodb
from bot.core.query_optimizer.stats import MAX_SHOWN, ExecutionStatistics

if TYPE_CHECKING:
    from bot.core.query_optimizer.execution.tracing import Tracer

logger = logging.getLogger(__name__)

N_PLUS_ONE = register("Q900", "n_plus_one", "warning")


class Recorder:
    """Figures per shape, the log of slow queries, and the N+1 detection."""

    def __init__(
        self, clock: Clock, analyses: Analyses, invalidation: Invalidation, transactions: Transactions
    ) -> None:
        self._clock = clock
        self._now = clock.monotonic
        self._time = clock.time
        self._analyses = analyses
        self._invalidation = invalidation
        self._transactions = transactions
        self.statistics = ExecutionStatistics()
        self.detector = Detector()
        self.configure(QueryOptimizerSettings())
        self.hits = 0
        """Look-ups that a kept result answered, counted by the optimizer."""
        self.missed = 0
        """Look-ups without an answer, since the start or the last reset."""
        self.specimens = Specimens()
        self._slow_log = SlowQueryLog()
        self.tracer: Tracer | None = None
        """Makes spans; None: switched off."""

    def configure(self, settings: QueryOptimizerSettings) -> None:
        """Use these settings from now on."""
        # Every execution passes here: what it asks of the settings is at hand.
        self._detects = settings.detect_n_plus_one
        self._slow_from = settings.slow_query_threshold * 1000  # milliseconds
        self._ttl = settings.cache_ttl
        self.detector.threshold = settings.n_plus_one_threshold
        self.detector.window = settings.n_plus_one_window
        self.detector.total_time = settings.n_plus_one_total

    def record(
        self, call: Call, milliseconds: float, rows: int, key: Hashable, version: int | None = None
    ) -> None:
        """Count an execution. ``key`` tells executions of the shape apart; None if nothing does. ``version``
        of what it reads, from before it began, says that its result may be kept.
        """
        analysis = call.analysis
        if self._detects:
            self.detector.took(analysis.fingerprint, milliseconds / 1000)
        slow = milliseconds >= self._slow_from
        shape = self.statistics.record(analysis, milliseconds, rows, slow, self._time())
        if (
            version is None
            and key is not None
            and analysis.cacheable
            and self._transactions.current() is None
        ):
            version = self._invalidation.version_of(analysis)
        if version is not None:
            # For as long as a cached result would live.
            self.statistics.note_repeat(shape, hash(key), milliseconds, version, self._now(), self._ttl)
        if slow:
            self._was_slow(call, milliseconds)

    def ran(
        self,
        analysis: Analysis,
        text: str,
        params: Any,
        apart: int | None,
        milliseconds: float,
        rows: int,
        now: float,
        site: str = "",
    ) -> None:
        """Count an execution that ended ``now``, as :meth:`watch` and :meth:`record` do. ``apart`` is a hash
        that tells executions of the shape apart; None if nothing does.
        """
        slow = milliseconds >= self._slow_from
        shape = self.statistics.record(analysis, milliseconds, rows, slow, self._time())
        tally = None
        if apart is not None:
            # Written out, since every query passes here: cacheable, and no write.
            not_kept = analysis.not_cacheable or analysis.writes or analysis.writes_anything
            if not not_kept and not (self._transactions.running[0] and self._transactions.current()):
                version = self._invalidation.version_of(analysis)
                self.statistics.note_repeat(shape, apart, milliseconds, version, now, self._ttl)
            if self._detects and not analysis.transaction:
                tally = self.detector.note(
                    analysis.fingerprint, apart, (text, params), now, milliseconds / 1000
                )
        elif self._detects:
            self.detector.took(analysis.fingerprint, milliseconds / 1000)
        if slow or tally is not None:
            call = Call(text, params, None, analysis, apart, site=site)
            if slow:
                self._was_slow(call, milliseconds)
            if tally is not None:
                self._repeats(call, tally)

    def lengthen(self, call: Call, before: float, after: float, rows: int) -> None:
        """The execution that was recorded with ``before`` milliseconds has returned ``rows`` more rows, and
        has taken ``after`` milliseconds by now.
        """
        became_slow = before < self._slow_from <= after
        self.statistics.lengthen(call.analysis, before, after, rows, became_slow)
        if became_slow:
            self._was_slow(call, after)

    def _was_slow(self, call: Call, milliseconds: float) -> None:
        analysis = call.analysis
        self.specimens.note(call, call.site or call_site(call.executor))
        unnamed = self._slow_log.note(analysis.fingerprint, self._now())
        if unnamed is not None:
            since = f" ({unnamed} more of it since the last line)" if unnamed else ""
            logger.warning("Slow query, %.0f ms%s: %s", milliseconds, since, one_line(analysis.normal_form))

    def watch(self, call: Call, now: float) -> None:
        """Count one query for the N+1 detection, before its time is recorded."""
        analysis, key = call.analysis, call.key
        if not self._detects or key is None or analysis.transaction:
            return
        detector = self.detector
        tally = detector.note(analysis.fingerprint, hash(key), (call.query, call.params), now)
        if tally is not None:
            self._repeats(call, tally)

    def _repeats(self, call: Call, tally: Tally) -> None:
        """The detector has noted ``call``, which made ``tally`` a pattern, unless it is one of no harm."""
        analysis, detector = call.analysis, self.detector
        samples, tally.samples = tally.samples, []
        fingerprint = analysis.fingerprint
        suggestion: str | None = None
        if fingerprint not in detector.patterns:
            if is_mongodb(analysis.reads | analysis.writes):
                from bot.core.query_optimizer.mongodb.repeated import batched_read

                last = call.params.kept() if hasattr(call.params, "kept") else call.params
                suggestion = batched_read(analysis, [*[params for _, params in samples], last])
            elif fingerprint not in detector.dismissed:
                from bot.core.query_optimizer.execution.batching import batched

                if samples[-1][0] is not call.query or samples[-1][1] is not call.params:
                    samples.append((call.query, call.params))
                suggestion = batched(
                    analysis.normal_form, samples, self._analyses.dialect, writes=analysis.is_write
                )
            if suggestion is None:
                detector.dismiss(tally, fingerprint)
                return
        site = call.site or call_site(call.executor)
        pattern, new = detector.found(
            tally, fingerprint, analysis.normal_form[:MAX_SHOWN], site, self._clock.time()
        )
        self.specimens.note(call, "")
        if new:
            pattern.suggestion = suggestion or ""
            words = " ".join(filter(None, (pattern.sentence(), pattern.fix())))
            logger.warning("%s -- %s", one_line(words), one_line(pattern.query))

    def n_plus_one_of(self, analysis: Analysis) -> list[Finding]:
        """The finding Q900, if queries of this shape were executed once for each value within a request."""
        pattern = self.detector.patterns.get(analysis.fingerprint)
        if pattern is None:
            return []
        fix = pattern.fix() or "Fetch what belongs together at once."
        return [N_PLUS_ONE.finding((pattern.sentence(), fix))]

    def patterns(self) -> list[NPlusOnePattern]:
        """Copies of the N+1 patterns, the one with most repetitions first."""
        found = [replace(p, call_sites=list(p.call_sites)) for p in self.detector.patterns.values()]
        return sorted(found, key=lambda pattern: pattern.count, reverse=True)

    def saved_by_caching(self, analysis: Analysis) -> tuple[float, str] | None:
        """(percent of the time measured that repetitions took, the same in words); None without any."""
        if analysis.fingerprint not in self.statistics.repeated:
            return None
        return self.statistics.saved_by_caching(analysis.fingerprint)

    def clear(self) -> None:
        self.hits = self.missed = 0
        self.statistics.clear()
        self._slow_log.clear()
        self.specimens.clear()
        self.detector.clear()
