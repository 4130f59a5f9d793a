"""How each strategy chooses."""

from collections import Counter

import pytest

from bot.core.load_balancer.models import LoadBalancingStrategy
from bot.core.load_balancer.strategies import DECAY_SECONDS, FAILURE_COST, UNKNOWN_COST, observe, strategy_of
from tests.support.balancing import bring_up, cluster, picks, take_down
from tests.support.clock import VirtualClock


def test_round_robin_takes_turns():
    found = picks(cluster(3), 6)
    assert found[:3] == found[3:]
    assert set(found) == {"a", "b", "c"}


def test_round_robin_of_several_balancers_does_not_begin_with_the_same_instance():
    assert {picks(cluster(3, seed=seed), 1)[0] for seed in range(20)} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("weights", "count", "expected"),
    [
        ({"a": 3.0}, 400, {"a": 300, "b": 100}),
        ({"a": 0.5, "b": 0.25}, 300, {"a": 200, "b": 100}),
        ({"a": 5.0, "b": 2.0}, 700, {"a": 500, "b": 200}),
    ],
)
def test_weighted_shares_are_exact(weights, count, expected):
    assert Counter(picks(cluster(2, "weighted", weights=weights), count)) == expected


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("heavy", ["a", "b"])
def test_weighted_is_smooth_from_the_first_pick_on(heavy, seed):
    found = "".join(picks(cluster(2, "weighted", weights={heavy: 3.0}, seed=seed), 40))
    light = "ab".replace(heavy, "")
    assert heavy * 4 not in found
    assert light * 2 not in found


def test_least_connections_goes_to_the_least_busy():
    busy = cluster(3, "least_connections")
    first, second, third = (busy.select() for _ in range(3))
    for instance, requests in ((first, 2), (second, 1), (third, 3)):
        for _ in range(requests):
            busy.acquire(instance)
    assert busy.select() is second
    busy.release(first)
    busy.release(first)
    assert busy.select() is first


def test_least_connections_favours_nobody_among_equals():
    counts = Counter(picks(cluster(3, "least_connections"), 300))
    assert set(counts.values()) == {100}


def test_least_connections_gives_twice_the_weight_twice_the_requests_under_load():
    busy = cluster(2, "least_connections", weights={"a": 2.0})
    for _ in range(30):
        busy.acquire(busy.select())
    assert (busy.members["a"].in_flight, busy.members["b"].in_flight) == (20, 10)


def test_random_reaches_everybody():
    assert set(picks(cluster(3, "random"), 100)) == {"a", "b", "c"}


