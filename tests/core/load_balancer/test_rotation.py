"""Who gets the next request, given who is in rotation."""

import random
from collections import Counter

import pytest

from bot.core.load_balancer.instances import Instance
from bot.core.load_balancer.models import InstanceState, LoadBalancingStrategy
from bot.core.load_balancer.rotation import Rotation
from bot.core.phase4_config.load_balancer import LoadBalancerOptions
from tests.support.clock import VirtualClock

SLOW_START, HALF_OPEN, HEALTHY = InstanceState.SLOW_START, InstanceState.HALF_OPEN, InstanceState.HEALTHY


class Places:
    """A rotation of instances, and what it asks of its owner."""

    def __init__(self, *names: str, trials: tuple[str, ...] = (), **options: float) -> None:
        self.clock = VirtualClock()
        self.settled_at: list[float] = []
        self.on_settle = lambda: None
        self.faults: list[str] = []
        self.options = LoadBalancerOptions(**options)
        self.by_name = {name: Instance(name, "10.0.0.1", 1) for name in (*names, *trials)}
        for name in trials:
            self.by_name[name].state = HALF_OPEN
        self.rotation = Rotation(
            self.clock.monotonic, random.Random(7), self._settle, self.faults.append
        )  # fmt: skip
        self.change(*names, trials=trials)

    def _settle(self, now: float) -> None:
        self.settled_at.append(now)
        self.on_settle()

    def change(self, *names, trials=(), strategy=LoadBalancingStrategy.ROUND_ROBIN, warming=False):
        members = [self.by_name[name] for name in names]
        tried = [self.by_name[name] for name in trials]
        self.rotation.change(members, tried, strategy, self.options, warming=warming)
        self.rotation.check_invariants()

    def picks(self, times: int) -> Counter[str]:
        return Counter(self.rotation.pick().id for _ in range(times))


def test_nobody_is_chosen_while_nobody_is_in_rotation():
    empty = Places()
    assert empty.rotation.pick() is None
    assert empty.rotation.select() is None
    assert empty.rotation.select("session") is None
    assert empty.rotation.select(None, [Instance("gone", "10.0.0.1", 1)]) is None
    assert empty.rotation.select_trial() is None


def test_a_change_replaces_who_is_in_rotation():
    places = Places("a", "b")
    assert places.picks(4) == {"a": 2, "b": 2}
    places.by_name["c"] = Instance("c", "10.0.0.1", 1)
    places.change("c")
    assert places.picks(3) == {"c": 3}
    assert places.rotation.select("session").id == "c"
    places.change()
    assert places.rotation.select("session") is None


def test_a_retry_does_not_advance_the_turn():
    places = Places("a", "b", "c")
    first = places.rotation.pick()
    others = {"a", "b", "c"} - {first.id}
    assert places.rotation.select(None, [first]).id in others
    assert {places.rotation.pick().id for _ in range(2)} == others


def test_a_retry_goes_to_the_least_busy():
    places = Places("a", "b", "c")
    places.by_name["b"].in_flight = 3
    assert places.rotation.select(None, [places.by_name["a"]]).id == "c"


def test_a_retry_finds_the_one_of_many_that_is_left():
    names = [f"n{number}" for number in range(40)]
    places = Places(*names)
    tried = [places.by_name[name] for name in names[1:]]
    assert {places.rotation.select(None, tried).id for _ in range(20)} == {"n0"}


class TestLimit:
    def test_who_is_full_is_passed_over(self):
        places = Places("a", "b", max_concurrent=2)
        for _ in range(2):
            places.by_name["a"].in_flight += 1
            places.rotation.busy.moved(places.by_name["a"])
        assert places.picks(4) == {"b": 4}
        assert {places.rotation.select(session).id for session in range(50)} == {"b"}

    def test_nobody_is_chosen_if_all_are_full(self):
        places = Places("a", max_concurrent=1)
        places.by_name["a"].in_flight = 1
        assert places.rotation.pick() is None
        assert places.rotation.select("session") is None


class TestSlowStart:
    def warming(self) -> Places:
        places = Places("a", "b", slow_start=10.0)
        places.by_name["b"].state = SLOW_START
        places.by_name["b"].warm_from = places.clock.monotonic()
        places.change("a", "b", warming=True)
        return places

    def test_a_member_in_slow_start_gets_part_of_its_turns(self):
        places = self.warming()
        assert 20 < places.picks(1_000)["b"] < 100, "a tenth of its half"
        places.clock.jump(5.0)
        assert 200 < places.picks(1_000)["b"] < 350

    def test_its_owner_may_end_the_slow_start_within_a_pick(self):
        places = self.warming()

        def end() -> None:
            places.by_name["b"].state = HEALTHY
            places.change("a", "b")

        places.clock.jump(10.0)
        places.on_settle = end
        assert places.picks(100)["b"] >= 49
        assert places.settled_at == [places.clock.monotonic()]

    def test_all_in_slow_start_share_everything(self):
        places = Places("a", "b", slow_start=10.0)
        for instance in places.by_name.values():
            instance.state = SLOW_START
        places.change("a", "b", warming=True)
        assert places.picks(10) == {"a": 5, "b": 5}


class TestTrials:
    def test_one_at_a_time_and_a_fair_share(self):
        places = Places("a", "b", trials=("c",))
        found = [places.rotation.select_trial() for _ in range(900)]
        assert 200 < sum(instance is not None for instance in found) < 400
        places.by_name["c"].in_flight = 1
        assert {places.rotation.select_trial() for _ in range(50)} == {None}

    def test_alone_it_is_always_tried(self):
        places = Places(trials=("c",))
        assert all(places.rotation.select_trial().id == "c" for _ in range(20))


@pytest.mark.parametrize("chosen", [None, "b", Instance("elsewhere", "10.0.0.1", 1)])
def test_a_strategy_function_that_goes_wrong_is_told_of(chosen):
    places = Places("a", "b")
    places.change("a", "b", strategy=lambda members: chosen)
    assert places.picks(4) == {"a": 2, "b": 2}
    assert places.faults
