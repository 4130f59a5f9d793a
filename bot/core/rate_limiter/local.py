"""Buckets that this process has to itself, and what local and shared ones have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from bot.core._shared.clock import Clock
from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.errors import RateLimitExceeded
from bot.core.rate_limiter.models import ClientId, RateLimitStatus
from bot.core.rate_limiter.parts import Meter
from bot.core.rate_limiter.waiting import Lines

B = TypeVar("B", bound=Buckets, contravariant=True)


class BucketLimits(Protocol[B]):
    """Takes tokens from buckets of kind ``B``: of this process alone, or of all instances.

    ``client`` has gone through ``plain_client``, and ``tokens`` are from 1 to the limit's burst size.
    """

    async def take(self, buckets: B, client: ClientId, tokens: int) -> tuple[bool, RateLimitStatus]:
        """Take the tokens if they are there: (allowed, status)."""

    def take_nowait(self, buckets: B, client: ClientId) -> float:
        """Take one token by what is known here: 0.0, or the seconds to wait."""

    async def acquire(
        self, buckets: B, client: ClientId, tokens: int, max_wait: float, label: str
    ) -> RateLimitStatus:
        """Wait for the tokens; raises RateLimitExceeded if that takes longer than ``max_wait`` seconds."""

    def move_up(self, buckets: B, client: ClientId, tokens: int) -> None:
        """Tokens were given back: who waits in line for the client's moves up."""

    async def peek(self, buckets: B, client: ClientId) -> tuple[float, bool]:
        """The slack, in seconds, of a check for no tokens, and whether only this instance says so."""

    async def reset_client(self, client: ClientId, limits: Sequence[Meter] | None) -> bool:
        """Forgive a client under these limits (None: every one); False if nobody knew anything of it."""


class LocalBuckets:
    """The :class:`BucketLimits` of this process alone: nothing but ``acquire`` waits, and only for tokens."""

    def __init__(self, clock: Clock, all_buckets: Callable[[], Iterable[Meter]]) -> None:
        self._now = clock.monotonic
        # Every limit in use; the service owns them.
        self._all_buckets = all_buckets
        # Callers that wait in acquire, and how many ever did, for their order.
        self.lines = Lines(clock)
        self._reserved = 0

    async def take(self, buckets: Buckets, client: ClientId, tokens: int) -> tuple[bool, RateLimitStatus]:
        """See :class:`BucketLimits`."""
        return self.take_here(buckets, client, tokens)

    def take_here(self, buckets: Buckets, client: ClientId, tokens: int) -> tuple[bool, RateLimitStatus]:
        """:meth:`take`, which awaits nothing."""
        now = self._now()
        slack = buckets.take(client, now, tokens)
        return slack >= 0.0, RateLimitStatus((buckets, slack, tokens, now))

    def take_nowait(self, buckets: Buckets, client: ClientId) -> float:
        """See :class:`BucketLimits`."""
        slack = buckets.take(client, self._now(), 1)
        return 0.0 if slack >= 0.0 else -slack

    async def acquire(
        self, buckets: Buckets, client: ClientId, tokens: int, max_wait: float, label: str
    ) -> RateLimitStatus:
        """See :class:`BucketLimits`.

        A wait that is cancelled gives its tokens back, and those behind move up.
        """
        now = self._now()
        wait, taken = buckets.reserve(client, now, tokens, max_wait)
        if not taken:
            raise RateLimitExceeded(wait, limit=label)
        if wait > 0.0:
            self._reserved += 1
            await self.lines.wait(
                (buckets, client), now + wait, tokens * buckets.interval, (0.0, self._reserved),
                lambda: buckets.refund(client, self._now(), tokens),
            )  # fmt: skip
            now = self._now()
        buckets.allowed += 1
        return RateLimitStatus((buckets, max(0.0, buckets.peek(client, now)), 0, now))

    def move_up(self, buckets: Buckets, client: ClientId, tokens: int) -> None:
        """See :class:`BucketLimits`."""
        self.lines.move_up((buckets, client), (-math.inf, 0.0), tokens * buckets.interval)

    async def peek(self, buckets: Buckets, client: ClientId) -> tuple[float, bool]:
        """See :class:`BucketLimits`."""
        return buckets.peek(client, self._now()), False

    async def reset_client(self, client: ClientId, limits: Sequence[Meter] | None) -> bool:
        """See :class:`BucketLimits`."""
        now = self._now()
        found = False
        for buckets in self._all_buckets() if limits is None else limits:
            found = buckets.forget(client, now) or found
            self.lines.forget((buckets, client))
        return found
