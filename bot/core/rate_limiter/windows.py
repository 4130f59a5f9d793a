"""Exact sliding windows of all clients under one limit (pure: told the time, reads no clock).

Kept is the time of each token that counts (the "sliding window log"). A request passes when the token
``max_requests`` places before its own last one was taken a window ago or earlier. So a check looks at one
time, whatever the limit is.

**Exact.** No tolerance lets a request pass early, as a bucket's does. Clients are told to wait ``EARLY``
longer than necessary instead: an event loop that wakes them up that much too soon wakes them in time.

Memory. A time is 8 bytes. Those that count no more are dropped when they are half of what a client has, so
a client has at most twice those that count. As in bucket.py clients are kept in two maps, and each new one
causes two of the older map to be looked at.
"""

from __future__ import annotations

import itertools
import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core.rate_limiter.bucket import MAX_DEBT, MIN_ROTATION
from bot.core.rate_limiter.models import EARLY, ClientId, WindowLimit, WindowStatus
from bot.core.rate_limiter.penalty import Penalties

FEW = 16
"""Times of a client below which none is dropped: it would free nothing worth the work."""


class Windows:
    """One limit's windows by client.

    Nothing here awaits, so tasks of one loop cannot come between a look and what follows from it. ``clock``
    is not read here; it goes with the statuses.
    """

    __slots__ = (
        "aging", "allowed", "blocked", "clock", "config", "fresh", "held", "most", "penalties",
        "records", "window",
    )  # fmt: skip

    def __init__(self, config: WindowLimit, penalties: Penalties, clock: Clock = SYSTEM_CLOCK) -> None:
        self.config = config
        self.clock = clock
        self.most = config.max_requests
        self.window = config.window
        self.penalties = penalties
        self.records = penalties.records
        # The times of each client's tokens, ascending; those to come are of a charge. Changed by the methods
        # below only.
        self.fresh: dict[ClientId, array[float]] = {}
        self.aging: dict[ClientId, array[float]] = {}
        # Until when a backoff holds a client.
        self.held: dict[ClientId, float] = {}
        self.allowed = 0
        self.blocked = 0

    def __len__(self) -> int:
        return len(self.fresh) + len(self.aging)

    # Checks.

    def take(self, client: ClientId, now: float, tokens: int = 1) -> float:
        """Take ``tokens`` if there is room: 0.0, or minus the seconds after which the same call succeeds.

        ``tokens`` is 1 to ``max_requests``.
        """
        wait = self.wait(client, now, tokens)
        if wait <= 0.0:
            self.add(client, now, tokens)
            self.allowed += 1
            return 0.0
        return self.refuse(client, now, wait, tokens)

    def wait(self, client: ClientId, now: float, tokens: int) -> float:
        """Seconds until ``tokens`` can be taken, not counting ``EARLY``; 0.0: now. Changes nothing."""
        times = self.times(client)
        index = len(times) + tokens - 1 - self.most
        due = times[index] + self.window if index >= 0 else now
        if times and times[-1] > due:
            due = times[-1]  # a charge has yet to count
        if self.held:
            due = max(due, self.held.get(client, now) - EARLY)
        return _until(due, now)

    def judge(self, client: ClientId, now: float, tokens: int) -> float:
        """What ``take`` would answer, leaving backoff aside. Changes nothing."""
        wait = self.wait(client, now, tokens)
        return 0.0 if wait <= 0.0 else -(wait + EARLY)

    def refuse(self, client: ClientId, now: float, wait: float, tokens: int = 1) -> float:
        """Note a refusal for ``wait`` seconds, not counting ``EARLY``: minus what the client is told."""
        self.blocked += 1
        wait += EARLY
        backoff = self.penalties.refused(client, now, wait)
        if backoff:
            wait = max(wait, backoff)
            self.penalties.told(client, now, wait)
            self.held[client] = now + backoff
        if client not in self.fresh:
            self.adopt(client, now)
        return -wait

    def ready(
        self, client: ClientId, now: float, tokens: int, ahead: Sequence[int] = (), more: int = 0
    ) -> float:
        """When ``tokens`` could be taken, if others take theirs first, as soon as possible.

        First those ``ahead``, each as many at once, then ``more``, one by one: what of these is taken at once
        may take longer.
        """
        times, most = self.times(client), self.most
        count, at = len(times), max(now, self.held.get(client, now), times[-1] if times else now)
        starts: list[int] = []
        later: list[float] = []

        def free_at(index: int) -> float:
            """When the place of a token that was taken before, or is by those ahead, is free again."""
            before = times[index] if index < len(times) else later[bisect_right(starts, index) - 1]
            return now + _until(before + self.window, now)

        for wanted in ahead:
            index = count + wanted - 1 - most
            if index >= 0:
                at = max(at, free_at(index))
            starts.append(count)
            later.append(at)
            count += wanted
        # Token by token, each comes a window after the one ``most`` places before it.
        windows, place = divmod(more + tokens - 1, most)
        index = count + place - most
        if index >= 0:
            at = max(at, free_at(index))
        return at + windows * self.window

    def used(self, client: ClientId, now: float) -> int:
        """Tokens that count, and those of a charge that are still to count."""
        times = self.times(client)
        return len(times) - self._expired(times, now)

    def peek(self, client: ClientId, now: float) -> int:
        """Tokens that the client has left."""
        return max(0, self.most - self.used(client, now))

    def status(
        self, client: ClientId, slack: float, tokens: int, now: float, *, alone: bool = False
    ) -> WindowStatus:
        """The outcome of a check that was just made."""
        times = self.times(client)
        empty_at = times[-1] + self.window if times else now
        found = (self, slack, tokens, now, self.peek(client, now), empty_at)
        return WindowStatus((*found, True) if alone else found)

    def look(self, client: ClientId, now: float, tokens: int = 0, *, alone: bool = False) -> WindowStatus:
        """What the client has left, and whether ``tokens`` could be taken. Changes nothing."""
        return self.status(client, self.judge(client, now, tokens), tokens, now, alone=alone)

    # What clients have.

    def add(self, client: ClientId, at: float, tokens: int) -> None:
        """Count ``tokens`` taken at a time that is not before those of the client's others."""
        times = self.fresh.get(client)
        if times is None:
            times = self.adopt(client, at)
        if len(times) >= FEW and times[len(times) // 2] + self.window <= at:
            del times[: len(times) // 2 + 1]
        if tokens == 1:
            times.append(at)
        else:
            times.extend(array("d", (at,)) * tokens)
        if len(times) > 2 * self.most:
            del times[: len(times) - self.most]

    def credit(self, client: ClientId, now: float, tokens: int) -> bool:
        """Give back tokens of requests that did not happen; False if none counts, or a backoff holds.

        First go those of a charge that have yet to count, then the oldest that count: whichever requests did
        not happen, those that did are still counted, at the time they were made or a later one.
        """
        times = self.times(client)
        first = self._expired(times, now)
        if first == len(times) or self.held.get(client, now) > now:
            return False
        while tokens and (to_come := min(tokens, len(times) - bisect_right(times, now))):
            # Those max_requests places before them are a window older; only the last are kept.
            kept = len(times) - to_come
            earlier = [min(time - self.window, times[0]) for time in times[kept:]]
            if len(times) != self.most:
                earlier.clear()
            times[:] = array("d", earlier) + times[:kept]
            tokens -= to_come
        first = self._expired(times, now)
        del times[first : first + tokens]
        return True

    def charge(self, client: ClientId, now: float, tokens: int) -> None:
        """Count tokens that were used, whether there is room or not.

        What is too much counts as if it were taken as soon as there is room, and at most ``MAX_DEBT``
        windows ahead: what would come later is forgotten.
        """
        times = self.fresh.get(client)
        if times is None:
            times = self.adopt(client, now)
        most, window = self.most, self.window
        at = max(now, times[-1]) if times else now
        # In debt just max_requests times are kept: refund needs to know which are left out.
        counting = len(times) - (self._expired(times, now) if at == now else 0)
        room = min(tokens, most - min(most, counting))
        times.extend(array("d", (at,)) * room)
        tokens -= room
        if tokens:
            # Each of the others comes a window after the one max_requests places before it.
            tokens = min(tokens, int(most * max(0.0, MAX_DEBT - (at - now) / window)))
            windows, rest = divmod(tokens, most)
            last = times[len(times) - most :]
            first = [time + (windows + 1) * window for time in last[:rest]]
            times[:] = array("d", [time + windows * window for time in last[rest:]] + first)
        elif len(times) > 2 * most:
            del times[: len(times) - most]

    def forget(self, client: ClientId, now: float) -> bool:
        """Give the client an empty window and a clean slate; False if it had both."""
        found = self._is_live(client, self.times(client), now)
        self._drop(client)
        return found

    def sweep(self, now: float, at_most: int) -> bool:
        """Look at ``at_most`` clients and forget those without any state; whether none is left."""
        for held in (self.fresh, self.aging):
            # From the end: to find the first takes the longer the more before it have gone.
            live = []
            for _ in range(min(at_most, len(held))):
                client, times = held.popitem()
                if self._is_live(client, times, now):
                    live.append((client, times))
                else:
                    self._drop(client)
            held.update(reversed(live))
        return not self.fresh and not self.aging

    def times(self, client: ClientId) -> array[float]:
        """The times of a client's tokens; those of an unknown one are in no map."""
        times = self.fresh.get(client)
        if times is None:
            times = self.aging.get(client)
        return array("d") if times is None else times

    def adopt(self, client: ClientId, now: float) -> array[float]:
        """The times of a client that is not in ``fresh``, which it joins."""
        times = self.aging.pop(client, None)
        if times is None:
            times = array("d")
            self._look_at_two(now)
        self.fresh[client] = times
        return times

    def _expired(self, times: array[float], now: float) -> int:
        """How many of the times count no more: as ``wait`` says, to the last bit."""
        found = bisect_right(times, now - self.window)
        while found < len(times) and times[found] + self.window <= now:
            found += 1
        while found and times[found - 1] + self.window > now:
            found -= 1
        return found

    def _is_live(self, client: ClientId, times: array[float], now: float) -> bool:
        return (
            (len(times) > 0 and times[-1] + self.window > now)
            or self.held.get(client, now) > now
            or self.penalties.matters(client, now)
        )

    def _drop(self, client: ClientId) -> None:
        self.fresh.pop(client, None)
        self.aging.pop(client, None)
        self.held.pop(client, None)
        self.penalties.forget(client)

    def _look_at_two(self, now: float) -> None:
        if not self.aging:
            if len(self.fresh) < MIN_ROTATION:
                return
            self.fresh, self.aging = {}, self.fresh
        for _ in range(min(2, len(self.aging))):
            client, times = self.aging.popitem()
            if self._is_live(client, times, now):
                self.fresh[client] = times
            else:
                self._drop(client)

    def check_invariants(self, now: float) -> None:
        """Raise AssertionError if the parts disagree. For tests: O(n)."""
        assert not self.fresh.keys() & self.aging.keys(), "a client is in one map"
        known = self.fresh.keys() | self.aging.keys()
        assert self.records.keys() <= known, "every client in backoff is known"
        assert self.held.keys() <= known
        for times in (*self.fresh.values(), *self.aging.values()):
            assert len(times) <= max(2 * self.most, FEW)
            assert all(before <= after for before, after in itertools.pairwise(times))
            # At most so many in any window: what makes it exact.
            for before, after in zip(times, times[self.most :], strict=False):
                assert before + self.window <= after


def _until(due: float, now: float) -> float:
    """Seconds after which ``due`` has come, so that adding them to ``now`` is enough; 0.0 if it has."""
    if due <= now:
        return 0.0
    wait = due - now
    while now + wait < due:
        wait = math.nextafter(wait, math.inf)
    return wait
