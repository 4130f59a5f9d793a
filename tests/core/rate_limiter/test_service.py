"""The rate limiter as handlers use it."""

import asyncio

import pytest

from bot.core.rate_limiter import RateLimitConfig, RateLimiter, RateLimitExceeded, UnknownTierError
from bot.core.rate_limiter.service import MANY_LIMITS

UPLOAD = RateLimitConfig(2.0, 5)
SEARCH = RateLimitConfig(5.0, 25)


@pytest.fixture
async def limiter(clock):
    limiter = RateLimiter(clock=clock)
    await limiter.enable()
    yield limiter
    await limiter.disable()


async def test_a_status_tells_all_a_client_needs(limiter, clock):
    allowed, status = await limiter.is_allowed(1, UPLOAD)
    assert allowed is status.allowed is True
    assert (status.limit, status.remaining, status.retry_after) == (5, 4, 0.0)
    assert status.remaining_tokens == pytest.approx(4.0)
    assert status.reset_at == pytest.approx(clock.time() + 0.5)
    for _ in range(4):
        await limiter.is_allowed(1, UPLOAD)
    allowed, status = await limiter.is_allowed(1, UPLOAD)
    assert allowed is status.allowed is False
    assert (status.remaining, status.retry_after) == (0, 0.5)
    assert status.reset_at == pytest.approx(clock.time() + 2.5)
    clock.jump(status.retry_after)
    assert (await limiter.is_allowed(1, UPLOAD))[0]


async def test_two_limits_of_a_client_share_no_tokens(limiter):
    for _ in range(5):
        assert (await limiter.is_allowed("u", UPLOAD))[0]
    assert not (await limiter.is_allowed("u", UPLOAD))[0]
    assert (await limiter.is_allowed("u", SEARCH))[0]
    assert (await limiter.is_allowed("u"))[0]


async def test_a_config_made_anew_on_each_call_is_no_way_around_the_limit(limiter):
    outcomes = [(await limiter.is_allowed("u", RateLimitConfig(2.0, 5)))[0] for _ in range(7)]
    assert outcomes == [True] * 5 + [False] * 2


async def test_check_and_is_allowed_take_from_the_same_bucket(limiter):
    for turn in range(5):
        if turn % 2:
            assert (await limiter.is_allowed("u", UPLOAD))[0]
        else:
            assert limiter.check("u", UPLOAD) == 0.0
    assert limiter.check("u", UPLOAD) == 0.5
    allowed, status = await limiter.is_allowed("u", UPLOAD)
    assert not allowed
    assert status.retry_after == pytest.approx(2.0), "it came back before the half second had passed"


async def test_a_batch_passes_whole_or_not_at_all(limiter):
    assert (await limiter.allow_batch("u", 4, UPLOAD))[0]
    allowed, status = await limiter.allow_batch("u", 2, UPLOAD)
    assert not allowed
    assert (status.remaining, status.retry_after) == (1, 0.5)
    assert (await limiter.is_allowed("u", UPLOAD))[0]


@pytest.mark.parametrize("tokens", [0, -1, 6, 1.0, "1", True, None])
async def test_tokens_that_can_never_be_had_are_refused_with_the_bounds(limiter, tokens):
    with pytest.raises(ValueError, match=r"tokens_required = .*: expected a whole number from 1 to .* 5$"):
        await limiter.is_allowed("u", UPLOAD, tokens_required=tokens)


async def test_tiers(limiter):
    limiter.set_tier_limit("free", RateLimitConfig(1.0, 1))
    limiter.set_tier_limit("trial", RateLimitConfig(1.0, 1))
    assert (await limiter.is_allowed("u", tier="free"))[0]
    assert not (await limiter.is_allowed("u", tier="free"))[0]
    assert (await limiter.is_allowed("u", tier="trial"))[0], "tiers of equal values are still two"
    assert (await limiter.get_statistics())["tiers_configured"] == 2
    with pytest.raises(UnknownTierError, match=r"tier = 'gold': expected one of \['free', 'trial'\]"):
        await limiter.is_allowed("u", tier="gold")
    with pytest.raises(ValueError, match="tier = 'free': expected no tier when a config is given"):
        await limiter.is_allowed("u", UPLOAD, tier="free")


async def test_what_is_no_limit_is_refused(limiter):
    with pytest.raises(TypeError, match="config = 5: expected a RateLimitConfig"):
        await limiter.is_allowed("u", 5)
    with pytest.raises(TypeError, match="limit of tier 'x' = 5"):
        limiter.set_tier_limit("x", 5)
    with pytest.raises(ValueError, match="tier = ''"):
        limiter.set_tier_limit("", UPLOAD)


async def test_acquire_waits_its_turn_in_order(limiter, clock):
    one_by_one = RateLimitConfig(1.0, 1)
    served = []

    async def worker(name):
        await limiter.acquire("u", one_by_one)
        served.append((name, clock.monotonic()))

    start = clock.monotonic()
    tasks = [asyncio.ensure_future(worker(n)) for n in range(4)]
    await clock.advance(10)
    await asyncio.gather(*tasks)
    assert served == [(n, start + n) for n in range(4)]


async def test_a_cancelled_wait_gives_its_token_back(limiter, clock):
    one_by_one = RateLimitConfig(1.0, 1)
    await limiter.acquire("u", one_by_one)
    waiting = asyncio.ensure_future(limiter.acquire("u", one_by_one))
    await clock.advance(0.5)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    clock.jump(0.5)
    assert (await limiter.is_allowed("u", one_by_one))[0]


