"""Which instance has the fewest requests in progress, in constant time (pure)."""

from __future__ import annotations

from collections.abc import Iterable

from bot.core.load_balancer.instances import Instance


class LeastBusy:
    """Instances in rings by how busy they are; every operation is O(1).

    Busy is the whole part of requests in progress over weight, the smallest weight counting as one. A
    pick turns its ring, so equally busy instances are chosen in turn and none is favoured by its place.
    Source of the structure: K. Shah et al., "An O(1) algorithm for implementing the LFU cache eviction
    scheme", 2010, with rings for its lists.
    """

    __slots__ = ("_factors", "_levels", "_low", "_rings")

    def __init__(self, members: Iterable[Instance]) -> None:
        # Any one instance of each ring, by level; None: the ring is empty. Changed by _link and _unlink.
        self._rings: list[Instance | None] = [None]
        self._levels: dict[Instance, int] = {}
        self._low = 0  # no ring below is occupied
        found = list(members)
        lightest = min((instance.weight for instance in found), default=1.0)
        self._factors = {instance: lightest / instance.weight for instance in found}
        for instance in found:
            self._link(instance, int(instance.in_flight * self._factors[instance]))
        self._seek()

    def __contains__(self, instance: Instance) -> bool:
        return instance in self._levels

    def pick(self) -> Instance:
        """The least busy instance, the one that waited longest among equals. There must be one."""
        rings = self._rings
        low = self._low
        instance = rings[low]
        assert instance is not None
        rings[low] = instance.index_next
        return instance

    def moved(self, instance: Instance) -> None:
        """Put the instance where its ``in_flight``, which changed by one, belongs."""
        old = self._levels.get(instance)
        if old is None:
            return
        level = int(instance.in_flight * self._factors[instance])
        if level == old:
            return
        self._unlink(instance, old)
        self._link(instance, level)
        if level < self._low:
            self._low = level
        elif self._rings[self._low] is None:
            self._low = level  # it was alone on the lowest ring, and went one up

    def _link(self, instance: Instance, level: int) -> None:
        rings = self._rings
        while len(rings) <= level:
            rings.append(None)
        self._levels[instance] = level
        head = rings[level]
        if head is None:
            instance.index_next = instance.index_previous = instance
            rings[level] = instance
            return
        last = head.index_previous
        last.index_next = head.index_previous = instance
        instance.index_previous = last
        instance.index_next = head

    def _unlink(self, instance: Instance, level: int) -> None:
        following = instance.index_next
        if following is instance:
            self._rings[level] = None
            return
        before = instance.index_previous
        before.index_next = following
        following.index_previous = before
        if self._rings[level] is instance:
            self._rings[level] = following

    def _seek(self) -> None:
        self._low = next((level for level, head in enumerate(self._rings) if head is not None), 0)

    def check_invariants(self) -> None:
        """Every member is on the ring of its level once, and none lies below the lowest."""
        seen: list[Instance] = []
        for level, head in enumerate(self._rings):
            if head is None:
                continue
            assert level >= self._low
            instance = head
            while True:
                assert self._levels[instance] == level == int(instance.in_flight * self._factors[instance])
                assert instance.index_next.index_previous is instance
                seen.append(instance)
                instance = instance.index_next
                if instance is head:
                    break
        assert len(seen) == len(set(seen)) == len(self._levels)
        assert not seen or self._rings[self._low] is not None
