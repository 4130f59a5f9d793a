"""The balancer as a bot holds it: on and off, instances, events, figures, event loops."""

import asyncio
import logging
from collections import Counter
from typing import get_type_hints

import pytest

from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.load_balancer import InstanceState, LoadBalancer, LoadBalancingStrategy
from bot.core.load_balancer.faults import CODE_FAULTS
from bot.core.load_balancer.models import Figures
from bot.core.load_balancer.router import HEDGE_MIN_SAMPLES
from bot.core.phase4_config.load_balancer import LoadBalancerOptions
from bot.core.phase4_config.messages import bare
from tests.support.clock import VirtualClock, until_idle


async def echo(instance, data):
    return data


async def balancer(*names, **figures):
    made = LoadBalancer()
    await made.enable(request_handler=echo, **{"check_interval": 0, "slow_start": 0, **figures})
    for index, name in enumerate(names):
        await made.add_instance(name, "127.0.0.1", 8001 + index)
    return made


async def test_enable_is_idempotent_and_keeps_what_is_not_given():
    lb = await balancer("a", request_timeout=7)
    assert await lb.enable(LoadBalancingStrategy.LEAST_LOADED)
    assert lb._cluster.options.request_timeout == 7
    assert (await lb.get_statistics())["strategy"] == "least_loaded"
    assert await lb.disable()
    assert await lb.disable()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"strategy": "fastest"}, "strategy = 'fastest'"),
        ({"check_interval": -1}, "check_interval = -1: expected"),
        ({"panic_percent": 101}, "panic_percent = 101: expected"),
        ({"max_concurrent": 1.5}, "max_concurrent = 1.5"),
        ({"ejection_time": 301}, "ejection_time = 301: expected at most ejection_max_time = 300"),
        ({"check_path": "health"}, "check_path = 'health': expected a path that begins with /"),
        ({"check_path": "/a b\r\nX: y"}, "check_path = "),
        ({"request_handler": 3}, "request_handler = 3"),
        ({"health_check": "yes"}, "health_check = 'yes'"),
    ],
)
async def test_a_bad_argument_changes_nothing(arguments, words):
    lb = LoadBalancer()
    with pytest.raises(ValueError) as caught:
        await lb.enable(**arguments)
    assert words in str(caught.value)
    assert not lb.enabled
    with pytest.raises(TypeError, match="no such argument; there are check_interval"):
        await lb.enable(chek_interval=1)


async def test_select_instance_in_both_forms():
    lb = await balancer("a", "b")
    assert (await lb.select_instance()) is not lb.select_nowait()
    assert len({(await lb.select_instance("session")).id for _ in range(10)}) == 1
    assert await LoadBalancer().select_instance() is None


async def test_requests_in_progress_are_finished_when_an_instance_is_removed():
    lb = await balancer("a", "b")
    release = asyncio.Event()

    async def slow(instance, data):
        await release.wait()
        return instance.id

    lb.request_handler = slow
    running = [asyncio.ensure_future(lb.route_request(n)) for n in range(4)]
    await asyncio.sleep(0)
    removing = asyncio.ensure_future(lb.remove_instance("a"))
    await until_idle()
    assert not removing.done()
    assert lb.get_instance_by_id("a").state is InstanceState.DRAINING
    assert lb.select_nowait().id == lb.select_nowait().id == "b"
    release.set()
    assert await removing is True
    assert Counter([(await task).result for task in running]) == {"a": 2, "b": 2}
    assert [instance.id for instance in lb.instances] == ["b"]


async def test_a_removal_that_takes_too_long_is_done_without_waiting():
    lb = await balancer("a", "b")
    release = asyncio.Event()

    async def slow(instance, data):
        await release.wait()
        return instance.id

    lb.request_handler = slow
    running = [asyncio.ensure_future(lb.route_request(n)) for n in range(2)]
    await asyncio.sleep(0)
    assert await lb.remove_instance("a", timeout=0.01) is False
    assert lb.get_instance_by_id("a") is None
    release.set()
    assert {(await task).result for task in running} == {"a", "b"}, "they end by themselves"
    assert await lb.remove_instance("a") is False, "there is none"
    assert await lb.remove_instance("b", drain=False) is True


