"""Which instance is ejected, and for what."""

import pytest

from bot.core.load_balancer.instances import Instance
from bot.core.load_balancer.outliers import Outliers
from bot.core.phase4_config.load_balancer import LoadBalancerOptions


def watched(count=2, **options):
    standard = {"outlier_failures": 100, "outlier_min_requests": 10, "outlier_failure_percent": 50.0}
    outliers = Outliers(LoadBalancerOptions(**{**standard, "outlier_window": 10.0, **options}))
    return outliers, [Instance(f"i{number}", "127.0.0.1", number + 1) for number in range(count)]


def outcomes(outliers, instance, good, bad, now=0.0):
    """The reason after so many good and then bad outcomes."""
    reason = ""
    for _ in range(good):
        outliers.succeeded(instance, now)
    for _ in range(bad):
        reason = outliers.failed(instance, now)
    return reason


def test_so_many_failures_in_a_row_are_too_many():
    outliers, [one, _] = watched(outlier_failures=3, outlier_min_requests=100)
    assert outcomes(outliers, one, 0, 2) == ""
    assert outcomes(outliers, one, 1, 2) == "", "a good one in between begins anew"
    assert outliers.failed(one, 0.0) == "3 failures in a row"
    outliers.forget(one)
    assert (one.consecutive_failures, one.window, outliers._all) == (0, [0] * 4, [0] * 4)
    assert outcomes(outliers, one, 0, 2) == ""


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        (5, 5, "50 % of 10 requests failed"),
        (5, 4, ""),  # less than ten requests
        (6, 5, ""),  # less than half of them
        (3, 9, "75 % of 12 requests failed"),
    ],
)
def test_too_high_a_share_of_failures(good, bad, reason):
    outliers, [one, other] = watched()
    outcomes(outliers, other, 10, 0)
    assert outcomes(outliers, one, good, bad) == reason


@pytest.mark.parametrize(
    ("others_good", "others_bad", "ejected"),
    [(15, 5, True), (15, 6, False), (0, 5, False), (0, 1, False), (0, 0, True)],
)
@pytest.mark.parametrize("earlier", [5.0, 12.0])
def test_what_others_fail_half_as_often_at_is_the_fault_of_one(others_good, others_bad, ejected, earlier):
    """Whether they did so in this window or in the one before."""
    outliers, [one, other] = watched()
    outcomes(outliers, other, others_good, others_bad, now=earlier)
    reason = outcomes(outliers, one, 10, 10, now=12.0)
    assert reason == ("50 % of 20 requests failed" if ejected else "")


def test_a_window_is_the_current_one_and_the_one_before():
    outliers, [one, other] = watched()
    outcomes(outliers, one, 1, 4, now=0.0)
    outcomes(outliers, other, 3, 1, now=9.9)
    assert (one.window, other.window, outliers._all) == ([1, 4, 0, 0], [3, 1, 0, 0], [4, 5, 0, 0])
    outliers.failed(one, 10.0)
    assert (one.window, outliers._all) == ([0, 1, 1, 4], [0, 1, 4, 5])
    assert other.window == [3, 1, 0, 0], "rolled when it is next heard of"
    outliers.succeeded(other, 19.9)
    assert (other.window, outliers._all) == ([1, 0, 3, 1], [1, 1, 4, 5])
    outliers.forget(one)
    assert (one.window, outliers._all) == ([0] * 4, [1, 0, 3, 1])
    outliers.failed(other, 40.0)
    assert (other.window, outliers._all) == ([0, 1, 0, 0], [0, 1, 0, 0]), "both windows are long past"


def test_failures_of_both_windows_count():
    outliers, [one, other] = watched()
    outcomes(outliers, other, 20, 0, now=5.0)
    assert outcomes(outliers, one, 3, 3, now=5.0) == ""
    assert outcomes(outliers, one, 1, 3, now=12.0) == "60 % of 10 requests failed"


def test_good_outcomes_of_the_window_before_count():
    outliers, [one, other] = watched()
    outcomes(outliers, other, 20, 0, now=5.0)
    assert outcomes(outliers, one, 4, 2, now=5.0) == ""
    assert outcomes(outliers, one, 1, 3, now=12.0) == "50 % of 10 requests failed"


def test_one_window_follows_the_other():
    outliers, [one, _] = watched()
    for now in (0.0, 10.0, 20.0):
        outliers.failed(one, now)
        assert (one.window[1], one.window[3]) == (outliers._all[1], outliers._all[3])
    assert one.window == [0, 1, 0, 1]


def test_after_a_window_without_requests_nothing_older_counts():
    outliers, [one, _] = watched()
    outliers.failed(one, 0.0)
    outliers.failed(one, 20.0)
    assert (one.window, outliers._all) == ([0, 1, 0, 0], [0, 1, 0, 0])


def test_windows_of_one_second_end_too():
    outliers, [one, _] = watched(outlier_window=1.0)
    for now in (0.0, 1.0, 2.0):
        outliers.failed(one, now)
    assert one.window == [0, 1, 0, 1]
