"""The chats that are known, and when they are forgotten."""

import math
from sys import getsizeof

from bot.core.outbound.chats import FORGET_AFTER, Chats
from bot.core.outbound.models import Kind, Limits
from bot.core.outbound.rates import Rates

RATES = Rates(Limits())


def test_idle_chats_are_forgotten_as_new_ones_come():
    chats = Chats()
    for chat in range(1, 1001):
        chats.use(chat, RATES, 10.0)
        chats.check_invariants()
    assert len(chats) <= 2, "each had never been written to"


def test_a_chat_that_makes_a_difference_is_kept():
    chats = Chats()
    held = chats.use(1, RATES, 10.0)
    held.held_until = 50.0
    busy = chats.use(2, RATES, 10.0)
    busy.lane(Kind.SEND, RATES).in_flight = 1
    for chat in range(3, 100):
        chats.use(chat, RATES, 10.0)
    chats.forget_idle(RATES, 10.0)
    assert list(chats) in ([held, busy], [busy, held])
    assert chats.use(1, RATES, 10.0) is held
    chats.forget_idle(RATES, 50.0)
    assert list(chats) == [busy]
    assert chats.get(1) is None


def test_chats_that_are_forgotten_take_no_memory():
    chats = Chats()
    for chat in range(1, 10_001):
        chats.use(chat, RATES, 10.0).held_until = 50.0
    chats.use(3, RATES, 10.0).held_until = 60.0
    full = getsizeof(chats._states)
    chats.forget_idle(RATES, 50.0)
    assert [chat.id for chat in chats] == [3]
    assert getsizeof(chats._states) < full / 1000


def test_idle_chats_are_looked_for_together_some_time_after_the_first():
    chats = Chats()
    assert chats.forget_at(RATES) == math.inf
    chats.use(1, RATES, 10.0).held_until = 50.0
    assert chats.forget_at(RATES) == 50.0 + FORGET_AFTER


def test_holds_are_told_with_what_is_left_of_the_rate():
    chats = Chats()
    chats.use(1, RATES, 10.0).held_until = 50.0
    chats.use(-2, RATES, 10.0).slowdown.refused(10.0, 10.0)
    chats.use(3, RATES, 10.0)
    assert list(chats.holds(10.0)) == [(1, 40.0, 1.0), (-2, 0.0, 0.5)]
    assert chats.held(10.0) == 1
    assert chats.held(50.0) == 0
