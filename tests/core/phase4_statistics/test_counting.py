"""Totals that never go back, and growth within a window."""

from hypothesis import given
from hypothesis import strategies as st

from bot.core.phase4_statistics.counting import MonotonicTotals, RecentIncrease


def test_a_reset_is_added_to_what_was_counted_before():
    totals = MonotonicTotals()
    assert [totals.advance("hits", reading) for reading in (3, 10, 0, 4)] == [3, 10, 10, 14]


def test_a_key_that_was_away_goes_on_where_it_was():
    totals = MonotonicTotals()
    totals.advance("a", 5)
    totals.advance("b", 1)
    assert totals.advance("a", 7) == 7


def test_keys_beyond_the_bound_are_refused_and_the_others_go_on():
    totals = MonotonicTotals(max_keys=2)
    assert [totals.advance(key, 1) for key in ("a", "b", "c")] == [1, 1, None]
    assert totals.advance("a", 2) == 2
    totals.check_invariants()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.booleans())))
def test_totals_never_go_back_and_count_all_that_was_read(steps):
    totals, counters, expected = MonotonicTotals(), dict.fromkeys("abc", 0), dict.fromkeys("abc", 0)
    read = dict.fromkeys("abc", 0)
    for key, added, reset in steps:
        if reset:
            counters[key] = 0
            if added == 0:
                totals.advance(key, 0)
                read[key] = 0
                continue
        counters[key] += added
        # A reset that is made good before the next reading cannot be told from growth.
        expected[key] += counters[key] - read[key] if counters[key] >= read[key] else counters[key]
        read[key] = counters[key]
        assert totals.advance(key, counters[key]) == expected[key]
        totals.check_invariants()


def test_growth_counts_from_the_beginning_until_the_window_has_passed():
    recent = RecentIncrease(window=60, now=0)
    assert recent.since(1, {"hits": 5}) == {"hits": 5}
    assert recent.since(30, {"hits": 9}) == {"hits": 9}
    assert recent.since(61, {"hits": 10}) == {"hits": 5}, "since the reading at 1"
    assert recent.since(91, {"hits": 10}) == {"hits": 1}, "since the reading at 30"


def test_what_comes_new_counts_in_full():
    recent = RecentIncrease(window=60, now=0)
    recent.since(1, {"old": 5})
    recent.since(70, {"old": 5})
    assert recent.since(75, {"old": 6, "new": 3}) == {"old": 1, "new": 3}


def test_a_pace_needs_two_readings():
    recent = RecentIncrease(window=10, now=0)
    assert recent.per_second(5, {"hits": 1_000}) == {}, "a thousand since when?"
    assert recent.per_second(7, {"hits": 1_020}) == {"hits": 10}


@given(st.lists(st.floats(0, 50), max_size=200))
def test_readings_at_any_pace_take_bounded_room(pauses):
    recent, now = RecentIncrease(window=60, now=0), 0.0
    for count, pause in enumerate(pauses):
        now += pause
        grown = recent.since(now, {"hits": float(count)})
        assert 0 <= grown["hits"] <= count
        recent.check_invariants()
