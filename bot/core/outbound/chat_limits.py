"""How many requests one chat takes: a burst, a window, or the windows of chat actions (pure).

Told the time, and with each call the rates, so that a change of settings holds at once.
"""

from __future__ import annotations

import math
from typing import Protocol

from bot.core.outbound.penalties import Slowdown
from bot.core.outbound.rates import Rates
from bot.core.outbound.windows import Bucket, SlidingWindow


class ChatLimit(Protocol):
    """What requests of some kinds to one chat count in.

    Each that leaves is told of twice: :meth:`leave`, then :meth:`answered` or :meth:`give_back`, both with
    the time when it left.
    """

    def wait(self, cost: int, rates: Rates, now: float) -> float:
        """Seconds until a request of ``cost`` may leave; 0.0: now; inf: not before an answer has come."""
        ...

    def leave(self, cost: int, rates: Rates, now: float) -> None:
        """A request leaves."""
        ...

    def answered(self, cost: int, rates: Rates, departed: float, now: float) -> None:
        """Its answer came, or nobody waits for it any more: it counts."""
        ...

    def give_back(self, cost: int, rates: Rates, departed: float) -> None:
        """It has not left after all, or was refused: it does not count."""
        ...

    def idle_at(self, rates: Rates) -> float:
        """When nothing counts any more, if nothing is added; nothing is in flight."""
        ...

    def abandon(self, now: float) -> None:
        """Nobody will tell of what is in flight: it counts as sent."""
        ...

    def check_invariants(self) -> None:
        """For tests."""
        ...


class PrivateLimit:
    """Messages to a private chat: a short burst, then an even rate, slower after a refusal."""

    __slots__ = ("_bucket", "_slowdown")

    def __init__(self, slowdown: Slowdown) -> None:
        self._bucket = Bucket()
        self._slowdown = slowdown

    def wait(self, cost: int, rates: Rates, now: float) -> float:
        share = self._slowdown.share(now)
        burst = rates.burst if share >= 1.0 else max(1, int(rates.burst * share))
        return self._bucket.wait(cost, rates.interval / share, burst, now)

    def leave(self, cost: int, rates: Rates, now: float) -> None:
        self._bucket.leave(cost, rates.interval / self._slowdown.share(now), now)

    def answered(self, cost: int, rates: Rates, departed: float, now: float) -> None:
        self._bucket.answered(cost, rates.interval / self._slowdown.share(departed), now)

    def give_back(self, cost: int, rates: Rates, departed: float) -> None:
        self._bucket.give_back(cost, rates.interval / self._slowdown.share(departed))

    def debt_before(self, cost: int, rates: Rates, departed: float, now: float) -> float:
        """In how many seconds the bucket would be full without a request that is in flight."""
        own = cost * rates.interval / self._slowdown.share(departed)
        return max(0.0, self._bucket.full_at - own - now)

    def idle_at(self, rates: Rates) -> float:
        return self._bucket.full_at

    def abandon(self, now: float) -> None:
        self._bucket.in_flight = 0  # it was paid for when it left

    def check_invariants(self) -> None:
        assert self._bucket.in_flight >= 0


class GroupLimit:
    """Messages to a group or channel: never more than a number in any window, fewer after a refusal."""

    __slots__ = ("_slowdown", "_window")

    def __init__(self, slowdown: Slowdown) -> None:
        self._window = SlidingWindow()
        self._slowdown = slowdown

    def wait(self, cost: int, rates: Rates, now: float) -> float:
        most, length = rates.group
        share = self._slowdown.share(now)
        if share < 1.0:
            most = max(1, int(most * share))
        return self._window.wait(cost, most, length, now)

    def leave(self, cost: int, rates: Rates, now: float) -> None:
        self._window.leave(cost)

    def answered(self, cost: int, rates: Rates, departed: float, now: float) -> None:
        self._window.answered(cost, now)

    def give_back(self, cost: int, rates: Rates, departed: float) -> None:
        self._window.give_back(cost)

    def idle_at(self, rates: Rates) -> float:
        return self._window.empty_at(rates.group[1])

    def abandon(self, now: float) -> None:
        if self._window.in_flight:
            self._window.answered(self._window.in_flight, now)

    def check_invariants(self) -> None:
        self._window.check_invariants()


class TypingLimit:
    """Chat actions in a chat: several windows at once, as many as the settings name."""

    __slots__ = ("_in_flight", "_windows")

    def __init__(self) -> None:
        # What is in flight is in all windows. It is counted beside them, as settings may change their number.
        self._in_flight = 0
        self._windows: list[SlidingWindow] = []

    def wait(self, cost: int, rates: Rates, now: float) -> float:
        self._adapt(rates)
        wait = 0.0
        for (most, length), window in zip(rates.typing, self._windows, strict=True):
            wait = max(wait, window.wait(cost, most, length, now))
        return wait

    def leave(self, cost: int, rates: Rates, now: float) -> None:
        self._adapt(rates)
        self._in_flight += cost
        for window in self._windows:
            window.leave(cost)

    def answered(self, cost: int, rates: Rates, departed: float, now: float) -> None:
        self._in_flight -= cost
        for window in self._windows:
            window.answered(cost, now)

    def give_back(self, cost: int, rates: Rates, departed: float) -> None:
        self._in_flight -= cost
        for window in self._windows:
            window.give_back(cost)

    def idle_at(self, rates: Rates) -> float:
        at = -math.inf
        for (_, length), window in zip(rates.typing, self._windows, strict=False):
            at = max(at, window.empty_at(length))
        return at

    def abandon(self, now: float) -> None:
        self._in_flight = 0
        for window in self._windows:
            if window.in_flight:
                window.answered(window.in_flight, now)

    def _adapt(self, rates: Rates) -> None:
        if len(self._windows) != len(rates.typing):
            self._windows = [SlidingWindow() for _ in rates.typing]
            for window in self._windows:
                window.leave(self._in_flight)

    def check_invariants(self) -> None:
        for window in self._windows:
            window.check_invariants()
            assert window.in_flight == self._in_flight
