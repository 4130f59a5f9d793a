"""States: what takes an instance out, what brings it back, and what it gets meanwhile."""

from collections import Counter

import pytest

from bot.core.load_balancer.cluster import TRIALS
from bot.core.load_balancer.instances import Instance
from bot.core.load_balancer.models import InstanceState
from tests.support.balancing import bring_up, cluster, picks, take_down
from tests.support.clock import VirtualClock

HEALTHY, SLOW_START, HALF_OPEN, EJECTED, UNHEALTHY, DRAINING, DRAINED = InstanceState


@pytest.fixture
def clock():
    return VirtualClock()


def fail(of, name, clock, times=1, *, trial=False):
    for _ in range(times):
        of.failed(of.members[name], "TimeoutError", 0.1, clock.monotonic(), trial=trial)


def succeed(of, name, clock, times=1, *, trial=False):
    for _ in range(times):
        of.succeeded(of.members[name], 0.1, clock.monotonic(), trial=trial)


class TestChecks:
    def test_so_many_failures_in_a_row_take_it_out(self, clock):
        three = cluster(3, clock=clock, failure_threshold=3)
        a = three.members["a"]
        for fault in ("x", "x", "", "x", "x"):
            three.checked(a, fault, 0.0)
        assert a.state is HEALTHY
        three.checked(a, "refused", 0.0)
        assert a.state is UNHEALTHY
        assert "a" not in picks(three, 30)
        assert a.last_error == "health check: refused"

    def test_so_many_good_ones_in_a_row_bring_it_back(self, clock):
        three = cluster(3, clock=clock, recovery_threshold=5)
        a = take_down(three, "a")
        for fault in ("", "", "", "", "x", "", "", "", ""):
            three.checked(a, fault, 0.0)
        assert a.state is UNHEALTHY
        three.checked(a, "", 0.0)
        assert a.state is HEALTHY
        assert "a" in picks(three, 3)

    def test_the_history_tells_what_happened(self, clock):
        three = cluster(3, clock=clock)
        take_down(three, "a")
        a = bring_up(three, "a")
        assert [(entry["from"], entry["to"]) for entry in a.history] == [
            ("healthy", "unhealthy"),
            ("unhealthy", "healthy"),
        ]
        assert a.history[0]["reason"] == "3 failed health check(s) in a row, the last: no answer"
        for _ in range(50):
            take_down(three, "a")
            bring_up(three, "a")
        assert len(a.history) == 20


