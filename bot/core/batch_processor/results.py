"""Results kept for callers that ask later: bounded in number and in age (pure)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Outcome(NamedTuple):
    """How an item ended: ``error`` is None if it is done."""

    result: Any
    error: BaseException | None
    dead: bool = False


class Kept(Generic[T]):
    """Values by key for ``ttl`` seconds, ``limit`` of them at most; the oldest goes first. O(1)."""

    __slots__ = ("_held", "limit", "ttl")

    def __init__(self, limit: int, ttl: float) -> None:
        self.limit = limit
        self.ttl = ttl
        # In the order in which they were put, which is the order in which they go.
        self._held: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def put(self, key: str, value: T, now: float) -> None:
        """Keep a value; it replaces an older one of its key."""
        held = self._held
        held.pop(key, None)
        held[key] = (now + self.ttl, value)
        # Two looked at for one that came: what is too old goes without a scan.
        for _ in range(2):
            if not held:
                break
            until, _ = next(iter(held.values()))
            if len(held) <= self.limit and until > now:
                break
            held.popitem(last=False)

    def get(self, key: str, now: float) -> T | None:
        """The value, unless it has gone."""
        found = self._held.get(key)
        if found is None:
            return None
        if found[0] <= now:
            del self._held[key]
            return None
        return found[1]

    def drop(self, key: str) -> None:
        """Forget one."""
        self._held.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()
