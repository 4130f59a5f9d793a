"""What this instance knows of buckets that are kept in Redis (pure)."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Collection

from bot.core._shared.clock import Clock
from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.models import EARLY, Backoff, ClientId, Limit, RateLimitConfig
from bot.core.rate_limiter.penalty import COUNT, EARLY_FROM, UNTIL, Penalties

# As bucket.lua has them.
TAKE, PEEK, RESERVE, REFUND, PENALTY, RESET, RESET_LIMIT, CREDIT, CHARGE, JOINT = range(10)
WINDOW = 16
QUIET, LOOK = 1.0, 2.0
MARK = -4e18
CHECK = struct.Struct("<8sBddddddd")

FORGIVEN_SECONDS = 5.0
"""For which Redis takes no penalty of a client that was forgiven: those of before may be on their way."""

RESET_ARGUMENT = CHECK.pack(b"p4reset!", RESET, 0.0, 0.0, 0.0, 0.0, FORGIVEN_SECONDS, 0.0, 0.0)
"""Forgive a client everything."""

NEVER = 1e8
"""Seconds to go from which bucket.lua means that it is past for ever, or never comes."""

MAX_PLAIN = 64
"""Bytes of a client's name that stand in a key as they are; a longer one is hashed."""


def client_key(client: ClientId, root: bytes = b"") -> bytes:
    """The Redis key of a client; ``root`` is that of the link. No two clients share one, whatever is in their
    names."""
    if client is None:
        return root + b"p4r:e:"
    if isinstance(client, int):
        if -(2**63) <= client < 2**63:
            return root + b"p4r:i:%d" % client
        return root + b"p4r:j:" + _digest(b"%x" % client)
    if not isinstance(client, str):
        raise TypeError(f"client_id = {client!r}: expected an int or a str")
    name = client.encode("utf-8", "surrogatepass")
    # Braces would let users choose their slot in a cluster, and crowd one node.
    if len(name) <= MAX_PLAIN and b"{" not in name and b"}" not in name:
        return root + b"p4r:s:" + name
    return root + b"p4r:h:" + _digest(name)


def client_of_key(key: bytes, root: bytes, clients: Collection[ClientId]) -> list[ClientId]:
    """The client of a key, if it is among these."""
    kind, name = key[len(root) :][:6], key[len(root) + 6 :]
    try:
        if kind == b"p4r:i:":
            found: ClientId = int(name)
        elif kind == b"p4r:s:":
            found = name.decode("utf-8", "surrogatepass")
        elif kind == b"p4r:e:":
            found = None
        else:  # a digest
            return [client for client in clients if client_key(client, root) == key]
    except ValueError:
        return []
    return [found] if found in clients else []


def slot_key(limit_id: bytes, client: ClientId, root: bytes = b"") -> bytes:
    """The Redis key of a client's slots under one limit; slots.lua derives three more from it.

    The braces keep all of them on one node of a cluster.
    """
    return root + b"p4r:c:{" + limit_id + b":" + client_key(client) + b"}"


def slot_channel(instance: bytes, root: str = "") -> str:
    """The channel on which an instance hears of the slots that slots.lua gave it."""
    return f"{root}p4r:c:{instance.decode()}"


def _digest(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=16).hexdigest().encode()


