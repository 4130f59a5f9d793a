"""What counts together: values of one shape, in one request or task, within a window or by their time."""

import asyncio
import contextlib
from contextvars import copy_context

import pytest

from bot.core.query_optimizer.execution.n_plus_one import (
    MAX_CALL_SITES,
    MAX_SAMPLE,
    MAX_SAMPLE_VALUES,
    MAX_SAMPLES,
    MAX_VALUES,
    SHOWN_FROM,
    Detector,
    NPlusOnePattern,
    call_site,
)

SHAPE = "SELECT name FROM users WHERE id = ?"
FAR = 1_000_000.0
"""More seconds than any queries of a test take together."""


@pytest.fixture
def detector():
    return Detector(threshold=3, window=10.0, total_time=FAR)


def note(detector, value, now, query=SHAPE, params=None):
    return detector.note("f", value, (query, params), now)


def found(detector, tally, site="", at=0.0):
    return detector.found(tally, "f", SHAPE, site, at)


def detected(detector, first=0.0):
    """The pattern of a request whose three queries were noted."""
    tally = [note(detector, value, first) for value in range(3)][-1]
    assert tally is not None
    return found(detector, tally)[0]


# What is told of a pattern.


def test_a_pattern_begins_with_nothing_and_says_what_it_knows():
    pattern = NPlusOnePattern("f", SHAPE)
    assert (pattern.count, pattern.contexts, pattern.seconds) == (0, 0, 0.0)
    assert (pattern.first_seen, pattern.last_seen, pattern.fix()) == (0.0, 0.0, "")
    assert "which took" not in pattern.sentence()
    pattern.seconds = SHOWN_FROM
    assert f"which took {SHOWN_FROM:.1f} s" in pattern.sentence()


def test_the_most_of_all_requests_is_kept(detector):
    for number, values in enumerate([4, 6, 5]):
        with detector.request():
            for value in range(values):
                tally = note(detector, value, 0.0)
                if tally is not None:
                    pattern, new = found(detector, tally, at=100.0 + number)
                    assert new == (number == 0)
    assert (pattern.count, pattern.contexts, detector.total) == (6, 3, 1)
    assert (pattern.first_seen, pattern.last_seen) == (100.0, 102.0)


def test_the_longest_time_of_all_requests_is_kept(detector):
    for seconds in (1.0, 3.0, 2.0):
        with detector.request():
            for value in range(4):
                tally = note(detector, value, 0.0)
                if tally is not None:
                    pattern, _ = found(detector, tally)
                    assert pattern.seconds >= 2 * seconds, "of those before it"
                detector.took("f", seconds)
    assert pattern.seconds == 12.0


def test_each_call_site_is_named_once_and_five_of_them(detector):
    sites = ["", "a", "b", "a", *(f"site {number}" for number in range(MAX_CALL_SITES))]
    for site in sites:
        with detector.request():
            tally = [note(detector, value, 0.0) for value in range(3)][-1]
            pattern, _ = found(detector, tally, site)
    assert pattern.call_sites == ["a", "b", "site 0", "site 1", "site 2"]
    assert len(pattern.call_sites) == MAX_CALL_SITES


def test_samples_are_the_first_and_the_longest(detector):
    detector.threshold = 100
    first = [f"first {number}".ljust(30) for number in range(MAX_SAMPLES)]
    too_long, many = "x" * (MAX_SAMPLE + 1), [0] * (MAX_SAMPLE_VALUES + 1)
    with detector.request():
        for value, (query, params) in enumerate(
            [
                *((query, None) for query in first[:-1]),
                (too_long, None),
                ("longer than the first by far, and with many values", many),
                (first[-1], None),
                ("shorter", None),
                ("equally long".ljust(30), None),
                ("longer".ljust(50), None),
                ("less long".ljust(40), None),
                ("as long as that".ljust(50), None),
            ]
        ):
            note(detector, value, 0.0, query, params)
        detector.threshold = 3
        tally = note(detector, "last", 0.0)
    assert [query for query, _ in tally.samples] == [*first[:-1], "longer".ljust(50)]


def test_samples_are_as_large_as_allowed(detector):
    longest, most = "x" * MAX_SAMPLE, [0] * MAX_SAMPLE_VALUES
    with detector.request():
        note(detector, 1, 0.0)
        note(detector, 2, 0.0, longest)
        tally = note(detector, 3, 0.0, SHAPE, most)
    assert tally.samples == [(SHAPE, None), (longest, None), (SHAPE, most)]


# Requests.


