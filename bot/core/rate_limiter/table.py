"""Which limits there are, and the buckets of each (pure).

A limit is the default one, a tier's, or a config that a check names. The buckets of configs are made as they
are named, and dropped when there are many and those have no live bucket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from bot.core._shared.clock import Clock
from bot.core._shared.errors import invalid, shown
from bot.core.phase4_config.limit_texts import looks_like_limits
from bot.core.phase4_config.rate_limiter import RateLimiterSettings
from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.concurrency import ConcurrencyLimit
from bot.core.rate_limiter.errors import UnknownTierError
from bot.core.rate_limiter.mirror import Mirror
from bot.core.rate_limiter.models import (
    Backoff,
    Limit,
    LimitChoice,
    Limits,
    RateLimitConfig,
    WindowLimit,
    exact,
)
from bot.core.rate_limiter.parts import Meter, most_of
from bot.core.rate_limiter.penalty import Penalties
from bot.core.rate_limiter.texts import limits_of, parse_limits, read_or_none
from bot.core.rate_limiter.window_mirror import WindowMirror
from bot.core.rate_limiter.windows import Windows

MANY_LIMITS = 256
"""Distinct limits from which those with no live bucket are dropped as others come, and beyond which
the statistics tell only of all the others together."""

MAX_ACQUIRED = 1_000_000_000_000_000
"""Tokens that one ``acquire`` can wait for."""

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
        self.tiers: dict[str, Limits] = {}
        self.by_config: dict[RateLimitConfig | None, Buckets] = {}
        """Buckets by limit; None stands for the default one. Another dict after each close."""
        self._by_window: dict[WindowLimit, Windows] = {}
        self._by_tier: dict[str, Meter | tuple[Meter, ...]] = {}
        # The limits of by_config and _by_window in the order in which they are looked at.
        self._in_turn: deque[Limit] = deque()
        self.dropped = [0, 0]
        """What was counted for limits that are no more: [allowed, blocked]."""

    # What there is.

    def open(
        self,
        settings: RateLimiterSettings,
        default: RateLimitConfig | None,
        tiers: Mapping[str, Limits] | None,
        *,
        shared: bool,
    ) -> None:
        """Have buckets for these limits; None leaves what was set before.

        A limit whose values did not change keeps its buckets. Between shared and not, :meth:`close` first.
        """
        self._settings, self._is_shared, self._is_open = settings, shared, True
        for meter in self.all():
            meter.penalties.configure(*self._backoff_of(meter.config), _interval(meter.config))
            if isinstance(meter, Mirror):
                meter.arguments.clear()
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
        self.by_config, self._by_window, self._by_tier = {}, {}, {}
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

    def set_tier(self, tier: str, limits: Limits) -> None:
        """Define or change a tier; changed values start its clients anew."""
        self.tiers[tier] = limits
        if self._is_open:
            self._update_tier(tier, limits)

    def tier(self, tier: str) -> Limits:
        """The limit of a tier, or its limits; raises UnknownTierError."""
        limits = self.tiers.get(tier)
        if limits is None:
            raise UnknownTierError(tier, list(self.tiers))
        return limits

    def _update_tier(self, tier: str, limits: Limits) -> None:
        held = {meter.config: meter for meter in _each(self._by_tier.get(tier, ()))}
        meters = tuple(
            held[limit] if limit in held else self.new_meter(limit, tier=tier)
            for limit in (limits if isinstance(limits, tuple) else (limits,))
        )
        self._by_tier[tier] = meters if isinstance(limits, tuple) else meters[0]

    @staticmethod
    def _is_up_to_date(buckets: Buckets | None, config: RateLimitConfig) -> bool:
        return buckets is not None and buckets.config is config

    # The buckets of a limit.

    def find(self, choice: LimitChoice | None, tier: str | None, tokens: int) -> Meter | tuple[Meter, ...]:
        """The buckets or windows to take ``tokens`` from, while open; of limits that hold together a tuple.

        Raises for misuse.
        """
        if tier is not None:
            if choice is not None:
                raise invalid("tier", tier, "no tier when a config is given")
        elif isinstance(choice, str):
            if choice in self.tiers:
                tier = choice
            elif not looks_like_limits(choice):
                raise no_limit(choice)
            else:
                found = parse_limits(choice)
                choice = found[0] if len(found) == 1 else found
        meters: Meter | tuple[Meter, ...]
        if tier is not None:
            self.tier(tier)
            meters = self._by_tier[tier]
        elif isinstance(choice, tuple) and choice:
            meters = tuple(
                dict.fromkeys(meter for each in choice for meter in _each(self.find(each, None, 1)))
            )
        elif choice is None or isinstance(choice, RateLimitConfig):
            meters = self._buckets_of(choice)
        elif isinstance(choice, WindowLimit):
            meters = self._windows_of(choice)
        else:
            raise no_limit(choice)
        if tokens is not _ONE:
            for meter in _each(meters):
                _check_tokens(tokens, meter)
        return meters

    def _buckets_of(self, config: RateLimitConfig | None) -> Buckets:
        buckets = self.by_config.get(config)
        if buckets is None:
            self._make_room()
            own = config is not None
            buckets = self.by_config[config] = self.new_buckets(config or self.default, own=own)
            if config is not None:
                self._in_turn.append(config)
        return buckets

    def _windows_of(self, limit: WindowLimit) -> Windows:
        windows = self._by_window.get(limit)
        if windows is None:
            self._make_room()
            windows = self._by_window[limit] = self._new_windows(limit)
            self._in_turn.append(limit)
        return windows

    def find_named(self, choice: LimitChoice | None, tokens: int) -> Meter | tuple[Meter, ...]:
        """:meth:`find` where a name is expected to be a tier's: UnknownTierError for another."""
        if isinstance(choice, str) and not looks_like_limits(choice):
            self.tier(choice)
        return self.find(choice, None, tokens)

    def of_choice(self, choice: LimitChoice | None, tier: str | None) -> Limit:
        """The limit that is meant, or the first; of what is none the default one. While off."""
        name = tier if choice is None else choice
        limits: object = name
        if isinstance(name, str):
            limits = self.tiers.get(name) or (looks_like_limits(name) and read_or_none(name))
        if isinstance(limits, tuple) and limits:
            limits = limits[0]
        return limits if isinstance(limits, RateLimitConfig | WindowLimit) else self.default

    def of_limit(self, limit: LimitChoice) -> list[Meter]:
        """All that is kept of a limit, while open: the default one may be asked for by its config, too."""
        found = list(_each(self.find_named(limit, 1)))
        if not isinstance(limit, str | tuple) and limit is self.default:
            found += [held for held in (self.by_config.get(None),) if held is not None]
        return found

    def all(self) -> list[Meter]:
        """The buckets and windows of every limit."""
        tiers = [meter for meters in self._by_tier.values() for meter in _each(meters)]
        return [*self.by_config.values(), *self._by_window.values(), *tiers]

    def mirrors(self) -> list[Mirror | WindowMirror]:
        """The same while they are shared."""
        return [meter for meter in self.all() if isinstance(meter, Mirror | WindowMirror)]

    def labelled(self) -> list[tuple[str, Meter]]:
        """What is kept of every limit with the limit's label: the default one, tiers, others."""
        default = [("default", buckets) for config, buckets in self.by_config.items() if config is None]
        tiers = [
            (label(meter.config, tier), meter)
            for tier, meters in self._by_tier.items()
            for meter in _each(meters)
        ]
        configs = [(label(config, None), buckets) for config, buckets in self.by_config.items() if config]
        windows = [(label(limit, None), windows) for limit, windows in self._by_window.items()]
        return [*default, *tiers, *configs, *windows]

    def reset_counts(self) -> None:
        """Count from zero."""
        for meter in self.all():
            meter.allowed = meter.blocked = 0
        self.dropped = [0, 0]

    def new_buckets(self, config: RateLimitConfig, *, own: bool = False, tier: str | None = None) -> Buckets:
        """Full buckets; ``own``: of a config that checks name. They are in no table yet."""
        penalties = Penalties(*self._backoff_of(config), 1.0 / config.requests_per_second)
        if not self._is_shared:
            return Buckets(config, penalties, self._clock)
        if tier is not None:
            return Mirror(config, penalties, self._clock, "tier", tier)
        return Mirror(config, penalties, self._clock, "config" if own else "default", config.name)

    def _new_windows(self, limit: WindowLimit, *, tier: str | None = None) -> Windows:
        penalties = Penalties(*self._backoff_of(limit), _interval(limit))
        if not self._is_shared:
            return Windows(limit, penalties, self._clock)
        if tier is not None:
            return WindowMirror(limit, penalties, self._clock, "tier", tier)
        return WindowMirror(limit, penalties, self._clock, "config", limit.name)

    def new_meter(self, limit: Limit, *, tier: str | None = None) -> Meter:
        """Buckets or windows that are in no table yet."""
        if isinstance(limit, WindowLimit):
            return self._new_windows(limit, tier=tier)
        return self.new_buckets(limit, tier=tier)

    def _backoff_of(self, config: Limit) -> tuple[float, float, float]:
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

    def _make_room(self) -> None:
        """Where there are many limits, look at two, those longest not looked at, and drop them if idle."""
        if len(self._in_turn) + 1 < MANY_LIMITS:
            return
        now = self._clock.monotonic()
        for _ in range(min(2, len(self._in_turn))):
            limit = self._in_turn.popleft()
            meter: Meter = self._by_window[limit] if isinstance(limit, WindowLimit) else self.by_config[limit]
            if not meter.sweep(now, LOOKED_AT):
                self._in_turn.append(limit)
                continue
            if isinstance(limit, WindowLimit):
                del self._by_window[limit]
            else:
                del self.by_config[limit]
            self._keep_counts(meter)

    def _keep_counts(self, meter: Meter) -> None:
        self.dropped[0] += meter.allowed
        self.dropped[1] += meter.blocked

    def check_invariants(self) -> None:
        """For tests."""
        limits = [*(config for config in self.by_config if config), *self._by_window]
        assert sorted(map(id, self._in_turn)) == sorted(map(id, limits))
        assert self._by_tier.keys() == (self.tiers.keys() if self._is_open else set())
        assert (None in self.by_config) == self._is_open
        assert all(isinstance(buckets, Mirror) == self._is_shared for buckets in self.by_config.values())
        for meter in self.all():
            assert meter.penalties is not None


