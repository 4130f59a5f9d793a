"""N+1 in logs: runs of one shape with other values, one after the other on one connection (pure)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from bot.core.phase4_config.query_optimizer import DEFAULTS
from bot.core.query_optimizer.workload.executions import Execution

MAX_RUNS = 64
"""Connections of a shape that are watched; the longest silent one is forgotten first."""

MAX_VALUES = 10_000
"""Distinct values of a run that are counted."""

MAX_SAMPLES, MAX_SAMPLE = 3, 4_000
"""Texts that are kept to tell what differs, and characters of each."""


class _Run:
    __slots__ = ("ends", "values")

    def __init__(self, at: float) -> None:
        self.ends = at
        self.values: set[bytes] = set()


class Repeats:
    """Counts the runs of one shape."""

    __slots__ = ("_open", "longest", "runs", "samples", "statements")

    def __init__(self) -> None:
        self._open: OrderedDict[str, _Run] = OrderedDict()
        self.runs = 0
        """Runs with as many distinct values as make an N+1 pattern."""
        self.longest = 0
        """The most distinct values in one run."""
        self.statements = 0
        """Executions of those runs, each value counted once."""
        self.samples: list[tuple[str, tuple[str | None, ...] | None]] = []

    def note(self, execution: Execution) -> None:
        """Count an execution on a known connection at a known time."""
        at = execution.at
        if at is None:
            return
        run = self._open.get(execution.session)
        if run is None or at - run.ends > DEFAULTS.n_plus_one_window:
            run = self._open[execution.session] = _Run(at)
            while len(self._open) > MAX_RUNS:
                self._open.popitem(last=False)
        self._open.move_to_end(execution.session)
        run.ends = at
        if len(run.values) >= MAX_VALUES:
            return
        value = _digest(execution)
        if value in run.values:
            return
        run.values.add(value)
        count = len(run.values)
        if len(self.samples) < MAX_SAMPLES and len(execution.text) <= MAX_SAMPLE:
            self.samples.append((execution.text, execution.parameters))
        if count == DEFAULTS.n_plus_one_threshold:
            self.runs += 1
            self.statements += count
        elif count > DEFAULTS.n_plus_one_threshold:
            self.statements += 1
        if count >= DEFAULTS.n_plus_one_threshold:
            self.longest = max(self.longest, count)


def _digest(execution: Execution) -> bytes:
    text = repr((execution.text, execution.parameters))
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
