"""One request: failover, what is not repeated, budget, time limits, hedging."""

import asyncio

import pytest

from bot.core.load_balancer import (
    BalancerOffError,
    InstanceFailure,
    InstanceState,
    LoadBalancer,
    NoInstanceError,
    RequestFailed,
    RequestRejected,
)
from bot.core.load_balancer.router import HEDGE_MIN_SAMPLES
from tests.support.clock import until_idle


@pytest.fixture
async def balancer():
    made = LoadBalancer()
    await made.enable(check_interval=0, slow_start=0)
    for index, name in enumerate("abc"):
        await made.add_instance(name, "127.0.0.1", 8001 + index)
    yield made
    made.check_invariants()
    assert await made.disable()
    assert all(instance.in_flight == 0 for instance in made.instances)


class Unspeakable(Exception):
    """Its text cannot be had."""

    def __str__(self):
        return self.text_that_nobody_set


class Scripted:
    """A handler that does as told, by instance; the others echo."""

    def __init__(self, **script):
        self.script = script
        self.tried = []

    async def __call__(self, instance, data):
        self.tried.append(instance.id)
        await asyncio.sleep(0)
        step = self.script.get(instance.id)
        if isinstance(step, BaseException):
            raise step
        if callable(step):
            return await step(data)
        return {"by": instance.id, "data": data}


async def test_success_result_and_instance(balancer):
    balancer.request_handler = Scripted()
    success, result, instance_id = await balancer.route_request({"n": 1})
    assert success is True
    assert result == {"by": instance_id, "data": {"n": 1}}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("broken"), ConnectionResetError(), TimeoutError(), Exception("any"), OSError(5, "x"),
        Unspeakable(),
    ],
)  # fmt: skip
async def test_a_handler_that_raises_has_failed_and_another_instance_serves(balancer, error):
    handler = balancer.request_handler = Scripted(a=error, b=error)
    for _ in range(9):
        success, _, instance_id = await balancer.route_request(1)
        assert (success, instance_id) == (True, "c")
    figures = await balancer.get_statistics()
    assert (figures["successful_requests"], figures["failed_requests"]) == (9, 0)
    assert figures["retries"] == len(handler.tried) - 9 > 0
    assert figures["instances"]["a"]["last_error"].startswith(type(error).__name__)


async def test_each_instance_is_tried_once_and_the_error_names_all(balancer):
    handler = balancer.request_handler = Scripted(
        a=ConnectionResetError("gone"), b=RuntimeError("broken"), c=TimeoutError()
    )
    success, error, instance_id = await balancer.route_request(1)
    assert success is False
    assert sorted(handler.tried) == ["a", "b", "c"]
    assert isinstance(error, RequestFailed)
    assert instance_id == handler.tried[-1]
    assert error.__cause__ is handler.script[instance_id]
    assert {attempt.instance_id: attempt.error for attempt in error.attempts} == {
        "a": "ConnectionResetError: gone",
        "b": "RuntimeError: broken",
        "c": "TimeoutError",
    }
    for name in "abc":
        assert f"{name} after 0.0" in str(error)


@pytest.mark.parametrize(("max_retries", "tries"), [(0, 1), (1, 2), (2, 3), (3, 3)])
async def test_max_retries_counts_the_tries_after_the_first(balancer, max_retries, tries):
    handler = balancer.request_handler = Scripted(**dict.fromkeys("abc", RuntimeError()))
    assert not (await balancer.route_request(1, max_retries=max_retries)).success
    assert len(handler.tried) == tries