async def test_a_wait_cancelled_after_the_client_was_forgiven_gives_nothing_back(limiter, clock):
    await limiter.allow_batch("u", 5, UPLOAD)
    waiting = asyncio.ensure_future(limiter.acquire("u", UPLOAD, 5))
    await clock.advance(0.1)
    await limiter.reset_client("u")
    assert (await limiter.allow_batch("u", 5, UPLOAD))[0]
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not (await limiter.is_allowed("u", UPLOAD))[0]


async def test_acquire_with_a_timeout_fails_at_once_and_takes_nothing(limiter, clock):
    one_by_one = RateLimitConfig(1.0, 1)
    await limiter.acquire("u", one_by_one)
    with pytest.raises(RateLimitExceeded) as caught:
        await limiter.acquire("u", one_by_one, timeout=0.9)
    assert caught.value.retry_after == pytest.approx(1.0)
    clock.jump(1.0)
    assert (await limiter.is_allowed("u", one_by_one))[0]


@pytest.mark.parametrize("timeout", [0, -0.001, -5, -float("inf")])
async def test_acquire_after_its_deadline_takes_what_is_there_and_nothing_else(limiter, timeout):
    for left in (4, 3, 2, 1, 0):
        assert (await limiter.acquire("u", UPLOAD, timeout=timeout)).remaining == left
    with pytest.raises(RateLimitExceeded) as caught:
        await limiter.acquire("u", UPLOAD, timeout=timeout)
    assert caught.value.retry_after == 0.5
    assert (await limiter.get_client_status("u", UPLOAD)).retry_after == 0.5


@pytest.mark.parametrize("timeout", [float("nan"), "5", True])
async def test_a_timeout_that_is_no_number_is_refused(limiter, timeout):
    with pytest.raises(ValueError, match=r"timeout = .*: expected a number of seconds, or None"):
        await limiter.acquire("u", UPLOAD, timeout=timeout)
    assert (await limiter.get_client_status("u", UPLOAD)).remaining == 5


async def test_a_client_can_be_looked_at_and_forgiven(limiter):
    for _ in range(7):
        await limiter.is_allowed("u", UPLOAD)
    status = await limiter.get_client_status("u", UPLOAD)
    assert not status.allowed
    assert status.retry_after > 1
    again = await limiter.get_client_status("u", UPLOAD)
    assert again.retry_after == status.retry_after, "looking is no request"
    assert await limiter.reset_client("u")
    assert not await limiter.reset_client("u")
    status = await limiter.get_client_status("u", UPLOAD)
    assert (status.allowed, status.remaining) == (True, 5)


async def test_statistics_are_counted(limiter):
    for _ in range(8):
        await limiter.is_allowed("u", UPLOAD)
    limiter.check("v")
    figures = await limiter.get_statistics()
    assert figures["enabled"] is True
    assert (figures["total_allowed"], figures["total_blocked"], figures["total_requests"]) == (6, 3, 9)
    assert figures["block_rate"] == figures["block_rate_percent"] == pytest.approx(33.33)
    assert figures["active_clients"] == 2
    assert figures["limits"]["2/s burst 5"]["blocked"] == 3
    await limiter.reset_statistics()
    figures = await limiter.get_statistics()
    assert (figures["total_requests"], figures["block_rate"]) == (0, 0.0)
    assert not (await limiter.is_allowed("u", UPLOAD))[0], "figures were reset, not clients"


async def test_a_wait_is_counted_when_it_is_served(limiter, clock):
    one_by_one = RateLimitConfig(1.0, 1)
    await limiter.acquire("u", one_by_one)
    served, cancelled = (asyncio.ensure_future(limiter.acquire("u", one_by_one)) for _ in range(2))
    await clock.advance(0.5)
    assert (await limiter.get_statistics())["total_allowed"] == 1
    await limiter.reset_statistics()
    cancelled.cancel()
    await clock.advance(1)
    assert served.done()
    figures = await limiter.get_statistics()
    assert (figures["total_allowed"], figures["total_requests"]) == (1, 1)


async def test_off_means_everything_passes(limiter):
    await limiter.disable()
    for _ in range(20):
        allowed, status = await limiter.is_allowed("u", RateLimitConfig(1, 1), tier="never defined")
        assert allowed
        assert (status.allowed, status.retry_after, status.remaining) == (True, 0.0, 1)
        assert limiter.check("u") == 0.0
    assert (await limiter.acquire("u")).allowed
    assert not limiter.enabled


async def test_enabling_again_with_the_same_values_forgives_nobody(limiter):
    for _ in range(50):
        limiter.check("u")
    await limiter.enable(RateLimitConfig(10, 50))
    assert limiter.check("u") > 0
    await limiter.enable(RateLimitConfig(10, 60))
    assert limiter.check("u") == 0.0


async def test_tiers_given_to_enable_replace_the_ones_before(limiter):
    await limiter.enable(tiers={"a": UPLOAD, "b": UPLOAD})
    await limiter.enable(tiers={"b": UPLOAD})
    assert (await limiter.get_statistics())["tiers_configured"] == 1
    with pytest.raises(UnknownTierError):
        limiter.get_tier_limit("a")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 10**400, "2", True])
async def test_a_bad_backoff_changes_nothing(clock, value):
    limiter = RateLimiter(clock=clock)
    with pytest.raises(ValueError, match="backoff_base = "):
        await limiter.enable(backoff_base=value)
    assert not limiter.enabled


async def test_limits_that_come_and_go_do_not_pile_up(limiter, clock):
    for burst in range(1, MANY_LIMITS * 4):
        limiter.check("u", RateLimitConfig(1_000, burst))
        clock.jump(2)
    assert len((await limiter.get_statistics())["limits"]) <= MANY_LIMITS + 1


def test_on_under_one_loop_and_off_under_another():
    limiter = RateLimiter()
    assert asyncio.run(limiter.enable())
    assert limiter.check("u") == 0.0
    assert asyncio.run(limiter.disable())
    assert not limiter.enabled