class TestLeastLoaded:
    def test_the_slow_one_is_avoided_and_the_others_share(self):
        clock = VirtualClock()
        loaded = cluster(3, "least_loaded", clock=clock)
        for name, seconds in (("a", 0.1), ("b", 0.01), ("c", 0.01)):
            observe(loaded.members[name], seconds, clock.monotonic())
        counts = Counter(picks(loaded, 300))
        assert counts["a"] == 0
        assert min(counts["b"], counts["c"]) > 100

    @pytest.mark.parametrize("count", [2, 3, 40])
    def test_the_slower_of_two_is_never_taken(self, count):
        """So the slowest of all is not either."""
        clock = VirtualClock()
        loaded = cluster(count, "least_loaded", clock=clock)
        for member in loaded.members.values():
            observe(member, 0.015 if member.id == "a" else 0.01, clock.monotonic())
        assert "a" not in picks(loaded, 500)

    def test_several_balancers_do_not_go_the_same_way(self):
        ways = {tuple(picks(cluster(3, "least_loaded", seed=seed), 10)) for seed in range(10)}
        assert len(ways) > 5

    def test_who_has_much_in_progress_is_avoided(self):
        loaded = cluster(2, "least_loaded")
        loaded.acquire(loaded.members["a"])
        assert set(picks(loaded, 20)) == {"b"}

    def test_a_slow_answer_counts_at_once_and_fast_ones_by_and_by(self):
        clock = VirtualClock()
        instance = cluster(1, clock=clock).members["a"]
        observe(instance, 0.5, clock.monotonic())
        assert instance.cost == 0.5
        observe(instance, 0.01, clock.monotonic())
        assert 0.4 < instance.cost < 0.5

    def test_after_a_pause_an_answer_counts_the_more(self):
        clock = VirtualClock()
        instance = cluster(1, clock=clock).members["a"]
        observe(instance, 0.5, clock.monotonic())
        clock.jump(DECAY_SECONDS)
        observe(instance, 0.01, clock.monotonic())
        assert instance.cost == pytest.approx((0.25 + 0.01) / 2), "half is forgotten, and half of the rest"

    def test_a_slow_one_is_forgiven_with_time(self):
        clock = VirtualClock()
        loaded = cluster(2, "least_loaded", clock=clock)
        observe(loaded.members["a"], 0.1, clock.monotonic())
        for _ in range(1000):  # b is sampled all the time
            clock.jump(1.0)
            observe(loaded.members["b"], 0.01, clock.monotonic())
            if "a" in picks(loaded, 1):
                break
        else:
            pytest.fail("never tried again")

    def test_failing_fast_is_not_being_fast(self):
        clock = VirtualClock()
        loaded = cluster(2, "least_loaded", clock=clock)
        loaded.failed(loaded.members["a"], "refused", 0.0001, clock.monotonic(), trial=False)
        assert loaded.members["a"].cost >= FAILURE_COST
        assert set(picks(loaded, 20)) == {"b"}

    def test_weight_counts(self):
        loaded = cluster(2, "least_loaded", weights={"a": 10.0})
        assert set(picks(loaded, 20)) == {"a"}

    @pytest.mark.parametrize(("in_progress", "taken"), [(1, "a"), (3, "b")])
    def test_weight_is_weighed_against_what_is_in_progress(self, in_progress, taken):
        loaded = cluster(2, "least_loaded", weights={"a": 3.0})
        for _ in range(in_progress):
            loaded.acquire(loaded.members["a"])
        assert set(picks(loaded, 20)) == {taken}

    def test_one_that_joins_is_taken_for_an_average_one(self):
        clock = VirtualClock()
        loaded = cluster(1, clock=clock)
        assert loaded.members["a"].cost == UNKNOWN_COST
        loaded.succeeded(loaded.members["a"], 0.2, clock.monotonic(), trial=False)
        loaded.add(type(loaded.members["a"])("b", "127.0.0.1", 1))
        assert loaded.members["b"].cost == 0.2


class TestCallable:
    def test_it_is_given_those_available_and_its_choice_is_taken(self):
        seen = []

        def last(instances):
            seen.append([instance.id for instance in instances])
            return instances[-1]

        own = cluster(3, last)
        assert picks(own, 2) == ["c", "c"]
        take_down(own, "c")
        assert picks(own, 1) == ["b"]
        assert seen[-1] == ["a", "b"]
        bring_up(own, "c")
        assert picks(own, 1) == ["c"]

    @pytest.mark.parametrize("answer", [None, "a", "raise"])
    def test_what_it_does_wrong_is_said_once_and_round_robin_serves(self, answer):
        def broken(instances):
            if answer == "raise":
                raise LookupError("empty")
            return answer

        own = cluster(3, broken)
        own.events.clear()
        assert Counter(picks(own, 9)) == {"a": 3, "b": 3, "c": 3}
        [event] = own.events
        assert event.old == "strategy function"
        assert ("raised LookupError: empty" if answer == "raise" else "none of the instances") in event.reason


def test_names_of_strategies():
    assert LoadBalancingStrategy("Weighted_Round_Robin") is LoadBalancingStrategy.WEIGHTED
    assert LoadBalancingStrategy.WEIGHTED_ROUND_ROBIN is LoadBalancingStrategy.WEIGHTED
    assert strategy_of("least_loaded") is LoadBalancingStrategy.LEAST_LOADED
    assert strategy_of(LoadBalancingStrategy.RANDOM) is LoadBalancingStrategy.RANDOM


@pytest.mark.parametrize("bad", ["fastest", 3, None])
def test_an_unknown_strategy_is_refused_with_those_there_are(bad):
    with pytest.raises(ValueError, match=r"strategy = .*'round_robin', 'least_connections'"):
        strategy_of(bad)


class MovingClock(VirtualClock):
    """A millisecond passes whenever it is read."""

    def monotonic(self):
        self.jump(0.001)
        return super().monotonic()


@pytest.mark.parametrize("count", [2, 3, 40])
def test_least_loaded_shares_evenly_among_those_of_whom_nothing_is_known(count):
    found = Counter(picks(cluster(count, "least_loaded", clock=MovingClock()), count * 4_000))
    assert len(found) == count
    assert max(found.values()) < 1.2 * min(found.values())
