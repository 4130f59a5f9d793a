"""Which limits there are, and the buckets of each (pure).

A limit is the default one, a tier's, or a config that a check names. The buckets of configs are made as they
are named, and dropped when there are many and those have no live bucket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from bot.core._shared.clock import Clock
from bot.core._shared.errors import invalid, shown
from bot.core.phase4_config.rate_limiter import RateLimiterSettings
from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.errors import UnknownTierError
from bot.core.rate_limiter.mirror import Mirror
from bot.core.rate_limiter.models import Backoff, RateLimitConfig, exact
from bot.core.rate_limiter.penalty import Penalties

MANY_LIMITS = 256
"""Distinct limits from which those with no live bucket are dropped as others come, and beyond which
the statistics tell only of all the others together."""

LOOKED_AT = 64
"""Clients of a limit that are looked at, at most, to see whether it can be dropped."""


class LimitTable:
    """The limits and their buckets: of this process alone, or mirrors of those in Redis.

    Closed, it has no buckets and remembers the default limit and the tiers.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._settings = RateLimiterSettings()
        self._is_open = False
        self._is_shared = False
        # What follows is changed by the methods below only.
        self.default = RateLimitConfig()
        """The limit of checks that name none."""
        self.tiers: dict[str, RateLimitConfig] = {}
        self.by_config: dict[RateLimitConfig | None, Buckets] = {}
        """Buckets by limit; None stands for the default one. Another dict after each close."""
        self._by_tier: dict[str, Buckets] = {}
        # The configs of by_config in the order in which they are looked at.
        self._in_turn: deque[RateLimitConfig] = deque()
        self.dropped = [0, 0]
        """What was counted for limits that are no more: [allowed, blocked]."""

    # What there is.

    def open(
        self,
        settings: RateLimiterSettings,
        default: RateLimitConfig | None,
        tiers: Mapping[str, RateLimitConfig] | None,
        *,
        shared: bool,
    ) -> None:
        """Have buckets for these limits; None leaves what was set before.

        A limit whose values did not change keeps its buckets. Between shared and not, :meth:`close` first.
        """
        self._settings, self._is_shared, self._is_open = settings, shared, True
        for buckets in self.all():
            buckets.penalties.configure(*self._backoff_of(buckets.config), buckets.interval)
            if isinstance(buckets, Mirror):
                buckets.arguments.clear()
        self.default = default or self.default
        if not self._is_up_to_date(self.by_config.get(None), self.default):
            self.by_config[None] = self.new_buckets(self.default)
        if tiers is not None:
            for tier in self.tiers.keys() - tiers.keys():
                del self.tiers[tier]
                self._by_tier.pop(tier, None)
            self.tiers.update(tiers)
        for tier, config in self.tiers.items():
            self._update_tier(tier, config)

    def close(self) -> None:
        """Forget all buckets and what was counted for them."""
        self._is_open = False
        self.by_config, self._by_tier = {}, {}
        self._in_turn.clear()
        self.dropped = [0, 0]

    def set_default(self, config: RateLimitConfig) -> None:
        """Another default limit, with full buckets."""
        self.default = config
        previous = self.by_config.get(None)
        if self._is_open and not self._is_up_to_date(previous, config):
            if previous is not None:
                self._keep_counts(previous)
            self.by_config[None] = self.new_buckets(config)

    def set_tier(self, tier: str, config: RateLimitConfig) -> None:
        """Define or change a tier; changed values start its clients with full buckets."""
        self.tiers[tier] = config
        if self._is_open:
            self._update_tier(tier, config)

    def tier(self, tier: str) -> RateLimitConfig:
        """The limit of a tier; raises UnknownTierError."""
        config = self.tiers.get(tier)
        if config is None:
            raise UnknownTierError(tier, list(self.tiers))
        return config

    def _update_tier(self, tier: str, config: RateLimitConfig) -> None:
        if not self._is_up_to_date(self._by_tier.get(tier), config):
            self._by_tier[tier] = self.new_buckets(config, tier=tier)

    @staticmethod
    def _is_up_to_date(buckets: Buckets | None, config: RateLimitConfig) -> bool:
        return buckets is not None and buckets.config is config

    # The buckets of a limit.

    def find(self, config: RateLimitConfig | None, tier: str | None, tokens: int) -> Buckets:
        """The buckets to take ``tokens`` from, while open. Raises for misuse."""
        if tier is not None:
            if config is not None:
                raise invalid("tier", tier, "no tier when a config is given")
            limit = self.tier(tier)
        elif config is None:
            limit = self.default
        elif isinstance(config, RateLimitConfig):
            limit = config
        else:
            raise no_limit(config)
        if tokens.__class__ is not int or not 1 <= tokens <= limit.burst_size:
            raise invalid(
                "tokens_required", tokens, f"a whole number from 1 to the burst size, {limit.burst_size}"
            )
        if tier is not None:
            return self._by_tier[tier]
        buckets = self.by_config.get(config)
        if buckets is None:
            if len(self.by_config) >= MANY_LIMITS:
                self._drop_idle(self._clock.monotonic())
            buckets = self.by_config[config] = self.new_buckets(limit, own=config is not None)
            if config is not None:
                self._in_turn.append(config)
        return buckets

    def of_limit(self, limit: RateLimitConfig | str) -> list[Buckets]:
        """All buckets of a limit, while open: the default one may be asked for by its config, too."""
        tier, config = (limit, None) if isinstance(limit, str) else (None, limit)
        found = [self.find(config, tier, 1)]
        if config is not None and config is self.default:
            found += [held for held in (self.by_config.get(None),) if held is not None]
        return found

    def all(self) -> list[Buckets]:
        """The buckets of every limit."""
        return [*self.by_config.values(), *self._by_tier.values()]

    def mirrors(self) -> list[Mirror]:
        """The same while they are shared."""
        return [buckets for buckets in self.all() if isinstance(buckets, Mirror)]

    def labelled(self) -> list[tuple[str, Buckets]]:
        """The buckets of every limit with the limit's label: the default one, tiers, configs."""
        default = [("default", buckets) for config, buckets in self.by_config.items() if config is None]
        tiers = [(label(buckets.config, tier), buckets) for tier, buckets in self._by_tier.items()]
        configs = [(label(config, None), buckets) for config, buckets in self.by_config.items() if config]
        return default + tiers + configs

    def reset_counts(self) -> None:
        """Count from zero."""
        for buckets in self.all():
            buckets.allowed = buckets.blocked = 0
        self.dropped = [0, 0]

    def new_buckets(self, config: RateLimitConfig, *, own: bool = False, tier: str | None = None) -> Buckets:
        """Full buckets; ``own``: of a config that checks name. They are in no table yet."""
        penalties = Penalties(*self._backoff_of(config), 1.0 / config.requests_per_second)
        if not self._is_shared:
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

    def _drop_idle(self, now: float) -> None:
        """Look at two limits, those longest not looked at, and drop them if no bucket of theirs is live."""
        for _ in range(min(2, len(self._in_turn))):
            config = self._in_turn.popleft()
            buckets = self.by_config[config]
            if buckets.sweep(now, LOOKED_AT):
                del self.by_config[config]
                self._keep_counts(buckets)
            else:
                self._in_turn.append(config)

    def _keep_counts(self, buckets: Buckets) -> None:
        self.dropped[0] += buckets.allowed
        self.dropped[1] += buckets.blocked

    def check_invariants(self) -> None:
        """For tests."""
        assert sorted(map(id, self._in_turn)) == sorted(id(config) for config in self.by_config if config)
        assert self._by_tier.keys() == (self.tiers.keys() if self._is_open else set())
        assert (None in self.by_config) == self._is_open
        assert all(isinstance(buckets, Mirror) == self._is_shared for buckets in self.all())
        for buckets in self.all():
            assert buckets.penalties is not None


def label(config: RateLimitConfig | None, tier: str | None) -> str:
    """How a limit is called in statistics and errors."""
    if tier is not None:
        return f"tier {tier}"
    if config is None:
        return "default"
    return config.name or f"{exact(config.requests_per_second)}/s burst {config.burst_size}"


def no_limit(config: object) -> TypeError:
    """The error for what is no limit."""
    return TypeError(f"config = {shown(config)}: expected a RateLimitConfig")


def valid_tier(tier: object, config: object) -> None:
    """Raise for a name or a limit that no tier can have."""
    if not isinstance(tier, str) or not tier:
        raise invalid("tier", tier, "a name")
    if not isinstance(config, RateLimitConfig):
        raise TypeError(f"limit of tier {tier!r} = {config!r}: expected a RateLimitConfig")