class Mirror(Buckets):
    """One limit's buckets as Redis last told of them, and as they would be if it had not been asked since.

    It answers three things: which refusal is still in force, so that its client costs no round trip;
    what a check would be while Redis is away; and a check that cannot wait for Redis. It never holds
    more tokens for a client than Redis does, but for what other instances took since.
    """

    __slots__ = ("arguments", "limit_id", "margin", "reserved_alone")

    def __init__(
        self, config: RateLimitConfig, penalties: Penalties, clock: Clock, kind: str, name: str
    ) -> None:
        super().__init__(config, penalties, clock)
        values = config.requests_per_second, config.burst_size
        self.limit_id = limit_id(kind, name, *values, *own_backoff(config))
        # At least the two microseconds that Redis's own clock is read to.
        self.margin = max(2e-6, self.epsilon)
        # Packed takes by tokens, since nearly all are alike. Emptied when the backoff changes.
        self.arguments: dict[int, bytes] = {}
        self.reserved_alone = 0
        """Reservations while Redis was away, for their order."""

    def argument(self, mode: int, tokens: int, a: float = 0.0, b: float = 0.0, c: float = 0.0) -> bytes:
        """One argument of bucket.lua; what the numbers are depends on the mode."""
        return CHECK.pack(
            self.limit_id, mode, self.interval, self.tolerance, self.margin, float(tokens), a, b, c
        )

    def reset_argument(self) -> bytes:
        """Forgive a client what it did under this limit."""
        return self.argument(RESET_LIMIT, 0, FORGIVEN_SECONDS)

    def take_argument(self, tokens: int, client: ClientId = "") -> bytes:
        """The argument of a take."""
        if client is None:
            return self.argument(TAKE, tokens)  # an unknown client has no backoff
        found = self.arguments.get(tokens)
        if found is None:
            if len(self.arguments) >= 64:
                self.arguments.clear()
            penalties = self.penalties
            found = self.argument(TAKE, tokens, penalties.base, penalties.cap, penalties.grace)
            self.arguments[tokens] = found
        return found

    def penalty_argument(self, client: ClientId, now: float, offset: float) -> bytes | None:
        """Let Redis know of an early client; None if there is nothing to know. ``offset`` is Redis's time
        less ours."""
        record = self.records.get(client)
        if record is None or (not record[COUNT] and record[EARLY_FROM] != -math.inf):
            return None
        until, count, early, step = record
        # A thousandth less than was said, as in bucket.lua.
        until -= max(0.0, until - now) * 0.001
        tat = self.fresh.get(client, self.aging.get(client, 0.0))
        far = 1e18
        return CHECK.pack(
            self.limit_id, PENALTY,
            far if step == math.inf else step + offset, self.tolerance, self.penalties.memory,
            -far if early == -math.inf else early + offset,
            tat + offset, until + offset, float(count),
        )  # fmt: skip

    def refused(self, client: ClientId, now: float, tokens: int) -> float:
        """The negative slack of a check that a remembered refusal answers; 0.0 if Redis must be asked.

        Being asked before its ``retry_after`` has passed, it counts as it would in Redis.
        """
        record = self.records.get(client)
        if record is None or now >= record[UNTIL] - EARLY:
            return 0.0
        tat = self._tat(client, now) + tokens * self.interval
        slack = now + self.tolerance - tat
        if slack >= -EARLY:
            return 0.0  # it was refused more tokens than these
        return self.refuse(client, now, tokens, tat, slack)

    def heard_of_take(
        self, client: ClientId, now: float, tokens: int, slack: float, count: float, early: float, step: float
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
        self.records[client] = [
            now - slack,
            int(min(max(count, 0.0), self.penalties.last_step)),
            -math.inf if early < -NEVER else now + early,
            math.inf if step > NEVER else now + step,
        ]
        return slack

    def heard_of_bucket(self, client: ClientId, now: float, slack: float) -> None:
        """Redis has no more for the client than ``slack`` seconds' worth of tokens."""
        tat = now + self.tolerance - slack
        # Not less than what is known: takes that Redis has not yet answered are in it.
        if tat > self._tat(client, now):
            self.fresh[client] = tat

    def early(self, client: ClientId) -> bool:
        """Whether a client did not wait, of which Redis is to know."""
        record = self.records[client]
        return record[COUNT] > 0 or record[EARLY_FROM] == -math.inf

    def forget_refusal(self, client: ClientId) -> None:
        """Ask Redis again about a client."""
        self.records.pop(client, None)

    def forget_refusals(self) -> None:
        """Ask Redis again about everybody."""
        self.records.clear()

    def _tat(self, client: ClientId, now: float) -> float:
        tat = self.fresh.get(client)
        if tat is None:
            tat = self.adopt(client, now)
        return max(tat, now)


def limit_id(*identity: object) -> bytes:
    """What a limit is called in Redis: the same in every instance."""
    text = repr(identity).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).digest()


def own_backoff(config: Limit) -> tuple[object, ...]:
    """What a backoff of its own adds to a limit's identity; nothing for the default one."""
    backoff = config.backoff
    if isinstance(backoff, Backoff):
        return backoff.base, backoff.max, backoff.grace
    return () if backoff is not None else (None,)