def test_a_request_ends_with_its_block(detector):
    with detector.request():
        assert note(detector, 1, 0.0) is None
        assert note(detector, 2, 0.0) is None
    assert note(detector, 3, 0.0) is None


def test_what_was_found_holds_no_values_any_more(detector):
    with detector.request():
        tally = [note(detector, value, 0.0) for value in range(3)][-1]
    assert (tally.count, tally.times, tally.values) == (3, {}, set())


def test_what_is_dismissed_is_no_pattern_until_all_is_cleared(detector):
    with detector.request():
        tally = [note(detector, value, 0.0) for value in range(3)][-1]
        detector.dismiss(tally, "f")
        assert [note(detector, value, 0.0) for value in range(3, 9)] == [None] * 6
    assert "f" in detector.dismissed
    assert len(detector.patterns) == 0
    detector.clear()
    assert "f" not in detector.dismissed


@pytest.mark.parametrize("entered", [False, True])
async def test_counts_begin_again_when_all_is_cleared(detector, entered):
    with detector.request():
        for value in (1, 2):
            note(detector, value, 0.0)
        detector.clear()
        if entered:
            detector.enter(0.0)
        assert [note(detector, value, 0.0) is None for value in (3, 4, 5)] == [True, True, False]


def in_a_copy(call, *arguments):
    return copy_context().run(call, *arguments)


async def test_queries_that_end_in_copies_of_a_context_count_with_the_one_that_entered(detector):
    assert [in_a_copy(note, detector, value, 0.0) for value in (1, 2, 3)] == [None] * 3
    detector.enter(0.0)
    assert [in_a_copy(note, detector, value, 0.0) is None for value in (1, 2, 3)] == [True, True, False]


async def test_entering_a_query_leaves_the_request_as_it_is(detector):
    with detector.request():
        note(detector, 1, 0.0)
        note(detector, 2, 0.0)
        detector.enter(0.0)
        assert note(detector, 3, 0.0) is not None


async def test_after_all_was_cleared_a_query_enters_anew(detector):
    with detector.request():
        detector.clear()
        detector.enter(0.0)
        assert [in_a_copy(note, detector, value, 0.0) is None for value in (1, 2, 3)] == [True, True, False]


# Windows, in tasks.


@pytest.mark.parametrize(("last", "is_found"), [(10.0, True), (10.1, False)])
async def test_values_count_together_within_the_window(detector, last, is_found):
    note(detector, 1, 0.0)
    note(detector, 2, 5.0)
    assert (note(detector, 3, last) is not None) == is_found


async def test_a_value_that_comes_again_counts_from_then(detector):
    for value, now in ((1, 0.0), (2, 1.0), (1, 9.0)):
        note(detector, value, now)
    assert note(detector, 3, 12.0) is None, "of the second it is too long ago"
    assert note(detector, 2, 13.0) is not None


async def test_a_pattern_that_goes_on_is_counted_on_and_after_a_pause_found_anew(detector):
    pattern = detected(detector)
    for value, now in ((3, 10.0), (4, 19.0)):
        assert note(detector, value, now) is None
    assert pattern.count == 5
    detector.took("f", 3.0)  # to 22
    assert note(detector, 5, 31.5) is None
    assert pattern.count == 6
    assert [note(detector, value, 50.0) is None for value in range(3)] == [True, True, False]
    assert pattern.count == 6


@pytest.mark.parametrize(("now", "is_found"), [(10.0, True), (10.1, False)])
async def test_a_task_counts_with_the_one_that_started_it_a_moment_ago(detector, now, is_found):
    detector.threshold = 2

    async def child():
        return note(detector, 2, now)

    note(detector, 1, 0.0)
    assert (await asyncio.create_task(child()) is not None) == is_found


@pytest.mark.parametrize("begin", ["note", "enter"])
async def test_a_moment_ago_is_since_the_last_query_began(detector, begin):
    detector.threshold = 2

    async def child():
        return note(detector, 2, 15.0)

    note(detector, 1, 0.0)
    if begin == "note":
        note(detector, 1, 8.0)
        assert await asyncio.create_task(child()) is not None
    else:
        detector.enter(8.0)
        assert await asyncio.create_task(child()) is None, "the first value is too long ago"
        assert note(detector, 3, 15.0) is not None, "with the one of the task that it started"


# By the time that they take: five seconds, in a window of three.


@pytest.fixture
def by_time():
    return Detector(threshold=3, window=3.0, total_time=5.0)


def took(detector, history):
    """What the last was found to be: values, when each query began, its seconds if they are known."""
    for value, now, seconds in history:
        tally = note(detector, value, now)
        if seconds is not None:
            detector.took("f", seconds)
    return tally


