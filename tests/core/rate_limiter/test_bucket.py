"""Token buckets: what is taken, what is refused, what is remembered."""

import pytest

from bot.core.rate_limiter.bucket import MIN_ROTATION, Buckets
from bot.core.rate_limiter.models import RateLimitConfig
from bot.core.rate_limiter.penalty import Penalties


def buckets(rps=2.0, burst=5, base=2.0, cap=60.0):
    return Buckets(RateLimitConfig(rps, burst), Penalties(base, cap))


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


@pytest.mark.parametrize("client", [None, b"1", 1.5, ("a",)])
def test_a_client_is_an_int_or_a_str(client):
    with pytest.raises(TypeError, match="client_id = "):
        buckets().take(client, 100.0)


def test_who_comes_too_early_waits_twice_as_long_each_time():
    b = buckets(rps=10, burst=1, base=2.0, cap=7.0)
    assert b.take("c", 100.0) == 0.0
    assert b.take("c", 100.0) == pytest.approx(-0.1)
    assert [b.take("c", 100.0) for _ in range(4)] == pytest.approx([-2.0, -4.0, -7.0, -7.0])
    assert b.take("c", 106.99) == pytest.approx(-7.0)
    assert b.take("c", 113.99) == pytest.approx(0.0)


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
    b = buckets(rps=10, burst=1)
    b.take("c", 100.0)
    b.take("c", 100.0)
    assert b.take("c", 100.0) == pytest.approx(-2.0)
    assert b.take("c", 102.0) == pytest.approx(0.0)
    assert b.take("c", 102.0) == pytest.approx(-0.1), "refused, but not yet for coming too early"
    assert b.take("c", 102.0) == pytest.approx(-2.0), "the first violation of a new row"


def test_a_backoff_ends_with_one_token_whatever_was_asked_for():
    b = buckets(rps=1, burst=5, base=8.0)
    b.take("c", 100.0, 5)
    b.take("c", 100.0, 3)
    assert b.take("c", 100.0, 3) == pytest.approx(-10.0), "eight seconds of backoff, then two more tokens"
    assert b.take("c", 107.0) < 0
    b = buckets(rps=1, burst=5, base=8.0)
    b.take("c", 100.0, 5)
    b.take("c", 100.0)
    assert b.take("c", 100.0) == pytest.approx(-8.0)
    assert b.take("c", 108.0) == pytest.approx(0.0)


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
    b = buckets(rps=1000, burst=1, base=50.0, cap=50.0)
    for _ in range(3):
        b.take("abuser", 100.0)
    for n in range(10_000):
        b.take(n, 100.0 + n * 0.004)
    assert b.take("abuser", 140.0) == pytest.approx(-50.0)
    assert len(b.penalties.records) == 1


def test_a_reservation_is_given_back_only_as_far_as_nobody_built_on_it():
    b = buckets(rps=1, burst=1)
    b.take("c", 100.0)
    first, ticket = b.reserve("c", 100.0, 1, 60.0)
    second, _ = b.reserve("c", 100.0, 1, 60.0)
    assert (first, second) == (1.0, 2.0)
    b.refund("c", ticket, 1)
    assert b.reserve("c", 100.0, 1, 60.0)[0] == 3.0, "the slot after the second, not the second's own"
    last, ticket = b.reserve("c", 100.0, 1, 60.0)
    b.refund("c", ticket, 1)
    assert b.reserve("c", 100.0, 1, 60.0)[0] == last


def test_a_reservation_from_before_a_client_was_forgiven_gives_nothing_back():
    b = buckets(rps=1, burst=5)
    b.take("c", 100.0, 5)
    _, ticket = b.reserve("c", 100.0, 5, 60.0)
    b.forget("c")
    b.refund("c", ticket, 5)
    assert b.take("c", 100.0, 5) == 0.0
    b.refund("c", ticket, 5)
    assert b.take("c", 100.0) == -1.0


def test_reservations_given_back_from_the_last_to_the_first_are_given_back_whole():
    b = buckets(rps=30, burst=1)
    now = 1_020.1  # the tickets go past 1,024, where floats become coarser and rounding shows
    b.take("c", now)
    before = b.peek("c", now)
    tickets = [b.reserve("c", now, 1, 60.0)[1] for _ in range(300)]
    for ticket in reversed(tickets):
        b.refund("c", ticket, 1)
    assert b.peek("c", now) == pytest.approx(before, abs=1e-6)


def test_a_reservation_too_far_away_takes_nothing():
    b = buckets(rps=1, burst=1)
    b.take("c", 100.0)
    wait, _ = b.reserve("c", 100.0, 1, 0.5)
    assert wait == 1.0
    assert b.take("c", 101.0) == 0.0
