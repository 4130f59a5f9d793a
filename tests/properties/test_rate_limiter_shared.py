"""The script against the local bucket over random traffic: sharing changes where a bucket is, not what it is.

The script's two uses of real time are replaced, so that both are told the same time: its clock, and
the life of its keys, which would end in real time.
"""

import math
import struct

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from bot.core._shared.clock import SYSTEM_CLOCK
from bot.core.rate_limiter.bucket import Buckets
from bot.core.rate_limiter.mirror import PEEK, REFUND, RESERVE, Mirror, client_key
from bot.core.rate_limiter.models import RateLimitConfig
from bot.core.rate_limiter.penalty import UNTIL, Penalties
from bot.core.rate_limiter.shared import script_source
from tests.support.searching import searching

LIMITS = [RateLimitConfig(2.0, 3), RateLimitConfig(0.25, 2), RateLimitConfig(8.0, 4)]
CLIENTS = [1, "1"]


def script_told_the_time():
    source = script_source()
    for real, told in (
        ("call('TIME')", "{ARGV[#KEYS + 1], ARGV[#KEYS + 2]}"),
        ("min(longest, LONGEST) * 1000)", "min(longest, LONGEST) * 1000000)"),
    ):
        assert source.count(real) == 1
        source = source.replace(real, told)
    return source


def penalties(limit):
    return Penalties(1.0, 8.0, 1.0, 1 / limit.requests_per_second)


@pytest.fixture(scope="module")
def script(redis_url):
    client = redis.Redis.from_url(redis_url)
    client.ping()
    yield client.register_script(script_told_the_time())
    client.close()


