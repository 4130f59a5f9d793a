"""The windows of all chats together."""

from bot.core.outbound.gates import STARVED, Gate, Gates
from bot.core.outbound.models import Limits, Priority
from bot.core.outbound.rates import Rates

RATES = Rates(Limits(bulk=(3, 1.0), bulk_reserve=1, paid=(2, 1.0)))
"""Three messages in 1.05 s, two of them by others than answers."""


class Passing:
    """Requests that pass at a time."""

    def __init__(self):
        self.gates = Gates()

    def wait(self, now, gate=Gate.BULK, priority=Priority.NOTIFY, cost=1, since=None):
        return round(self.gates.wait(gate, cost, priority, RATES, now, since), 6)

    def leave(self, now, gate=Gate.BULK, *, answers=False):
        self.gates.leave(gate, 1, RATES, now, answers=answers)
        self.gates.check_invariants()


def test_answers_have_a_reserve_and_do_not_wait_even_when_it_is_used_up():
    passing = Passing()
    passing.leave(10.0)
    assert passing.wait(10.1) == 0.0
    passing.leave(10.1)
    assert passing.wait(10.2) == 0.85, "until the first has left the window"
    assert passing.wait(10.2, priority=Priority.ANSWER) == 0.0
    for _ in range(5):
        passing.leave(10.2, answers=True)
    assert passing.wait(10.3, priority=Priority.ANSWER) == 0.0
    assert passing.wait(10.3) == 0.95, "until the answers have left it, too"
    assert passing.wait(11.25) == 0.0


def test_one_that_starves_behind_answers_passes_once_in_a_window():
    passing = Passing()
    passing.leave(39.9)
    for _ in range(3):
        passing.leave(40.0, answers=True)
    since = 40.5 - STARVED
    assert passing.wait(40.2, since=since) == 0.75, "another one has passed within this window"
    passing = Passing()
    for _ in range(3):
        passing.leave(40.0, answers=True)
    assert passing.wait(40.2, since=since) == 0.3, "until it has waited for STARVED seconds"
    assert passing.wait(40.5, since=since) == 0.0


def test_paid_broadcasts_have_a_window_of_their_own():
    passing = Passing()
    for _ in range(3):
        passing.leave(10.0)
    assert passing.wait(10.0, Gate.PAID) == 0.0
    passing.leave(10.0, Gate.PAID)
    passing.leave(10.0, Gate.PAID)
    assert passing.wait(10.0, Gate.PAID, Priority.ANSWER) == 1.05, "paid ones have no reserve"
    assert passing.wait(10.0, Gate.NONE) == 0.0


def test_what_is_given_back_does_not_count():
    passing = Passing()
    passing.leave(10.0)
    passing.leave(10.0)
    passing.gates.give_back(Gate.BULK, 1, 10.0, answers=False)
    assert passing.wait(10.1) == 0.0
    passing.leave(10.0, Gate.PAID)
    passing.leave(10.0, Gate.PAID)
    passing.gates.give_back(Gate.PAID, 1, 10.0, answers=False)
    assert passing.wait(10.1, Gate.PAID) == 0.0


def test_an_answer_that_is_given_back_takes_back_nobody_elses_place():
    """Both left in the same moment, as in one poll: only one of them was an answer."""
    passing = Passing()
    for answers in (True, False, True, True):
        passing.leave(40.0, answers=answers)
    passing.gates.give_back(Gate.BULK, 1, 40.0, answers=True)
    assert passing.wait(40.5, since=40.5 - STARVED) == 0.55, "one of the others has passed in this window"


def test_one_that_is_given_back_lets_one_that_starves_pass():
    passing = Passing()
    passing.leave(40.0)
    for _ in range(3):
        passing.leave(40.0, answers=True)
    assert passing.wait(40.5, since=40.5 - STARVED) == 0.55
    passing.gates.give_back(Gate.BULK, 1, 40.0, answers=False)
    assert passing.wait(40.5, since=40.5 - STARVED) == 0.0


def test_other_instances_fill_one_window_or_the_other():
    passing = Passing()
    passing.gates.close(Gate.BULK, 12.0)
    assert passing.wait(10.0) == 2.0
    assert passing.wait(10.0, priority=Priority.ANSWER) == 0.0
    assert passing.wait(10.0, Gate.PAID) == 0.0
    passing.gates.close(Gate.PAID, 11.0)
    assert passing.wait(10.0, Gate.PAID) == 1.0
    assert passing.wait(12.5) == passing.wait(12.5, Gate.PAID) == 0.0