async def test_an_instance_added_again_while_it_drains_stays():
    lb = await balancer("a", "b")
    release = asyncio.Event()

    async def slow(instance, data):
        await release.wait()
        return instance.id

    lb.request_handler = slow
    running = [asyncio.ensure_future(lb.route_request(n)) for n in range(2)]
    await asyncio.sleep(0)
    removing = asyncio.ensure_future(lb.remove_instance("a", timeout=60))
    await until_idle()
    await lb.add_instance("a", "127.0.0.1", 8001)
    await until_idle()
    assert removing.done(), "there is nothing left to wait for"
    assert await removing is False
    assert lb.get_instance_by_id("a").state is InstanceState.HEALTHY
    release.set()
    assert {(await task).result for task in running} == {"a", "b"}
    assert [instance.id for instance in lb.instances] == ["a", "b"]


async def test_disable_waits_for_requests_in_progress_but_not_for_ever():
    lb = await balancer("a")
    release = asyncio.Event()

    async def slow(instance, data):
        await release.wait()

    lb.request_handler = slow
    request = asyncio.ensure_future(lb.route_request(1))
    await asyncio.sleep(0)
    assert await lb.disable(drain_timeout=0.01) is False
    await lb.enable()
    stopping = asyncio.ensure_future(lb.disable())
    await until_idle()
    assert not stopping.done()
    release.set()
    assert await stopping is True
    assert (await request).success


def break_off(lb, fails, release=None):
    """Let each try break off once ``fails`` is set, with ``release`` only the first: the others are answered
    once that is set. Returns a list that gets the instance of each try.
    """
    tried = []

    async def handler(instance, data):
        tried.append(instance.id)
        if release is None or len(tried) == 1:
            await fails.wait()
            raise ConnectionResetError("it broke off")
        await release.wait()
        return data

    lb.request_handler = handler
    return tried


@pytest.mark.parametrize("idempotent", [None, True])
async def test_disable_waits_for_a_request_whose_try_has_just_failed(idempotent):
    lb = await balancer("a", "b", hedging=True)
    for _ in range(HEDGE_MIN_SAMPLES):
        await lb.route_request(0)
    fails, release = asyncio.Event(), asyncio.Event()
    tried = break_off(lb, fails, release)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lb._router, "_delay", lambda: 60.0)  # an idempotent one is in a task of its own
        request = asyncio.ensure_future(lb.route_request(1, idempotent=idempotent))
        await until_idle()
        stopping = asyncio.ensure_future(lb.disable())
        await until_idle()
        fails.set()
        await until_idle()
    assert len(tried) == 2
    assert not stopping.done(), "the second try is in progress"
    release.set()
    assert await stopping is True
    assert (await request).success


async def test_when_the_time_to_end_is_over_no_further_try_begins():
    lb = await balancer("a", "b")
    fails = asyncio.Event()
    tried = break_off(lb, fails)
    request = asyncio.ensure_future(lb.route_request(1))
    await until_idle()
    assert await lb.disable(drain_timeout=0) is False
    fails.set()
    success, error, _ = await request
    assert (success, len(tried)) == (False, 1)
    assert str(error).startswith("failed, and the load balancer was switched off")
    await lb.enable()
    await lb.route_request(2)
    assert len(tried) == 3, "on again, a request is tried elsewhere"


async def test_disable_that_is_cancelled_lets_no_further_try_begin_either():
    lb = await balancer("a", "b")
    fails = asyncio.Event()
    tried = break_off(lb, fails)
    request = asyncio.ensure_future(lb.route_request(1))
    await until_idle()
    stopping = asyncio.ensure_future(lb.disable())
    await until_idle()
    stopping.cancel()
    await asyncio.wait([stopping])
    fails.set()
    assert not (await request).success
    assert len(tried) == 1


