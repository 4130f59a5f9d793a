"""The replicas of a pool, each a pool of its own, for leases that only read."""

from __future__ import annotations

import asyncio
import logging
from typing import Generic, Protocol, TypeVar

import msgspec

from bot.core._shared.clock import Clock
from bot.core._shared.masking import one_line
from bot.core.connection_pool_manager.drivers.places import places_of
from bot.core.connection_pool_manager.errors import PoolClosedError, PoolTimeoutError
from bot.core.connection_pool_manager.health import Health
from bot.core.connection_pool_manager.lease import PooledConnection
from bot.core.connection_pool_manager.models import PoolSpec
from bot.core.connection_pool_manager.pool import Pool

logger = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds that a reader waits for a replica's new connection before another replica is asked."""
AVOIDED = 2.0
"""Seconds for which a replica that took longer is not asked."""

WITH_REPLICAS = ("postgresql", "mysql")


def replica_specs(spec: PoolSpec) -> list[PoolSpec]:
    """The settings of each replica's pool: one for each host of a url with several, and of ``replicas``."""
    if spec.is_replica or spec.backend not in WITH_REPLICAS:
        return []
    hosts = places_of(spec.url, spec.driver_options)
    is_host = dict.fromkeys(hosts, True) if len(hosts) > 1 else {}
    for url in spec.replicas:
        is_host |= {place: False for place in places_of(url, spec.driver_options) if place not in is_host}
    # One connection is kept, by which a replica that was away is noticed when it is there again.
    options = spec.options.changed(min_size=1)
    return [
        msgspec.structs.replace(
            spec, url=url, replicas=(), is_replica=True, is_host=is_host[url], options=options
        )
        for url in is_host
    ]


class Member(Protocol):
    """What is asked of the pool of one replica."""

    name: str
    spec: PoolSpec
    pool: Pool
    health: Health
    clock: Clock

    async def start(self, *, wants_server: bool = True) -> None:
        """Open the first connection."""

    async def stop(self, *, drain: float) -> bool:
        """Close every connection."""

    def adopt(self, spec: PoolSpec) -> bool:
        """Use other sizes and times."""

    def replace(self) -> None:
        """Refuse callers from now on."""

    def abandon(self) -> None:
        """Close sockets without the event loop."""

    def acquire_nowait(self) -> PooledConnection | None:
        """A lease of a clean idle connection."""

    async def wait(self, timeout: float | None) -> PooledConnection:
        """A lease, after ``acquire_nowait`` returned None."""

    def serves_reads(self) -> bool:
        """False while it is known that its server is the primary of the url."""

    def load(self) -> float:
        """Leases and callers that wait, for each connection that there may be."""


M = TypeVar("M", bound=Member)


class Replicas(Generic[M]):
    """Chooses a replica for each lease that only reads.

    Used on the event loop of the pool that it belongs to. A caller that is cancelled leaves the queue of the
    replica that it waits for.
    """

    def __init__(self, members: list[M]) -> None:
        self.members = members
        # Changed only by acquire.
        self._avoided: dict[M, float] = {}

    async def start(self) -> None:
        """Open the first connections. Raises only if a setting is wrong: a replica may be away."""
        starts = [member.start(wants_server=False) for member in self.members]
        for error in await asyncio.gather(*starts, return_exceptions=True):
            if error is not None:
                raise error
        for member in self.members:
            if (said := member.health.warning()) is not None:
                logger.warning("Pool %r: a replica does not work yet: %s", member.name, one_line(said))

    def adopt(self, spec: PoolSpec) -> None:
        """Use other sizes and times."""
        for member, changed in zip(self.members, replica_specs(spec), strict=True):
            member.adopt(changed)

    def replace(self) -> None:
        """Refuse callers from now on."""
        for member in self.members:
            member.replace()

    async def stop(self, *, drain: float) -> bool:
        """Close every connection; False if leases were out."""
        return all(await asyncio.gather(*[member.stop(drain=drain) for member in self.members]))

    def abandon(self) -> None:
        """Close sockets without the event loop."""
        for member in self.members:
            member.abandon()

    def serving(self, now: float) -> list[M]:
        """The replicas that work, the least loaded first.

        A host of the url that is the primary is not among them, nor one that was slow just now.
        """
        found = [
            member
            for member in self.members
            if member.pool.counters.opened
            and member.pool.is_serving(now)
            and member.serves_reads()
            and self._avoided.get(member, now) <= now
        ]
        return sorted(found, key=lambda member: member.load())

    async def acquire(self, timeout: float, now: float) -> PooledConnection | None:
        """A lease of a replica within ``timeout`` seconds (0: without waiting); None: no replica works.

        Raises PoolTimeoutError if the replicas work, and all their connections are leased.
        """
        deadline = now + timeout
        for member in self.serving(now):
            if (lease := member.acquire_nowait()) is not None:
                return lease
            now = member.clock.monotonic()
            is_full = len(member.pool.leased) >= member.spec.options.max_size
            left = max(0.0, round(deadline - now, 3))
            patience = left if is_full or left < PATIENCE else PATIENCE
            try:
                return await member.wait(patience)
            except PoolTimeoutError:
                now = member.clock.monotonic()
                if timeout and is_full and member.pool.is_serving(now):
                    raise
                if patience >= PATIENCE:
                    self._avoided[member] = now + AVOIDED
            except PoolClosedError:
                continue
        return None
