"""Lanes: the items of one user or chat, let out one at a time in the order of their submission (pure)."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable

from bot.core._shared.errors import invalid
from bot.core.batch_processor.models import BatchItem, Lane

MAX_LANE_LENGTH = 200
MAX_LANE_NUMBER = 2**63 - 1


class Lanes:
    """The items that wait for one before them in their lane. A lane exists while an item of it has not ended.

    The first item of a lane is out: in the queue or in a batch. The next one is let out when it ends, and
    goes behind all that is in the queue, so lanes take turns. Each operation is O(1) for each item.
    """

    __slots__ = ("_gone", "_lanes", "_waited", "released", "waiting", "withdrawn")

    def __init__(self, gone: set[BatchItem] | None = None) -> None:
        """``gone``: as of the :class:`PendingQueue`."""
        self._gone = set() if gone is None else gone
        # Changed by enter, next_after, taken, sweep and clear.
        self._lanes: dict[Lane, deque[BatchItem] | None] = {}
        """The items behind the one that is out; None until there has been one."""
        self._waited: OrderedDict[BatchItem, None] = OrderedDict()
        """Items in no batch that had to wait, in the order of their submission."""
        self.waiting = 0
        """Items behind others of their lanes."""
        self.released = 0
        """Items that had to wait, and are in the queue now."""
        self.withdrawn = 0
        """Items left out so far, because their submitters had cancelled them while they waited; but for those
        that were counted before.
        """

    def __len__(self) -> int:
        """Lanes with an item that has not ended."""
        return len(self._lanes)

    def is_busy(self, lane: Lane) -> bool:
        """Whether an item of this lane would have to wait."""
        return lane in self._lanes

    def enter(self, item: BatchItem) -> bool:
        """Take in an item of a lane; True: it is the first, and goes into the queue now."""
        lane = item.lane
        assert lane is not None
        lanes = self._lanes
        if lane not in lanes:
            lanes[lane] = None
            return True
        line = lanes[lane]
        if line is None:
            lanes[lane] = deque((item,))
        else:
            line.append(item)
        self._waited[item] = None
        self.waiting += 1
        return False

    def next_after(self, ended: Iterable[BatchItem]) -> list[BatchItem]:
        """The items that are let out because these have ended. Of items without a lane: nothing."""
        lanes = self._lanes
        following: list[BatchItem] = []
        for item in ended:
            lane = item.lane
            if lane is None:
                continue
            line = lanes.get(lane)
            while line:
                first = line.popleft()
                self.waiting -= 1
                if first.future is None or not first.future.done():
                    following.append(first)
                    break
                self._leave_out(first)
            else:
                lanes.pop(lane, None)
        self.released += len(following)
        return following

    def add_released(self, item: BatchItem) -> None:
        """An item is in the queue that had to wait elsewhere, in Redis."""
        self._waited[item] = None
        self.released += 1

    def taken(self, items: Iterable[BatchItem]) -> None:
        """These have left the queue."""
        waited = self._waited
        for item in items:
            if item in waited:
                del waited[item]
                self.released -= 1

    def sweep(self) -> int:
        """Leave out the waiting items that were cancelled; how many are to be counted: O(n)."""
        before = self.withdrawn
        for line in self._lanes.values():
            for _ in range(len(line or ())):
                assert line is not None
                item = line.popleft()
                if item.future is not None and item.future.done():
                    self.waiting -= 1
                    self._leave_out(item)
                else:
                    line.append(item)
        return self.withdrawn - before

    def _leave_out(self, item: BatchItem) -> None:
        del self._waited[item]
        if item in self._gone:
            self._gone.discard(item)
        else:
            self.withdrawn += 1

    def clear(self) -> list[BatchItem]:
        """Forget all lanes; returns the items that waited, those of each lane in order."""
        held = [item for line in self._lanes.values() for item in line or ()]
        self._lanes.clear()
        self._waited.clear()
        self.waiting = self.released = 0
        return held

    def oldest(self) -> float:
        """When the oldest item in no batch that had to wait was submitted; infinity if there is none."""
        return next(iter(self._waited)).submitted_at if self._waited else math.inf

    def check_invariants(self, out: Iterable[BatchItem], queued: Iterable[BatchItem]) -> None:
        """Raise AssertionError if the parts disagree; ``out``: all in the queue or batches. For tests."""
        lanes = [item.lane for item in out if item.lane is not None and not item.entry]
        assert len(lanes) == len(set(lanes)), "at most one item of a lane is out"
        assert set(lanes) == set(self._lanes), "a lane exists while an item of it is out, and no longer"
        held = [item for line in self._lanes.values() for item in line or ()]
        assert self.waiting == len(held)
        released = [item for item in queued if item in self._waited]
        assert self.released == len(released)
        assert set(map(id, self._waited)) == set(map(id, [*held, *released]))
        times = [item.submitted_at for item in self._waited]
        assert times == sorted(times), "the first of those that waited is the oldest"
        for lane, line in self._lanes.items():
            assert all(item.lane == lane for item in line or ())


def valid_lane(lane: object) -> Lane:
    """The lane as a plain int or str, which compare equal only to their like.

    Raises InvalidArgumentError for anything else.
    """
    if isinstance(lane, str):
        if 1 <= len(lane) <= MAX_LANE_LENGTH:
            return str.__str__(lane)
    elif isinstance(lane, int) and not isinstance(lane, bool) and abs(lane) <= MAX_LANE_NUMBER:
        return int.__int__(lane)
    raise invalid(
        "lane", lane, f"a whole number of at most 64 bits, or a string of 1 to {MAX_LANE_LENGTH} characters"
    )


def valid_lanes(lane: Lane | None, lanes: Iterable[Lane | None] | None, count: int) -> list[Lane | None]:
    """The lane of each of ``count`` items, or None: ``lane`` for all, or ``lanes`` with one for each."""
    if lanes is None:
        return [None if lane is None else valid_lane(lane)] * count
    if lane is not None:
        raise invalid("lane, lanes", (lane, "..."), "one of the two")
    if isinstance(lanes, str):
        raise invalid("lanes", lanes, "a list with one for each item (of all: lane=)")
    each = [None if one is None else valid_lane(one) for one in lanes]
    if len(each) != count:
        raise invalid("lanes", f"{len(each)} lanes", f"one for each of the {count} items")
    return each