async def test_a_removal_does_not_wait_for_requests_that_went_elsewhere():
    lb = await balancer("a", "b")
    fails, release = asyncio.Event(), asyncio.Event()
    tried = break_off(lb, fails, release)
    request = asyncio.ensure_future(lb.route_request(1))
    await until_idle()
    removing = asyncio.ensure_future(lb.remove_instance(tried[0], timeout=60))
    await until_idle()
    assert not removing.done()
    fails.set()
    await until_idle()
    assert removing.done()
    assert await removing is True
    assert not request.done()
    release.set()
    assert (await request).success


async def test_events_reach_callbacks_and_the_log(caplog):
    lb = await balancer("a", "b", outlier_failures=2)
    seen = []
    unsubscribe = lb.on_event(seen.append)
    lb.on_event(lambda event: 1 / 0)

    async def fail(instance, data):
        if instance.id == "a":
            raise RuntimeError("broken")
        return data

    lb.request_handler = fail
    with caplog.at_level(logging.INFO):
        for _ in range(8):
            assert (await lb.route_request(1)).success
        await lb.remove_instance("a")
    assert [(event.instance_id, event.old, event.new) for event in seen] == [
        ("a", "healthy", "ejected"),
        ("a", "ejected", ""),
    ]
    assert seen[0].reason == "2 failures in a row, the last: RuntimeError: broken; out for 30 s"
    lines = [r.getMessage() for r in caplog.records if "instance a: healthy -> ejected" in r.getMessage()]
    assert len(lines) == 1, "said once, not for each request"
    assert "event callback failed: ZeroDivisionError" in caplog.text
    unsubscribe()
    await lb.add_instance("c", "127.0.0.1", 1)
    assert len(seen) == 2
    await lb.disable()


async def test_figures():
    lb = await balancer("a", "b", "c")
    for _ in range(300):
        await lb.route_request(1)
    figures = await lb.get_statistics()
    assert {
        "strategy", "total_instances", "healthy_instances", "total_requests", "successful_requests",
        "failed_requests", "success_rate_percent", "average_response_time_ms", "distribution_variance",
        "instances",
    } <= figures.keys()  # fmt: skip
    assert (figures["strategy"], figures["total_instances"], figures["healthy_instances"]) == (
        "round_robin",
        3,
        3,
    )
    assert (figures["total_requests"], figures["success_rate_percent"]) == (300, 100.0)
    assert figures["distribution_variance"] == 0.0
    assert figures["average_response_time_ms"] > 0
    assert figures["instances"]["a"]["total_requests"] == 100
    assert figures["instances"]["a"]["state"] == "healthy"
    snapshots = lb.histograms()
    assert [s.labels for s in snapshots] == [{"instance": "a"}, {"instance": "b"}, {"instance": "c"}]
    assert {(s.name, s.count) for s in snapshots} == {("load_balancer_response_seconds", 100)}
    await lb.reset_statistics()
    figures = await lb.get_statistics()
    assert (figures["total_requests"], figures["instances"]["a"]["total_requests"]) == (0, 0)


async def test_a_variance_is_measured_since_the_set_last_changed():
    lb = await balancer("a", "b")
    for _ in range(100):
        await lb.route_request(1)
    await lb.add_instance("c", "127.0.0.1", 1)
    for _ in range(90):
        await lb.route_request(1)
    assert (await lb.get_statistics())["distribution_variance"] == 0.0


