"""Several limits in one check, all or nothing; windows in line; refunds, charges and exemptions."""

import asyncio

import pytest

from bot.core.rate_limiter import (
    ByteLimit,
    RateLimitConfig,
    RateLimiter,
    RateLimitExceeded,
    UnknownTierError,
    WindowLimit,
)
from tests.support.clock import until_idle

PER_USER = RateLimitConfig(1.0, 3, "user")
PER_CHAT = RateLimitConfig(0.5, 5, "chat")
HOURLY = WindowLimit(10, 3600.0)


@pytest.fixture
async def limiter(clock):
    limiter = RateLimiter(clock=clock)
    await limiter.enable()
    yield limiter
    for meter in limiter._table.all():
        meter.check_invariants(clock.monotonic())
    limiter._joint_alone.turns.check_invariants()
    await limiter.disable()


async def left(limiter, client, limit):
    return (await limiter.get_client_status(client, limit)).remaining


# All or nothing.


async def test_all_limits_are_taken_from_or_none(limiter):
    checks = [("u", PER_USER), ("chat", PER_CHAT), ("u", HOURLY)]
    for turn in range(3):
        allowed, status = await limiter.is_allowed_all(checks)
        assert allowed
        assert (status.config, status.remaining, status.limited_by) == (PER_USER, 2 - turn, None)
    allowed, status = await limiter.is_allowed_all(checks)
    assert not allowed
    assert status.limited_by is PER_USER
    assert status.retry_after == pytest.approx(1.0)
    assert await left(limiter, "chat", PER_CHAT) == 2
    assert await left(limiter, "u", HOURLY) == 7
    figures = (await limiter.get_statistics())["limits"]
    assert (figures["user"]["blocked"], figures["chat"]["blocked"]) == (1, 0)
    assert figures["10 in 3600 s"] == {
        "max_requests": 10, "window_seconds": 3600.0, "active_clients": 1, "allowed": 3, "blocked": 0,
    }  # fmt: skip


async def test_of_those_that_refuse_the_one_to_wait_for_longest_is_told(limiter):
    slow, slower = RateLimitConfig(0.5, 1), WindowLimit(1, 60.0)
    assert (await limiter.is_allowed_all([("u", slow), ("u", slower)]))[0]
    _, status = await limiter.is_allowed_all([("u", slow), ("v", slower), ("u", slower)])
    assert status.limited_by is slower
    assert status.retry_after == pytest.approx(60.0, abs=0.01)
    assert await left(limiter, "v", slower) == 1


async def test_only_a_limit_that_refused_punishes_who_retries_too_early(limiter, clock):
    tight, roomy = RateLimitConfig(1.0, 1, "tight"), RateLimitConfig(1.0, 50, "roomy")
    longest = 0.0
    for _ in range(300):
        _, status = await limiter.is_allowed_all([("u", tight), ("u", roomy)])
        longest = max(longest, status.retry_after)
        clock.jump(0.1)
    assert longest >= 4.0
    assert not limiter._table.by_config[roomy].records


@pytest.mark.parametrize("kind", [list, tuple, iter])
async def test_of_one_client_and_limit_the_tokens_are_summed(limiter, kind):
    allowed, _ = await limiter.is_allowed_all(kind([("u", PER_USER), ("u", PER_USER, 1)]))
    assert allowed
    assert await left(limiter, "u", PER_USER) == 1
    assert not (await limiter.is_allowed_all(kind([("u", PER_USER), ("u", PER_USER)])))[0]
    assert await left(limiter, "u", PER_USER) == 1
    with pytest.raises(ValueError, match="tokens_required = 4: expected in all at most 3 tokens"):
        await limiter.is_allowed_all(kind([("u", PER_USER, 2), ("u", PER_USER, 2)]))


