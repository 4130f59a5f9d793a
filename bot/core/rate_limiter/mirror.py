"""What this instance knows of buckets that are kept in Redis (pure)."""

from __future__ import annotations

import hashlib
import struct

from bot.core._shared.clock import Clock
from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.models import ClientId, RateLimitConfig
from bot.core.rate_limiter.penalty import Penalties

# As bucket.lua has them.
TAKE, PEEK, RESERVE, REFUND, PENALTY, RESET = range(6)
_CHECK = struct.Struct("<8sBddddddd")

FORGIVEN_SECONDS = 5.0
"""For which Redis takes no penalty of a client that was forgiven: those of before may be on their way."""

RESET_ARGUMENT = _CHECK.pack(b"p4reset!", RESET, 0.0, 0.0, 0.0, 0.0, FORGIVEN_SECONDS, 0.0, 0.0)
"""Forgive a client everything."""

MAX_PLAIN = 64
"""Bytes of a client's name that stand in a key as they are; a longer one is hashed."""


def client_key(client: ClientId) -> bytes:
    """The Redis key of a client. No two clients share one, whatever is in their names."""
    if isinstance(client, int):
        if -(2**63) <= client < 2**63:
            return b"p4r:i:%d" % client
        return b"p4r:j:" + _digest(b"%x" % client)
    if not isinstance(client, str):
        raise TypeError(f"client_id = {client!r}: expected an int or a str")
    name = client.encode("utf-8", "surrogatepass")
    # Braces would let users choose their slot in a cluster, and crowd one node.
    if len(name) <= MAX_PLAIN and b"{" not in name:
        return b"p4r:s:" + name
    return b"p4r:h:" + _digest(name)


def _digest(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=16).hexdigest().encode()


class Mirror(Buckets):
    """One limit's buckets as Redis last told of them, and as they would be if it had not been asked since.

    It answers three things: which refusal is still in force, so that its client costs no round trip;
    what a check would be while Redis is away; and a check that cannot wait for Redis. It never holds
    more tokens for a client than Redis does, but for what other instances took since.
    """

    __slots__ = ("arguments", "limit_id", "margin")

    def __init__(
        self, config: RateLimitConfig, penalties: Penalties, clock: Clock, kind: str, name: str
    ) -> None:
        super().__init__(config, penalties, clock)
        identity = repr((kind, name, config.requests_per_second, config.burst_size))
        self.limit_id = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        # What two clocks may differ by when they measure the wait between two tokens: at least the
        # two microseconds that Redis's own clock is read to, at most a millisecond.
        self.margin = max(2e-6, min(1e-3, self.interval * 0.01), self.epsilon)
        # Packed takes by tokens, since nearly all are alike. Emptied when the backoff changes.
        self.arguments: dict[int, bytes] = {}

    def argument(self, mode: int, tokens: int, a: float = 0.0, b: float = 0.0, c: float = 0.0) -> bytes:
        """One argument of bucket.lua; what the numbers are depends on the mode."""
        return _CHECK.pack(
            self.limit_id, mode, self.interval, self.tolerance, self.margin, float(tokens), a, b, c
        )

    def take_argument(self, tokens: int) -> bytes:
        """The argument of a take."""
        found = self.arguments.get(tokens)
        if found is None:
            if len(self.arguments) >= 64:
                self.arguments.clear()
            found = self.argument(TAKE, tokens, self.penalties.base, self.penalties.cap)
            self.arguments[tokens] = found
        return found

    def refused(self, client: ClientId, now: float, tokens: int) -> float:
        """The negative slack of a check that a remembered refusal answers; 0.0 if Redis must be asked.

        Being asked before its ``retry_after`` has passed, it counts as the violation that it is.
        """
        record = self.records.get(client)
        if record is None or now >= record[0]:
            return 0.0
        tat = self._tat(client, now) + tokens * self.interval
        slack = now + self.tolerance - tat
        if slack >= -self.epsilon:
            return 0.0  # it was refused more tokens than these
        return self.refuse(client, now, tokens, tat, slack)

    def heard_of_take(
        self, client: ClientId, now: float, tokens: int, slack: float, violations: float
    ) -> float:
        """Keep what Redis answered; returns the slack, within what is possible."""
        if slack >= 0.0:
            slack = min(slack, self.tolerance)
            self.allowed += 1
            self.heard_of_bucket(client, now, slack)
            return slack
        self.blocked += 1
        if client not in self.fresh:
            self.adopt(client, now)
        self.fresh[client] = now - slack + self.tolerance - tokens * self.interval
        count = int(min(max(violations, 0.0), self.penalties.last_step))
        self.records[client] = [now - slack - self.epsilon, count]
        return slack

    def heard_of_bucket(self, client: ClientId, now: float, slack: float) -> None:
        """Redis has no more for the client than ``slack`` seconds' worth of tokens."""
        tat = now + self.tolerance - slack
        # Not less than what is known: takes that Redis has not yet answered are in it.
        if tat > self._tat(client, now):
            self.fresh[client] = tat

    def standing(self, client: ClientId) -> tuple[float, float, int] | None:
        """(TAT, told to wait until, violations in a row) of a client in backoff; None of another."""
        record = self.records.get(client)
        if record is None or not record[1]:
            return None
        return self.fresh.get(client, self.aging.get(client, 0.0)), record[0], record[1]

    def forget_refusals(self) -> None:
        """Ask Redis again about everybody."""
        self.records.clear()

    def _tat(self, client: ClientId, now: float) -> float:
        tat = self.fresh.get(client)
        if tat is None:
            tat = self.adopt(client, now)
        return max(tat, now)
