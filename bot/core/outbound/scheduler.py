"""Which request may leave when, within the limits of each chat and of all chats together (pure).

Told the time. :meth:`Scheduler.poll` says what may leave now, :meth:`Scheduler.wake_at` when to ask again.

Each part has its own state: the chats and their lanes (``chats``, ``lanes``, ``chat_limits``), the claims
that wait (``backlog``), whose turn it is (``turns``), the windows of all chats (``gates``), what is in flight
(``slots``), and the hold of all chats (``penalties``). What follows from more than one of them is here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from bot.core.outbound.backlog import Backlog, Reason
from bot.core.outbound.chat_limits import PrivateLimit
from bot.core.outbound.chats import Chats
from bot.core.outbound.gates import STARVED, Gates
from bot.core.outbound.keys import Key
from bot.core.outbound.lanes import ChatState, Claim, Entry, Lane
from bot.core.outbound.models import Chat, Limits, Priority, is_method
from bot.core.outbound.penalties import GlobalPenalty
from bot.core.outbound.rates import Rates
from bot.core.outbound.slots import Slots
from bot.core.outbound.turns import Turns

MAX_ATTEMPTS = 10
"""Refusals in a row of one request after which its caller gets the error."""

_ANSWER = Priority.ANSWER


class Scheduler:
    """Decides; the service acts. Each method leaves a state that :meth:`check_invariants` accepts."""

    def __init__(
        self, limits: Limits, *, max_pending: int = 10_000, max_in_flight: int = 100, max_wait: float = 600.0
    ) -> None:
        self.max_wait = max_wait
        self.rates = Rates(limits)
        self.chats = Chats()
        self.penalty = GlobalPenalty()
        self.backlog = Backlog(max_pending)
        self.slots = Slots(max_in_flight)
        self._gates = Gates()
        self._turns = Turns(self.slots, self._gates)

    def configure(
        self, limits: Limits, now: float, *, max_pending: int, max_in_flight: int, max_wait: float
    ) -> None:
        """Take other limits, for those that wait as well; what counted goes on counting."""
        self.backlog.most = max_pending
        self.slots.allow(max_in_flight)
        self.max_wait = max_wait
        self.rates = Rates(limits)
        for chat in self.chats:
            chat.adopt(self.rates)
            for lane in list(chat.lanes.values()):
                self._turns.place(lane, self.rates, now)

    @property
    def pending(self) -> int:
        """Claims that wait."""
        return self.backlog.claims

    # Coming in.

    def submit(self, entry: Entry, now: float, deadline: float | None = None) -> tuple[Claim, bool]:
        """A caller wants to send: (its claim, whether it may at once).

        A claim that may not at once is granted or failed by a later :meth:`poll`.
        """
        turns = self._turns
        if turns.unblock_at <= now:
            turns.unblock(self.rates, now)
        claim = Claim(entry, now, deadline)
        lane = self.chats.use(entry.chat, self.rates, now).lane(entry.kind, self.rates)
        if (
            not turns.any_ready
            and lane.is_empty
            and lane.has_turn
            and lane.wait(entry.cost, self.rates, now) <= 0.0
            and now >= self.penalty.until
            and self.slots.free(entry.priority)
            and self._gates.wait(entry.gate, entry.cost, entry.priority, self.rates, now) <= 0.0
        ):
            entry.lane = lane
            entry.ready_since = now
            entry.claims.append(claim)
            self._leave(entry, lane, now, answers=entry.priority is _ANSWER)
            return claim, True
        self._enqueue(claim, entry, lane, now)
        return claim, False

    def _enqueue(self, claim: Claim, entry: Entry, lane: Lane, now: float) -> None:
        backlog = self.backlog
        held = self._held_until(lane.chat)
        reason = None
        if held - now > self.max_wait:
            reason = Reason.HELD
        elif claim.expires_at < held:
            reason = Reason.DEADLINE
        elif backlog.is_full(entry.priority):
            reason = Reason.FULL
        if reason is not None:
            backlog.refuse(claim, reason)
            lane.chat.drop_if_unused(lane)
            return
        if backlog.join(claim, entry) is None:
            entry.claims.append(claim)
            backlog.add(entry, lane)
        self._turns.place(lane, self.rates, now)

    # Going out.

    def poll(self, now: float) -> tuple[list[Entry], list[tuple[Claim, Reason]]]:
        """What may leave now, in order, and the claims that are over; each is told once."""
        self._expire(now)
        turns = self._turns
        turns.unblock(self.rates, now)
        granted: list[Entry] = []
        if now >= self.penalty.until:
            while (lane := turns.next(self.rates, now)) is not None:
                entry = lane.head
                answers = lane.priority == _ANSWER
                entry.ready_since = turns.take(lane)
                entry.starved = now - entry.ready_since >= STARVED
                self.backlog.remove(entry)
                self._leave(entry, lane, now, answers=answers)
                turns.place(lane, self.rates, now)
                granted.append(entry)
        return granted, self.backlog.take_failed()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing waits, and no claim is over that :meth:`poll` has not told yet."""
        return not self.backlog.claims and not self.backlog.failed

    def wake_at(self, now: float) -> float:
        """When to poll again if nothing happens before; inf: no need to."""
        if self.backlog.failed:
            return now
        turns = self._turns
        at = min(turns.unblock_at, self.backlog.next_deadline)
        if turns.any_ready:
            held = self.penalty.until
            return min(at, held if now < held else turns.leave_at(self.rates, now))
        return at if self.backlog.claims else min(at, self.chats.forget_at(self.rates))

    def _leave(self, entry: Entry, lane: Lane, now: float, *, answers: bool) -> None:
        entry.departed = now
        entry.answers = answers
        entry.attempts += 1
        entry.limit = limit = lane.limit
        lane.in_flight += 1
        self.slots.take()
        self._gates.leave(entry.gate, entry.cost, self.rates, now, answers=answers)
        if limit is not None:
            limit.leave(entry.cost, self.rates, now)

    # Ends of what was in flight.

    def finished(self, entry: Entry, now: float, *, again: bool = False) -> list[Claim]:
        """It was sent, or failed, or nobody knows: it counts. The claims that shared it are over and given
        back; with ``again`` those that are left wait for another try, at the head."""
        if entry.limit is not None:
            entry.limit.answered(entry.cost, self.rates, entry.departed, now)
        return self._end(entry, now, again=again)

    def given_back(self, entry: Entry, now: float) -> None:
        """It has not left after all: it does not count. Its callers wait on, at the head of the lane."""
        self._uncount(entry)
        self._gates.give_back(entry.gate, entry.cost, entry.departed, answers=entry.answers)
        entry.attempts -= 1
        self._end(entry, now, again=True)

    def deferred(self, entry: Entry, now: float, *, chat: float = 0.0, gate: float = 0.0) -> None:
        """It has not left: other instances fill its chat's windows for ``chat`` seconds more, or the window
        of all chats for ``gate``. It keeps its turn."""
        lane = entry.lane
        assert lane is not None
        if chat > 0.0:
            lane.not_before = now + chat
        if gate > 0.0:
            self._gates.close(entry.gate, now + gate)
        self.given_back(entry, now)
        self._turns.put_first(lane, entry.ready_since)

    def refused(
        self, entry: Entry, seconds: float, jitter: float, now: float, *, repeat: bool
    ) -> tuple[bool, bool, list[Claim]]:
        """Telegram refused it for ``seconds``: (whether all chats are held, whether it waits for
        another try, the claims that are over otherwise).

        Its chat is held, or all if it has none. Without ``repeat`` it is not tried again.
        """
        lane = entry.lane
        assert lane is not None
        chat = lane.chat
        self._uncount(entry)
        until = now + seconds + jitter
        for_all = True
        if chat.id is None:
            self._hold_all(until, now)
        else:
            chat.held_until = max(chat.held_until, until)
            chat.slowdown.refused(now, until)
            # Methods that are held by themselves say nothing about all chats.
            for_all = not is_method(chat.id) and self.penalty.refused(chat.id, now, until)
            if for_all:
                self._hold_all(until, now)
            else:
                self._apply_hold(chat, now)
        held = self._held_until(chat)
        again = repeat and entry.attempts < MAX_ATTEMPTS and held - now <= self.max_wait
        return for_all, again, self._end(entry, now, again=again)

    def debt_before(self, entry: Entry, now: float) -> float:
        """In how many seconds the bucket of its private chat would be full without it."""
        limit = entry.limit
        if not isinstance(limit, PrivateLimit):
            return 0.0
        return limit.debt_before(entry.cost, self.rates, entry.departed, now)

    def _uncount(self, entry: Entry) -> None:
        if entry.limit is not None:
            entry.limit.give_back(entry.cost, self.rates, entry.departed)

    def _end(self, entry: Entry, now: float, *, again: bool) -> list[Claim]:
        lane = entry.lane
        assert lane is not None
        chat = lane.chat
        lane.in_flight -= 1
        self.slots.give_back()
        over: list[Claim] = []
        if again and entry.claims:
            self.backlog.put_back(entry, lane)
            self.backlog.fail_unreachable(lane, self._held_until(chat))
        else:
            over = _over(entry)
            entry.lane = None
        for other in list(chat.lanes.values()):
            self._turns.place(other, self.rates, now)
        return over

    # Callers that give up, and requests that need not be sent.

    def withdraw(self, claim: Claim, now: float) -> None:
        """Its caller gave up while it waited."""
        entry = claim.entry
        if entry is None:
            return
        lane = entry.lane
        assert lane is not None
        if entry not in lane:
            # In flight: when it ends, the callers that are left are looked after.
            claim.entry = None
            entry.drop(claim)
            return
        self.backlog.withdraw(claim)
        self._turns.place(lane, self.rates, now)

    def drop_edits(self, chat: Chat, message_id: object, now: float) -> int:
        """The message is being deleted: edits of it that wait are over. How many callers had wanted one."""
        dropped = 0
        for entry in self.backlog.edits_of_all(chat, message_id):
            lane = entry.lane
            assert lane is not None
            dropped += len(entry.claims)
            self.backlog.fail_all(entry, Reason.DELETED)
            self._turns.place(lane, self.rates, now)
        return dropped

    def edits_waiting(self, message: Key) -> list[Entry]:
        """The edits of a message that wait."""
        return self.backlog.edits_of(message)

    def end_waiting(self, entry: Entry, now: float) -> list[Claim]:
        """It need not be sent any more: the claims that shared it, over."""
        lane = entry.lane
        assert lane is not None
        self.backlog.remove(entry)
        self._turns.place(lane, self.rates, now)
        return _over(entry)

    def waiting(self) -> list[Claim]:
        """Every claim that waits."""
        return [claim for entry in self._entries() for claim in entry.claims]

    def abandon(self, now: float) -> list[Claim]:
        """The event loop of all callers has ended: nobody waits, and nobody tells of what is in flight.

        That counts as sent now, since it may have been. Windows and penalties stay. Returns the claims that
        had waited.
        """
        over = self.waiting()
        for claim in over:
            claim.entry = None
        for chat in self.chats:
            chat.abandon(now)
        self.slots.clear()
        self.backlog.clear()
        self._turns.clear()
        return over

    def _entries(self) -> list[Entry]:
        return [entry for chat in self.chats for lane in chat.lanes.values() for entry in lane.waiting]

    def _expire(self, now: float) -> None:
        while (claim := self.backlog.pop_expired(now)) is not None:
            assert claim.entry is not None
            lane = claim.entry.lane
            self.backlog.fail(claim, Reason.DEADLINE)
            if lane is not None:
                self._turns.place(lane, self.rates, now)

    # Holds.

    def hold(self, chat: Chat, seconds: float, now: float) -> None:
        """Send nothing to this chat, or to anybody if it is None, for so long."""
        if chat is None:
            self._hold_all(now + seconds, now)
            return
        state = self.chats.use(chat, self.rates, now)
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
            self._turns.place(lane, self.rates, now)
        return True

    def holds(self, now: float) -> Iterable[tuple[Chat, float, float]]:
        """Chats (None: all) held or slowed down: for how many seconds, and their share of their rate."""
        if self.penalty.until > now:
            yield None, self.penalty.until - now, 1.0
        yield from self.chats.holds(now)

    def _held_until(self, chat: ChatState) -> float:
        return max(chat.held_until, self.penalty.until)

    def _hold_all(self, until: float, now: float) -> None:
        self.penalty.hold(until)
        if self.penalty.until <= now:
            return
        for chat in list(self.chats):
            if chat.lanes:
                self._apply_hold(chat, now)

    def _apply_hold(self, chat: ChatState, now: float) -> None:
        held = self._held_until(chat)
        for lane in list(chat.lanes.values()):
            if held - now > self.max_wait:
                for entry in lane.waiting:
                    self.backlog.fail_all(entry, Reason.HELD)
            else:
                self.backlog.fail_unreachable(lane, held)
            self._turns.place(lane, self.rates, now)

    def check_invariants(self) -> None:
        self.chats.check_invariants()
        self.backlog.check_invariants(self._entries())
        self._gates.check_invariants()
        lanes = [lane for chat in self.chats for lane in chat.lanes.values()]
        self._turns.check_invariants(lanes)
        assert self.slots.taken == sum(lane.in_flight for lane in lanes)


def _over(entry: Entry) -> list[Claim]:
    """The claims that shared it, which are over."""
    over, entry.claims = entry.claims, []
    for claim in over:
        claim.entry = None
    return over