async def test_limits_are_configs_windows_bytes_tiers_and_texts(limiter):
    limiter.set_tier_limit("free", RateLimitConfig(0.1, 2))
    limiter.set_tier_limit("trial", "5/minute;8/hour")
    upload = ByteLimit(1_000, burst_bytes=5_000)
    checks = [("u", "free"), ("u", "trial"), ("u", "10 per 2 minutes"), ("u", upload, 4_000), ("u", None)]
    assert (await limiter.is_allowed_all(checks))[0]
    _, status = await limiter.is_allowed_all(checks)
    assert status.limited_by == upload
    assert await left(limiter, "u", "free") == 1
    assert await left(limiter, "u", "trial") == 4
    assert await left(limiter, "u", "10/2minutes") == 9


@pytest.mark.parametrize(
    ("checks", "error", "message"),
    [
        ([], ValueError, "checks = \\[\\]: expected at least one"),
        (["ab"], ValueError, "check = 'ab': expected \\(client, limit\\)"),
        ([("u",)], ValueError, "check = "),
        ([("u", PER_USER), 5], ValueError, "check = 5"),
        ([("u", PER_USER), (True, PER_USER)], TypeError, "client_id = True"),
        ([("u", PER_USER), (1.5, PER_USER)], TypeError, "client_id = 1.5"),
        ([("u", PER_USER), ("u", 5)], TypeError, "config = 5: expected a RateLimitConfig"),
        ([("u", PER_USER), ("u", {})], TypeError, "config = {}"),
        ([("u", PER_USER), ("u", "nobody")], UnknownTierError, "tier = 'nobody'"),
        (
            [("u", PER_USER), ("u", "5/fortnight")],
            ValueError,
            "limit = '5/fortnight': expected limits such as",
        ),
        ([("u", PER_USER), ("u", HOURLY, 0)], ValueError, "tokens_required = 0"),
        ([("u", PER_USER), ("u", HOURLY, 11)], ValueError, "tokens_required = 11"),
        ([("u", PER_USER), ("u", HOURLY, True)], ValueError, "tokens_required = True"),
    ],
)
async def test_a_wrong_check_is_an_error_that_takes_nothing(limiter, checks, error, message):
    with pytest.raises(error, match=message):
        await limiter.is_allowed_all(checks)
    assert await left(limiter, "u", PER_USER) == 3


async def test_off_all_passes(limiter):
    await limiter.disable()
    for _ in range(20):
        allowed, status = await limiter.is_allowed_all([("u", HOURLY, 10), ("u", "1/hour")])
        assert allowed
        assert status.remaining == 10


async def test_a_million_strangers_in_joint_checks_are_forgotten(limiter, clock):
    quick = RateLimitConfig(1_000.0, 1)
    for stranger in range(20_000):
        assert (await limiter.is_allowed_all([(stranger, quick), ("all", RateLimitConfig(1e6, 1_000_000))]))[
            0
        ]
        clock.jump(0.001)
    assert len(limiter._table.by_config[quick]) < 4_096


# Waiting for windows.


async def test_who_waits_for_a_window_is_served_in_turn_and_exactly(limiter, clock):
    limit = WindowLimit(2, 10.0)
    start, served = clock.monotonic(), []

    async def work(number, tokens=1):
        await limiter.acquire("u", limit, tokens)
        served.append((number, round(clock.monotonic() - start, 2)))

    tasks = [asyncio.ensure_future(work(number, 1 + (number == 2))) for number in range(5)]
    await clock.advance(5.0)
    allowed, status = await limiter.is_allowed("u", limit)
    assert not allowed
    assert status.retry_after == pytest.approx(30.0 - 5.0, abs=0.02), "behind all who wait"
    await clock.advance(60.0)
    assert [number for number, _ in served] == [0, 1, 2, 3, 4]
    assert [at for _, at in served] == pytest.approx([0.0, 0.0, 10.0, 20.0, 20.0], abs=0.01)
    await asyncio.gather(*tasks)


async def test_who_gives_up_leaves_nothing_behind(limiter, clock):
    limit = WindowLimit(1, 10.0)
    await limiter.acquire("u", limit)
    first, second = (asyncio.ensure_future(limiter.acquire("u", limit)) for _ in range(2))
    await until_idle()
    first.cancel()
    await clock.advance(10.1)
    assert second.done()
    third = asyncio.ensure_future(limiter.acquire("u", limit))
    await until_idle()
    third.cancel()
    await until_idle()
    assert not limiter._joint_alone.turns
    clock.jump(10.0)
    assert (await limiter.is_allowed("u", limit))[0]


