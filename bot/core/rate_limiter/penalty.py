"""Backoff for clients that do not wait as told (pure)."""

from __future__ import annotations

from typing import Any

from bot.core._shared.backoff import exponential
from bot.core.rate_limiter.models import ClientId


class Penalties:
    """Who was told to wait until when, and how often in a row they came back too early.

    A request made before its ``retry_after`` has passed is a violation; the nth in a row makes the
    client wait ``base * 2**(n-1)`` seconds, at most ``cap``. A client that waits never meets it.
    """

    __slots__ = ("base", "cap", "last_step", "records", "steps")

    def __init__(self, base: float, cap: float) -> None:
        # [told to wait until, violations in a row] by client. Changed by Buckets.refuse and by
        # forget. Lists: a refusal changes both in place, and an abuser's refusals must be cheap.
        self.records: dict[ClientId, list[Any]] = {}
        self.configure(base, cap)

    def configure(self, base: float, cap: float) -> None:
        """Set the first backoff and the longest, in seconds, for violations from now on."""
        self.base = base
        self.cap = cap
        # The backoff of the nth violation at [n]; the last one, the cap, serves all that follow.
        self.steps = [0.0]
        while self.steps[-1] < cap:
            self.steps.append(exponential(len(self.steps), base, cap))
        self.last_step = len(self.steps) - 1

    def violations(self, client: ClientId) -> int:
        """Early requests in a row so far."""
        record = self.records.get(client)
        return 0 if record is None else int(record[1])

    def forget(self, client: ClientId) -> None:
        """The client's slate is clean."""
        self.records.pop(client, None)
