"""How many requests may be in flight."""

import pytest

from bot.core.outbound.models import Priority
from bot.core.outbound.slots import Slots


@pytest.mark.parametrize(("most", "of_others"), [(100, 90), (10, 9), (11, 9), (2, 1), (1, 1)])
def test_a_tenth_is_kept_for_answers(most, of_others):
    slots = Slots(most)
    for _ in range(of_others):
        assert slots.free(Priority.BROADCAST)
        slots.take()
    assert not slots.free(Priority.NOTIFY)
    for _ in range(most - of_others):
        assert slots.free(Priority.ANSWER)
        slots.take()
    assert not slots.free(Priority.ANSWER)
    slots.give_back()
    assert slots.free(Priority.ANSWER)


def test_fewer_may_be_allowed_while_more_are_in_flight():
    slots = Slots(10)
    for _ in range(9):
        slots.take()
    slots.allow(5)
    assert not slots.free(Priority.ANSWER)
    for _ in range(5):
        slots.give_back()
    assert slots.free(Priority.ANSWER)
    assert not slots.free(Priority.NOTIFY), "the last one is kept for answers"
    slots.clear()
    assert slots.taken == 0
