"""How many retries there may be (pure)."""

from __future__ import annotations

WINDOW = 10.0
"""Seconds; the last one to two windows are looked at."""


class RetryBudget:
    """Retries as a share of requests, so that they do not finish off a cluster that is sick.

    Without it, ``max_retries`` failovers turn an outage of all into that many times the load. Allowed
    are ``percent`` of the requests of the last 10 to 20 seconds, and ``min_per_second`` besides, so that
    a bot with little traffic can fail over at all. Source: Finagle's ``RetryBudget``.
    """

    __slots__ = ("_before", "_started", "min_per_second", "refused", "requests", "retries", "share")

    def __init__(self, percent: float, min_per_second: float) -> None:
        self.share = percent / 100.0
        self.min_per_second = min_per_second
        self.requests = 0  # of this window, as the next two
        self.retries = 0
        self.refused = 0  # in all
        self._before = (0, 0)  # requests and retries of the window before
        self._started = 0.0

    def request(self, now: float) -> None:
        """A request begins."""
        if now - self._started >= WINDOW:
            self._roll(now)
        self.requests += 1

    def take(self, now: float) -> bool:
        """Whether a retry may be made; if so it is counted."""
        if now - self._started >= WINDOW:
            self._roll(now)
        requests, retries = self._before
        allowed = self.share * (requests + self.requests) + self.min_per_second * WINDOW
        if retries + self.retries + 1 > allowed:
            self.refused += 1
            return False
        self.retries += 1
        return True

    def _roll(self, now: float) -> None:
        recent = now - self._started < 2 * WINDOW
        self._before = (self.requests, self.retries) if recent else (0, 0)
        self.requests = self.retries = 0
        self._started = now