_ONE = 1
"""The only 1 there is, so that True and 1.0 are found out without being compared."""


def _check_tokens(tokens: object, meter: Meter) -> None:
    most = most_of(meter)
    if tokens.__class__ is not int or not 1 <= tokens <= most:
        what = "the burst size" if isinstance(meter, Buckets) else "max_requests"
        raise invalid("tokens_required", tokens, f"a whole number from 1 to {what}, {most}")


def check_acquired(tokens: object, meters: Meter | tuple[Meter, ...]) -> None:
    """Raise for tokens that no wait can bring: of a bucket any number can be waited for, of all else what
    fits at once."""
    if not isinstance(meters, Buckets):
        for meter in _each(meters):
            _check_tokens(tokens, meter)
    elif tokens.__class__ is not int or not 1 <= tokens <= MAX_ACQUIRED:
        raise invalid("tokens_required", tokens, f"a whole number from 1 to {MAX_ACQUIRED:,}")


def _each(meters: Meter | tuple[Meter, ...]) -> tuple[Meter, ...]:
    return meters if isinstance(meters, tuple) else (meters,)


def _interval(limit: Limit) -> float:
    """Seconds in which a token comes back, on average."""
    if isinstance(limit, WindowLimit):
        return limit.window / limit.max_requests
    return 1.0 / limit.requests_per_second


def label(limit: Limit | None, tier: str | None) -> str:
    """How a limit is called in statistics and errors."""
    if tier is not None:
        return f"tier {tier}"
    if limit is None:
        return "default"
    return limit.name or values(limit)


def values(limit: Limit) -> str:
    """What a limit allows, in words."""
    if isinstance(limit, WindowLimit):
        return f"{limit.max_requests} in {exact(limit.window)} s"
    return f"{exact(limit.requests_per_second)}/s burst {limit.burst_size}"


def no_limit(config: object) -> TypeError:
    """The error for what is no limit of a rate."""
    if isinstance(config, ConcurrencyLimit):
        return TypeError(f"config = {config!r}: slot() and acquire_slot() take a ConcurrencyLimit")
    return TypeError(
        f"config = {shown(config)}: expected a RateLimitConfig, a WindowLimit, the name of a tier, or a text "
        'such as "10/second"'
    )


def valid_tier(tier: object, limits: object) -> Limits:
    """The limits that a tier is to have. Raises for a name or a limit that no tier can have."""
    if not isinstance(tier, str) or not tier:
        raise invalid("tier", tier, "a name")
    return limits_of(f"limit of tier {tier!r}", limits)