async def test_a_wait_that_is_too_long_is_refused_at_once(limiter, clock):
    limit = WindowLimit(1, 10.0)
    await limiter.acquire("u", limit)
    with pytest.raises(RateLimitExceeded) as refused:
        await limiter.acquire("u", limit, timeout=9.0)
    assert refused.value.retry_after == pytest.approx(10.0, abs=0.01)
    waiting = asyncio.ensure_future(limiter.acquire("u", limit, timeout=11.0))
    await until_idle()
    with pytest.raises(RateLimitExceeded) as refused:
        await limiter.acquire("u", limit, timeout=11.0)
    assert refused.value.retry_after == pytest.approx(20.0, abs=0.01)
    await clock.advance(10.1)
    assert (await waiting).allowed


async def test_a_tier_of_several_limits_can_be_waited_for(limiter, clock):
    limiter.set_tier_limit("trial", (RateLimitConfig(1.0, 1), WindowLimit(2, 60.0)))
    times = []
    start = clock.monotonic()

    async def work():
        for _ in range(3):
            await limiter.acquire("u", tier="trial")
            times.append(clock.monotonic() - start)

    task = asyncio.ensure_future(work())
    await clock.advance(100.0)
    await task
    assert times == pytest.approx([0.0, 1.0, 60.0], abs=0.01)


async def test_a_reset_serves_who_waits(limiter, clock):
    limit = WindowLimit(1, 10.0)
    await limiter.acquire("u", limit)
    waiting = asyncio.ensure_future(limiter.acquire("u", limit))
    await until_idle()
    assert await limiter.reset_client("u", limit)
    await until_idle()
    assert waiting.done()


def test_a_line_of_an_event_loop_that_ended_delays_nobody():
    limiter = RateLimiter()
    limit = WindowLimit(1, 0.05)

    async def abandoned():
        await limiter.enable()
        await limiter.acquire("u", limit)
        task = asyncio.ensure_future(limiter.acquire("u", limit))
        await asyncio.sleep(0)
        task._log_destroy_pending = False
        asyncio.get_running_loop().stop()
        await asyncio.sleep(60)

    loop = asyncio.new_event_loop()
    task = loop.create_task(abandoned())
    task._log_destroy_pending = False
    loop.run_forever()
    loop.close()

    async def later():
        async with asyncio.timeout(10):
            await limiter.acquire("u", limit)
        await limiter.disable()

    asyncio.run(later())


# Refunds and charges.


@pytest.mark.parametrize("limit", [RateLimitConfig(0.1, 5), WindowLimit(5, 50.0), "5/50seconds"])
async def test_what_did_not_happen_is_given_back_up_to_the_full(limiter, limit):
    assert not await limiter.refund("u", limit)
    await limiter.is_allowed("u", limit, 3)
    assert await limiter.refund("u", limit, 2)
    assert await left(limiter, "u", limit) == 4
    assert await limiter.refund("u", limit, 100)
    assert await left(limiter, "u", limit) == 5
    assert not await limiter.refund("u", limit, 100)


@pytest.mark.parametrize("limit", [RateLimitConfig(0.1, 5), WindowLimit(5, 50.0), "5/50seconds"])
async def test_a_cost_known_afterwards_is_owed(limiter, clock, limit):
    await limiter.is_allowed("u", limit)
    status = await limiter.charge("u", limit, 7)
    assert not status.allowed
    assert status.retry_after == pytest.approx(40.0 if isinstance(limit, RateLimitConfig) else 50.0, abs=0.01)
    assert not (await limiter.is_allowed("u", limit))[0]
    clock.jump(status.retry_after)
    assert (await limiter.is_allowed("u", limit))[0]
    status = await limiter.charge("v", limit, 10**9)
    assert 490 < status.retry_after < 560, "ten times what there is at once"


