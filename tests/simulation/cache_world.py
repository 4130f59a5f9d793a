"""The cache among faults: no value is older than the documentation says.

A database holds a version of each key. Users change it and then tell the cache, or read through the cache.
What the documentation promises, and what is checked here:

- An instance sees its own changes: a read that begins after a change of the same instance has returned gives
  that version or a later one, unless a command of another, which a fault has held up, reaches Redis after it.
- The others see it after ``HEARD`` seconds at the latest (a connection that is cut without notice is found
  after four), unless Redis could not be told: then as soon as it can be, which here means ``REPEATED``
  seconds after the fault has ended, or when the value's TTL ends, whichever comes first.
- Nothing outlives its TTL.
- No call raises an error for Redis's sake.

Not covered: tags, patterns, ``incr`` and ``add`` (their own tests compare them with a real server), locked
loads, large values, a cluster, sentinels.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, ClassVar

from bot.core.cache_manager import CacheManager
from tests.simulation.world import Call, Instance, Scenario, Violation

KEYS = 3
TTL = 60.0
"""Longer than a run, so that what a fault has left behind is still there at its end."""
SLOWEST = 1.0
"""Seconds for the slowest ways of the network."""
HEARD = 4.0 + SLOWEST
REPEATED = 15.0
LOAD = 1.0
"""Seconds that a load takes at most."""


class CacheWorld(Scenario):
    """Caches of several instances before one database that never fails."""

    name: ClassVar[str] = "cache"
    share: ClassVar[float] = 1.5
    # An older value may come back at a failover that loses the last writes, as the documentation says.
    kinds: ClassVar[tuple[str, ...]] = tuple(kind for kind in Scenario.kinds if kind != "fail over")
    length: ClassVar[float] = 15.0
    pause: ClassVar[float] = 0.8

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.versions = [0] * KEYS
        # For each key, when each version came about.
        self.since: list[list[float]] = [[world.now] for _ in range(KEYS)]
        self._changing: dict[int, Instance] = {}

    async def start(self, instance: Instance) -> None:
        cache = instance.it = CacheManager(clock=instance.clock)
        await cache.enable(redis_url=instance.url, default_ttl=TTL)

    async def stop(self, instance: Instance) -> None:
        await instance.it.disable()

    async def turn(self, instance: Instance, user: int) -> None:
        key = self.chance.randrange(KEYS)
        what = self.chance.random()
        if what < 0.7:
            await self._read(instance, key, loads=self.chance.random() < 0.8)
        else:
            await self._change(instance, key, sets=self.chance.random() < 0.5)

    async def _read(self, instance: Instance, key: int, *, loads: bool) -> Call:
        cache: CacheManager = instance.it
        slow = self.chance.random() < 0.3
        pause = self.chance.uniform(0.0, LOAD if slow else 0.01)

        async def load() -> int:
            await asyncio.sleep(pause / 2)
            version = self.versions[key]
            await asyncio.sleep(pause / 2)
            return version

        if loads:
            return await self.world.call(
                instance, "load", lambda: cache.get_or_load(f"k{key}", load), key=key
            )
        return await self.world.call(instance, "get", lambda: cache.get(f"k{key}", "default"), key=key)

    async def _change(self, instance: Instance, key: int, *, sets: bool) -> None:
        cache: CacheManager = instance.it
        holder = self._changing.get(key)
        if holder is not None and not holder.process.dead:
            return  # the row is locked: whoever sets while another does has no order to keep
        self._changing[key] = instance
        self.versions[key] += 1
        self.since[key].append(self.world.now)
        version = self.versions[key]
        try:
            if sets:
                await self.world.call(
                    instance, "set", lambda: cache.set(f"k{key}", version), key=key, version=version
                )
            else:
                await self.world.call(
                    instance, "delete", lambda: cache.delete(f"k{key}"), key=key, version=version
                )
        finally:
            self._changing.pop(key)

    async def healed(self, instance: Instance) -> bool:
        cache: CacheManager = instance.it
        await cache.set("probe", "there")
        return await cache.get("probe") == "there" and not cache.snapshot().degraded

    async def finish(self, instance: Instance) -> None:
        """Read what each has kept, when it has had the time to hear of all changes."""
        await asyncio.sleep(max(0.0, self.world.faults_ended + REPEATED + HEARD - self.world.now))
        for key in range(KEYS):
            await self._read(instance, key, loads=False)

    def check(self) -> None:
        of_keys: list[list[Call]] = [[] for _ in range(KEYS)]
        for call in self.world.calls:
            of_keys[call.labels["key"]].append(call)
        for key, of_key in enumerate(of_keys):
            changes = [call for call in of_key if "version" in call.labels]
            for read in of_key:
                if "version" not in read.labels and read.outcome == "ok" and read.result is not None:
                    self._check_read(read, self.since[key], changes, of_key)

    def _check_read(self, read: Call, since: list[float], changes: list[Call], of_key: list[Call]) -> None:
        if read.result + 1 >= len(since):
            return
        age = read.begun - since[read.result + 1]
        if age > TTL + LOAD + 1.0:
            raise Violation(f"{age:.3f} s old, and the TTL is over: {read}")
        # Versions go up by one with each change.
        made = changes[read.result - 1] if read.result else None
        if made is not None and made.ended is None:
            return  # its process died under a set, which may arrive whenever it does
        for change in changes[read.result :]:
            if change.begun > read.begun:
                break
            if change.ended is not None and change.entered and self._must_know(read, change, of_key):
                raise Violation(f"{age:.3f} s old: {read} after {change}")

    def _arrives_by(self, call: Call) -> float:
        """When all has reached Redis that a call sent: what it gave up on may still be on its way."""
        if call.ended is None:
            return math.inf
        held_up = [
            end + SLOWEST for begun, end in self.world.troubled if begun <= call.ended and end >= call.begun
        ]
        return max([call.ended, *held_up])

    def _must_know(self, read: Call, change: Call, of_key: list[Call]) -> bool:
        """Whether a read must see a change."""
        assert change.ended is not None
        if change.ended >= read.begun:
            return False
        if change.instance is read.instance and not any(
            other.instance is not read.instance
            and other.begun < read.begun
            and self._arrives_by(other) > change.begun
            for other in of_key
        ):
            return True
        troubled = [end for begun, end in self.world.troubled if begun < change.ended + HEARD]
        if change.instance.killed and (change.outcome != "ok" or troubled):
            return False  # it died with what it had yet to repeat
        return max([change.ended + HEARD, *[end + REPEATED for end in troubled]]) < read.begun
