"""The rate limiter: token buckets per client and limit, tiers, backoff for clients that retry too early."""

from __future__ import annotations

import math
from collections import deque
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
from bot.core.rate_limiter.errors import UnknownTierError
from bot.core.rate_limiter.local import Limits, LocalBuckets
from bot.core.rate_limiter.mirror import Mirror
from bot.core.rate_limiter.models import (
    Backoff,
    ClientId,
    RateLimitConfig,
    RateLimitStatus,
    exact,
    plain_client,
)
from bot.core.rate_limiter.penalty import Penalties
from bot.core.rate_limiter.stats import snapshot

if TYPE_CHECKING:
    from bot.core.rate_limiter.shared import SharedBuckets

MANY_LIMITS = 256
"""Distinct limits from which those with no live bucket are dropped as others come, and beyond which
the statistics tell only of all the others together."""

_ONE = 1
"""The only 1 there is, so that True and 1.0 are found out without being compared."""

LOOKED_AT = 64
"""Clients of a limit that are looked at, at most, to see whether it can be dropped."""

OTHERS = "other limits"


class RateLimiter(Phase4Service):
    """Who may do how much, per client and limit. While off, everything is allowed.

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

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._clock = clock
        self._now = clock.monotonic
        self._default_limit = RateLimitConfig()
        self._settings = RateLimiterSettings()
        self._tier_limits: dict[str, RateLimitConfig] = {}
        # Buckets by limit; None stands for the default one. Changed by enable, disable and _buckets.
        self._by_config: dict[RateLimitConfig | None, Buckets] = {}
        self._by_tier: dict[str, Buckets] = {}
        # The configs of _by_config in the order in which they are looked at, and what was counted for
        # those that were dropped: [allowed, blocked]. Changed by _buckets, _drop_idle_limits and resets.
        self._in_turn: deque[RateLimitConfig] = deque()
        self._dropped = [0, 0]
        # The same as _by_config while on and not shared, else empty: the one look-up of a check then
        # also tells whether the limiter is on and may decide by itself. Changed by enable and disable.
        self._local = self._by_config
        # What takes tokens: _shared if there is one, else _alone. Changed by _share.
        self._alone = LocalBuckets(clock, self._all_buckets)
        self._shared: SharedBuckets | None = None
        # What statuses of a limiter that is off refer to.
        self._off = Buckets(self._default_limit, Penalties(0.0, 0.0), clock)

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

        ``tiers`` replaces all tiers. ``backoff`` says whether clients that come back too early wait longer,
        and the ``backoff_...`` how long, in seconds, as in Backoff; for limits that have no backoff of their
        own. A limit whose values did not change keeps its clients' buckets.

        ``redis_url`` names the Redis that holds the
        buckets of all instances (``redis+cluster://`` for a cluster); "": each has its own. Redis need
        not be there. Raises ValueError for values out of bounds.
        """
        if default_limit is not None and not isinstance(default_limit, RateLimitConfig):
            raise TypeError(f"default_limit = {default_limit!r}: expected a RateLimitConfig")
        for tier, config in (tiers or {}).items():
            _valid_tier(tier, config)
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
            self._default_limit = default_limit or self._default_limit
            for buckets in self._all_buckets():
                buckets.penalties.configure(*self._backoff_of(buckets.config), buckets.interval)
                if isinstance(buckets, Mirror):
                    buckets.arguments.clear()
            previous = self._by_config.get(None)
            if previous is None or previous.config is not self._default_limit:
                self._by_config[None] = self._new_buckets(self._default_limit)
            if tiers is not None:
                for tier in self._tier_limits.keys() - tiers.keys():
                    del self._tier_limits[tier]
                    self._by_tier.pop(tier, None)
                self._tier_limits.update(tiers)
            for tier, config in self._tier_limits.items():
                known = self._by_tier.get(tier)
                if known is None or known.config is not config:
                    self._by_tier[tier] = self._new_buckets(config, tier=tier)
            self._local = {} if self._shared is not None else self._by_config
            self._enabled = True
            if self._shared is not None:
                self._shared.start()
            await _stop(before)
        return True

    async def disable(self) -> bool:
        """Switch off: every check passes, every bucket is forgotten; tiers stay defined.

        Buckets in Redis stay: they are the other instances' too, and vanish as they fill.
        """
        async with self._transition:
            self._enabled = False
            before = self._share("")
            self._by_config = self._local = {}
            self._by_tier = {}
            self._in_turn.clear()
            self._dropped = [0, 0]
            await _stop(before)
        return True

    def warnings(self) -> list[str]:
        """What is amiss with the Redis that shares the limits."""
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

            self._shared = SharedBuckets(RedisLink.shared(redis_url), self._clock, self._mirrors)
        else:
            self._shared = None
        # The earlier buckets do not know the state in this Redis: start with new ones.
        self._by_config, self._by_tier, self._local = {}, {}, {}
        self._in_turn.clear()
        self._dropped = [0, 0]
        return before

    def _new_buckets(self, config: RateLimitConfig, *, own: bool = False, tier: str | None = None) -> Buckets:
        penalties = Penalties(*self._backoff_of(config), 1.0 / config.requests_per_second)
        if self._shared is None:
            return Buckets(config, penalties, self._clock)
        if tier is not None:
            return Mirror(config, penalties, self._clock, "tier", tier)
        return Mirror(config, penalties, self._clock, "config" if own else "default", config.name)

    def _backoff_of(self, config: RateLimitConfig) -> tuple[float, float, float]:
        """Base, cap and grace of a limit's backoff; a base of 0 is none."""
        backoff = config.backoff
        if backoff is None:
            return 0.0, 0.0, 0.0
        if isinstance(backoff, Backoff):
            return backoff.base, backoff.max, backoff.grace
        settings = self._settings
        if not settings.backoff:
            return 0.0, 0.0, 0.0
        return settings.backoff_base, settings.backoff_max, settings.backoff_grace

    def _all_buckets(self) -> list[Buckets]:
        return [*self._by_config.values(), *self._by_tier.values()]

    def _mirrors(self) -> list[Mirror]:
        return [buckets for buckets in self._all_buckets() if isinstance(buckets, Mirror)]

    # Checks.

    async def is_allowed(
        self,
        client_id: ClientId,
        config: RateLimitConfig | None = None,
        tokens_required: int = 1,
        tier: str | None = None,
    ) -> tuple[bool, RateLimitStatus]:
        """Take ``tokens_required`` tokens of the client if they are there: (allowed, status).

        The limit is ``config``, or that of ``tier``, or the default one. A client that was told to wait
        and comes back too early, again and again, waits longer (see Penalties and Backoff). A
        ``client_id`` of None is an unknown client: all such requests share one bucket.

        Raises TypeError for a client that is no int, str or None (True and 1.0 would be client 1),
        ValueError for tokens below 1 or above the burst size, which could never be had, and
        UnknownTierError for a tier that is not defined.
        """
        try:
            buckets = self._local.get(config)
        except TypeError:
            raise _no_limit(config) from None
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

        The cheapest form, callable from synchronous code. For a tier: :meth:`check_tier`. It cannot
        wait for Redis: where limits are shared it decides by what this instance knows of the client's
        bucket, and takes the token there in the background. What other instances took since Redis
        last answered here is owed, and paid before the client's next request.
        """
        try:
            buckets = self._local.get(config)
        except TypeError:
            raise _no_limit(config) from None
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

        The tokens are taken in advance, so no waiter is overtaken; a cancelled wait gives them back, and
        those behind it move up.
        If it would take longer than ``timeout`` seconds, RateLimitExceeded is raised at once and
        nothing is taken; a negative one, of a deadline just passed, is as 0. Waiting is what a client is
        told to do, so it never counts as a violation.
        """
        buckets = self._buckets(config, tier, tokens_required)
        if buckets is None:
            return self._pass(config, tier)
        max_wait = math.inf if timeout is None else _max_wait(timeout)
        return await self._limits.acquire(
            buckets, plain_client(client_id), tokens_required, max_wait, _label(buckets.config, tier)
        )

    # Tiers and clients.

    @property
    def default_config(self) -> RateLimitConfig:
        """The limit of checks that name none. A new one takes effect at once, with full buckets."""
        return self._default_limit

    @default_config.setter
    def default_config(self, config: RateLimitConfig) -> None:
        if not isinstance(config, RateLimitConfig):
            raise TypeError(f"default_config = {shown(config)}: expected a RateLimitConfig")
        self._default_limit = config
        previous = self._by_config.get(None)
        if self._enabled and (previous is None or previous.config is not config):
            if previous is not None:
                self._dropped[0] += previous.allowed
                self._dropped[1] += previous.blocked
            self._by_config[None] = self._new_buckets(config)

    def set_tier_limit(self, tier: str, config: RateLimitConfig) -> bool:
        """Define or change a tier: True. Changed values start the tier's clients with full buckets."""
        _valid_tier(tier, config)
        self._tier_limits[tier] = config
        if self._enabled:
            known = self._by_tier.get(tier)
            if known is None or known.config is not config:
                self._by_tier[tier] = self._new_buckets(config, tier=tier)
        return True

    def get_tier_limit(self, tier: str) -> RateLimitConfig:
        """The limit of a tier; raises UnknownTierError."""
        config = self._tier_limits.get(tier)
        if config is None:
            raise UnknownTierError(tier, list(self._tier_limits))
        return config

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

        Under every limit, or under ``limit`` alone: a config, or the name of a tier. 5 and "5" are two
        clients. Where limits are shared, in every instance: they hear of it within milliseconds, or when
        Redis is back if it is away. Raises TypeError for what is no client or no limit, and
        UnknownTierError.
        """
        client = plain_client(client_id)
        return await self._limits.reset_client(client, None if limit is None else self._buckets_of(limit))

    # Figures.

    def snapshot(self) -> RateLimiterFigures:
        """Counts since the start or the last reset; ``block_rate`` is percent of requests refused.

        ``active_clients`` counts buckets held: those that are not full, and some that were not long ago.
        """
        limits = [("default", buckets) for config, buckets in self._by_config.items() if config is None]
        limits += [(_label(buckets.config, tier), buckets) for tier, buckets in self._by_tier.items()]
        limits += [(_label(config, None), held) for config, held in self._by_config.items() if config]
        tiers, dropped, shared = len(self._tier_limits), self._dropped, self._shared
        return snapshot(limits, tiers, MANY_LIMITS, OTHERS, dropped, shared, enabled=self._enabled)

    async def get_status(self) -> dict[str, Any]:
        """The same as :meth:`get_statistics`."""
        return await self.get_statistics()

    def histograms(self) -> list[HistogramSnapshot]:
        """How long checks waited for Redis; none where limits are not shared."""
        if self._shared is None:
            return []
        return [
            self._shared.seconds.snapshot(
                "rate_limiter_shared_check_seconds", "Time that checks of shared limits waited for Redis"
            )
        ]

    async def reset_statistics(self) -> None:
        """Counters to zero; no client gains or loses a token."""
        for buckets in self._all_buckets():
            buckets.allowed = buckets.blocked = 0
        self._dropped = [0, 0]
        if self._shared is not None:
            self._shared.reset_statistics()

    # Finding the buckets of a limit.

    def _buckets_of(self, limit: RateLimitConfig | str) -> list[Buckets]:
        """All that a limit has: the default one may be asked for by its config, too."""
        tier, config = (limit, None) if isinstance(limit, str) else (None, limit)
        found = [self._buckets(config, tier, 1)]
        if config is not None and config is self._default_limit:
            found.append(self._by_config.get(None))
        return [buckets for buckets in found if buckets is not None]

    def _buckets(self, config: RateLimitConfig | None, tier: str | None, tokens: int) -> Buckets | None:
        """The buckets to take ``tokens`` from; None while the limiter is off. Raises for misuse."""
        if not self._enabled:
            return None
        if tier is not None:
            if config is not None:
                raise invalid("tier", tier, "no tier when a config is given")
            limit = self.get_tier_limit(tier)
        elif config is None:
            limit = self._default_limit
        elif isinstance(config, RateLimitConfig):
            limit = config
        else:
            raise _no_limit(config)
        if tokens.__class__ is not int or not 1 <= tokens <= limit.burst_size:
            raise invalid(
                "tokens_required", tokens, f"a whole number from 1 to the burst size, {limit.burst_size}"
            )
        if tier is not None:
            return self._by_tier[tier]
        buckets = self._by_config.get(config)
        if buckets is None:
            if len(self._by_config) >= MANY_LIMITS:
                self._drop_idle_limits()
            buckets = self._by_config[config] = self._new_buckets(limit, own=config is not None)
            if config is not None:
                self._in_turn.append(config)
        return buckets

    def _drop_idle_limits(self) -> None:
        """Look at two limits, those longest not looked at, and drop them if no bucket of theirs is live."""
        now = self._now()
        for _ in range(min(2, len(self._in_turn))):
            config = self._in_turn.popleft()
            buckets = self._by_config.get(config)
            if buckets is None:
                continue  # of a time before the limiter was off
            if buckets.sweep(now, LOOKED_AT):
                del self._by_config[config]
                self._dropped[0] += buckets.allowed
                self._dropped[1] += buckets.blocked
            else:
                self._in_turn.append(config)

    def _pass(self, config: RateLimitConfig | None, tier: str | None) -> RateLimitStatus:
        """The status of a limiter that is off: allowed, nothing taken."""
        limit = config or self._tier_limits.get(tier or "", self._default_limit)
        off = self._off
        if off.config is not limit:
            self._off = off = self._new_buckets(limit)
        return RateLimitStatus((off, off.tolerance, 0, self._now()))


def _no_limit(config: object) -> TypeError:
    return TypeError(f"config = {shown(config)}: expected a RateLimitConfig")


async def _stop(shared: SharedBuckets | None) -> None:
    if shared is not None:
        try:
            await shared.stop()
        finally:
            await shared.link.release()


def _label(config: RateLimitConfig | None, tier: str | None) -> str:
    if tier is not None:
        return f"tier {tier}"
    if config is None:
        return "default"
    return config.name or f"{exact(config.requests_per_second)}/s burst {config.burst_size}"


def _max_wait(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout != timeout:
        raise invalid("timeout", timeout, "a number of seconds, or None")
    return max(0.0, timeout)


def _valid_tier(tier: object, config: object) -> None:
    if not isinstance(tier, str) or not tier:
        raise invalid("tier", tier, "a name")
    if not isinstance(config, RateLimitConfig):
        raise TypeError(f"limit of tier {tier!r} = {config!r}: expected a RateLimitConfig")