@pytest.mark.parametrize("limit", [RateLimitConfig(0.1, 5), WindowLimit(5, 50.0), ByteLimit(100, 1000)])
async def test_more_than_a_burst_that_was_taken_can_be_given_back(limiter, limit):
    most = limit.max_requests if isinstance(limit, WindowLimit) else limit.burst_size
    await limiter.charge("u", limit, 4 * most)
    assert not (await limiter.is_allowed("u", limit))[0]
    await limiter.reset_client("u", limit)
    await limiter.charge("u", limit, 4 * most)
    assert await limiter.refund("u", limit, 4 * most)
    assert await left(limiter, "u", limit) == most


async def test_a_refund_lets_who_waits_move_up(limiter, clock):
    limit = RateLimitConfig(0.1, 5)
    await limiter.allow_batch("u", 5, limit)
    first, second = (asyncio.ensure_future(limiter.acquire("u", limit)) for _ in range(2))
    await until_idle()
    assert await limiter.refund("u", limit, 1)
    await clock.advance(0.1)
    assert first.done()
    assert not second.done()
    await clock.advance(10.0)
    assert second.done()


@pytest.mark.parametrize("tokens", [0, -1, 1.5, True, "1", 10**10])
async def test_tokens_that_make_no_sense_are_refused(limiter, tokens):
    for change in (limiter.refund, limiter.charge):
        with pytest.raises(ValueError, match="tokens = "):
            await change("u", PER_USER, tokens)


# Exemptions.


async def test_an_exempt_client_is_limited_by_nothing(limiter):
    limiter.set_tier_limit("free", RateLimitConfig(0.1, 1))
    assert limiter.exempt(7)
    assert not limiter.exempt(7)
    assert limiter.is_exempt(7)
    for _ in range(5):
        assert (await limiter.is_allowed(7, WindowLimit(1, 60.0)))[0]
        assert (await limiter.is_allowed(7, PER_USER, 3))[0]
        assert limiter.check(7, RateLimitConfig(0.1, 1)) == limiter.check_tier(7, "free") == 0.0
        assert (await limiter.acquire(7, WindowLimit(1, 60.0), timeout=0.0)).allowed
        assert (await limiter.is_allowed_all([(7, PER_USER), (7, HOURLY)]))[0]
    statistics = await limiter.get_statistics()
    assert (statistics["exempted"], statistics["total_requests"]) == (30, 0)
    outcomes = [(await limiter.is_allowed_all([(7, PER_USER), ("chat", PER_CHAT)]))[0] for _ in range(6)]
    assert outcomes == [True] * 5 + [False], "the others of the check are limited"
    assert limiter.unexempt(7)
    assert not limiter.unexempt(7)
    assert limiter.check(7, RateLimitConfig(0.1, 1)) == 0.0
    assert limiter.check(7, RateLimitConfig(0.1, 1)) > 0.0
    assert limiter._local, "nobody is exempt: the quick way"


async def test_who_is_exempt_is_told_at_the_start_by_ids_or_a_function(limiter):
    limit = RateLimitConfig(0.1, 1)
    await limiter.enable(exempt_clients=[1, "root"])
    limiter.exempt(2)
    outcomes = {client: [limiter.check(client, limit) for _ in range(2)][1] for client in (1, "1", 2, "root")}
    assert [client for client, wait in outcomes.items() if wait] == ["1"]
    await limiter.enable(exempt_clients=lambda client: client == "boss")
    outcomes = {client: [limiter.check(client, limit) for _ in range(2)][1] for client in (1, 2, "boss")}
    assert [client for client, wait in outcomes.items() if wait] == [1]
    for wrong, error in ((7, ValueError), ("root", ValueError), ([True], TypeError), ([1.5], TypeError)):
        with pytest.raises(error):
            await limiter.enable(exempt_clients=wrong)
    await limiter.enable(exempt_clients=())
    assert [limiter.check("boss", limit) > 0.0 for _ in range(2)] == [False, True]
