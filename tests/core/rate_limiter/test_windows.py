"""Exact sliding windows, told the time."""

import random

import pytest

from bot.core.rate_limiter import RateLimiter, WindowLimit
from bot.core.rate_limiter.bucket import MAX_DEBT, MIN_ROTATION
from bot.core.rate_limiter.models import EARLY
from bot.core.rate_limiter.penalty import Penalties
from bot.core.rate_limiter.windows import Windows


def windows(most, window, backoff=0.0):
    return Windows(WindowLimit(most, window), Penalties(backoff, 60.0, 1.0, window / most))


def test_never_more_in_any_window_and_never_refused_when_there_is_room():
    """100,000 random arrivals, of one token or several."""
    chance = random.Random(19)
    limit = windows(7, 3.3)
    now, taken, wrong, refused = 1_000.0, [], 0, 0
    for turn in range(100_000):
        now += chance.expovariate(4.0)
        tokens = chance.choice([1, 1, 1, 2, 7])
        room = sum(at + 3.3 > now for at in taken[-7:]) + tokens <= 7
        if limit.take("u", now, tokens) == 0.0:
            taken += [now] * tokens
        else:
            refused += 1
        wrong += room != (taken[-1:] == [now])
        if turn % 5_000 == 0:
            limit.check_invariants(now)
    violations = sum(taken[n] + 3.3 > taken[n + 7] for n in range(len(taken) - 7))
    assert (violations, wrong) == (0, 0)
    assert 20_000 < refused < 80_000, "both outcomes were met"
    assert len(limit.fresh["u"]) <= 16


def test_a_refused_client_is_told_when_there_is_room_and_the_time_that_a_loop_may_wake_it_too_soon():
    limit = windows(3, 60.0)
    assert [limit.take("u", at) for at in (0.0, 10.0, 20.0)] == [0.0, 0.0, 0.0]
    assert limit.take("u", 30.0) == pytest.approx(-(30.0 + EARLY), abs=1e-9)
    assert limit.take("u", 30.0, 2) == pytest.approx(-(40.0 + EARLY), abs=1e-9)
    assert limit.take("u", 59.999) < 0.0
    assert limit.take("u", 60.0) == 0.0, "the tolerance is in what is told, not in what is let through"
    assert limit.take("u", 60.0) < 0.0


@pytest.mark.parametrize("start", [0.1, 1e3 + 0.1, 1e6 / 3, 1e9 / 7])
def test_what_is_told_is_enough_whatever_floats_round(start):
    chance = random.Random(7)
    for _ in range(500):
        limit = windows(1, chance.uniform(0.001, 100.0))
        limit.take("u", start)
        now = start + chance.random() * limit.window
        wait = limit.wait("u", now, 1)
        assert wait == 0.0 or limit.take("u", now + wait) == 0.0


def test_who_retries_too_early_waits_longer_and_others_do_not():
    limit = windows(1, 10.0, backoff=8.0)
    limit.take("u", 0.0)
    assert [-limit.take("u", at) for at in (1.0, 7.0)] == [pytest.approx(9.0, abs=0.01), 8.0]
    assert limit.take("u", 14.9) < 0.0
    assert limit.take("u", 15.0) == 0.0
    limit.take("patient", 0.0)
    assert limit.take("patient", 5.0) < 0.0
    assert limit.take("patient", 10.0) == 0.0


def test_what_never_happened_gives_room_again_and_nothing_else_does():
    limit = windows(3, 60.0)
    assert not limit.credit("u", 0.0, 1), "nothing was taken"
    for at in (0.0, 10.0, 20.0):
        limit.take("u", at)
    assert limit.credit("u", 30.0, 1)
    # Which request it was is not known, so those that count longest are kept.
    assert list(limit.fresh["u"]) == [10.0, 20.0]
    assert limit.take("u", 30.0) == 0.0
    assert limit.credit("u", 30.0, 100)
    assert limit.peek("u", 30.0) == 3
    assert not limit.credit("u", 30.0, 1)


