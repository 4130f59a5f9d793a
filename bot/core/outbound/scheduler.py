"""Which request may leave when: lanes, one for each chat and kind, under windows and penalties (pure).

Told the time. :meth:`Scheduler.poll` says what may leave now, :meth:`Scheduler.wake_at` when to ask again.

A lane is a queue of one kind of request (messages, edits, chat actions, others) to one chat. It is *blocked*
(its chat's windows or penalty), *ready* (it wants a slot and, unless it answers, room in the bulk window),
or has a request in flight and waits for its end, so that order holds through retries. Blocked lanes are in a
heap by time; ready ones in queues by what they need (the gate) and priority, round robin within each. The
priority of a lane is the best of those that wait in it: an answer behind a broadcast to the same chat
lends it its own.

A lane that is ready gains a priority for each AGING seconds that it waits, so nothing is starved by slots
or order. Answers alone may fill the bulk window without an end; then one other request passes each window
that has waited for STARVED seconds.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum
from itertools import count

from bot.core.outbound.coalescing import Claim, Entry, Key, Waiting
from bot.core.outbound.models import Chat, Kind, Limits, Priority, is_private
from bot.core.outbound.penalties import GlobalPenalty, Slowdown
from bot.core.outbound.rates import Gate, Rates, gate_of
from bot.core.outbound.windows import Bucket, SlidingWindow

AGING = 10.0
STARVED = 30.0
MAX_ATTEMPTS = 10
"""Refusals in a row of one request after which its caller gets the error."""

FORGET_AFTER = 10.0
"""Seconds after which idle chats are looked for while nothing waits, so that many are found at once."""

RESERVED_SHARE = 0.1
"""Of slots, and on top of the places to wait: kept for answers."""

_ANSWER = Priority.ANSWER
_PRIORITIES = range(4)


class Reason(Enum):
    """Why a claim ends without being sent."""

    DEADLINE = "deadline"
    HELD = "held"
    DELETED = "deleted"
    FULL = "full"


class ChatState:
    """What is known of one chat; forgotten once it makes no difference."""

    __slots__ = ("bucket", "edit_bucket", "edit_window", "held_until", "id", "lanes", "private", "slowdown",
                 "typing", "window")  # fmt: skip

    def __init__(self, chat: Chat) -> None:
        self.id = chat
        self.private = is_private(chat)
        # For messages and, unless they are separate, edits: a bucket (private chats) or a window.
        self.bucket = Bucket()
        self.window = SlidingWindow()
        self.edit_bucket: Bucket | None = None
        self.edit_window: SlidingWindow | None = None
        self.typing: list[SlidingWindow] = []
        self.held_until = -math.inf
        self.slowdown = Slowdown()
        self.lanes: dict[Kind, Lane] = {}


class Lane:
    """The requests of one kind to one chat, first in, first out."""

    __slots__ = ("chat", "counts", "in_flight", "kind", "not_before", "ready_in", "ready_since", "serial",
                 "waiting", "wakes_at")  # fmt: skip

    def __init__(self, chat: ChatState, kind: Kind) -> None:
        self.chat = chat
        self.kind = kind
        # One at a time, for order; what goes to nobody in particular has none.
        self.serial = kind is not Kind.OTHER and chat.id is not None
        self.waiting: OrderedDict[Entry, None] = OrderedDict()
        self.counts = [0, 0, 0, 0]
        self.in_flight = 0
        # The queue of ready lanes that it is in, and its entry in the heap. Changed by the scheduler.
        self.ready_in: OrderedDict[Lane, None] | None = None
        self.ready_since = 0.0
        # What other instances have sent fills the chat's windows until then.
        self.not_before = -math.inf
        self.wakes_at = math.inf

    @property
    def head(self) -> Entry:
        return next(iter(self.waiting))

    @property
    def priority(self) -> int:
        """The best of those that wait."""
        counts = self.counts
        return 0 if counts[0] else 1 if counts[1] else 2 if counts[2] else 3


class Scheduler:
    """Decides; the service acts. Each method leaves a state that :meth:`check_invariants` accepts."""

    def __init__(
        self, limits: Limits, *, max_pending: int = 10_000, max_in_flight: int = 100, max_wait: float = 600.0
    ) -> None:
        # Changed by the methods below only. With a thirtieth attribute CPython makes each call 4 % dearer.
        self.configure(limits, max_pending=max_pending, max_in_flight=max_in_flight, max_wait=max_wait)
        self.chats: OrderedDict[Chat, ChatState] = OrderedDict()  # least recently used first
        self.penalty = GlobalPenalty()
        self.in_flight = 0
        self.pending = 0
        """Claims that wait."""
        self._bulk = SlidingWindow()
        self._bulk_of_others = SlidingWindow()
        """The same without answers, for STARVED."""
        self._paid = SlidingWindow()
        self._waiting = Waiting()
        self._ready: dict[tuple[Gate, int], OrderedDict[Lane, None]] = {
            (gate, priority): OrderedDict() for gate in Gate for priority in _PRIORITIES
        }
        self._ready_lanes = 0
        self._blocked: list[tuple[float, int, Lane]] = []
        self._expiring: list[tuple[float, int, Claim]] = []
        self._order = count()
        self._failed: list[tuple[Claim, Reason]] = []
        # What all instances have sent fills the windows of all chats until then.
        self._bulk_until = self._paid_until = -math.inf

    def configure(self, limits: Limits, *, max_pending: int, max_in_flight: int, max_wait: float) -> None:
        """Take other limits; what counted goes on counting."""
        self.max_pending = max_pending
        self.max_in_flight = max_in_flight
        self.max_wait = max_wait
        self._reserve = min(max_in_flight - 1, math.ceil(max_in_flight * RESERVED_SHARE))
        self.rates = rates = Rates(limits)
        self._shared_edits = rates.shared_edits
        self._group = rates.group
        self._interval = rates.interval
        self._burst = rates.burst
        self._bulk_limit = rates.bulk
        self._bulk_of_others_limit = rates.bulk_of_others
        self._paid_limit = rates.paid
        self._typing = rates.typing

    # Coming in.

    def submit(self, entry: Entry, now: float, deadline: float | None = None) -> tuple[Claim, bool]:
        """A caller wants to send: (its claim, whether it may at once).

        A claim that may not at once is granted or failed by a later :meth:`poll`.
        """
        if self._blocked and self._blocked[0][0] <= now:
            self._unblock(now)
        claim = Claim(entry, now, deadline)
        chat = self._chat(entry.chat, now)
        kind = entry.kind
        lane = chat.lanes.get(kind)
        if lane is None:
            lane = chat.lanes[kind] = Lane(chat, kind)
        if (
            not self._ready_lanes
            and not lane.waiting
            and not (lane.serial and lane.in_flight)
            and self._wait_of(lane, entry, now) <= 0.0
            and now >= self.penalty.until
            and self._slot_free(entry.priority)
            and self._gate_wait(gate_of(entry), entry, entry.priority, now) <= 0.0
        ):
            entry.lane = lane
            entry.claims.append(claim)
            self._leave(entry, lane, now, answers=entry.priority is _ANSWER)
            return claim, True
        self._enqueue(claim, entry, lane, now)
        return claim, False

    def _enqueue(self, claim: Claim, entry: Entry, lane: Lane, now: float) -> None:
        if entry.priority is _ANSWER:
            most = self.max_pending + max(1, math.ceil(self.max_pending * RESERVED_SHARE))
        else:
            most = self.max_pending
        held = max(lane.chat.held_until, self.penalty.until)
        reason = None
        if held - now > self.max_wait:
            reason = Reason.HELD
        elif claim.expires_at < held:
            reason = Reason.DEADLINE
        elif self.pending >= most:
            reason = Reason.FULL
        if reason is not None:
            claim.entry = None
            self._failed.append((claim, reason))
            self._drop_if_unused(lane)
            return
        self.pending += 1
        self._expire_later(claim)
        place = self._waiting.like(entry.key)
        if place is not None:
            # The place of the one before, with this one's request.
            claim.entry = place
            place.claims.append(claim)
            if entry.priority < place.priority and place.lane is not None:
                place.lane.counts[place.priority] -= 1
                place.priority = entry.priority
                place.lane.counts[place.priority] += 1
                self._place(place.lane, now)
            return
        entry.claims.append(claim)
        self._add(entry, lane)
        self._place(lane, now)

    def _expire_later(self, claim: Claim) -> None:
        if claim.expires_at < math.inf:
            heapq.heappush(self._expiring, (claim.expires_at, next(self._order), claim))
            if len(self._expiring) > 2 * self.pending + 64:
                kept = {id(item[2]): item for item in self._expiring if item[2].entry is not None}
                self._expiring = list(kept.values())
                heapq.heapify(self._expiring)

    def _add(self, entry: Entry, lane: Lane, *, first: bool = False) -> None:
        entry.lane = lane
        lane.chat.lanes[lane.kind] = lane  # it may have been dropped as unused a moment ago
        lane.waiting[entry] = None
        if first:
            lane.waiting.move_to_end(entry, last=False)
        lane.counts[entry.priority] += 1
        self._waiting.add(entry, first=first)

    def _remove(self, entry: Entry) -> None:
        lane = entry.lane
        assert lane is not None
        del lane.waiting[entry]
        lane.counts[entry.priority] -= 1
        self._waiting.remove(entry)

    def _chat(self, chat: Chat, now: float) -> ChatState:
        chats = self.chats
        state = chats.get(chat)
        if state is None:
            self._forget_idle(now, 2)
            state = chats[chat] = ChatState(chat)
        else:
            chats.move_to_end(chat)
        return state

    # Going out.

    def poll(self, now: float) -> tuple[list[Entry], list[tuple[Claim, Reason]]]:
        """What may leave now, in order, and the claims that are over; each is told once."""
        self._expire(now)
        self._unblock(now)
        granted: list[Entry] = []
        if now >= self.penalty.until:
            while self._ready_lanes:
                lane = self._next(now)
                if lane is None:
                    break
                entry = lane.head
                answers = lane.priority == _ANSWER
                entry.starved = now - lane.ready_since >= STARVED
                self._remove(entry)
                self.pending -= len(entry.claims)
                self._unready(lane)
                self._leave(entry, lane, now, answers=answers)
                self._place(lane, now)
                granted.append(entry)
        failed, self._failed = self._failed, []
        return granted, failed

    @property
    def has_failed(self) -> bool:
        """Whether claims are over that :meth:`poll` has not told yet."""
        return bool(self._failed)

    def wake_at(self, now: float) -> float:
        """When to poll again if nothing happens before; inf: no need to."""
        at = self._blocked[0][0] if self._blocked else math.inf
        if self._expiring:
            at = min(at, self._expiring[0][0])
        if self._failed:
            return now
        if self._ready_lanes:
            if now < self.penalty.until:
                at = min(at, self.penalty.until)
            else:
                for (gate, priority), lanes in self._ready.items():
                    if lanes and self._slot_free(priority):
                        lane = next(iter(lanes))
                        wait = self._gate_wait(gate, lane.head, priority, now, lane.ready_since)
                        at = min(at, now + wait)
        elif self.chats and not self.pending:
            at = min(at, self._idle_at(next(iter(self.chats.values()))) + FORGET_AFTER)
        return at

    def _next(self, now: float) -> Lane | None:
        """The ready lane whose turn it is, and that can leave."""
        best: Lane | None = None
        score = math.inf
        for (gate, priority), lanes in self._ready.items():
            while lanes:
                lane = next(iter(lanes))
                # Another lane of this chat may have taken what both wait for.
                if self._wait_of(lane, lane.head, now) <= 0.0:
                    rank = priority * AGING - (now - lane.ready_since)
                    if (
                        rank < score
                        and self._slot_free(priority)
                        and self._gate_wait(gate, lane.head, priority, now, lane.ready_since) <= 0.0
                    ):
                        best, score = lane, rank
                    break
                self._place(lane, now)
        return best

    def _leave(self, entry: Entry, lane: Lane, now: float, *, answers: bool) -> None:
        entry.departed = now
        entry.answers = answers
        entry.attempts += 1
        lane.in_flight += 1
        self.in_flight += 1
        chat = lane.chat
        gate = gate_of(entry)
        cost = entry.cost
        if gate is Gate.BULK:
            self._bulk.wait(0, *self._bulk_limit, now)
            self._bulk.stamp(cost, now)
            if not answers:
                self._bulk_of_others.wait(0, *self._bulk_limit, now)
                self._bulk_of_others.stamp(cost, now)
        elif gate is Gate.PAID:
            self._paid.wait(0, *self._paid_limit, now)
            self._paid.stamp(cost, now)
        if lane.kind is Kind.TYPING:
            self._typing_windows(chat)
            for window in chat.typing:
                window.leave(cost)
        elif lane.kind is not Kind.OTHER and chat.id is not None:
            if chat.private:
                self._bucket_of(lane).leave(cost, self._interval / chat.slowdown.share(now), now)
            else:
                self._window_of(lane).leave(cost)

    def finished(self, entry: Entry, now: float, *, again: bool = False) -> list[Claim]:
        """It was sent, or failed, or nobody knows: it counts. The claims that shared it are over and given
        back; with ``again`` those that are left wait for another try, at the head."""
        lane = self._returned(entry)
        self._count(entry, lane, now)
        return self._end(entry, lane, now, again=again)

    def given_back(self, entry: Entry, now: float) -> None:
        """It has not left after all: it does not count. Those who share it wait on, at the head."""
        lane = self._returned(entry)
        self._uncount(entry, lane)
        gate = gate_of(entry)
        if gate is Gate.BULK:
            self._bulk.unstamp(entry.cost, entry.departed)
            self._bulk_of_others.unstamp(entry.cost, entry.departed)
        elif gate is Gate.PAID:
            self._paid.unstamp(entry.cost, entry.departed)
        entry.attempts -= 1
        self._end(entry, lane, now, again=True)

    def debt_before(self, entry: Entry, now: float) -> float:
        """In how many seconds the bucket of its private chat would be full without it."""
        lane: Lane | None = entry.lane
        if lane is None or not lane.chat.private or lane.kind not in (Kind.SEND, Kind.EDIT):
            return 0.0
        cost = entry.cost * self._interval / lane.chat.slowdown.share(entry.departed)
        return max(0.0, self._bucket_of(lane).full_at - cost - now)

    def deferred(self, entry: Entry, now: float, *, chat: float = 0.0, gate: float = 0.0) -> None:
        """It has not left: other instances fill its chat's windows for ``chat`` seconds more, or the window
        of all chats for ``gate``. It keeps its turn."""
        lane = entry.lane
        assert lane is not None
        since = lane.ready_since
        if chat > 0.0:
            lane.not_before = now + chat
        if gate > 0.0 and entry.paid:
            self._paid_until = now + gate
        elif gate > 0.0:
            self._bulk_until = now + gate
        self.given_back(entry, now)
        if lane.ready_in is not None:
            lane.ready_since = min(since, lane.ready_since)
            lane.ready_in.move_to_end(lane, last=False)

    def holds(self, now: float) -> Iterable[tuple[Chat, float, float]]:
        """Chats (None: all) held or slowed down: for how many seconds, and their share of their rate."""
        if self.penalty.until > now:
            yield None, self.penalty.until - now, 1.0
        for chat in self.chats.values():
            share = chat.slowdown.share(now)
            if chat.id is not None and (chat.held_until > now or share < 1.0):
                yield chat.id, max(0.0, chat.held_until - now), share

    def refused(
        self, entry: Entry, seconds: float, jitter: float, now: float, *, repeat: bool
    ) -> tuple[bool, bool, list[Claim]]:
        """Telegram refused it for ``seconds``: (whether all chats are held, whether it waits for
        another try, the claims that are over otherwise).

        Its chat is held, or all if it has none. Without ``repeat`` it is not tried again.
        """
        lane = self._returned(entry)
        self._uncount(entry, lane)
        until = now + seconds + jitter
        chat = lane.chat
        for_all = True
        if chat.id is None:
            self._hold_all(until, now)
        else:
            chat.held_until = max(chat.held_until, until)
            chat.slowdown.refused(now, until)
            for_all = self.penalty.refused(chat.id, now, until)
            if for_all:
                self._hold_all(until, now)
            else:
                self._apply_hold(chat, now)
        held = max(chat.held_until, self.penalty.until)
        again = repeat and entry.attempts < MAX_ATTEMPTS and held - now <= self.max_wait
        return for_all, again, self._end(entry, lane, now, again=again)

    def hold(self, chat: Chat, seconds: float, now: float) -> None:
        """Send nothing to this chat, or to anybody if it is None, for so long."""
        if chat is None:
            self._hold_all(now + seconds, now)
            return
        state = self._chat(chat, now)
        state.held_until = max(state.held_until, now + seconds)
        self._apply_hold(state, now)

    def release(self, chat: Chat, now: float) -> bool:
        """End the hold of this chat, or that of all chats if it is None; False if there was none."""
        if chat is None:
            return self.penalty.release(now)
        state = self.chats.get(chat)
        if state is None or state.held_until <= now:
            return False
        state.held_until = -math.inf
        for lane in list(state.lanes.values()):
            self._place(lane, now)
        return True

    def withdraw(self, claim: Claim, now: float) -> None:
        """Its caller gave up while it waited."""
        entry = claim.entry
        if entry is None:
            return
        claim.entry = None
        entry.claims.remove(claim)
        lane = entry.lane
        if lane is None or entry not in lane.waiting:
            return  # in flight: its end looks after those who are left
        self.pending -= 1
        if not entry.claims:
            self._remove(entry)
            self._place(lane, now)

    def drop_edits(self, chat: Chat, message_id: object, now: float) -> int:
        """The message is being deleted: edits of it that wait are over. How many callers had wanted one."""
        dropped = 0
        for entry in self._waiting.of_messages(chat, message_id):
            lane = entry.lane
            assert lane is not None
            dropped += len(entry.claims)
            self._fail(entry, Reason.DELETED)
            self._place(lane, now)
        return dropped

    def edits_waiting(self, message: Key) -> list[Entry]:
        """The edits of a message that wait."""
        return self._waiting.of_message(message)

    def end_waiting(self, entry: Entry, now: float) -> list[Claim]:
        """It need not be sent any more: the claims that shared it, over."""
        lane = entry.lane
        assert lane is not None
        over, entry.claims = entry.claims, []
        for claim in over:
            claim.entry = None
        self.pending -= len(over)
        self._remove(entry)
        self._place(lane, now)
        return over

    def abandon(self) -> list[Claim]:
        """The event loop of all callers has ended: nobody waits and nothing is in flight any more.

        Windows and penalties stay. Returns the claims that had waited.
        """
        over: list[Claim] = []
        for chat in self.chats.values():
            for lane in chat.lanes.values():
                for entry in lane.waiting:
                    over += entry.claims
        for chat in self.chats.values():
            for window in (chat.window, chat.edit_window, *chat.typing):
                if window is not None and window.in_flight:
                    window.give_back(window.in_flight)
            for bucket in (chat.bucket, chat.edit_bucket):
                if bucket is not None:
                    bucket.in_flight = 0
            chat.lanes = {}
        for claim in over:
            claim.entry = None
        self.pending = self.in_flight = self._ready_lanes = 0
        for lanes in self._ready.values():
            lanes.clear()
        self._blocked, self._expiring, self._failed = [], [], []
        self._waiting = Waiting()
        return over

    def waiting(self) -> list[Claim]:
        """Every claim that waits."""
        return [
            claim
            for chat in self.chats.values()
            for lane in chat.lanes.values()
            for entry in lane.waiting
            for claim in entry.claims
        ]

    def chats_held(self, now: float) -> int:
        """Chats in a penalty."""
        return sum(chat.held_until > now for chat in self.chats.values())

    # Ends of what was in flight.

    def _returned(self, entry: Entry) -> Lane:
        lane: Lane | None = entry.lane
        assert lane is not None
        lane.in_flight -= 1
        self.in_flight -= 1
        return lane

    def _count(self, entry: Entry, lane: Lane, now: float) -> None:
        chat, kind = lane.chat, lane.kind
        if chat.private and (kind is Kind.SEND or kind is Kind.EDIT):
            interval = self._interval / chat.slowdown.share(entry.departed)
            self._bucket_of(lane).answered(entry.cost, interval, now)
            return
        for window in self._windows_taken(lane):
            window.answered(entry.cost, now)

    def _uncount(self, entry: Entry, lane: Lane) -> None:
        for window in self._windows_taken(lane):
            window.give_back(entry.cost)
        chat = lane.chat
        if chat.private and lane.kind in (Kind.SEND, Kind.EDIT):
            interval = self._interval / chat.slowdown.share(entry.departed)
            self._bucket_of(lane).give_back(entry.cost, interval)

    def _windows_taken(self, lane: Lane) -> Iterable[SlidingWindow]:
        chat = lane.chat
        if lane.kind is Kind.TYPING:
            return chat.typing
        if lane.kind is Kind.OTHER or chat.id is None or chat.private:
            return ()
        return (self._window_of(lane),)

    def _end(self, entry: Entry, lane: Lane, now: float, *, again: bool) -> list[Claim]:
        over: list[Claim] = []
        if again and entry.claims:
            self.pending += len(entry.claims)
            later = self._waiting.superseding(entry)
            if later is None:
                self._add(entry, lane, first=True)
            else:
                # Superseded while it was in flight: the later one goes in its place.
                for claim in entry.claims:
                    claim.entry = later
                later.claims[:0] = entry.claims
                later.attempts = max(later.attempts, entry.attempts)
                entry.claims = []
                entry.lane = None
                if later.lane is lane:
                    lane.waiting.move_to_end(later, last=False)
            held = max(lane.chat.held_until, self.penalty.until)
            self._fail_unreachable(lane, held)
            for claim in entry.claims:  # their deadlines were let go of when it left
                self._expire_later(claim)
        else:
            over, entry.claims = entry.claims, []
            for claim in over:
                claim.entry = None
            entry.lane = None
        for other in list(lane.chat.lanes.values()):
            self._place(other, now)
        return over

    # Holds.

    def _hold_all(self, until: float, now: float) -> None:
        self.penalty.hold(until)
        if self.penalty.until <= now:
            return
        for chat in list(self.chats.values()):
            if chat.lanes:
                self._apply_hold(chat, now)

    def _apply_hold(self, chat: ChatState, now: float) -> None:
        held = max(chat.held_until, self.penalty.until)
        for lane in list(chat.lanes.values()):
            if held - now > self.max_wait:
                for entry in list(lane.waiting):
                    self._fail(entry, Reason.HELD)
            else:
                self._fail_unreachable(lane, held)
            self._place(lane, now)

    def _fail_unreachable(self, lane: Lane, held: float) -> None:
        for entry in list(lane.waiting):
            for claim in [claim for claim in entry.claims if claim.expires_at < held]:
                self._fail_one(claim, Reason.DEADLINE)

    def _fail(self, entry: Entry, reason: Reason) -> None:
        for claim in list(entry.claims):
            self._fail_one(claim, reason)

    def _fail_one(self, claim: Claim, reason: Reason) -> None:
        entry = claim.entry
        assert entry is not None
        claim.entry = None
        entry.claims.remove(claim)
        self.pending -= 1
        self._failed.append((claim, reason))
        if not entry.claims:
            self._remove(entry)

    def _expire(self, now: float) -> None:
        expiring = self._expiring
        while expiring and expiring[0][0] <= now:
            claim = heapq.heappop(expiring)[2]
            entry = claim.entry
            if entry is None or entry.lane is None or entry not in entry.lane.waiting:
                continue  # over, or in flight: it has left in time
            lane = entry.lane
            self._fail_one(claim, Reason.DEADLINE)
            self._place(lane, now)

    # Lanes: blocked, ready, gone.

    def _place(self, lane: Lane, now: float) -> None:
        """Put a lane where it belongs."""
        if not lane.waiting or (lane.serial and lane.in_flight):
            self._unready(lane)
            lane.wakes_at = math.inf
            self._drop_if_unused(lane)
            return
        entry = lane.head
        wait = self._wait_of(lane, entry, now)
        if wait <= 0.0:
            lane.wakes_at = math.inf
            ready = self._ready[gate_of(entry), lane.priority]
            if lane.ready_in is ready:
                return  # it keeps its turn
            if lane.ready_in is None:
                lane.ready_since = now
            self._unready(lane)
            lane.ready_in = ready
            ready[lane] = None
            self._ready_lanes += 1
            return
        self._unready(lane)
        if wait == math.inf:
            lane.wakes_at = math.inf  # the end of what is in flight to this chat places it anew
            return
        at = max(now + wait, lane.chat.held_until)
        if at != lane.wakes_at:
            lane.wakes_at = at
            heapq.heappush(self._blocked, (at, next(self._order), lane))
            if len(self._blocked) > 4 * len(self.chats) + 64:
                self._blocked = [item for item in self._blocked if item[0] == item[2].wakes_at]
                heapq.heapify(self._blocked)

    def _unready(self, lane: Lane) -> None:
        if lane.ready_in is not None:
            del lane.ready_in[lane]
            lane.ready_in = None
            self._ready_lanes -= 1

    def _unblock(self, now: float) -> None:
        blocked = self._blocked
        while blocked and blocked[0][0] <= now:
            at, _, lane = heapq.heappop(blocked)
            if at == lane.wakes_at:
                lane.wakes_at = math.inf
                self._place(lane, now)
                blocked = self._blocked

    def _drop_if_unused(self, lane: Lane) -> None:
        if not lane.waiting and not lane.in_flight and lane.chat.lanes.get(lane.kind) is lane:
            del lane.chat.lanes[lane.kind]

    # How long.

    def _wait_of(self, lane: Lane, entry: Entry, now: float) -> float:
        """Seconds for which the lane's chat does not take the entry."""
        chat = lane.chat
        until = chat.held_until
        if lane.not_before > until:
            until = lane.not_before
        wait = until - now if until > now else 0.0
        kind = lane.kind
        if kind is Kind.OTHER or chat.id is None:
            return wait
        if kind is Kind.TYPING:
            self._typing_windows(chat)
            for (most, length), window in zip(self._typing, chat.typing, strict=True):
                wait = max(wait, window.wait(entry.cost, most, length, now))
            return wait
        share = chat.slowdown.share(now)
        if chat.private:
            burst = self._burst if share >= 1.0 else max(1, int(self._burst * share))
            return max(wait, self._bucket_of(lane).wait(entry.cost, self._interval / share, burst, now))
        most, length = self._group
        if share < 1.0:
            most = max(1, int(most * share))
        return max(wait, self._window_of(lane).wait(entry.cost, most, length, now))

    def _bucket_of(self, lane: Lane) -> Bucket:
        chat = lane.chat
        if lane.kind is Kind.EDIT and not self._shared_edits:
            if chat.edit_bucket is None:
                chat.edit_bucket = Bucket()
            return chat.edit_bucket
        return chat.bucket

    def _window_of(self, lane: Lane) -> SlidingWindow:
        chat = lane.chat
        if lane.kind is Kind.EDIT and not self._shared_edits:
            if chat.edit_window is None:
                chat.edit_window = SlidingWindow()
            return chat.edit_window
        return chat.window

    def _typing_windows(self, chat: ChatState) -> None:
        if len(chat.typing) != len(self._typing):
            in_flight = chat.typing[0].in_flight if chat.typing else 0
            chat.typing = [SlidingWindow() for _ in self._typing]
            for window in chat.typing:
                window.leave(in_flight)

    def _slot_free(self, priority: int) -> bool:
        reserve = 0 if priority == _ANSWER else self._reserve
        return self.in_flight < self.max_in_flight - reserve

    def _gate_wait(
        self, gate: Gate, entry: Entry, priority: int, now: float, ready_since: float | None = None
    ) -> float:
        """Seconds until a window of all chats together has room."""
        if gate is Gate.NONE:
            return 0.0
        if gate is Gate.PAID:
            return max(self._paid.wait(entry.cost, *self._paid_limit, now), self._paid_until - now)
        if priority == _ANSWER:
            return 0.0
        wait = self._bulk.wait(entry.cost, *self._bulk_of_others_limit, now)
        if wait > 0.0 and ready_since is not None:
            others = self._bulk_of_others.wait(self._bulk_limit[0], *self._bulk_limit, now)
            wait = min(wait, max(others, ready_since + STARVED - now))
        return max(wait, self._bulk_until - now)

    # Forgetting.

    def _idle_at(self, chat: ChatState) -> float:
        """When a chat is as if it had never been written to; inf: not before something ends."""
        if chat.lanes:
            return math.inf
        at = max(chat.held_until, chat.slowdown.recovered_at(), chat.bucket.full_at)
        if chat.edit_bucket is not None:
            at = max(at, chat.edit_bucket.full_at)
        at = max(at, chat.window.empty_at(self._group[1]))
        if chat.edit_window is not None:
            at = max(at, chat.edit_window.empty_at(self._group[1]))
        for (_, length), window in zip(self._typing, chat.typing, strict=False):
            at = max(at, window.empty_at(length))
        return at

    def _forget_idle(self, now: float, most: int) -> None:
        chats = self.chats
        for _ in range(min(most, len(chats))):
            chat, state = next(iter(chats.items()))
            idle_at = self._idle_at(state)
            if idle_at <= now:
                del chats[chat]
            else:
                chats.move_to_end(chat)

    def forget_idle(self, now: float) -> None:
        """Forget every chat that makes no difference any more; a look at each."""
        for chat in [known for known, state in self.chats.items() if self._idle_at(state) <= now]:
            del self.chats[chat]

    def check_invariants(self) -> None:
        in_flight = pending = ready = 0
        waiting: set[Entry] = set()
        for chat_id, chat in self.chats.items():
            assert chat.id == chat_id
            for window in (chat.window, chat.edit_window, *chat.typing):
                if window is not None:
                    window.check_invariants()
            for kind, lane in chat.lanes.items():
                assert lane.kind is kind
                assert lane.chat is chat
                assert lane.waiting or lane.in_flight
                assert not lane.serial or lane.in_flight <= 1
                in_flight += lane.in_flight
                counts = [0, 0, 0, 0]
                for entry in lane.waiting:
                    assert entry.claims
                    assert entry.lane is lane
                    assert all(claim.entry is entry for claim in entry.claims)
                    counts[entry.priority] += 1
                    pending += len(entry.claims)
                    if entry.key is not None or entry.message is not None:
                        waiting.add(entry)
                assert counts == lane.counts
                if lane.ready_in is not None:
                    ready += 1
                    assert lane in lane.ready_in
                    assert lane.wakes_at == math.inf
                elif lane.waiting and not (lane.serial and lane.in_flight):
                    busy = any(other.in_flight for other in chat.lanes.values())
                    assert lane.wakes_at < math.inf or busy, "a lane that nothing wakes"
        assert in_flight == self.in_flight
        assert pending == self.pending
        assert ready == self._ready_lanes == sum(map(len, self._ready.values()))
        assert waiting == self._waiting.entries()
        for window in (self._bulk, self._bulk_of_others, self._paid):
            window.check_invariants()
            assert not window.in_flight