class ClientResponseError(Exception):
    """As aiohttp's: with the status on it."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


@pytest.mark.parametrize(
    "error",
    [
        RequestRejected("no", status=400), TypeError("not JSON"), AttributeError("x"), NameError("x"),
        ClientResponseError(404), NotImplementedError(), KeyError("result"), IndexError(),
        ZeroDivisionError(), ImportError("x"), RecursionError(),
        ExceptionGroup("two", [TypeError("a"), KeyError("b")]),
    ],
)  # fmt: skip
async def test_the_requests_own_fault_is_not_tried_elsewhere_nor_held_against_anybody(balancer, error):
    handler = balancer.request_handler = Scripted(**dict.fromkeys("abc", error))
    for turn in range(30):
        success, result, instance_id = await balancer.route_request(turn)
        assert (success, result) == (False, error)
        assert instance_id == handler.tried[-1]
    assert len(handler.tried) == 30
    figures = await balancer.get_statistics()
    assert figures["healthy_instances"] == 3
    assert (figures["rejected_requests"], figures["failed_requests"]) == (30, 0)
    assert all(instance["failed_requests"] == 0 for instance in figures["instances"].values())


async def test_of_two_instances_that_fail_a_request_alike_neither_is_to_blame(balancer):
    async def poison(data):
        if data == "poison":
            raise InstanceFailure("HTTP 500", status=500)
        return data

    handler = balancer.request_handler = Scripted(a=poison, b=poison, c=poison)
    for _ in range(20):
        success, error, _ = await balancer.route_request("poison")
        assert not success
        assert isinstance(error, RequestFailed)
        assert (await balancer.route_request("good")).success
    assert len(set(handler.tried)) == 3
    figures = await balancer.get_statistics()
    assert figures["healthy_instances"] == 3
    assert all(entry["failed_requests"] for entry in figures["instances"].values())


async def test_an_instance_that_fails_where_another_does_better_is_to_blame(balancer):
    balancer.request_handler = Scripted(a=InstanceFailure("HTTP 500", status=500))
    for turn in range(30):
        assert (await balancer.route_request(turn)).success
    assert balancer.get_instance_by_id("a").state is InstanceState.EJECTED
    assert (await balancer.get_statistics())["healthy_instances"] == 2


async def test_an_instance_that_fails_what_is_not_repeated_is_to_blame(balancer):
    balancer.request_handler = Scripted(a=InstanceFailure("HTTP 500", status=500))
    for turn in range(30):
        await balancer.route_request(turn, idempotent=False)
    assert balancer.get_instance_by_id("a").state is InstanceState.EJECTED


async def test_a_bug_of_the_handler_is_logged_with_its_traceback_and_marked(balancer, caplog):
    async def buggy(instance, data):
        return {}["result"]

    balancer.request_handler = buggy
    for turn in range(50):
        success, result, instance_id = await balancer.route_request(turn)
        assert not success
        assert isinstance(result, KeyError)
        assert result.__notes__ == [
            f"Raised by the load balancer's request handler, for instance {instance_id}."
        ]
    [record] = [one for one in caplog.records if one.levelname == "ERROR"]
    assert "buggy has a bug" in record.getMessage()
    assert 'return {}["result"]' in record.getMessage()
    figures = await balancer.get_statistics()
    assert (figures["healthy_instances"], figures["rejected_requests"]) == (3, 50)
    assert sum(entry["total_requests"] for entry in figures["instances"].values()) == 50


async def test_a_handler_that_is_no_async_function_is_told_so(balancer, caplog):
    balancer.request_handler = lambda instance, data: "plain"
    success, result, _ = await balancer.route_request(1)
    assert not success
    assert "returned str, nothing to await: it has to be an async function" in str(result)
    assert "has a bug" in caplog.text


async def test_a_handler_may_be_a_function_that_returns_an_awaitable(balancer):
    async def answer(data):
        return data

    balancer.request_handler = lambda instance, data: answer(data)
    assert (await balancer.route_request(7)).result == 7
    balancer.request_handler = lambda instance, data: asyncio.ensure_future(answer(data))
    assert (await balancer.route_request(8)).result == 8


async def test_what_must_not_be_repeated_is_only_if_it_was_never_sent(balancer):
    handler = balancer.request_handler = Scripted(**dict.fromkeys("abc", ConnectionResetError()))
    success, error, _ = await balancer.route_request(1, idempotent=False)
    assert not success
    assert len(handler.tried) == 1
    assert "not to be repeated" in str(error)
    handler = balancer.request_handler = Scripted(**dict.fromkeys("ab", ConnectionRefusedError()))
    for _ in range(3):
        assert (await balancer.route_request(1, idempotent=False)).success


async def test_retries_end_with_their_budget(balancer):
    await balancer.enable(retry_budget_percent=0, retry_budget_min_per_second=0.2)
    handler = balancer.request_handler = Scripted(**dict.fromkeys("abc", RuntimeError("down")))
    for _ in range(21):
        _, error, _ = await balancer.route_request(1)
    assert len(handler.tried) == 21 + 2
    assert "the retry budget is used up" in str(error)
    assert (await balancer.get_statistics())["retries_refused"] == 20


async def test_a_failover_from_what_was_never_reached_needs_no_budget(balancer):
    await balancer.enable(retry_budget_percent=0, retry_budget_min_per_second=0)
    balancer.request_handler = Scripted(**dict.fromkeys("ab", ConnectionRefusedError()))
    assert all([(await balancer.route_request(1)).success for _ in range(20)])


async def hang(_):
    await asyncio.Event().wait()


async def test_an_instance_that_does_not_answer_is_left_for_another(balancer):
    await balancer.enable(request_timeout=0.02)
    balancer.request_handler = Scripted(a=hang, b=hang)
    for _ in range(3):
        success, _, instance_id = await balancer.route_request(1)
        assert (success, instance_id) == (True, "c")
    errors = {i["last_error"] for i in (await balancer.get_statistics())["instances"].values()}
    assert "no answer within 0.02 s" in errors


async def test_the_whole_takes_no_longer_than_the_timeout(balancer):
    handler = balancer.request_handler = Scripted(**dict.fromkeys("abc", hang))
    success, error, _ = await balancer.route_request(1, timeout=0.02)
    assert not success
    assert "no answer within 0.02 s" in str(error)
    assert len(handler.tried) == 1


async def test_a_handler_whose_own_task_was_cancelled_has_failed(balancer):
    async def inner_cancelled(_):
        raise asyncio.CancelledError

    balancer.request_handler = Scripted(a=inner_cancelled, b=inner_cancelled)
    assert [(await balancer.route_request(1)).instance_id for _ in range(3)] == ["c"] * 3


class TestNobodyToAsk:
    async def test_off(self):
        success, error, instance_id = await LoadBalancer().route_request(1)
        assert (success, instance_id) == (False, None)
        assert isinstance(error, BalancerOffError)

    async def test_no_instances(self):
        empty = LoadBalancer()
        await empty.enable()
        success, error, instance_id = await empty.route_request(1)
        assert (success, instance_id) == (False, None)
        assert isinstance(error, NoInstanceError)
        assert "add_instance" in str(error)
        await empty.disable()

    async def test_all_at_their_limit(self, balancer):
        await balancer.enable(max_concurrent=2)
        balancer.request_handler = Scripted(**dict.fromkeys("abc", hang))
        waiting = [asyncio.ensure_future(balancer.route_request(n)) for n in range(6)]
        await asyncio.sleep(0)
        assert [instance.in_flight for instance in balancer.instances] == [2, 2, 2]
        success, error, _ = await balancer.route_request(7)
        assert not success
        assert isinstance(error, NoInstanceError)
        assert "limit of 2 requests (LOAD_BALANCER_MAX_CONCURRENT)" in str(error)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


class TestSticky:
    async def test_a_session_stays_and_fails_over(self, balancer):
        balancer.request_handler = Scripted()
        [home] = {(await balancer.route_request(1, session_id="s")).instance_id for _ in range(10)}
        balancer.request_handler = Scripted(**{home: RuntimeError()})
        [other] = {(await balancer.route_request(1, session_id="s")).instance_id for _ in range(4)}
        assert other != home


class TestHedging:
    @pytest.fixture
    async def hedging(self, balancer):
        await balancer.enable(hedging=True)
        balancer.request_handler = Scripted()
        for _ in range(HEDGE_MIN_SAMPLES):
            await balancer.route_request(0)
        return balancer

    async def test_a_second_try_wins_and_the_first_is_cancelled(self, hedging):
        cancelled = []

        async def slow(_):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(1)
                raise

        handler = hedging.request_handler = Scripted(a=slow)
        for _ in range(3):
            assert (await hedging.route_request(1, idempotent=True)).success
        await asyncio.sleep(0)
        assert handler.tried.count("a") == len(cancelled) >= 1
        figures = await hedging.get_statistics()
        assert figures["hedged_requests"] == len(handler.tried) - 3 >= 1
        assert 1 <= figures["hedge_wins"] <= figures["hedged_requests"]
        assert figures["failed_requests"] == figures["instances"]["a"]["failed_requests"] == 0

    @pytest.mark.parametrize("idempotent", [None, False])
    async def test_only_for_requests_marked_idempotent(self, hedging, idempotent):
        async def slow(_):
            await asyncio.sleep(0.02)
            return "slow"

        handler = hedging.request_handler = Scripted(**dict.fromkeys("abc", slow))
        assert (await hedging.route_request(1, idempotent=idempotent)).result == "slow"
        assert len(handler.tried) == 1

    async def test_if_both_fail_a_third_is_asked(self, hedging):
        async def slowly_fail(_):
            await asyncio.sleep(0.02)
            raise RuntimeError("late")

        hedging.request_handler = Scripted(**dict.fromkeys("ab", slowly_fail))
        for _ in range(2):
            assert (await hedging.route_request(1, idempotent=True)).instance_id == "c"

    async def test_a_burst_keeps_within_the_limit_of_each_instance(self, hedging):
        await hedging.enable(max_concurrent=2)
        most = dict.fromkeys("abc", 0)

        async def slow(instance, data):
            most[instance.id] = max(most[instance.id], instance.in_flight)
            await asyncio.sleep(0.02)
            return data

        hedging.request_handler = slow
        answers = await asyncio.gather(*[hedging.route_request(n, idempotent=True) for n in range(20)])
        assert sum(answer.success for answer in answers) == 6
        assert most == dict.fromkeys("abc", 2)

    async def test_a_try_that_is_cancelled_before_its_first_step_is_given_back(self, hedging):
        request = asyncio.ensure_future(hedging.route_request(1, idempotent=True))
        await asyncio.sleep(0)  # it has chosen an instance and made a task, which has not begun
        assert sum(instance.in_flight for instance in hedging.instances) == 1
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.sleep(0)
        assert not any(instance.in_flight for instance in hedging.instances)

    async def test_disable_cancels_no_request_that_its_caller_waits_for(self, hedging):
        release = asyncio.Event()

        async def slow(_):
            await release.wait()
            return "at last"

        hedging.request_handler = Scripted(**dict.fromkeys("abc", slow))
        request = asyncio.ensure_future(hedging.route_request(1, idempotent=True))
        await until_idle()
        assert await hedging.disable(drain_timeout=0.01) is False
        release.set()
        assert (await request).result == "at last"

    async def test_disable_cancels_again_a_try_that_lost_and_would_not_end(self, hedging):
        cancelled = []

        async def stubborn(_):
            for _ in range(2):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(1)
            raise asyncio.CancelledError

        hedging.request_handler = Scripted(a=stubborn)
        for _ in range(3):
            assert (await hedging.route_request(1, idempotent=True)).success
        await until_idle()
        [a] = [instance for instance in hedging.instances if instance.id == "a"]
        losers = a.in_flight
        assert losers == len(cancelled) >= 1
        await hedging.disable(drain_timeout=0.01)
        await until_idle()
        assert (a.in_flight, len(cancelled)) == (0, 2 * losers)

    async def test_a_refusal_of_the_request_ends_it(self, hedging):
        handler = hedging.request_handler = Scripted(
            **dict.fromkeys("abc", RequestRejected("no", status=400))
        )
        assert not (await hedging.route_request(1, idempotent=True)).success
        assert len(handler.tried) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_retries": -1}, "max_retries = -1"),
        ({"max_retries": True}, "max_retries = True"),
        ({"session_id": 1.5}, "session_id = 1.5"),
        ({"timeout": 0}, "timeout = 0"),
        ({"timeout": float("nan")}, "timeout = nan"),
        ({"timeout": 10**400}, "timeout = 1000"),
    ],
)
async def test_misuse_is_raised(balancer, arguments, words):
    with pytest.raises(ValueError, match=words):
        await balancer.route_request(1, **arguments)
