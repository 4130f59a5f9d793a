"""Token buckets: what is taken, what is refused, what is remembered."""

import enum
import itertools

import pytest

from bot.core.rate_limiter.bucket import MIN_ROTATION, Buckets
from bot.core.rate_limiter.models import RateLimitConfig
from bot.core.rate_limiter.penalty import Penalties


def buckets(rps=2.0, burst=5, base=2.0, cap=60.0, grace=1.0):
    return Buckets(RateLimitConfig(rps, burst), Penalties(base, cap, grace, 1 / rps))


def hammer(b, client, begin, end, every=0.01):
    """Requests one after the other, whatever is said: (when, slack) of the refused ones."""
    count = round((end - begin) / every)
    found = [(begin + n * every, b.take(client, begin + n * every)) for n in range(count)]
    return [(when, slack) for when, slack in found if slack < 0]


def test_a_burst_passes_and_the_next_waits_for_one_token():
    b = buckets()
    assert [b.take("c", 100.0) for _ in range(5)] == [2.0, 1.5, 1.0, 0.5, 0.0]
    assert b.take("c", 100.0) == -0.5
    assert b.take("c", 100.5) == 0.0


def test_tokens_come_back_at_the_rate_and_stop_at_the_burst():
    b = buckets()
    for _ in range(5):
        b.take("c", 100.0)
    assert b.peek("c", 101.0) == pytest.approx(1.0)  # two tokens of half a second each
    assert b.peek("c", 1_000.0) == pytest.approx(2.5)


def test_several_tokens_are_taken_together_or_not_at_all():
    b = buckets()
    assert b.take("c", 100.0, 4) == 0.5
    assert b.take("c", 100.0, 3) == -1.0
    assert b.take("c", 101.0, 3) == 0.0


def test_clients_do_not_share():
    b = buckets(burst=1)
    assert b.take("a", 100.0) >= 0
    assert b.take(1, 100.0) >= 0
    assert b.take("1", 100.0) >= 0
    assert b.take("a", 100.0) < 0


@pytest.mark.parametrize("client", [b"1", 1.0, 1.5, ("a",), True, False, 1j])
def test_a_client_is_an_int_a_str_or_nobody(client):
    b = buckets(burst=1)
    assert b.take(1, 100.0) >= 0
    assert b.take(0, 100.0) >= 0
    with pytest.raises(TypeError, match="client_id = "):
        b.take(client, 100.0)


def test_members_of_enums_and_the_like_are_their_value():
    class Name(str):
        pass

    b = buckets(burst=1)
    assert b.take(Role.ADMIN, 100.0) >= 0
    assert b.take(1, 100.0) < 0
    assert b.take(Name("n"), 100.0) >= 0
    assert b.take("n", 100.0) < 0
    assert {type(client) for client in b.fresh} == {int, str}


class Role(enum.IntEnum):
    ADMIN = 1


@pytest.mark.parametrize(("rps", "burst"), [(10, 50), (2, 5), (1, 1), (0.01, 1)])
def test_a_burst_at_one_moment_costs_the_refill_time(rps, burst):
    b = buckets(rps, burst)
    outcomes = [b.take("c", 100.0) for _ in range(200)]
    assert [slack >= 0 for slack in outcomes] == [True] * burst + [False] * (200 - burst)
    assert min(outcomes) == pytest.approx(-1 / rps)
    assert b.take("c", 100.0 + 1 / rps) == pytest.approx(0.0, abs=1e-6)


def test_who_hammers_waits_twice_as_long_for_each_wait_it_does_not_keep():
    b = buckets(rps=10, burst=1, base=2.0, cap=7.0)
    refused = hammer(b, "c", 100.0, 160.0)
    steps = [
        (round(when, 1), round(-slack, 1))
        for (when, slack), (_, before) in zip(refused[1:], refused, strict=False)
        if slack < before - 1.0  # it was told to wait longer than a moment ago
    ]
    assert [wait for _, wait in steps][:6] == [2.0, 4.0, 7.0, 7.0, 7.0, 7.0]
    assert steps[0][0] == pytest.approx(101.1, abs=0.1), "a grace after its first refusal"
    gaps = [after - before for (before, _), (after, _) in itertools.pairwise(steps)]
    assert gaps[:5] == pytest.approx([3.1, 5.1, 8.1, 8.1, 8.1], abs=0.2), "a wait, and a grace of the next"


@pytest.mark.parametrize("rps", [20, 10, 2, 0.5])
def test_an_abuser_of_any_limit_that_a_user_has_is_locked_out_for_long(rps):
    b = buckets(rps=rps, burst=5, cap=3600.0)
    refused = hammer(b, "c", 100.0, 400.0, every=0.05 / rps)
    assert min(slack for _, slack in refused) <= -100.0


def test_a_forward_that_takes_three_seconds_costs_one_step_at_most():
    for rps, burst in [(10, 50), (2, 5), (1, 1), (0.1, 1)]:
        b = buckets(rps, burst)
        for n in range(60):
            b.take("c", 100.0 + n / 20)
        assert b.penalties.violations("c") <= 1
        assert -(b.peek("c", 103.0) - b.interval) <= max(2.0, 1 / rps)


