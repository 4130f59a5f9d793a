"""A bucket against the definition of a rate limit, over random traffic."""

import heapq
import itertools
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.line import Line, Waiter
from bot.core.rate_limiter.models import EARLY, RateLimitConfig
from bot.core.rate_limiter.penalty import Penalties
from tests.support.searching import searching


def buckets(limit, base=0.5, cap=60.0):
    return Buckets(limit, Penalties(base, max(base, cap), 1.0, 1 / limit.requests_per_second))


rates = st.floats(min_value=0.001, max_value=100_000)
bursts = st.integers(min_value=1, max_value=1_000)
gaps = st.floats(min_value=0, max_value=100)


@given(
    rate=rates,
    burst=bursts,
    start=st.floats(min_value=0, max_value=1e6),
    traffic=st.lists(st.tuples(gaps, st.integers(1, 5)), max_size=60),
)
def test_never_more_than_the_burst_and_the_rate_in_any_window(rate, burst, start, traffic):
    b = buckets(RateLimitConfig(rate, burst))
    now = start
    taken = []
    for gap, tokens in traffic:
        now += gap / rate  # in units of a token's time, so that every rate is really probed
        tokens = min(tokens, burst)
        if b.take("c", now, tokens) >= 0:
            taken.append((now, tokens))
    for index, (begin, _) in enumerate(taken):
        total = 0
        for end, tokens in taken[index:]:
            total += tokens
            assert total <= burst + rate * (end - begin + EARLY) + 1e-6 * rate + 1e-6


@given(
    rate=rates,
    burst=bursts,
    start=st.floats(min_value=0, max_value=1e6),
    tokens=st.integers(1, 5),
    early=st.integers(0, 6),
)
def test_waiting_retry_after_succeeds_and_waiting_less_does_not(rate, burst, start, tokens, early):
    tokens = min(tokens, burst)

    def refused_once():
        b = buckets(RateLimitConfig(rate, burst))
        assert b.take("c", start, burst) >= 0
        slack = b.take("c", start, tokens)
        for _ in range(early):  # violations lengthen the wait, and keep it exact
            slack = b.take("c", start, tokens)
        return b, -slack

    b, wait = refused_once()
    assert wait > 0
    assert b.take("c", start + wait, tokens) >= 0
    b, wait = refused_once()
    if wait > 2 * EARLY:
        assert b.take("c", start + wait * 0.999 - 1.1 * EARLY, tokens) < 0


@given(rate=rates, burst=bursts, start=st.floats(0, 1e6), count=st.integers(1, 300), tokens=st.integers(1, 3))
def test_a_burst_at_one_moment_is_told_at_most_the_refill_time(rate, burst, start, count, tokens):
    tokens = min(tokens, burst)
    b = buckets(RateLimitConfig(rate, burst))
    told = [b.take("c", start, tokens) for _ in range(burst // tokens + count)]
    assert -min(told) <= tokens / rate + 1e-6
    assert b.penalties.violations("c") == 0


@given(
    rate=st.floats(0.01, 100),
    burst=st.integers(1, 20),
    arrivals=st.lists(st.tuples(st.floats(0, 0.9), st.integers(1, 3)), min_size=1, max_size=60),
    late=st.lists(st.floats(-0.001, 0.005), min_size=1, max_size=7),
)
@settings(deadline=None)
def test_requests_that_wait_as_told_are_never_punished(rate, burst, arrivals, late):
    """Many handlers of one client, which each come back when they were told, give or take an event loop."""
    b = buckets(RateLimitConfig(rate, burst), base=1000.0)
    order = itertools.count()
    lateness = itertools.cycle(late)
    # The messages came within the grace, one token each: none of them knew of another's refusal.
    waiting = [(arrived, next(order)) for arrived, _ in arrivals]
    heapq.heapify(waiting)
    for _ in range(2_000):
        if not waiting:
            break
        now, number = heapq.heappop(waiting)
        slack = b.take("c", now)
        assert slack > -(len(arrivals) + 1) / rate - 1, "a wait of its own making"
        if slack < 0:
            heapq.heappush(waiting, (max(now - slack + next(lateness), now), number))
    assert b.penalties.violations("c") == 0


@given(
    rate=st.floats(0.001, 50),
    burst=st.integers(1, 20),
    steps=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 20), st.booleans()), max_size=80),
)
def test_a_client_that_never_comes_back_too_early_is_never_punished(rate, burst, steps):
    b = buckets(RateLimitConfig(rate, burst), base=1000.0)
    now = told = 1000.0
    for gap, tokens, album in steps:
        now = max(now, told) + gap / rate
        for _ in range(10 if album else 1):  # what is sent at one moment was not yet told
            slack = b.take("c", now, min(tokens, burst))
            told = max(told, now - slack) if slack < 0 else told
    assert b.penalties.violations("c") == 0


