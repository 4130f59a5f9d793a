"""Exact windows against a naive model, in this process and in bucket.lua, which is told the same time."""

import struct

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from bot.core._shared.clock import SYSTEM_CLOCK
from bot.core.rate_limiter.bucket import MAX_DEBT
from bot.core.rate_limiter.mirror import CHARGE, CREDIT, PEEK, REFUND, client_key
from bot.core.rate_limiter.models import EARLY, WindowLimit
from bot.core.rate_limiter.parts import Part
from bot.core.rate_limiter.penalty import Penalties
from bot.core.rate_limiter.shared import script_source
from bot.core.rate_limiter.shared_joint import joint_argument, with_details
from bot.core.rate_limiter.window_mirror import WindowMirror
from bot.core.rate_limiter.windows import Windows
from tests.support.searching import searching

LIMIT = WindowLimit(5, 4.0)
CLIENT = "u"


def new_penalties():
    return Penalties(0.0, 0.0, 0.0, 0.8)


class Naive:
    """Every token's time is kept for ever."""

    def __init__(self):
        self.times = []

    def room_at(self, now, tokens):
        """The first moment at which the tokens may be taken."""
        if self.times and self.times[-1] > now:
            now = self.times[-1]
        index = len(self.times) + tokens - 1 - LIMIT.max_requests
        return now if index < 0 else max(now, self.times[index] + LIMIT.window)

    def used(self, now):
        return sum(at + LIMIT.window > now for at in self.times)


class WindowsAgree(RuleBasedStateMachine):
    """Local windows, and those of the script if there is one, against the naive model."""

    script = None

    def __init__(self):
        super().__init__()
        # Sixty-fourths of a second, which neither microseconds nor floats round.
        self.ticks = 64 * 1_790_000_000
        self.naive = Naive()
        self.local = Windows(LIMIT, new_penalties())
        self.mirror = WindowMirror(LIMIT, new_penalties(), SYSTEM_CLOCK, "config", "")

    @property
    def now(self):
        return self.ticks / 64

    @initialize()
    def start_with_nothing(self):
        if self.script is not None:
            for key in self.script.registered_client.keys("p4r:*"):
                self.script.registered_client.delete(key)

    def ask(self, argument):
        seconds, part = divmod(self.ticks, 64)
        answer = self.script(keys=[client_key(CLIENT)], args=[argument, seconds, part * 15_625])
        numbers = struct.unpack("<5d", answer[:40])
        (result,) = with_details([numbers[1:]], answer[40:])
        return result

    @rule(tokens=st.integers(1, 5))
    def take(self, tokens):
        due = self.naive.room_at(self.now, tokens)
        slack = self.local.take(CLIENT, self.now, tokens)
        if due <= self.now:
            assert slack == 0.0
            self.naive.times += [self.now] * tokens
        else:
            assert slack == pytest.approx(self.now - due - EARLY, abs=1e-6)
        if self.script is not None:
            (found,) = self.ask(joint_argument([Part(self.mirror, CLIENT, tokens)], 0.0, b""))
            assert found.slack == pytest.approx(slack, abs=1e-6)
            assert min(found.used, 5) == min(self.naive.used(self.now), 5)

    @rule(tokens=st.integers(1, 5))
    def take_and_give_back_unclaimed(self, tokens):
        if self.script is None or self.naive.room_at(self.now, tokens) > self.now:
            return
        (found,) = self.ask(joint_argument([Part(self.mirror, CLIENT, tokens)], 0.0, b""))
        self.ask(self.mirror.argument(REFUND, tokens, found.step, found.early))

    @rule(tokens=st.integers(1, 70))
    def charge(self, tokens):
        last = self.now + MAX_DEBT * LIMIT.window
        start = max(self.now, self.naive.times[-1]) if self.naive.times else self.now
        if start + (tokens / LIMIT.max_requests + 1) * LIMIT.window > last:
            return  # where the bound is, is looked at elsewhere
        for _ in range(tokens):
            self.naive.times.append(self.naive.room_at(self.now, 1))
        self.local.charge(CLIENT, self.now, tokens)
        if self.script is not None:
            self.ask(self.mirror.argument(CHARGE, tokens))

    @rule(tokens=st.integers(1, 60))
    def refund(self, tokens):
        used = self.naive.used(self.now)
        to_come = min(tokens, sum(at > self.now for at in self.naive.times))
        del self.naive.times[len(self.naive.times) - to_come :]
        first = len(self.naive.times) - self.naive.used(self.now)
        del self.naive.times[first : first + tokens - to_come]
        assert self.local.credit(CLIENT, self.now, tokens) == (used > 0)
        if self.script is not None:
            assert self.ask(self.mirror.argument(CREDIT, tokens))[1] == (used > 0)

    @rule(ticks=st.one_of(st.sampled_from([1, 64, 256]), st.integers(0, 64 * 9)))
    def wait(self, ticks):
        self.ticks += ticks

    @rule()
    def forget(self):
        self.local.forget(CLIENT, self.now)
        self.naive.times.clear()
        if self.script is not None:
            self.script.registered_client.delete(client_key(CLIENT))
        self.ticks += 1

    @invariant()
    def parts_agree(self):
        self.local.check_invariants(self.now)
        at = self.naive.room_at(self.now, 1)
        assert self.local.wait(CLIENT, self.now, 1) == pytest.approx(at - self.now, abs=1e-6)
        assert self.local.peek(CLIENT, self.now) == max(0, 5 - self.naive.used(self.now))
        if self.script is not None:
            slack = self.ask(self.mirror.argument(PEEK, 1))[0]
            assert slack == pytest.approx(self.now - at - EARLY if at > self.now else 0.0, abs=1e-6)


TestWindows = WindowsAgree.TestCase
TestWindows.settings = searching(60, stateful_step_count=40)


@pytest.fixture(scope="module")
def script(redis_url):
    source = script_source()
    for real, told in (
        ("call('TIME')", "{ARGV[#KEYS + 1], ARGV[#KEYS + 2]}"),
        ("min(longest, LONGEST) * 1000)", "min(longest, LONGEST) * 1000000)"),
        ("min(empty_in, LONGEST) * 1000)", "min(empty_in, LONGEST) * 1000000)"),
    ):
        assert source.count(real) == 1
        source = source.replace(real, told)
    client = redis.Redis.from_url(redis_url)
    client.ping()
    yield client.register_script(source)
    client.close()


def test_the_windows_of_redis_are_those_of_one_process(script):
    machine = type("Machine", (WindowsAgree,), {"script": script})
    run_state_machine_as_test(machine, settings=searching(40, stateful_step_count=40))


def test_a_clock_that_is_set_back_neither_locks_out_nor_forgives(script):
    mirror = WindowMirror(WindowLimit(3, 60.0), new_penalties(), SYSTEM_CLOCK, "config", "back")
    client = "set back"

    def take(seconds):
        argument = joint_argument([Part(mirror, client, 1)], 0.0, b"")
        answer = script(keys=[client_key(client)], args=[argument, seconds, 0])
        return with_details([struct.unpack("<5d", answer[:40])[1:]], answer[40:])[0][0].slack

    start = 1_790_000_000
    assert [take(start + seconds) for seconds in (0, 10, 20)] == [0.0, 0.0, 0.0]
    assert take(start + 25) == pytest.approx(-35.0 - EARLY)
    assert take(start - 3_600) == pytest.approx(-35.0 - EARLY), "as if no time had passed since"
    assert take(start - 3_600 + 34) < 0.0
    assert take(start - 3_600 + 35) == 0.0
    assert take(start - 3_600 + 36) == pytest.approx(-9.0 - EARLY)
