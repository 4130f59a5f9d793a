"""The lanes that may leave as far as their chats are concerned, in queues (pure)."""

from __future__ import annotations

from collections import OrderedDict

from bot.core.outbound.gates import Gate
from bot.core.outbound.lanes import Lane
from bot.core.outbound.models import Priority

AGING = 10.0
"""Seconds of waiting that count as much as one priority, so that no lane is starved by better ones."""


class ReadyQueue:
    """Lanes whose next request needs the same and has the same priority: round robin."""

    __slots__ = ("gate", "lanes", "priority")

    def __init__(self, gate: Gate, priority: int) -> None:
        self.gate = gate
        self.priority = priority
        self.lanes: OrderedDict[Lane, None] = OrderedDict()

    @property
    def first(self) -> Lane:
        """The lane whose turn it is. There must be one."""
        return next(iter(self.lanes))

    def rank(self, since: float, now: float) -> float:
        """How a lane ranks that is ready since then; the lowest leaves first."""
        return self.priority * AGING - (now - since)


class ReadyLanes:
    """A queue for each gate and priority, and since when each lane is ready."""

    def __init__(self) -> None:
        self.queues = tuple(ReadyQueue(gate, priority) for gate in Gate for priority in Priority)
        self.places: dict[Lane, tuple[ReadyQueue, float]] = {}
        """The queue of each ready lane, and since when it is ready. Changed by the methods below only."""

    def since(self, lane: Lane) -> float:
        """Since when the lane is ready."""
        return self.places[lane][1]

    def put(self, lane: Lane, now: float) -> None:
        """The lane is ready. It keeps its turn if it was and its next request needs the same as before."""
        queue = self.queues[lane.head.gate * len(Priority) + lane.priority]
        since = now
        place = self.places.get(lane)
        if place is not None:
            if place[0] is queue:
                return
            since = place[1]
            del place[0].lanes[lane]
        queue.lanes[lane] = None
        self.places[lane] = queue, since

    def put_first(self, lane: Lane, since: float) -> None:
        """A ready lane has been ready since then, and it is its turn."""
        queue, known = self.places[lane]
        self.places[lane] = queue, min(since, known)
        queue.lanes.move_to_end(lane, last=False)

    def remove(self, lane: Lane) -> None:
        """The lane is not ready, whether it was or not."""
        place = self.places.pop(lane, None)
        if place is not None:
            del place[0].lanes[lane]

    def clear(self) -> None:
        """No lane is ready."""
        self.places.clear()
        for queue in self.queues:
            queue.lanes.clear()

    def check_invariants(self) -> None:
        assert sum(len(queue.lanes) for queue in self.queues) == len(self.places)
        for lane, (queue, _) in self.places.items():
            assert lane in queue.lanes
            assert (lane.head.gate, lane.priority) == (queue.gate, queue.priority)
