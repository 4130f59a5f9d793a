"""Quantiles within the promised error, and buckets that add up."""

from __future__ import annotations

import random

import pytest

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


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6, 63.9e-6, 1.0, 66.0, 1e9])
def test_every_duration_has_a_bucket_at_or_above_it(seconds: float) -> None:
    histogram = Histogram()
    histogram.record(seconds)
    for bound, count in histogram.snapshot("x_seconds", "x").buckets:
        assert count == (1 if seconds <= bound else 0)
