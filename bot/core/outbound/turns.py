"""Where each lane stands in which something waits, and whose turn it is (pure).

It is *blocked* by its chat's limits or a hold, *ready* (it wants a slot and room in the window of all chats),
or has a request in flight and waits for its end, so that order holds through retries. Blocked lanes are in a
timetable; ready ones in queues by what they need (the gate) and priority, round robin within each. The
priority of a lane is the best of those that wait in it.

A lane that is ready gains a priority for each AGING seconds that it waits, so nothing is starved by slots
or order. Answers alone may fill the bulk window without an end; then one other request passes each window
that has waited for STARVED seconds.
"""

from __future__ import annotations

import math

from bot.core.outbound.gates import Gates
from bot.core.outbound.lanes import Lane
from bot.core.outbound.rates import Rates
from bot.core.outbound.ready import ReadyLanes, ReadyQueue
from bot.core.outbound.slots import Slots
from bot.core.outbound.timetable import Timetable


class Turns:
    """The ready and the blocked lanes. A lane is placed anew whenever something about it has changed."""

    def __init__(self, slots: Slots, gates: Gates) -> None:
        self._slots = slots
        self._gates = gates
        # A lane in which something waits is in one of these, or something of its chat is in flight.
        self._ready = ReadyLanes()
        self._blocked: Timetable[Lane] = Timetable()

    @property
    def any_ready(self) -> bool:
        """Whether lanes wait for a slot or a window of all chats."""
        return bool(self._ready.places)

    def place(self, lane: Lane, rates: Rates, now: float) -> None:
        """Put a lane where it belongs, or forget it if it is not used any more."""
        wait = math.inf
        if not lane.is_empty and lane.has_turn:
            wait = lane.wait(lane.head.cost, rates, now)
            if wait <= 0.0:
                self._blocked.remove(lane)
                self._ready.put(lane, now)
                return
        self._ready.remove(lane)
        if wait < math.inf:
            self._blocked.put(lane, max(now + wait, lane.chat.held_until))
            return
        self._blocked.remove(lane)  # the end of what is in flight to its chat places it anew
        lane.chat.drop_if_unused(lane)

    def unblock(self, rates: Rates, now: float) -> None:
        """Place the lanes anew whose chats may take something again."""
        while (lane := self._blocked.pop_due(now)) is not None:
            self.place(lane, rates, now)

    @property
    def unblock_at(self) -> float:
        """When the first of the blocked lanes is to be looked at; inf: none is blocked."""
        return self._blocked.next_at

    def next(self, rates: Rates, now: float) -> Lane | None:
        """The ready lane whose turn it is, and that can leave."""
        best: Lane | None = None
        lowest = math.inf
        if not self._ready.places:
            return None
        for queue in self._ready.queues:
            lane = self._first(queue, rates, now)
            if lane is None:
                continue
            rank = queue.rank(self._ready.since(lane), now)
            if (
                rank < lowest
                and self._slots.free(queue.priority)
                and self._gate_wait(queue, lane, rates, now) <= 0.0
            ):
                best, lowest = lane, rank
        return best

    def take(self, lane: Lane) -> float:
        """The lane's first leaves; since when the lane was ready."""
        since = self._ready.since(lane)
        self._ready.remove(lane)
        return since

    def put_first(self, lane: Lane, since: float) -> None:
        """If the lane is ready, it has been since then, and it is its turn."""
        if lane in self._ready.places:
            self._ready.put_first(lane, since)

    def leave_at(self, rates: Rates, now: float) -> float:
        """When the first of the ready lanes can leave; inf: not before a slot gets free."""
        at = math.inf
        for queue in self._ready.queues:
            if queue.lanes and self._slots.free(queue.priority):
                at = min(at, now + self._gate_wait(queue, queue.first, rates, now))
        return at

    def clear(self) -> None:
        """Nothing waits in any lane."""
        self._ready.clear()
        self._blocked.clear()

    def _first(self, queue: ReadyQueue, rates: Rates, now: float) -> Lane | None:
        """The lane whose turn it is in this queue, of those whose chats take it still."""
        while queue.lanes:
            lane = queue.first
            if lane.wait(lane.head.cost, rates, now) <= 0.0:
                return lane
            self.place(lane, rates, now)  # another lane of its chat has taken what both waited for
        return None

    def _gate_wait(self, queue: ReadyQueue, lane: Lane, rates: Rates, now: float) -> float:
        since = self._ready.since(lane)
        return self._gates.wait(queue.gate, lane.head.cost, queue.priority, rates, now, since)

    def check_invariants(self, lanes: list[Lane]) -> None:
        """``lanes``: all lanes of all chats."""
        self._ready.check_invariants()
        self._blocked.check_invariants()
        assert self._ready.places.keys() <= set(lanes)
        for lane in lanes:
            ready, blocked = lane in self._ready.places, lane in self._blocked
            assert not (ready and blocked)
            if not lane.is_empty and lane.has_turn:
                busy = any(other.in_flight for other in lane.chat.lanes.values())
                assert ready or blocked or busy, "a lane that nothing wakes"
