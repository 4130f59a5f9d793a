"""What charts show of the past: in full for minutes, in steps for a day, and no byte more than said."""

import math
import random

import pytest

from bot.core.phase4_admin.history import MAX_FIGURES, MAX_POINTS, STEPPED, History

START = 1_000_000_020.0
DAY = 86_400.0
MAX_SHOWN = max(int(seconds / step) for seconds, step in STEPPED.items())


def fill(history, seconds, *, every=2.0, value=lambda at: at % 100, start=START):
    for number in range(int(seconds / every)):
        history.add(start + number * every, {"figure": value(start + number * every)})
    return start + seconds - every


def test_minutes_are_kept_as_they_were_taken():
    history = History()
    now = fill(history, 1_200)
    columns = history.columns()
    assert len(columns["t"]) == len(columns["series"]["figure"]) == len(history) == MAX_POINTS
    assert columns["t"][-1] == now
    assert columns["series"]["figure"] == [at % 100 for at in columns["t"]]
    assert history.columns(now - 4)["t"] == [now - 2, now]


def test_a_day_is_kept_in_steps_with_the_peaks_that_a_mean_would_hide():
    history = History()
    peak = START + 3_600
    now = fill(history, 2 * DAY, every=10.0, value=lambda at: 99.0 if at == peak + DAY else 1.0)
    told = history.steps(DAY, now)
    assert len(told["t"]) <= MAX_SHOWN + 1
    assert now - DAY - told["step"] <= told["t"][0]
    assert told["t"] == sorted(told["t"])
    figure = told["series"]["figure"]
    assert max(figure["high"]) == 99.0
    assert max(figure["mean"]) < 5.0
    assert min(figure["low"]) == 1.0


@pytest.mark.parametrize("seconds", [3_600.0, 6 * 3_600.0, DAY])
def test_every_range_has_as_many_steps_as_a_chart_can_show(seconds):
    history = History()
    now = fill(history, DAY, every=10.0)
    told = history.steps(seconds, now)
    assert 100 <= len(told["t"]) <= MAX_SHOWN + 1
    assert all(
        later - earlier == told["step"] for earlier, later in zip(told["t"], told["t"][1:], strict=False)
    )


def test_a_gap_is_none_and_not_zero():
    history = History()
    now = fill(history, 600)
    history.add(now + 2, {"figure": None, "other": 5.0})
    history.add(now + 4, {"figure": math.nan, "other": math.inf})
    columns = history.columns(now)
    assert columns["series"] == {"figure": [None, None], "other": [5.0, None]}
    assert history.columns()["series"]["other"][0] is None, "not known then"
    hours = history.steps(3_600, now + 3_600)
    assert hours["series"]["other"]["mean"].count(None) == len(hours["t"]) - 1


def test_before_the_first_sample_there_is_nothing():
    assert History().columns() == {"t": [], "series": {}}
    assert History().steps(3_600, START)["t"] == []


def test_its_bytes_are_bounded_whatever_comes():
    history = History()
    for number in range(3_000):
        history.add(START + number * 60, {f"figure {name}": 1e300 for name in range(80)})
    assert len(history.columns()["series"]) == MAX_FIGURES
    steps = sum(int(seconds / step) + 1 for seconds, step in STEPPED.items())
    assert history.bytes_used <= MAX_POINTS * MAX_FIGURES * 8 + steps * MAX_FIGURES * 3 * 4 < 700_000


def test_a_clock_that_is_set_back_costs_what_lies_ahead_only():
    history = History()
    now = fill(history, 7_200)
    history.forget_from(now - 1_800)
    history.add(now - 1_800, {"figure": 5.0})
    assert history.columns()["t"] == [now - 1_800]
    told = history.steps(3_600, now - 1_800)
    assert told["t"] == sorted(set(told["t"]))
    assert max(told["t"]) <= now - 1_800
    assert len(told["t"]) > 60, "what was before it is still there"


def test_what_is_new_is_told_at_once_also_in_long_steps():
    history = History()
    now = fill(history, 2 * 3_600)
    history.add(now + 2, {"figure": 5_000.0})
    for seconds in STEPPED:
        told = history.steps(seconds, now + 2)
        assert told["series"]["figure"]["high"][-1] == 5_000.0
        assert told["t"][-1] == (now + 2) - (now + 2) % told["step"]
        assert told["t"] == sorted(set(told["t"]))
    history.add(now + 4_000, {"figure": 1.0})
    for seconds in STEPPED:
        told = history.steps(seconds, now + 4_000)
        assert told["t"] == sorted(set(told["t"])), "after a gap, too"
        assert told["series"]["figure"]["mean"][-1] == 1.0


def test_merging_steps_loses_no_least_and_no_most():
    chance = random.Random(3)
    history = History()
    values = {}
    for number in range(4_320):
        at = START + number * 5
        values[at] = chance.uniform(-10, 10)
        history.add(at, {"figure": values[at]})
    now = max(values)
    told = history.steps(6 * 3_600, now)
    for at, low, high in zip(
        told["t"], *(told["series"]["figure"][kind] for kind in ("low", "high")), strict=True
    ):
        inside = [value for then, value in values.items() if at <= then < at + told["step"]]
        assert low == pytest.approx(min(inside), rel=1e-4)
        assert high == pytest.approx(max(inside), rel=1e-4)
