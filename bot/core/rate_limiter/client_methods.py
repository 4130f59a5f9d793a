"""Tiers and clients of the rate limiter: what is set, looked up and changed, rather than checked."""

from __future__ import annotations

from bot.core._shared.errors import shown
from bot.core._shared.validation import valid_count
from bot.core.phase4_config.rate_limiter import MAX_BURST
from bot.core.rate_limiter.base import LimiterBase
from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.models import (
    ClientId,
    LimitChoice,
    Limits,
    RateLimitConfig,
    RateLimitStatus,
    plain_client,
)
from bot.core.rate_limiter.parts import Part, parts_of, tightest
from bot.core.rate_limiter.table import valid_tier


class ClientMethods(LimiterBase):
    """Tiers, and what single clients are given, owe and are forgiven."""

    @property
    def default_config(self) -> RateLimitConfig:
        """The limit of checks that name none. A new one takes effect at once, with full buckets."""
        return self._table.default

    @default_config.setter
    def default_config(self, config: RateLimitConfig) -> None:
        if not isinstance(config, RateLimitConfig):
            raise TypeError(f"default_config = {shown(config)}: expected a RateLimitConfig")
        self._table.set_default(config)

    def set_tier_limit(self, tier: str, config: LimitChoice) -> bool:
        """Define or change a tier: True. Changed values start the tier's clients anew.

        ``config`` is a limit, several in a tuple, or a text such as "10/second;100/hour".
        """
        self._table.set_tier(tier, valid_tier(tier, config))
        return True

    def get_tier_limit(self, tier: str) -> Limits:
        """The limit of a tier, or its limits; raises UnknownTierError."""
        return self._table.tier(tier)

    async def get_client_status(
        self, client_id: ClientId, config: LimitChoice | None = None, tier: str | None = None
    ) -> RateLimitStatus:
        """What the client has left under a limit; takes nothing.

        ``allowed`` tells whether one token is there, ``retry_after`` how long until it is.
        """
        meters = self._meters(config, tier, 1)
        if meters is None:
            return self._pass(config, tier)
        client = plain_client(client_id)
        if not isinstance(meters, Buckets):
            return await self._joint.peek(parts_of(meters, client, 1))
        slack, degraded = await self._limits.peek(meters, client)
        now = self._now()
        alone = (True,) if degraded else ()
        if slack < meters.interval - meters.epsilon:
            return RateLimitStatus((meters, slack - meters.interval, 1, now, *alone))
        return RateLimitStatus((meters, slack, 0, now, *alone))

    async def reset_client(self, client_id: ClientId, limit: LimitChoice | None = None) -> bool:
        """Forgive a client: full buckets, no backoff. False if it had both already.

        For every limit, or only for ``limit``: a limit, the name of a tier, or a text. 5 and "5" are two
        clients. If limits are shared, the client is reset in every instance, within milliseconds, or once
        Redis is back if it is unreachable. Raises TypeError for an invalid client or limit, and
        UnknownTierError.
        """
        client = plain_client(client_id)
        limits = None
        if limit is not None:
            limits = self._table.of_limit(limit) if self._enabled else []
        found = await self._limits.reset_client(client, limits)
        self._joint.wake(client, limits)
        return found

    async def refund(self, client_id: ClientId, limit: LimitChoice | None = None, tokens: int = 1) -> bool:
        """Give back tokens of requests that did not happen; whether any was given back.

        Never more than makes the bucket full, or the window empty; nothing to a client in backoff. Of an
        exact window the oldest requests that count are forgotten, so those that did happen still count as
        long as they must. ``limit`` is as in ``reset_client``, None the default one. While the limiter is
        off, and for a client that is exempt: False. While Redis is away, only this instance hears of it.
        """
        tokens = valid_count("tokens", tokens, 1, MAX_BURST)
        found = False
        for part in self._parts_to_change(client_id, limit, tokens):
            if not await self._joint.refund(part):
                continue
            found = True
            if isinstance(part.meter, Buckets):
                self._limits.move_up(part.meter, part.client, part.tokens)
            self._joint.wake(part.client, [part.meter])
        return found

    async def charge(
        self, client_id: ClientId, limit: LimitChoice | None = None, tokens: int = 1
    ) -> RateLimitStatus:
        """Take tokens whose number is known only afterwards, whether they are there or not.

        The client owes what is not there, and its next requests wait for that. It owes ten bursts at most (of
        an exact window: ten times ``max_requests``): more is forgotten. Returns what the client has left.
        ``limit`` is as in ``reset_client``, None the default one. While Redis is away, only this instance
        hears of it.
        """
        tokens = valid_count("tokens", tokens, 1, MAX_BURST)
        parts = self._parts_to_change(client_id, limit, tokens)
        if not parts:
            return self._pass(limit, None)
        return tightest([await self._joint.charge(part) for part in parts])

    def _parts_to_change(
        self, client_id: ClientId, limit: LimitChoice | None, tokens: int
    ) -> tuple[Part, ...]:
        client = plain_client(client_id)
        if not self._enabled:
            self._used_while_off()
            return ()
        meters = self._table.find_named(limit, 1)
        if self._exemptions and self._exemptions.covers(client):
            return ()
        return parts_of(meters, client, tokens)

    def exempt(self, client_id: ClientId) -> bool:
        """Never limit this client, under no limit, from now on; False if it was exempt already.

        It is so in this process only, until :meth:`unexempt`. Clients of the setting
        ``RATE_LIMIT_EXEMPT_CLIENTS`` are exempt in all.
        """
        changed = self._exemptions.add(plain_client(client_id))
        self._aim()
        return changed

    def unexempt(self, client_id: ClientId) -> bool:
        """Limit this client from now on; False if it was limited.

        A function of ``enable`` that says otherwise still counts.
        """
        changed = self._exemptions.remove(plain_client(client_id))
        self._aim()
        return changed

    def is_exempt(self, client_id: ClientId) -> bool:
        """Whether a client is never limited."""
        client = plain_client(client_id)
        return bool(self._exemptions) and self._exemptions.covers(client)
