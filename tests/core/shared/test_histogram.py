"""Quantiles within the promised error, and buckets that add up."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core._shared.histogram import Histogram


def test_an_empty_histogram_answers_zero() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.99) == 0.0
    assert histogram.mean() == 0.0
    assert histogram.snapshot("wait_seconds", "waits").count == 0


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_quantiles_are_within_nine_percent(share: float) -> None:
    rng = random.Random(7)
    histogram = Histogram()
    durations = sorted(rng.lognormvariate(-6, 2) for _ in range(20_000))
    for duration in durations:
        histogram.record(duration)
    exact = durations[int(share * len(durations)) - 1]
    assert histogram.quantile(share) == pytest.approx(exact, rel=0.095)


def test_zeros_count_without_being_recorded() -> None:
    histogram = Histogram()
    histogram.record(1.0)
    assert histogram.quantile(0.5, zeros=9) == 0.0
    assert histogram.quantile(0.95, zeros=9) == 1.0
    assert histogram.mean(zeros=9) == pytest.approx(0.1)


def test_a_snapshot_is_cumulative_and_loses_nothing() -> None:
    histogram = Histogram()
    for duration in (0.0, 10e-6, 0.003, 0.003, 0.5, 1_000.0):
        histogram.record(duration)
    taken = histogram.snapshot("wait_seconds", "waits", {"pool": "main"}, zeros=4)
    counts = [count for _, count in taken.buckets]
    assert counts == sorted(counts)
    assert counts[0] == 6  # the zeros and 10 µs
    assert counts[-1] == 9  # 1,000 s is above the last bound
    assert taken.count == 10
    assert taken.sum == pytest.approx(1_000.50601)
    assert taken.labels == {"pool": "main"}


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6, 63.9e-6, 1e-6 * 2.0**6, 1.0, 66.0, 1e9])
def test_every_duration_has_a_bucket_at_or_above_it(seconds: float) -> None:
    histogram = Histogram()
    histogram.record(seconds)
    for bound, count in histogram.snapshot("x_seconds", "x").buckets:
        assert count == (1 if seconds <= bound else 0)


@given(st.lists(st.floats(0.0, 1e5), min_size=1, max_size=200), st.sampled_from([1.0, 1e-3, 1e-6]))
def test_many_recorded_at_once_are_as_many_recorded_one_by_one(ages: list[float], scale: float) -> None:
    now = 200_000.0
    starts = sorted(now - age * scale for age in ages)
    at_once, single = Histogram(), Histogram()
    at_once.record_since(starts, now)
    for start in starts:
        single.record(now - start)
    assert at_once.recorded == single.recorded == sum(at_once.counts)
    assert at_once.longest == single.longest
    assert at_once.total == pytest.approx(single.total, abs=1e-6)
    # Of a duration on the very bound of two buckets, rounding may choose the other.
    moved = [ours - theirs for ours, theirs in zip(at_once.counts, single.counts, strict=True)]
    bounds = [1e-6 * 2 ** (index / 8) for index in range(289)]
    near = sum(any(abs(now - start - bound) <= 1e-9 * bound + 1e-10 for bound in bounds) for start in starts)
    assert sum(abs(change) for change in moved) <= 2 * near


def test_of_many_those_that_began_later_than_now_took_nothing() -> None:
    histogram = Histogram()
    histogram.record_since([1.0, 3.0, 5.0], 3.0)
    assert histogram.counts[0] == 2
    assert histogram.recorded == 3
    assert histogram.longest == 2.0
