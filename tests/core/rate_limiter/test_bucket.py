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


def test_after_a_backoff_more_tokens_come_at_the_rate():
    b = buckets(rps=0.5, burst=5, base=8.0)
    b.take("c", 100.0, 5)
    b.take("c", 100.0, 3)
    assert b.take("c", 101.6, 3) == pytest.approx(-12.0), (
        "eight seconds of backoff, two tokens of two seconds"
    )


def test_a_backoff_counts_that_is_only_a_little_longer_than_the_wait():
    b = buckets(rps=0.5, burst=1, base=1.0)
    b.take("c", 100.0)
    assert b.take("c", 100.0) == pytest.approx(-2.0)
    assert b.take("c", 101.5) == pytest.approx(-1.0), "and not the half second that was left"


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


# Looking, without taking.


@pytest.mark.parametrize(
    ("spent", "tokens", "answer"),
    [
        (0, 5, 0.0),
        (0, 1, 2.0),
        (3, 1, 0.5),
        (3, 2, 0.0),
        (3, 3, -0.5),
        (3, 5, -1.5),
        (5, 1, -0.5),
        (5, 0, 0.0),
    ],
)
def test_what_a_check_would_be_answered(spent, tokens, answer):
    b = buckets()
    for _ in range(spent):
        b.take("c", 100.0)
    before = (dict(b.fresh), dict(b.aging), b.allowed, b.blocked)
    assert b.judge("c", 100.0, tokens) == answer
    status = b.look("c", 100.0, tokens)
    assert (status.allowed, status.retry_after) == (answer >= 0.0, max(0.0, -answer))
    assert status.remaining == 5 - spent
    assert (dict(b.fresh), dict(b.aging), b.allowed, b.blocked) == before
    assert b.ready("c", 100.0, tokens) == 100.0 + max(0.0, -answer)
    assert b.ready("c", 100.0, 0, [1] * tokens) == 100.0 + max(0.0, -answer)
    assert b.ready("c", 100.0, 0, (), tokens) == 100.0 + max(0.0, -answer)


@pytest.mark.parametrize(
    ("rps", "missing", "passes"),
    [
        (1.0, 0.00149, True),  # EARLY
        (1.0, 0.00151, False),
        (1000.0, 0.00049, True),  # half the time of a token
        (1000.0, 0.00051, False),
    ],
)
def test_a_check_may_miss_by_a_moment(rps, missing, passes):
    b = buckets(rps=rps, burst=1)
    b.take("c", 100.0)
    now = 100.0 + 1 / rps - missing
    assert (b.judge("c", now, 1) == 0.0) == passes
    assert b.look("c", now, 1).allowed == passes
    assert b.reserve("c", now, 1, 0.0)[0] == (0.0 if passes else pytest.approx(missing))


def test_who_was_told_is_judged_as_it_would_be_served():
    b = buckets(rps=1_000, burst=10)
    b.take("c", 100.0, 10)
    assert b.take("c", 100.0, 5) == pytest.approx(-0.005)
    assert b.judge("c", 100.0036, 5) == 0.0, "1.4 ms before the time it was told"
    assert b.judge("c", 100.0034, 5) == pytest.approx(-0.0016)
    assert b.judge("stranger", 100.0, 11) == pytest.approx(-0.001)


def test_who_waited_for_one_token_is_not_given_three():
    b = buckets()
    b.take("c", 100.0, 5)
    assert b.take("c", 100.0) == -0.5
    assert [b.judge("c", 100.5, tokens) for tokens in (1, 3)] == [0.0, -1.0]


def test_a_look_asks_for_no_token():
    b = buckets()
    b.take("c", 100.0, 5)
    status = b.look("c", 100.0)
    assert (status.allowed, status.remaining) == (True, 0)


# Giving back, and charging what was used.


def test_what_did_not_happen_is_credited_up_to_a_full_bucket():
    b = buckets()
    assert not b.credit("c", 100.0, 1), "it is full"
    b.take("c", 100.0, 3)
    assert b.credit("c", 100.0, 2)
    assert b.peek("c", 100.0) == 2.0
    assert b.credit("c", 100.0, 2)
    assert b.peek("c", 100.0) == 2.5
    assert not b.credit("c", 100.0, 1)
    b.aging, b.fresh = {"old": 101.0}, {}
    assert b.credit("old", 100.0, 1)
    assert (b.aging, b.fresh) == ({"old": 100.5}, {})


def test_a_client_in_backoff_is_credited_nothing():
    b = buckets(rps=1, burst=1)
    b.take("c", 100.0)
    b.reserve("c", 100.0, 1, 60.0)
    hammer(b, "c", 100.1, 101.5)
    before = b.peek("c", 101.5)
    assert not b.credit("c", 101.5, 1)
    assert b.peek("c", 101.5) == before


def test_what_was_used_is_charged_whether_it_is_there_or_not():
    b = buckets()
    b.charge("c", 100.0, 2)
    assert b.peek("c", 100.0) == 1.5
    b.charge("c", 100.0, 5)
    assert b.peek("c", 100.0) == -1.0
    b.charge("c", 100.0, 1_000)
    assert b.peek("c", 100.0) == -25.0, "ten bursts of 2.5 seconds are owed at most"
    b.charge("c", 100.0, 1)
    assert b.peek("c", 100.0) == -25.0
    b.reserve("c", 100.0, 10, 1_000.0)
    b.charge("c", 100.0, 1)
    assert b.peek("c", 100.0) == -30.0, "what is reserved beyond that stays reserved"
    b.charge("later", 100.0, 1)
    b.charge("later", 200.0, 1)
    assert b.peek("later", 200.0) == 2.0