def test_grace_off_and_figures_of_a_limits_own():
    assert min(slack for _, slack in hammer(buckets(rps=1, grace=60.0), "c", 100.0, 150.0)) >= -1.0
    assert min(slack for _, slack in hammer(buckets(rps=1, base=0.0, cap=0.0), "c", 100.0, 400.0)) >= -1.0
    assert min(slack for _, slack in hammer(buckets(rps=1, grace=0.0), "c", 100.0, 104.0)) <= -2.0


def test_nobody_in_particular_is_never_punished():
    b = buckets(rps=1, burst=1)
    assert min(slack for _, slack in hammer(b, None, 100.0, 200.0)) >= -1.0


def test_who_was_told_passes_a_moment_early_and_gains_nothing():
    b = buckets(rps=1_000, burst=1)
    now, taken = 100.0, 0
    while now < 110.0:
        slack = b.take("c", now)
        if slack >= 0:
            taken += 1
        else:
            now += max(0.0, -slack - 0.001)  # as uvloop wakes it
            now += 1e-6
    assert taken <= 10_000 + 3
    b = buckets(rps=1, burst=1)
    b.take("c", 100.0)
    assert b.take("c", 100.99) < 0
    assert b.take("c", 100.9986) == 0.0
    assert b.take("c", 100.9986) == pytest.approx(-1.0014)


def test_who_waits_as_told_never_meets_the_backoff():
    b = buckets(rps=10, burst=1)
    now = 100.0
    for _ in range(50):
        assert b.take("c", now) >= 0.0
        refused = b.take("c", now)
        assert refused == pytest.approx(-0.1)
        now -= refused
    assert b.penalties.violations("c") == 0


def test_a_fresh_start_after_waiting_out_a_backoff():
    b = buckets(rps=0.5, burst=1, base=5.0)
    b.take("c", 100.0)
    assert b.take("c", 100.0) == pytest.approx(-2.0)
    assert b.take("c", 101.5) == pytest.approx(-5.0), "it came back too early"
    assert b.take("c", 101.6) == pytest.approx(-4.9), "one step in a wait"
    assert b.take("c", 106.5) == pytest.approx(0.0)
    assert b.take("c", 106.5) == pytest.approx(-2.0), "refused, but it had waited"
    assert b.take("c", 108.0) == pytest.approx(-5.0), "the first step of a new row"


def test_a_backoff_ends_with_one_token_whatever_was_asked_for():
    b = buckets(rps=1, burst=5, base=8.0)
    b.take("c", 100.0, 5)
    b.take("c", 100.0, 3)
    assert b.take("c", 101.6, 3) == pytest.approx(-10.0), "eight seconds of backoff, then two more tokens"
    assert b.take("c", 109.0) < 0
    assert b.take("c", 109.6) == pytest.approx(0.0, abs=1e-6)


def test_limited_clients_are_never_forgotten_because_others_came():
    b = buckets(rps=0.001, burst=1)
    limited = [f"limited-{n}" for n in range(50)]
    for client in limited:
        assert b.take(client, 100.0) == 0.0
    for n in range(200_000):
        b.take(n, 100.0 + n * 1e-4)
    for client in limited:
        assert b.take(client, 120.0) < 0.0, "a bucket that is not full was forgiven"
    b.check_invariants(120.0)


def test_full_buckets_are_forgotten_as_others_come():
    b = buckets(rps=10, burst=1)
    for n in range(100_000):
        b.take(n, 100.0 + n * 0.001)  # a hundred are not full at any moment
    assert len(b) <= 2 * 100 + 2 * MIN_ROTATION
    b.check_invariants(200.0)


def test_a_client_in_backoff_is_remembered_until_it_ends():
    b = buckets(rps=10, burst=1, base=50.0, cap=50.0)
    hammer(b, "abuser", 100.0, 102.0)
    for n in range(10_000):
        b.take(n, 102.0 + n * 0.004)
    assert b.take("abuser", 142.0) == pytest.approx(-9.1, abs=0.2)
    assert len(b.penalties.records) == 1


def test_who_hammers_and_who_stops_are_forgotten_in_the_end():
    b = buckets(rps=10, burst=1)
    for n in range(100):
        hammer(b, f"abuser-{n}", 100.0, 102.0)
    for n in range(10_000):
        b.take(n, 200.0 + n)
    assert not b.penalties.records
    b.check_invariants(20_000.0)


def test_what_is_given_back_is_given_back_whole():
    b = buckets(rps=30, burst=1)
    now = 1_020.1  # past 1,024 floats become coarser, and rounding shows
    b.take("c", now)
    before = b.peek("c", now)
    for _ in range(300):
        assert b.reserve("c", now, 1, 60.0)[1]
    assert b.reserve("c", now, 1, 60.0)[0] == pytest.approx(301 / 30)
    for _ in range(301):
        assert b.refund("c", now, 1)
    assert b.peek("c", now) == pytest.approx(before, abs=1e-6)


def test_a_client_in_backoff_gets_nothing_back():
    b = buckets(rps=1, burst=1)
    b.take("c", 100.0)
    b.reserve("c", 100.0, 1, 60.0)
    hammer(b, "c", 100.1, 101.5)
    before = b.peek("c", 101.5)
    assert not b.refund("c", 101.5, 1)
    assert b.peek("c", 101.5) == before


def test_a_reservation_too_far_away_takes_nothing():
    b = buckets(rps=1, burst=1)
    b.take("c", 100.0)
    assert b.reserve("c", 100.0, 1, 0.5) == (1.0, False)
    assert b.take("c", 101.0) == 0.0