class TestEjection:
    def test_failures_in_a_row(self, clock):
        three = cluster(3, clock=clock, outlier_failures=5)
        fail(three, "a", clock, 4)
        succeed(three, "a", clock)
        fail(three, "a", clock, 4)
        assert three.members["a"].state is HEALTHY
        fail(three, "a", clock)
        assert three.members["a"].state is EJECTED
        assert "a" not in picks(three, 30)

    def half_fail(self, of, name, clock, requests=40):
        for _ in range(requests // 2):
            succeed(of, name, clock)
            fail(of, name, clock)

    def test_a_share_of_failures_beyond_that_of_the_others(self, clock):
        three = cluster(3, clock=clock)
        succeed(three, "b", clock, 40)
        self.half_fail(three, "a", clock)
        assert three.members["a"].state is EJECTED
        assert "50 % of 20 requests failed" in three.events[-1].reason

    def test_what_all_fail_alike_is_no_fault_of_one(self, clock):
        three = cluster(3, clock=clock)
        for _ in range(200):
            for name in "abc":
                succeed(three, name, clock)
                fail(three, name, clock)
        assert {instance.state for instance in three.members.values()} == {HEALTHY}

    def test_old_failures_are_forgotten(self, clock):
        three = cluster(3, clock=clock, outlier_window=10.0)
        self.half_fail(three, "a", clock, 18)
        clock.jump(21.0)
        succeed(three, "a", clock)
        fail(three, "a", clock)
        assert three.members["a"].state is HEALTHY

    def test_never_more_than_the_share_and_never_all(self, clock):
        five = cluster(5, clock=clock, max_ejected_percent=50)
        for name in "abcde":
            fail(five, name, clock, 20)
        assert sum(i.state is EJECTED for i in five.members.values()) == 2
        one = cluster(1, clock=clock)
        fail(one, "a", clock, 20)
        assert one.members["a"].state is HEALTHY

    def test_the_last_healthy_one_is_never_ejected(self, clock):
        three = cluster(3, clock=clock)
        take_down(three, "b")
        take_down(three, "c")
        fail(three, "a", clock, 20)
        assert three.members["a"].state is HEALTHY

    def test_it_lasts_twice_as_long_each_time_up_to_a_limit(self, clock):
        three = cluster(3, clock=clock, ejection_time=30, ejection_max_time=100)
        a = three.members["a"]
        fail(three, "a", clock, 5)
        lasted = []
        for _ in range(3):
            lasted.append(a.ejected_until - clock.monotonic())
            clock.jump(lasted[-1])
            three.reopen(a, "", clock.monotonic())
            fail(three, "a", clock, trial=True)
        lasted.append(a.ejected_until - clock.monotonic())
        assert lasted == [30, 60, 100, 100]
        clock.jump(lasted[-1])
        three.reopen(a, "", clock.monotonic())
        succeed(three, "a", clock, TRIALS, trial=True)
        clock.jump(101)
        fail(three, "a", clock, 5)
        assert a.ejected_until - clock.monotonic() == 30, "long after, it begins anew"

    def test_a_check_that_fails_at_its_end_lengthens_it(self, clock):
        three = cluster(3, clock=clock)
        fail(three, "a", clock, 5)
        clock.jump(30)
        three.reopen(three.members["a"], "refused", clock.monotonic())
        assert three.members["a"].state is EJECTED
        assert three.members["a"].ejected_until == clock.monotonic() + 60

    def test_it_does_not_end_early(self, clock):
        three = cluster(3, clock=clock)
        fail(three, "a", clock, 5)
        clock.jump(29)
        three.reopen(three.members["a"], "", clock.monotonic())
        assert three.members["a"].state is EJECTED


class TestHalfOpen:
    @pytest.fixture
    def half_open(self, clock):
        made = cluster(3, clock=clock)
        fail(made, "a", clock, 5)
        clock.jump(30)
        made.reopen(made.members["a"], "", clock.monotonic())
        assert made.members["a"].state is HALF_OPEN
        return made

    def test_it_gets_one_trial_at_a_time_and_no_other_request(self, half_open):
        assert "a" not in picks(half_open, 30)
        trials = [half_open.select_trial() for _ in range(300)]
        assert 60 < trials.count(half_open.members["a"]) < 140, "a third, as its share would be"
        half_open.acquire(half_open.members["a"])
        assert [half_open.select_trial() for _ in range(30)] == [None] * 30

    def test_good_trials_bring_it_back(self, half_open, clock):
        succeed(half_open, "a", clock, TRIALS - 1, trial=True)
        assert half_open.members["a"].state is HALF_OPEN
        succeed(half_open, "a", clock, trial=True)
        assert half_open.members["a"].state is HEALTHY

    def test_a_bad_trial_ejects_it_again(self, half_open, clock):
        succeed(half_open, "a", clock, trial=True)
        fail(half_open, "a", clock, trial=True)
        assert half_open.members["a"].state is EJECTED

    def test_requests_from_before_decide_nothing(self, half_open, clock):
        fail(half_open, "a", clock, 10)
        assert half_open.members["a"].state is HALF_OPEN
        succeed(half_open, "a", clock, 10)
        assert half_open.members["a"].state is HALF_OPEN


class TestSlowStart:
    def shares(self, of, clock):
        return Counter(picks(of, 3_000))["a"] / 1_000

    @pytest.mark.parametrize(
        "strategy", ["round_robin", "weighted", "random", "least_connections", "least_loaded"]
    )
    def test_its_share_grows(self, strategy, clock):
        weights = {"a": 1.0001} if strategy == "weighted" else {}
        three = cluster(3, strategy, clock=clock, slow_start=10, weights=weights)
        take_down(three, "a")
        assert bring_up(three, "a").state is SLOW_START
        assert 0.03 < self.shares(three, clock) < 0.25
        clock.jump(5)
        assert 0.35 < self.shares(three, clock) < 0.75
        clock.jump(5.1)
        assert 0.85 < self.shares(three, clock) < 1.2
        assert three.members["a"].state is HEALTHY

    def test_with_nobody_else_it_gets_everything(self, clock):
        two = cluster(2, clock=clock, slow_start=10)
        take_down(two, "a")
        take_down(two, "b")
        bring_up(two, "a")
        assert picks(two, 5) == ["a"] * 5

    def test_one_that_joins_gets_its_share_at_once(self, clock):
        two = cluster(2, clock=clock, slow_start=10)
        two.add(Instance("z", "127.0.0.1", 1))
        assert Counter(picks(two, 30))["z"] == 10


class TestPanic:
    def test_too_few_healthy_requests_go_to_all(self, clock):
        five = cluster(5, clock=clock, panic_percent=30)
        for name in "abc":
            take_down(five, name)
        assert set(picks(five, 20)) == {"d", "e"}
        take_down(five, "d")
        assert five.panic
        assert set(picks(five, 20)) == set("abcde")
        assert five.events[-1].reason == "1 of 5 instances are healthy: requests go to all"
        bring_up(five, "d")
        assert set(picks(five, 20)) == {"d", "e"}

    def test_none_healthy_requests_go_to_all_whatever_the_setting(self, clock):
        two = cluster(2, clock=clock, panic_percent=0)
        take_down(two, "a")
        assert set(picks(two, 10)) == {"b"}
        take_down(two, "b")
        assert set(picks(two, 10)) == {"a", "b"}

    def test_requests_bring_a_half_open_instance_back_while_the_others_are_bad(self, clock):
        two = cluster(2, clock=clock)
        fail(two, "a", clock, 5)
        take_down(two, "b")
        clock.jump(30)
        two.reopen(two.members["a"], "", clock.monotonic())
        assert two.panic
        succeed(two, "a", clock, TRIALS - 1)
        fail(two, "a", clock)
        succeed(two, "a", clock, TRIALS - 1)
        assert (two.panic, two.members["a"].state) == (True, HALF_OPEN), "in a row, that is"
        succeed(two, "a", clock)
        assert (two.panic, two.members["a"].state) == (False, HEALTHY)
        assert set(picks(two, 10)) == {"a"}


class TestComingAndGoing:
    def test_a_draining_instance_gets_nothing_and_leaves_when_idle(self, clock):
        two = cluster(2, clock=clock)
        a = two.members["a"]
        two.acquire(a)
        two.remove("a", drain=True)
        assert a.state is DRAINING
        assert set(picks(two, 10)) == {"b"}
        two.release(a)
        assert "a" not in two.members
        assert not a.present

    def test_an_idle_one_leaves_at_once(self, clock):
        two = cluster(2, clock=clock)
        two.remove("a", drain=True)
        assert list(two.members) == ["b"]
        assert two.remove("a", drain=True) is None

    def test_one_that_is_added_again_stays(self, clock):
        two = cluster(2, clock=clock)
        a = two.members["a"]
        two.acquire(a)
        two.remove("a", drain=True)
        assert two.add(Instance("a", "127.0.0.1", 8001, weight=2.0)) is a
        two.release(a)
        assert a.present
        assert a.weight == 2.0
        assert "a" in picks(two, 2)

    def test_another_address_replaces_it(self, clock):
        two = cluster(2, clock=clock)
        old = two.members["a"]
        new = two.add(Instance("a", "127.0.0.1", 9999))
        assert (old.present, new.present) == (False, True)
        assert len(two.members) == 2

    def test_the_first_that_joins_and_the_last_that_leaves(self, clock):
        empty = cluster(0, clock=clock)
        assert empty.select() is None
        assert empty.select("session") is None
        empty.add(Instance("a", "127.0.0.1", 1))
        assert empty.select().id == "a"
        empty.remove("a", drain=False)
        assert empty.select() is None


class TestLimit:
    @pytest.mark.parametrize(
        "strategy", ["round_robin", "weighted", "random", "least_connections", "least_loaded"]
    )
    def test_nobody_gets_more_than_its_limit_and_every_place_is_used(self, strategy, clock):
        three = cluster(3, strategy, clock=clock, max_concurrent=4, weights={"a": 2.0})
        for _ in range(12):
            three.acquire(three.select())
        assert {instance.in_flight for instance in three.members.values()} == {4}
        assert three.select() is None
        assert three.select("session") is None
        three.release(three.members["b"])
        assert three.select().id == "b"
        assert three.select("session").id == "b"


class TestManyThatAreAddedTogether:
    def test_who_gets_requests_is_worked_out_once(self, clock, monkeypatch):
        of = cluster(1, clock=clock)
        of.pick()
        times = []
        rebuild = of._rebuild
        monkeypatch.setattr(of, "_rebuild", lambda: (times.append(1), rebuild())[1])
        for number in range(1_000):
            of.add(Instance(f"n{number}", "10.0.0.1", 1 + number))
        of.pick()
        assert len(times) == 1
        of.check_invariants()

    def test_each_way_to_choose_sees_them(self, clock):
        of = cluster(1, clock=clock)
        of.pick()
        of.add(Instance("b", "10.0.0.1", 1))
        assert {of.pick().id for _ in range(4)} == {"a", "b"}
        of.add(Instance("c", "10.0.0.1", 2))
        tried = [of.members["a"], of.members["b"]]
        assert of.select(None, tried).id == "c"
        of.add(Instance("d", "10.0.0.1", 3))
        assert "d" in {of.select(session).id for session in range(100)}

    def test_one_that_is_added_ends_a_panic_at_once(self, clock):
        of = cluster(2, clock=clock, panic_percent=50)
        for name in ("a", "b"):
            take_down(of, name)
        assert of.panic
        of.add(Instance("c", "10.0.0.1", 1))
        of.add(Instance("d", "10.0.0.1", 2))
        assert not of.panic
        assert {of.pick().id for _ in range(10)} == {"c", "d"}