async def test_settings_at_startup(caplog):
    settings = {
        "ENABLE_QUERY_OPTIMIZER": False,
        "ENABLE_RATE_LIMITER": False,
        "ENABLE_LOAD_BALANCER": True,
        "LOAD_BALANCER_STRATEGY": "weighted",
        "LOAD_BALANCER_CHECK_INTERVAL": 0,
        "LOAD_BALANCER_INSTANCES": [
            {"id": "bot-1", "address": "127.0.0.1", "port": 8001, "weight": 3},
            {"id": "bot-2", "address": "127.0.0.1", "port": 8002},
        ],
    }
    report = await initialize_phase4_services(settings)
    assert report["services_initialized"] == ["LoadBalancer"]
    lb = LoadBalancer.get_instance()
    lb.request_handler = echo
    assert Counter([(await lb.route_request(n)).instance_id for n in range(40)]) == {"bot-1": 30, "bot-2": 10}
    await lb.add_instance("by-hand", "127.0.0.1", 8003)
    settings["LOAD_BALANCER_INSTANCES"].pop(0)
    await initialize_phase4_services(settings)
    assert [instance.id for instance in lb.instances] == ["bot-2", "by-hand"]
    assert await shutdown_phase4_services()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_bad_instance_of_the_settings_is_an_error():
    report = await initialize_phase4_services(
        {
            "ENABLE_LOAD_BALANCER": True,
            "LOAD_BALANCER_INSTANCES": [{"id": "a", "address": "http://h", "port": 1}],
        }
    )
    assert any("LoadBalancer: host = 'http://h'" in error for error in report["errors"])
    await shutdown_phase4_services()


@pytest.mark.parametrize("state", [InstanceState.HEALTHY, InstanceState.EJECTED])
async def test_a_check_may_switch_the_balancer_off(state):
    clock = VirtualClock()
    lb = LoadBalancer(clock=clock)

    async def check(instance):
        if instance.state is state:
            await lb.disable()
        return True

    await lb.enable(request_handler=echo, health_check=check, check_interval=60, ejection_time=100)
    await lb.add_instance("a", "127.0.0.1", 1)
    await lb.add_instance("b", "127.0.0.1", 2)
    if state is InstanceState.EJECTED:
        a = lb.get_instance_by_id("a")
        for _ in range(5):
            lb._cluster.failed(a, "x", 0.1, clock.monotonic(), trial=False)
        lb._deliver()
    await clock.advance(200)
    assert not lb.enabled
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_check_may_change_the_interval():
    clock = VirtualClock()
    lb = LoadBalancer(clock=clock)
    asked = Counter()

    async def check(instance):
        asked[instance.id] += 1
        if asked.total() == 1:
            await lb.enable(check_interval=60)
        return True

    await lb.enable(request_handler=echo, health_check=check, check_interval=600)
    await lb.add_instance("a", "127.0.0.1", 1)
    await lb.add_instance("b", "127.0.0.1", 2)
    await clock.advance(600)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    await clock.advance(600)
    assert min(asked.values()) >= 15, "at the new interval"
    assert sorted(task.get_name() for task in tasks) == [
        "load balancer: checks of a",
        "load balancer: checks of b",
    ]
    await lb.disable()


def test_enabled_under_one_loop_used_under_another_and_disabled_under_a_third():
    lb = LoadBalancer()
    checked = []

    async def check(instance):
        checked.append((instance.id, asyncio.get_running_loop()))
        return True

    async def first():
        await lb.enable(request_handler=echo, health_check=check, check_interval=0.01)
        await lb.add_instance("a", "127.0.0.1", 1)

    async def second():
        checked.clear()
        assert (await lb.route_request(1)).success
        await asyncio.sleep(0.1)
        assert checked[0][1] is asyncio.get_running_loop()

    asyncio.run(first())
    asyncio.run(second())
    assert asyncio.run(lb.disable())
    assert asyncio.run(lb.route_request(1)).success is False


def test_two_loops_in_turn_have_one_check_of_an_instance_between_them():
    lb = LoadBalancer()

    async def check(instance):
        return True

    async def start():
        await lb.enable(request_handler=echo, health_check=check, check_interval=60)
        await lb.add_instance("a", "127.0.0.1", 1)

    async def others():
        await until_idle()
        return [t.get_name() for t in asyncio.all_tasks() if t is not asyncio.current_task()]

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    first.run_until_complete(start())
    for _ in range(3):
        for loop in (second, first):
            assert loop.run_until_complete(lb.route_request(1)).success
            assert loop.run_until_complete(others()) == ["load balancer: checks of a"]
    assert first.run_until_complete(lb.disable())
    for loop in (first, second):
        assert loop.run_until_complete(others()) == []
        loop.close()


