"""Failures that callers do not notice: real instances, killed, frozen, broken, slow, removed."""

import asyncio
from collections import Counter

import pytest

from bot.core.load_balancer import InstanceState, LoadBalancer, LoadBalancingStrategy

COMMAND = {"command": "data", "user_id": 1}
QUICK = {
    "check_interval": 0.1, "check_path": "/health", "check_timeout": 2, "recovery_threshold": 2,
    "slow_start": 0.2, "ejection_time": 0.3,
}  # fmt: skip


@pytest.fixture
async def balance():
    made = []

    async def over(instances, strategy=LoadBalancingStrategy.ROUND_ROBIN, **figures):
        lb = LoadBalancer()
        made.append(lb)
        await lb.enable(strategy, **{**QUICK, **figures})
        for number, instance in enumerate(instances, 1):
            await lb.add_instance(f"bot-{number}", "127.0.0.1", instance.port)
        return lb

    yield over
    for lb in made:
        lb.check_invariants()
        assert await lb.disable()


async def load(lb, requests, at_once=20, during=None):
    """Outcomes of ``requests`` requests, ``at_once`` in progress; ``during(n)`` is awaited after the nth."""
    outcomes = []
    numbers = iter(range(requests))

    async def caller():
        for number in numbers:
            outcomes.append(await lb.route_request(COMMAND))
            if during is not None:
                await during(number)

    await asyncio.gather(*[caller() for _ in range(at_once)])
    return outcomes


async def eventually(condition, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def let_pass(monkeypatch):
    """``let_pass(30.0)`` ends what times out within 30 seconds, however slow the machine is, on any loop."""
    loop, timers = asyncio.get_running_loop(), []
    set_timer = loop.call_at

    def call_at(when, callback, *arguments, **options):
        timer = set_timer(when, callback, *arguments, **options)
        timers.append((when, timer, callback, arguments))
        return timer

    def pass_now(seconds):
        now = loop.time()
        for when, timer, callback, arguments in timers.copy():
            if now < when <= now + seconds and not timer.cancelled():
                timer.cancel()
                callback(*arguments)

    monkeypatch.setattr(loop, "call_at", call_at)
    return pass_now


async def test_one_is_killed_and_returns_and_no_caller_notices(start_instances, balance):
    instances = start_instances("", "", "")
    lb = await balance(instances)
    victim = lb.get_instance_by_id("bot-2")
    sent_when = {}
    lb.on_event(lambda event: event.instance_id == "bot-2" and sent_when.setdefault(event.new, victim.picked))

    async def during(number):
        if number == 500:
            await asyncio.to_thread(instances[1].kill)
        if number == 1000:
            await eventually(lambda: not victim.is_healthy)
            instances[1].begin()
        if number >= 1400:
            await eventually(lambda: victim.is_healthy)

    outcomes = await load(lb, 2_000, during=during)
    assert [outcome.result for outcome in outcomes if not outcome.success] == []
    assert len(outcomes) == 2_000
    assert all(outcome.result["result"]["user"]["id"] == 1 for outcome in outcomes)
    out = min(sent_when[state] for state in ("ejected", "unhealthy") if state in sent_when)
    back = min(sent_when[state] for state in ("half_open", "slow_start") if state in sent_when)
    assert out == back, "it was sent nothing but probes while it was out"
    assert victim.picked > back, "and requests again once it was back"
    figures = await lb.get_statistics()
    assert (figures["successful_requests"], figures["failed_requests"]) == (2_000, 0)
    assert figures["retries"] > 0


async def test_one_that_hangs_costs_a_timeout_and_then_nothing(start_instances, balance, let_pass):
    instances = start_instances("", "", "")
    # Checks by TCP, which the kernel of a hung process still answers: only requests can tell.
    lb = await balance(instances, request_timeout=30.0, check_path="", outlier_failures=2, ejection_time=60)
    hung = lb.get_instance_by_id("bot-3")
    await load(lb, 30)
    instances[2].freeze()
    requests = [asyncio.ensure_future(lb.route_request(COMMAND)) for _ in range(20)]
    await eventually(lambda: sum(not request.done() for request in requests) == hung.in_flight >= 2)
    let_pass(30.0)
    outcomes = await asyncio.gather(*requests)
    assert all(outcome.success for outcome in outcomes)
    assert hung.state is InstanceState.EJECTED
    # A check that was under way as the time passed may have failed, too, and be the last error.
    assert any("no answer within 30 s" in change["reason"] for change in hung.history)
    assert {outcome.instance_id for outcome in await load(lb, 30)} == {"bot-1", "bot-2"}


async def test_one_that_hangs_is_found_by_checks_of_a_path(start_instances, balance):
    instances = start_instances("", "", "")
    lb = await balance(instances, check_timeout=0.3)
    instances[0].freeze()
    await eventually(lambda: lb.get_instance_by_id("bot-1").state is InstanceState.UNHEALTHY)
    assert {outcome.instance_id for outcome in await load(lb, 10)} == {"bot-2", "bot-3"}
    instances[0].thaw()
    await eventually(lambda: lb.get_instance_by_id("bot-1").is_healthy)


async def test_one_that_fails_half_of_the_time_is_ejected(start_instances, balance):
    lb = await balance(start_instances("fail:0.5", "", ""), ejection_time=60)
    outcomes = await load(lb, 300)
    assert all(outcome.success for outcome in outcomes)
    assert lb.get_instance_by_id("bot-1").state is InstanceState.EJECTED
    assert lb.get_instance_by_id("bot-1").last_error == "InstanceFailure: HTTP 500"


async def test_a_slow_one_gets_few_requests_by_measured_load(start_instances, balance):
    lb = await balance(start_instances("slow:0.2", "", ""), LoadBalancingStrategy.LEAST_LOADED)
    outcomes = await load(lb, 400, at_once=4)
    assert all(outcome.success for outcome in outcomes)
    assert Counter(outcome.instance_id for outcome in outcomes)["bot-1"] < 60


async def test_one_is_removed_with_requests_in_progress(start_instances, balance):
    lb = await balance(start_instances("slow:0.05", "slow:0.05"))

    async def during(number):
        if number == 20:
            assert await lb.remove_instance("bot-1") is True

    outcomes = await load(lb, 80, during=during)
    assert all(outcome.success for outcome in outcomes)
    assert [instance.id for instance in lb.instances] == ["bot-2"]


async def test_all_down_is_said_at_once_and_they_come_back(start_instances, balance):
    instances = start_instances("", "")
    lb = await balance(instances)
    for instance in instances:
        instance.kill()
    success, error, _ = await lb.route_request(COMMAND)
    assert not success
    assert {attempt.instance_id for attempt in error.attempts} == {"bot-1", "bot-2"}
    assert "bot-1 after" in str(error)
    await eventually(lambda: lb._cluster.panic)
    instances[0].begin()
    await eventually(lambda: lb.get_instance_by_id("bot-1").is_healthy)
    assert {outcome.instance_id for outcome in await load(lb, 10)} == {"bot-1"}
