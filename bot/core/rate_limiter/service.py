"""The rate limiter: token buckets per client and limit, tiers, backoff for clients that retry too early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.errors import invalid, shown
from bot.core._shared.histogram import HistogramSnapshot
from bot.core.phase4_config.rate_limiter import RateLimiterSettings
from bot.core.phase4_service import Phase4Service
from bot.core.phase4_statistics.rate_limiter import RateLimiterFigures
from bot.core.phase4_statistics.states import WITHOUT_REDIS
from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.local import Limits, LocalBuckets
from bot.core.rate_limiter.models import (
    ClientId,
    RateLimitConfig,
    RateLimitStatus,
    plain_client,
)
from bot.core.rate_limiter.stats import snapshot
from bot.core.rate_limiter.table import MANY_LIMITS, LimitTable, label, no_limit, valid_tier

if TYPE_CHECKING:
    from bot.core.rate_limiter.shared import SharedBuckets

_ONE = 1
"""The only 1 there is, so that True and 1.0 are found out without being compared."""

OTHERS = "other limits"


class RateLimiter(Phase4Service):
    """How much each client may do under each limit. While off, everything is allowed.

    ============= ========================= ===========================================
    method        when there is no token    use it
    ============= ========================= ===========================================
    is_allowed    (False, status)           in handlers
    check         seconds to wait           in hot or synchronous code
    acquire       waits its turn            in workers that must not fail
    ============= ========================= ===========================================

    A check neither awaits nor locks; tasks of one loop cannot take the same token twice. With a
    ``redis_url`` the buckets are those of all instances: a check then waits for Redis, except ``check``,
    which decides by what this instance knows (see SharedBuckets).
    """

    service_name: ClassVar[str] = "rate_limiter"
    flag: ClassVar[str] = "ENABLE_RATE_LIMITER"
    while_off: ClassVar[str] = "everything is allowed"

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._clock = clock
        self._now = clock.monotonic
        self._settings = RateLimiterSettings()
        self._table = LimitTable(clock)
        # The table's by_config while on and not shared, else empty: the one look-up of a check then
        # also tells whether the limiter is on and may decide by itself. Changed by enable and disable.
        self._local: dict[RateLimitConfig | None, Buckets] = {}
        # What takes tokens: _shared if there is one, else _alone. Changed by _share.
        self._alone = LocalBuckets(clock, self._table.all)
        self._shared: SharedBuckets | None = None
        # What statuses of a limiter that is off refer to.
        self._off = self._table.new_buckets(self._table.default)

    @property
    def shared(self) -> bool:
        """Whether the limits are those of all instances, kept in Redis."""
        return self._shared is not None

    @property
    def _limits(self) -> Limits[Any]:
        """What takes tokens. The buckets that it is given are those of ``_buckets``, of its own kind."""
        return self._alone if self._shared is None else self._shared

    # Lifecycle.

    async def enable(
        self,
        default_limit: RateLimitConfig | None = None,
        tiers: Mapping[str, RateLimitConfig] | None = None,
        *,
        backoff: bool | None = None,
        backoff_base: float | None = None,
        backoff_max: float | None = None,
        backoff_grace: float | None = None,
        redis_url: str | None = None,
    ) -> bool:
        """Switch on, or reconfigure; None leaves what was set before (at first: 10 rps, burst 50).

        ``tiers`` replaces all tiers. ``backoff`` says whether clients that retry too early wait longer, and
        the ``backoff_...`` arguments how long, in seconds, as in Backoff. They apply to limits without
        their own backoff. A limit whose values did not change keeps its clients' buckets.

        ``redis_url`` names the Redis that holds the buckets of all instances (``redis+cluster://`` for a
        cluster); "": each instance has its own. Redis may be unreachable at this time. Raises ValueError
        for values out of bounds.
        """
        if default_limit is not None and not isinstance(default_limit, RateLimitConfig):
            raise TypeError(f"default_limit = {default_limit!r}: expected a RateLimitConfig")
        for tier, config in (tiers or {}).items():
            valid_tier(tier, config)
        async with self._transition:
            settings = self._settings.changed(
                backoff=backoff,
                backoff_base=backoff_base,
                backoff_max=backoff_max,
                backoff_grace=backoff_grace,
                redis_url=redis_url,
            )
            before = self._share(settings.redis_url)
            self._settings = settings
            self._table.open(settings, default_limit, tiers, shared=self._shared is not None)
            self._local = {} if self._shared is not None else self._table.by_config
            self._switched_on()
            if self._shared is not None:
                self._shared.start()
            await _stop(before)
        return True

    async def disable(self) -> bool:
        """Switch off: every check passes, every bucket is dropped; tiers stay defined.

        Buckets in Redis stay, because other instances use them; they expire when they are full.
        """
        async with self._transition:
            self._enabled = False
            before = self._share("")
            self._local = {}
            self._table.close()
            await _stop(before)
        return True

    def warnings(self) -> list[str]:
        """Problems of the Redis for shared limits."""
        shared = self._shared
        return [] if shared is None else shared.link.warnings(WITHOUT_REDIS[self.service_name])

    async def find_warnings(self) -> list[str]:
        if self._shared is not None:
            await self._shared.link.probe()  # enable does not wait for Redis
        return self.warnings()

    def _share(self, redis_url: str) -> SharedBuckets | None:
        """Let the buckets be those of the Redis at ``redis_url``, of this process alone if it is "".

        Returns what is then to be stopped. Raises ValueError, and changes nothing, for a bad address.
        """
        before = self._shared
        if redis_url == (before.link.url if before is not None else ""):
            return None
        if redis_url:
            from bot.core.rate_limiter.shared import SharedBuckets
            from bot.core.redis_link import RedisLink

            self._shared = SharedBuckets(RedisLink.shared(redis_url), self._clock, self._table.mirrors)
        else:
            self._shared = None
        # The earlier buckets do not know the state in this Redis: start with new ones.
        self._local = {}
        self._table.close()
        return before

    # Checks.

    async def is_allowed(
        self,
        client_id: ClientId,
        config: RateLimitConfig | None = None,
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
            buckets = self._buckets(config, tier, tokens_required)
            if buckets is None:
                return True, self._pass(config, tier)
            client_id = plain_client(client_id)
            if self._shared is None:
                return self._alone.take_here(buckets, client_id, tokens_required)
            return await self._limits.take(buckets, client_id, tokens_required)
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

    def check(self, client_id: ClientId, config: RateLimitConfig | None = None) -> float:
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
            buckets = self._buckets(config, None, 1)
            if buckets is None:
                return 0.0
            return self._limits.take_nowait(buckets, plain_client(client_id))
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
        buckets = self._buckets(None, tier, 1)
        return 0.0 if buckets is None else self._limits.take_nowait(buckets, plain_client(client_id))

    async def allow_batch(
        self,
        client_id: ClientId,
        batch_size: int,
        config: RateLimitConfig | None = None,
        tier: str | None = None,
    ) -> tuple[bool, RateLimitStatus]:
        """``is_allowed`` for ``batch_size`` requests at once: all of them or none."""
        return await self.is_allowed(client_id, config, batch_size, tier)

    async def acquire(
        self,
        client_id: ClientId,
        config: RateLimitConfig | None = None,
        tokens_required: int = 1,
        tier: str | None = None,
        timeout: float | None = None,
    ) -> RateLimitStatus:
        """Wait until the tokens are there and take them; first come, first served.

        The tokens are reserved in advance, so no waiter is overtaken. A cancelled wait gives them back, and
        later waiters get them. If it would take longer than ``timeout`` seconds, RateLimitExceeded is
        raised at once and nothing is taken. A negative ``timeout`` (a deadline that has just passed) counts
        as 0. Waiting here never counts as retrying too early.
        """
        buckets = self._buckets(config, tier, tokens_required)
        if buckets is None:
            return self._pass(config, tier)
        max_wait = math.inf if timeout is None else _max_wait(timeout)
        return await self._limits.acquire(
            buckets, plain_client(client_id), tokens_required, max_wait, label(buckets.config, tier)
        )

    # Tiers and clients.

    @property
    def default_config(self) -> RateLimitConfig:
        """The limit of checks that name none. A new one takes effect at once, with full buckets."""
        return self._table.default

    @default_config.setter
    def default_config(self, config: RateLimitConfig) -> None:
        if not isinstance(config, RateLimitConfig):
            raise TypeError(f"default_config = {shown(config)}: expected a RateLimitConfig")
        self._table.set_default(config)

    def set_tier_limit(self, tier: str, config: RateLimitConfig) -> bool:
        """Define or change a tier: True. Changed values start the tier's clients with full buckets."""
        valid_tier(tier, config)
        self._table.set_tier(tier, config)
        return True

    def get_tier_limit(self, tier: str) -> RateLimitConfig:
        """The limit of a tier; raises UnknownTierError."""
        return self._table.tier(tier)

    async def get_client_status(
        self, client_id: ClientId, config: RateLimitConfig | None = None, tier: str | None = None
    ) -> RateLimitStatus:
        """What the client has left under a limit; takes nothing.

        ``allowed`` tells whether one token is there, ``retry_after`` how long until it is.
        """
        buckets = self._buckets(config, tier, 1)
        if buckets is None:
            return self._pass(config, tier)
        slack, degraded = await self._limits.peek(buckets, plain_client(client_id))
        now = self._now()
        alone = (True,) if degraded else ()
        if slack < buckets.interval - buckets.epsilon:
            return RateLimitStatus((buckets, slack - buckets.interval, 1, now, *alone))
        return RateLimitStatus((buckets, slack, 0, now, *alone))

    async def reset_client(self, client_id: ClientId, limit: RateLimitConfig | str | None = None) -> bool:
        """Forgive a client: full buckets, no backoff. False if it had both already.

        For every limit, or only for ``limit``, which is a config or the name of a tier. 5 and "5" are two
        clients. If limits are shared, the client is reset in every instance, within milliseconds, or once
        Redis is back if it is unreachable. Raises TypeError for an invalid client or limit, and
        UnknownTierError.
        """
        client = plain_client(client_id)
        limits = None
        if limit is not None:
            limits = self._table.of_limit(limit) if self._enabled else []
        return await self._limits.reset_client(client, limits)

    # Figures.

    def snapshot(self) -> RateLimiterFigures:
        """Counts since the start or the last reset; ``block_rate`` is percent of requests refused.

        ``active_clients`` counts the buckets in memory: those that are not full, and some that became full
        lately.
        """
        table, shared = self._table, self._shared
        limits, tiers, dropped = table.labelled(), len(table.tiers), table.dropped
        return snapshot(limits, tiers, MANY_LIMITS, OTHERS, dropped, shared, enabled=self._enabled)

    async def get_status(self) -> dict[str, Any]:
        """The same as :meth:`get_statistics`."""
        return await self.get_statistics()

    def histograms(self) -> list[HistogramSnapshot]:
        """How long checks waited for Redis; empty if limits are not shared."""
        if self._shared is None:
            return []
        return [
            self._shared.seconds.snapshot(
                "rate_limiter_shared_check_seconds", "Time that checks of shared limits waited for Redis"
            )
        ]

    async def reset_statistics(self) -> None:
        """Counters to zero; no client gains or loses a token."""
        self._table.reset_counts()
        if self._shared is not None:
            self._shared.reset_statistics()

    def _buckets(self, config: RateLimitConfig | None, tier: str | None, tokens: int) -> Buckets | None:
        """The buckets to take ``tokens`` from; None while the limiter is off. Raises for misuse."""
        if not self._enabled:
            self._used_while_off()
            return None
        return self._table.find(config, tier, tokens)

    def _pass(self, config: RateLimitConfig | None, tier: str | None) -> RateLimitStatus:
        """The status of a limiter that is off: allowed, nothing taken."""
        limit = config or self._table.tiers.get(tier or "", self._table.default)
        off = self._off
        if off.config is not limit:
            self._off = off = self._table.new_buckets(limit)
        return RateLimitStatus((off, off.tolerance, 0, self._now()))


async def _stop(shared: SharedBuckets | None) -> None:
    if shared is not None:
        try:
            await shared.stop()
        finally:
            await shared.link.release()


def _max_wait(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout != timeout:
        raise invalid("timeout", timeout, "a number of seconds, or None")
    return max(0.0, timeout)
