"""How the rate limiter is switched on and off, and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec.structs import replace

from bot.core._shared.clock import SYSTEM_CLOCK, Clock
from bot.core._shared.histogram import HistogramSnapshot
from bot.core._shared.tasks import to_the_end
from bot.core.phase4_config.rate_limiter import RateLimiterSettings
from bot.core.phase4_statistics.rate_limiter import RateLimiterFigures
from bot.core.phase4_statistics.states import WITHOUT_REDIS
from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.exemptions import Exempt, Exemptions
from bot.core.rate_limiter.joint import LocalJoint
from bot.core.rate_limiter.local import BucketLimits, LocalBuckets
from bot.core.rate_limiter.models import ClientId, LimitChoice, RateLimitConfig, RateLimitStatus
from bot.core.rate_limiter.parts import Meter
from bot.core.rate_limiter.slot_figures import with_slots
from bot.core.rate_limiter.slot_methods import SlotMethods
from bot.core.rate_limiter.stats import snapshot
from bot.core.rate_limiter.table import MANY_LIMITS, LimitTable, valid_tier

if TYPE_CHECKING:
    from bot.core.rate_limiter.shared import SharedBuckets
    from bot.core.rate_limiter.shared_joint import SharedJoint

OTHERS = "other limits"


class LimiterBase(SlotMethods):
    """The state of the rate limiter, its life and its figures; :class:`RateLimiter` has the checks."""

    service_name: ClassVar[str] = "rate_limiter"
    flag: ClassVar[str] = "ENABLE_RATE_LIMITER"
    while_off: ClassVar[str] = "everything is allowed"

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(clock)
        self._clock = clock
        self._now = clock.monotonic
        self._settings = RateLimiterSettings()
        self._table = LimitTable(clock)
        # The table's by_config while on and not shared, else empty: the one look-up of a check then
        # also tells whether the limiter is on and may decide by itself. Changed by enable and disable.
        self._local: dict[Any, Buckets] = {}
        # What takes tokens: _shared if there is one, else _alone. Changed by _share.
        self._alone = LocalBuckets(clock, self._table.all)
        self._shared: SharedBuckets | None = None
        # What makes checks of several limits, and of windows: as _limits. Changed by _share.
        self._joint_alone = LocalJoint(clock)
        # Who is never limited.
        self._exemptions = Exemptions()
        # What statuses of a limiter that is off refer to.
        self._off: Meter = self._table.new_buckets(self._table.default)

    @property
    def shared(self) -> bool:
        """Whether the limits are those of all instances, kept in Redis."""
        return self._shared is not None

    @property
    def _limits(self) -> BucketLimits[Any]:
        """What takes tokens. The buckets that it is given are those of ``_buckets``, of its own kind."""
        return self._alone if self._shared is None else self._shared

    @property
    def _joint(self) -> LocalJoint | SharedJoint:
        """What takes from several limits, and from windows."""
        return self._joint_alone if self._shared is None else self._shared.joint

    async def enable(
        self,
        default_limit: RateLimitConfig | None = None,
        tiers: Mapping[str, LimitChoice] | None = None,
        *,
        backoff: bool | None = None,
        backoff_base: float | None = None,
        backoff_max: float | None = None,
        backoff_grace: float | None = None,
        redis_url: str | None = None,
        slot_lease: float | None = None,
        exempt_clients: Exempt | None = None,
    ) -> bool:
        """Switch on, or reconfigure; None leaves what was set before (at first: 10 rps, burst 50).

        ``tiers`` replaces all tiers; a tier has a limit, several, or a text such as "10/second;100/hour".
        ``backoff`` says whether clients that retry too early wait longer, and
        the ``backoff_...`` arguments how long, in seconds, as in Backoff. They apply to limits without
        their own backoff. A limit whose values did not change keeps its clients' buckets.

        ``redis_url`` names the Redis that holds the buckets of all instances (``redis+cluster://`` for a
        cluster); "": each instance has its own. Redis may be unreachable at this time. ``slot_lease`` is
        the time, in seconds, after which the shared slots of a process that died are free.
        ``exempt_clients`` are never limited: ids, or a function of an id; those of ``exempt`` besides. Raises
        ValueError for values out of bounds.
        """
        if default_limit is not None and not isinstance(default_limit, RateLimitConfig):
            raise TypeError(f"default_limit = {default_limit!r}: expected a RateLimitConfig")
        limits = None if tiers is None else {tier: valid_tier(tier, each) for tier, each in tiers.items()}
        exempt = None if exempt_clients is None else Exemptions.checked(exempt_clients)
        async with self._transition:
            settings = self._settings.changed(
                backoff=backoff,
                backoff_base=backoff_base,
                backoff_max=backoff_max,
                backoff_grace=backoff_grace,
                redis_url=redis_url,
                slot_lease=slot_lease,
            )
            before = self._share(settings.redis_url)
            self._settings = settings
            self._table.open(settings, default_limit, limits, shared=self._shared is not None)
            if exempt is not None:
                self._exemptions.configure(exempt)
            self._switched_on()
            self._aim()
            if self._shared is not None:
                self._shared.start()
            link = None if self._shared is None else self._shared.link
            try:
                await self._open_slots(link, settings.slot_lease)
            finally:
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
            try:
                await self._close_slots()
            finally:
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

    def snapshot(self) -> RateLimiterFigures:
        """Counts since the start or the last reset; ``block_rate`` is percent of requests refused.

        ``active_clients`` counts the buckets in memory: those that are not full, and some that became full
        lately.
        """
        table, shared = self._table, self._shared
        limits, tiers, dropped = table.labelled(), len(table.tiers), table.dropped
        figures = snapshot(limits, tiers, MANY_LIMITS, OTHERS, dropped, shared, enabled=self._enabled)
        return replace(with_slots(figures, self._slots), exempted=self._exemptions.passed)

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
        self._slots.reset_counts()
        self._exemptions.passed = 0
        if self._shared is not None:
            self._shared.reset_statistics()

    def _aim(self) -> None:
        """Have checks look where they must: the quick way only for limits of this process, of all clients."""
        quick = self._enabled and self._shared is None and not self._exemptions
        self._local = self._table.by_config if quick else {}

    def _is_exempt(self, client: ClientId) -> bool:
        """Whether a check of this client passes without a limit; it is counted."""
        exempt = self._exemptions.covers(client)
        self._exemptions.passed += exempt
        return exempt

    def _meters(
        self, choice: LimitChoice | None, tier: str | None, tokens: int
    ) -> Meter | tuple[Meter, ...] | None:
        """What to take ``tokens`` from; None while the limiter is off. Raises for misuse."""
        if not self._enabled:
            self._used_while_off()
            return None
        return self._table.find(choice, tier, tokens)

    def _pass(self, choice: LimitChoice | None, tier: str | None) -> RateLimitStatus:
        """The status of a limiter that is off: allowed, nothing taken."""
        limit = self._table.of_choice(choice, tier)
        off = self._off
        if off.config is not limit:
            self._off = off = self._table.new_meter(limit)
        return off.look(None, self._now())


async def _stop(shared: SharedBuckets | None) -> None:
    if shared is not None:
        try:
            await to_the_end(shared.stop())
        finally:
            await shared.link.release()