class TestChecksOverTime:
    @pytest.fixture
    async def watched(self):
        self.answers = {"a": True, "b": True}
        self.asked = Counter()

        async def check(instance):
            self.asked[instance.id] += 1
            answer = self.answers[instance.id]
            if isinstance(answer, BaseException):
                raise answer
            return answer

        self.clock = VirtualClock()
        lb = LoadBalancer(clock=self.clock)
        await lb.enable(
            request_handler=echo, health_check=check, check_interval=10, failure_threshold=3,
            recovery_threshold=5, slow_start=10,
        )  # fmt: skip
        await lb.add_instance("a", "127.0.0.1", 1)
        await lb.add_instance("b", "127.0.0.1", 2)
        yield lb
        await lb.disable()

    async def test_down_and_up_again(self, watched):
        self.answers["a"] = ConnectionRefusedError("nobody there")
        await self.clock.advance(40)
        a = watched.get_instance_by_id("a")
        assert a.state is InstanceState.UNHEALTHY
        assert {(await watched.route_request(1)).instance_id for _ in range(9)} == {"b"}
        assert "ConnectionRefusedError: nobody there" in a.last_error
        self.answers["a"] = True
        await self.clock.advance(60)
        assert a.state is InstanceState.SLOW_START
        await self.clock.advance(11)
        figures = await watched.get_statistics()
        assert figures["instances"]["a"]["state"] == "healthy"

    async def test_a_check_that_ends_in_a_cancellation_of_its_own_is_made_again(self, watched):
        self.answers["a"] = asyncio.CancelledError()  # as of a shared future that somebody cancelled
        await self.clock.advance(40)
        a = watched.get_instance_by_id("a")
        assert a.state is InstanceState.UNHEALTHY
        assert a.last_error == "health check: CancelledError"
        self.answers["a"] = True
        await self.clock.advance(60)
        assert a.state is InstanceState.SLOW_START

    async def test_an_ejection_ends_although_a_check_ended_in_a_cancellation(self, watched):
        a = watched.get_instance_by_id("a")
        for _ in range(5):
            watched._cluster.failed(a, "x", 0.1, self.clock.monotonic(), trial=False)
        watched._deliver()
        self.answers["a"] = asyncio.CancelledError()
        await self.clock.advance(31)
        self.answers["a"] = True
        await self.clock.advance(70)
        assert a.state in (InstanceState.HALF_OPEN, InstanceState.SLOW_START)

    async def test_an_ejected_one_is_probed_before_it_gets_a_request(self, watched):
        a = watched.get_instance_by_id("a")
        for _ in range(5):
            watched._cluster.failed(a, "x", 0.1, self.clock.monotonic(), trial=False)
        watched._deliver()
        self.answers["a"] = False
        await self.clock.advance(31)
        assert a.state is InstanceState.EJECTED or a.state is InstanceState.UNHEALTHY
        assert {(await watched.route_request(1)).instance_id for _ in range(30)} == {"b"}
        self.answers["a"] = True
        await self.clock.advance(70)
        assert a.state in (InstanceState.HALF_OPEN, InstanceState.SLOW_START)

    async def test_one_that_was_not_reached_is_probed_at_once(self, watched):
        await self.clock.advance(1)
        before = self.asked["a"]
        self.answers["a"] = False

        async def refuse(instance, data):
            if instance.id == "a":
                raise ConnectionRefusedError
            return data

        watched.request_handler = refuse
        for _ in range(8):
            assert (await watched.route_request(1)).success
            await until_idle()
        assert self.asked["a"] >= before + 3
        assert watched.get_instance_by_id("a").state is InstanceState.UNHEALTHY

    async def test_when_checks_are_switched_off_nobody_stays_out_for_a_failed_one(self, watched):
        self.answers["a"] = False
        await self.clock.advance(40)
        a = watched.get_instance_by_id("a")
        assert a.state is InstanceState.UNHEALTHY
        await watched.enable(check_interval=0)
        assert a.state is InstanceState.SLOW_START
        assert a.history[-1]["reason"] == "checks are off"
        await self.clock.advance(11)
        assert {(await watched.route_request(1)).instance_id for _ in range(10)} == {"a", "b"}

    async def test_a_removed_one_is_probed_no_more(self, watched):
        await watched.remove_instance("a")
        await self.clock.advance(100)
        assert self.asked["a"] == 0
        assert self.asked["b"] > 5


