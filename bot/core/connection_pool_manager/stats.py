"""Counters of one pool (pure)."""

from __future__ import annotations

from bot.core._shared.histogram import Histogram


class Counters:
    """What a pool counts. The pool increments; only a reset sets back."""

    def __init__(self) -> None:
        self.acquired = 0
        self.released = 0
        self.timed_out = 0
        self.cancelled = 0
        self.opened = 0
        self.open_failures = 0
        self.closed = 0
        self.resets = 0
        self.checks = 0
        self.leaked = 0
        self.query_timeouts = 0
        self.refused_as_demoted = 0
        """Leases whose server refused what only a primary may do."""
        self.notifications = 0
        """Messages for listeners, once for each that was to get it."""
        self.notifications_dropped = 0
        self.listen_losses = 0
        """Losses of the connection on which the pool listens."""
        self.reads_by_replicas = 0
        self.reads_by_primary = 0
        """Leases that only read, and that the primary served since no replica did."""
        self.peak_active = 0
        self.peak_connections = 0
        self.waits = Histogram()
