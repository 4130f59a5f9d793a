"""A bucket against the definition of a rate limit, over random traffic."""

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.models import RateLimitConfig
from bot.core.rate_limiter.penalty import Penalties

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
    b = Buckets(RateLimitConfig(rate, burst), Penalties(0.5, 60))
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
            assert total <= burst + rate * (end - begin) + 1e-6 * rate + 1e-6


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
        b = Buckets(RateLimitConfig(rate, burst), Penalties(0.5, 60))
        assert b.take("c", start, burst) >= 0
        slack = b.take("c", start, tokens)
        for _ in range(early):  # violations lengthen the wait, and keep it exact
            slack = b.take("c", start, tokens)
        return b, -slack

    b, wait = refused_once()
    assert wait > 0
    assert b.take("c", start + wait, tokens) >= 0
    b, wait = refused_once()
    if wait > 1e-6:
        assert b.take("c", start + wait * 0.999 - 2e-9, tokens) < 0


class ManyClients(RuleBasedStateMachine):
    """A limiter's buckets against one bucket per client that is never forgotten."""

    def __init__(self):
        super().__init__()
        self.now = 1_000.0
        self.make = lambda: Buckets(RateLimitConfig(2.0, 3), Penalties(1.0, 8.0))
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
        self.shared.forget(client)
        self.own.pop(client, None)

    @invariant()
    def parts_agree(self):
        self.shared.check_invariants(self.now)


TestManyClients = ManyClients.TestCase
TestManyClients.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
