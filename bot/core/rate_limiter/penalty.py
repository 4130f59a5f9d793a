"""Backoff for clients that come back too early, again and again (pure)."""

from __future__ import annotations

import math

from bot.core._shared.backoff import exponential
from bot.core.rate_limiter.models import EARLY, ClientId

LATENESS = 0.02
"""Seconds by which the requests of one moment may lie apart: those that were told the same time and
came back together. A client that is told to wait less never counts as early, so limits above 50 per
second know no backoff."""

UNTIL, COUNT, EARLY_FROM, STEP_FROM = range(4)
"""A record: told to wait until; steps of backoff so far; a refusal from then on is early (-inf: one
was); an early refusal from then on is a step (inf: this wait has had its step)."""


class Penalties:
    """Until when clients were told to wait, which retried too early, and how long those wait in addition.

    A *wait* begins when a client that was not told to wait is refused, and ends at the time it was
    told. Requests of its first half, and of the ``grace`` at most, were on their way already: a forward of
    a hundred messages, an album. A later one is *early*. It costs a step of backoff if the client has
    been early for longer than ``grace``, and one step at most in a wait: the nth makes the client wait
    ``base * 2**(n-1)`` seconds, at most ``cap``. After a wait without an early request the
    count starts at 1 again.

    ``base`` 0 is no backoff. The client None (an unknown client) has none either: its callers
    were not all told to wait.
    """

    __slots__ = ("base", "cap", "grace", "last_step", "memory", "records", "steps")

    def __init__(self, base: float, cap: float, grace: float = 1.0, interval: float = 0.0) -> None:
        # By client. Changed by refused, told, forget and Mirror. Lists: a refusal changes them in place,
        # and an abuser's refusals must be cheap.
        self.records: dict[ClientId, list[float]] = {}
        self.configure(base, cap, grace, interval)

    def configure(self, base: float, cap: float, grace: float, interval: float) -> None:
        """Set the figures, in seconds, for refusals from now on; ``interval`` is the limit's."""
        self.base = base
        self.cap = cap
        self.grace = grace
        self.memory = max(grace, interval)
        """Seconds after a wait within which the next refusal goes on with the row of an early client."""
        # The backoff of the nth step at [n]; the last one, the cap, serves all that follow.
        self.steps = [0.0]
        while base and self.steps[-1] < cap:
            self.steps.append(exponential(len(self.steps), base, cap))
        self.last_step = len(self.steps) - 1

    def refused(self, client: ClientId, now: float, wait: float) -> float:
        """Note a refusal whose tokens come in ``wait`` seconds: 0.0, or the backoff it costs.

        :meth:`told` follows a backoff.
        """
        record = self.records.get(client)
        if record is None or not self.base or client is None:
            if not self.base or client is None:
                self.records[client] = [now + wait, 0, math.inf, math.inf]
            else:
                grace = self.grace
                self.records[client] = [now + wait, 0, now + self._patience(wait), now + grace]
            return 0.0
        until = record[UNTIL]
        if now >= until - EARLY:
            if record[EARLY_FROM] == -math.inf and now - until < self.memory:
                if record[STEP_FROM] == math.inf:
                    record[STEP_FROM] = now + self.grace
            else:
                record[COUNT] = 0
                record[STEP_FROM] = now + self.grace
            record[UNTIL] = now + wait
            record[EARLY_FROM] = now + self._patience(wait)
            return 0.0
        if now >= record[EARLY_FROM]:
            if now >= record[STEP_FROM]:
                count = min(int(record[COUNT]) + 1, self.last_step)
                record[COUNT] = count
                return self.steps[count]
            record[EARLY_FROM] = -math.inf
        if now + wait < until:
            record[UNTIL] = now + wait
        return 0.0

    def told(self, client: ClientId, now: float, wait: float) -> None:
        """A step was taken: the client is to wait that long from now."""
        record = self.records[client]
        record[UNTIL] = now + wait
        record[EARLY_FROM] = now + self._patience(wait)
        record[STEP_FROM] = math.inf

    def _patience(self, wait: float) -> float:
        """Seconds of a wait in which a request is not yet early."""
        return min(self.grace, max(wait / 2, LATENESS))

    def waited(self, client: ClientId, now: float) -> bool:
        """Whether the client was told to wait until about now, and did not ask again at once.

        The latter matters for waits shorter than EARLY, which would else be none.
        """
        record = self.records.get(client)
        if record is None or record[UNTIL] > now + EARLY:
            return False
        # When it was told, if the wait is short; of a long one most has passed anyway.
        passed = now - record[EARLY_FROM] + min(self.grace, LATENESS)
        return passed * 16 >= record[UNTIL] - now + passed

    def in_backoff(self, client: ClientId, now: float) -> bool:
        """Whether a step that the client was told has not ended."""
        record = self.records.get(client)
        return (
            record is not None and record[COUNT] > 0 and record[STEP_FROM] == math.inf and now < record[UNTIL]
        )

    def violations(self, client: ClientId) -> int:
        """Steps of backoff in a row so far."""
        record = self.records.get(client)
        return 0 if record is None else int(record[COUNT])

    def matters(self, client: ClientId, now: float) -> bool:
        """Whether anything is to be known of a client whose bucket is full."""
        record = self.records.get(client)
        return record is not None and record[EARLY_FROM] == -math.inf and now - record[UNTIL] < self.memory

    def forget(self, client: ClientId) -> None:
        """The client's slate is clean."""
        self.records.pop(client, None)
