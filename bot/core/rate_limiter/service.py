"""The rate limiter: limits per client, tiers, backoff for clients that retry too early."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bot.core._shared.errors import invalid
from bot.core._shared.validation import YEAR
from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.client_methods import ClientMethods
from bot.core.rate_limiter.models import (
    ClientId,
    LimitChoice,
    RateLimitStatus,
    plain_client,
)
from bot.core.rate_limiter.parts import Meter, Part, parts_of, summed
from bot.core.rate_limiter.table import check_acquired, label, no_limit
from bot.core.rate_limiter.waiting import longest_wait

_ONE = 1
"""The only 1 there is, so that True and 1.0 are found out without being compared."""

Check = tuple[ClientId, LimitChoice] | tuple[ClientId, LimitChoice, int]
"""Of whom, under which limit, and how many tokens, if not one."""


class RateLimiter(ClientMethods):
    """How much each client may do under each limit. While off, everything is allowed.

    ============= ========================= ===========================================
    method        when there is no token    use it
    ============= ========================= ===========================================
    is_allowed    (False, status)           in handlers
    is_allowed... the same, of all or none  for several limits at once: is_allowed_all
    check         seconds to wait           in hot or synchronous code
    acquire       waits its turn            in workers that must not fail
    slot          raises, or waits          around what takes long: a download
    ============= ========================= ===========================================

    A check neither awaits nor locks; tasks of one loop cannot take the same token twice. With a
    ``redis_url`` the buckets are those of all instances: a check then waits for Redis, except ``check``,
    which decides by what this instance knows (see SharedBuckets).
    """

    # Checks.

    async def is_allowed(
        self,
        client_id: ClientId,
        config: LimitChoice | None = None,
        tokens_required: int = 1,
        tier: str | None = None,
    ) -> tuple[bool, RateLimitStatus]:
        """Take ``tokens_required`` tokens of the client if they are there: (allowed, status).

        The limit is ``config``, or that of ``tier``, or the default one. A client that retries too early,
        again and again, waits longer (see Penalties and Backoff). A ``client_id`` of None is an unknown
        client: all such requests share one bucket.

        Raises TypeError for a client that is not an int, a str or None (True and 1.0 would be client 1),
        ValueError for fewer than 1 token or more than the burst size, and UnknownTierError for a tier that
        is not defined.
        """
        try:
            buckets = self._local.get(config)
        except TypeError:
            raise no_limit(config) from None
        if buckets is None or tier is not None or tokens_required is not _ONE:
            meters = self._meters(config, tier, tokens_required)
            if meters is None:
                return True, self._pass(config, tier)
            client_id = plain_client(client_id)
            if self._exemptions and self._is_exempt(client_id):
                return True, self._pass(config, tier)
            if not isinstance(meters, Buckets):
                return await self._joint.take(parts_of(meters, client_id, tokens_required))
            if self._shared is None:
                return self._alone.take_here(meters, client_id, tokens_required)
            return await self._limits.take(meters, client_id, tokens_required)
        # Buckets.take, in place and for one token: the call alone would be a sixth of the check.
        kind = client_id.__class__
        if kind is not int and kind is not str:
            client_id = plain_client(client_id)
        now = self._now()
        fresh = buckets.fresh
        tat = fresh.get(client_id)
        if tat is None:
            tat = buckets.adopt(client_id, now)
            fresh = buckets.fresh
        # What the client has is full, as nearly always, or is reckoned.
        if tat <= now:
            tat = now + buckets.interval
            slack = buckets.lead
        else:
            tat += buckets.interval
            slack = now + buckets.tolerance - tat
        if slack >= 0.0:
            fresh[client_id] = tat
            buckets.allowed += 1
            return True, RateLimitStatus((buckets, slack, 1, now))
        slack = buckets.refuse(client_id, now, 1, tat, slack)
        return slack >= 0.0, RateLimitStatus((buckets, slack, 1, now))

    def check(self, client_id: ClientId, config: LimitChoice | None = None) -> float:
        """Take one token if it is there: 0.0, or the seconds after which it will be.

        The cheapest form, callable from synchronous code. For a tier: :meth:`check_tier`. It cannot wait
        for Redis. For shared limits it decides by the last known state of the client's bucket, and takes
        the token from Redis in the background. If other instances took tokens since that state, the client
        is in debt and waits longer later.
        """
        try:
            buckets = self._local.get(config)
        except TypeError:
            raise no_limit(config) from None
        if buckets is None:
            return self._take_nowait(self._meters(config, None, 1), client_id)
        # Buckets.take, in place, as in is_allowed.
        kind = client_id.__class__
        if kind is not int and kind is not str:
            client_id = plain_client(client_id)
        now = self._now()
        fresh = buckets.fresh
        tat = fresh.get(client_id)
        if tat is None:
            tat = buckets.adopt(client_id, now)
            fresh = buckets.fresh
        # What the client has is full, as nearly always, or is reckoned.
        if tat <= now:
            tat = now + buckets.interval
            slack = buckets.lead
        else:
            tat += buckets.interval
            slack = now + buckets.tolerance - tat
        if slack >= 0.0:
            fresh[client_id] = tat
            buckets.allowed += 1
            return 0.0
        slack = buckets.refuse(client_id, now, 1, tat, slack)
        return 0.0 if slack >= 0.0 else -slack

    def check_tier(self, client_id: ClientId, tier: str) -> float:
        """:meth:`check` for the limit of a tier."""
        return self._take_nowait(self._meters(None, tier, 1), client_id)

    def _take_nowait(self, meters: Meter | tuple[Meter, ...] | None, client_id: ClientId) -> float:
        if meters is None:
            return 0.0
        client = plain_client(client_id)
        if self._exemptions and self._is_exempt(client):
            return 0.0
        if isinstance(meters, Buckets):
            return self._limits.take_nowait(meters, client)
        return self._joint.take_nowait(parts_of(meters, client, 1))

    async def is_allowed_all(self, checks: Iterable[Check]) -> tuple[bool, RateLimitStatus]:
        """Take from several limits, all or nothing: (allowed, status).

        ``checks`` are pairs of client and limit, or of these and the tokens; a limit is also the name of a
        tier or a text such as "10/second;100/hour". Of one client and limit that is named twice the tokens
        are summed. If any limit refuses, nothing is taken from any; only the limits that refuse count it,
        and their backoff alone. ``status`` is of the limit to wait for longest (``status.limited_by``), or of
        the one with the fewest tokens left. For shared limits all are asked in one round trip; in a Redis
        Cluster they must be of one client.

        Raises ValueError for no checks and for more tokens than a limit has, and as ``is_allowed``.
        """
        if checks.__class__ is not list and checks.__class__ is not tuple:
            checks = list(checks)
        local = self._local
        if local:
            # Each bucket in turn, as is_allowed does; if one refuses, those before it are undone.
            now = self._now()
            found: list[float] = []  # the TATs of before
            fewest = math.inf
            try:
                for client, limit in checks:  # type: ignore[misc]  # those of three raise ValueError
                    kind = client.__class__
                    if kind is not str and kind is not int:
                        break
                    buckets = local[limit]
                    fresh = buckets.fresh
                    before = fresh.get(client)
                    if before is None:
                        before = buckets.adopt(client, now)
                        fresh = buckets.fresh
                    if before <= now:
                        tat = now + buckets.interval
                        slack = buckets.lead
                    else:
                        tat = before + buckets.interval
                        slack = now + buckets.tolerance - tat
                        if slack < 0.0:
                            break
                    found.append(before)
                    fresh[client] = tat
                    buckets.allowed += 1
                    left = slack * buckets.rate
                    if left < fewest:
                        fewest, tightest, least = left, buckets, slack
                else:
                    if found:
                        return True, RateLimitStatus((tightest, least, 1, now))
            except (TypeError, ValueError, KeyError):
                pass  # another limit than a bucket in use, or what _take_all refuses
            while found:
                client, limit, *_ = checks[len(found) - 1]
                local[limit].put_back(client, found.pop())
        return await self._take_all(checks)

    async def _take_all(self, checks: Iterable[Check]) -> tuple[bool, RateLimitStatus]:
        parts: list[Part] = []
        first: LimitChoice | None = None
        given = 0
        for given, check in enumerate(checks, 1):
            if not isinstance(check, tuple | list) or not 2 <= len(check) <= 3:
                raise invalid("check", check, "(client, limit) or (client, limit, tokens)")
            client, limit, tokens = check if len(check) == 3 else (*check, 1)
            client = plain_client(client)
            if given == 1:
                first = limit
            if self._enabled:
                meters = self._table.find_named(limit, tokens)
                if not self._exemptions or not self._exemptions.covers(client):
                    parts += parts_of(meters, client, tokens)
        if not given:
            raise invalid("checks", checks, "at least one (client, limit)")
        if not parts:
            if self._enabled:
                self._exemptions.passed += 1
            else:
                self._used_while_off()
            return True, self._pass(first, None)
        return await self._joint.take(summed(parts))

    async def allow_batch(
        self,
        client_id: ClientId,
        batch_size: int,
        config: LimitChoice | None = None,
        tier: str | None = None,
    ) -> tuple[bool, RateLimitStatus]:
        """``is_allowed`` for ``batch_size`` requests at once: all of them or none."""
        return await self.is_allowed(client_id, config, batch_size, tier)

    async def acquire(
        self,
        client_id: ClientId,
        config: LimitChoice | None = None,
        tokens_required: int = 1,
        tier: str | None = None,
        timeout: float | None = None,
    ) -> RateLimitStatus:
        """Wait until the tokens are there and take them; first come, first served.

        The tokens are reserved in advance, so no waiter is overtaken. A cancelled wait gives them back, and
        later waiters get them. If it would take longer than ``timeout`` seconds, RateLimitExceeded is
        raised at once and nothing is taken. A negative ``timeout`` (a deadline that has just passed) counts
        as 0. Waiting here never counts as retrying too early.

        ``tokens_required`` may be more than the burst size of a RateLimitConfig or a ByteLimit: such a call
        waits until all but a burst of them have been refilled, and others of the client wait behind it. A
        wait of more than a year is refused.
        """
        meters = self._meters(config, tier, 1)
        if meters is None:
            return self._pass(config, tier)
        if tokens_required is not _ONE:
            check_acquired(tokens_required, meters)
        client = plain_client(client_id)
        if self._exemptions and self._is_exempt(client):
            return self._pass(config, tier)
        max_wait = YEAR if timeout is None else min(longest_wait(timeout), YEAR)
        if isinstance(meters, Buckets):
            name = label(meters.config, tier)
            return await self._limits.acquire(meters, client, tokens_required, max_wait, name)
        parts = parts_of(meters, client, tokens_required)
        name = label(parts[0].meter.config, tier)
        return await self._joint.acquire(parts, max_wait, name)
