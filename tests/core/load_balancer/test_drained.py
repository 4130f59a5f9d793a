"""Instances that an operator has drained: they get nothing more until they are returned."""

import asyncio

import pytest
from aiohttp import web

from bot.core.load_balancer import InstanceState, LoadBalancer, NoInstanceError, UnknownInstanceError
from bot.core.load_balancer.instances import Instance
from bot.core.phase4_statistics.states import state_of
from tests.core.load_balancer.test_service import balancer
from tests.support.balancing import bring_up, cluster, picks, take_down
from tests.support.clock import VirtualClock, until_idle

HEALTHY, SLOW_START, EJECTED = InstanceState.HEALTHY, InstanceState.SLOW_START, InstanceState.EJECTED
UNHEALTHY, DRAINED = InstanceState.UNHEALTHY, InstanceState.DRAINED


@pytest.fixture
def three():
    """The instances a, b and c, of which a is drained."""
    made = cluster(3)
    made.drain(made.members["a"])
    return made


async def test_requests_in_progress_end_and_no_new_ones_come():
    lb = await balancer("a", "b")
    release = asyncio.Event()

    async def slow(instance, data):
        await release.wait()
        return instance.id

    lb.request_handler = slow
    running = [asyncio.ensure_future(lb.route_request(n)) for n in range(4)]
    await until_idle()
    assert await lb.drain_instance("a") is False, "two are in progress"
    waiting = asyncio.ensure_future(lb.drain_instance("a", timeout=60))
    later = [asyncio.ensure_future(lb.route_request(n)) for n in range(4)]
    await until_idle()
    assert not waiting.done()
    assert lb.get_instance_by_id("a").in_flight == 2
    release.set()
    assert await waiting is True
    assert sorted([(await task).result for task in running]) == ["a", "a", "b", "b"]
    assert [(await task).result for task in later] == ["b"] * 4
    assert lb.get_instance_by_id("a").state is DRAINED, "it stays in the cluster"
    assert await lb.return_instance("a") is True
    assert {(await lb.route_request(n)).instance_id for n in range(4)} == {"a", "b"}
    lb.check_invariants()


async def test_a_wait_that_takes_too_long_or_is_cancelled_leaves_it_drained():
    lb = await balancer("a", "b")
    release = asyncio.Event()

    async def slow(instance, data):
        await release.wait()

    lb.request_handler = slow
    running = [asyncio.ensure_future(lb.route_request(n)) for n in range(2)]
    await until_idle()
    assert await lb.drain_instance("a", timeout=0.01) is False
    waiting = asyncio.ensure_future(lb.drain_instance("a", timeout=60))
    await until_idle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert lb.get_instance_by_id("a").state is DRAINED
    waiting = asyncio.ensure_future(lb.drain_instance("a", timeout=60))
    await until_idle()
    await lb.return_instance("a")
    assert await waiting is False, "returned meanwhile, with a request in progress"
    release.set()
    await asyncio.gather(*running)


async def test_sessions_move_and_come_back_and_no_other_moves():
    lb = await balancer("a", "b", "c")
    before = {session: lb.select_nowait(session).id for session in range(300)}
    await lb.drain_instance("b")
    during = {session: lb.select_nowait(session).id for session in range(300)}
    assert {s for s in before if before[s] != during[s]} == {s for s in before if before[s] == "b"}
    await lb.return_instance("b")
    assert {session: lb.select_nowait(session).id for session in range(300)} == before


def test_health_checks_go_on_and_change_nothing(three):
    a = three.members["a"]
    bring_up(three, "a")
    assert a.state is DRAINED
    take_down(three, "a")
    assert a.state is DRAINED
    assert a.last_error == "health check: no answer", "an operator sees them fail"
    assert "a" not in picks(three, 30)


def test_nor_do_failures_and_successes_of_its_last_requests(three):
    a = three.members["a"]
    for _ in range(20):
        three.failed(a, "TimeoutError", 0.1, 0.0, trial=False)
    assert a.state is DRAINED
    three.succeeded(a, 0.1, 0.0, trial=True)
    assert a.state is DRAINED


def test_one_whose_checks_fail_is_returned_as_unhealthy_and_comes_back_by_its_checks(three):
    take_down(three, "a")
    assert three.give_back(three.members["a"])
    assert three.members["a"].state is UNHEALTHY
    assert "a" not in picks(three, 30)
    bring_up(three, "a")
    assert three.members["a"].state is HEALTHY


def test_a_returned_one_begins_with_a_slow_start():
    clock = VirtualClock()
    made = cluster(3, clock=clock, slow_start=10)
    made.drain(made.members["a"])
    assert made.give_back(made.members["a"])
    assert made.members["a"].state is SLOW_START
    clock.jump(11)
    made.settle(clock.monotonic())
    assert made.members["a"].state is HEALTHY


def test_an_ejected_one_may_be_drained_and_returned():
    made = cluster(3)
    a = made.members["a"]
    for _ in range(made.options.outlier_failures):
        made.failed(a, "TimeoutError", 0.1, 0.0, trial=False)
    assert a.state is EJECTED
    made.drain(a)
    made.reopen(a, "", 1e9)
    assert a.state is DRAINED
    made.give_back(a)
    assert a.state is HEALTHY


