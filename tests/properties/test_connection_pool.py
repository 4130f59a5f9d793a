"""The pool against a driver that may do anything, in any order, at any time.

Whatever callers and servers do: a connection has one holder, waiters are served in the order they came,
the bound holds, and once the server is well again everybody is served.
"""

from __future__ import annotations

import random

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bot.core.connection_pool_manager.models import PoolOptions
from bot.core.connection_pool_manager.pool import (
    Check,
    Close,
    Grant,
    Open,
    Pool,
    Refuse,
    Reset,
    Slot,
    Verdict,
    Waiter,
)
from tests.support.searching import searching


class FakeConnection:
    def __init__(self) -> None:
        self.is_open = True


class PoolMachine(RuleBasedStateMachine):
    @initialize(
        low=st.integers(0, 3), more=st.integers(1, 4), validate_after=st.sampled_from([0.0, 0.5, 100.0])
    )
    def create(self, low: int, more: int, validate_after: float) -> None:
        self.now = 1000.0
        self.number = 0
        options = PoolOptions(
            min_size=low, max_size=low + more, idle_timeout=20.0, max_lifetime=60.0, keepalive_interval=15.0,
            leak_threshold=10.0, validate_after=validate_after,
        ).validate()  # fmt: skip
        self.pool = Pool(options, is_open=lambda raw: raw.is_open, rng=random.Random(1))
        self.work: list[Open | Close | Check | Reset] = []  # what the driver is doing
        self.queue: list[Waiter] = []  # who waits, in the order they came
        self.held: dict[Slot, object] = {}  # connection -> its one holder
        self.refused: set[Waiter] = set()

    def do(self, actions: list[object]) -> None:
        for action in actions:
            if isinstance(action, Grant):
                assert action.waiter is self.queue.pop(0), "first come, first served"
                self.hold(action.slot, action.waiter)
            elif isinstance(action, Refuse):
                self.refused.add(action.waiter)
                if action.waiter in self.queue:
                    self.queue.remove(action.waiter)
            elif isinstance(action, Open | Close | Check | Reset):
                self.work.append(action)

    def hold(self, slot: Slot, holder: object) -> None:
        assert slot not in self.held, "one holder"
        assert not slot.suspect, "nobody gets a connection that may lead to a demoted server, unasked"
        assert self.now < slot.expires_at, "nobody gets a connection past its lifetime"
        assert slot.raw.is_open, "nobody gets a connection that is known to be closed"
        self.held[slot] = holder

    # Callers.

    @rule()
    def take(self) -> None:
        waiting = bool(self.queue)
        slot = self.pool.take(self.now)
        if slot is not None:
            assert not waiting, "nobody overtakes who waits"
            self.hold(slot, "taker")

    @rule()
    def take_at_once(self) -> None:
        waiting = bool(self.queue)
        slot = self.pool.take_at_once(self.now)
        if slot is not None:
            assert not waiting, "nobody overtakes who waits"
            self.hold(slot, "taker")

    @rule()
    def request(self) -> None:
        waiter = Waiter(self.now)
        self.queue.append(waiter)
        self.do(self.pool.request(waiter, self.now))

    @precondition(lambda self: self.queue)
    @rule(data=st.data(), cancelled=st.booleans())
    def give_up_waiting(self, data: st.DataObject, cancelled: bool) -> None:
        waiter = self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))
        self.do(self.pool.withdraw(waiter, self.now, cancelled=cancelled))

    @precondition(lambda self: any(isinstance(holder, Waiter) for holder in self.held.values()))
    @rule(data=st.data())
    def be_cancelled_just_as_it_is_granted(self, data: st.DataObject) -> None:
        granted = [(slot, holder) for slot, holder in self.held.items() if isinstance(holder, Waiter)]
        slot, waiter = data.draw(st.sampled_from(granted))
        del self.held[slot]
        if waiter.slot is None:  # had it been taken up, this would be a release
            verdict = Verdict.CLEAN if slot.raw.is_open else Verdict.BROKEN
            self.do(self.pool.release(slot, self.now, verdict))
        else:
            self.do(self.pool.withdraw(waiter, self.now, cancelled=True))

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        verdict=st.sampled_from([one for one in Verdict if one is not Verdict.DEMOTED]),
        demoted=st.sampled_from([False, False, True]),
    )
    def release(self, data: st.DataObject, verdict: Verdict, demoted: bool) -> None:
        slot = data.draw(st.sampled_from(list(self.held)))
        del self.held[slot]
        if verdict is Verdict.CLEAN and not slot.raw.is_open:
            verdict = Verdict.BROKEN  # no driver calls a closed connection clean
        if verdict is Verdict.CLEAN and not demoted and not slot.touched:
            if self.pool.put(slot, self.now):
                return
            if (waiter := self.pool.hand_over(slot, self.now)) is not None:
                self.do([Grant(waiter, slot)])
                return
        self.do(self.pool.release(slot, self.now, verdict, demoted=demoted))

    @rule(low=st.integers(0, 3), more=st.integers(1, 4), lifetime=st.sampled_from([30.0, 60.0]))
    def be_resized(self, low: int, more: int, lifetime: float) -> None:
        options = msgspec.structs.replace(
            self.pool.options, min_size=low, max_size=low + more, max_lifetime=lifetime
        )
        self.do(self.pool.reconfigure(options.validate(), self.now))

    # Time, and the server.

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.6, 3.0, 12.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def tick(self) -> None:
        self.do(self.pool.tick(self.now))

    @rule(data=st.data())
    def a_connection_breaks(self, data: st.DataObject) -> None:
        known = [*self.pool.idle, *self.held, *self.pool.proving]
        if known:
            data.draw(st.sampled_from(known)).raw.is_open = False

    @precondition(lambda self: self.work)
    @rule(data=st.data(), works=st.booleans(), primary=st.sampled_from([True, False, None]))
    def the_driver_finishes(self, data: st.DataObject, works: bool, primary: bool | None) -> None:
        self.finish(self.work.pop(data.draw(st.integers(0, len(self.work) - 1))), works, primary)

    def finish(self, action: Open | Close | Check | Reset, works: bool, primary: bool | None = True) -> None:
        if isinstance(action, Open):
            if works:
                self.number += 1
                slot = Slot(FakeConnection(), self.number)
                asked = self.pool.demoted_since is not None
                self.do(self.pool.opened(slot, self.now, is_primary=primary if asked else None))
            else:
                self.do(self.pool.open_failed(ConnectionError("refused"), self.now))
        elif isinstance(action, Close):
            self.do(self.pool.closed(action.slot, self.now))
        else:
            works = works and action.slot.raw.is_open
            if isinstance(action, Check):
                is_for_primary = action.is_for_primary
                self.do(self.pool.checked(action.slot, works, self.now, is_for_primary=is_for_primary))
            else:
                self.do(self.pool.was_reset(action.slot, works, self.now))

    # What holds.

    @invariant()
    def parts_agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.check_invariants()
        assert self.pool.leased == set(self.held)
        assert list(self.pool.waiters) == self.queue
        assert self.pool.opening == sum(isinstance(action, Open) for action in self.work)
        assert self.pool.total <= max(self.pool.options.max_size, self.pool.shrinks_from)
        attempts = [action for action in self.work if isinstance(action, Open)]
        if self.pool.failures:
            assert sum(action.delay > 0 for action in attempts) <= 1, "an outage is no reason for a storm"

    def teardown(self) -> None:
        """The server is well, callers give back: everybody is served, and the pool is full to its minimum."""
        if not hasattr(self, "pool"):
            return
        self.do(self.pool.tick(self.now))
        for _ in range(10_000):
            if self.work:
                self.finish(self.work.pop(0), True)
            elif self.held:
                slot, _ = self.held.popitem()
                verdict = Verdict.CLEAN if slot.raw.is_open else Verdict.BROKEN
                self.do(self.pool.release(slot, self.now, verdict))
            else:
                break
        assert not self.queue, "somebody waits for ever"
        assert not self.work
        pool = self.pool
        assert pool.options.max_size >= pool.total == len(pool.idle) >= pool.options.min_size
        assert not pool.is_strict, "the short ways of giving back are open again"
        waiting = Waiter(self.now)
        self.do(pool.close(self.now))
        self.do(pool.request(waiting, self.now))
        assert waiting in self.refused
        while self.work:
            self.finish(self.work.pop(), True)
        assert pool.total == 0
        assert pool.counters.acquired == pool.counters.released
        pool.check_invariants()


PoolMachine.TestCase.settings = searching(150, stateful_step_count=60)
TestPool = PoolMachine.TestCase
