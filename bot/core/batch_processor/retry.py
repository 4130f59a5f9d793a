"""When a failed batch is tried again, and how large a batch should be (pure)."""

from __future__ import annotations

import random
import statistics
from collections import deque
from typing import NamedTuple

from bot.core._shared.backoff import full_jitter
from bot.core.phase4_config.batch_processor import DEFAULTS


class RetryPolicy(NamedTuple):
    """How often a batch that failed as a whole is tried again, and how long between."""

    max_retries: int = DEFAULTS.max_retries
    base: float = DEFAULTS.retry_base
    """Seconds, at most, before the first retry; doubled for each one after."""
    cap: float = DEFAULTS.retry_max
    """Seconds, at most, before any retry."""

    def delay(self, attempts: int, rng: random.Random | None = None) -> float | None:
        """Seconds to wait after ``attempts`` failed ones (1 or more); None: give up."""
        if attempts > self.max_retries:
            return None
        return full_jitter(attempts, self.base, self.cap, rng)

    def jitter(self, rng: random.Random | None = None) -> float:
        """Seconds to be added to a wait that many were told, so that they do not return all at once."""
        return full_jitter(1, self.base, self.cap, rng)


class BatchSizer:
    """Finds the batch size: doubles it while the handler's time per item falls.

    Starts at a sixteenth of the maximum. After each four full batches the median time per item is
    compared with that of the size before: at least 5 % less and the size is doubled; 5 % more and it
    is halved and left alone for 50 batches, for what was right at one load may be wrong at another.
    """

    ROUND = 4
    REST = 50
    MARGIN = 0.05

    __slots__ = ("_before", "_rest", "_seen", "maximum", "size")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.size = max(1, maximum // 16)
        self._before: float | None = None
        self._seen: deque[float] = deque(maxlen=self.ROUND)
        self._rest = 0

    def observe(self, items: int, seconds: float) -> None:
        """A batch of so many items took so long. Partial batches say nothing about the size."""
        if items != self.size:
            return
        if self._rest:
            self._rest -= 1
            return
        self._seen.append(seconds / items)
        if len(self._seen) < self.ROUND:
            return
        now = statistics.median(self._seen)
        before = self._before
        self._seen.clear()
        if before is None or now < before * (1.0 - self.MARGIN):
            if self.size < self.maximum:
                self._before = now
                self.size = min(self.maximum, self.size * 2)
        elif now > before * (1.0 + self.MARGIN):
            self.size = max(1, self.size // 2)
            self._before = None
            self._rest = self.REST
        else:
            # No better for being larger: stay, and look again after a while.
            self._before = now
            self._rest = self.REST
