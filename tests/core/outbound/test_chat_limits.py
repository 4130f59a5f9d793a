"""How many requests one chat takes."""

import math

import pytest

from bot.core.outbound.chat_limits import GroupLimit, PrivateLimit, TypingLimit
from bot.core.outbound.models import Limits
from bot.core.outbound.penalties import Slowdown
from bot.core.outbound.rates import Rates

RATES = Rates(Limits(group=(2, 60.0), chat=(1, 1.0), chat_burst=2, typing=((2, 5.0), (3, 30.0))))
WIDE = Rates(Limits(group=(9, 60.0), chat=(1, 1.0), chat_burst=9, typing=((9, 5.0),)))
NO_TYPING = Rates(Limits(typing=()))


def all_limits():
    return [PrivateLimit(Slowdown()), GroupLimit(Slowdown()), TypingLimit()]


def wait(limit, now, rates=RATES):
    limit.check_invariants()
    return round(limit.wait(1, rates, now), 6)


def test_a_private_chat_takes_a_burst_then_one_a_second():
    limit = PrivateLimit(Slowdown())
    for _ in range(2):
        assert wait(limit, 10.0) == 0.0
        limit.leave(1, RATES, 10.0)
    assert wait(limit, 10.0) == 1.0
    limit.answered(1, RATES, 10.0, 10.5)
    assert wait(limit, 10.5) == 1.0, "it may have been received as late as it was answered"
    assert wait(limit, 11.5) == 0.0


def test_a_group_takes_a_number_in_a_window_that_ends_after_the_answers():
    limit = GroupLimit(Slowdown())
    for _ in range(2):
        assert wait(limit, 10.0) == 0.0
        limit.leave(1, RATES, 10.0)
    assert wait(limit, 10.0) == math.inf, "until one is answered"
    limit.answered(1, RATES, 10.0, 11.0)
    assert wait(limit, 12.0) == 59.05
    assert wait(limit, 71.1) == 0.0


def test_chat_actions_keep_within_all_their_windows():
    limit = TypingLimit()
    for at in (10.0, 10.0):
        limit.leave(1, RATES, at)
        limit.answered(1, RATES, at, at)
    assert wait(limit, 10.0) == 5.05
    limit.leave(1, RATES, 16.0)
    limit.answered(1, RATES, 16.0, 16.0)
    assert wait(limit, 16.0) == 24.05, "the longer window is full now"


@pytest.mark.parametrize("limit", all_limits(), ids=lambda limit: type(limit).__name__)
def test_what_is_given_back_does_not_count(limit):
    for _ in range(2):
        limit.leave(1, RATES, 10.0)
    for _ in range(2):
        limit.give_back(1, RATES, 10.0)
    assert wait(limit, 10.0) == 0.0
    assert limit.idle_at(RATES) <= 10.0


@pytest.mark.parametrize("limit", all_limits(), ids=lambda limit: type(limit).__name__)
def test_settings_may_change_while_something_is_in_flight(limit):
    limit.leave(1, RATES, 10.0)
    for rates in (WIDE, NO_TYPING, RATES):
        limit.wait(1, rates, 10.0)
    limit.leave(1, RATES, 10.0)
    assert wait(limit, 10.0) > 0.0, "both count"
    limit.answered(1, RATES, 10.0, 10.0)
    limit.answered(1, RATES, 10.0, 10.0)
    assert wait(limit, 10.0, WIDE) == 0.0
    limit.check_invariants()


@pytest.mark.parametrize("limit", all_limits(), ids=lambda limit: type(limit).__name__)
def test_what_is_in_flight_when_the_callers_loop_ends_counts_as_sent(limit):
    for _ in range(2):
        limit.leave(1, RATES, 10.0)
    limit.abandon(10.5)
    assert 0.0 < wait(limit, 10.5) < math.inf
    assert limit.idle_at(RATES) < math.inf
    assert wait(limit, 200.0) == 0.0


def test_after_a_refusal_half_of_the_rate_is_left():
    slowdown = Slowdown()
    group, private = GroupLimit(slowdown), PrivateLimit(slowdown)
    slowdown.refused(10.0, 10.0)
    group.leave(1, RATES, 10.0)
    assert wait(group, 10.0) == math.inf, "one in 60 s instead of two"
    private.leave(1, RATES, 10.0)
    assert wait(private, 10.0) == 2.0, "one in two seconds, and no burst"


def test_the_debt_of_a_bucket_leaves_out_the_request_itself():
    limit = PrivateLimit(Slowdown())
    limit.leave(1, RATES, 10.0)
    assert limit.debt_before(1, RATES, 10.0, 10.0) == 0.0
    limit.leave(1, RATES, 10.0)
    assert limit.debt_before(1, RATES, 10.0, 10.0) == 1.0


def test_a_chat_that_is_slowed_down_has_half_of_its_burst_and_of_its_rate():
    slowdown = Slowdown()
    limit = PrivateLimit(slowdown)
    slowdown.refused(10.0, 10.0)
    for _ in range(4):
        assert wait(limit, 10.0, WIDE) == 0.0, "four of nine at once"
        limit.leave(1, WIDE, 10.0)
    assert wait(limit, 10.0, WIDE) == 2.0, "then one in two seconds"
    limit.give_back(1, WIDE, 10.0)
    assert limit.idle_at(WIDE) == 16.0
    for _ in range(3):
        limit.answered(1, WIDE, 10.0, 11.0)
    assert limit.idle_at(WIDE) == 17.0, "they may have been received as late as they were answered"


def test_the_debt_of_a_bucket_is_as_long_as_its_rate_says():
    rates = Rates(Limits(chat=(1, 2.0), chat_burst=9))
    slowdown = Slowdown()
    limit = PrivateLimit(slowdown)
    for _ in range(2):
        limit.leave(3, rates, 10.0)
    assert limit.debt_before(3, rates, 10.0, 10.0) == 6.0, "three at two seconds each"
    limit.abandon(10.0)
    slowdown.refused(100.0, 100.0)
    for _ in range(2):
        limit.leave(1, rates, 100.0)
    assert limit.debt_before(1, rates, 100.0, 100.0) == 4.0, "one at half of the rate"


def test_what_was_abandoned_is_in_flight_no_more():
    limit = PrivateLimit(Slowdown())
    limit.leave(1, RATES, 10.0)
    limit.abandon(10.0)
    limit.leave(1, RATES, 100.0)
    limit.answered(1, RATES, 100.0, 105.0)
    assert limit.idle_at(RATES) == 106.0


def test_chat_actions_are_forgotten_after_the_longest_of_their_windows():
    limit = TypingLimit()
    limit.leave(1, RATES, 10.0)
    assert limit.idle_at(RATES) == math.inf
    limit.answered(1, RATES, 10.0, 10.0)
    assert limit.idle_at(RATES) == 40.05
