"""The requests that wait, in their lanes; their callers' claims, and by when each must leave (pure)."""

from __future__ import annotations

import math
from enum import Enum

from bot.core.outbound.coalescing import Replaceable
from bot.core.outbound.keys import Key
from bot.core.outbound.lanes import Claim, Entry, Lane
from bot.core.outbound.models import Chat, Priority
from bot.core.outbound.slots import RESERVED_SHARE
from bot.core.outbound.timetable import Timetable


class Reason(Enum):
    """Why a claim ends without being sent."""

    DEADLINE = "deadline"
    HELD = "held"
    DELETED = "deleted"
    FULL = "full"


class Backlog:
    """All that waits. A claim that fails is told once, by :meth:`take_failed`."""

    def __init__(self, most: int) -> None:
        self.most = most
        """Claims that may wait; answers have a tenth more."""
        self.claims = 0
        """Claims that wait. This and what follows is changed by the methods below only."""
        self.failed: list[tuple[Claim, Reason]] = []
        self._deadlines: Timetable[Claim] = Timetable()
        self._replaceable = Replaceable()

    def is_full(self, priority: int) -> bool:
        """Whether no claim of this priority may wait as well."""
        most = self.most
        if priority == Priority.ANSWER:
            most += max(1, math.ceil(most * RESERVED_SHARE))
        return self.claims >= most

    # Coming in.

    def refuse(self, claim: Claim, reason: Reason) -> None:
        """It does not get to wait."""
        claim.entry = None
        self.failed.append((claim, reason))

    def join(self, claim: Claim, entry: Entry) -> Entry | None:
        """Let the claim share the place of the one that ``entry`` makes needless; None if there is none."""
        place = self._replaceable.like(entry.key)
        if place is None:
            return None
        claim.entry = place
        place.claims.append(claim)
        self._count(claim)
        if entry.priority < place.priority:
            _lane(place).set_priority(place, entry.priority)
        return place

    def add(self, entry: Entry, lane: Lane, *, first: bool = False) -> None:
        """It waits from now on with its claims, behind all others of its lane or before them."""
        lane.add(entry, first=first)
        self._replaceable.add(entry, first=first)
        for claim in entry.claims:
            self._count(claim)

    def put_back(self, entry: Entry, lane: Lane) -> None:
        """It is not in flight any more and waits for another try, at the head.

        If it was superseded meanwhile, its claims share the later one's place, and that goes to the head.
        """
        later = self._replaceable.superseding(entry)
        if later is None:
            self.add(entry, lane, first=True)
            return
        for claim in entry.claims:
            claim.entry = later
            self._count(claim)
        later.claims[:0] = entry.claims
        later.attempts = max(later.attempts, entry.attempts)
        entry.claims = []
        entry.lane = None
        _lane(later).put_first(later)

    # Going out.

    def remove(self, entry: Entry) -> None:
        """It leaves, or need not be sent; its claims wait no more."""
        _lane(entry).remove(entry)
        self._replaceable.remove(entry)
        for claim in entry.claims:
            self._uncount(claim)

    def withdraw(self, claim: Claim) -> None:
        """Its caller has given up. A place that nobody wants any more is given up with it."""
        entry = claim.entry
        assert entry is not None
        claim.entry = None
        entry.drop(claim)
        self._uncount(claim)
        if not entry.claims:
            self.remove(entry)

    def fail(self, claim: Claim, reason: Reason) -> None:
        """It waits no more and is not sent."""
        self.withdraw(claim)
        self.failed.append((claim, reason))

    def fail_all(self, entry: Entry, reason: Reason) -> None:
        """None of those that share it is sent."""
        for claim in list(entry.claims):
            self.fail(claim, reason)

    def fail_unreachable(self, lane: Lane, held_until: float) -> None:
        """Fail the claims of a lane whose deadlines end before its hold does."""
        for entry in lane.waiting:
            for claim in [claim for claim in entry.claims if claim.expires_at < held_until]:
                self.fail(claim, Reason.DEADLINE)

    def pop_expired(self, now: float) -> Claim | None:
        """One whose deadline has come, and that is to be failed."""
        return self._deadlines.pop_due(now)

    @property
    def next_deadline(self) -> float:
        """The first; inf: none of those that wait has one."""
        return self._deadlines.next_at

    def take_failed(self) -> list[tuple[Claim, Reason]]:
        """The claims that failed since the last call."""
        failed, self.failed = self.failed, []
        return failed

    def clear(self) -> None:
        """Nothing waits; what failed is not told any more."""
        self.claims = 0
        self.failed = []
        self._deadlines.clear()
        self._replaceable = Replaceable()

    # By message.

    def edits_of(self, message: Key) -> list[Entry]:
        """The edits of one message that wait."""
        return self._replaceable.of_message(message)

    def edits_of_all(self, chat: Chat, message_id: object) -> list[Entry]:
        """The edits of a message, or of several, that wait."""
        return list(self._replaceable.of_messages(chat, message_id))

    def _count(self, claim: Claim) -> None:
        self.claims += 1
        if claim.expires_at < math.inf:
            self._deadlines.put(claim, claim.expires_at)

    def _uncount(self, claim: Claim) -> None:
        self.claims -= 1
        if claim.expires_at < math.inf:
            self._deadlines.remove(claim)

    def check_invariants(self, waiting: list[Entry]) -> None:
        """``waiting``: all entries of all lanes."""
        claims = [claim for entry in waiting for claim in entry.claims]
        assert self.claims == len(claims)
        assert all(claim.entry is None for claim, _ in self.failed)
        self._deadlines.check_invariants()
        assert sum(claim in self._deadlines for claim in claims) == len(self._deadlines)
        assert all((claim in self._deadlines) == (claim.expires_at < math.inf) for claim in claims)
        known = {entry for entry in waiting if entry.key is not None or entry.message is not None}
        assert known == self._replaceable.entries()


def _lane(entry: Entry) -> Lane:
    """The lane of one that waits."""
    assert entry.lane is not None
    return entry.lane
