"""The waiters for tokens that are taken in advance, in order (pure: the futures are only held)."""

from __future__ import annotations

import bisect
from typing import Any

from bot.core.rate_limiter.models import EARLY

Order = tuple[float, float]
"""A caller that reserved later has the greater one."""


class Waiter:
    """One wait. ``gap`` is how long after the one before it in the line its tokens come."""

    __slots__ = ("cost", "future", "gap", "order")

    def __init__(self, cost: float, order: Order, future: Any) -> None:
        self.cost = cost
        self.order = order
        self.future = future
        self.gap = 0.0


class Line:
    """The waiters of one client. Joining, leaving and moving up cost the same however many wait."""

    __slots__ = ("first_ready", "forgotten", "last_ready", "loop", "timer", "waiters")

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.timer: Any = None
        self.forgotten = False
        self.waiters: list[Waiter] = []
        # When the tokens of the first and of the last are there. Changed by join, leave, move_up, due.
        self.first_ready = self.last_ready = 0.0

    def join(self, waiter: Waiter, ready: float) -> None:
        """The waiter's tokens are there at ``ready``."""
        waiters = self.waiters
        if not waiters:
            self.first_ready = self.last_ready = ready
            waiters.append(waiter)
            return
        if waiter.order > waiters[-1].order:
            waiter.gap = ready - self.last_ready
            self.last_ready = ready
            waiters.append(waiter)
            return
        # The answers of two servers overtook each other, as when a hash slot moves.
        index = bisect.bisect(waiters, waiter.order, key=_order)
        before = self.first_ready + sum(other.gap for other in waiters[1:index])
        after = before + waiters[index].gap if index else self.first_ready
        waiters.insert(index, waiter)
        if index:
            waiter.gap = ready - before
        else:
            self.first_ready = ready
        waiters[index + 1].gap = after - ready

    def leave(self, waiter: Waiter, given_back: bool) -> None:
        """The waiter gave up; those behind move up by the tokens that it ``given_back``."""
        waiters = self.waiters
        cost = waiter.cost if given_back else 0.0
        index = bisect.bisect_left(waiters, waiter.order, key=_order)
        if index == len(waiters) or waiters[index] is not waiter:
            # It had been served, and was cancelled before it could go on.
            self.move_up(waiter.order, cost)
            return
        del waiters[index]
        if index == len(waiters):
            self.last_ready -= waiter.gap
            return
        behind = waiters[index]
        if index:
            behind.gap += waiter.gap - cost
        else:
            self.first_ready += behind.gap - cost
            behind.gap = 0.0
        self.last_ready -= cost

    def move_up(self, order: Order, cost: float) -> None:
        """Somebody with that place, of this process or of another, left."""
        index = bisect.bisect(self.waiters, order, key=_order)
        if index < len(self.waiters):
            if index:
                self.waiters[index].gap -= cost
            else:
                self.first_ready -= cost
            self.last_ready -= cost

    def due(self, now: float) -> list[Waiter]:
        """Take out those whose tokens are there."""
        waiters = self.waiters
        ready = self.first_ready
        count = 0
        while count < len(waiters) and ready <= now + EARLY:
            count += 1
            if count < len(waiters):
                ready += waiters[count].gap
        found = waiters[:count]
        if found:
            del waiters[:count]
            self.first_ready = ready
            if waiters:
                waiters[0].gap = 0.0
        return found

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree. For tests: O(n)."""
        assert self.waiters, "an empty line is dropped"
        assert self.timer is not None, "a timer wakes the first waiter"
        orders = [waiter.order for waiter in self.waiters]
        assert orders == sorted(orders)
        total = sum(waiter.gap for waiter in self.waiters[1:])
        assert abs(self.first_ready + total - self.last_ready) < 1e-3


def _order(waiter: Waiter) -> Order:
    return waiter.order
