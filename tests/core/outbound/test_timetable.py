"""What is due when, against a plain dict."""

import math

from hypothesis import given
from hypothesis import strategies as st

from bot.core.outbound.timetable import Timetable
from tests.support.searching import searching

THINGS = st.integers(0, 5)
TIMES = st.sampled_from([1.0, 2.0, 2.0, 3.0, 50.0])
STEPS = st.one_of(
    st.tuples(st.just("put"), THINGS, TIMES),
    st.tuples(st.just("remove"), THINGS, st.just(0.0)),
    st.tuples(st.just("pop"), st.just(0), TIMES),
)


@given(st.lists(STEPS, max_size=60))
@searching(200)
def test_it_gives_what_is_due_once_and_the_earliest_first(steps):
    timetable, plain = Timetable(), {}
    for what, thing, at in steps:
        if what == "put":
            timetable.put(thing, at)
            plain[thing] = at
        elif what == "remove":
            timetable.remove(thing)
            plain.pop(thing, None)
        else:
            due = timetable.pop_due(at)
            earliest = min(plain.values(), default=math.inf)
            if earliest > at:
                assert due is None
            else:
                assert plain.pop(due) == earliest
        assert timetable.next_at == min(plain.values(), default=math.inf)
        assert len(timetable) == len(plain)
        timetable.check_invariants()


def test_what_does_not_count_any_more_is_cleared_away():
    timetable = Timetable()
    for at in range(10_000):
        timetable.put("again and again", float(at))
        timetable.put(at, 5.0)
        timetable.remove(at)
    assert len(timetable._heap) < 100
    assert timetable.pop_due(10_000.0) == "again and again"
    assert timetable.next_at == math.inf


def test_new_times_of_the_same_things_do_not_pile_up():
    timetable = Timetable()
    for turn in range(1000):
        timetable.put(turn % 100, 1000.0 - turn)
        timetable.check_invariants()
    assert [timetable.pop_due(1000.0) for _ in range(101)] == [*range(99, -1, -1), None]


def test_things_that_are_taken_out_one_after_the_other_do_not_pile_up():
    timetable = Timetable()
    for thing in range(1000):
        timetable.put(thing, 5.0)
    for thing in range(1000):
        timetable.remove(thing)
        timetable.check_invariants()
    assert len(timetable._heap) <= 64


def test_while_most_count_nothing_is_sorted_anew():
    timetable = Timetable()
    for thing in range(50):
        timetable.put(thing, 5.0)
    sorted_once = timetable._heap
    timetable.put(0, 6.0)
    timetable.remove(1)
    assert timetable._heap is sorted_once


def test_clear_forgets_all():
    timetable = Timetable()
    for thing in range(100):
        timetable.put(thing, 1.0)
    timetable.clear()
    assert 0 not in timetable
    timetable.check_invariants()
    assert timetable.pop_due(2.0) is None
