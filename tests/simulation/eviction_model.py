"""Which key goes when Redis needs memory: as its ``evict.c``, which looks at a few keys by chance."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

POLICIES = ("allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-ttl")
SAMPLES, KEPT = 5, 16
"""Keys looked at for each that goes, and the best of earlier looks that are remembered."""
FIRST, LOG_FACTOR, DECAY = 5, 10, 60.0
"""Of LFU: what a new key's counter begins with, how slowly it grows, and seconds until it is one less."""
NO_TOUCH = frozenset({"ttl", "pttl", "expiretime", "pexpiretime", "type", "exists", "object"})
"""Commands that look at a key without using it."""


class Evictions:
    """When and how often each key was used, and which is to go."""

    def __init__(self, policy: str, chance: random.Random, now: Callable[[], float]) -> None:
        self.policy = policy
        self._chance, self._now = chance, now
        # Of each key: when it was used, in whole seconds, and the logarithm of how often.
        self._uses: dict[tuple[int, bytes], tuple[int, int]] = {}
        # The worst keys of earlier looks, with how bad they were, the worst last.
        self._pool: list[tuple[float, int, bytes]] = []

    def used(self, at: tuple[int, bytes], *, new: bool) -> None:
        """A command uses a key, which it may have made."""
        if self.policy.endswith("lfu"):
            count = FIRST if new else self._counter(at)
            if self._chance.random() < 1.0 / (max(0, count - FIRST) * LOG_FACTOR + 1):
                count = min(255, count + 1)
            self._uses[at] = int(self._now()), count
        else:
            self._uses[at] = int(self._now()), 0

    def _counter(self, at: tuple[int, bytes]) -> int:
        """The logarithm of how often, less what time has taken of it."""
        last, count = self._uses.get(at, (int(self._now()), FIRST))
        return max(0, count - int((self._now() - last) / DECAY))

    def _badness(self, at: tuple[int, bytes], item: Any) -> float:
        if self.policy.endswith("lfu"):
            return 255 - self._counter(at)
        if self.policy.endswith("ttl"):
            return -float(item.expireat)
        return int(self._now()) - self._uses.get(at, (0, 0))[0]

    def victim(self, databases: dict[int, dict[bytes, Any]]) -> tuple[int, bytes] | None:
        """The key that goes next; None: there is none that may."""
        for number, items in databases.items():
            keys = [
                key for key, item in items.items()
                if not self.policy.startswith("volatile") or item.expireat is not None
            ]  # fmt: skip
            if self.policy.endswith("random") and keys:
                return number, self._chance.choice(keys)
            for key in self._chance.sample(keys, min(SAMPLES, len(keys))):
                candidate = self._badness((number, key), items[key]), number, key
                if not any(known[1:] == candidate[1:] for known in self._pool):
                    self._pool.append(candidate)
            self._pool.sort()
            del self._pool[:-KEPT]
        while self._pool:
            _, number, key = self._pool.pop()
            item = databases.get(number, {}).get(key)
            if item is not None and (item.expireat is not None or not self.policy.startswith("volatile")):
                self._uses.pop((number, key), None)
                return number, key
        return None
