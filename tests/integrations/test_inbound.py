"""What all adapters decide alike about updates."""

import asyncio

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.outbound import Priority, sending
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimitConfig, RateLimiter, UnknownTierError
from bot.integrations import inbound
from bot.integrations.inbound import Gate, Throttle, answer_priority, handling

USER, GROUP = 42, -100
ONE = RateLimitConfig(0.001, 1, backoff=None)


@pytest.fixture
async def limiter():
    limiter = RateLimiter.get_instance()
    await limiter.enable()
    yield limiter
    await limiter.disable()


async def test_a_gate_lets_all_in_while_the_limiter_is_off():
    gate = Gate(Throttle(limit=ONE))
    assert [await gate.refuses("update", USER, USER) for _ in range(3)] == [None] * 3


async def test_who_sends_too_much_is_told_once_per_wait(limiter):
    gate = Gate(Throttle(limit=RateLimitConfig(10.0, 1, backoff=None)))
    assert await gate.refuses("update", USER, USER) is None
    refused = [await gate.refuses("update", USER, USER) for _ in range(3)]
    assert [one.tell for one in refused] == [True, False, False]
    assert refused[0].text("wait {seconds} s") == "wait 1 s"
    await asyncio.sleep(refused[0].seconds)
    assert await gate.refuses("update", USER, USER) is None
    assert (await gate.refuses("update", USER, USER)).tell


async def test_without_an_answer_nobody_is_told(limiter):
    gate = Gate(Throttle(limit=ONE, answer=None))
    await gate.refuses("update", USER, USER)
    assert not (await gate.refuses("update", USER, USER)).tell


@pytest.mark.parametrize(
    ("per", "clients", "refused"),
    [
        ("user", [(1, GROUP), (2, GROUP), (1, -200)], [False, False, True]),
        ("chat", [(1, GROUP), (2, GROUP), (1, -200)], [False, True, False]),
        ("user", [(None, GROUP), (None, GROUP), (None, None)], [False, True, False]),
        (lambda update: update, [(1, 1), (2, 2)], [False, True]),
        (lambda update: None, [(1, 1), (1, 1)], [False, False]),
    ],
)
async def test_clients_are_users_chats_or_what_a_function_says(limiter, per, clients, refused):
    gate = Gate(Throttle(limit=ONE, per=per))
    assert [await gate.refuses("x", user, chat) is not None for user, chat in clients] == refused


async def test_admins_and_exempt_updates_are_never_limited(limiter):
    async def is_owner(update):
        return update == "owner"

    gate = Gate(Throttle(limit=ONE, admins={7}, exempt=is_owner))
    assert [await gate.refuses("x", 7, GROUP) for _ in range(3)] == [None] * 3
    assert [await gate.refuses("owner", 8, GROUP) for _ in range(3)] == [None] * 3
    gate = Gate(Throttle(limit=ONE, exempt=lambda update: True))
    assert [await gate.refuses("x", 8, GROUP) for _ in range(3)] == [None] * 3


async def test_an_unknown_tier_is_an_error(limiter):
    with pytest.raises(UnknownTierError):
        await Gate(Throttle(tier="none")).refuses("x", USER, USER)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per", "group"), ("answer", "{second}"), ("answer", " "), ("answer", 5), ("admins", "42"),
        ("admins", ["42"]), ("admins", [True]), ("exempt", 5), ("tier", 5), ("limit", 5),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(name, value):
    with pytest.raises(InvalidArgumentError, match=name):
        Gate(Throttle(**{name: value}))
    with pytest.raises(InvalidArgumentError, match="tier"):
        Gate(Throttle(limit=ONE, tier="x"))


async def test_answers_go_to_the_updates_own_chat_and_user():
    assert answer_priority(USER) is None
    with handling([USER, GROUP, None]):
        assert answer_priority(USER) is Priority.ANSWER
        assert answer_priority(GROUP) is Priority.ANSWER
        assert answer_priority(43) is None  # a broadcast
        assert answer_priority(None) is None
        with sending(Priority.BROADCAST):
            assert answer_priority(USER) is None
        assert answer_priority(USER) is Priority.ANSWER
    assert answer_priority(USER) is None


async def test_tasks_that_an_update_started_answer_for_a_while(monkeypatch):
    async def later(release):
        await release.wait()
        return answer_priority(USER)

    release = asyncio.Event()
    with handling([USER]):
        soon = asyncio.create_task(later(release))
    release.set()
    assert await soon is Priority.ANSWER
    monkeypatch.setattr(inbound, "ANSWERS_FOR", 0.0)
    with handling([USER]):
        late = asyncio.create_task(later(release))
    assert await late is None


async def test_each_update_is_one_request_of_the_optimizer():
    optimizer = QueryOptimizer.get_instance()
    await optimizer.enable(detect_n_plus_one=True)
    for _ in range(30):  # one task, one query for each update: no N+1
        with handling([USER]):
            await optimizer.record_execution(f"SELECT * FROM a WHERE id = {_}", 1.0)
    assert (await optimizer.get_statistics())["n_plus_one_patterns"] == 0
    with handling([USER]):
        for number in range(30):
            await optimizer.record_execution(f"SELECT * FROM a WHERE id = {number}", 1.0)
    assert (await optimizer.get_statistics())["n_plus_one_patterns"] == 1
    await optimizer.disable()
