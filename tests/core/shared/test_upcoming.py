"""The first of many deadlines, most of which are never reached."""

import math
import random

import pytest

from bot.core._shared.upcoming import Upcoming


class Waiting:
    """Items that wait, their deadlines, and how often all of them were looked at."""

    def __init__(self):
        self.at = {}
        self.looked_at = 0
        self.upcoming = Upcoming(self.all, lambda item, at: self.at.get(item) == at)

    def all(self):
        self.looked_at += len(self.at)
        return [(at, item) for item, at in self.at.items()]

    def add(self, item, at):
        self.at[item] = at
        if at <= self.upcoming.horizon:
            self.upcoming.add(at, item, len(self.at))

    def take_due(self, now):
        due = self.upcoming.take_due(now)
        for item in due:
            del self.at[item]
        return due


def test_what_is_due_is_told_the_earliest_first():
    waiting = Waiting()
    for item, at in [("c", 3.0), ("a", 1.0), ("never", math.inf), ("b", 2.0)]:
        waiting.add(item, at)
    assert waiting.upcoming.next_at() == 1.0
    assert waiting.take_due(2.0) == ["a", "b"]
    assert waiting.upcoming.next_at() == 3.0
    assert waiting.take_due(9.0) == ["c"]
    assert waiting.upcoming.next_at() == math.inf
    assert list(waiting.at) == ["never"]


def test_one_that_the_owner_still_has_is_told_once_in_a_look():
    waiting = Waiting()
    waiting.add("a", 1.0)
    assert waiting.upcoming.take_due(1.0) == ["a"]
    assert waiting.upcoming.take_due(1.0) == ["a"], "and again, as long as it waits"


@pytest.mark.parametrize("seed", range(30))
def test_it_says_what_a_look_at_all_would_say(seed):
    chance = random.Random(seed)
    waiting = Waiting()
    now, number = 0.0, 0
    for _ in range(1_500):
        act = chance.random()
        if act < 0.5:
            number += 1
            waiting.add(chance.choice([number, chance.randrange(20)]), now + chance.choice([1.0, 9.0, act]))
        elif act < 0.8 and waiting.at:
            del waiting.at[chance.choice(list(waiting.at))]
        else:
            now += chance.choice([0.0, 0.1, 5.0])
            expected = sorted(at for at in waiting.at.values() if at <= now)
            at_before = dict(waiting.at)
            assert [at_before[item] for item in waiting.take_due(now)] == expected
        if act > 0.7:
            assert waiting.upcoming.next_at() == min(waiting.at.values(), default=math.inf)


@pytest.mark.parametrize("count", [100, 3_000])
def test_each_is_looked_at_a_few_times_however_many_wait(count):
    """All reach their deadlines, each at another time, while others come."""
    waiting = Waiting()
    for item in range(count):
        waiting.add(item, 1_000.0 + item)
    for step in range(2 * count):
        waiting.add(count + step, 1_000.0 + count + step)
        assert len(waiting.take_due(1_000.0 + step)) == 1
        assert waiting.upcoming.next_at() == 1_001.0 + step
    assert waiting.looked_at <= 2 * 3 * count


def test_what_comes_and_goes_is_not_kept():
    waiting = Waiting()
    waiting.add("far", 1_000.0)
    assert waiting.upcoming.next_at() == 1_000.0
    for item in range(5_000):
        waiting.add(item, 500.0)
        del waiting.at[item]
    assert len(waiting.upcoming._heap) < 200
    assert waiting.upcoming.next_at() == 1_000.0
