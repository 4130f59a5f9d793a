"""When a batch is tried again, and how its size is found."""

import random

import pytest

from bot.core.batch_processor.retry import BatchSizer, RetryPolicy


def test_delays_are_random_bounded_and_come_to_an_end():
    policy = RetryPolicy(max_retries=4, base=1.0, cap=3.0)
    for attempt, bound in ((1, 1.0), (2, 2.0), (3, 3.0), (4, 3.0)):
        delays = [policy.delay(attempt, random.Random(seed)) for seed in range(200)]
        assert all(0.0 <= delay <= bound for delay in delays)
        assert max(delays) > bound * 0.9
        assert min(delays) < bound * 0.1
    assert policy.delay(5) is None
    assert RetryPolicy(max_retries=0).delay(1) is None


def feed(sizer, seconds_per_item, batches):
    sizes = []
    for _ in range(batches):
        sizer.observe(sizer.size, sizer.size * seconds_per_item(sizer.size))
        sizes.append(sizer.size)
    return sizes


def test_the_size_grows_while_an_item_takes_less_time():
    sizer = BatchSizer(1600)
    assert sizer.size == 100
    # A fixed price for each batch: the larger the batch the less of it falls on an item.
    feed(sizer, lambda size: 0.001 + 1.0 / size, 40)
    assert sizer.size == 1600


def test_it_stops_where_larger_is_worse_and_looks_again_later():
    sizer = BatchSizer(1600)

    def best_at_400(size):
        return 0.01 + abs(size - 400) / 1000

    sizes = feed(sizer, best_at_400, 40)
    assert max(sizes) == 800, "it had to try"
    assert sizer.size == 400
    assert 800 in feed(sizer, best_at_400, 100), "the load may have changed meanwhile"


def test_it_never_leaves_its_bounds():
    sizer = BatchSizer(10)
    assert sizer.size == 1
    sizes = feed(sizer, lambda size: random.Random(size).random(), 500)
    assert min(sizes) >= 1
    assert max(sizes) <= 10


@pytest.mark.parametrize("items", [1, 99, 101])
def test_batches_of_another_size_say_nothing(items):
    sizer = BatchSizer(1600)
    for _ in range(50):
        sizer.observe(items, 0.0)
    assert sizer.size == 100