def test_a_take_that_is_undone_is_not_counted():
    b = buckets()
    b.take("c", 100.0)
    tat = b.fresh["c"]
    b.take("c", 100.0)
    b.put_back("c", tat)
    assert (b.peek("c", 100.0), b.allowed) == (2.0, 1)
    b.aging, b.fresh = b.fresh, {}
    b.put_back("c", 100.0)
    assert (b.aging, b.fresh, b.allowed) == ({"c": 100.0}, {}, 0)


def test_reservations_are_served_in_order_and_as_far_ahead_as_is_waited():
    b = buckets(rps=1, burst=1)
    assert b.reserve("c", 100.0, 1, 0.0) == (0.0, True)
    assert b.reserve("c", 100.0, 1, 1.0) == (1.0, True)
    assert b.reserve("c", 100.0, 1, 1.99) == (2.0, False)
    assert b.reserve("c", 100.0, 1, 1.9986) == (2.0, True), "a moment is nothing"
    assert (b.allowed, b.blocked) == (0, 1)
    assert not b.refund("stranger", 100.0, 1)
    assert len(b) == 1


def test_takes_are_counted():
    b = buckets(rps=1, burst=2)
    for _ in range(5):
        b.take("c", 100.0)
    b.take("c", 100.999)  # early by nothing
    assert (b.allowed, b.blocked) == (3, 3)


# Forgetting.


def test_who_is_forgotten_starts_anew():
    b = buckets(rps=1, burst=1)
    assert not b.forget("c", 100.0)
    b.take("c", 100.0)
    assert b.forget("c", 100.0)
    assert b.take("c", 100.0) == 0.0
    b.aging, b.fresh = b.fresh, {}
    assert b.forget("c", 100.0)
    assert len(b) == 0
    b.take("c", 100.0)
    assert not b.forget("c", 101.0), "it was full again"
    hammer(b, "c", 200.0, 204.0)
    assert b.penalties.records
    assert b.forget("c", 204.0)
    assert not b.penalties.records


def test_a_sweep_forgets_full_buckets_and_no_others():
    b = buckets(rps=1, burst=1)
    b.fresh.update({"not full": 100.1, "early": 91.0, "full": 100.0})
    b.aging.update({"aging not full": 100.1, "aging full": 100.0})
    b.penalties.refused("full", 98.0, 1.0)
    b.records["early"] = [99.5, 1, float("-inf"), 100.0]  # early in the wait that ended a moment ago
    assert not b.sweep(100.0, 1)
    assert "full" not in b.fresh
    assert "full" not in b.records
    assert "aging full" not in b.aging
    assert (len(b.fresh), len(b.aging)) == (2, 1)
    assert not b.sweep(100.0, 10)
    assert (list(b.fresh), list(b.aging)) == (["not full", "early"], ["aging not full"])
    assert "early" in b.records
    assert not b.sweep(100.2, 10)
    assert b.sweep(102.0, 10)
    assert (len(b), b.records) == (0, {})


def early_in_a_wait_that_just_ended(b, held):
    """A client whose bucket is full, and whose next refusal goes on with its row."""
    held["early"] = 91.0
    b.records["early"] = [99.5, 1, float("-inf"), 100.0]


def test_a_full_bucket_of_a_client_that_was_early_is_no_clean_slate():
    b = buckets(rps=1, burst=1)
    early_in_a_wait_that_just_ended(b, b.fresh)
    assert b.forget("early", 100.0)
    assert not b.forget("early", 100.0)
    early_in_a_wait_that_just_ended(b, b.aging)
    b.take("new", 100.0)  # has the old ones looked at
    assert "early" in b.fresh
    assert "early" in b.records


def test_each_new_client_has_two_old_ones_looked_at():
    b = buckets(rps=1, burst=1)
    for client in range(MIN_ROTATION):
        b.take(client, 100.0)
    assert (len(b.fresh), len(b.aging)) == (MIN_ROTATION, 0)
    b.take("new", 101.0)  # to the moment at which those are full
    assert (len(b.fresh), len(b.aging)) == (1, MIN_ROTATION - 2)
    b.take("new", 102.0)
    assert len(b.aging) == MIN_ROTATION - 2, "it is not new"
    b.take(0, 300.0)
    assert (len(b.fresh), len(b.aging)) == (2, MIN_ROTATION - 3), "an old one takes its place up again"
    b.check_invariants(300.0)


def test_a_status_tells_whether_it_was_decided_alone():
    b = buckets()
    assert [b.look("c", 100.0).degraded, b.look("c", 100.0, alone=True).degraded] == [False, True]
    assert b.look("c", 100.0, 9, alone=True).degraded
    assert [b.status("c", 1.0, 1, 100.0).degraded, b.status("c", 1.0, 1, 100.0, alone=True).degraded] == [
        False,
        True,
    ]


def test_a_sweep_that_leaves_an_old_client_is_not_over():
    b = buckets(rps=1, burst=1)
    b.aging["old"] = 200.0
    assert not b.sweep(100.0, 10)