def test_panic_leaves_it_out_and_does_not_count_it():
    made = cluster(4, panic_percent=60)
    made.drain(made.members["a"])
    take_down(made, "b")
    assert not made.panic, "two of the three others are well"
    take_down(made, "c")
    assert made.panic
    assert set(picks(made, 60)) == {"b", "c", "d"}


async def test_when_all_are_drained_a_request_says_so():
    lb = await balancer("a", "b")
    for name in "ab":
        await lb.drain_instance(name)
    success, error, instance = await lb.route_request(1)
    assert (success, instance) == (False, None)
    assert isinstance(error, NoInstanceError)
    assert "2 of 2 instance(s) are drained" in str(error)
    lb.check_invariants()


async def test_it_outlives_disable_enable_and_being_added_again():
    lb = await balancer("a", "b")
    await lb.drain_instance("a")
    await lb.disable()
    await lb.enable()
    await lb.add_instance("a", "127.0.0.1", 8001, 3.0)
    assert lb.get_instance_by_id("a").state is DRAINED
    assert {(await lb.route_request(n)).instance_id for n in range(6)} == {"b"}
    assert (await lb.get_statistics())["instances"]["a"]["weight"] == 3.0
    await lb.return_instance("a")
    assert {(await lb.route_request(n)).instance_id for n in range(6)} == {"a", "b"}


async def test_it_may_be_removed_and_one_that_is_being_removed_is_not_drained():
    lb = await balancer("a", "b")
    await lb.drain_instance("a")
    assert await lb.remove_instance("a") is True
    made = cluster(2)
    made.acquire(made.members["a"])
    made.remove("a", drain=True)
    made.drain(made.members["a"])
    assert made.members["a"].state is InstanceState.DRAINING
    assert not made.give_back(made.members["a"])


async def test_the_figures_tell_its_state_since_when_and_that_all_is_as_it_should_be():
    clock = VirtualClock()
    lb = LoadBalancer(clock=clock)
    await lb.enable(check_interval=0)
    for name, port in (("a", 8001), ("b", 8002)):
        await lb.add_instance(name, "127.0.0.1", port)
    added = clock.time()
    clock.jump(100)
    await lb.drain_instance("a")
    figures = await lb.get_statistics()
    instances = figures["instances"]
    assert (instances["a"]["state"], instances["a"]["drained"]) == ("drained", True)
    assert instances["a"]["since"] == pytest.approx(added + 100, abs=0.01)
    assert instances["b"]["since"] == pytest.approx(added, abs=0.01)
    assert figures["healthy_instances"] == 1
    assert not figures["degraded"], "an operator has drained it"
    assert [entry["to"] for entry in instances["a"]["history"]] == ["drained"]
    await lb.disable()


async def test_events_tell_of_it_once(caplog):
    lb = await balancer("a", "b")
    events = []
    lb.on_event(lambda event: events.append((event.instance_id, event.old, event.new)))
    for _ in range(2):
        await lb.drain_instance("a")
    for expected in (True, False):
        assert await lb.return_instance("a") is expected
    assert events == [("a", "healthy", "drained"), ("a", "drained", "healthy")]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("name", ["c", "", None, 5, "a\n"])
async def test_an_id_that_is_unknown_is_an_error_that_names_the_others(name):
    lb = await balancer("a", "b")
    for call in (lb.drain_instance, lb.return_instance):
        with pytest.raises(UnknownInstanceError, match=r"expected an instance \(there: a, b\)"):
            await call(name)


@pytest.mark.server
async def test_it_survives_real_health_checks():
    answers = 0

    async def health(request):
        nonlocal answers
        answers += 1
        return web.Response(status=200 if answers > 3 else 503)

    app = web.Application()
    app.router.add_get("/health", health)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    lb = LoadBalancer()
    await lb.enable(check_interval=0.02, check_path="/health", failure_threshold=2, recovery_threshold=2)
    await lb.add_instance("a", "127.0.0.1", runner.addresses[0][1])
    await lb.drain_instance("a")
    async with asyncio.timeout(20):
        while answers < 10:
            await asyncio.sleep(0.01)
    assert lb.get_instance_by_id("a").state is DRAINED
    await lb.return_instance("a")
    assert lb.get_instance_by_id("a").is_healthy
    await lb.disable()
    await runner.cleanup()


def test_one_of_the_same_id_elsewhere_is_another_instance(three):
    three.add(Instance("a", "127.0.0.2", 9000))
    assert three.members["a"].state is HEALTHY
    assert "a" in picks(three, 3)


@pytest.mark.parametrize(
    ("drained", "down", "state", "reason"),
    [
        ("", "", "ok", ""),
        ("a", "", "ok", ""),
        ("a", "b", "degraded", "2 of 3 instances out: a (drained), b (unhealthy)"),
        ("abc", "", "failed", "3 of 3 instances out: a (drained), b (drained), c (drained)"),
        ("ab", "c", "failed", "3 of 3 instances out: a (drained), b (drained), c (unhealthy)"),
    ],
)
async def test_the_status_takes_a_drained_one_for_a_fault_only_if_no_other_gets_requests(
    drained, down, state, reason
):
    lb = await balancer("a", "b", "c")
    for name in drained:
        await lb.drain_instance(name)
    for name in down:
        take_down(lb._cluster, name)
    assert state_of("load_balancer", await lb.get_statistics()) == (state, reason)
