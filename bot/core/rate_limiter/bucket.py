"""Token buckets of all clients under one limit (pure: told the time, reads no clock).

The bucket is kept as a GCRA: one float per client, the theoretical arrival time (TAT) at which it
is full again. Source: ITU-T I.371, annex A; B. Miller, "Rate limiting, cells, and GCRA", 2015.

Memory. A bucket that is full again needs no entry and is removed; one that is not, or that is in
backoff (which is kept as a TAT still to come), never is, however many other clients come. There is
no scan: clients are kept in two maps, ``fresh`` and ``aging``. Each client not seen before makes two
of the aging ones be looked at, which are forgotten or moved to fresh; when none is left the maps
change places. So at most about twice the live buckets, and 1,024, are held.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core.rate_limiter.models import EARLY, ClientId, RateLimitConfig, RateLimitStatus, plain_client
from bot.core.rate_limiter.penalty import COUNT, UNTIL, Penalties

EPSILON = 1e-9
"""Seconds by which any check may miss and still pass, at least: what waiting loses to rounding.

``EARLY``, or half the time of a token if that is less, where tokens take longer; and a client that was told
to wait until then may be ``EARLY`` in any case. None of it adds up: the TAT that is kept is the exact one."""

MAX_DEBT = 10
"""Bursts (of a window: times its requests) that a client may be charged beyond what it has."""

MIN_ROTATION = 1024
"""Clients below which nothing is forgotten; it would free nothing worth the work."""


class Buckets:
    """One limit's buckets by client.

    ``take`` neither awaits nor locks, so tasks of one loop cannot come between its read and its
    write. ``clock`` is not read here; it goes with the statuses made of these buckets.
    """

    __slots__ = (
        "aging", "allowed", "blocked", "clock", "config", "epsilon", "fresh", "interval", "lead",
        "penalties", "rate",
        "records", "tolerance",
    )  # fmt: skip

    def __init__(self, config: RateLimitConfig, penalties: Penalties, clock: Clock = SYSTEM_CLOCK) -> None:
        self.config = config
        self.clock = clock
        self.rate = config.requests_per_second
        self.interval = 1.0 / config.requests_per_second
        self.tolerance = config.burst_size * self.interval
        self.lead = self.tolerance - self.interval
        self.epsilon = max(EPSILON, min(EARLY, self.interval / 2), 8 * math.ulp(self.tolerance))
        self.penalties = penalties
        self.records = penalties.records  # the same dict, one look-up nearer
        # TAT by client. Changed only by take, adopt, refuse, reserve, refund, sweep and forget.
        self.fresh: dict[ClientId, float] = {}
        self.aging: dict[ClientId, float] = {}
        self.allowed = 0
        self.blocked = 0

    def __len__(self) -> int:
        return len(self.fresh) + len(self.aging)

    def take(self, client: ClientId, now: float, tokens: int = 1) -> float:
        """Take ``tokens`` if they are there, and return the slack in seconds.

        0.0 or more: taken, and as many seconds' worth of tokens are left. Negative: nothing was
        taken, and the same call succeeds that many seconds later. ``tokens`` is 1 to ``burst_size``.
        """
        kind = client.__class__
        if kind is not int and kind is not str:
            client = plain_client(client)
        tat = self.fresh.get(client)
        if tat is None:
            tat = self.adopt(client, now)
        if tat < now:
            tat = now
        tat += tokens * self.interval
        slack = now + self.tolerance - tat
        if slack >= 0.0:
            self.fresh[client] = tat
            self.allowed += 1
            return slack
        return self.refuse(client, now, tokens, tat, slack)

    def refuse(self, client: ClientId, now: float, tokens: int, tat: float, slack: float) -> float:
        """The rest of ``take`` when ``slack`` is negative; ``tat`` is what taking would make it."""
        penalties = self.penalties
        if slack >= -self.epsilon or (slack >= -EARLY and penalties.waited(client, now)):
            self.fresh[client] = tat
            self.allowed += 1
            return 0.0
        self.blocked += 1
        backoff = penalties.refused(client, now, -slack)
        if backoff:
            wait = backoff + (tokens - 1) * self.interval
            if wait + slack > 0.0:
                # The bucket will hold exactly one token when the backoff ends, and none before.
                self.fresh[client] = now + backoff + self.lead
                slack = -wait
            penalties.told(client, now, -slack)
        return slack

    def judge(self, client: ClientId, now: float, tokens: int) -> float:
        """What ``take`` would answer, leaving backoff aside. Changes nothing."""
        slack = self.peek(client, now) - tokens * self.interval
        if slack < 0.0 and (
            slack >= -self.epsilon or (slack >= -EARLY and self.penalties.waited(client, now))
        ):
            return 0.0
        return slack

    def ready(
        self, client: ClientId, now: float, tokens: int, ahead: Sequence[int] = (), more: int = 0
    ) -> float:
        """When ``tokens`` could be taken, after those ``ahead`` and ``more``, as soon as possible."""
        wanted = sum(ahead) + more + tokens
        return now + max(0.0, wanted * self.interval - self.peek(client, now))

    def peek(self, client: ClientId, now: float) -> float:
        """The slack of a check for no tokens: seconds' worth of tokens that the client has."""
        tat = self.fresh.get(client)
        if tat is None:
            tat = self.aging.get(client, now)
        return self.tolerance - max(0.0, tat - now)

    def reserve(self, client: ClientId, now: float, tokens: int, max_wait: float) -> tuple[float, bool]:
        """Take ``tokens`` ahead of time: (seconds until they are there, whether they are taken).

        When that is more than ``max_wait`` nothing is taken. Reservations are served in order. The
        caller counts the requests that are served, since a wait may also be given up.
        """
        tat = self.fresh.get(client)
        if tat is None:
            tat = self.adopt(client, now)
        tat = max(tat, now) + tokens * self.interval
        wait = tat - self.tolerance - now
        if wait <= self.epsilon:
            wait = 0.0
        elif wait > max_wait + EARLY:
            self.blocked += 1
            return wait, False
        self.fresh[client] = tat
        return wait, True

    def refund(self, client: ClientId, now: float, tokens: int) -> bool:
        """Give back tokens that were not used; False, and nothing, to a client in backoff.

        Callers behind them are to move up by as much (see Line), or two would get one place.
        """
        held = self.fresh if client in self.fresh else self.aging
        tat = held.get(client)
        if tat is None or self.penalties.in_backoff(client, now):
            return False
        held[client] = tat - tokens * self.interval
        return True

    def put_back(self, client: ClientId, tat: float) -> None:
        """Undo a take of a moment ago that found the client's TAT to be this."""
        held = self.fresh if client in self.fresh else self.aging
        held[client] = tat
        self.allowed -= 1

    def credit(self, client: ClientId, now: float, tokens: int) -> bool:
        """Give back tokens of requests that did not happen, up to a full bucket.

        False, and nothing, if it is full or the client is in backoff. Callers that wait in line are to move
        up by as much.
        """
        held = self.fresh if client in self.fresh else self.aging
        tat = held.get(client, now)
        if tat <= now or self.penalties.in_backoff(client, now):
            return False
        held[client] = max(now, tat - tokens * self.interval)
        return True

    def charge(self, client: ClientId, now: float, tokens: int) -> None:
        """Take tokens that were used, whether they are there or not.

        The client owes what is not there, and at most ``MAX_DEBT`` bursts: more is forgotten.
        """
        tat = self.fresh.get(client)
        if tat is None:
            tat = self.adopt(client, now)
        most = now + (1 + MAX_DEBT) * self.tolerance
        self.fresh[client] = max(tat, min(max(tat, now) + tokens * self.interval, most))

    def status(
        self, client: ClientId, slack: float, tokens: int, now: float, *, alone: bool = False
    ) -> RateLimitStatus:
        """The outcome of a check that was just made."""
        found = (self, slack, tokens, now)
        return RateLimitStatus((*found, True) if alone else found)

    def look(self, client: ClientId, now: float, tokens: int = 0, *, alone: bool = False) -> RateLimitStatus:
        """What the client has left, and whether ``tokens`` could be taken. Changes nothing."""
        slack = self.peek(client, now)
        if slack < tokens * self.interval - self.epsilon:
            return self.status(client, slack - tokens * self.interval, tokens, now, alone=alone)
        return self.status(client, max(0.0, slack), 0, now, alone=alone)

    def forget(self, client: ClientId, now: float) -> bool:
        """Give the client a full bucket and a clean slate; False if it had both."""
        tat = max(self.fresh.pop(client, now), self.aging.pop(client, now))
        found = tat > now or self.penalties.matters(client, now)
        self.penalties.forget(client)
        return found

    def sweep(self, now: float, at_most: int) -> bool:
        """Look at ``at_most`` clients and forget those whose bucket is full; whether none is left."""
        for held in (self.fresh, self.aging):
            # From the end: to find the first takes the longer the more before it have gone.
            live = []
            for _ in range(min(at_most, len(held))):
                client, tat = held.popitem()
                if tat > now or self.penalties.matters(client, now):
                    live.append((client, tat))
                else:
                    self.penalties.forget(client)
            held.update(reversed(live))
        return not self.fresh and not self.aging

    def adopt(self, client: ClientId, now: float) -> float:
        """The TAT of a client that is not in ``fresh``, which it joins."""
        tat = self.aging.pop(client, None)
        if tat is None:
            tat = now
            self._look_at_two(now)
        self.fresh[client] = tat
        return tat

    def _look_at_two(self, now: float) -> None:
        aging = self.aging
        if not aging:
            if len(self.fresh) < MIN_ROTATION:
                return
            self.aging = aging = self.fresh
            self.fresh = {}
        for _ in range(min(2, len(aging))):
            client, tat = aging.popitem()
            if tat > now or self.penalties.matters(client, now):
                self.fresh[client] = tat
            else:
                self.penalties.forget(client)

    def check_invariants(self, now: float) -> None:
        """Raise AssertionError if the parts disagree. For tests: O(n)."""
        assert not self.fresh.keys() & self.aging.keys(), "a client is in one map"
        held = {**self.fresh, **self.aging}
        records = self.records
        assert records.keys() <= held.keys(), "every client in backoff has a record"
        for client, record in records.items():
            if self.penalties.in_backoff(client, now):
                assert record[UNTIL] <= held[client] + 2 * self.epsilon, "no backoff outlives its bucket"
            assert 0 <= record[COUNT] <= self.penalties.last_step
