"""The scheduler of outbound under any order of submits, answers, refusals, cancellations and waits."""

import math

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from bot.core.outbound.lanes import Entry
from bot.core.outbound.models import Kind, Limits, Priority
from bot.core.outbound.scheduler import Scheduler
from tests.support.searching import searching

CHATS = [-1, -1, -1, -1, "@c", 5, 6, None]
"""Mostly one group, so that its window fills."""
LIMITS = Limits(group=(3, 60.0), chat=(1, 1.0), chat_burst=2, bulk=(6, 1.0), typing=((2, 5.0),))
OTHERS = [
    LIMITS,
    replace(LIMITS, edits="separate"),
    replace(LIMITS, typing=()),
    replace(LIMITS, typing=((2, 5.0), (3, 30.0))),
]
"""What else the limits may become; those that are checked below stay."""


class SchedulerMachine(RuleBasedStateMachine):
    """Against plain lists: who left when, and who is in flight."""

    def __init__(self):
        super().__init__()
        self.scheduler = Scheduler(LIMITS, max_pending=50, max_in_flight=6, max_wait=600.0)
        self.now = 100.0
        self.in_flight = []
        self.claims = []
        self.received = {}
        self.bulk = []
        self.held = {}
        self.held_all = -math.inf
        self.number = 0
        self.numbers = {}
        self.last = {}

    def left(self, entry):
        assert self.now >= self.held.get(entry.chat, -math.inf), "left inside its chat's penalty"
        assert self.now >= self.held_all, "left inside a penalty for all"
        if entry.kind is Kind.SEND and entry.chat is not None:
            number = self.numbers[entry]
            assert number >= self.last.get(entry.chat, -1), "out of order"
            self.last[entry.chat] = number
            assert all((other.chat, other.kind) != (entry.chat, entry.kind) for other in self.in_flight)
            if not isinstance(entry.chat, int) or entry.chat < 0:
                counted = [at for at in self.received.get(entry.chat, []) if at + 60.0 > self.now]
                flying = [e for e in self.in_flight if e.chat == entry.chat and e.kind is Kind.SEND]
                assert len(counted) + len(flying) < 3, "more than the window allows"
        if entry.kind in (Kind.SEND, Kind.EDIT) and entry.priority is not Priority.ANSWER:
            self.bulk = [at for at in self.bulk if at + 1.0 > self.now]
            assert len(self.bulk) < 5, "more than bulk allows to all but answers"
            self.bulk.append(self.now)
        self.in_flight.append(entry)
        assert len(self.in_flight) <= 6

    def poll(self):
        granted, failed = self.scheduler.poll(self.now)
        for entry in granted:
            self.left(entry)
        for claim, _ in failed:
            assert claim.entry is None

    @rule(
        chat=st.sampled_from(CHATS),
        kind=st.sampled_from([Kind.SEND, Kind.SEND, Kind.SEND, Kind.TYPING, Kind.EDIT, Kind.OTHER]),
        priority=st.sampled_from([Priority.NOTIFY, Priority.BROADCAST]),
        deadline=st.sampled_from([None, None, 0.5, 100.0]),
        replaceable=st.booleans(),
    )
    def submit(self, chat, kind, priority, deadline, replaceable):
        key = (kind, chat) if replaceable and kind in (Kind.TYPING, Kind.EDIT) else None
        message = (chat, 1) if kind is Kind.EDIT else None
        entry = Entry(kind, chat, priority=priority, key=key, message=message)
        self.number += 1
        self.numbers[entry] = self.number
        claim, granted = self.scheduler.submit(entry, self.now, deadline)
        if granted:
            self.left(entry)
        elif claim.entry is not None:
            self.claims.append(claim)
        self.poll()

    @precondition(lambda self: self.in_flight)
    @rule()
    def answer_all(self):
        for entry in list(self.in_flight):
            self.end(entry, again=False)
        self.poll()

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), again=st.booleans())
    def answer(self, data, again):
        self.end(self.in_flight[data.draw(st.integers(0, len(self.in_flight) - 1))], again=again)
        self.poll()

    def end(self, entry, *, again):
        self.in_flight.remove(entry)
        self.scheduler.finished(entry, self.now, again=again and entry.kind is Kind.TYPING)
        if entry.kind is Kind.SEND:
            self.received.setdefault(entry.chat, []).append(self.now)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 3.0, 41.0, 700.0]), repeat=st.booleans())
    def refuse(self, data, seconds, repeat):
        entry = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        for_all, _, _ = self.scheduler.refused(entry, seconds, 0.1, self.now, repeat=repeat)
        until = self.now + seconds + 0.1
        if for_all:
            self.held_all = max(self.held_all, until)
        if entry.chat is not None:
            self.held[entry.chat] = max(self.held.get(entry.chat, -math.inf), until)
        self.poll()

    @rule(chat=st.sampled_from(CHATS))
    def release(self, chat):
        held = self.held_all if chat is None else self.held.get(chat, -math.inf)
        assert self.scheduler.release(chat, self.now) == (held > self.now)
        if chat is None:
            self.held_all = -math.inf
        else:
            self.held[chat] = -math.inf
        self.poll()

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def give_up(self, data):
        claim = self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))
        entry = claim.entry
        if entry in self.in_flight and entry.claims == [claim]:
            self.in_flight.remove(entry)
            if entry.kind in (Kind.SEND, Kind.EDIT) and entry.departed in self.bulk:
                self.bulk.remove(entry.departed)
            self.scheduler.withdraw(claim, self.now)
            self.scheduler.given_back(entry, self.now)
        elif entry is not None and entry not in self.in_flight:
            self.scheduler.withdraw(claim, self.now)
        self.poll()

    @rule(limits=st.sampled_from(OTHERS))
    def configure(self, limits):
        self.scheduler.configure(limits, self.now, max_pending=50, max_in_flight=6, max_wait=600.0)
        self.poll()

    @rule(chat=st.sampled_from(CHATS), seconds=st.sampled_from([0.0, 5.0, 700.0]))
    def hold(self, chat, seconds):
        self.scheduler.hold(chat, seconds, self.now)
        if chat is None:
            self.held_all = max(self.held_all, self.now + seconds)
        else:
            self.held[chat] = max(self.held.get(chat, -math.inf), self.now + seconds)
        self.poll()

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), chat=st.sampled_from([0.0, 0.5]), gate=st.sampled_from([0.0, 0.5]))
    def defer(self, data, chat, gate):
        """Redis has no room for it."""
        entry = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        if entry.kind in (Kind.SEND, Kind.EDIT) and entry.departed in self.bulk:
            self.bulk.remove(entry.departed)
        self.scheduler.deferred(entry, self.now, chat=chat, gate=gate)
        self.poll()

    @rule(message=st.sampled_from(CHATS))
    def delete(self, message):
        self.scheduler.drop_edits(message, 1, self.now)
        self.poll()

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 7.0, 61.0]))
    def wait(self, seconds):
        """Time passes as with a service's timer: poll when the scheduler asks for it."""
        end = self.now + seconds
        for _ in range(200):
            at = self.scheduler.wake_at(self.now)
            if at > end:
                break
            self.now = max(self.now + 1e-4, at)
            self.scheduler.chats.forget_idle(self.scheduler.rates, self.now)
            self.poll()
        self.now = max(self.now, end)
        self.poll()

    @invariant()
    def holds(self):
        self.scheduler.check_invariants()
        assert self.scheduler.slots.taken == len(self.in_flight)
        assert self.scheduler.pending <= 50

    def teardown(self):
        """Whatever happened, all that waits leaves in the end, and nothing is remembered."""
        for _ in range(3000):
            while self.in_flight:
                self.scheduler.finished(self.in_flight.pop(), self.now)
                self.poll()
            if not self.scheduler.pending:
                break
            at = self.scheduler.wake_at(self.now)
            assert at < math.inf, "something waits and nothing will wake it"
            self.now = max(self.now + 1e-4, at)
            self.received.clear()
            self.bulk.clear()
            self.poll()
        assert not self.scheduler.pending
        assert not self.in_flight
        self.scheduler.chats.forget_idle(self.scheduler.rates, self.now + 10_000.0)
        assert not self.scheduler.chats


SchedulerMachine.TestCase.settings = searching(150, stateful_step_count=60)
TestScheduler = SchedulerMachine.TestCase
