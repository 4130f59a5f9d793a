"""Which instance a session belongs to: rendezvous hashing over a table of slots (pure)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from zlib import crc32

from bot.core.load_balancer.instances import Instance

SLOTS = 65_536
"""Sessions share slots, so that memory is bounded whatever the number of sessions."""

_MASK = 2**64 - 1


def slot_of(session_id: str | int) -> int:
    """The slot of a session; the same in every process and on every machine."""
    try:
        return crc32(str(session_id).encode()) & (SLOTS - 1)
    except UnicodeEncodeError:  # half of a surrogate pair, out of a broken message
        return crc32(str(session_id).encode("utf-8", "surrogatepass")) & (SLOTS - 1)


class Rendezvous(dict[int, Instance]):
    """Slot -> instance; there must be a member. One that leaves gives its own slots away and moves no other.

    Each slot goes to the instance with the highest score, a hash of both, weighted; two balancers that
    know the same instances agree. Slots are worked out when first asked for: O(n) once, then O(1).
    Sources: D. Thaler and C. Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998;
    weights: C. Schindelhauer and G. Schomaker, "Weighted Distributed Hash Tables", 2005.
    """

    __slots__ = ("_members",)

    def __init__(self, members: Sequence[Instance]) -> None:
        super().__init__()
        self._members = members

    def __missing__(self, slot: int) -> Instance:
        found = self[slot] = max(self._members, key=lambda member: score(slot, member))
        return found

    def next_owner(self, slot: int, without: Collection[Instance]) -> Instance | None:
        """The instance that would have the slot if those in ``without`` had left."""
        left = [member for member in self._members if member not in without]
        return max(left, key=lambda member: score(slot, member), default=None)


def score(slot: int, instance: Instance) -> float:
    """The weighted score of an instance for a slot; the highest wins."""
    # The finalizer of SplitMix64 (G. Steele et al., 2014): every bit of both depends on every bit in.
    x = (instance.seed + slot * 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    x ^= x >> 31
    return -instance.weight / math.log((x + 0.5) / 2.0**64)