def test_a_charge_may_go_into_debt_up_to_a_bound():
    limit = windows(10, 60.0)
    limit.take("u", 0.0, 4)
    limit.charge("u", 1.0, 6)
    assert limit.wait("u", 1.0, 1) == pytest.approx(59.0)
    limit.charge("u", 1.0, 10)
    limit.check_invariants(1.0)
    assert limit.wait("u", 1.0, 6) == pytest.approx(120.0)
    assert limit.wait("u", 1.0, 4) == pytest.approx(119.0)
    limit.charge("u", 1.0, 1_000_000_000)
    limit.check_invariants(1.0)
    assert limit.wait("u", 1.0, 1) <= (MAX_DEBT + 1) * 60.0
    assert len(limit.fresh["u"]) == 10
    assert limit.credit("u", 1.0, 85)
    limit.check_invariants(1.0)
    assert limit.wait("u", 1.0, 6) == pytest.approx(179.0), "15 to come, as many as in a window and a half"
    assert limit.credit("u", 1.0, 16)
    assert limit.take("u", 1.0) == 0.0


def test_full_windows_are_kept_and_empty_ones_forgotten_whoever_comes():
    limit = windows(2, 60.0)
    limit.take("limited", 0.0, 2)
    for stranger in range(4 * MIN_ROTATION):
        limit.take(stranger, 10.0 + stranger / 100)
    assert limit.take("limited", 55.0) < 0.0
    for stranger in range(4 * MIN_ROTATION):
        limit.take(-stranger, 200.0 + stranger)
    assert len(limit) < 2.5 * MIN_ROTATION
    limit.check_invariants(5_000.0)


def test_a_busy_client_takes_as_much_memory_as_what_counts():
    limit = windows(1_000, 10.0)
    for turn in range(50_000):
        limit.take("u", turn * 0.1)
    assert len(limit.fresh["u"]) <= 2 * 100 + 16


async def test_a_status_tells_what_is_left(clock):
    limiter = RateLimiter(clock=clock)
    await limiter.enable()
    limit = WindowLimit(5, 60.0)
    allowed, status = await limiter.is_allowed("u", limit, 3)
    assert allowed
    assert (status.limit, status.remaining, status.remaining_tokens, status.retry_after) == (5, 2, 2.0, 0.0)
    assert status.config is limit
    assert status.limited_by is None
    assert status.reset_at == pytest.approx(clock.time() + 60.0)
    clock.jump(20.0)
    allowed, status = await limiter.is_allowed("u", limit, 3)
    assert not allowed
    assert (status.remaining, status.limited_by) == (2, limit)
    assert status.retry_after == pytest.approx(40.0, abs=0.002)
    clock.jump(status.retry_after)
    assert limiter.check("u", limit) == 0.0
    assert (await limiter.get_client_status("u", limit)).remaining == 4
    await limiter.disable()


def served_one_by_one(limit, now, wanted):
    """When the last of these callers is served, if each takes its tokens as soon as it can."""
    for tokens in wanted:
        now += max(0.0, limit.wait("u", now, tokens))
        assert limit.take("u", now, tokens) == 0.0
    return now


@pytest.mark.parametrize("seed", range(40))
def test_when_a_line_of_callers_is_served_is_known_without_serving_it(seed):
    chance = random.Random(seed)
    most = chance.choice([1, 2, 3, 7, 20])
    limit = windows(most, 10.0)
    now = 1_000.0
    for _ in range(chance.randrange(4 * most)):
        now += chance.expovariate(most / 10.0)
        limit.take("u", now, chance.randint(1, most))
    if chance.random() < 0.3:
        limit.charge("u", now, chance.randint(1, 3 * most))
    ahead = [chance.randint(1, most) for _ in range(chance.choice([0, 3, 30]))]
    more, tokens = chance.choice([0, 1, 5, 100]), chance.randint(1, most)
    found = limit.ready("u", now, tokens, ahead, more)
    assert found == pytest.approx(served_one_by_one(limit, now, [*ahead, *[1] * more, tokens]), abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_what_others_take_at_once_takes_them_no_less_time(seed):
    chance = random.Random(seed)
    most = chance.choice([2, 3, 7])
    limit = windows(most, 10.0)
    limit.take("u", 1_000.0, most)
    ahead, behind = ([chance.randint(1, most) for _ in range(20)] for _ in range(2))
    found = limit.ready("u", 1_001.0, 1, ahead, sum(behind))
    assert found <= served_one_by_one(limit, 1_001.0, [*ahead, *behind, 1]) + 1e-6