def test_what_is_the_requests_own_fault_is_documented():
    from pathlib import Path

    page = (Path(__file__).resolve().parents[3] / "docs" / "load_balancer.md").read_text()
    for kind in CODE_FAULTS:
        assert f"`{kind.__name__}`" in page


async def requests_held_by(name, lb, count=10, **arguments):
    """Requests of which some hang at the instance, which answers no more."""
    hang = asyncio.Event()

    async def handler(instance, data):
        if instance.id == name:
            await hang.wait()
        return instance.id

    lb.request_handler = handler
    tasks = [asyncio.create_task(lb.route_request(turn, **arguments)) for turn in range(count)]
    await until_idle()
    assert lb.get_instance_by_id(name).in_flight
    return tasks, hang


async def test_requests_at_an_instance_found_unhealthy_are_answered_by_another():
    sick = set()

    async def check(instance):
        return instance.id not in sick

    lb = await balancer("a", "b", health_check=check, check_interval=0.02, failure_threshold=1)
    # More of them than a retry budget would allow: moving them adds no load to the one that is out.
    tasks, _ = await requests_held_by("a", lb, 60)
    sick.add("a")
    outcomes = await asyncio.gather(*tasks)
    assert {outcome.instance_id for outcome in outcomes} == {"b"}
    assert all(outcome.success for outcome in outcomes)
    assert lb.get_instance_by_id("a").last_error == "health check: the check returned a false value"
    assert not lb._router._movable
    assert await lb.disable()


async def test_requests_at_the_last_instance_are_not_given_up():
    sick = set()

    async def check(instance):
        return instance.id not in sick

    lb = await balancer("a", health_check=check, check_interval=0.02, failure_threshold=1)
    tasks, hang = await requests_held_by("a", lb, 3)
    sick.add("a")
    while lb.get_instance_by_id("a").is_healthy:
        await asyncio.sleep(0.01)
    hang.set()
    assert all(outcome.success for outcome in await asyncio.gather(*tasks))
    assert await lb.disable()


async def test_what_is_not_to_be_repeated_is_waited_for():
    sick = set()

    async def check(instance):
        return instance.id not in sick

    lb = await balancer("a", "b", health_check=check, check_interval=0.02, failure_threshold=1)
    tasks, hang = await requests_held_by("a", lb, 10, idempotent=False)
    sick.add("a")
    while lb.get_instance_by_id("a").is_healthy:
        await asyncio.sleep(0.01)
    hang.set()
    assert {outcome.instance_id for outcome in await asyncio.gather(*tasks)} == {"a", "b"}
    assert await lb.disable()


async def test_an_instance_ejected_for_silence_holds_nobody():
    lb = await balancer("a", "b", outlier_failures=2, request_timeout=0.2, total_timeout=30)
    tasks, _ = await requests_held_by("a", lb, 8)
    await lb.enable(request_timeout=30.0)
    later, _ = await requests_held_by("a", lb, 8)
    outcomes = await asyncio.gather(*tasks, *later)
    assert all(outcome.success for outcome in outcomes)
    assert {outcome.instance_id for outcome in outcomes} == {"b"}
    assert "ejected" in [entry["to"] for entry in lb.get_instance_by_id("a").history]
    assert await lb.disable()


def test_each_figure_of_the_settings_is_an_argument_of_its_type():
    arguments = get_type_hints(Figures)
    assert list(arguments) == list(LoadBalancerOptions.__struct_fields__)
    for name, kind in arguments.items():
        assert bare(LoadBalancerOptions.hint(name)) is kind, name
