"""The windows of all chats together: for messages, with a reserve for answers, and for paid ones (pure)."""

from __future__ import annotations

import math
from enum import IntEnum

from bot.core.outbound.models import Priority
from bot.core.outbound.rates import Rates
from bot.core.outbound.windows import SlidingWindow

STARVED = 30.0
"""Seconds after which a request passes the bulk window though answers alone fill it, one in each window."""


class Gate(IntEnum):
    """What a request needs beside a slot: room in a window of all chats together."""

    NONE = 0
    BULK = 1
    PAID = 2


_NONE, _BULK, _PAID = Gate
_ANSWER = Priority.ANSWER


class Gates:
    """What has passed the windows of all chats.

    A request counts from the moment when it leaves: what is in flight is not told apart here.
    """

    def __init__(self) -> None:
        # Changed by the methods below only.
        self._bulk = SlidingWindow()
        self._bulk_of_others = SlidingWindow()
        """The same without answers, for STARVED."""
        self._paid = SlidingWindow()
        # What all instances have sent fills the windows until then.
        self._bulk_until = self._paid_until = -math.inf

    def wait(
        self,
        gate: Gate,
        cost: int,
        priority: int,
        rates: Rates,
        now: float,
        ready_since: float | None = None,
    ) -> float:
        """Seconds until there is room for a request that has been ready since then (None: since now)."""
        if gate is _NONE:
            return 0.0
        if gate is _PAID:
            return max(self._paid.wait(cost, *rates.paid, now), self._paid_until - now)
        if priority == _ANSWER:
            return 0.0
        wait = self._bulk.wait(cost, *rates.bulk_of_others, now)
        if wait > 0.0 and ready_since is not None:
            others = self._bulk_of_others.wait(rates.bulk[0], *rates.bulk, now)
            wait = min(wait, max(others, ready_since + STARVED - now))
        until = self._bulk_until
        return max(wait, until - now) if until > now else wait

    def leave(self, gate: Gate, cost: int, rates: Rates, now: float, *, answers: bool) -> None:
        """A request leaves; ``answers``: as an answer, whatever it is itself."""
        if gate is _BULK:
            length = rates.bulk[1]
            self._bulk.stamp(cost, length, now)
            if not answers:
                self._bulk_of_others.stamp(cost, length, now)
        elif gate is _PAID:
            self._paid.stamp(cost, rates.paid[1], now)

    def give_back(self, gate: Gate, cost: int, departed: float, *, answers: bool) -> None:
        """It has not left after all."""
        if gate is _BULK:
            self._bulk.unstamp(cost, departed)
            if not answers:
                self._bulk_of_others.unstamp(cost, departed)
        elif gate is _PAID:
            self._paid.unstamp(cost, departed)

    def close(self, gate: Gate, until: float) -> None:
        """What other instances have sent fills the window until then."""
        if gate is _PAID:
            self._paid_until = until
        else:
            self._bulk_until = until

    def check_invariants(self) -> None:
        for window in (self._bulk, self._bulk_of_others, self._paid):
            window.check_invariants()
            assert not window.in_flight