def test_in_a_request_time_adds_up_whatever_happens_between(by_time):
    with by_time.request():
        tally = took(by_time, [(1, 0.0, 2.5), (2, 100.0, 2.5), (3, 200.0, 1.0)])
        assert tally.count == 3
    with by_time.request():
        assert took(by_time, [(1, 0.0, 2.5), (2, 100.0, 2.4), (3, 200.0, 1.0)]) is None


@pytest.mark.parametrize(
    ("history", "is_found"),
    [
        ([(1, 0.0, 2.5), (2, 5.0, 2.5), (3, 10.0, 1.0)], True),  # half of the time
        ([(1, 0.0, 2.5), (2, 5.0, 2.5), (3, 10.1, 1.0)], False),
        ([(1, 0.0, 2.5), (2, 5.5, 2.5), (3, 9.5, 1.0)], True),  # as long as the window, since the first ended
        ([(1, 0.0, 2.5), (2, 5.6, 2.5), (3, 9.0, 1.0)], False),  # a pause: all begins again
        ([(1, 0.0, 4.0), (2, 6.0, None), (2, 8.0, 1.5), (3, 9.6, 1.0)], True),  # each query ends a pause
        ([(1, 0.0, 4.0), (2, 1.0, 1.0), (3, 6.5, 1.0)], True),  # one beside the other: the later end counts
    ],
)
async def test_in_a_task_it_is_half_of_the_time_without_a_pause(by_time, history, is_found):
    assert (took(by_time, history) is not None) == is_found


def test_more_values_than_are_held_count_if_the_threshold_asks_for_them():
    detector = Detector(threshold=MAX_VALUES + 2, window=1.0, total_time=5.0)
    with detector.request():
        history = [(value, 10.0 * value, 1.0) for value in range(MAX_VALUES + 2)]
        assert took(detector, history).count == MAX_VALUES + 2


# Where.


async def fetch(query, params):
    """An executor of a bot."""


async def test_where_no_frame_of_the_bot_is_left_the_executor_is_named():
    places = []
    executors = [fetch, len, Detector.note]
    asyncio.get_running_loop().call_soon(places.extend, map(call_site, executors))
    await asyncio.sleep(0)
    assert places == [f"{__file__}:{fetch.__code__.co_firstlineno} in fetch", "", ""]


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_the_code_that_runs_the_loop_issues_no_query(kind):
    loop = asyncio.new_event_loop() if kind == "asyncio" else pytest.importorskip("uvloop").new_event_loop()
    library = {"__name__": "bot.core.query_optimizer.service", "call_site": call_site}
    exec("async def execute(executor): return call_site(executor)", library)
    found = loop.run_until_complete(library["execute"](fetch))
    loop.close()
    assert found == f"{__file__}:{fetch.__code__.co_firstlineno} in fetch"


# Queries that are counted when they have ended.


@pytest.mark.parametrize("in_task", [False, True])
def test_the_time_of_the_first_query_counts_too(in_task):
    detector = Detector(threshold=3, window=1.0, total_time=6.0)

    async def request():
        with contextlib.nullcontext() if in_task else detector.request():
            return [detector.note("f", value, (SHAPE, None), 2.0 * (value + 1), 2.0) for value in range(3)]

    tallies = asyncio.run(request())
    assert tallies[:2] == [None, None]
    assert tallies[2] is not None
    assert tallies[2].seconds == 6.0


def test_a_pause_lies_between_the_end_of_a_query_and_the_beginning_of_the_next():
    detector = Detector(threshold=3, window=1.0, total_time=1.0)

    async def loop():
        assert detector.note("f", 0, (SHAPE, None), 5.0, 5.0) is None
        assert detector.note("f", 1, (SHAPE, None), 11.0, 5.0) is None  # a second later
        tally = detector.note("f", 2, (SHAPE, None), 17.1, 5.0)  # a little more: counted anew
        assert tally is None
        assert detector.note("f", 3, (SHAPE, None), 20.0, 2.9) is None
        return detector.note("f", 4, (SHAPE, None), 22.0, 2.0)

    tally = asyncio.run(loop())
    assert tally is not None
    assert (tally.count, tally.seconds) == (3, 5.0 + 2.9 + 2.0)


def test_what_is_a_pattern_goes_on_counting_its_time(detector):
    with detector.request():
        for value in range(3):
            tally = detector.note("f", value, (SHAPE, None), 1.0, 0.5)
        pattern, _ = found(detector, tally)
        assert detector.note("f", 7, (SHAPE, None), 2.0, 0.5) is None
    assert (pattern.count, pattern.seconds) == (4, 2.0)
