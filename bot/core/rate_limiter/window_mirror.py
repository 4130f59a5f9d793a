"""What this instance knows of windows that are kept in Redis (pure)."""

from __future__ import annotations

import math

from bot.core._shared.clock import Clock
from bot.core.rate_limiter.mirror import (
    CHECK,
    FORGIVEN_SECONDS,
    NEVER,
    PENALTY,
    RESET_LIMIT,
    TAKE,
    WINDOW,
    limit_id,
    own_backoff,
)
from bot.core.rate_limiter.models import EARLY, ClientId, WindowLimit
from bot.core.rate_limiter.penalty import COUNT, EARLY_FROM, UNTIL, Penalties
from bot.core.rate_limiter.windows import Windows


class WindowMirror(Windows):
    """One limit's windows as Redis last told of them, and as they would be if it had not been asked since.

    As :class:`Mirror` of buckets: it answers which refusal is still in force, what a check would be while
    Redis is away, and a check that cannot wait for Redis. It never has more room for a client than Redis has,
    but for what other instances took since.
    """

    __slots__ = ("asked", "limit_id")

    def __init__(self, config: WindowLimit, penalties: Penalties, clock: Clock, kind: str, name: str) -> None:
        super().__init__(config, penalties, clock)
        self.limit_id = limit_id(
            "window", kind, name, config.max_requests, config.window, *own_backoff(config)
        )
        # The tokens that a client was refused whose wait is in records.
        self.asked: dict[ClientId, int] = {}

    def argument(self, mode: int, tokens: int, a: float = 0.0, b: float = 0.0, c: float = 0.0) -> bytes:
        """One argument of bucket.lua; what the numbers are depends on the mode."""
        return CHECK.pack(
            self.limit_id, mode + WINDOW, self.window, float(self.most), 0.0, float(tokens), a, b, c
        )

    def reset_argument(self) -> bytes:
        """Forgive a client what it did under this limit."""
        return self.argument(RESET_LIMIT, 0, FORGIVEN_SECONDS)

    def take_argument(self, tokens: int, client: ClientId = "") -> bytes:
        """The argument of a take."""
        if client is None:
            return self.argument(TAKE, tokens)  # an unknown client has no backoff
        penalties = self.penalties
        return self.argument(TAKE, tokens, penalties.base, penalties.cap, penalties.grace)

    def penalty_argument(self, client: ClientId, now: float, offset: float) -> bytes | None:
        """Let Redis know of an early client; None if there is nothing to know. ``offset`` is Redis's time
        less ours."""
        record = self.records.get(client)
        if record is None or (not record[COUNT] and record[EARLY_FROM] != -math.inf):
            return None
        until, count, early, step = record
        # A thousandth less than was said, as in bucket.lua.
        until -= max(0.0, until - now) * 0.001
        far = 1e18
        return CHECK.pack(
            self.limit_id, PENALTY + WINDOW,
            far if step == math.inf else step + offset, float(self.most), self.penalties.memory,
            -far if early == -math.inf else early + offset,
            self.held.get(client, 0.0) + offset, until + offset, float(count),
        )  # fmt: skip

    def refused(self, client: ClientId, now: float, tokens: int) -> float:
        """The negative slack of a check that a remembered refusal answers; 0.0 if Redis must be asked.

        Being asked before its ``retry_after`` has passed, it counts as it would in Redis.
        """
        record = self.records.get(client)
        if record is None or now >= record[UNTIL] - EARLY:
            return 0.0
        if tokens < self.asked.get(client, 1) and self.held.get(client, now) <= now:
            return 0.0  # it was refused more tokens than these
        return self.refuse(client, now, record[UNTIL] - now - EARLY, tokens)

    def refuse(self, client: ClientId, now: float, wait: float, tokens: int = 1) -> float:
        slack = super().refuse(client, now, wait)
        if self.records[client][UNTIL] >= now - slack:
            self.asked[client] = tokens
        return slack

    def credit(self, client: ClientId, now: float, tokens: int) -> bool:
        found = super().credit(client, now, tokens)
        self.forget_refusal(client)
        return found

    def heard_of_take(
        self,
        client: ClientId,
        now: float,
        tokens: int,
        slack: float,
        count: float,
        early: float,
        step: float,
        used: float,
    ) -> float:
        """Keep what Redis answered; returns the slack, within what is possible."""
        if slack >= 0.0:
            self.allowed += 1
            self.heard_of_use(client, now, used)
            return 0.0
        self.blocked += 1
        if client not in self.fresh:
            self.adopt(client, now)
        self.heard_of_use(client, now, used)
        count = int(min(max(count, 0.0), self.penalties.last_step))
        self.records[client] = [
            now - slack,
            count,
            -math.inf if early < -NEVER else now + early,
            math.inf if step > NEVER else now + step,
        ]
        self.asked[client] = tokens
        return slack

    def heard_of_use(self, client: ClientId, now: float, used: float) -> None:
        """So many tokens count in Redis. When they were taken is not known: at the latest now."""
        missing = int(min(max(used, 0.0), self.most)) - self.used(client, now)
        if missing > 0:
            times = self.times(client)
            self.add(client, max(now, times[-1]) if times else now, missing)

    def early(self, client: ClientId) -> bool:
        """Whether a client did not wait, of which Redis is to know."""
        record = self.records[client]
        return record[COUNT] > 0 or record[EARLY_FROM] == -math.inf

    def forget_refusal(self, client: ClientId) -> None:
        """Ask Redis again about a client."""
        self.records.pop(client, None)
        self.asked.pop(client, None)
        self.held.pop(client, None)

    def forget_refusals(self) -> None:
        """Ask Redis again about everybody."""
        self.records.clear()
        self.asked.clear()
        self.held.clear()

    def _drop(self, client: ClientId) -> None:
        super()._drop(client)
        self.asked.pop(client, None)