class SharedAndLocal(RuleBasedStateMachine):
    script = None

    def __init__(self):
        super().__init__()
        # Sixty-fourths of a second, which neither microseconds nor floats round.
        self.ticks = 64 * 1_790_000_000
        self.local = [Buckets(limit, penalties(limit)) for limit in LIMITS]
        self.mirrors = [
            Mirror(limit, penalties(limit), SYSTEM_CLOCK, "config", str(n)) for n, limit in enumerate(LIMITS)
        ]
        self.places = []
        self.since = {}

    @initialize()
    def start_with_nothing(self):
        self.script.registered_client.delete(*map(client_key, CLIENTS))

    @property
    def now(self):
        return self.ticks / 64

    def ask(self, calls):
        """Results of (client, argument) pairs, in one call of the script."""
        seconds, part = divmod(self.ticks, 64)
        answer = self.script(
            keys=[client_key(client) for client, _ in calls],
            args=[*[argument for _, argument in calls], seconds, part * 15_625],
        )
        now, *numbers = struct.unpack(f"<{1 + 4 * len(calls)}d", answer)
        assert now == self.now
        return list(zip(*(numbers[n::4] for n in range(4)), strict=True))

    def settle(self, limit, client):
        """The local bucket, forgotten if it is full, as it may be at any time."""
        local = self.local[limit]
        record = local.records.get(client, [0.0])
        if (
            local.peek(client, self.now) == local.tolerance
            and record[UNTIL] <= self.now
            and not local.penalties.matters(client, self.now)
        ):
            local.forget(client, self.now)
        return local

    checks = st.tuples(st.sampled_from(range(3)), st.sampled_from(CLIENTS), st.integers(1, 3))

    @rule(checks=st.lists(checks, min_size=1, max_size=4), times=st.integers(1, 3))
    def take_in_one_tick(self, checks, times):
        checks = times * [(n, client, min(tokens, LIMITS[n].burst_size)) for n, client, tokens in checks]
        expected = []
        for n, client, tokens in checks:
            local = self.settle(n, client)
            slack = local.take(client, self.now, tokens)
            expected.append((slack, local.penalties.violations(client)))
        answers = self.ask([(client, self.mirrors[n].take_argument(tokens)) for n, client, tokens in checks])
        for (slack, steps, _, _), (expected_slack, expected_steps) in zip(answers, expected, strict=True):
            assert slack == pytest.approx(expected_slack, abs=1e-5)
            if slack < 0:
                assert min(steps, 4) == expected_steps

    @rule(limit=st.sampled_from(range(3)), client=st.sampled_from(CLIENTS))
    def look(self, limit, client):
        ((slack, *_),) = self.ask([(client, self.mirrors[limit].argument(PEEK, 0))])
        assert slack == pytest.approx(self.local[limit].peek(client, self.now), abs=1e-5)

    @rule(
        limit=st.sampled_from(range(3)),
        client=st.sampled_from(CLIENTS),
        longest=st.sampled_from([math.inf, 2.0, 0.0]),
    )
    def reserve(self, limit, client, longest):
        local, mirror = self.settle(limit, client), self.mirrors[limit]
        wait, taken = local.reserve(client, self.now, 1, longest)
        ((slack, number, epoch, _),) = self.ask([(client, mirror.argument(RESERVE, 1, longest))])
        assert max(0.0, -slack) == pytest.approx(wait, abs=1e-5)
        assert bool(number) == taken
        if taken and wait:
            self.places.append((limit, client, self.now + wait, number, epoch))

    @rule(which=st.integers(0, 100))
    def give_back(self, which):
        if self.places:
            limit, client, ready, number, epoch = self.places.pop(which % len(self.places))
            if ready > self.now:  # its wait has not ended
                local = self.settle(limit, client)
                if self.since.get(client, 0) <= epoch:
                    local.refund(client, self.now, 1)
                self.ask([(client, self.mirrors[limit].argument(REFUND, 1, number, epoch, 1.0))])
                # Those behind move up: all that is left of them, which is told by the number.
                cost = local.interval
                self.places = [
                    (n, c, at - cost if (n, c) == (limit, client) and k > number else at, k, e)
                    for n, c, at, k, e in self.places
                ]

    @rule(ticks=st.one_of(st.sampled_from([8, 32, 64, 72]), st.integers(0, 64 * 6)))
    def wait(self, ticks):
        self.ticks += ticks

    @rule(client=st.sampled_from(CLIENTS))
    def forgive(self, client):
        self.script.registered_client.unlink(client_key(client))
        for local in self.local:
            local.forget(client, self.now)
        self.since[client] = self.now + 1 / 128  # what was reserved before is given back in vain
        self.ticks += 1


def test_shared_and_local_agree(script):
    machine = type("Machine", (SharedAndLocal,), {"script": script})
    run_state_machine_as_test(machine, settings=searching(60, stateful_step_count=50))


@pytest.mark.parametrize(
    "value",
    [
        b"", b"x", b"\x00" * 40, b"\x02", b"\x02" + b"\x00" * 80, b"\x02" + b"\xff" * 80,
        b"\xff" * 40, b"junk" * 10, b"\x7f\xf0" * 60,
        b"\x02" + struct.pack("<8s9d", b"limit id", *[math.nan] * 9),
        b"\x02" + struct.pack("<8s9d", b"limit id", 1e300, math.inf, 1.0, 0.0, 0.0, 1e300, 0.0, 0.0, 0.0),
        b"\x02" + struct.pack("<8s9d", b"limit id", 0.0, 0.0, -1.0, 0.0, 0.0, 1e10, 0.0, 0.0, 2e9),
    ],
)  # fmt: skip
def test_foreign_bytes_under_a_key_give_a_full_bucket(script, value):
    mirror = Mirror(LIMITS[0], penalties(LIMITS[0]), SYSTEM_CLOCK, "config", "0")
    mirror.limit_id = b"limit id"
    client = script.registered_client
    client.set(client_key("foreign"), value)
    answer = script(keys=[client_key("foreign")], args=[mirror.take_argument(1), 1_790_000_000, 0])
    assert struct.unpack("<5d", answer)[1:] == (1.0, 0.0, 1_790_000_000.0, 0.0)
    client.delete(client_key("foreign"))
