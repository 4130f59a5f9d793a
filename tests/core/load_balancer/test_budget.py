"""The retry budget."""

from bot.core.load_balancer.budget import WINDOW, RetryBudget


def taken(budget, now, tries):
    return sum(budget.take(now) for _ in range(tries))


def test_without_traffic_there_is_a_reserve():
    assert taken(RetryBudget(20, 10), 100.0, 1_000) == 100


def test_a_share_of_the_requests_comes_on_top():
    budget = RetryBudget(20, 0)
    for _ in range(1_000):
        budget.request(100.0)
    assert taken(budget, 100.0, 1_000) == 200
    assert budget.refused == 800


def test_the_window_before_counts_and_what_is_older_does_not():
    budget = RetryBudget(50, 0)
    for _ in range(10):
        budget.request(100.0)
    assert taken(budget, 100.0, 2) == 2
    assert taken(budget, 100.0 + WINDOW, 10) == 3, "five for ten, two of them taken"
    assert taken(budget, 100.0 + 3 * WINDOW, 10) == 0


def test_no_budget_means_no_retries():
    budget = RetryBudget(0, 0)
    budget.request(1.0)
    assert not budget.take(1.0)
