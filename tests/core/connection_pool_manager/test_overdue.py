"""Waiters of a pool whose deadlines are reached."""

import math

from bot.core.connection_pool_manager.pool import Waiter
from tests.support.pools import START, pool_of
from tests.support.steps import steps_of


def test_waiters_are_overdue_at_their_deadline():
    pool = pool_of(0)
    waiters = [Waiter(START, START + seconds) for seconds in (1, 2, 3)]
    for waiter in waiters:
        pool.request(waiter, START)
    assert pool.overdue(START + 2) == waiters[:2]


def test_a_waiter_that_is_overdue_costs_the_same_however_many_others_wait():
    steps = {}
    for count in (100, 2_000):
        pool = pool_of(0)
        waiters = [Waiter(START, START + seconds) for seconds in range(1, count)]
        for waiter in waiters:
            pool.request(waiter, START)
        for seconds in (1, 2):
            steps[count] = steps_of(lambda pool=pool, at=START + seconds: pool.overdue(at))
            pool.withdraw(waiters[seconds - 1], START + seconds)
            assert pool.next_deadline() == START + seconds + 1
    assert steps[100] == steps[2_000]


def test_a_waiter_with_less_patience_than_those_before_it_is_overdue_in_time():
    pool = pool_of(0)
    patient, gone, impatient, endless = (Waiter(START, START + s) for s in (9, 3, 1, math.inf))
    pool.request(patient, START)
    pool.request(endless, START)
    assert pool.next_deadline() == START + 9
    pool.request(gone, START)
    pool.request(impatient, START)
    pool.withdraw(gone, START, cancelled=True)
    assert pool.next_deadline() == START + 1
    assert pool.overdue(START + 5) == [impatient]