@given(
    rate=st.floats(0.1, 20),
    burst=st.integers(1, 50),
    per_token=st.floats(4.0, 50.0),
)
@searching(30)
def test_who_hammers_is_punished_more_and_more(rate, burst, per_token):
    b = buckets(RateLimitConfig(rate, burst), base=2.0, cap=64.0)
    now, longest = 0.0, 0.0
    end = burst / rate + 80.0 + 40 / rate
    while now < end:
        longest = max(longest, -b.take("c", now))
        now += 1 / rate / per_token
    assert longest >= 8.0


class Waits(RuleBasedStateMachine):
    """A line of waits that come and give up, against one that is reckoned anew each time."""

    def __init__(self):
        super().__init__()
        self.line = Line(None)
        self.number = 0
        self.model = []  # [order, cost, ready]

    @rule(cost=st.integers(1, 4), pause=st.integers(0, 3))
    def join(self, cost, pause):
        self.number += 1
        before = self.model[-1][2] if self.model else 0
        waiter = Waiter(float(cost), (1.0, float(self.number)), None)
        self.line.join(waiter, float(before + cost + pause))
        self.model.append([waiter, cost, before + cost + pause])

    @precondition(lambda self: self.model)
    @rule(which=st.integers(0, 99), given_back=st.booleans())
    def leave(self, which, given_back):
        index = which % len(self.model)
        waiter, cost, _ = self.model.pop(index)
        self.line.leave(waiter, given_back)
        for other in self.model[index:] if given_back else ():
            other[2] -= cost

    @precondition(lambda self: self.model)
    @rule(which=st.integers(0, 99))
    def one_of_another_process_leaves(self, which):
        index = which % len(self.model)
        self.line.move_up((1.0, self.model[index][0].order[1] + 0.5), 1.0)
        for other in self.model[index + 1 :]:
            other[2] -= 1

    @rule(now=st.integers(0, 40))
    def serve(self, now):
        due = []
        while self.model and self.model[0][2] <= now:
            due.append(self.model.pop(0)[0])
        assert self.line.due(float(now)) == due

    @invariant()
    def times_agree(self):
        ready = self.line.first_ready
        for index, (waiter, (expected, _, at)) in enumerate(zip(self.line.waiters, self.model, strict=True)):
            ready += waiter.gap if index else 0.0
            assert waiter is expected
            assert ready == at
        if self.model:
            assert self.line.last_ready == self.model[-1][2]


TestWaits = Waits.TestCase
TestWaits.settings = searching(60, stateful_step_count=40)


class ManyClients(RuleBasedStateMachine):
    """A limiter's buckets against one bucket per client that is never forgotten."""

    def __init__(self):
        super().__init__()
        self.now = 1_000.0
        self.make = lambda: buckets(RateLimitConfig(2.0, 3), 1.0, 8.0)
        self.shared = self.make()
        self.own = defaultdict(self.make)

    @rule(client=st.integers(0, 20), tokens=st.integers(1, 3))
    def take(self, client, tokens):
        expected = self.own[client].take(client, self.now, tokens)
        assert self.shared.take(client, self.now, tokens) == expected

    @rule(gap=st.floats(0, 5))
    def wait(self, gap):
        self.now += gap

    @rule(count=st.integers(1, 3_000))
    def crowd(self, count):
        for stranger in range(count):
            self.shared.take(f"{self.now}-{stranger}", self.now)

    @rule(client=st.integers(0, 20))
    def forgive(self, client):
        self.shared.forget(client, self.now)
        self.own.pop(client, None)

    @invariant()
    def parts_agree(self):
        self.shared.check_invariants(self.now)


TestManyClients = ManyClients.TestCase
TestManyClients.settings = searching(40, stateful_step_count=40)
